"""Losses on latent geometry graphs: pure functions, and Keras losses over them.

The functions follow the order of `keras.losses`: what is given first, what is trained second.
Those that score samples return one value a sample, ``(n,)``; the published loss is their sum or
their mean, as each one says, and the class of the same name reduces that way by default.

References:
    [1] Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space Geometries with
        Graphs", Algorithms 14(2):39, 2021, https://arxiv.org/abs/2011.07343
    [2] Lassance et al., "Deep geometric knowledge distillation with graphs",
        https://arxiv.org/abs/1911.03080
    [3] Bontonou et al., "Introducing graph smoothness loss for training deep learning
        architectures", https://arxiv.org/abs/1905.00301
    [4] Lassance, Gripon, Ortega, "Laplacian networks: bounding indicator function smoothness for
        neural network robustness", https://arxiv.org/abs/1805.10133
    [5] Park et al., "Relational knowledge distillation", CVPR 2019,
        https://arxiv.org/abs/1904.05068
"""

import copy
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_lgg import checks, graphs, replicas
from keras_lgg.loss_functions import (
    FORMS,
    check_affinity,
    graph_distillation,
    graph_smoothness,
    graph_variation,
    relational_angle,
    relational_distance,
    smoothness_variation,
    target_graph,
)
from keras_lgg.types import ArrayLike, DType, Tensor


class GeometryLoss(keras.losses.Loss):
    """Base class of the losses below, and of your own.

    It is an ordinary Keras loss that says where it can act. A subclass implements
    ``call(y_true, y_pred)`` and sets:

    * ``needs_teacher``: ``y_true`` is the teacher's representation (for `Distiller`);
    * ``needs_labels``: ``y_true`` is the class labels. With both, it is a pair
      ``(teacher, labels)``;
    * ``across_layers``: ``y_pred`` is the list of all tapped representations, in place of one.

    Args:
        reduction: As in `keras.losses.Loss`; each loss defaults to its published scale.
        name: Name of the loss, also that of its metric.
        dtype: As in `keras.losses.Loss`; by default float32, or float64 for float64
            representations (on PyTorch, where Keras rounds to float32, always that).
        global_graph: Where several replicas share a batch: whether the graph spans all of it, as
            on one device, or each replica has the graph of its own part.

    Example:
        >>> import keras
        >>> from keras_lgg import losses
        >>> class CosineToTeacher(losses.GeometryLoss):
        ...     needs_teacher = True
        ...
        ...     def call(self, teacher, student):
        ...         return 1 + keras.losses.cosine_similarity(teacher, student)
        >>> float(CosineToTeacher()([[1.0, 0.0]], [[0.0, 1.0]]))
        1.0
    """

    needs_teacher = False
    needs_labels = False
    across_layers = False

    def __init__(
        self,
        *,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        self._given_dtype = dtype
        default = "float64" if keras.config.floatx() == "float64" else "float32"
        super().__init__(name=name, reduction=reduction, dtype=dtype or default)
        self.global_graph = bool(global_graph)

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        # A Keras loss casts all to one dtype. Float64 representations are not rounded here.
        if self._given_dtype is None and self.dtype != "float64" and _has_float64(y_pred):
            wide = type(self).from_config({**self.get_config(), "dtype": "float64"})
            return wide(y_true, y_pred, sample_weight)
        replica_count = replicas.local_count()
        if replica_count > 1:
            return self._share(replica_count, y_true, y_pred, sample_weight)
        parts = 1 if self.global_graph else replicas.split_count()
        loss = self if parts == 1 else self._on_parts(parts)
        return keras.losses.Loss.__call__(loss, y_true, y_pred, sample_weight)

    def _share(self, replica_count, y_true, y_pred, sample_weight):
        """What one of several replicas adds to the value: their sum is the loss of the batch."""
        if self.global_graph:
            y_true, y_pred, sample_weight = replicas.gather((y_true, y_pred, sample_weight))
        unreduced = copy.copy(self)
        unreduced.reduction = None
        values = keras.losses.Loss.__call__(unreduced, y_true, y_pred, sample_weight)
        if not self.global_graph and len(values.shape) > 0 and self.reduction == "sum":
            return ops.sum(values)
        return _reduced(values, sample_weight, self.reduction) / replica_count

    def _on_parts(self, parts):
        """The loss with a graph of its own for each part of the batch."""
        split = copy.copy(self)

        def call(y_true, y_pred):
            values = replicas.on_each_part(lambda both: self.call(*both), parts, (y_true, y_pred))
            return ops.mean(values) if len(values.shape) == 1 else ops.reshape(values, (-1,))

        split.call = call
        return split

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dtype": self._given_dtype,
            "global_graph": self.global_graph,
        }


