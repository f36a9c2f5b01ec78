"""Models that train a base model, or a student, under geometry penalties."""

import contextlib
import contextvars
import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_lgg import replicas
from keras_lgg.balance import WatchTask
from keras_lgg.cache import OUTPUTS, split_cached
from keras_lgg.penalties import (
    NotFinite,
    Penalty,
    check_base_penalty,
    check_penalties,
    is_keras_distillation,
    layer_taps,
    loss_needs_labels,
    loss_on_layers,
    teacher_student_taps,
    weighted_value,
)
from keras_lgg.taps import edited_model, is_graph, tapped_model
from keras_lgg.types import PathLike, Tensor


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

    def _watched(self, core):
        """The core, in which the balanced penalties see the gradients that come back to the taps.

        It shares the weights of the core, which stays as it is.
        """
        for penalty in self.penalties:
            path = None if penalty.balance is None else self._last_tap(penalty)
            if path is not None:
                core = edited_model(core, {path: WatchTask(penalty.balance)})
        return core

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
        return cls(**restored)


# Maps each model that runs inside `recording_taps` to what its taps saw.
_record = contextvars.ContextVar("keras_lgg_record", default=None)


@keras.saving.register_keras_serializable("keras_lgg")
class GeometryModel(PenalizedModel):
    """Trains a model under penalties on the latent geometry of its layers.

    Use it as any Keras model. ``model.base`` is the plain model: it shares the weights, holds
    nothing of this package, and is what you deploy.

    Args:
        base: Functional or Sequential model (any model where every ``taps`` is ``None``).
        penalties: List of `Penalty`.
        **kwargs: ``name`` and the other arguments of `keras.Model`.

    Raises:
        ValueError: If a tap is unknown or cannot be reached, or a penalty cannot act on one
            network.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> base = keras.Sequential(
        ...     [
        ...         keras.Input((8,)),
        ...         keras.layers.Dense(16, "relu", name="h1"),
        ...         keras.layers.Dense(16, "relu", name="h2"),
        ...         keras.layers.Dense(3, "softmax"),
        ...     ]
        ... )
        >>> model = lgg.GeometryModel(
        ...     base,
        ...     penalties=[
        ...         lgg.Penalty(lgg.losses.SmoothnessVariation(power=2), ["h1", "h2"], weight=1e-3)
        ...     ],
        ... )
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> x, y = np.random.default_rng(0).random((20, 8)), np.arange(20) % 3
        >>> history = model.fit(x, y, verbose=0)
        >>> sorted(history.history)
        ['loss', 'smoothness_variation']

    Reference: Algorithms 14(2):39
    """

    def __init__(self, base: keras.Model, penalties: Sequence[Penalty], **kwargs: Any) -> None:
        super().__init__(base, penalties, **kwargs)
        self.base = base
        paths = []
        for penalty in self.penalties:
            check_base_penalty(penalty, base)
            paths += layer_taps(penalty) if penalty.taps is not None else []
        self._tapped = Untracked.of(self._watched(base), paths)

    @property
    def _core(self):
        return self.base

    @staticmethod
    def _last_tap(penalty):
        return None if penalty.taps is None else layer_taps(penalty)[-1]

    @staticmethod
    def _places(penalty):
        return ["the output"] if penalty.taps is None else layer_taps(penalty)

    def _penalty_inputs(self, x, y_pred, taps):
        return [
            [y_pred] if penalty.taps is None else [taps[path] for path in layer_taps(penalty)]
            for penalty in self.penalties
        ]

    def _penalty_value(self, penalty, representations, y):
        labels = self._labels(penalty, y) if loss_needs_labels(penalty.loss) else None
        return loss_on_layers(penalty.loss, representations, labels)

    def get_config(self) -> dict[str, Any]:
        base = keras.saving.serialize_keras_object(self.base)
        return {**super().get_config(), "base": base}


