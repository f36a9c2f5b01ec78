"""The functions on graphs that are public, through `keras_lgg.graphs`."""

from keras import ops

from keras_lgg.checks import (
    check_choice,
    check_positive,
    check_positive_integer,
    check_same_length,
    invalid,
)
from keras_lgg.graphs.arrays import as_tensor, check_not_empty
from keras_lgg.graphs.construction import (
    class_pairs,
    cosine_degrees,
    cosine_graph,
    laplacian_form,
    nearest,
    nearest_neighbours,
    normalized_degrees,
    pair_smoothness,
    quadratic_form,
    root_degrees,
    scale_rows_and_columns,
    similarities,
    squared_distances,
    weakest_neighbours,
    without_loops,
)
from keras_lgg.graphs.labels import label_signal, read_labels
from keras_lgg.graphs.numerics import (
    alone,
    as_column,
    connected_nodes,
    flatten_representation,
    inverse_sqrt_degree,
    safe_sqrt,
    to_float,
)
from keras_lgg.graphs.pairs import rows_of_block, whole
from keras_lgg.graphs.products import cosine_product
from keras_lgg.graphs.tracing import traced_once
from keras_lgg.types import Tensor

METRICS = ("cosine", "rbf", "exponential")
PAIRS = ("all", "intra", "inter")


def similarity(x: Tensor, *, metric: str = "cosine", alpha: float = 1.0) -> Tensor:
    """Similarity of every pair of samples, self-similarities included.

    Args:
        x: Representations, shape ``(n, ...)``.
        metric: ``"cosine"``: cosine of the angle at the origin (0 for a zero row);
            ``"rbf"``: ``exp(-alpha * ||x_i - x_j||**2)``;
            ``"exponential"``: ``exp(-alpha * ||x_i - x_j||)``.
        alpha: Positive number, the inverse length scale of the last two metrics.

    Returns:
        Symmetric tensor ``(n, n)``, float32 or float64.

    Raises:
        ValueError: If ``metric`` is unknown or ``alpha`` is not a positive number.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import graphs
        >>> s = graphs.similarity(np.array([[3.0, 0.0], [0.0, 2.0], [5.0, 0.0]], "float32"))
        >>> np.asarray(s).tolist()
        [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]

    Reference: Algorithms 14(2):39
    """
    check_choice("metric", metric, METRICS)
    check_positive("alpha", alpha)
    return similarities(flatten_representation(x), metric, alpha, None).matrix


def knn_mask(adjacency: Tensor, *, k: int) -> Tensor:
    """Which edges join a node to one of its k nearest neighbours, in either direction.

    Edge (i, j) is kept where j is among the k largest weights of row i, or i among those of
    row j. A node is never its own neighbour, whatever the diagonal holds. Weights that tie with
    the k-th, to rounding, are kept too, so the mask follows any permutation of the batch.

    Args:
        adjacency: Symmetric tensor ``(n, n)``.
        k: Positive integer; ``k >= n - 1`` keeps every edge.

    Returns:
        Symmetric boolean tensor ``(n, n)`` with a false diagonal. It carries no gradient.

    Raises:
        ValueError: If ``k`` is not a positive integer, or ``adjacency`` is not square.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import graphs
        >>> a = np.array([[0, 5, 1], [5, 0, 2], [1, 2, 0]], "float32")
        >>> np.asarray(graphs.knn_mask(a, k=1)).astype(int).tolist()
        [[0, 1, 0], [1, 0, 1], [0, 1, 0]]

    Reference: Algorithms 14(2):39
    """
    check_positive_integer("k", k)
    adjacency = whole(ops.stop_gradient(to_adjacency(adjacency)))
    weakest = weakest_neighbours(adjacency, k)
    return adjacency.map_rows(nearest, weakest=weakest)


def normalize_degrees(adjacency: Tensor) -> Tensor:
    """Symmetric degree normalisation, ``D**(-1/2) A D**(-1/2)`` with ``D_ii = sum_j A_ij``.

    A node whose degree is not positive (to rounding: signed weights can cancel) is isolated:
    its row and column are 0.

    Args:
        adjacency: Symmetric tensor ``(n, n)``; its diagonal counts towards the degrees.

    Returns:
        Symmetric tensor ``(n, n)``.

    Raises:
        ValueError: If ``adjacency`` is not square.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import graphs
        >>> a = np.array([[0, 4, 0], [4, 0, 0], [0, 0, 0]], "float32")
        >>> np.asarray(graphs.normalize_degrees(a)).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]

    Reference: Algorithms 14(2):39
    """
    return normalized_degrees(whole(to_adjacency(adjacency))).matrix


