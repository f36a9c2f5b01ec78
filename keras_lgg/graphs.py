"""Latent geometry graphs: how similar the samples of a batch look to one layer.

Every function takes the representations of one batch, of shape ``(n, ...)``, and flattens them
to ``(n, d)``. Arithmetic runs in float32 at least (float16, bfloat16 and integers are cast up)
and stays in float64 where the input is float64. Values and gradients are finite for zero rows,
duplicates, isolated nodes and a batch of one; a NaN in the input stays visible in the output.

References:
    Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space Geometries with
    Graphs", Algorithms 14(2):39, 2021, https://arxiv.org/abs/2011.07343
"""

import math

import keras
import numpy as np
from keras import ops

from keras_lgg.checks import (
    check_choice,
    check_positive,
    check_positive_integer,
    check_same_length,
    invalid,
)
from keras_lgg.labels import are_class_indices, class_indices, label_kernel, label_signal

METRICS = ("cosine", "rbf", "exponential")
PAIRS = ("all", "intra", "inter")

# Rows shorter than this are scaled by 1 / EPSILON in place of 1 / norm, so that the gradient of
# a dead row stays bounded.
EPSILON = 1e-12


def similarity(x, *, metric="cosine", alpha=1.0):
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
    x = flatten_representation(x)
    if metric == "cosine":
        x = unit_rows(x)
        return ops.matmul(x, ops.transpose(x))
    squares, scale = scaled_squared_distances(x)
    if metric == "exponential":
        return ops.exp(-alpha * scale * safe_sqrt(squares))
    # Beyond 1e30 every distance that is not 0 gives exp(-inf) anyway; the bound keeps
    # scale**2 from overflowing to inf, and inf times a distance of 0 from being NaN.
    factor = math.sqrt(alpha) * ops.minimum(scale, 1e15 / math.sqrt(alpha))
    return ops.exp(-factor * factor * squares)


def knn_mask(adjacency, *, k):
    """Which edges join a node to one of its k nearest neighbours, in either direction.

    Edge (i, j) is kept where j is among the k largest weights of row i, or i among those of
    row j. A node is never its own neighbour, whatever the diagonal holds. Weights that tie with
    the k-th are kept too, so the mask follows any permutation of the batch.

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
    adjacency = ops.stop_gradient(to_adjacency(adjacency))
    n = ops.shape(adjacency)[0]
    others = off_diagonal(adjacency)
    rivals = ops.where(others, adjacency, -np.inf)
    # min and max serve a static n; a batch size that is only known at run time needs the ops.
    count = max(1, min(k, n - 1)) if isinstance(n, int) else ops.clip(n - 1, 1, k)
    threshold = ops.top_k(rivals, count)[0][:, -1:]
    # "not below" in place of "at least": a NaN weight is kept, and stays visible.
    near = ops.logical_not(ops.less(rivals, threshold))
    return ops.logical_and(ops.logical_or(near, ops.transpose(near)), others)


def normalize_degrees(adjacency):
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
    return normalize_and_connected(to_adjacency(adjacency))[0]


def latent_geometry_graph(
    x, *, metric="cosine", alpha=1.0, k=None, normalize=True, pairs="all", labels=None, mask=None
):
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
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)`` of which the
            largest entry counts. Needed where ``pairs`` is not ``"all"``.
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
    check_choice("pairs", pairs, PAIRS)
    if k is not None:
        check_positive_integer("k", k)
    if k is not None and mask is not None:
        raise ValueError(
            "Arguments `k` and `mask` exclude each other. Expected at most one of them. "
            f"Received: k={k} and a mask. Pass `mask` alone to reuse the edges of another graph."
        )
    if pairs != "all" and labels is None:
        raise ValueError(
            "Argument `labels` is missing. Expected the class labels of the batch, since "
            f"pairs={pairs!r} keeps edges by class. Received: labels=None. "
            "Pass labels=..., or pairs='all'."
        )
    x = flatten_representation(x)
    adjacency = similarity(x, metric=metric, alpha=alpha)
    others = off_diagonal(adjacency)
    adjacency = ops.where(others, adjacency, 0.0)
    if normalize:
        adjacency = normalize_degrees(adjacency)
    if pairs != "all":
        check_same_length(labels=labels, x=x)
        same = ops.equal(label_kernel(class_indices(labels)), 1.0)
        adjacency = ops.where(same if pairs == "intra" else ops.logical_not(same), adjacency, 0.0)
    if k is not None:
        mask = knn_mask(adjacency, k=k)
    if mask is not None:
        adjacency = ops.where(mask, adjacency, 0.0)
    return adjacency


def laplacian(adjacency, *, normalized=False):
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
    adjacency = to_adjacency(adjacency)
    diagonal = ops.logical_not(off_diagonal(adjacency))
    if normalized:
        adjacency, degree = normalize_and_connected(adjacency)
    else:
        degree = ops.sum(adjacency, axis=1)
    return ops.where(diagonal, degree[:, None], 0.0) - adjacency


def smoothness(adjacency, signal, *, power=1, normalized=False):
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
    signal = ops.cast(signal, adjacency.dtype)
    if len(signal.shape) != 2:
        raise invalid("signal", "a tensor of shape (n, c)", f"shape {tuple(signal.shape)}")
    check_same_length(signal=signal, adjacency=adjacency)
    if normalized:
        adjacency, degree = normalize_and_connected(adjacency)
    else:
        degree = ops.sum(adjacency, axis=1)
    return quadratic_form(
        lambda z: degree[:, None] * z - ops.matmul(adjacency, z), signal, power=power
    )


def label_smoothness(x, labels, *, power=1, k=None, num_classes=None, relative=False):
    """Smoothness of the class labels on the cosine graph of a batch, without degree normalisation.

    Where the number of classes is known (from ``num_classes``, or from one-hot labels) and
    ``k`` is ``None``, no ``(n, n)`` matrix is formed: time and memory are linear in n. The
    value is the same.

    Args:
        x: Representations, shape ``(n, ...)``.
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)``.
        power: Positive integer, the power of the Laplacian.
        k: Number of nearest neighbours to keep, or ``None`` for the full graph.
        num_classes: Number of classes of integer labels; ``None`` takes the dense form.
        relative: ``True`` takes the normalised Laplacian and divides by n. On non-negative
            features the result then lies in ``[0, 2**power]`` at any batch size.

    Returns:
        Scalar tensor, float32 or float64.

    Raises:
        ValueError: If an option is invalid, the labels are not of the forms above or lie
            outside ``[0, num_classes)``. Where labels are only known inside a compiled
            function, such a label makes the result NaN.

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
    check_positive_integer("power", power)
    x = flatten_representation(x)
    check_same_length(labels=labels, x=x)
    signal = label_signal(labels, num_classes=num_classes, dtype=x.dtype)
    if k is None and (num_classes is not None or not are_class_indices(labels)):
        value = _linear_smoothness(x, signal, power=power, normalized=relative)
    else:
        adjacency = latent_geometry_graph(x, k=k, normalize=False)
        value = smoothness(adjacency, signal, power=power, normalized=relative)
    return value / ops.cast(ops.shape(x)[0], x.dtype) if relative else value


