"""Losses on the current batch together with remembered samples of earlier ones."""

import functools
from typing import Any, Self

import keras
from keras import ops

from keras_lgg import checks
from keras_lgg.losses.base import GeometryLoss, _copied
from keras_lgg.types import Tensor


@keras.saving.register_keras_serializable("keras_lgg")
class CrossBatch(GeometryLoss):
    r"""A loss whose graph spans the current batch and the samples before it.

    .. math::

        \mathcal{L}_t = \ell\bigl([X_t; M_t]\bigr), \qquad
        M_t = \operatorname{sg}\bigl([X_{t-1}; X_{t-2}; \dots]\bigr)_{1, \dots, m}

    Here :math:`\ell` is ``loss``, :math:`X_t` holds the n representations of batch t, and
    :math:`M_t` the last m = ``size`` representations before it, as they were computed then and
    without gradients (sg stops them); the labels and the teacher's representations are remembered
    along with them. The loss and its scale are therefore those of a batch of ``n + size`` samples,
    of which n are trained. What is remembered is at most ``size / n`` steps old, so this helps
    where batches are small and representations drift slowly.

    Use it in a `Penalty` of a `GeometryModel` or `Distiller`, or in a `GeometryPenalty` layer:
    these keep one memory per tap, save it with the model, and use it in training only. In
    evaluation, and anywhere else, the value is that of ``loss``.

    Args:
        loss: A loss of this package on labels, a teacher or layers, with ``global_graph=True``.
        size: Number of samples to remember. The memory is used once it is full. Keep it well below
            the number of samples in an epoch, or a sample meets its own past.
        warmup: Number of training steps before the memory is used; early on, representations
            change fast.
        label_shape: Shape of one sample's labels: ``()`` for class numbers, ``(c,)`` for rows.
        name: Name of the loss and of its metric; by default that of ``loss``.

    Raises:
        ValueError: If the loss cannot have a memory, or the labels do not have this shape.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="h")])
        >>> loss = lgg.losses.CrossBatch(lgg.losses.GraphSmoothness(), size=8)
        >>> model = lgg.GeometryModel(base, [lgg.Penalty(loss, "h", weight=0.01)])
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x = np.random.default_rng(0).random((32, 4))
        >>> history = model.fit(x, np.arange(32) % 3, batch_size=4, verbose=0)

    Reference: the memory is that of Wang et al., "Cross-batch memory for embedding learning",
    CVPR 2020.
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
        # Answer for the wrapped loss.
        self._options = loss._options
        for question in ("needs_teacher", "needs_labels", "across_layers", "is_scalar"):
            setattr(self, question, getattr(loss, question))

    def __call__(self, *given: Any, memory: "Memory | None" = None) -> Tensor:
        """The loss of the batch alone, or of the batch and a memory, which then takes it in."""
        if memory is None:
            return self.loss(*given)
        extended = _copied(self)
        extended.call = functools.partial(self._beside, memory)
        return GeometryLoss.__call__(extended, *given)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.loss.call(y_true, y_pred)

    def memory(self, *shapes: tuple[int | None, ...]) -> "Memory":
        """An empty memory for representations of these shapes ``(n, ...)``, in this order."""
        kinds = [(shape[1:], self.dtype) for shape in shapes]
        if self.needs_labels:
            rows = self.label_shape or self._options.get("continuous")
            kinds.append((self.label_shape, self.dtype if rows else "int32"))
        return Memory(self.size, self.warmup, kinds)

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        return self.loss.default_weight(n + self.size)

    def _beside(self, memory, y_true, y_pred):
        """The value of the batch together with the memory, which then takes the batch in."""
        present, arranged = self._rows(y_true, y_pred)
        # No `cond`: TensorFlow cannot differentiate the ones inside losses if they are nested.
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
        """All that has a row per sample, as a list, and a function that puts such a list back."""
        representations = list(y_pred) if self.across_layers else [y_pred]
        teacher = [y_true[0] if self.needs_labels else y_true] if self.needs_teacher else []
        labels = []
        if self.needs_labels:
            labels = [self._labels(y_true[1] if self.needs_teacher else y_true)]

        def arranged(rows):
            *vectors, last = rows if labels else (*rows, None)
            if not self.needs_teacher:
                trained = vectors if self.across_layers else vectors[0]
                return (last if labels else trained), trained
            return ((vectors[0], last) if labels else vectors[0]), vectors[1]

        return [*teacher, *representations, *labels], arranged

    def _labels(self, labels):
        labels = ops.convert_to_tensor(labels)
        if not self.label_shape and len(labels.shape) == 2 and labels.shape[1] == 1:
            labels = ops.reshape(labels, (-1,))
        if tuple(labels.shape[1:]) != self.label_shape:
            raise ValueError(
                f"The labels do not fit the memory of '{self.name}'. Expected shape "
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
    """The last samples seen in training, the newest first.

    Args:
        size: How many are kept.
        warmup: Steps before they are used.
        kinds: List of ``(shape, dtype)``, one for each array that is kept of a sample.
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
        """The rows of the current batch, followed by those of the memory."""
        return [
            ops.concatenate([x, ops.stop_gradient(ops.cast(kept, x.dtype))])
            for x, kept in zip(present, self._kept, strict=True)
        ]

    def keep(self, present):
        """Take in a batch and forget the oldest samples."""
        size = self._least[0]
        for x, kept in zip(present, self._kept, strict=True):
            x = ops.cast(ops.stop_gradient(x), kept.dtype)
            kept.assign(ops.concatenate([x, ops.convert_to_tensor(kept)])[:size])
        samples, steps = ops.unstack(ops.convert_to_tensor(self._counts))
        # Neither counts beyond what is needed.
        samples = ops.minimum(samples + ops.shape(present[0])[0], size)
        self._counts.assign(ops.stack([samples, ops.minimum(steps + 1, max(1, self._least[1]))]))


def _variable(start, name):
    # All replicas hold the same values: each takes in the rows of all.
    return keras.Variable(
        start, trainable=False, autocast=False, aggregation="only_first_replica", name=name
    )


def _check_loss(loss):
    if not isinstance(loss, GeometryLoss) or isinstance(loss, CrossBatch):
        raise checks.invalid("loss", "a loss of keras_lgg.losses", repr(loss))
    if not loss.global_graph:
        raise ValueError(
            "A memory spans the global batch. Expected a loss with global_graph=True. Received: "
            f"{type(loss).__name__} with global_graph=False."
        )