def latent_geometry_graph(
    x: Tensor,
    *,
    metric: str = "cosine",
    alpha: float = 1.0,
    k: int | None = None,
    normalize: bool = True,
    pairs: str = "all",
    labels: Tensor | None = None,
    ignore_class: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The latent geometry graph (LGG) of a batch, as a weighted adjacency matrix.

    The steps, in this order: similarity, no self loops, degree normalisation, class pairs,
    k nearest neighbours.

    Args:
        x: Representations, shape ``(n, ...)``.
        metric: See `similarity`.
        alpha: See `similarity`.
        k: Number of nearest neighbours to keep (see `knn_mask`), or ``None`` for all.
        normalize: Whether to normalise the degrees (see `normalize_degrees`).
        pairs: ``"all"``, ``"intra"`` (only pairs of one class) or ``"inter"`` (only pairs of
            two classes).
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot, soft or multi-hot ``(n, c)`` of
            which the largest entries count: two samples that share one are of one class. Needed
            where ``pairs`` is not ``"all"``.
        ignore_class: Class number of samples without a label: they are in no pair of classes.
        mask: Boolean ``(n, n)``, the edges to keep, in place of ``k``: with the `knn_mask` of
            one graph, another graph is compared on the same edges.

    Returns:
        Symmetric tensor ``(n, n)`` with a zero diagonal, float32 or float64.

    Raises:
        ValueError: If an option is not one of those above, labels are missing or of another
            length than ``x``, or both ``k`` and ``mask`` are given.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import graphs
        >>> x = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], "float32")
        >>> np.asarray(graphs.latent_geometry_graph(x)).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]

    Reference: Algorithms 14(2):39
    """
    check_choice("metric", metric, METRICS)
    check_positive("alpha", alpha)
    check_choice("pairs", pairs, PAIRS)
    if k is not None:
        check_positive_integer("k", k)
    if k is not None and mask is not None:
        raise ValueError(
            "Arguments `k` and `mask` exclude each other. Expected at most one of them. "
            f"Received: k={k} and a mask. Pass `mask` alone to reuse the edges of another graph."
        )
    x = flatten_representation(x)
    adjacency = without_loops(similarities(x, metric, alpha, None))
    if normalize:
        adjacency = normalized_degrees(adjacency)
    if pairs != "all":
        found = labels_of_pairs(pairs, labels, x, ignore_class=ignore_class)
        adjacency = class_pairs(adjacency, pairs, found)
    if k is not None:
        adjacency = nearest_neighbours(adjacency, k)
    adjacency = adjacency.matrix
    return adjacency if mask is None else ops.where(_edges_to_keep(mask, x), adjacency, 0.0)


def laplacian(adjacency: Tensor, *, normalized: bool = False) -> Tensor:
    """Graph Laplacian of an adjacency matrix.

    Args:
        adjacency: Symmetric tensor ``(n, n)``.
        normalized: ``False``: ``D - A``. ``True``: ``I - D**(-1/2) A D**(-1/2)`` on the nodes
            of positive degree, 0 on isolated ones.

    Returns:
        Symmetric tensor ``(n, n)``.

    Raises:
        ValueError: If ``adjacency`` is not square.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import graphs
        >>> a = np.array([[0, 2], [2, 0]], "float32")
        >>> np.asarray(graphs.laplacian(a)).tolist()
        [[2.0, -2.0], [-2.0, 2.0]]

    Reference: Algorithms 14(2):39
    """
    adjacency = whole(to_adjacency(adjacency))
    if normalized:
        weights, degree = root_degrees(adjacency)
        adjacency = scale_rows_and_columns(adjacency, weights)
    else:
        degree = ops.sum(adjacency.matrix, axis=1)
    return adjacency.map_rows(
        lambda values, others, rows, _: ops.where(others, 0.0, as_column(rows["degree"])) - values,
        degree=degree,
    )


def smoothness(
    adjacency: Tensor, signal: Tensor, *, power: int = 1, normalized: bool = False
) -> Tensor:
    """Smoothness of a signal on a graph, ``trace(S.T @ L**power @ S)``; 0 is smoothest.

    For power 1 and a one-hot label signal it is the total weight of the edges between samples
    of different classes, each unordered pair counted twice.

    Args:
        adjacency: Symmetric tensor ``(n, n)``.
        signal: Tensor ``(n, c)``.
        power: Positive integer, the power of the Laplacian.
        normalized: Which Laplacian, see `laplacian`.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: If ``power`` is not a positive integer or the shapes do not fit.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import graphs
        >>> a = np.array([[0, 2], [2, 0]], "float32")
        >>> float(graphs.smoothness(a, np.eye(2, dtype="float32")))
        4.0

    Reference: Algorithms 14(2):39; arXiv 1805.10133 for the power.
    """
    check_positive_integer("power", power)
    adjacency = to_adjacency(adjacency)
    signal = ops.cast(as_tensor("signal", signal, "a tensor of shape (n, c)"), adjacency.dtype)
    if len(signal.shape) != 2:
        raise invalid("signal", "a tensor of shape (n, c)", f"shape {tuple(signal.shape)}")
    check_same_length(signal=signal, adjacency=adjacency)
    return pair_smoothness(whole(adjacency), signal, power=power, normalized=normalized)


def label_smoothness(
    x: Tensor,
    labels: Tensor,
    *,
    power: int = 1,
    k: int | None = None,
    num_classes: int | None = None,
    ignore_class: int | None = None,
    continuous: bool = False,
    relative: bool = False,
    block_size: int | None = None,
) -> Tensor:
    """Smoothness of the class labels on the cosine graph of a batch, without degree normalisation.

    Where the number of classes is known (from ``num_classes``, or from one-hot labels) and
    ``k`` is ``None``, a batch of more than some 8 samples a class is summed without looking at
    pairs: time and memory are linear in n. Otherwise the pairs of a large batch are taken in
    blocks of rows. The value is the same.

    Args:
        x: Representations, shape ``(n, ...)``.
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot, soft or multi-hot ``(n, c)``; a
            multi-hot row is scaled to length 1, so that two samples differ by the cosine of
            their labels.
        power: Positive integer, the power of the Laplacian.
        k: Number of nearest neighbours to keep, or ``None`` for the full graph.
        num_classes: Number of classes of integer labels; ``None`` looks at all pairs.
        ignore_class: Class number of samples without a label, such as -1; of ``(n, c)``, rows of
            zeros have none. The value is that of the batch without these samples.
        continuous: ``True`` takes ``labels`` for a continuous target ``(n,)`` or ``(n, m)``, the
            signal itself. The value grows with its square: scale the target to a variance of 1.
        relative: ``True`` takes the normalised Laplacian and divides by n. On non-negative
            features the result then lies in ``[0, 2**power]`` at any batch size.
        block_size: Rows of the similarities that are in memory at a time, where pairs are
            looked at; ``None`` takes all up to n = 2048 and 4 million entries beyond.

    Returns:
        Scalar tensor, float32 or float64.

    Raises:
        ValueError: If an option is invalid, the labels are not of the forms above or lie
            outside ``[0, num_classes)``. Where labels are only known inside a compiled
            function, such a label makes the result NaN; ``fit`` of a model with penalties looks at
            its labels first.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import graphs
        >>> x = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], "float32")
        >>> float(graphs.label_smoothness(x, np.array([0, 0, 1]), num_classes=2))
        0.0
        >>> float(graphs.label_smoothness(x, np.array([0, 1, 1]), num_classes=2))
        2.0

    Reference: Algorithms 14(2):39; arXiv 1805.10133.
    """
    x = flatten_representation(x)
    labels = read_label_signal(
        labels, x, num_classes=num_classes, ignore_class=ignore_class, continuous=continuous
    )
    signal = label_signal(labels, dtype=x.dtype)
    return smoothness_of_labels(
        x, labels, signal, power=power, k=k, relative=relative, block_size=block_size
    )


def pairwise_distances(x: Tensor) -> Tensor:
    """Euclidean distance of every pair of samples.

    Args:
        x: Representations, shape ``(n, ...)``.

    Returns:
        Symmetric tensor ``(n, n)`` with a zero diagonal. Distances below the rounding of the
        Gram matrix (in float32 about 2e-3 of the norms, centred) are 0, with gradient 0.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import graphs
        >>> d = graphs.pairwise_distances(np.array([[0.0, 0.0], [3.0, 4.0]], "float32"))
        >>> np.round(np.asarray(d), 4).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    squares, scale = squared_distances(flatten_representation(x), None)
    return scale * safe_sqrt(squares.matrix)


