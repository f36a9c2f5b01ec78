"""What a training checks by itself: penalties with a weight far off, and losses that are NaN.

The results of the first steps are checked on their way back to `fit`, by a wrapper around the step
that is then removed; later failures are counted in the step, see `NotFinite`, and the counts are
read once per epoch. So no later step has to wait.
"""

import math
from typing import Any, NamedTuple

import keras

from keras_lgg.training import internals
from keras_lgg.training.penalties import default_weight
from keras_lgg.training.plans import Plan
from keras_lgg.training.remarks import (
    far_off,
    few_samples,
    repeated_taps,
    too_few_for_k,
    unbounded_embeddings,
    warn,
)
from keras_lgg.training.weights import DEFAULT, mean_share

STEPS = 3  # that are checked


class WatchesFirstSteps:
    """The checks that `PenalizedModel` makes while it trains."""

    _plan: Plan
    _first_steps: "FirstSteps | None" = None
    _was_looked_at = False

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        given = internals.bound(keras.Model.fit, self, args, kwargs)
        self._look_at_taps(given.get("x"))
        callbacks = given.get("callbacks")
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            given["callbacks"] = callbacks = guarded(callbacks)
        stops = any(isinstance(c, LossGuard) for c in keras.tree.flatten(callbacks))
        self._first_steps = FirstSteps(self, guards=stops)
        try:
            return super().fit(**given)  # type: ignore[misc]
        finally:
            self._first_steps.release()
            self._first_steps = None

    def make_train_function(self, force: bool = False) -> None:
        super().make_train_function(force)  # type: ignore[misc]
        if self._first_steps is not None:
            self._first_steps.watch()

    def _look_at_taps(self, x):
        """Warn once of what is wrong with the taps, before training starts."""
        if self._was_looked_at:
            return
        self._was_looked_at = True
        for remark in unbounded_embeddings(self._plan):
            warn(remark)
        for remark in repeated_taps(self._plan, few_samples(x, self)):
            warn(remark)


class FirstSteps:
    """Checks the first steps of a training, and raises or warns.

    Args:
        model: A `PenalizedModel`.
        guards: Whether a loss that is NaN is an error; it is not if the user's callbacks stop.
    """

    def __init__(self, model, *, guards):
        self._model, self._guards = model, guards
        self._steps, self._inner, self._n = 0, None, None
        self._warned = set()

    def watch(self):
        """Wrap the training step of the model."""
        self.release()
        if self._steps < STEPS:
            self._inner, self._model.train_function = self._model.train_function, self._step

    def release(self):
        """Remove the wrapper."""
        if self._inner is not None and self._model.train_function == self._step:
            self._model.train_function = self._inner
        self._inner = None

    def _step(self, *args):
        if self._steps == 0:
            internals.make_variables(self._model, args[-1])
        found = self._inner(*args)
        self._steps += 1
        logs, value_of = internals.after_step(self._model, found)
        self._look({name: float(value_of(value)) for name, value in logs.items()}, value_of)
        if self._steps == STEPS:
            self.release()
        return found

    def _look(self, logs, value_of):
        model = self._model
        if not math.isfinite(logs["loss"]):
            if self._guards:
                raise FloatingPointError(model.not_finite.message(value_of))
            return
        if not model.penalties:
            return
        if self._n is None:
            steps = model.steps_per_execution
            self._n = round(float(value_of(model._penalty_metrics[0].count)) / steps)
            for penalty in model.penalties:
                warn(too_few_for_k(penalty, self._n))
        if model.loss is not None:
            self._compare(logs, value_of)

    def _compare(self, logs, value_of):
        """Warn of penalties that are far from the loss of the task."""
        fixed = [penalty for penalty in self._model.penalties if penalty.balance is None]
        weights = [self._weight(penalty, value_of) for penalty in fixed]
        shares = [weight.full * logs[p.name] for p, weight in zip(fixed, weights, strict=True)]
        added = [weight.so_far * logs[p.name] for p, weight in zip(fixed, weights, strict=True)]
        task = logs["loss"] - sum(added)
        for penalty, weight, share in zip(fixed, weights, shares, strict=True):
            if penalty.name in self._warned:
                continue
            at_last = self._steps == STEPS
            remark = far_off(penalty, weight.full, share, task, self._n, at_last=at_last)
            if remark is not None:
                self._warned.add(penalty.name)
                warn(remark)

    def _weight(self, penalty, value_of):
        weight = float(value_of(penalty.weight))
        if weight != DEFAULT:
            return Weight(weight, weight)
        default = default_weight(penalty.loss, self._n)
        # The logs are means over the steps of this epoch.
        steps = self._steps * self._model.steps_per_execution
        share = mean_share(float(value_of(penalty._steps)), steps)
        return Weight(default, share * default)


class Weight(NamedTuple):
    """A weight after its warm-up, and on average over the steps so far."""

    full: float
    so_far: float


class LossGuard(keras.callbacks.Callback):
    """Stops a training of a `PenalizedModel` at the end of an epoch in which a loss became NaN."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        names = ["loss", *(penalty.name for penalty in self.model.penalties)]
        if not all(math.isfinite((logs or {}).get(name, 0.0)) for name in names):
            raise FloatingPointError(self.model.not_finite.message())


def guarded(callbacks):
    """The callbacks of a `fit`, with a guard if none of them already stops at NaN.

    It comes first, so that no backup or checkpoint keeps what is lost.
    """
    callbacks = keras.tree.flatten(callbacks) if callbacks else []
    return callbacks if any(map(_stops_at_nan, callbacks)) else [LossGuard(), *callbacks]


def _stops_at_nan(callback):
    is_kerass = isinstance(callback, keras.callbacks.TerminateOnNaN)
    return is_kerass or getattr(callback, "stops_at_nan", False)
