"""Losses on latent geometry graphs, as pure functions; public through `keras_lgg.losses`.

The numbers of the references are those of `keras_lgg.losses`.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_lgg import checks, graphs
from keras_lgg.graph_differences import (
    compare_factors,
    compare_pairs,
    factored_rank,
    factors_or_pairs,
    full_graph,
    is_accurate,
    squared_difference,
)
from keras_lgg.labels import are_class_indices, known_values, label_signal
from keras_lgg.low_rank import LowRank, row_squares, subtract
from keras_lgg.numerics import flatten_representation, in_one_dtype, safe_sqrt
from keras_lgg.pair_graphs import (
    label_products,
    nearest_neighbours,
    outer_products,
    self_similarities,
    similarities,
    squared_distances,
    without_loops,
)
from keras_lgg.pairs import combine, rows_of_block
from keras_lgg.products import unit_rows
from keras_lgg.types import ArrayLike, Tensor

FORMS = ("labels", "graph")


def graph_distillation(
    teacher: Tensor,
    student: Tensor,
    *,
    k: int | None = None,
    power: int = 1,
    pairs: str = "all",
    labels: Tensor | None = None,
    num_classes: int | None = None,
    block_size: int | None = None,
) -> Tensor:
    """Graph knowledge distillation (GKD): the student's graph against the teacher's.

    Row sums of ``(A_student**power - A_teacher**power)**2``, with degree-normalised cosine
    graphs. The published loss is their **sum**. No gradient reaches the teacher.

    Where ``k`` is ``None`` and a batch of known size is larger than the two widths, the graphs
    are compared in factors, and time and memory are linear in n. The two graphs then cancel in
    sums: where (with ``power=1``) less than 1e4 times the rounding error of the dtype is left of
    what is summed, in float32 a thousandth, the rest could be wrong by 1e-4 of itself, and pairs
    are compared instead.

    Args:
        teacher: Teacher representations, shape ``(n, ...)``.
        student: Student representations, shape ``(n, ...)``, of any width.
        k: Keep the k nearest neighbours of the *teacher's* graph in both, or ``None`` for all.
        power: Positive integer, the matrix power (diffusion steps) of both graphs.
        pairs: ``"all"``, ``"intra"`` or ``"inter"``, see `graphs.latent_geometry_graph`.
        labels: Class labels, needed where ``pairs`` is not ``"all"``.
        num_classes: Number of classes of integer labels: lets pairs of classes, too, be compared
            in factors.
        block_size: Rows of the graphs that are in memory at a time, where pairs are compared;
            ``None`` takes all up to n = 2048 and 4 million entries beyond.

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
    checks.check_choice("pairs", pairs, graphs.PAIRS)
    if k is not None:
        checks.check_positive_integer("k", k)
    checks.check_same_length(teacher=teacher, student=student)
    teacher, student = in_one_dtype(*map(flatten_representation, (teacher, student)))
    teacher = ops.stop_gradient(teacher)
    classes = one_hot = None
    if pairs != "all":
        classes = graphs.classes_of_pairs(pairs, labels, student)
        one_hot = _one_hot(classes, labels, num_classes, student.dtype)
    n = ops.shape(student)[0]
    block = rows_of_block(n, block_size)

    def by_pairs(teacher, student):
        return compare_pairs(
            teacher, student, k=k, power=power, pairs=pairs, classes=classes, block=block
        )

    def in_factors():
        return compare_factors(student, teacher, power=power, pairs=pairs, one_hot=one_hot)

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