def pairwise_distances(x):
    """Euclidean distance of every pair of samples.

    Args:
        x: Representations, shape ``(n, ...)``.

    Returns:
        Symmetric tensor ``(n, n)`` with a zero diagonal. Distances below the rounding of the
        Gram matrix (in float32 about 1e-3 of the norms, centred) are 0, with gradient 0.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import graphs
        >>> d = graphs.pairwise_distances(np.array([[0.0, 0.0], [3.0, 4.0]], "float32"))
        >>> np.round(np.asarray(d), 4).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    squares, scale = scaled_squared_distances(flatten_representation(x))
    return scale * safe_sqrt(squares)


# Building blocks, shared with `keras_lgg.losses`.


def to_float(x):
    """Tensor of x in float32, or in float64 where it is that already."""
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype in ("float32", "float64") else ops.cast(x, "float32")


def flatten_representation(x):
    """Representations ``(n, ...)`` as a float tensor ``(n, d)``."""
    x = to_float(x)
    if len(x.shape) == 0:
        raise invalid("x", "representations of shape (n, ...), one row a sample", "a scalar")
    if len(x.shape) == 2:
        return x
    features = x.shape[1:]
    if None in features:
        return ops.reshape(x, (ops.shape(x)[0], -1))
    return ops.reshape(x, (-1, math.prod(features)))


def to_adjacency(adjacency):
    """Float tensor of a square matrix, or raise."""
    adjacency = to_float(adjacency)
    shape = tuple(adjacency.shape)
    if len(shape) != 2 or (None not in shape and shape[0] != shape[1]):
        raise invalid("adjacency", "a square matrix of shape (n, n)", f"shape {shape}")
    return adjacency


def off_diagonal(matrix):
    """Boolean (n, n), true everywhere but on the diagonal."""
    index = ops.arange(ops.shape(matrix)[0])
    return ops.not_equal(index[:, None], index[None, :])


def unit_rows(x):
    """``x_i / max(||x_i||, EPSILON)`` with no overflow and finite gradients everywhere."""
    # Rows are first brought to a largest entry of 1. The result does not depend on that scale,
    # so it needs no gradient.
    largest = ops.max(ops.abs(x), axis=1, keepdims=True)
    x = x / ops.stop_gradient(ops.maximum(largest, 2 * EPSILON))
    squares = ops.sum(ops.square(x), axis=1, keepdims=True)
    # squares >= 1 for every row longer than 2 * EPSILON: the bound acts on shorter ones alone.
    return x * ops.rsqrt(ops.maximum(squares, 0.25))


def scaled_squared_distances(x):
    """``(squares, scale)`` with ``||x_i - x_j||**2 = scale**2 * squares_ij``, from the Gram matrix.

    The scale carries no gradient and keeps the squares from overflowing.
    """
    # Distances do not depend on the centre; a common offset would only cost digits.
    x = x - ops.stop_gradient(ops.mean(x, axis=0, keepdims=True))
    largest = ops.stop_gradient(ops.max(ops.abs(x)))
    scale = ops.where(ops.equal(largest, 0.0), ops.ones_like(largest), largest)
    x = x / scale
    gram = ops.matmul(x, ops.transpose(x))
    others = off_diagonal(gram)
    # Norms from the diagonal of the same product: duplicates then cancel to exactly 0.
    norms = ops.sum(ops.where(others, 0.0, gram), axis=1)
    norms = norms[:, None] + norms[None, :]
    squares = norms - 2.0 * gram
    noise = 4.0 * machine_epsilon(x) * norms
    rounding = ops.logical_or(ops.less_equal(squares, noise), ops.logical_not(others))
    return ops.where(rounding, 0.0, squares), scale


def safe_sqrt(x):
    """Square root with gradient 0 at 0."""
    zero = ops.equal(x, 0.0)
    return ops.where(zero, 0.0, ops.sqrt(ops.where(zero, 1.0, x)))


def machine_epsilon(x):
    """The relative rounding error of the dtype of a tensor."""
    return float(np.finfo(keras.backend.standardize_dtype(x.dtype)).eps)


def connected_nodes(degree, magnitude):
    """Which nodes have a degree above the rounding of its own sum."""
    # The second bound keeps degree**(-3/2), which the gradient needs, from overflowing.
    smallest = np.finfo(keras.backend.standardize_dtype(degree.dtype)).tiny ** (2 / 3)
    bound = ops.maximum(8.0 * machine_epsilon(degree) * magnitude, float(smallest))
    # "not below or equal": a NaN degree is not taken for an isolated node.
    return ops.logical_not(ops.less_equal(degree, bound))


def inverse_sqrt_degree(degree, connected):
    """``degree**(-1/2)``, 0 on isolated nodes, with finite gradients."""
    return ops.where(connected, ops.rsqrt(ops.where(connected, degree, 1.0)), 0.0)


def normalize_and_connected(adjacency):
    """The degree-normalised adjacency, and 1 for connected nodes and 0 for isolated ones."""
    degree = ops.sum(adjacency, axis=1)
    connected = connected_nodes(degree, ops.sum(ops.abs(adjacency), axis=1))
    weights = inverse_sqrt_degree(degree, connected)
    normalized = weights[:, None] * adjacency * weights[None, :]
    return normalized, ops.cast(connected, adjacency.dtype)


def quadratic_form(apply, signal, *, power):
    """``trace(S.T @ L**power @ S)`` for the symmetric operator ``apply(z) = L @ z``."""
    for _ in range(power // 2):
        signal = apply(signal)
    return ops.sum(signal * (apply(signal) if power % 2 else signal))


def _linear_smoothness(x, signal, *, power, normalized):
    """`smoothness` of the full cosine graph of x, a rank-d object, with no (n, n) matrix."""
    x = unit_rows(x)
    loops = ops.sum(ops.square(x), axis=1)
    total = ops.sum(x, axis=0)
    degree = ops.matmul(x, total[:, None])[:, 0] - loops
    if normalized:
        # The degree is a difference: its rounding is that of the larger term.
        connected = connected_nodes(degree, ops.abs(degree) + 2.0 * loops)
        weights = inverse_sqrt_degree(degree, connected)
        x = x * weights[:, None]
        diagonal = ops.cast(connected, x.dtype) + loops * ops.square(weights)
    else:
        diagonal = degree + loops
    return quadratic_form(
        lambda z: diagonal[:, None] * z - ops.matmul(x, ops.matmul(ops.transpose(x), z)),
        signal,
        power=power,
    )
