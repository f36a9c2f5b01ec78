"""Distillation of the similarities between samples, as published for classifiers of images."""

import math

import keras
from keras import ops

from keras_lgg import checks
from keras_lgg.graphs.construction import outer_products, similarities
from keras_lgg.graphs.differences import factors_or_pairs, is_accurate, squared_difference
from keras_lgg.graphs.numerics import as_column, largest_entry, matmul
from keras_lgg.graphs.pairs import combine, rows_of_block
from keras_lgg.graphs.products import gram, unit_rows
from keras_lgg.graphs.tracing import traced_once
from keras_lgg.losses.base import (
    GeometryLoss,
    as_float,
    both_flattened,
    check_options,
    row_sums,
)
from keras_lgg.types import DType, Tensor

SMALL = 1e-7  # added to probabilities by the authors of probabilistic transfer
ZERO = 1e-12  # norm of a row of similarities below which it counts as 0


def similarity_preserving(
    teacher: Tensor, student: Tensor, *, block_size: int | None = None
) -> Tensor:
    r"""Similarity-preserving distillation (SPKD): compares each sample's profile of similarities.

    .. math::

        \mathcal{L} = \frac{1}{n^2} \lVert G_s - G_t \rVert_F^2 = \frac{1}{n} \sum_i r_i, \qquad
        r_i = \frac{1}{n} \sum_j \bigl((G_s)_{ij} - (G_t)_{ij}\bigr)^2

    :math:`G` is the matrix of all inner products :math:`\langle x_i, x_j \rangle` of a batch, each
    of its rows divided by its Euclidean norm (equations 1 to 4 of the paper). The function returns
    the values :math:`r_i`; the published loss :math:`\mathcal{L}` is their **mean**. No gradient
    reaches the teacher.

    If the batch size is known and larger than both widths, time and memory are linear in n, since
    rows of norm 1 need only their inner product :math:`(G_s)_i \cdot (G_t)_i`. Where both graphs
    are nearly equal, that cancels, and pairs are compared instead.

    Args:
        teacher: Teacher representations, shape ``(n, ...)``.
        student: Student representations, shape ``(n, ...)``, of any width.
        block_size: Number of rows of the matrices over pairs that are in memory at a time;
            ``None`` takes all rows up to n = 2048, and 4 million entries at a time beyond.

    Returns:
        Tensor ``(n,)``, float32 or float64, of values from 0 to 4 / n. A sample that is 0 has
        similarities of 0.

    Raises:
        ValueError: If the batch sizes differ.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> x = np.eye(3, dtype="float32")
        >>> np.asarray(losses.similarity_preserving(x, 2 * x)).tolist()
        [0.0, 0.0, 0.0]

    Reference: Tung and Mori, "Similarity-preserving knowledge distillation", ICCV 2019,
    https://arxiv.org/abs/1907.09682. The paper's norm is Euclidean; torchdistill 1.1 divides by
    sums of absolute values.
    """
    check_options(block_size=block_size)
    teacher, student = both_flattened(teacher, student)
    teacher = ops.stop_gradient(teacher)
    n = ops.shape(student)[0]
    block = rows_of_block(n, block_size)

    def by_pairs(teacher, student):
        profiles = [_profiles(x, block) for x in (student, teacher)]
        return squared_difference(*profiles)

    widths = student.shape[1], teacher.shape[1]
    if None in widths:
        rows = by_pairs(teacher, student)
    else:
        rows = factors_or_pairs(
            lambda: _profiles_by_sums(teacher, student),
            by_pairs,
            teacher,
            student,
            n=n,
            rank=(widths[0] ** 2 + widths[0] * widths[1] + widths[1] ** 2) ** 0.5,
            width=sum(widths),
        )
    return rows / ops.cast(n, rows.dtype)


def _scaled(x):
    """The batch divided by its largest entry, of which the profiles are independent."""
    return x / largest_entry(x)