def smoothness_of_labels(x, labels, signal, *, power, k, relative, block_size, total=alone):
    """`label_smoothness` of `Labels` and of their signal, which several layers of a batch share.

    With a ``total`` (see `alone`) it takes the linear form.
    """
    check_positive_integer("power", power)
    if k is not None:
        check_positive_integer("k", k)
    x = labels.where_counted(x)  # zero rows are isolated nodes
    counted = labels.num_classes is not None

    n = ops.shape(x)[0]
    if total is not alone:  # a trace of its own could not reach the other replicas
        value = _linear_smoothness(x, signal, power=power, normalized=relative, total=total)
        return value / labels.count(n, x.dtype, total) if relative else value
    block = rows_of_block(n, block_size)
    # Each product with the thin signal costs about as much as 8 samples in a Gram matrix do for
    # each of its columns (measured; TensorFlow and JAX on a CPU).
    products = (power + 1) // 2 + relative
    small = isinstance(n, int) and n <= 8 * products * (signal.shape[1] + 1)
    linear = k is None and counted and not small
    if block is not None and not counted:  # the signal would have n columns
        raise _uncounted(n, block_size)
    options = {"power": power, "normalized": relative}
    if k is None:
        options |= {"linear": linear, "block": None if linear else block}
        value = traced_once(_full_smoothness, x, signal, any_width=linear, **options)
    else:
        adjacency = nearest_neighbours(cosine_graph(x, block), k, labels)
        value = pair_smoothness(adjacency, signal, **options)
    return value / labels.count(n, x.dtype) if relative else value


