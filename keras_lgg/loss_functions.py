"""Losses on latent geometry graphs, as pure functions; public through `keras_lgg.losses`.

The numbers of the references are those of `keras_lgg.losses`.
"""

import itertools

import numpy as np
from keras import ops

from keras_lgg import checks, graphs
from keras_lgg.labels import known_values, label_kernel, label_signal

FORMS = ("labels", "graph")


def graph_distillation(teacher, student, *, k=None, power=1, pairs="all", labels=None):
    """Graph knowledge distillation (GKD): the student's graph against the teacher's.

    Row sums of ``(A_student**power - A_teacher**power)**2``, with degree-normalised cosine
    graphs. The published loss is their **sum**. No gradient reaches the teacher.

    Args:
        teacher: Teacher representations, shape ``(n, ...)``.
        student: Student representations, shape ``(n, ...)``, of any width.
        k: Keep the k nearest neighbours of the *teacher's* graph in both, or ``None`` for all.
        power: Positive integer, the matrix power (diffusion steps) of both graphs.
        pairs: ``"all"``, ``"intra"`` or ``"inter"``, see `graphs.latent_geometry_graph`.
        labels: Class labels, needed where ``pairs`` is not ``"all"``.

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

    Reference: [1], [2].
    """
    checks.check_positive_integer("power", power)
    checks.check_same_length(teacher=teacher, student=student)
    teacher = ops.stop_gradient(graphs.flatten_representation(teacher))
    target = graphs.latent_geometry_graph(teacher, pairs=pairs, labels=labels)
    mask = None
    if k is not None:
        mask = graphs.knn_mask(target, k=k)
        target = ops.where(mask, target, 0.0)
    learned = graphs.latent_geometry_graph(student, pairs=pairs, labels=labels, mask=mask)
    difference = _subtract(_matrix_power(learned, power), _matrix_power(target, power))
    return ops.sum(ops.square(difference), axis=1)


def relational_distance(teacher, student):
    """Relational knowledge distillation of distances (RKD-D).

    Euclidean distances, divided by their mean over ``i != j``, compared by the Huber loss of
    delta 1; row means over ``j != i``. The published loss is their **mean**. No gradient
    reaches the teacher.

    Args:
        teacher: Teacher representations, shape ``(n, ...)``.
        student: Student representations, shape ``(n, ...)``, of any width.

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

    Reference: [5].
    """
    checks.check_same_length(teacher=teacher, student=student)
    teacher = ops.stop_gradient(_relative_distances(teacher))
    student = _relative_distances(student)
    values = _huber(_subtract(student, teacher))
    others = ops.maximum(ops.shape(values)[0] - 1, 1)
    return ops.sum(values, axis=1) / ops.cast(others, values.dtype)


def relational_angle(teacher, student, *, arms=128):
    """Relational knowledge distillation of angles (RKD-A).

    The cosines of the angles at sample j between the directions to samples i and k, compared by
    the Huber loss of delta 1; means over the ordered pairs (i, k), all three distinct. The
    published loss is their **mean**. No gradient reaches the teacher.

    Time and memory are ``n * min(n, arms)**2``. In a batch larger than ``arms``, i and k run
    over its first ``arms`` samples: an unbiased estimate where the batch is shuffled.

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

    Reference: [5].
    """
    checks.check_positive_integer("arms", arms)
    if arms < 2:
        raise checks.invalid("arms", "an integer of at least 2, the two arms of an angle", arms)
    checks.check_same_length(teacher=teacher, student=student)
    teacher = ops.stop_gradient(_angle_cosines(teacher, arms))
    student = _angle_cosines(student, arms)
    values = _huber(_subtract(student, teacher))
    distinct = ops.cast(_distinct_triplets(values), values.dtype)
    count = ops.maximum(ops.sum(distinct, axis=(1, 2)), 1.0)
    return ops.sum(values * distinct, axis=(1, 2)) / count


