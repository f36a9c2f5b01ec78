"""Embeddings: losses that push classes apart, or pull the graph towards one of your choice."""

import keras
import numpy as np
from keras import ops

from keras_lgg import checks
from keras_lgg.graphs.arrays import given_array, host_array
from keras_lgg.graphs.construction import (
    both_counted,
    label_products,
    nearest_neighbours,
    outer_products,
    self_similarities,
    similarities,
    without_loops,
)
from keras_lgg.graphs.differences import factors_or_pairs, is_accurate, sums_cost_less
from keras_lgg.graphs.functions import to_adjacency
from keras_lgg.graphs.labels import FORMS, check_known, known_values, label_signal, read_labels
from keras_lgg.graphs.low_rank import LowRank, row_squares, subtract
from keras_lgg.graphs.numerics import alone, as_column, as_row, flatten_representation, matmul
from keras_lgg.graphs.pairs import combine, rows_of_block
from keras_lgg.graphs.products import unit_rows
from keras_lgg.losses.base import GeometryLoss, as_float, check_options, row_sums
from keras_lgg.types import ArrayLike, DType, Tensor


def graph_smoothness(
    labels: Tensor,
    embeddings: Tensor,
    *,
    alpha: float = 1.0,
    k: int | None = None,
    ignore_class: int | None = None,
    block_size: int | None = None,
) -> Tensor:
    r"""Graph smoothness loss (GSL): pushes samples of different classes apart, and nothing else.

    .. math::

        \mathcal{L} = \sum_i r_i, \qquad
        r_i = \sum_{j:\, y_j \neq y_i} \exp\bigl(-\alpha \lVert z_i - z_j \rVert\bigr)

    :math:`z_i` is the embedding of sample i, :math:`y_i` its class. With soft and multi-hot labels,
    each pair has the weight :math:`\lVert y_i - y_j \rVert^2 / 2`. The function returns the row
    sums :math:`r_i`; the published loss :math:`\mathcal{L}` is their **sum**, over all ordered
    pairs. Samples of one class are not pulled together.

    The scale of the embeddings must be bounded, or growing it is enough to make the loss small: end
    the network in a BatchNormalization without scale and centre, or in a UnitNormalization.

    Args:
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot, soft or multi-hot ``(n, c)``; a
            multi-hot row is scaled to length 1.
        embeddings: Shape ``(n, ...)``, of any width.
        alpha: Positive number, the inverse length scale.
        k: Number of nearest neighbours: only pairs with an edge in that graph of the embeddings
            count. ``None``: all pairs count.
        ignore_class: Class number that marks samples without a label, such as -1. The other values
            are those of the batch without these samples, and theirs are 0. ``None``: every sample
            has a label.
        block_size: Number of rows of the matrices over pairs that are in memory at a time;
            ``None`` takes all rows up to n = 2048, and 4 million entries at a time beyond.

    Returns:
        Tensor ``(n,)``, float32 or float64.

    Raises:
        ValueError: If an option or the form of the labels is invalid, or the batch sizes differ.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> z = np.array([[0.0], [0.0], [1.0]], "float32")
        >>> [round(float(value), 4) for value in losses.graph_smoothness(np.array([0, 0, 1]), z)]
        [0.3679, 0.3679, 0.7358]

    Reference: Bontonou et al., "Introducing graph smoothness loss for training deep learning
    architectures", 2019, https://arxiv.org/abs/1905.00301; Lassance, Gripon, Ortega, "Representing
    Deep Neural Networks Latent Space Geometries with Graphs", Algorithms 14(2):39, 2021.
    """
    check_options(alpha=alpha, k=k)
    embeddings = flatten_representation(embeddings, "embeddings")
    labels = read_labels(labels, embeddings, of="embeddings", ignore_class=ignore_class)
    block = rows_of_block(ops.shape(embeddings)[0], block_size)
    adjacency = without_loops(similarities(embeddings, "exponential", alpha, block))
    if k is not None:
        adjacency = nearest_neighbours(adjacency, k, labels)
    apart = _half_squared_label_distances(labels, embeddings.dtype, block)
    return both_counted(combine(lambda a, b, *_: a * b, adjacency, apart), labels).map_rows(
        row_sums
    )


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(graph_smoothness, GeometryLoss)
class GraphSmoothness(GeometryLoss):
    r"""Graph smoothness loss (GSL) as a Keras loss: ``loss(labels, embeddings)``.

    .. math::

        \mathcal{L} = \sum_{i, j:\, y_i \neq y_j} \exp\bigl(-\alpha \lVert z_i - z_j \rVert\bigr)

    :math:`z_i` is the embedding of sample i, :math:`y_i` its class; `graph_smoothness` is the same
    as a function. Pass it to the ``compile`` of a network that ends in a normalisation, and
    classify the embeddings by k-NN.

    Args:
        reduction: How the row sums ``(n,)`` become the loss. ``"sum"``, the default, is the
            published scale; ``"sum_over_batch_size"`` divides it by n, ``None`` keeps the row sums.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> float(lgg.losses.GraphSmoothness()(np.array([0, 1]), np.zeros((2, 3))))
        2.0

    Reference: Bontonou et al., "Introducing graph smoothness loss for training deep learning
    architectures", 2019, https://arxiv.org/abs/1905.00301; Lassance, Gripon, Ortega, "Representing
    Deep Neural Networks Latent Space Geometries with Graphs", Algorithms 14(2):39, 2021.
    """

    needs_labels = True
    grows = True

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        k: int | None = None,
        ignore_class: int | None = None,
        block_size: int | None = None,
        reduction: str | None = "sum",
        name: str | None = "graph_smoothness",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype, global_graph=global_graph)
        self._keep(alpha=alpha, k=k, ignore_class=ignore_class, block_size=block_size)

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        return self._for_a_sum(30.0 / as_float(n) ** 2, n)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return graph_smoothness(y_true, y_pred, **self._options)