def _profiles(x, block):
    """The similarities of all pairs as a `PairMatrix`, with rows of norm 1, or of 0."""
    products = outer_products(unit_rows(x), _scaled(x), block)  # a row may have any length
    squares = products.map_rows(lambda values, *_: ops.sum(ops.square(values), axis=1))
    return combine(
        lambda values, _, rows, __: as_column(rows["inverse"]) * values,
        products,
        inverse=_inverse_root(squares),
    )


def _profiles_by_sums(teacher, student):
    """Row sums of the squared difference of both profiles, and whether they are accurate."""
    (s, t), (s_rows, t_rows) = (
        [function(x) for x in (student, teacher)] for function in (_scaled, unit_rows)
    )
    s_squares = ops.sum(matmul(s_rows, gram(ops.transpose(s))) * s_rows, axis=1)
    t_squares = ops.sum(matmul(t_rows, gram(ops.transpose(t))) * t_rows, axis=1)
    products = ops.sum(matmul(s_rows, matmul(ops.transpose(s), t)) * t_rows, axis=1)
    cosines = products * _inverse_root(s_squares) * _inverse_root(t_squares)
    norms = [ops.cast(squares > ZERO**2, squares.dtype) for squares in (s_squares, t_squares)]
    # Rounding may leave a little less than nothing.
    rows = ops.maximum(sum(norms) - 2.0 * cosines, 0.0)
    return rows, is_accurate(rows, norms)


def _inverse_root(squares):
    positive = squares > ZERO**2
    return ops.where(positive, ops.rsqrt(ops.where(positive, squares, 1.0)), 0.0)


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(similarity_preserving, GeometryLoss)
class SimilarityPreserving(GeometryLoss):
    r"""Similarity-preserving distillation (SPKD) as a Keras loss: ``loss(teacher, student)``.

    .. math::

        \mathcal{L} = \frac{1}{n^2} \lVert G_s - G_t \rVert_F^2

    :math:`G_s` and :math:`G_t` are the matrices of all inner products of the student's and of the
    teacher's batch, each row divided by its Euclidean norm; `similarity_preserving` is the same as
    a function. The published weight is 3,000 at n = 128.

    Args:
        reduction: How the values ``(n,)`` become the loss. ``"sum_over_batch_size"``, the default,
            is their mean, the published scale; ``"sum"`` adds them, ``None`` keeps them.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> float(lgg.losses.SimilarityPreserving()(np.eye(3), 2 * np.eye(3)))
        0.0

    Reference: Tung and Mori, "Similarity-preserving knowledge distillation", ICCV 2019,
    https://arxiv.org/abs/1907.09682.
    """

    needs_teacher = True

    def __init__(
        self,
        *,
        block_size: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "similarity_preserving",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype, global_graph=global_graph)
        self._keep(block_size=block_size)

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        return self._for_a_sum(2.0, n)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return similarity_preserving(y_true, y_pred, **self._options)


def probabilistic_transfer(
    teacher: Tensor, student: Tensor, *, block_size: int | None = None
) -> Tensor:
    r"""Probabilistic knowledge transfer (PKT): compares whom each sample would choose.

    .. math::

        \mathcal{L} = \frac{1}{n} \sum_i r_i, \qquad
        r_i = \frac{1}{n} \sum_j t_{ij} \log \frac{t_{ij} + \epsilon}{s_{ij} + \epsilon}, \qquad
        s_{ij} = \frac{1 + \cos(x_i, x_j)}{\sum_k \bigl(1 + \cos(x_i, x_k)\bigr)}

    :math:`s_{ij}` is the probability that sample i of the student's batch would choose sample j,
    :math:`t_{ij}` the same in the teacher's, and :math:`\epsilon = 10^{-7}`. As in the authors'
    code, a sample may choose itself. The function returns the values :math:`r_i`, a divergence of
    Kullback and Leibler divided by n; the published loss :math:`\mathcal{L}` is their **mean**. No
    gradient reaches the teacher.

    Args:
        teacher: Teacher representations, shape ``(n, ...)``.
        student: Student representations, shape ``(n, ...)``, of any width.
        block_size: Number of rows of the matrices over pairs that are in memory at a time;
            ``None`` takes all rows up to n = 2048, and 4 million entries at a time beyond.

    Returns:
        Tensor ``(n,)``, float32 or float64.

    Raises:
        ValueError: If the batch sizes differ.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> x = np.eye(3, dtype="float32")
        >>> np.asarray(losses.probabilistic_transfer(x, 2 * x)).tolist()
        [0.0, 0.0, 0.0]

    Reference: Passalis and Tefas, "Learning deep representations with probabilistic knowledge
    transfer", ECCV 2018, https://arxiv.org/abs/1803.10837, the cosine kernel.
    """
    check_options(block_size=block_size)
    teacher, student = both_flattened(teacher, student)
    block = rows_of_block(ops.shape(student)[0], block_size)
    return traced_once(_compared_choices, teacher, student, block=block)