def relational_distance(
    teacher: Tensor, student: Tensor, *, block_size: int | None = None
) -> Tensor:
    """Relational knowledge distillation of distances (RKD-D).

    Euclidean distances, divided by their mean over ``i != j``, compared by the Huber loss of
    delta 1; row means over ``j != i``. The published loss is their **mean**. No gradient
    reaches the teacher.

    Args:
        teacher: Teacher representations, shape ``(n, ...)``.
        student: Student representations, shape ``(n, ...)``, of any width.
        block_size: Rows of the matrices over pairs that are in memory at a time; ``None`` takes
            all up to n = 2048, and 4 million entries beyond.

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
    teacher, student = in_one_dtype(*map(flatten_representation, (teacher, student)))
    teacher = ops.stop_gradient(teacher)
    n = ops.shape(student)[0]
    block = rows_of_block(n, block_size)
    distances = [_relative_distances(x, block) for x in (teacher, student)]
    sums = combine(lambda t, s, *_: _huber(s - t), *distances).map_rows(_sums)
    return sums / ops.cast(ops.maximum(n - 1, 1), student.dtype)


def relational_angle(teacher: Tensor, student: Tensor, *, arms: int = 128) -> Tensor:
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
    teacher, student = in_one_dtype(*map(flatten_representation, (teacher, student)))
    teacher = ops.stop_gradient(_angle_cosines(teacher, arms))
    values = _huber(_angle_cosines(student, arms) - teacher)
    distinct = ops.cast(_distinct_triplets(values), values.dtype)
    count = ops.maximum(ops.sum(distinct, axis=(1, 2)), 1.0)
    return ops.sum(values * distinct, axis=(1, 2)) / count


def graph_smoothness(
    labels: Tensor,
    embeddings: Tensor,
    *,
    alpha: float = 1.0,
    k: int | None = None,
    block_size: int | None = None,
) -> Tensor:
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
        block_size: Rows of the matrices over pairs that are in memory at a time; ``None`` takes
            all up to n = 2048, and 4 million entries beyond.

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
    checks.check_positive("alpha", alpha)
    if k is not None:
        checks.check_positive_integer("k", k)
    embeddings = flatten_representation(embeddings)
    checks.check_same_length(labels=labels, embeddings=embeddings)
    block = rows_of_block(ops.shape(embeddings)[0], block_size)
    adjacency = without_loops(similarities(embeddings, "exponential", alpha, block))
    if k is not None:
        adjacency = nearest_neighbours(adjacency, k)
    apart = _half_squared_label_distances(labels, embeddings.dtype, block)
    return combine(lambda a, b, *_: a * b, adjacency, apart).map_rows(_sums)


def target_graph(
    target: Tensor,
    embeddings: Tensor,
    *,
    form: str = "labels",
    affinity: ArrayLike | None = None,
    metric: str = "cosine",
    alpha: float = 1.0,
    num_classes: int | None = None,
    block_size: int | None = None,
) -> Tensor:
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
        num_classes: Number of classes of integer labels, where ``affinity`` does not tell it:
            lets the graphs be compared in factors, as `graph_distillation` says.
        block_size: Rows of the matrices over pairs that are in memory at a time; ``None`` takes
            all up to n = 2048, and 4 million entries beyond.

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
    checks.check_choice("metric", metric, graphs.METRICS)
    checks.check_positive("alpha", alpha)
    embeddings = flatten_representation(embeddings)
    checks.check_same_length(target=target, embeddings=embeddings)
    n = ops.shape(embeddings)[0]

    block = rows_of_block(n, block_size)
    if form == "graph":
        _check_no_affinity(affinity)
        wanted = ops.cast(graphs.to_adjacency(target), embeddings.dtype)
        found = similarities(embeddings, metric, alpha, block)
        return found.map_rows(
            lambda values, others, rows, _: _sums_of_squares(
                _edge_difference(values, rows["wanted"], others)
            ),
            only_rows={"wanted": wanted},
        )
    signal, towards = _affinity_factors(target, affinity, num_classes, embeddings.dtype)

    def by_pairs(embeddings):
        if signal is None:
            wanted = label_products(target, embeddings.dtype, block)
        else:
            wanted = outer_products(towards, signal, block)
        found = similarities(embeddings, metric, alpha, block)
        return combine(_edge_difference, found, wanted).map_rows(_sums_of_squares)

    width = embeddings.shape[1]
    if metric != "cosine" or signal is None or width is None:
        return by_pairs(embeddings)
    rank = width + signal.shape[1] + 2
    return factors_or_pairs(
        lambda: _affinity_differences(embeddings, towards, signal),
        by_pairs,
        embeddings,
        n=n,
        rank=rank,
        width=3 * width,
    )


def smoothness_variation(
    representations: Sequence[Tensor],
    labels: Tensor,
    *,
    power: int = 1,
    k: int | None = None,
    num_classes: int | None = None,
    relative: bool = False,
    block_size: int | None = None,
) -> Tensor:
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
        block_size: See `graphs.label_smoothness`.

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
            x,
            labels,
            power=power,
            k=k,
            num_classes=num_classes,
            relative=relative,
            block_size=block_size,
        )
        for x in representations
    ]
    return mean([ops.abs(b - a) for a, b in itertools.pairwise(in_one_dtype(*values))])


def graph_variation(
    representations: Sequence[Tensor], *, k: int | None = None, block_size: int | None = None
) -> Tensor:
    """How much the graph itself changes from layer to layer; needs no labels.

    The mean over consecutive layers of ``||A_(l+1) - A_l||_F**2``, with degree-normalised
    cosine graphs. They are compared in factors or by pairs, as `graph_distillation` says.

    Args:
        representations: List of at least two representations of one batch, ``(n, ...)`` each.
        k: Number of nearest neighbours to keep in each graph, or ``None`` for all.
        block_size: Rows of the matrices over pairs that are in memory at a time; ``None`` takes
            all up to n = 2048, and 4 million entries beyond.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: If there are fewer than two representations, or ``k`` is invalid.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> x = np.random.default_rng(0).random((4, 3)).astype("float32")
        >>> bool(losses.graph_variation([x, 2 * x]) < 1e-9)
        True

    Reference: the label-free form of [1]
    """
    _check_depth(representations)
    if k is not None:
        checks.check_positive_integer("k", k)
    layers = in_one_dtype(*map(flatten_representation, representations))
    n = ops.shape(layers[0])[0]

    block = rows_of_block(n, block_size)

    def by_pairs(*layers):
        adjacencies = [full_graph(x, block) for x in layers]
        if k is not None:
            adjacencies = [nearest_neighbours(a, k) for a in adjacencies]
        return mean([squared_difference(b, a) for a, b in itertools.pairwise(adjacencies)])

    def change(a, b):
        return factors_or_pairs(
            lambda: compare_factors(a, b),
            by_pairs,
            a,
            b,
            n=n,
            rank=factored_rank(a.shape[1], b.shape[1], 1),
            width=3 * (a.shape[1] + b.shape[1]),
        )

    if k is not None or not isinstance(n, int):
        return ops.sum(by_pairs(*layers))
    return mean([ops.sum(change(a, b)) for a, b in itertools.pairwise(layers)])


# Building blocks, shared with `keras_lgg.losses`.


def mean(values):
    """Mean of a list of tensors."""
    return sum(values) / len(values)


def _sums(values, *_):
    return ops.sum(values, axis=1)


def _sums_of_squares(values, *_):
    return ops.sum(ops.square(values), axis=1)


def _edge_difference(values, wanted, others, *_):
    return ops.where(others, values - wanted, 0.0)


def _huber(difference):
    size = ops.abs(difference)
    return ops.where(size < 1.0, 0.5 * ops.square(difference), size - 0.5)


def _relative_distances(x, block):
    """Pairwise distances divided by their mean over ``i != j``; 0 where all samples coincide."""
    distances = combine(lambda squares, *_: safe_sqrt(squares), squared_distances(x, block)[0])
    n = ops.cast(ops.shape(x)[0], x.dtype)
    mean = ops.sum(distances.map_rows(_sums)) / ops.maximum(n * (n - 1.0), 1.0)
    inverse = 1.0 / ops.where(ops.equal(mean, 0.0), ops.ones_like(mean), mean)
    return combine(
        lambda values, _, rows, __: values * rows["inverse"][:, None],
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
    """Boolean (n, m, m), true where j, i and k are three samples."""
    vertex = ops.arange(ops.shape(cosines)[0])[:, None, None]
    arm = ops.arange(ops.shape(cosines)[1])
    first, second = arm[None, :, None], arm[None, None, :]
    return ops.logical_and(
        ops.not_equal(first, second),
        ops.logical_and(ops.not_equal(vertex, first), ops.not_equal(vertex, second)),
    )


def _one_hot(classes, labels, num_classes, dtype):
    """One-hot classes, or None where nobody knows how many there are."""
    count = num_classes if are_class_indices(labels) else labels.shape[1]
    return None if count is None else label_signal(classes, num_classes=count, dtype=dtype)


def _half_squared_label_distances(labels, dtype, block):
    """``||y_i - y_j||**2 / 2``: 1 for samples of two classes, 0 within one."""
    products = label_products(labels, dtype, block)
    if are_class_indices(labels):
        return combine(lambda same, *_: 1.0 - same, products)
    norms = ops.sum(ops.square(ops.cast(labels, dtype)), axis=1)
    return combine(
        lambda products, _, rows, columns: (
            0.5 * (rows["norms"][:, None] + columns["norms"][None, :]) - products
        ),
        products,
        norms=norms,
    )


def _affinity_factors(target, affinity, num_classes, dtype):
    """``(Y, Y @ C)`` of the wanted graph ``Y C Y.T``; None where the classes are not counted."""
    if affinity is None:
        _check_not_a_graph(target)
        if are_class_indices(target) and num_classes is None:
            return None, None
        signal = label_signal(target, num_classes=num_classes, dtype=dtype)
        return signal, signal
    affinity = check_affinity(affinity)
    signal = label_signal(target, num_classes=len(affinity), dtype=dtype)
    return signal, ops.matmul(signal, ops.convert_to_tensor(affinity, dtype=dtype))


def _affinity_differences(embeddings, towards, signal):
    """Row sums of the squared difference to ``towards @ signal.T``; whether they are accurate."""
    unit = unit_rows(embeddings)
    loops = self_similarities(embeddings)
    terms = subtract(
        LowRank(unit, unit, -loops),
        LowRank(towards, signal, -ops.sum(towards * signal, axis=1)),
        along=ops.ones_like(loops),
    )
    rows, squares = row_squares(terms)
    return rows, is_accurate(rows, squares)


def _check_no_affinity(affinity):
    if affinity is not None:
        raise ValueError(
            "Argument `affinity` has no meaning with form='graph'. Expected None, since "
            "`target` is the whole graph. Received: an affinity. Drop it, or pass class "
            "labels with form='labels'."
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
