"""Distillation: a student's graph, distances or angles compared with its teacher's."""

import keras
from keras import ops

from keras_lgg import checks
from keras_lgg.graphs.construction import squared_distances
from keras_lgg.graphs.differences import (
    compare_by_sums,
    compare_factors,
    compare_pairs,
    factored_rank,
    factors_or_pairs,
    sums_cost_less,
)
from keras_lgg.graphs.labels import label_signal, labels_of_pairs, memberships
from keras_lgg.graphs.numerics import as_column, safe_sqrt
from keras_lgg.graphs.pairs import combine, rows_of_block
from keras_lgg.graphs.tracing import traced_once
from keras_lgg.losses.base import (
    GeometryLoss,
    as_float,
    both_flattened,
    check_options,
    row_sums,
)
from keras_lgg.types import DType, Tensor


def graph_distillation(
    teacher: Tensor,
    student: Tensor,
    *,
    k: int | None = None,
    power: int = 1,
    pairs: str = "all",
    labels: Tensor | None = None,
    num_classes: int | None = None,
    ignore_class: int | None = None,
    block_size: int | None = None,
) -> Tensor:
    r"""Graph knowledge distillation (GKD): compares the student's graph with the teacher's.

    .. math::

        \mathcal{L} = \lVert A_s^p - A_t^p \rVert_F^2 = \sum_i r_i, \qquad
        r_i = \sum_j \bigl((A_s^p)_{ij} - (A_t^p)_{ij}\bigr)^2

    :math:`A_s` and :math:`A_t` are the degree-normalised cosine graphs of the student and of the
    teacher (see `graphs.latent_geometry_graph`), :math:`p` is ``power``. The function returns the
    row sums :math:`r_i`; the published loss :math:`\mathcal{L}` is their **sum**, over all ordered
    pairs. No gradient reaches the teacher.

    The loss is meant for non-negative representations, such as those after a ReLU. With features
    of both signs, the similarities in a degree cancel; the degree may come close to 0, and the
    value is then huge.

    If ``k`` is ``None`` and the batch size is known and larger than both widths, the graphs are
    compared through low-rank factors, in time and memory linear in n. There the two graphs cancel
    in sums. If, with ``power=1``, less is left than 1e4 times the rounding error of the dtype (in
    float32 a thousandth of what is summed), the result could be off by 1e-4 of its value, and
    pairs are compared instead.

    Args:
        teacher: Teacher representations, shape ``(n, ...)``.
        student: Student representations, shape ``(n, ...)``, of any width.
        k: Number of nearest neighbours to keep, or ``None`` for the full graphs. The edges are
            those of the *teacher's* graph, in both.
        power: Positive integer p, the matrix power (diffusion steps) of both graphs.
        pairs: Which edges to compare: ``"all"``, ``"intra"`` (within a class) or ``"inter"``
            (between classes).
        labels: Class labels, needed unless ``pairs="all"``: integers ``(n,)`` or ``(n, 1)``, or
            one-hot, soft or multi-hot ``(n, c)``.
        ignore_class: Class number that marks samples without a label, such as -1; they have no
            edge where ``pairs`` is not ``"all"``. ``None``: every sample has a label.
        num_classes: Number of classes of integer labels; if given, pairs within or between classes
            can be compared through factors, too.
        block_size: Number of rows of the graphs that are in memory at a time, where pairs are
            compared; ``None`` takes all rows up to n = 2048, and 4 million entries at a time
            beyond.

    Returns:
        Tensor ``(n,)``, float32 or float64.

    Raises:
        ValueError: If an option is invalid or the batch sizes differ.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> x = np.random.default_rng(0).random((8, 5)).astype("float32")
        >>> bool(np.max(np.asarray(losses.graph_distillation(x, 3 * x))) < 1e-9)
        True

    Reference: Lassance et al., "Deep geometric knowledge distillation with graphs", 2019,
    https://arxiv.org/abs/1911.03080; Lassance, Gripon, Ortega, "Representing Deep Neural Networks
    Latent Space Geometries with Graphs", Algorithms 14(2):39, 2021.
    """
    check_options(power=power, pairs=pairs, k=k)
    teacher, student = both_flattened(teacher, student)
    teacher = ops.stop_gradient(teacher)
    one_hot = counted = None
    if pairs != "all":
        labels = labels_of_pairs(
            pairs, labels, student, of="student", num_classes=num_classes, ignore_class=ignore_class
        )
        one_hot = _one_hot(labels, student.dtype)
        counted = None if labels.counted is None else labels.weights(student.dtype)["counted"]
    n = ops.shape(student)[0]
    block = rows_of_block(n, block_size)

    def by_pairs(teacher, student):
        return compare_pairs(
            teacher, student, k=k, power=power, pairs=pairs, labels=labels, block=block
        )

    def in_factors():
        rows, accurate = compare_factors(
            student,
            teacher,
            power=power,
            pairs=pairs,
            one_hot=one_hot,
            counted=None if counted is None else as_column(counted),
        )
        if one_hot is None:
            return rows, accurate
        # A pair that shares several classes would be counted once for each of them.
        return rows, ops.logical_and(accurate, ops.all(ops.sum(one_hot, axis=1) < 1.5))

    widths = student.shape[1], teacher.shape[1]
    by_classes = pairs != "all" and (one_hot is None or power > 1)
    if k is not None or by_classes or None in widths:
        return by_pairs(teacher, student)
    rank = factored_rank(*widths, power) * (1 if one_hot is None else one_hot.shape[1] ** 0.5)
    return factors_or_pairs(
        in_factors,
        by_pairs,
        teacher,
        student,
        n=n,
        rank=rank,
        width=3 * widths[0] + widths[1],
        power=power,
    )


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(graph_distillation, GeometryLoss)
class GraphDistillation(GeometryLoss):
    r"""Graph knowledge distillation (GKD) as a Keras loss: ``loss(teacher, student)``.

    .. math::

        \mathcal{L} = \lVert A_s^p - A_t^p \rVert_F^2

    :math:`A_s` and :math:`A_t` are the degree-normalised cosine graphs of the student's and of the
    teacher's batch, :math:`p` is ``power``; `graph_distillation` is the same as a function. With
    ``pairs="intra"`` or ``"inter"``, ``y_true`` is the pair ``(teacher, labels)``. The published
    weight is 25 at n = 128.

    Args:
        reduction: How the row sums ``(n,)`` become the loss. ``"sum"``, the default, is the
            published scale; ``"sum_over_batch_size"`` is the mean, ``None`` keeps the row sums.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> x = np.eye(4, 3, dtype="float32") + 1
        >>> bool(lgg.losses.GraphDistillation(k=2)(x, 2 * x) < 1e-9)
        True

    Reference: Lassance et al., "Deep geometric knowledge distillation with graphs", 2019,
    https://arxiv.org/abs/1911.03080; Lassance, Gripon, Ortega, "Representing Deep Neural Networks
    Latent Space Geometries with Graphs", Algorithms 14(2):39, 2021.
    """

    needs_teacher = True

    def __init__(
        self,
        *,
        k: int | None = None,
        power: int = 1,
        pairs: str = "all",
        num_classes: int | None = None,
        ignore_class: int | None = None,
        block_size: int | None = None,
        reduction: str | None = "sum",
        name: str | None = "graph_distillation",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype, global_graph=global_graph)
        self._keep(
            k=k,
            power=power,
            pairs=pairs,
            num_classes=num_classes,
            ignore_class=ignore_class,
            block_size=block_size,
        )
        self.needs_labels = pairs != "all"

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        return self._for_a_sum(1.0, n)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        teacher, labels = y_true if self.needs_labels else (y_true, None)
        return graph_distillation(teacher, y_pred, labels=labels, **self._options)

    def _sums_suffice(self, y_true, y_pred, n):
        if self.k is not None or self.pairs != "all":
            return False
        teacher, student = both_flattened(y_true, y_pred)
        return sums_cost_less(n, student.shape[1], teacher.shape[1], power=self.power)

    def _call_by_sums(self, y_true, y_pred, *, total):
        teacher, student = both_flattened(y_true, y_pred)
        return compare_by_sums(student, ops.stop_gradient(teacher), total, power=self.power)