def graph_smoothness(labels, embeddings, *, alpha=1.0, k=None):
    """Graph smoothness loss (GSL): pushes samples of different classes apart, and nothing else.

    Row sums of ``exp(-alpha * ||z_i - z_j||)`` over the samples j of another class (for soft
    labels each pair counts ``||y_i - y_j||**2 / 2``). The published loss is their **sum**.
    Embeddings need a bounded scale, or the loss is won by growing it: end the network in a
    BatchNormalization without scale and centre, or in a UnitNormalization.

    Args:
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)``.
        embeddings: Shape ``(n, ...)``, of any width.
        alpha: Positive number, the inverse length scale.
        k: Count only the pairs of the k-nearest-neighbour graph, or ``None`` for all.

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

    Reference: [1], [3].
    """
    embeddings = graphs.flatten_representation(embeddings)
    checks.check_same_length(labels=labels, embeddings=embeddings)
    adjacency = graphs.latent_geometry_graph(
        embeddings, metric="exponential", alpha=alpha, k=k, normalize=False
    )
    kernel = ops.cast(label_kernel(labels), adjacency.dtype)
    norms = ops.sum(ops.where(graphs.off_diagonal(kernel), 0.0, kernel), axis=1)
    apart = 0.5 * (norms[:, None] + norms[None, :]) - kernel
    return ops.sum(adjacency * apart, axis=1)


def target_graph(target, embeddings, *, form="labels", affinity=None, metric="cosine", alpha=1.0):
    """Draws the similarity graph of the embeddings towards a graph that you choose.

    Row sums of ``(S - T)**2`` off the diagonal, with the similarity S of the embeddings. The
    loss is their **sum**.

    Args:
        target: With ``form="labels"``: integers ``(n,)`` or ``(n, 1)``, or one-hot or soft
            ``(n, c)``, which make ``T = Y C Y.T``. With ``form="graph"``: T itself, ``(n, n)``.
        embeddings: Shape ``(n, ...)``, of any width.
        form: ``"labels"`` or ``"graph"``, what ``target`` is.
        affinity: The similarities C wanted between the classes, symmetric ``(c, c)``, for
            instance of a hierarchy; ``None`` is the identity. Only with ``form="labels"``.
        metric: See `graphs.similarity`.
        alpha: See `graphs.similarity`.

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

    Reference: [1], with the target as an argument.
    """
    checks.check_choice("form", form, FORMS)
    embeddings = graphs.flatten_representation(embeddings)
    checks.check_same_length(target=target, embeddings=embeddings)
    if form == "graph":
        if affinity is not None:
            raise ValueError(
                "Argument `affinity` has no meaning with form='graph'. Expected None, since "
                "`target` is the whole graph. Received: an affinity. Drop it, or pass class "
                "labels with form='labels'."
            )
        wanted = graphs.to_adjacency(target)
    elif affinity is None:
        _check_not_a_graph(target)
        wanted = label_kernel(target)
    else:
        affinity = check_affinity(affinity)
        signal = label_signal(target, num_classes=len(affinity), dtype=embeddings.dtype)
        affinity = ops.convert_to_tensor(affinity, dtype=signal.dtype)
        wanted = ops.matmul(ops.matmul(signal, affinity), ops.transpose(signal))
    found = graphs.similarity(embeddings, metric=metric, alpha=alpha)
    difference = ops.square(_subtract(found, wanted))
    return ops.sum(ops.where(graphs.off_diagonal(difference), difference, 0.0), axis=1)


def smoothness_variation(
    representations, labels, *, power=1, k=None, num_classes=None, relative=False
):
    """How much the smoothness of the labels changes from layer to layer.

    The mean over consecutive layers of ``|sigma_(l+1) - sigma_l|``, where sigma is
    `graphs.label_smoothness`. The raw value grows like ``n**(power + 1)``, so its weight
    depends on the batch size; with ``relative=True`` the same weight serves any batch.

    Args:
        representations: List of at least two representations of one batch, ``(n, ...)`` each.
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)``.
        power: Positive integer, the power of the Laplacian.
        k: Number of nearest neighbours to keep, or ``None`` for the full graphs.
        num_classes: Number of classes of integer labels: lets the linear form be taken.
        relative: Whether to take the normalised Laplacian and divide by n.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: If there are fewer than two representations, or as `label_smoothness` does.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> layers = [np.ones((4, 2), "float32"), np.repeat(np.eye(2, dtype="float32"), 2, 0)]
        >>> round(float(losses.smoothness_variation(layers, np.array([0, 0, 1, 1]))), 4)
        8.0

    Reference: [1], [4].
    """
    _check_depth(representations)
    values = [
        graphs.label_smoothness(
            x, labels, power=power, k=k, num_classes=num_classes, relative=relative
        )
        for x in representations
    ]
    return mean([ops.abs(_subtract(b, a)) for a, b in itertools.pairwise(values)])


