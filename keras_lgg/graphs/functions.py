"""The public functions on graphs, which `keras_lgg.graphs` shows."""

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
from keras_lgg.graphs.labels import label_signal, labels_of_pairs, read_label_signal
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
    r"""Similarity of every pair of samples, self-similarities included.

    .. math::

        S_{ij} = \frac{x_i^\top x_j}{\lVert x_i \rVert \, \lVert x_j \rVert}, \qquad
        S_{ij} = e^{-\alpha \lVert x_i - x_j \rVert^2} \qquad \text{or} \qquad
        S_{ij} = e^{-\alpha \lVert x_i - x_j \rVert}

    for the metrics ``"cosine"``, ``"rbf"`` and ``"exponential"``, where :math:`x_i` is the
    flattened representation of sample i.

    Args:
        x: Representations, shape ``(n, ...)``.
        metric: ``"cosine"`` (0 for a zero row), ``"rbf"`` or ``"exponential"``.
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

    Reference: Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space Geometries
    with Graphs", Algorithms 14(2):39, 2021.
    """
    check_choice("metric", metric, METRICS)
    check_positive("alpha", alpha)
    return similarities(flatten_representation(x), metric, alpha, None).matrix


def knn_mask(adjacency: Tensor, *, k: int) -> Tensor:
    r"""Which edges join a node to one of its k nearest neighbours, in either direction.

    .. math::

        M_{ij} = \text{true} \iff i \neq j \ \text{and} \ (j \in N_k(i) \ \text{or} \ i \in N_k(j))

    where :math:`N_k(i)` are the nodes of the k largest weights in row i, i itself excluded. Weights
    that tie with the k-th, to rounding, are kept too, so the mask follows any permutation of the
    batch.

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

    Reference: Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space Geometries
    with Graphs", Algorithms 14(2):39, 2021.
    """
    check_positive_integer("k", k)
    adjacency = whole(ops.stop_gradient(to_adjacency(adjacency)))
    weakest = weakest_neighbours(adjacency, k)
    return adjacency.map_rows(nearest, weakest=weakest)