def relational_distance(
    teacher: Tensor, student: Tensor, *, block_size: int | None = None
) -> Tensor:
    r"""Relational knowledge distillation of distances (RKD-D).

    .. math::

        \mathcal{L} = \frac{1}{n} \sum_i r_i, \qquad
        r_i = \frac{1}{n - 1} \sum_{j \neq i} h\Bigl(
            \frac{\lVert s_i - s_j \rVert}{\mu_s} - \frac{\lVert t_i - t_j \rVert}{\mu_t} \Bigr)

    :math:`s_i` and :math:`t_i` are the representations of sample i in the student and in the
    teacher, :math:`\mu_s` and :math:`\mu_t` the mean distances over all :math:`i \neq j`, and
    :math:`h` is the Huber loss with :math:`\delta = 1`. The function returns the row means
    :math:`r_i`; the published loss :math:`\mathcal{L}` is their **mean**. No gradient reaches the
    teacher.

    Args:
        teacher: Teacher representations, shape ``(n, ...)``.
        student: Student representations, shape ``(n, ...)``, of any width.
        block_size: Number of rows of the matrices over pairs that are in memory at a time;
            ``None`` takes all rows up to n = 2048, and 4 million entries at a time beyond.

    Returns:
        Tensor ``(n,)``, float32 or float64; 0 for a batch of one.

    Raises:
        ValueError: If the batch sizes differ.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> x = np.eye(3, dtype="float32")
        >>> np.asarray(losses.relational_distance(x, 2 * x)).tolist()
        [0.0, 0.0, 0.0]

    Reference: Park et al., "Relational knowledge distillation", CVPR 2019,
    https://arxiv.org/abs/1904.05068.
    """
    teacher, student = both_flattened(teacher, student)
    block = rows_of_block(ops.shape(student)[0], block_size)
    return traced_once(_compared_distances, teacher, student, block=block)