def _compared_choices(teacher, student, *, block):
    teacher = ops.stop_gradient(teacher)
    divergences = combine(_divergence, *(_choices(x, block) for x in (teacher, student)))
    return divergences.map_rows(row_sums) / ops.cast(ops.shape(student)[0], student.dtype)


def _divergence(teacher, student, *_):
    # Of the logarithm of a ratio close to 1, the ratio itself would keep few digits. Rows of
    # differences add up to 0; with them, no gradients of single entries cancel.
    difference = teacher - student
    return teacher * ops.log1p(difference / (student + SMALL)) - difference


def _choices(x, block):
    """By row, the probabilities that a sample would choose each of the batch."""
    kernel = combine(lambda cosines, *_: 1.0 + cosines, similarities(x, "cosine", 1.0, block))
    return combine(
        lambda values, _, rows, __: as_column(rows["inverse"]) * values,
        kernel,
        inverse=1.0 / kernel.map_rows(row_sums),
    )


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(probabilistic_transfer, GeometryLoss)
class ProbabilisticTransfer(GeometryLoss):
    r"""Probabilistic knowledge transfer (PKT) as a Keras loss: ``loss(teacher, student)``.

    .. math::

        \mathcal{L} = \frac{1}{n^2} \sum_{i, j} t_{ij} \log \frac{t_{ij} + \epsilon}
            {s_{ij} + \epsilon}

    :math:`s_{ij}` and :math:`t_{ij}` are the probabilities that sample i would choose sample j, by
    their cosines in the student and in the teacher, and :math:`\epsilon = 10^{-7}`;
    `probabilistic_transfer` is the same as a function. A usual weight is 30,000 at n = 64.

    Args:
        reduction: How the values ``(n,)`` become the loss. ``"sum_over_batch_size"``, the default,
            is their mean, the published scale; ``"sum"`` adds them, ``None`` keeps them.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> float(lgg.losses.ProbabilisticTransfer()(np.eye(3), 2 * np.eye(3)))
        0.0

    Reference: Passalis and Tefas, "Learning deep representations with probabilistic knowledge
    transfer", ECCV 2018, https://arxiv.org/abs/1803.10837; the weight is that of Tian, Krishnan,
    Isola, "Contrastive representation distillation", ICLR 2020, https://arxiv.org/abs/1910.10699.
    """

    needs_teacher = True

    def __init__(
        self,
        *,
        block_size: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "probabilistic_transfer",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype, global_graph=global_graph)
        self._keep(block_size=block_size)

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        return self._for_a_sum(20.0, n)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return probabilistic_transfer(y_true, y_pred, **self._options)


