"""A model that trains a student to mimic a teacher."""

import copy
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_lgg.losses import replicas
from keras_lgg.training.models import PenalizedModel
from keras_lgg.training.paths import has_path, path_at, position_of
from keras_lgg.training.penalties import (
    Penalty,
    check_penalties,
    is_keras_distillation,
    located_pairs,
    teacher_student_taps,
)
from keras_lgg.training.taps import Tapped
from keras_lgg.training.teacher_cache import OUTPUTS, split_cached
from keras_lgg.types import PathLike, Tensor


@keras.saving.register_keras_serializable("keras_lgg")
class Distiller(PenalizedModel):
    """Trains a student to mimic a teacher's latent geometry, its outputs, or both.

    The teacher runs in inference mode, outside the gradient; it is never changed, not even its
    ``trainable`` flag. ``distiller.student`` is the plain model that you deploy.

    Args:
        teacher: Trained model. ``None`` where
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
        penalties = [
            located_pairs(penalty, teacher, student) for penalty in check_penalties(penalties)
        ]
        super().__init__(student, penalties, **kwargs)
        self.student = student
        self._pairs = [teacher_student_taps(penalty) for penalty in self.penalties]
        paths = [path for pairs in self._pairs for _, path in pairs if path is not None]
        self._tapped = self._tapping(student, paths)
        self._teacher_positions: dict[str, list[list[int]]] = {}
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
        self._teacher_paths = {path: self._in_teacher(teacher, path) for path in paths}
        self._teacher = Tapped(teacher, [] if teacher is None else self._teacher_paths.values())
        if teacher is not None:
            self._teacher_positions = {
                path: position_of(teacher, now) for path, now in self._teacher_paths.items()
            }
        # A function that was compiled with another teacher must not be used again.
        self.train_function = self.test_function = None

    def _in_teacher(self, teacher, path):
        """The path of a layer in a teacher that may name it anew since a file was written."""
        position = self._teacher_positions.get(path)
        if teacher is None or not position or has_path(teacher, path):
            return path
        return path_at(teacher, path, position)

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
        outputs, taps = self._teacher.infer(x)
        return outputs, {path: taps[now] for path, now in self._teacher_paths.items()}

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
            self._teacher = Tapped(None)
        try:
            return super().save(filepath, *args, **kwargs)
        finally:
            self._teacher = teacher

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        teacher = None if self.teacher is None else serialize(self.teacher)
        student = {
            path: position_of(self.student, path)
            for pairs in self._pairs
            for _, path in pairs
            if path is not None
        }
        return {
            **super().get_config(),
            "teacher": teacher,
            "student": serialize(self.student),
            "positions": {"teacher": self._teacher_positions, "student": student},
        }

    @classmethod
    def _restored(cls, *, teacher, student, penalties, positions=None, **config):
        known = positions or {"teacher": {}, "student": {}}

        def found(network, path, positions):
            known_at = positions.get(path, [])
            return path_at(network, path, known_at) if network is not None and known_at else path

        for penalty in penalties:
            if penalty.taps is not None:
                penalty.taps = [
                    (
                        found(teacher, theirs, known["teacher"]),
                        found(student, ours, known["student"]),
                    )
                    for theirs, ours in penalty.taps
                ]
        distiller = cls(teacher, student, penalties, **config)
        if teacher is None:
            distiller._teacher_positions = known["teacher"]
        return distiller


def _distillation_value(loss, teacher, student, get_labels):
    if is_keras_distillation(loss):  # of keras.distillation
        loss.validate_outputs(teacher, student)
        return _share_of_functions(loss).compute_loss(teacher, student)
    if getattr(loss, "needs_labels", False):
        return ops.sum(loss((teacher, get_labels()), student))
    return ops.sum(loss(teacher, student))


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
