"""What `GeometryModel` and `Distiller` share: one forward pass, and the accounts of the loss."""

import collections
import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_lgg.losses import replicas
from keras_lgg.training.finiteness import NotFinite
from keras_lgg.training.penalties import Penalty, check_penalties, weighted_value
from keras_lgg.training.rebuilding import is_graph
from keras_lgg.training.taps import Tapped
from keras_lgg.types import Tensor


class PenalizedModel(keras.Model):
    """What `GeometryModel` and `Distiller` share: one forward pass, and the accounts of its loss.

    The total loss is the compiled loss, plus the `losses` of the layers inside, plus the sum of
    ``weight * value`` over the penalties, in training and in evaluation alike.
    """

    def __init__(self, core: keras.Model, penalties: Sequence[Penalty], **kwargs: Any) -> None:
        kwargs.setdefault("dtype", core.dtype_policy)
        # Inputs go to the core as they are: it knows which dtypes it wants.
        super().__init__(autocast=False, **kwargs)
        self.penalties = check_penalties(penalties)
        # Plain attributes, so that Keras tracks, saves and (in JAX) threads through what is theirs.
        self._penalty_variables = [penalty.variables for penalty in self.penalties]
        self._penalty_metrics = [keras.metrics.Mean(name=p.name) for p in self.penalties]
        self.not_finite = NotFinite([(p.name, self._places(p)) for p in self.penalties])
        if hasattr(core, "output_names"):
            self.output_names = core.output_names
        self.built = core.built
        if is_graph(core):  # Keras exports to ONNX only what has been called
            core(core.inputs[0] if isinstance(core, keras.Sequential) else core.input)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        record = _record.get()
        if record is None or not self._tapped:
            return self._core(inputs, training=training)
        outputs, record[id(self)] = self._tapped(inputs, training=training)
        return outputs

    @contextlib.contextmanager
    def recording_taps(self) -> Iterator[None]:
        """Keep what the taps see in a call of the model for the `compute_loss` that follows.

        ``fit`` and ``evaluate`` do this by themselves; a training loop of your own needs it.

        Example:
            >>> import keras, numpy as np, keras_lgg as lgg
            >>> base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="h")])
            >>> model = lgg.GeometryModel(
            ...     base, [lgg.Penalty(lgg.losses.GraphSmoothness(), taps="h")]
            ... )
            >>> model.compile("sgd")
            >>> x, y = np.zeros((2, 4), "float32"), np.array([0, 1])
            >>> with model.recording_taps():
            ...     float(model.compute_loss(x, y, model(x, training=True)))
            2.0
        """
        # Per context, hence per thread: the replicas of a distribution strategy do not mix. What
        # was recorded ends with the step, so no tracer outlives it.
        token = _record.set({**(_record.get() or {})})
        try:
            yield
        finally:
            _record.reset(token)

    # These two take and return what each backend's trainer does.
    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        with self.recording_taps():
            return super().train_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        with self.recording_taps():
            return super().test_step(*args, **kwargs)

    def compute_loss(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        if self.loss is None and not self.losses:
            self._check_nothing_to_balance()
            total = ops.zeros((), dtype="float32")
        else:
            watched = self._watched_outputs(y_pred)
            total = super().compute_loss(x, y, watched, sample_weight, training=training)
        taps = self._recorded_taps(x, training)
        batch = ops.shape(next(i for i in keras.tree.flatten(x) if i is not None))[0]
        inputs = self._penalty_inputs(x, y_pred, taps)
        values = [
            self._penalty_value(penalty, self._balanced(penalty, found, training), y)
            for penalty, found in zip(self.penalties, inputs, strict=True)
        ]
        if self.not_finite.watching and training:
            self.not_finite.update_state(values, inputs)
        for penalty, metric, value in zip(
            self.penalties, self._penalty_metrics, values, strict=True
        ):
            metric.update_state(value * replicas.local_count(), sample_weight=batch)
            total = total + ops.cast(weighted_value(penalty, value, training), total.dtype)
        return total

    @staticmethod
    def _balanced(penalty, representations, training):
        if penalty.balance is None or not training:
            return representations
        penalty.balance.update()
        return penalty.balance.watch_penalty(representations)

    def _watched_outputs(self, y_pred):
        """The outputs, where the balanced penalties on them see the gradient of the loss."""
        for penalty in self.penalties:
            if penalty.balance is not None and self._last_tap(penalty) is None:
                if len(keras.tree.flatten(y_pred)) > 1:
                    raise ValueError(
                        f"The penalty '{penalty.name}' has no single output to balance it at. "
                        "Expected a model of one output, or taps. Received: "
                        f"{len(keras.tree.flatten(y_pred))} outputs. Name the layers in `taps`."
                    )
                y_pred = keras.tree.map_structure(penalty.balance.watch_task, y_pred)
        return y_pred

    def _tapping(self, core, paths):
        """The core with its taps, where balanced penalties see the gradients that come back."""
        watching = collections.defaultdict(list)
        for penalty in self.penalties:
            path = None if penalty.balance is None else self._last_tap(penalty)
            if path is not None:
                watching[path].append(penalty.balance.watch_task)
        return Tapped(core, paths, {path: _chain(watch) for path, watch in watching.items()})

    def _check_nothing_to_balance(self):
        for penalty in self.penalties:
            if penalty.balance is not None:
                raise ValueError(
                    f"The penalty '{penalty.name}' has nothing to be balanced with. Expected a "
                    "loss of the task. Received: a model compiled without one. Give compile() a "
                    "loss, or the penalty a number as its weight."
                )

    def _recorded_taps(self, x, training):
        taps = (_record.get() or {}).get(id(self))
        if taps is not None or not self._tapped:
            return taps
        if not training:  # no state can move: a second pass is exact (Keras builds losses so)
            return self._tapped.infer(x)[1]
        raise ValueError(
            "The penalties have no taps to act on. Expected compute_loss() after a call of the "
            "model inside `with model.recording_taps():`. Received: no such call. In a "
            "training loop of your own, put both calls inside that block."
        )

    def _labels(self, penalty, y):
        """The class labels that a penalty reads from the targets ``y``."""
        if penalty.labels is not None and y is not None:
            y = _target(penalty, y)
        targets = [] if y is None else keras.tree.flatten(y)
        if len(targets) != 1:
            advice = (
                "Pass y to fit() and evaluate()."
                if not targets
                else "Say which with lgg.Penalty(..., labels=<key or index in y>)."
            )
            raise ValueError(
                f"The penalty '{penalty.name}' needs class labels. Expected one target array. "
                f"Received: {len(targets)} of them. {advice}"
            )
        return targets[0]

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "penalties": [keras.saving.serialize_keras_object(p) for p in self.penalties],
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        restored = {
            key: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            for key, value in config.items()
        }
        return cls._restored(**restored)


def _chain(functions):
    return lambda x: functools.reduce(lambda x, function: function(x), functions, x)


# Maps each model that runs inside `recording_taps` to what its taps saw.
_record: contextvars.ContextVar[dict[int, Any] | None] = contextvars.ContextVar(
    "keras_lgg_record", default=None
)


def _target(penalty, y):
    """The target that ``penalty.labels`` names in a dict or a list of them."""
    if isinstance(y, dict):
        names = list(y)
    else:
        names = list(range(len(y))) if isinstance(y, list | tuple) else []
    if penalty.labels not in names:
        received = f"targets {names}" if names else "a single target; leave out `labels`"
        raise ValueError(
            f"The penalty '{penalty.name}' finds no labels={penalty.labels!r} in y. "
            f"Expected a key or index of the targets. Received: {received}."
        )
    return y[penalty.labels]