@keras.saving.register_keras_serializable("keras_lgg")
class GraphDistillation(GeometryLoss):
    """Keras loss over `graph_distillation`: ``GraphDistillation()(teacher, student)``.

    With ``pairs="intra"`` or ``"inter"``, ``y_true`` is the pair ``(teacher, labels)``.
    Published weight: 25 at n = 128.

    Args:
        k: See `graph_distillation`.
        power: See `graph_distillation`.
        pairs: See `graph_distillation`.
        num_classes: See `graph_distillation`.
        block_size: See `graph_distillation`.
        reduction: Defaults to ``"sum"``, the published scale.
        name: See `GeometryLoss`.
        dtype: See `GeometryLoss`.
        global_graph: See `GeometryLoss`.

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
        block_size: int | None = None,
        reduction: str | None = "sum",
        name: str | None = "graph_distillation",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype, global_graph=global_graph)
        _check_positive_integers(k=k, num_classes=num_classes, block_size=block_size)
        checks.check_positive_integer("power", power)
        checks.check_choice("pairs", pairs, graphs.PAIRS)
        self.k = k
        self.power = power
        self.pairs = pairs
        self.num_classes = num_classes
        self.block_size = block_size

    @property
    def needs_labels(self) -> bool:
        return self.pairs != "all"

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        teacher, labels = y_true if self.needs_labels else (y_true, None)
        return graph_distillation(
            teacher,
            y_pred,
            k=self.k,
            power=self.power,
            pairs=self.pairs,
            labels=labels,
            num_classes=self.num_classes,
            block_size=self.block_size,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "k": self.k,
            "power": self.power,
            "pairs": self.pairs,
            "num_classes": self.num_classes,
            "block_size": self.block_size,
        }


@keras.saving.register_keras_serializable("keras_lgg")
class RelationalDistance(GeometryLoss):
    """Keras loss over `relational_distance` (RKD-D): ``RelationalDistance()(teacher, student)``.

    Published weight: 25.

    Args:
        block_size: See `relational_distance`.
        reduction: Defaults to the mean, the published scale.
        name: See `GeometryLoss`.
        dtype: See `GeometryLoss`.
        global_graph: See `GeometryLoss`.

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
        _check_positive_integers(block_size=block_size)
        self.block_size = block_size

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return relational_distance(y_true, y_pred, block_size=self.block_size)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "block_size": self.block_size}


@keras.saving.register_keras_serializable("keras_lgg")
class RelationalAngle(GeometryLoss):
    """Keras loss over `relational_angle` (RKD-A): ``RelationalAngle()(teacher, student)``.

    Args:
        arms: See `relational_angle`.
        reduction: Defaults to the mean, the published scale.
        name: See `GeometryLoss`.
        dtype: See `GeometryLoss`.
        global_graph: See `GeometryLoss`.

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
        checks.check_positive_integer("arms", arms)
        self.arms = arms

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return relational_angle(y_true, y_pred, arms=self.arms)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "arms": self.arms}


@keras.saving.register_keras_serializable("keras_lgg")
class GraphSmoothness(GeometryLoss):
    """Keras loss over `graph_smoothness` (GSL): ``GraphSmoothness()(labels, embeddings)``.

    Give it to ``compile`` of a network that ends in a normalisation, and classify the
    embeddings by k-NN. Divide by the batch size with ``reduction="sum_over_batch_size"``.

    Args:
        alpha: See `graph_smoothness`.
        k: See `graph_smoothness`.
        block_size: See `graph_smoothness`.
        reduction: Defaults to ``"sum"``, the published scale.
        name: See `GeometryLoss`.
        dtype: See `GeometryLoss`.
        global_graph: See `GeometryLoss`.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> float(lgg.losses.GraphSmoothness()(np.array([0, 1]), np.zeros((2, 3))))
        2.0

    Reference: [1], [3].
    """

    needs_labels = True

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        k: int | None = None,
        block_size: int | None = None,
        reduction: str | None = "sum",
        name: str | None = "graph_smoothness",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype, global_graph=global_graph)
        checks.check_positive("alpha", alpha)
        _check_positive_integers(k=k, block_size=block_size)
        self.alpha = alpha
        self.k = k
        self.block_size = block_size

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return graph_smoothness(
            y_true, y_pred, alpha=self.alpha, k=self.k, block_size=self.block_size
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "k": self.k,
            "block_size": self.block_size,
        }


@keras.saving.register_keras_serializable("keras_lgg")
class TargetGraph(GeometryLoss):
    """Keras loss over `target_graph`: ``TargetGraph()(target, embeddings)``.

    Args:
        form: See `target_graph`.
        affinity: See `target_graph`.
        metric: See `target_graph`.
        alpha: See `target_graph`.
        num_classes: See `target_graph`.
        block_size: See `target_graph`.
        reduction: Defaults to ``"sum"``.
        name: See `GeometryLoss`.
        dtype: See `GeometryLoss`.
        global_graph: See `GeometryLoss`.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> siblings = lgg.losses.TargetGraph(affinity=[[1.0, 0.5], [0.5, 1.0]])
        >>> round(float(siblings(np.array([0, 1]), np.eye(2))), 4)
        0.5

    Reference: [1], with the target as an argument.
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
        block_size: int | None = None,
        reduction: str | None = "sum",
        name: str | None = "target_graph",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype, global_graph=global_graph)
        checks.check_choice("form", form, FORMS)
        checks.check_choice("metric", metric, graphs.METRICS)
        checks.check_positive("alpha", alpha)
        _check_positive_integers(num_classes=num_classes, block_size=block_size)
        self.form = form
        self.affinity = None if affinity is None else check_affinity(affinity)
        self.metric = metric
        self.alpha = alpha
        self.num_classes = num_classes
        self.block_size = block_size

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return target_graph(
            y_true,
            y_pred,
            form=self.form,
            affinity=self.affinity,
            metric=self.metric,
            alpha=self.alpha,
            num_classes=self.num_classes,
            block_size=self.block_size,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "form": self.form,
            "affinity": None if self.affinity is None else self.affinity.tolist(),
            "metric": self.metric,
            "alpha": self.alpha,
            "num_classes": self.num_classes,
            "block_size": self.block_size,
        }


