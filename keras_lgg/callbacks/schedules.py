"""Weights of penalties that change while a model trains."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lgg import checks
from keras_lgg.training.models import PenalizedModel
from keras_lgg.training.penalty_layer import GeometryPenalty
from keras_lgg.training.rebuilding import layers_of

UNITS = ("step", "epoch")


class PenaltyWeightSchedule(keras.callbacks.Callback):
    r"""Sets the weight of a penalty before each step of the training, or before each epoch.

    At time t, in steps or in epochs from 0, with the delay :math:`t_0` and the warm-up w, the
    weight is

    .. math::

        \lambda(t) = \begin{cases}
        0 & t < t_0 \\
        \min\left( 1, \frac{t - t_0}{w} \right) \cdot \text{schedule}(t - t_0) & t \ge t_0
        \end{cases}

    So the schedule begins after the delay, and a warm-up raises it from 0; without a warm-up, the
    first factor is 1. The steps are those of the optimizer, as for a schedule of the learning rate:
    a second ``fit``, or one that goes on from a backup, continues the schedule, too. If ``compile``
    sets ``steps_per_execution``, a weight lasts for that many steps.

    The last weight of each epoch is logged as ``"<name of the penalty>_weight"``, and stays when
    the training ends.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`, or a function that takes
            the time, an integer, and returns the weight, at least 0; or a number, for a constant
            weight with a delay or a warm-up.
        penalty: Name of the penalty: of a `Penalty` of the model, or of a
            `keras_lgg.layers.GeometryPenalty` in it. ``None`` means the only one.
        unit: Unit of time, ``"step"`` or ``"epoch"``.
        delay: How long the weight is 0 at first, in that unit.
        warmup: How long it then rises, in that unit.

    Raises:
        ValueError: If an argument is invalid. In ``fit``, if the model has no such penalty, its
            weight is ``"balanced"``, or the schedule returns no valid weight; the error names the
            time.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="h")])
        >>> model = lgg.GeometryModel(base, [lgg.Penalty(lgg.losses.GraphSmoothness(), taps="h")])
        >>> model.compile("sgd")
        >>> decay = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=10)
        >>> schedule = lgg.callbacks.PenaltyWeightSchedule(decay, delay=1, warmup=2)
        >>> x, y = np.ones((6, 4)), np.arange(6) % 2
        >>> history = model.fit(
        ...     x, y, batch_size=3, epochs=3, verbose=0, callbacks=[schedule]
        ... ).history
        >>> [round(weight, 4) for weight in history["graph_smoothness_weight"]]
        [0.0, 0.0905, 0.0655]
    """

    def __init__(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule | Callable[[int], float] | float,
        penalty: str | None = None,
        *,
        unit: str = "step",
        delay: int = 0,
        warmup: int = 0,
    ) -> None:
        super().__init__()
        checks.check_choice("unit", unit, UNITS)
        for name, value in (("delay", delay), ("warmup", warmup)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                raise checks.invalid(name, f"a number of {unit}s, at least 0", repr(value))
        if not callable(schedule) and not _is_weight(schedule):
            raise checks.invalid(
                "schedule",
                "a keras.optimizers.schedules.LearningRateSchedule, a function from the time to "
                "the weight, or a finite number of at least 0",
                repr(schedule),
            )
        self.schedule = schedule
        self.penalty = penalty
        self.unit = unit
        self.delay = delay
        self.warmup = warmup

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._scheduled = scheduled_penalty(self.model, self.penalty)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._weight = None  # a backup may have restored another one
        if self.unit == "epoch":
            self._set_weight(epoch)
        else:
            # The steps before this epoch; reading them at each step would make JAX wait.
            optimizer = self.model.optimizer
            batches = getattr(optimizer, "gradient_accumulation_steps", None) or 1
            self._steps_before = int(ops.convert_to_numpy(optimizer.iterations)) * batches

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.unit == "step":
            self._set_weight(self._steps_before + batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs[f"{self._scheduled.name}_weight"] = self._weight

    def _set_weight(self, time):
        weight = self._weight_at(time)
        if weight == self._weight:
            return
        if keras.backend.backend() == "jax":  # it keeps the state of a step beside the model
            self.model.jax_state_sync()
        self._scheduled.weight.assign(weight)
        self._weight = weight

    def _weight_at(self, time):
        since = time - self.delay
        if since < 0:
            return 0.0
        value = self.schedule(since) if callable(self.schedule) else self.schedule
        value = ops.convert_to_numpy(value) if ops.is_tensor(value) else value
        if not _is_weight(value):
            raise ValueError(
                f"The schedule gives the penalty '{self._scheduled.name}' no weight at "
                f"{self.unit} {time}. Expected a finite number of at least 0. Received: {value!r}, "
                f"for {since} {self.unit}s since the schedule began. Bound its values."
            )
        return float(value) * min(1.0, since / self.warmup if self.warmup else 1.0)


def scheduled_penalty(model: keras.Model, name: str | None) -> Any:
    """The `Penalty` or `GeometryPenalty` of a model with this name, or the only one; or raise."""
    own = model.penalties if isinstance(model, PenalizedModel) else []
    penalties = [*own, *layers_of(model, GeometryPenalty)]
    if not penalties:
        raise ValueError(
            f"The model '{model.name}' has no penalty to schedule. Expected a GeometryModel, a "
            "Distiller, or a model with GeometryPenalty layers. Received: a "
            f"{type(model).__name__} with none of them. Leave out PenaltyWeightSchedule."
        )
    found = [penalty for penalty in penalties if name in (None, penalty.name)]
    if len(found) != 1:
        names = sorted(penalty.name for penalty in penalties)
        raise checks.invalid("penalty", f"one of the names {names}, which must differ", repr(name))
    if found[0].balance is not None:
        raise ValueError(
            f"The weight of the penalty '{found[0].name}' cannot be set. Expected a number as its "
            'weight. Received: weight="balanced", which follows the training. Leave out '
            "PenaltyWeightSchedule, or give the penalty a number."
        )
    return found[0]


def _is_weight(value):
    """Whether a value is a finite real number of at least 0, of Python or of NumPy."""
    if isinstance(value, bool) or np.ndim(value) != 0:
        return False
    return np.asarray(value).dtype.kind in "fiu" and 0 <= value < np.inf
