"""A model that trains a student to mimic a teacher."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_lgg.training.models import PenalizedModel
from keras_lgg.training.paths import path_at
from keras_lgg.training.penalties import Penalty
from keras_lgg.training.teacher_cache import split_cached
from keras_lgg.training.teacher_student import TeacherStudent
from keras_lgg.types import PathLike, Tensor


@keras.saving.register_keras_serializable("keras_lgg")
class Distiller(PenalizedModel):
    """Trains a student to mimic a teacher's latent geometry, its outputs, or both.

    The total loss is the student's compiled loss, plus the `add_loss` losses of its layers, plus
    the sum of ``weight * value`` over the penalties, which compare the teacher with the student on
    each batch. The teacher runs in inference mode and gets no gradient; it is never changed, not
    even its ``trainable`` flag. ``distiller.student`` is the plain model to deploy.

    Args:
        teacher: Trained model. ``None`` if the data comes from a `teacher_cache`, or to restore a
            distiller that was saved without its teacher: then assign ``distiller.teacher`` before
            ``fit``.
        student: Model to train. It takes the same inputs as the teacher, unless ``teacher_inputs``
            is given.
        penalties: List of `Penalty`, with ``taps`` as ``(teacher layer, student layer)`` pairs.
        teacher_inputs: Function, or Keras layer, from the student's inputs to the teacher's, if the
            two see the data differently: at another size, or with other token ids. A function is
            saved only if it is registered with Keras. ``None`` if they see the same.
        micro_batch: Number of samples that pass through the networks at a time, so that activations
            fit into memory; graphs and gradients are still those of the whole batch. ``None``
            passes all at once.
        **kwargs: ``name`` and the other arguments of `keras.Model`.

    Raises:
        ValueError: If a tap is unknown or cannot be reached, or a penalty does not compare a
            teacher with a student.

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

    Reference: Lassance et al., "Deep geometric knowledge distillation with graphs", 2019,
    https://arxiv.org/abs/1911.03080.
    """

    _plan: TeacherStudent

    def __init__(
        self,
        teacher: keras.Model | None,
        student: keras.Model,
        penalties: Sequence[Penalty],
        *,
        teacher_inputs: Callable[[Tensor], Tensor] | None = None,
        micro_batch: int | None = None,
        **kwargs: Any,
    ) -> None:
        _check_built(teacher)
        plan = TeacherStudent(teacher, student, penalties, teacher_inputs, micro_batch)
        super().__init__(student, plan, **kwargs)
        self.student = student

    @property
    def _core(self):
        return self.student

    @property
    def teacher(self) -> keras.Model | None:
        """The teacher, or ``None`` until one is assigned."""
        return self._plan.teacher

    @teacher.setter
    def teacher(self, teacher: keras.Model | None) -> None:
        _check_built(teacher)
        before = self.teacher
        self._plan.set_teacher(teacher)
        try:
            if teacher is not None:
                self._plan.check_memories()
        except ValueError:
            self._plan.set_teacher(before)
            raise
        # A function that was compiled with another teacher must not be used again.
        self.train_function = self.test_function = None

    def __setattr__(self, name: str, value: Any) -> None:
        # Keras tracks every model that is set as an attribute: the teacher's variables would then
        # be trained with the student's, and its losses added to the student's.
        if name == "teacher":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        """Those of the student, and all of the teacher's, which the step reads but never trains."""
        own = super().non_trainable_variables
        if self.teacher is None:
            return own
        known = {id(v) for v in self.variables}
        return own + [v for v in self.teacher.variables if id(v) not in known]

    def get_weights(self) -> list[np.ndarray]:
        """Arrays of the student, then of the teacher, so that both can be copied to a clone."""
        arrays: list[np.ndarray] = super().get_weights()
        return arrays if self.teacher is None else [*arrays, *self.teacher.get_weights()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Set arrays as `get_weights` returns them, or those of the student alone."""
        own = len(self.weights)
        super().set_weights(weights[:own])
        if len(weights) > own and self.teacher is not None:
            self.teacher.set_weights(weights[own:])

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return super().call(split_cached(inputs)[0], training=training)

    def save(
        self, filepath: PathLike, *args: Any, include_teacher: bool = True, **kwargs: Any
    ) -> None:
        """Save the distiller as `keras.Model.save` does.

        Args:
            filepath: File to write, whose name ends in ``.keras``.
            *args: Further arguments of `keras.Model.save`.
            include_teacher: Whether the teacher and its weights are in the file, too.
            **kwargs: Further arguments of `keras.Model.save`.
        """
        plan = self._plan
        if not include_teacher:
            self._plan = plan.without_teacher
        try:
            return super().save(filepath, *args, **kwargs)
        finally:
            self._plan = plan

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        teacher = None if self.teacher is None else serialize(self.teacher)
        return {
            **super().get_config(),
            "teacher": teacher,
            "student": serialize(self.student),
            "teacher_inputs": serialize(self._plan.teacher_inputs),
            "positions": self._plan.positions(),
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
            distiller._plan.teacher_positions.update(known["teacher"])
        return distiller


def _check_built(teacher):
    if teacher is not None and not teacher.built:
        raise ValueError(
            f"The teacher '{teacher.name}' has no weights yet. Expected a trained model. "
            "Received: one that has not been built. Call it on a batch or build it first."
        )
