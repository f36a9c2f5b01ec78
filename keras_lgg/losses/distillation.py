"""Distillation: a student's graph, distances or angles against its teacher's.

The numbers of the references are those of `keras_lgg.losses`.
"""

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
from keras_lgg.graphs.functions import labels_of_pairs
from keras_lgg.graphs.labels import label_signal, memberships
from keras_lgg.graphs.numerics import as_column, flatten_representation, in_one_dtype, safe_sqrt
from keras_lgg.graphs.pairs import combine, rows_of_block
from keras_lgg.graphs.tracing import traced_once
from keras_lgg.losses.base import GeometryLoss, as_float, check_options, row_sums
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
    """Graph knowledge distillation (GKD): the student's graph against the teacher's.

    Row sums of ``(A_student**power - A_teacher**power)**2``, with degree-normalised cosine
    graphs. The published loss is their **sum**. No gradient reaches the teacher.

    It is meant for representations of at least 0, such as those after a ReLU: where features have
    signs, similarities cancel in a degree, which may be next to nothing, and the value is huge.

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
        ignore_class: See `graphs.latent_geometry_graph`.
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
    check_options(power=power, pairs=pairs, k=k)
    teacher, student = _flattened(teacher, student)
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
        # A pair that shares several classes would count for each of them.
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
    """Keras loss over `graph_distillation`: ``GraphDistillation()(teacher, student)``.

    With ``pairs="intra"`` or ``"inter"``, ``y_true`` is the pair ``(teacher, labels)``.
    Published weight: 25 at n = 128.

    Args:
        reduction: Defaults to ``"sum"``, the published scale.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> x = np.eye(4, 3, dtype="float32") + 1
        >>> bool(lgg.losses.GraphDistillation(k=2)(x, 2 * x) < 1e-9)
        True

    Reference: [1], [2].
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
        return self._for_a_sum(2.0, n)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        teacher, labels = y_true if self.needs_labels else (y_true, None)
        return graph_distillation(teacher, y_pred, labels=labels, **self._options)

    def _sums_suffice(self, y_true, y_pred, n):
        if self.k is not None or self.pairs != "all":
            return False
        teacher, student = _flattened(y_true, y_pred)
        return sums_cost_less(n, student.shape[1], teacher.shape[1], power=self.power)

    def _call_by_sums(self, y_true, y_pred, *, total):
        teacher, student = _flattened(y_true, y_pred)
        return compare_by_sums(student, ops.stop_gradient(teacher), total, power=self.power)


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
    teacher, student = _flattened(teacher, student)
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
    """Keras loss over `relational_distance` (RKD-D): ``RelationalDistance()(teacher, student)``.

    Published weight: 25.

    Args:
        reduction: Defaults to the mean, the published scale.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> float(lgg.losses.RelationalDistance()(np.eye(3), 2 * np.eye(3)))
        0.0

    Reference: [5].
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
    check_options(arms=arms)
    teacher, student = _flattened(teacher, student)
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
    """Keras loss over `relational_angle` (RKD-A): ``RelationalAngle()(teacher, student)``.

    Args:
        reduction: Defaults to the mean, the published scale.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> bool(lgg.losses.RelationalAngle()(np.eye(3), 2 * np.eye(3)) < 1e-9)
        True

    Reference: [5].
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
        return self._for_a_sum(10.0 / as_float(n), n)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return relational_angle(y_true, y_pred, **self._options)


def _flattened(teacher, student):
    """Two representations ``(n, d)`` of one batch, in one dtype."""
    teacher = flatten_representation(teacher, "teacher")
    student = flatten_representation(student, "student")
    checks.check_same_length(teacher=teacher, student=student)
    return in_one_dtype(teacher, student)


def _one_hot(labels, dtype):
    """One-hot classes of `Labels`, or None where nobody knows how many there are."""
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
    """Boolean (n, m, m), true where j, i and k are three samples."""
    vertex = ops.arange(ops.shape(cosines)[0])[:, None, None]
    arm = ops.arange(ops.shape(cosines)[1])
    first, second = arm[None, :, None], arm[None, None, :]
    return ops.logical_and(
        ops.not_equal(first, second),
        ops.logical_and(ops.not_equal(vertex, first), ops.not_equal(vertex, second)),
    )