def normalize_degrees(adjacency: Tensor) -> Tensor:
    r"""Symmetric degree normalisation of an adjacency matrix.

    .. math::

        D^{-1/2} A \, D^{-1/2}, \qquad D_{ii} = \sum_j A_{ij}

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

    Reference: Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space Geometries
    with Graphs", Algorithms 14(2):39, 2021.
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
    r"""The latent geometry graph (LGG) of a batch, as a weighted adjacency matrix.

    .. math::

        A = M \odot C \odot \bigl(D^{-1/2} S \, D^{-1/2}\bigr), \qquad S_{ii} = 0

    The steps, in this order: the similarities :math:`S`, no self loops, degree normalisation (see
    `normalize_degrees`), the mask :math:`C` of the pairs of classes, and the mask :math:`M` of the
    k nearest neighbours (see `knn_mask`), found on what the steps before leave.

    Args:
        x: Representations, shape ``(n, ...)``.
        metric: How samples are compared: ``"cosine"``, ``"rbf"`` or ``"exponential"``, see
            `similarity`.
        alpha: Positive number, the inverse length scale of the last two metrics.
        k: Number of nearest neighbours to keep, or ``None`` for all.
        normalize: Whether to normalise the degrees.
        pairs: Which edges to keep: ``"all"``, ``"intra"`` (within a class) or ``"inter"`` (between
            classes).
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot, soft or multi-hot ``(n, c)``. In rows,
            the largest entries count: two samples that share one are of the same class. Needed
            unless ``pairs="all"``.
        ignore_class: Class number that marks samples without a label, such as -1; they have no
            edge where ``pairs`` is not ``"all"``. ``None``: every sample has a label.
        mask: Boolean ``(n, n)``, the edges to keep, instead of ``k``. With the `knn_mask` of one
            graph, another graph can be compared on the same edges.

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

    Reference: Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space Geometries
    with Graphs", Algorithms 14(2):39, 2021.
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
    r"""Graph Laplacian of an adjacency matrix.

    .. math::

        L = D - A \qquad \text{or} \qquad L = I - D^{-1/2} A \, D^{-1/2}, \qquad
        D_{ii} = \sum_j A_{ij}

    Args:
        adjacency: Symmetric tensor ``(n, n)``.
        normalized: ``False`` gives the first form, ``True`` the second, which is 0 in the rows and
            columns of isolated nodes (those whose degree is not positive).

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

    Reference: Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space Geometries
    with Graphs", Algorithms 14(2):39, 2021.
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
    r"""Smoothness of a signal on a graph; 0 is smoothest.

    .. math::

        \sigma_p = \operatorname{tr}\bigl(S^\top L^p \, S\bigr)

    :math:`S` is the signal, :math:`L` the `laplacian` of the graph and :math:`p` its ``power``. For
    p = 1, ``normalized=False`` and a one-hot label signal, it is the total weight of the edges
    between samples of different classes, each unordered pair counted twice.

    Args:
        adjacency: Symmetric tensor ``(n, n)``.
        signal: Tensor ``(n, c)``.
        power: Positive integer p, the power of the Laplacian.
        normalized: Whether to take the normalised Laplacian instead of ``D - A``.

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

    Reference: Lassance, Gripon, Ortega, "Laplacian networks: bounding indicator function smoothness
    for neural network robustness", 2018, https://arxiv.org/abs/1805.10133.
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
    r"""Smoothness of the class labels on the cosine graph of a batch, without degree normalisation.

    .. math::

        \sigma_p = \operatorname{tr}\bigl(Y^\top L^p \, Y\bigr)

    :math:`Y` is the label signal (one-hot rows, for class numbers), :math:`L = D - A` the Laplacian
    of the graph of the cosine similarities without self loops, and :math:`p` is ``power``.

    If the number of classes is known (from ``num_classes``, or from one-hot labels) and ``k`` is
    ``None``, a batch of more than about 8 samples per class is summed without comparing pairs, in
    time and memory linear in n. Otherwise the pairs of a large batch are compared in blocks of
    rows. The value is the same.

    Args:
        x: Representations, shape ``(n, ...)``.
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot, soft or multi-hot ``(n, c)``; a
            multi-hot row is scaled to length 1, so that the product of two labels is their cosine.
        power: Positive integer p, the power of the Laplacian.
        k: Number of nearest neighbours to keep, or ``None`` for the full graph.
        num_classes: Number of classes of integer labels; ``None`` compares all pairs.
        ignore_class: Class number that marks samples without a label, such as -1; of ``(n, c)``,
            rows of zeros have none. The value is that of the batch without these samples.
        continuous: ``True`` if the labels are a continuous target ``(n,)`` or ``(n, m)``, which is
            then the signal itself. The value grows with its square: scale it to a variance of 1.
        relative: ``True`` takes the normalised Laplacian and divides by the number of labelled
            samples. With non-negative features, the value of class labels then lies in
            ``[0, 2**power]`` at any batch size.
        block_size: Number of rows of the similarities that are in memory at a time, where pairs are
            compared; ``None`` takes all up to n = 2048, and 4 million entries at a time beyond.

    Returns:
        Scalar tensor, float32 or float64.

    Raises:
        ValueError: If an option is invalid, or labels do not have one of the forms above or lie
            outside ``[0, num_classes)``. Inside a compiled function, where values are unknown, such
            a label makes the result NaN; ``fit`` of a model with penalties checks its labels first.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import graphs
        >>> x = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], "float32")
        >>> float(graphs.label_smoothness(x, np.array([0, 0, 1]), num_classes=2))
        0.0
        >>> float(graphs.label_smoothness(x, np.array([0, 1, 1]), num_classes=2))
        2.0

    Reference: Lassance, Gripon, Ortega, "Laplacian networks: bounding indicator function smoothness
    for neural network robustness", 2018, https://arxiv.org/abs/1805.10133.
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
    r"""Euclidean distance :math:`\lVert x_i - x_j \rVert_2` of every pair of samples.

    Args:
        x: Representations, shape ``(n, ...)``.

    Returns:
        Symmetric tensor ``(n, n)`` with a zero diagonal. Distances below the rounding error of the
        Gram matrix (in float32 about 2e-3 of the norms of the centred rows) are 0, with gradient 0.

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
    """`label_smoothness` from `Labels` and their signal, which several layers of a batch share.

    With a ``total`` other than `alone`, it takes the linear form.
    """
    check_positive_integer("power", power)
    if k is not None:
        check_positive_integer("k", k)
    x = labels.where_counted(x)  # zero rows are isolated nodes
    counted = labels.num_classes is not None

    n = ops.shape(x)[0]
    if total is not alone:  # a separate trace could not reach the other replicas
        value = _linear_smoothness(x, signal, power=power, normalized=relative, total=total)
        return value / labels.count(n, x.dtype, total) if relative else value
    block = rows_of_block(n, block_size)
    # Each product with the thin signal costs, per column, about as much as 8 samples do in a Gram
    # matrix (measured; TensorFlow and JAX on a CPU).
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


def to_adjacency(adjacency, argument="adjacency"):
    """A square matrix as a float tensor, checked."""
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


def _uncounted(n, block_size):
    """The error for integer labels of unknown count in a batch that is compared in blocks."""
    return ValueError(
        "Argument `num_classes` is missing. Expected the number of classes, since the batch "
        "is compared in blocks and its labels are integers. Received: num_classes=None, "
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
