"""Whether penalties and what they look at are finite, counted in the training step."""

import keras
from keras import ops


class NotFinite(keras.metrics.Metric):
    """Counts, for each penalty and each place it looks at, the batches that were not finite.

    The counts are of one epoch, since Keras resets metrics, and are not logged. A training step
    that is compiled while ``watching`` is true keeps them, and is the slower for it.

    Args:
        places: List of the name of each penalty with the names of the places it looks at.
    """

    def __init__(self, places):
        super().__init__(name="not_finite", dtype="float32")
        self.places = places
        self.watching = False
        self._counts = [
            self.add_weight(shape=(1 + len(names),), initializer="zeros", name=f"{penalty}_counts")
            for penalty, names in places
        ]

    def update_state(self, values, inputs):
        for counts, value, tensors in zip(self._counts, values, inputs, strict=True):
            counts.assign(counts + not_finite(value, tensors))

    def result(self):
        return {}

    def found(self):
        """The names of the penalties that were not finite, with those of their places that were."""
        for (penalty, places), counts in zip(self.places, self._counts, strict=True):
            value, *inputs = keras.ops.convert_to_numpy(counts)
            if value:
                yield penalty, [p for p, count in zip(places, inputs, strict=True) if count]


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