@keras.saving.register_keras_serializable("keras_lgg")
class Distiller(PenalizedModel):
    """Trains a student to mimic a teacher's latent geometry, its outputs, or both.

    The teacher runs in inference mode, outside the gradient; it is never changed, not even its
    ``trainable`` flag. ``distiller.student`` is the plain model that you deploy.

    Args:
        teacher: Trained model (Functional or Sequential where it is tapped). ``None`` where
            `teacher_cache` stands in for it, or to restore a distiller that was saved without it:
            then assign ``distiller.teacher`` before ``fit``.
        student: Model to train, of the same inputs.
        penalties: List of `Penalty`, with ``taps`` as ``(teacher layer, student layer)`` pairs.
        **kwargs: ``name`` and the other arguments of `keras.Model`.

    Raises:
        ValueError: If a tap is unknown or cannot be reached, or a penalty compares no teacher
            with a student.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> def network(width):
        ...     return keras.Sequential(
        ...         [
        ...             keras.Input((8,)),
        ...             keras.layers.Dense(width, "relu", name="hidden"),
        ...             keras.layers.Dense(3, "softmax"),
        ...         ]
        ...     )
        >>> distiller = lgg.Distiller(
        ...     network(64),
        ...     network(8),
        ...     penalties=[
        ...         lgg.Penalty(lgg.losses.GraphDistillation(), [("hidden", "hidden")], weight=25.0)
        ...     ],
        ... )
        >>> distiller.compile("adam", "sparse_categorical_crossentropy")
        >>> x, y = np.random.default_rng(0).random((20, 8)), np.arange(20) % 3
        >>> history = distiller.fit(x, y, verbose=0)
        >>> sorted(history.history)
        ['graph_distillation', 'loss']

    Reference: Algorithms 14(2):39
    """

    def __init__(
        self,
        teacher: keras.Model | None,
        student: keras.Model,
        penalties: Sequence[Penalty],
        **kwargs: Any,
    ) -> None:
        super().__init__(student, penalties, **kwargs)
        self.student = student
        self._pairs = [teacher_student_taps(penalty) for penalty in self.penalties]
        paths = [path for pairs in self._pairs for _, path in pairs if path is not None]
        self._tapped = Untracked.of(self._watched(student), paths)
        self.teacher = teacher

    @property
    def _core(self):
        return self.student

    @staticmethod
    def _last_tap(penalty):
        return teacher_student_taps(penalty)[-1][1]

    @property
    def teacher(self) -> keras.Model | None:
        """The teacher, or ``None`` until one is assigned."""
        return self._teacher.model

    @teacher.setter
    def teacher(self, teacher: keras.Model | None) -> None:
        if teacher is not None and not teacher.built:
            raise ValueError(
                f"The teacher '{teacher.name}' has no weights yet. Expected a trained model. "
                "Received: one that has not been built. Call it on a batch or build it first."
            )
        paths = [path for pairs in self._pairs for path, _ in pairs if path is not None]
        self._teacher = Untracked.of(teacher, paths)
        # A function that was compiled with another teacher must not be used again.
        self.train_function = self.test_function = None

    def __setattr__(self, name: str, value: Any) -> None:
        # Keras tracks each model that is set as an attribute: the teacher's variables would then
        # be trained with the student's, and its losses added to the student's.
        if name == "teacher":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        """Of the student, and all of the teacher's: the step reads them, the optimizer does not."""
        own = super().non_trainable_variables
        if self.teacher is None:
            return own
        known = {id(v) for v in self.variables}
        return own + [v for v in self.teacher.variables if id(v) not in known]

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return super().call(split_cached(inputs)[0], training=training)

    def _recorded_taps(self, x, training):
        return super()._recorded_taps(split_cached(x)[0], training)

    def _asked_teacher(self, x):
        """The teacher's outputs and taps on a batch, from the cache where it has them."""
        _, cached = split_cached(x)
        if cached is not None:
            _check_cached(cached, self._pairs)
            return cached.get(OUTPUTS), cached
        if self.teacher is None:
            raise ValueError(
                "The distiller has no teacher. Expected one for fit() and evaluate(), or data from "
                "lgg.teacher_cache. Received: neither. Assign it first, distiller.teacher = "
                "teacher, or cache what it says about the data."
            )
        return self._teacher.infer(x)

    @staticmethod
    def _places(penalty):
        return [
            f"{name or 'the output'} of the {network}"
            for pair in teacher_student_taps(penalty)
            for network, name in zip(("teacher", "student"), pair, strict=True)
        ]

    def _penalty_inputs(self, x, y_pred, taps):
        teacher_outputs, teacher_taps = self._asked_teacher(x)
        return [
            [
                representation
                for theirs, ours in pairs
                for representation in (
                    teacher_outputs if theirs is None else teacher_taps[theirs],
                    y_pred if ours is None else taps[ours],
                )
            ]
            for pairs in self._pairs
        ]

    def _penalty_value(self, penalty, representations, y):
        found = [
            _distillation_value(penalty.loss, teacher, student, lambda: self._labels(penalty, y))
            for teacher, student in zip(representations[::2], representations[1::2], strict=True)
        ]
        return sum(found) / len(found)

    def save(
        self, filepath: PathLike, *args: Any, include_teacher: bool = True, **kwargs: Any
    ) -> None:
        """As `keras.Model.save`, with or without the teacher and its weights in the file."""
        teacher = self._teacher
        if not include_teacher:
            self._teacher = Untracked.of(None, [])
        try:
            return super().save(filepath, *args, **kwargs)
        finally:
            self._teacher = teacher

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        teacher = None if self.teacher is None else serialize(self.teacher)
        return {**super().get_config(), "teacher": teacher, "student": serialize(self.student)}


