"""Losses on the present batch and on what is remembered of those before."""

import functools
from typing import Any, Self

import keras
from keras import ops

from keras_lgg import checks
from keras_lgg.losses.base import GeometryLoss, _copied
from keras_lgg.types import Tensor


@keras.saving.register_keras_serializable("keras_lgg")
class CrossBatch(GeometryLoss):
    """A loss whose graph spans the present batch and the samples before it.

    The representations of past batches, as they were then and without gradients, stand beside
    those of the present one: the loss, and its scale, are those of a batch of ``n + size`` samples
    of which ``n`` are trained. It helps where batches are small and representations drift slowly,
    since what is remembered is stale by ``size / n`` steps at most.

    It acts in a `keras_lgg.Penalty` of a `GeometryModel` or `Distiller`, which keep the memory,
    one for each tap, save it, and use it in training alone. In evaluation, and anywhere else, it is
    ``loss``.

    Args:
        loss: A loss of this package on labels, on a teacher, or on layers, with a graph of the
            global batch.
        size: Samples that are remembered. The memory is used once it is full. It is best well below
            the samples of an epoch, or a sample meets its own past.
        warmup: Steps before the memory is used, in which representations change fast.
        label_shape: Shape of one sample's labels: ``()`` for class numbers, ``(c,)`` for rows.
        name: Name of the loss, also that of its metric; by default that of ``loss``.

    Raises:
        ValueError: If the loss cannot have a memory, or labels are not of this shape.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="h")])
        >>> loss = lgg.losses.CrossBatch(lgg.losses.GraphSmoothness(), size=8)
        >>> model = lgg.GeometryModel(base, [lgg.Penalty(loss, "h", weight=0.01)])
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x = np.random.default_rng(0).random((32, 4))
        >>> history = model.fit(x, np.arange(32) % 3, batch_size=4, verbose=0)

    Reference: the memory is that of Wang et al., "Cross-batch memory for embedding learning",
    CVPR 2020
    """

    def __init__(
        self,
        loss: GeometryLoss,
        size: int = 4096,
        *,
        warmup: int = 0,
        label_shape: tuple[int, ...] = (),
        name: str | None = None,
    ) -> None:
        _check_loss(loss)
        checks.check_positive_integer("size", size)
        checks.check_natural("warmup", warmup)
        super().__init__(reduction=loss.reduction, name=name or loss.name, dtype=loss._given_dtype)
        self.loss, self.size, self.warmup = loss, size, warmup
        self.label_shape = tuple(label_shape)
        # What others ask a loss.
        self._options = loss._options
        for question in ("needs_teacher", "needs_labels", "across_layers", "is_scalar"):
            setattr(self, question, getattr(loss, question))

    def __call__(self, *given: Any, memory: "Memory | None" = None) -> Tensor:
        """The loss of what it takes: on the batch alone, or beside a memory that keeps it."""
        if memory is None:
            return self.loss(*given)
        extended = _copied(self)
        extended.call = functools.partial(self._beside, memory)
        # A loss on nothing but layers has no `y_true`.
        y_true, y_pred = given if len(given) == 2 else given * 2
        return GeometryLoss.__call__(extended, y_true, y_pred)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.loss.call(y_true, y_pred)

    def memory(self, *shapes: tuple[int | None, ...]) -> "Memory":
        """An empty memory for representations ``(n, ...)`` of these shapes, in their order."""
        kinds = [(shape[1:], self.dtype) for shape in shapes]
        if self.needs_labels:
            rows = self.label_shape or self._options.get("continuous")
            kinds.append((self.label_shape, self.dtype if rows else "int32"))
        return Memory(self.size, self.warmup, kinds)

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        return self.loss.default_weight(n + self.size)

    def _beside(self, memory, y_true, y_pred):
        """The value for the present batch and the memory, in which the batch is then kept."""
        present, arranged = self._rows(y_true, y_pred)
        # No condition: TensorFlow cannot differentiate those that losses have inside another one.
        value = ops.where(
            memory.is_used(),
            self._value(*arranged(memory.beside(present))),
            self._value(y_true, y_pred),
        )
        memory.keep(present)
        return value

    def _value(self, y_true, y_pred):
        values = self.loss.call(y_true, y_pred)
        if len(values.shape) == 0 or self.reduction in ("sum", None, "none"):
            return ops.sum(values)
        return ops.mean(values)

    def _rows(self, y_true, y_pred):
        """What has a row for each sample, as a list, and the way back from such a list."""
        representations = list(y_pred) if self.across_layers else [y_pred]
        teacher = [y_true[0] if self.needs_labels else y_true] if self.needs_teacher else []
        labels = []
        if self.needs_labels:
            labels = [self._labels(y_true[1] if self.needs_teacher else y_true)]

        def arranged(rows):
            *vectors, last = rows if labels else (*rows, None)
            if not self.needs_teacher:
                return last, (vectors if self.across_layers else vectors[0])
            return ((vectors[0], last) if labels else vectors[0]), vectors[1]

        return [*teacher, *representations, *labels], arranged

    def _labels(self, labels):
        labels = ops.convert_to_tensor(labels)
        if not self.label_shape and len(labels.shape) == 2 and labels.shape[1] == 1:
            labels = ops.reshape(labels, (-1,))
        if tuple(labels.shape[1:]) != self.label_shape:
            raise ValueError(
                f"The labels are not those that '{self.name}' remembers. Expected shape "
                f"(n, {', '.join(map(str, self.label_shape))}) by label_shape={self.label_shape}. "
                f"Received: shape {tuple(labels.shape)}. Pass "
                f"label_shape={tuple(labels.shape[1:])}."
            )
        return labels

    def __repr__(self) -> str:
        return f"CrossBatch({self.loss!r}, size={self.size})"

    def get_config(self) -> dict[str, Any]:
        return {
            "loss": keras.saving.serialize_keras_object(self.loss),
            "size": self.size,
            "warmup": self.warmup,
            "label_shape": list(self.label_shape),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss})


