"""Whether the task's loss, the penalties and what they tap are finite, counted in each step."""

import keras
import numpy as np
from keras import ops

from keras_lgg.losses import replicas
from keras_lgg.training.internals import numpy_of


class NotFinite(keras.metrics.Metric):
    """Keeps the first step of an epoch in which the task's loss, or a penalty, was not finite.

    Keras resets metrics in each epoch; this one is not logged. A training step that is compiled
    while ``watching`` is true also counts, for each place that a penalty taps, the steps in which
    it was not finite, and is slower for it.

    Args:
        places: List of pairs: the name of a penalty, and the names of the places that it taps.
    """

    def __init__(self, places):
        super().__init__(name="not_finite", dtype="float32")
        self.places = places
        self.watching = False
        # For the task and each penalty, the number of steps so far; once one was not finite, minus
        # the number of the first such step.
        self._steps = self.add_weight(
            shape=(1 + len(places),), initializer="zeros", name="finite_steps"
        )
        self._counts = [
            self.add_weight(shape=(1 + len(names),), initializer="zeros", name=f"{penalty}_counts")
            for penalty, names in places
        ]

    def update_state(self, task, values):
        """Count a step with this loss of the task and these values of the penalties."""
        dtype = keras.backend.result_type(*(x.dtype for x in (task, *values)))
        finite = ops.isfinite(ops.stack([ops.cast(x, dtype) for x in (task, *values)]))
        steps = ops.convert_to_tensor(self._steps)
        now = steps + 1 / replicas.local_count()
        self._steps.assign(ops.where(steps < 0, steps, ops.where(finite, now, -now)))

    def look(self, values, inputs):
        """Count the places that were not finite, if a value was not."""
        for counts, value, tensors in zip(self._counts, values, inputs, strict=True):
            counts.assign(counts + not_finite(value, tensors))

    def result(self):
        return {}

    def found(self):
        """Pairs: a penalty that was not finite, and those of its places that were not, by name."""
        for (penalty, places), counts in zip(self.places, self._counts, strict=True):
            value, *inputs = ops.convert_to_numpy(counts)
            if value:
                yield penalty, [p for p, count in zip(places, inputs, strict=True) if count]

    def message(self, value_of=numpy_of):
        """What was first not finite, and when.

        Args:
            value_of: Function from a variable to its current value.
        """
        steps = np.ceil(value_of(self._steps) - 0.01)  # with replicas, where the first one stopped
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
                "the task still is. Expected finite representations, and a loss on them that does "
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
    """1.0 for a value, and each of its inputs, that is not finite, and 0.0 for the others."""

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
