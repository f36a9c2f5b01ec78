"""What `GeometryModel` and `Distiller` share: one forward pass, and how the loss adds up."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, Self

import keras
from keras import ops

from keras_lgg.losses import replicas
from keras_lgg.training import internals
from keras_lgg.training.finiteness import NotFinite
from keras_lgg.training.first_steps import WatchesFirstSteps
from keras_lgg.training.label_checks import ChecksLabels
from keras_lgg.training.penalties import Penalty, weighted_value
from keras_lgg.training.plans import Plan
from keras_lgg.training.rebuilding import is_graph
from keras_lgg.training.teacher_cache import split_cached
from keras_lgg.types import Tensor


class PenalizedModel(WatchesFirstSteps, ChecksLabels, keras.Model):
    """What `GeometryModel` and `Distiller` share: one forward pass, and how its loss adds up.

    The total loss is the compiled loss, plus the `losses` of the layers inside, plus the sum of
    ``weight * value`` over the penalties, in training and in evaluation alike.
    """

    def __init__(self, core: keras.Model, plan: Plan, **kwargs: Any) -> None:
        _check_core(core)
        kwargs.setdefault("dtype", core.dtype_policy)
        # Inputs go to the core as they are: it knows which dtypes it wants.
        super().__init__(autocast=False, **kwargs)
        self._plan = plan
        # Plain attributes: Keras tracks, saves and (on JAX) threads through these variables.
        for penalty in self.penalties:
            if penalty.balance is None:
                penalty._weight.belongs_to(self)
        self._penalty_variables = [penalty.variables for penalty in self.penalties]
        self._memory_variables = plan.remember()
        self._penalty_metrics = [keras.metrics.Mean(name=p.name) for p in self.penalties]
        self.not_finite = NotFinite([(p.name, plan.places(p)) for p in self.penalties])
        if hasattr(core, "output_names"):
            self.output_names = core.output_names
        self.built = core.built
        if is_graph(core):  # Keras exports to ONNX only what has been called
            core(core.inputs[0] if isinstance(core, keras.Sequential) else core.input)

    @property
    def penalties(self) -> list[Penalty]:
        """The penalties; their weights can be assigned, the list is fixed."""
        return list(self._plan.penalties)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "penalties":
            raise ValueError(
                f"The penalties of '{self.name}' stay what they are. Expected their weights to be "
                f"assigned, or a new model. Received: penalties={value!r}. For instance, write "
                "model.penalties[0].weight.assign(0.1), or lgg.GeometryModel(model.base, "
                "penalties)."
            )
        super().__setattr__(name, value)

    def build(self, input_shape: Any) -> None:
        if isinstance(self._core, keras.Sequential) and not self._core.built:
            self._core.build(input_shape)
        elif not self._core.built:
            internals.symbolic_outputs(
                self._core, internals.symbolic(input_shape, self._core.input_dtype)
            )
        self.built = True

    # Not in compile(): Keras restores no compile state where that is overridden.
    def make_train_function(self, force: bool = False) -> None:
        self._check_names()
        super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> None:
        self._check_names()
        super().make_test_function(force)

    def _check_names(self):
        """Raise if a penalty has the name of a metric, whose logged value it would overwrite."""
        metrics = internals.compiled_metrics(self)
        named = [getattr(m, "name", None) or getattr(m, "__name__", m) for m in metrics]
        for penalty in self.penalties:
            if penalty.name in named:
                raise ValueError(
                    f"The penalty name '{penalty.name}' is taken. Expected one name for each "
                    f"metric. Received: metrics {named}, and penalties named "
                    f"{[p.name for p in self.penalties]}. Pass lgg.Penalty(..., "
                    "name='another_name')."
                )

    # Questions about the network are passed on to the network.
    def get_layer(self, name: str | None = None, index: int | None = None) -> keras.layers.Layer:
        return self._core.get_layer(name, index)

    def summary(self, *args: Any, **kwargs: Any) -> None:
        """`keras.Model.summary` of the plain network, then the penalties and what they tap."""
        given = internals.bound(keras.Model.summary, self, args, kwargs)
        self._core.summary(**given)
        given.get("print_fn", print)("\n".join(self._plan.lines()))

    def __repr__(self) -> str:
        penalties = ", ".join(map(repr, self.penalties))
        return f"<{type(self).__name__} '{self.name}' of '{self._core.name}': {penalties}>"

    def export(self, *args: Any, **kwargs: Any) -> None:
        """`keras.Model.export` of the plain network."""
        self._core.export(*args, **kwargs)

    @property
    def input_shape(self) -> Any:
        return self._core.input_shape

    @property
    def output_shape(self) -> Any:
        return self._core.output_shape

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        record = _record.get()
        if record is None and training:
            self._check_not_inside()
        if record is None or not self._plan.watches:
            return self._core(inputs, training=training)
        modes = internals.modes(self._core, training)
        outputs, record[id(self)] = self._plan.run(self._core, (inputs,), modes, training)
        return outputs

    def _check_not_inside(self):
        """Raise if this is part of a model that trains, which would ignore the penalties."""
        # On JAX, a step calls the model in a stateless scope, where no entry model is known.
        if internals.entry_model() not in (None, self) or internals.is_stateless():
            raise ValueError(
                f"The penalties of '{self.name}' would do nothing inside another model. Expected "
                "the model with penalties to be the one that trains. Received: a step of a model "
                "that it is a part of. Use the plain network there, and put the penalties around "
                "the whole, lgg.GeometryModel(whole, penalties); in a step of your own, call it "
                "inside `with model.recording_taps():`."
            )

    @contextlib.contextmanager
    def recording_taps(self) -> Iterator[None]:
        """Keep what the taps see in a call of the model for the `compute_loss` that follows.

        ``fit`` and ``evaluate`` do this themselves; your own training loop needs it.

        Example:
            >>> import keras, numpy as np, keras_lgg as lgg
            >>> base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="h")])
            >>> model = lgg.GeometryModel(
            ...     base, [lgg.Penalty(lgg.losses.GraphSmoothness(), "h", weight=1.0)]
            ... )
            >>> model.compile("sgd")
            >>> x, y = np.zeros((2, 4), "float32"), np.array([0, 1])
            >>> with model.recording_taps():
            ...     float(model.compute_loss(x, y, model(x, training=True)))
            2.0
        """
        # Per context, hence per thread: the replicas of a distribution strategy do not mix. The
        # record ends with the step, so no tracer outlives it.
        token = _record.set({**(_record.get() or {})})
        try:
            yield
        finally:
            _record.reset(token)

    # These two take and return what the trainer of each backend does.
    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        # A step of one's own may not carry the count from step to step.
        token = _warms_up.set(True)
        try:
            with self.recording_taps():
                return super().train_step(*args, **kwargs)
        finally:
            _warms_up.reset(token)

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
            self._plan.check_nothing_to_balance()
            total = ops.zeros((), dtype="float32")
        else:
            watched = self._plan.watched_outputs(y_pred)
            total = super().compute_loss(x, y, watched, sample_weight, training=training)
        batch = internals.batch_size(x)
        views = self._recorded_views(split_cached(x)[0], y_pred, training)
        found = self._plan.values(x, self._class_numbers(y), views, training)
        if training:
            self.not_finite.update_state(total, [value for value, _ in found])
            if self.not_finite.watching:
                self.not_finite.look(*zip(*found, strict=True))
        for penalty, metric, (value, _) in zip(
            self.penalties, self._penalty_metrics, found, strict=True
        ):
            metric.update_state(value * replicas.local_count(), sample_weight=batch)
            term = weighted_value(penalty, value, batch, training, warm_up=_warms_up.get())
            total = total + ops.cast(term, total.dtype)
        return total

    def _recorded_views(self, x, y_pred, training):
        views = (_record.get() or {}).get(id(self))
        if views is not None:
            return views
        if not self._plan.tapped:
            self._plan.begin(training)
            return self._plan.views(x, y_pred, {}, training)
        if not training:  # no state can move: a second pass is exact (Keras builds losses so)
            return self._plan.inferred_views(x)
        raise ValueError(
            "The penalties have no taps to act on. Expected compute_loss() after a call of the "
            "model inside `with model.recording_taps():`. Received: no such call. In a "
            "training loop of your own, put both calls inside that block."
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "penalties": [keras.saving.serialize_keras_object(p) for p in self.penalties],
            "micro_batch": self._plan.micro_batch,
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


def network_of(model: keras.Model) -> keras.Model:
    """The network whose layers a model taps: its base, its student, or the model itself."""
    return model._core if isinstance(model, PenalizedModel) else model


# Maps each model that runs inside `recording_taps` to what its taps saw.
_record: contextvars.ContextVar[dict[int, Any] | None] = contextvars.ContextVar(
    "keras_lgg_record", default=None
)


# Whether default weights are to grow in this step.
_warms_up: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "keras_lgg_warms_up", default=False
)


def _check_core(core):
    """Raise if a model has training code of its own, which would be ignored."""
    for layer in core._flatten_layers():
        if isinstance(layer, PenalizedModel):
            raise ValueError(
                f"The model '{core.name}' has penalties of its own, which would do nothing inside "
                f"another one. Expected a plain model. Received: the {type(layer).__name__} "
                f"'{layer.name}'. Put all penalties into one list, or take the plain network: "
                "model.base, distiller.student."
            )
    own = [
        name
        for name in ("train_step", "test_step", "compute_loss")
        if getattr(type(core), name) is not getattr(keras.Model, name)
    ]
    if own:
        raise ValueError(
            f"The model '{core.name}' trains by code of its own, which a wrapper would ignore. "
            f"Expected a model that trains as keras.Model does. Received: a {type(core).__name__} "
            f"with its own {', '.join(own)}. Keep that code, and call the model inside `with "
            "lgg.tapping(model, penalties) as geometry:`; then add geometry.loss(y) to its loss."
        )