def graph_variation(representations, *, k=None):
    """How much the graph itself changes from layer to layer; needs no labels.

    The mean over consecutive layers of ``||A_(l+1) - A_l||_F**2``, with degree-normalised
    cosine graphs.

    Args:
        representations: List of at least two representations of one batch, ``(n, ...)`` each.
        k: Number of nearest neighbours to keep in each graph, or ``None`` for all.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: If there are fewer than two representations, or ``k`` is invalid.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> x = np.random.default_rng(0).random((4, 3)).astype("float32")
        >>> float(losses.graph_variation([x, x]))
        0.0

    Reference: the label-free form of [1]
    """
    _check_depth(representations)
    adjacencies = [graphs.latent_geometry_graph(x, k=k) for x in representations]
    return mean([ops.sum(ops.square(_subtract(b, a))) for a, b in itertools.pairwise(adjacencies)])


# Building blocks, shared with `keras_lgg.losses`.


def mean(values):
    """Mean of a list of tensors."""
    return sum(values) / len(values)


def _subtract(a, b):
    """a - b in the wider of the two dtypes; "float64" is also the larger string."""
    dtype = max(ops.dtype(a), ops.dtype(b))
    return ops.cast(a, dtype) - ops.cast(b, dtype)


def _matrix_power(matrix, power):
    result = matrix
    for _ in range(power - 1):
        result = ops.matmul(result, matrix)
    return result


def _huber(difference):
    size = ops.abs(difference)
    return ops.where(size < 1.0, 0.5 * ops.square(difference), size - 0.5)


def _relative_distances(x):
    """Pairwise distances divided by their mean over ``i != j``; 0 where all samples coincide."""
    squares, _ = graphs.scaled_squared_distances(graphs.flatten_representation(x))
    distances = graphs.safe_sqrt(squares)
    n = ops.cast(ops.shape(distances)[0], distances.dtype)
    mean = ops.sum(distances) / ops.maximum(n * (n - 1.0), 1.0)
    return distances / ops.where(ops.equal(mean, 0.0), ops.ones_like(mean), mean)


def _angle_cosines(x, arms):
    """Cosines (n, m, m) of the angles at sample j between samples i and k, m = min(n, arms)."""
    x = graphs.flatten_representation(x)
    squares, _ = graphs.scaled_squared_distances(x)
    squares = squares[:, :arms]
    near = ops.equal(squares, 0.0)
    inverse = ops.where(near, 0.0, ops.rsqrt(ops.where(near, 1.0, squares)))
    # By the law of cosines, (x_i - x_j).(x_k - x_j) from the three squared distances.
    products = 0.5 * (squares[:, :, None] + squares[:, None, :] - squares[None, :arms, :])
    return products * inverse[:, :, None] * inverse[:, None, :]


def _distinct_triplets(cosines):
    """Boolean (n, m, m), true where j, i and k are three samples."""
    vertex = ops.arange(ops.shape(cosines)[0])[:, None, None]
    arm = ops.arange(ops.shape(cosines)[1])
    first, second = arm[None, :, None], arm[None, None, :]
    return ops.logical_and(
        ops.not_equal(first, second),
        ops.logical_and(ops.not_equal(vertex, first), ops.not_equal(vertex, second)),
    )


def _check_not_a_graph(target):
    """Raise where an (n, n) graph was passed as if it were soft labels of n classes."""
    shape = tuple(target.shape)
    values = known_values(target) if len(set(shape)) == 1 < len(shape) else None
    if values is not None and not np.allclose(values.sum(axis=1), 1.0, atol=1e-3):
        raise ValueError(
            "Argument `target` does not look like labels. Expected one-hot or soft labels, whose "
            f"rows sum to 1, with form='labels'. Received: a matrix of shape {shape} with row "
            f"sums from {values.sum(axis=1).min():.3g} to {values.sum(axis=1).max():.3g}. "
            "If it is the wanted graph itself, pass form='graph'."
        )


def check_affinity(affinity):
    """Return the similarities of classes as a NumPy array, or raise."""
    matrix = np.asarray(affinity, "float64")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise checks.invalid("affinity", "a square matrix (c, c)", f"shape {matrix.shape}")
    if not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T):
        raise checks.invalid("affinity", "a finite symmetric matrix", matrix.tolist())
    return matrix


def _check_depth(representations):
    if not isinstance(representations, list | tuple) or len(representations) < 2:
        received = (
            f"{len(representations)} of them"
            if isinstance(representations, list | tuple)
            else type(representations).__name__
        )
        raise checks.invalid(
            "representations",
            "a list of at least two representations, of consecutive layers",
            received,
        )
    for x in representations[1:]:
        checks.check_same_length(**{"representations[0]": representations[0], "another": x})