def correlation_congruence(
    teacher: Tensor,
    student: Tensor,
    *,
    gamma: float = 0.4,
    order: int = 2,
    block_size: int | None = None,
) -> Tensor:
    r"""Correlation congruence (CCKD): compares the kernels of all pairs.

    .. math::

        \mathcal{L} = \frac{1}{n^2} \lVert K_s - K_t \rVert_F^2 = \frac{1}{n} \sum_i r_i, \qquad
        K_{ij} = e^{-2 \gamma} \sum_{p=0}^{P} \frac{(2 \gamma)^p}{p!} \cos(x_i, x_j)^p

    :math:`K` is the Gaussian kernel :math:`\exp(-\gamma \lVert x_i - x_j \rVert^2)` of samples
    scaled to norm 1, as a Taylor series up to the order :math:`P`; with an order of 1, the graphs
    of cosines are compared, up to a factor. The function returns the values :math:`r_i`, the mean
    squares of the rows of :math:`K_s - K_t`; the published loss :math:`\mathcal{L}` is their
    **mean**. No gradient reaches the teacher.

    Args:
        teacher: Teacher representations, shape ``(n, ...)``.
        student: Student representations, shape ``(n, ...)``, of any width.
        gamma: Positive scale :math:`\gamma` of the kernel.
        order: Positive integer P, the order of the series.
        block_size: Number of rows of the matrices over pairs that are in memory at a time;
            ``None`` takes all rows up to n = 2048, and 4 million entries at a time beyond.

    Returns:
        Tensor ``(n,)``, float32 or float64.

    Raises:
        ValueError: If an option is invalid or the batch sizes differ.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> x = np.eye(3, dtype="float32")
        >>> np.asarray(losses.correlation_congruence(x, 2 * x)).tolist()
        [0.0, 0.0, 0.0]

    Reference: Peng et al., "Correlation congruence for knowledge distillation", ICCV 2019,
    https://arxiv.org/abs/1904.01802, equation 7 and section 3.4. torchdistill takes the norm in
    place of its square, and leaves it to the network to scale the samples.
    """
    check_options(gamma=gamma, order=order, block_size=block_size)
    teacher, student = both_flattened(teacher, student)
    block = rows_of_block(ops.shape(student)[0], block_size)
    return traced_once(
        _compared_kernels, teacher, student, gamma=float(gamma), order=order, block=block
    )


def _compared_kernels(teacher, student, *, gamma, order, block):
    teacher = ops.stop_gradient(teacher)
    kernels = [_gaussian_series(x, gamma, order, block) for x in (student, teacher)]
    return squared_difference(*kernels) / ops.cast(ops.shape(student)[0], student.dtype)


def _gaussian_series(x, gamma, order, block):
    factors = [
        math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)
    ]

    def series(cosines, *_):
        value = factors[-1] * cosines
        for factor in factors[-2:0:-1]:
            value = (value + factor) * cosines
        return value + factors[0]

    return combine(series, similarities(x, "cosine", 1.0, block))


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(correlation_congruence, GeometryLoss)
class CorrelationCongruence(GeometryLoss):
    r"""Correlation congruence (CCKD) as a Keras loss: ``loss(teacher, student)``.

    .. math::

        \mathcal{L} = \frac{1}{n^2} \lVert K_s - K_t \rVert_F^2

    :math:`K_s` and :math:`K_t` are Gaussian kernels of all pairs in the student's and in the
    teacher's batch, as series of the cosines; `correlation_congruence` is the same as a function.

    Args:
        reduction: How the values ``(n,)`` become the loss. ``"sum_over_batch_size"``, the default,
            is their mean, the published scale; ``"sum"`` adds them, ``None`` keeps them.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> float(lgg.losses.CorrelationCongruence()(np.eye(3), 2 * np.eye(3)))
        0.0

    Reference: Peng et al., "Correlation congruence for knowledge distillation", ICCV 2019,
    https://arxiv.org/abs/1904.01802.
    """

    needs_teacher = True

    def __init__(
        self,
        *,
        gamma: float = 0.4,
        order: int = 2,
        block_size: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "correlation_congruence",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype, global_graph=global_graph)
        self._keep(gamma=gamma, order=order, block_size=block_size)

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        return self._for_a_sum(20.0 / as_float(n), n)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return correlation_congruence(y_true, y_pred, **self._options)