@keras.saving.register_keras_serializable("keras_lgg")
class SmoothnessVariation(GeometryLoss):
    """Keras loss over `smoothness_variation`: ``SmoothnessVariation()(labels, representations)``.

    ``y_pred`` is the list of the tapped representations, in their order along the depth.
    Published setting: ``power=2`` with weight 1e-4 at n = 100.

    Args:
        power: See `smoothness_variation`.
        k: See `smoothness_variation`.
        num_classes: See `smoothness_variation`.
        relative: See `smoothness_variation`.
        block_size: See `smoothness_variation`.
        name: See `GeometryLoss`.
        dtype: See `GeometryLoss`.
        global_graph: See `GeometryLoss`.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> layers = [np.ones((4, 2)), np.ones((4, 3))]
        >>> float(lgg.losses.SmoothnessVariation(power=2)(np.array([0, 0, 1, 1]), layers))
        0.0

    Reference: [1], [4].
    """

    needs_labels = True
    across_layers = True

    def __init__(
        self,
        *,
        power: int = 1,
        k: int | None = None,
        num_classes: int | None = None,
        relative: bool = False,
        block_size: int | None = None,
        name: str | None = "smoothness_variation",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, global_graph=global_graph)
        checks.check_positive_integer("power", power)
        _check_positive_integers(k=k, num_classes=num_classes, block_size=block_size)
        self.power = power
        self.k = k
        self.num_classes = num_classes
        self.relative = bool(relative)
        self.block_size = block_size

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return smoothness_variation(
            y_pred,
            y_true,
            power=self.power,
            k=self.k,
            num_classes=self.num_classes,
            relative=self.relative,
            block_size=self.block_size,
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["reduction"]  # the value is a scalar
        return {
            **config,
            "power": self.power,
            "k": self.k,
            "num_classes": self.num_classes,
            "relative": self.relative,
            "block_size": self.block_size,
        }


@keras.saving.register_keras_serializable("keras_lgg")
class GraphVariation(GeometryLoss):
    """Loss object over `graph_variation`: ``GraphVariation()(representations)``.

    It compares the layers of one network among themselves, so it has no ``y_true``.

    Args:
        k: See `graph_variation`.
        block_size: See `graph_variation`.
        name: See `GeometryLoss`.
        dtype: See `GeometryLoss`.
        global_graph: See `GeometryLoss`.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> float(lgg.losses.GraphVariation()([np.eye(3), np.eye(3)]))
        0.0

    Reference: the label-free form of [1]
    """

    across_layers = True

    def __init__(
        self,
        *,
        k: int | None = None,
        block_size: int | None = None,
        name: str | None = "graph_variation",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, global_graph=global_graph)
        _check_positive_integers(k=k, block_size=block_size)
        self.k = k
        self.block_size = block_size

    def __call__(self, representations: Sequence[Tensor]) -> Tensor:
        return super().__call__(representations, representations)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        del y_true
        return graph_variation(y_pred, k=self.k, block_size=self.block_size)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["reduction"]  # the value is a scalar
        return {**config, "k": self.k, "block_size": self.block_size}


def _check_positive_integers(**arguments):
    """Raise where an argument is neither None nor a positive integer."""
    for name, value in arguments.items():
        if value is not None:
            checks.check_positive_integer(name, value)


def _reduced(values, sample_weight, reduction):
    """Values that are weighted already, reduced as `keras.losses.Loss` does on one device."""
    if len(values.shape) == 0 or reduction in (None, "none"):
        return values
    total = ops.sum(values)
    if reduction == "sum":
        return total
    if reduction == "mean_with_sample_weight" and sample_weight is not None:
        return ops.divide_no_nan(total, ops.sum(ops.cast(sample_weight, total.dtype)))
    return total / ops.cast(ops.size(values), total.dtype)


def _has_float64(tensors):
    return any(
        keras.backend.standardize_dtype(x.dtype) == "float64"
        for x in keras.tree.flatten(tensors)
        if ops.is_tensor(x)
    )