def target_graph(
    target: Tensor,
    embeddings: Tensor,
    *,
    form: str = "labels",
    affinity: ArrayLike | None = None,
    metric: str = "cosine",
    alpha: float = 1.0,
    num_classes: int | None = None,
    ignore_class: int | None = None,
    block_size: int | None = None,
) -> Tensor:
    r"""Pulls the similarity graph of the embeddings towards a graph that you choose.

    .. math::

        \mathcal{L} = \sum_i r_i, \qquad r_i = \sum_{j \neq i} (S_{ij} - T_{ij})^2, \qquad
        T = Y C Y^\top

    :math:`S` holds the similarities of the embeddings (see `graphs.similarity`; degrees are not
    normalised), :math:`T` those that are wanted: from the label rows :math:`Y` and the affinities
    :math:`C` of the classes, or given as a whole. The function returns the row sums :math:`r_i`;
    the loss :math:`\mathcal{L}` is their **sum**.

    Args:
        target: With ``form="labels"``: integers ``(n,)`` or ``(n, 1)``, or one-hot, soft or
            multi-hot ``(n, c)``; multi-hot rows are scaled, so that without an affinity their
            similarity is the cosine. With ``form="graph"``: T itself, ``(n, n)``.
        embeddings: Shape ``(n, ...)``, of any width.
        form: What ``target`` is: ``"labels"`` or ``"graph"``.
        affinity: The similarities C wanted between the classes, symmetric ``(c, c)``, for
            instance from a hierarchy; ``None`` is the identity. Only with ``form="labels"``.
        metric: Similarity of the embeddings: ``"cosine"``; ``"rbf"``,
            ``exp(-alpha * ||z_i - z_j||**2)``; or ``"exponential"``,
            ``exp(-alpha * ||z_i - z_j||)``.
        alpha: Positive number, the inverse length scale of the last two metrics.
        num_classes: Number of classes of integer labels, where no ``affinity`` tells it. With it,
            cosine graphs can be compared through low-rank factors, in time linear in n.
        ignore_class: Class number that marks samples without a label, such as -1. The other values
            are those of the batch without these samples, and theirs are 0. ``None``: every sample
            has a label.
        block_size: Number of rows of the matrices over pairs that are in memory at a time;
            ``None`` takes all rows up to n = 2048, and 4 million entries at a time beyond.

    Returns:
        Tensor ``(n,)``, float32 or float64.

    Raises:
        ValueError: If an option is invalid, or the shapes do not fit.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> z = np.eye(2, dtype="float32")
        >>> np.asarray(losses.target_graph(np.array([0, 0]), z)).tolist()
        [1.0, 1.0]
        >>> np.asarray(losses.target_graph(np.zeros((2, 2)), z, form="graph")).tolist()
        [0.0, 0.0]

    Reference: after Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space
    Geometries with Graphs", Algorithms 14(2):39, 2021, with the target as an argument.
    """
    check_options(form=form, metric=metric, alpha=alpha)
    embeddings = flatten_representation(embeddings, "embeddings")
    n = ops.shape(embeddings)[0]

    block = rows_of_block(n, block_size)
    if form == "graph":
        _check_no_labels(affinity, ignore_class)
        wanted = ops.cast(to_adjacency(target, "target"), embeddings.dtype)
        checks.check_same_length(target=target, embeddings=embeddings)
        found = similarities(embeddings, metric, alpha, block)
        return found.map_rows(
            lambda values, others, rows, _: _sums_of_squares(
                _edge_difference(values, rows["wanted"], others)
            ),
            only_rows={"wanted": wanted},
        )
    labels, affinity = _read_target(target, embeddings, affinity, num_classes, ignore_class)
    signal, towards = _affinity_factors(labels, affinity, embeddings.dtype)

    def by_pairs(embeddings):
        if signal is None:
            wanted = label_products(labels, embeddings.dtype, block)
        else:
            wanted = outer_products(towards, signal, block)
        found = similarities(embeddings, metric, alpha, block)
        difference = both_counted(combine(_edge_difference, found, wanted), labels)
        return difference.map_rows(_sums_of_squares)

    width = embeddings.shape[1]
    if metric != "cosine" or signal is None or width is None:
        return by_pairs(embeddings)
    rank = width + signal.shape[1] + 2
    return factors_or_pairs(
        lambda: _affinity_differences(labels.where_counted(embeddings), towards, signal),
        by_pairs,
        embeddings,
        n=n,
        rank=rank,
        width=3 * width,
    )


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(target_graph, GeometryLoss)
class TargetGraph(GeometryLoss):
    r"""Pull towards a graph of your choice, as a Keras loss: ``loss(target, embeddings)``.

    .. math::

        \mathcal{L} = \sum_{i \neq j} (S_{ij} - T_{ij})^2, \qquad T = Y C Y^\top

    :math:`S` holds the similarities of the embeddings, :math:`T` those that are wanted: from the
    label rows :math:`Y` and the affinities :math:`C` of the classes, or given as a whole;
    `target_graph` is the same as a function.

    Args:
        reduction: How the row sums ``(n,)`` become the loss: ``"sum"``, the default,
            ``"sum_over_batch_size"`` to divide it by n, or ``None`` to keep the row sums.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> siblings = lgg.losses.TargetGraph(affinity=[[1.0, 0.5], [0.5, 1.0]])
        >>> round(float(siblings(np.array([0, 1]), np.eye(2))), 4)
        0.5

    Reference: after Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space
    Geometries with Graphs", Algorithms 14(2):39, 2021, with the target as an argument.
    """

    needs_labels = True

    def __init__(
        self,
        *,
        form: str = "labels",
        affinity: ArrayLike | None = None,
        metric: str = "cosine",
        alpha: float = 1.0,
        num_classes: int | None = None,
        ignore_class: int | None = None,
        block_size: int | None = None,
        reduction: str | None = "sum",
        name: str | None = "target_graph",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype, global_graph=global_graph)
        if affinity is not None:
            affinity = _check_affinity(affinity).tolist()
        self._keep(
            form=form,
            affinity=affinity,
            metric=metric,
            alpha=alpha,
            num_classes=num_classes,
            ignore_class=ignore_class,
            block_size=block_size,
        )

    def check_labels(self, labels: np.ndarray) -> None:
        if self._options["form"] == "labels":
            affinity = self._options["affinity"]
            count = self._options["num_classes"] if affinity is None else len(affinity)
            check_known(labels, num_classes=count, ignore_class=self._options["ignore_class"])

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        return self._for_a_sum(30.0 / as_float(n) ** 2, n)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return target_graph(y_true, y_pred, **self._options)

    def _sums_suffice(self, y_true, y_pred, n):
        if self.form != "labels" or self.metric != "cosine":
            return False
        embeddings, labels, _ = self._read(y_true, y_pred)
        return sums_cost_less(n, embeddings.shape[1], labels.num_classes)

    def _call_by_sums(self, y_true, y_pred, *, total):
        embeddings, labels, affinity = self._read(y_true, ops.cast(y_pred, "float64"))
        signal, towards = _affinity_factors(labels, affinity, "float64")
        embeddings = labels.where_counted(embeddings)
        rows, _ = _affinity_differences(embeddings, towards, signal, total)
        return ops.cast(rows, y_pred.dtype)

    def _read(self, target, embeddings):
        embeddings = flatten_representation(embeddings, "embeddings")
        options = (self._options[o] for o in ("affinity", "num_classes", "ignore_class"))
        return embeddings, *_read_target(target, embeddings, *options)


