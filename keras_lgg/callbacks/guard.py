"""A callback that stops a training whose penalties are no longer finite."""

import math
from typing import Any

import keras
import numpy as np

from keras_lgg.training.models import PenalizedModel
from keras_lgg.training.penalty_layer import GeometryPenalty
from keras_lgg.training.rebuilding import layers_of


class GeometryGuard(keras.callbacks.Callback):
    """Stops a training at the step in which a geometry penalty is no longer finite, and says where.

    One NaN in a penalty makes every weight NaN. A `GeometryModel` or a `Distiller` reports it
    without this callback: in the first steps at once, later at the end of the epoch, with the name
    of the first penalty concerned. This callback stops at the step, and also names the tapped
    layers. It waits for each step, and watching the layers slows small networks down. The weights
    of the stopped model are lost in any case: go on from a checkpoint (`AtomicBackup`) with what
    the error advises.

    Raises:
        ValueError: In ``fit``, if the model has no geometry penalty.
        FloatingPointError: After the step in which a penalty, or the loss, was NaN or infinite. It
            names the penalty, the taps that were not finite, and the step.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="h")])
        >>> model = lgg.GeometryModel(base, [lgg.Penalty(lgg.losses.GraphSmoothness(), taps="h")])
        >>> model.compile("sgd")
        >>> x, y = np.full((2, 4), np.nan, "float32"), np.array([0, 1])
        >>> try:
        ...     model.fit(x, y, verbose=0, callbacks=[lgg.callbacks.GeometryGuard()])
        ... except FloatingPointError as error:
        ...     print(str(error).split(". ")[0])
        The penalty 'graph_smoothness' is not finite at step 1
    """

    stops_at_nan = True

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        layers = layers_of(self.model, GeometryPenalty)
        if not layers and not isinstance(self.model, PenalizedModel):
            raise ValueError(
                f"The model '{self.model.name}' has nothing to guard. Expected a GeometryModel, a "
                "Distiller, or a model with GeometryPenalty layers. Received: a "
                f"{type(self.model).__name__} with none of them. Leave out GeometryGuard, or use "
                "keras.callbacks.TerminateOnNaN."
            )
        self._watch(True)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        scalars = [float(v) for v in (logs or {}).values() if np.ndim(v) == 0]
        if not all(map(math.isfinite, scalars)):
            if keras.backend.backend() == "jax":  # it keeps the state of a step beside the model
                self.model.jax_state_sync()
            raise FloatingPointError(self._message())

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._watch(False)

    def _watch(self, watching):
        """Make the training step keep track, or no longer; it is compiled again."""
        if isinstance(self.model, PenalizedModel):
            self.model.not_finite.watching = watching
            self.model.make_train_function(force=True)

    def _message(self):
        # int() of it fails under a strategy with several replicas.
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        found = list(self._found())
        if not found:
            return (
                f"The loss is not finite at step {step}. Expected a finite loss. Received: NaN or "
                "inf, while the geometry penalties were finite: look at the compiled loss, the "
                "data and the learning rate."
            )
        penalty, places = found[0]
        if places:
            received = f"NaN or inf at {', '.join(map(repr, places))}"
            advice = "Look at the data, lower the learning rate or the weight, or clip gradients."
        else:
            received = "finite ones, on which the loss itself overflowed"
            advice = "Bound their scale, for instance by a normalisation, or lower its power."
            if self._counts_classes(penalty):
                received += ", or labels that it does not count"
                advice += " Check that all labels lie in [0, num_classes), or are its ignore_class."
        return (
            f"The penalty '{penalty}' is not finite at step {step}. Expected finite "
            f"representations. Received: {received}. {advice}"
        )

    def _counts_classes(self, name):
        """Whether a label beyond ``num_classes`` would make this penalty NaN as well."""
        losses = [p.loss for p in getattr(self.model, "penalties", []) if p.name == name]
        return any(getattr(loss, "num_classes", None) is not None for loss in losses)

    def _found(self):
        """Names of the penalties that were not finite, with the places that were not."""
        if isinstance(self.model, PenalizedModel):
            yield from self.model.not_finite.found()
        for layer in layers_of(self.model, GeometryPenalty):
            if float(layer.not_finite):
                yield layer.name, ["its inputs"]