class Untracked:
    """A model with its tapped twin, out of sight of Keras, which tracks models in attributes."""

    def __init__(self, model, tapped):
        self.model = model
        self._tapped = tapped

    @classmethod
    def of(cls, model, paths):
        unique = list(dict.fromkeys(paths))
        return cls(model, tapped_model(model, unique) if unique and model is not None else None)

    def __bool__(self):
        return self._tapped is not None

    def __call__(self, inputs, training=None):
        return self._tapped(inputs, training=training)

    def infer(self, inputs):
        """``(outputs, taps)`` in inference mode, with no gradient and no trace in the model.

        `stateless_call` leaves the states and the `add_loss` losses of the layers as they were.
        """
        runner = self._tapped or self.model
        takes_training = "training" in inspect.signature(runner.call).parameters
        with _no_gradient():
            result, _ = runner.stateless_call(
                [v.value for v in runner.trainable_variables],
                [v.value for v in runner.non_trainable_variables],
                inputs,
                **({"training": False} if takes_training else {}),
            )
        result = keras.tree.map_structure(ops.stop_gradient, result)
        return result if self else (result, {})


def _share_of_functions(loss):
    """A loss of `keras.distillation` whose value is a replica's share, as of Keras loss objects.

    Keras divides what a loss object returns by the number of replicas, but not what a function
    returns, to which a name such as "mse" resolves.
    """
    replica_count = replicas.local_count()
    if replica_count == 1:
        return loss

    def share(function):
        if function is None or isinstance(function, keras.losses.Loss):
            return function
        return lambda teacher, student: ops.mean(function(teacher, student)) / replica_count

    divided = copy.copy(loss)
    divided.loss = keras.tree.map_structure(share, loss.loss)
    return divided


def _check_cached(cached, pairs):
    needed = {OUTPUTS if theirs is None else theirs for taps in pairs for theirs, _ in taps}
    missing = sorted(needed - set(cached))
    if missing:
        raise ValueError(
            f"The cache does not hold what the penalties need. Expected {sorted(needed)}. "
            f"Received: {sorted(cached)}. Write it anew with lgg.teacher_cache(teacher, "
            "penalties, data) and these penalties."
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


def _no_gradient():
    """A context in which PyTorch keeps no graph; elsewhere `stop_gradient` prunes it all."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()


def _distillation_value(loss, teacher, student, get_labels):
    if is_keras_distillation(loss):  # of keras.distillation
        loss.validate_outputs(teacher, student)
        return _share_of_functions(loss).compute_loss(teacher, student)
    if getattr(loss, "needs_labels", False):
        return ops.sum(loss((teacher, get_labels()), student))
    return ops.sum(loss(teacher, student))