def _compared_distances(teacher, student, *, block):
    teacher = ops.stop_gradient(teacher)
    n = ops.shape(student)[0]
    distances = [_relative_distances(x, block) for x in (teacher, student)]
    sums = combine(lambda t, s, *_: _huber(s - t), *distances).map_rows(row_sums)
    return sums / ops.cast(ops.maximum(n - 1, 1), student.dtype)


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(relational_distance, GeometryLoss)
class RelationalDistance(GeometryLoss):
    r"""Distillation of distances (RKD-D) as a Keras loss: ``loss(teacher, student)``.

    .. math::

        \mathcal{L} = \frac{1}{n (n - 1)} \sum_{i \neq j} h\Bigl(
            \frac{\lVert s_i - s_j \rVert}{\mu_s} - \frac{\lVert t_i - t_j \rVert}{\mu_t} \Bigr)

    :math:`s_i` and :math:`t_i` are the representations of sample i in the student and in the
    teacher, :math:`\mu_s` and :math:`\mu_t` their mean distances over :math:`i \neq j`, and
    :math:`h` is the Huber loss with :math:`\delta = 1`; `relational_distance` is the same as a
    function. The published weight is 25.

    Args:
        reduction: How the row means ``(n,)`` become the loss. ``"sum_over_batch_size"``, the
            default, is their mean, the published scale; ``"sum"`` adds them, ``None`` keeps them.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> float(lgg.losses.RelationalDistance()(np.eye(3), 2 * np.eye(3)))
        0.0

    Reference: Park et al., "Relational knowledge distillation", CVPR 2019,
    https://arxiv.org/abs/1904.05068.
    """

    needs_teacher = True

    def __init__(
        self,
        *,
        block_size: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "relational_distance",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype, global_graph=global_graph)
        self._keep(block_size=block_size)

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        return self._for_a_sum(5.0 / as_float(n), n)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return relational_distance(y_true, y_pred, **self._options)


def relational_angle(teacher: Tensor, student: Tensor, *, arms: int = 128) -> Tensor:
    r"""Relational knowledge distillation of angles (RKD-A).

    .. math::

        \mathcal{L} = \operatorname*{mean}_j \, r_j, \qquad
        r_j = \operatorname*{mean}_{i, k} \, h\bigl(\cos\angle s_i s_j s_k
            - \cos\angle t_i t_j t_k\bigr)

    :math:`\angle s_i s_j s_k` is the angle at sample j between the directions to samples i and k
    in the student, :math:`\angle t_i t_j t_k` the same in the teacher, and :math:`h` is the Huber
    loss with :math:`\delta = 1`. The mean runs over ordered pairs (i, k) with i, j and k distinct.
    The function returns the means :math:`r_j`; the published loss :math:`\mathcal{L}` is their
    **mean**. No gradient reaches the teacher.

    Time and memory grow like ``n * min(n, arms)**2``. In a batch larger than ``arms``, i and k run
    over its first ``arms`` samples only: an unbiased estimate if the batch is shuffled.

    Args:
        teacher: Teacher representations, shape ``(n, ...)``.
        student: Student representations, shape ``(n, ...)``, of any width.
        arms: Integer of at least 2, how many samples of the batch i and k are taken from.

    Returns:
        Tensor ``(n,)``, float32 or float64; 0 for a batch of fewer than three.

    Raises:
        ValueError: If ``arms`` is below 2 or the batch sizes differ.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> x = np.random.default_rng(0).random((4, 3)).astype("float32")
        >>> bool(np.max(np.asarray(losses.relational_angle(x, 5 * x + 1))) < 1e-9)
        True

    Reference: Park et al., "Relational knowledge distillation", CVPR 2019,
    https://arxiv.org/abs/1904.05068.
    """
    check_options(arms=arms)
    teacher, student = both_flattened(teacher, student)
    return traced_once(_compared_angles, teacher, student, arms=arms)