def _read_target(target, embeddings, affinity, num_classes, ignore_class):
    """`Labels` of a target graph, and the similarities of their classes as an array or None."""
    affinity = None if affinity is None else _check_affinity(affinity)
    if affinity is None:
        _check_not_a_graph(target)
    else:
        num_classes = len(affinity)
    labels = read_labels(
        target,
        embeddings,
        argument="target",
        of="embeddings",
        num_classes=num_classes,
        ignore_class=ignore_class,
    )
    return labels, affinity


def _half_squared_label_distances(labels, dtype, block):
    """``||y_i - y_j||**2 / 2``: 1 for samples of two classes, 0 within one."""
    products = label_products(labels, dtype, block)
    if labels.rows is None:
        return combine(lambda same, *_: 1.0 - same, products)
    norms = ops.sum(ops.square(ops.cast(labels.rows, dtype)), axis=1)
    return combine(
        lambda products, _, rows, columns: (
            0.5 * (as_column(rows["norms"]) + as_row(columns["norms"])) - products
        ),
        products,
        norms=norms,
    )


def _sums_of_squares(values, *_):
    return ops.sum(ops.square(values), axis=1)


def _edge_difference(values, wanted, others, *_):
    return ops.where(others, values - wanted, 0.0)


def _affinity_factors(labels, affinity, dtype):
    """``(Y, Y @ C)`` of the wanted graph ``Y C Y.T``; None if the number of classes is unknown."""
    if affinity is None:
        if labels.num_classes is None:
            return None, None
        signal = label_signal(labels, dtype=dtype)
        return signal, signal
    signal = label_signal(labels, dtype=dtype)
    affinity = ops.convert_to_tensor(affinity, dtype=dtype)
    towards = matmul(signal, affinity)
    if labels.rows is None:
        return signal, towards
    # A multi-hot label must not be more similar to itself than a class is.
    bound = ops.maximum(ops.max(ops.abs(ops.diagonal(affinity))), 1.0)
    itself = ops.sum(towards * signal, axis=1, keepdims=True)
    scale = ops.sqrt(bound / ops.maximum(itself, bound))
    return scale * signal, scale * towards


