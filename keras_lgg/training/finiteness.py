"""Whether the task's loss, penalties and what these look at are finite, counted in each step."""

import keras
import numpy as np
from keras import ops

from keras_lgg.losses import replicas
from keras_lgg.training.internals import numpy_of


class NotFinite(keras.metrics.Metric):
    """Keeps the first step of an epoch in which the task's loss, or a penalty, was not finite.

    Keras resets metrics, so this is of one epoch; it is not logged. A training step that is
    compiled while ``watching`` is true also counts, for each place that a penalty looks at, the
    steps in which it was not finite, and is the slower for it.

    Args:
        places: List of the name of each penalty with the names of the places it looks at.
    """

    def __init__(self, places):
        super().__init__(name="not_finite", dtype="float32")
        self.places = places
        self.watching = False
        # Of the task and of each penalty the steps until now; where one was not finite, the number
        # of the first such step, below 0.
        self._steps = self.add_weight(
            shape=(1 + len(places),), initializer="zeros", name="finite_steps"
        )
        self._counts = [
            self.add_weight(shape=(1 + len(names),), initializer="zeros", name=f"{penalty}_counts")
            for penalty, names in places
        ]

    def update_state(self, task, values):
        """Count a step of this task's loss and these values."""
        dtype = keras.backend.result_type(*(x.dtype for x in (task, *values)))
        finite = ops.isfinite(ops.stack([ops.cast(x, dtype) for x in (task, *values)]))
        steps = ops.convert_to_tensor(self._steps)
        now = steps + 1 / replicas.local_count()
        self._steps.assign(ops.where(steps < 0, steps, ops.where(finite, now, -now)))

    def look(self, values, inputs):
        """Count the places that were not finite where a value was not."""
        for counts, value, tensors in zip(self._counts, values, inputs, strict=True):
            counts.assign(counts + not_finite(value, tensors))

    def result(self):
        return {}

    def found(self):
        """The names of the penalties that were not finite, with those of their places that were."""
        for (penalty, places), counts in zip(self.places, self._counts, strict=True):
            value, *inputs = ops.convert_to_numpy(counts)
            if value:
                yield penalty, [p for p, count in zip(places, inputs, strict=True) if count]

    def message(self, value_of=numpy_of):
        """What was the first not to be finite, and when.

        Args:
            value_of: Function from a variable to its present value.
        """
        steps = np.ceil(value_of(self._steps) - 0.01)  # of replicas, where the first one stopped
        failed = -steps[steps < 0]
        if not len(failed):
            return (
                "The loss is not finite. Expected a finite loss. Received: NaN or inf in what is "
                "logged, though not in a step. Look at the weights of the samples."
            )
        step = int(failed.min())
        names = [None, *(name for name, _ in self.places)]
        first = [name for name, n in zip(names, steps, strict=True) if n == -step]
        if None not in first:
            return (
                f"The penalty '{first[0]}' is not finite at step {step} of the epoch, the loss of "
                "the task still is. Expected finite representations, and a loss of them that does "
                "not overflow. Received: NaN or inf. Lower the learning rate or the weight of the "
                "penalty, clip gradients, or bound what is tapped by a normalisation; to see at "
                "which layer, fit(..., callbacks=[lgg.callbacks.GeometryGuard()])."
            )
        received = "the loss of the task alone" if len(first) == 1 else "all losses at once"
        return (
            f"The loss is not finite at step {step} of the epoch. Expected a finite loss. "
            f"Received: NaN or inf in {received}. Look at the data, lower the learning rate, or "
            "clip gradients; to see whether a tapped layer is the first, "
            "fit(..., callbacks=[lgg.callbacks.GeometryGuard()])."
        )


def not_finite(value, tensors):
    """1.0 for a value and for each of its inputs that is not finite, 0.0 for each that is."""

    def look():
        finite = [
            ops.all(ops.stack([ops.all(ops.isfinite(t)) for t in keras.tree.flatten(x)]))
            for x in tensors
        ]
        return 1.0 - ops.cast(ops.stack([False, *finite]), "float32")

    # The gradient must not look into the branches.
    value = ops.stop_gradient(value)
    tensors = keras.tree.map_structure(ops.stop_gradient, tensors)
    return ops.cond(ops.isfinite(value), lambda: ops.zeros((1 + len(tensors),)), look)