def read_label_signal(labels, x, *, num_classes, ignore_class, continuous):
    """The `Labels` of a signal, of which some options exclude others."""
    if continuous and (num_classes, ignore_class) != (None, None):
        raise ValueError(
            "Argument `continuous` excludes options of classes. Expected neither `num_classes` nor "
            f"`ignore_class` with continuous=True. Received: num_classes={num_classes}, "
            f"ignore_class={ignore_class}. Drop them."
        )
    return read_labels(
        labels, x, num_classes=num_classes, ignore_class=ignore_class, continuous=continuous
    )


def to_adjacency(adjacency, argument="adjacency"):
    """Float tensor of a square matrix: the way of adjacencies through the gate."""
    expected = "a square matrix of shape (n, n)"
    adjacency = to_float(as_tensor(argument, adjacency, expected))
    shape = tuple(adjacency.shape)
    if len(shape) != 2 or (None not in shape and shape[0] != shape[1]):
        raise invalid(argument, expected, f"shape {shape}")
    check_not_empty(argument, shape, expected)
    return adjacency


def _edges_to_keep(mask, x):
    expected = "a boolean mask of shape (n, n)"
    mask = as_tensor("mask", mask, expected)
    if len(mask.shape) != 2 or mask.shape[0] != mask.shape[1]:
        raise invalid("mask", expected, f"shape {tuple(mask.shape)}")
    check_same_length(mask=mask, x=x)
    return ops.cast(mask, "bool")


def labels_of_pairs(pairs, labels, x, **options):
    """The `Labels` that ``pairs="intra"`` and ``"inter"`` need, or raise; see `read_labels`."""
    if labels is None:
        raise ValueError(
            "Argument `labels` is missing. Expected the class labels of the batch, since "
            f"pairs={pairs!r} keeps edges by class. Received: labels=None. "
            "Pass labels=..., or pairs='all'."
        )
    return read_labels(labels, x, **options)


def _uncounted(n, block_size):
    """The error for integer labels of unknown count in a batch that is looked at in blocks."""
    return ValueError(
        "Argument `num_classes` is missing. Expected the number of classes, since the batch "
        "is looked at in blocks and its labels are integers. Received: num_classes=None, "
        f"block_size={block_size}, {n} samples. Pass num_classes=..., or one-hot labels."
    )


def _full_smoothness(x, signal, *, power, normalized, linear, block):
    """`smoothness` of the full cosine graph of x."""
    if linear:
        return _linear_smoothness(x, signal, power=power, normalized=normalized)
    adjacency = cosine_graph(x, block)
    return pair_smoothness(adjacency, signal, power=power, normalized=normalized)


def _linear_smoothness(x, signal, *, power, normalized, total=alone):
    """`smoothness` of the full cosine graph of x, a rank-d object, with no (n, n) matrix."""
    if not normalized:  # the self loops cancel
        return total(laplacian_form(lambda z: cosine_product(x, z, total), signal, power=power))
    degree, magnitude, loops = cosine_degrees(x, total)
    connected = connected_nodes(degree, magnitude)
    weights = as_column(inverse_sqrt_degree(degree, connected))
    diagonal = as_column(ops.cast(connected, x.dtype)) + as_column(loops) * ops.square(weights)
    return total(
        quadratic_form(
            lambda z: diagonal * z - weights * cosine_product(x, weights * z, total),
            signal,
            power=power,
        )
    )