def _affinity_differences(embeddings, towards, signal, total=alone):
    """Row sums of the squared difference to ``towards @ signal.T``; whether they are accurate.

    For ``total`` see `compare_factors`.
    """
    unit = unit_rows(embeddings)
    loops = self_similarities(embeddings)
    terms = subtract(
        LowRank(unit, unit, -loops, total),
        LowRank(towards, signal, -ops.sum(towards * signal, axis=1), total),
        along=ops.ones_like(loops),
    )
    rows, squares = row_squares(terms)
    return rows, is_accurate(rows, squares)


def _check_no_labels(affinity, ignore_class):
    for name, value in (("affinity", affinity), ("ignore_class", ignore_class)):
        if value is not None:
            raise ValueError(
                f"Argument `{name}` has no meaning with form='graph'. Expected None, since "
                f"`target` is the whole graph. Received: {name}={value!r}. Leave it out, or pass "
                "class labels with form='labels'."
            )


def _check_not_a_graph(target):
    """Raise where an (n, n) graph was passed as if it were the labels of n classes."""
    values = known_values(given_array("target", target, FORMS))
    if values is None or values.ndim != 2 or len(set(values.shape)) != 1 or len(values) == 1:
        return
    sums = values.astype("float64").sum(axis=1)
    is_multi_hot = not np.array_equal(values, values.T) and np.isin(values, (0, 1)).all()
    if not is_multi_hot and not np.allclose(sums, 1.0, atol=1e-3):
        raise ValueError(
            "Argument `target` does not look like labels. Expected one-hot or soft labels, whose "
            f"rows sum to 1, with form='labels'. Received: a matrix of shape {values.shape} with "
            f"row sums from {sums.min():.3g} to {sums.max():.3g}. "
            "If it is the target graph itself, pass form='graph'."
        )


def _check_affinity(affinity):
    """Return the similarities of classes as a NumPy array, or raise."""
    matrix = host_array("affinity", affinity, "a square matrix (c, c)").astype("float64")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise checks.invalid("affinity", "a square matrix (c, c)", f"shape {matrix.shape}")
    if not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T):
        raise checks.invalid("affinity", "a finite symmetric matrix", matrix.tolist())
    return matrix