class Memory:
    """The last samples that a training saw, the newest first.

    Args:
        size: How many are kept.
        warmup: Steps before they are used.
        kinds: Of each of what a sample has its shape and dtype.
    """

    def __init__(self, size, warmup, kinds):
        self._least = size, warmup
        self.shapes = [tuple(shape) for shape, _ in kinds]
        self._kept = [
            _variable(ops.zeros((size, *shape), dtype), f"past_{i}")
            for i, (shape, dtype) in enumerate(kinds)
        ]
        self._counts = _variable(ops.zeros((2,), "int32"), "past_samples_and_steps")
        self.variables = [*self._kept, self._counts]

    def is_used(self):
        samples, steps = ops.unstack(ops.convert_to_tensor(self._counts))
        size, warmup = self._least
        return ops.logical_and(samples >= size, steps >= warmup)

    def beside(self, present):
        """Rows of the present batch with those of the memory after them."""
        return [
            ops.concatenate([x, ops.stop_gradient(ops.cast(kept, x.dtype))])
            for x, kept in zip(present, self._kept, strict=True)
        ]

    def keep(self, present):
        """Take a batch in, and forget the oldest samples."""
        size = self._least[0]
        for x, kept in zip(present, self._kept, strict=True):
            x = ops.cast(ops.stop_gradient(x), kept.dtype)
            kept.assign(ops.concatenate([x, ops.convert_to_tensor(kept)])[:size])
        samples, steps = ops.unstack(ops.convert_to_tensor(self._counts))
        # Neither counts on beyond what is asked of it.
        samples = ops.minimum(samples + ops.shape(present[0])[0], size)
        self._counts.assign(ops.stack([samples, ops.minimum(steps + 1, max(1, self._least[1]))]))


def _variable(start, name):
    # Replicas hold the same: each takes the rows of all of them in.
    return keras.Variable(
        start, trainable=False, autocast=False, aggregation="only_first_replica", name=name
    )


def _check_loss(loss):
    if not isinstance(loss, GeometryLoss) or isinstance(loss, CrossBatch):
        raise checks.invalid("loss", "a loss of keras_lgg.losses", repr(loss))
    if not loss.global_graph:
        raise ValueError(
            "A memory is of the global batch. Expected a loss with global_graph=True. Received: "
            f"{type(loss).__name__} with global_graph=False."
        )