def _compared_angles(teacher, student, *, arms):
    teacher = ops.stop_gradient(_angle_cosines(teacher, arms))
    values = _huber(_angle_cosines(student, arms) - teacher)
    distinct = ops.cast(_distinct_triplets(values), values.dtype)
    count = ops.maximum(ops.sum(distinct, axis=(1, 2)), 1.0)
    return ops.sum(values * distinct, axis=(1, 2)) / count


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(relational_angle, GeometryLoss)
class RelationalAngle(GeometryLoss):
    r"""Distillation of angles (RKD-A) as a Keras loss: ``loss(teacher, student)``.

    .. math::

        \mathcal{L} = \operatorname*{mean}_{i, j, k} \, h\bigl(\cos\angle s_i s_j s_k
            - \cos\angle t_i t_j t_k\bigr)

    :math:`\angle s_i s_j s_k` is the angle at sample j between the directions to samples i and k
    in the student, :math:`\angle t_i t_j t_k` the same in the teacher, over triplets of distinct
    samples; :math:`h` is the Huber loss with :math:`\delta = 1`. `relational_angle` is the same as
    a function.

    Args:
        reduction: How the means ``(n,)`` become the loss. ``"sum_over_batch_size"``, the default,
            is their mean, the published scale; ``"sum"`` adds them, ``None`` keeps them.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> bool(lgg.losses.RelationalAngle()(np.eye(3), 2 * np.eye(3)) < 1e-9)
        True

    Reference: Park et al., "Relational knowledge distillation", CVPR 2019,
    https://arxiv.org/abs/1904.05068.
    """

    needs_teacher = True

    def __init__(
        self,
        *,
        arms: int = 128,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "relational_angle",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype, global_graph=global_graph)
        self._keep(arms=arms)

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        return self._for_a_sum(5.0 / as_float(n), n)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return relational_angle(y_true, y_pred, **self._options)


def _one_hot(labels, dtype):
    """One-hot classes of `Labels`, or None if their number is unknown."""
    if labels.num_classes is None:
        return None
    if labels.rows is not None:
        return memberships(labels, dtype)
    return label_signal(labels, dtype=dtype)


def _huber(difference):
    size = ops.abs(difference)
    return ops.where(size < 1.0, 0.5 * ops.square(difference), size - 0.5)


def _relative_distances(x, block):
    """Pairwise distances divided by their mean over ``i != j``; 0 where all samples coincide."""
    distances = combine(lambda squares, *_: safe_sqrt(squares), squared_distances(x, block)[0])
    n = ops.cast(ops.shape(x)[0], x.dtype)
    mean = ops.sum(distances.map_rows(row_sums)) / ops.maximum(n * (n - 1.0), 1.0)
    inverse = 1.0 / ops.where(ops.equal(mean, 0.0), ops.ones_like(mean), mean)
    return combine(
        lambda values, _, rows, __: values * as_column(rows["inverse"]),
        distances,
        inverse=ops.broadcast_to(inverse, ops.shape(x)[:1]),
    )


def _angle_cosines(x, arms):
    """Cosines (n, m, m) of the angles at sample j between samples i and k, m = min(n, arms)."""
    squares = squared_distances(x, None)[0].matrix[:, :arms]
    near = ops.equal(squares, 0.0)
    inverse = ops.where(near, 0.0, ops.rsqrt(ops.where(near, 1.0, squares)))
    # By the law of cosines, (x_i - x_j).(x_k - x_j) from the three squared distances.
    products = 0.5 * (squares[:, :, None] + squares[:, None, :] - squares[None, :arms, :])
    return products * inverse[:, :, None] * inverse[:, None, :]


def _distinct_triplets(cosines):
    """Boolean (n, m, m), true where j, i and k are distinct samples."""
    vertex = ops.arange(ops.shape(cosines)[0])[:, None, None]
    arm = ops.arange(ops.shape(cosines)[1])
    first, second = arm[None, :, None], arm[None, None, :]
    return ops.logical_and(
        ops.not_equal(first, second),
        ops.logical_and(ops.not_equal(vertex, first), ops.not_equal(vertex, second)),
    )
