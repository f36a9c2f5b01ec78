"""Penalties in a training step of your own."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_lgg.losses.cross_batch import CrossBatch
from keras_lgg.training.calls import first_input, watching
from keras_lgg.training.internals import batch_size
from keras_lgg.training.penalties import Penalty, weighted_value
from keras_lgg.training.plans import OneNetwork, Plan
from keras_lgg.training.teacher_student import TeacherStudent
from keras_lgg.types import Tensor


class tapping:  # noqa: N801 (it is used as a function is, in a `with` statement)
    """Penalties in a training step of your own: a block that watches one call of a model.

    Call the model once inside the block. `loss` then returns the sum of ``weight * value`` over the
    penalties, which you add to the loss of your step.

    Args:
        model: Any Keras model, with or without a ``train_step`` of its own.
        penalties: List of `Penalty`, with taps as for a `GeometryModel`, or, with a teacher, as for
            a `Distiller`.
        teacher: A trained model to compare the model with, if the penalties need one.
        teacher_inputs: Function, or Keras layer, from the model's inputs to the teacher's, if the
            two see the data differently.
        micro_batch: Number of samples that pass through the model at a time; graphs and gradients
            are still those of the whole batch. ``None`` passes all at once.

    Attributes:
        values: After `loss`, a dict from the name of each penalty to its unweighted value.

    Raises:
        ValueError: If a penalty cannot act, or the model is not called exactly once in the block.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="h")])
        >>> penalties = [lgg.Penalty(lgg.losses.GraphSmoothness(), taps="h", weight=0.5)]
        >>> x, y = np.zeros((2, 4), "float32"), np.array([0, 1])
        >>> with lgg.tapping(model, penalties) as geometry:
        ...     outputs = model(x, training=True)
        >>> float(geometry.loss(y)), float(geometry.values["graph_smoothness"])
        (1.0, 2.0)

    If a weight changes during training, or is balanced, its variables must belong to the model
    that trains, so that a compiled step sees them. Write in its ``__init__``:
    ``self.geometry_variables = [v for penalty in penalties for v in penalty.variables]``.
    """

    def __init__(
        self,
        model: keras.Model,
        penalties: Sequence[Penalty],
        *,
        teacher: keras.Model | None = None,
        teacher_inputs: Callable[[Tensor], Tensor] | None = None,
        micro_batch: int | None = None,
    ) -> None:
        self._plan: Plan = (
            OneNetwork(model, penalties, micro_batch)
            if teacher is None
            else TeacherStudent(teacher, model, penalties, teacher_inputs, micro_batch)
        )
        self.values: dict[str, Tensor] = {}

        across = [p.name for p in penalties if isinstance(p.loss, CrossBatch)]
        if across:
            raise ValueError(
                f"The penalties {across} have nowhere to remember past batches. Expected them in a "
                "model, lgg.GeometryModel(model, penalties), which keeps their memory. Received: "
                "a block of lgg.tapping, which is over after a step."
            )

    def __enter__(self) -> Self:
        plan = self._plan
        self._views: Any = None
        watched = [plan.network, *plan.tapped.layers]
        self._watching = (
            watching(watched, plan.tapped.edit)
            if plan.micro_batch is None
            else watching([plan.network], run=self._in_parts)
        )
        self._recording = self._watching.__enter__()
        return self

    def _in_parts(self, call, args, kwargs):
        outputs, self._views = self._plan.run(call, args, kwargs, kwargs.get("training", True))
        return outputs

    def __exit__(self, *error: Any) -> None:
        self._watching.__exit__(*error)

    def loss(self, y: Tensor | None = None, *, training: bool = True) -> Tensor:
        """The sum of ``weight * value`` over the penalties, to be added to the loss of the step.

        A default weight has its full strength from the first step.

        Args:
            y: Class labels, if a penalty needs them; or the targets, among which each `Penalty`
                finds its ``labels``.
            training: Whether balanced weights follow this step.

        Returns:
            Scalar tensor.

        Raises:
            ValueError: If the model was not called exactly once in the block, or labels are
                missing.
        """
        network = self._plan.network
        calls = self._recording.calls_of(network)
        if len(calls) != 1:
            raise ValueError(
                f"The penalties do not know what to act on. Expected one call of '{network.name}' "
                f"in the block of lgg.tapping. Received: {len(calls)} calls. Open a block around "
                "the call that you mean, and leave the others outside."
            )
        x = first_input(calls[0].args, calls[0].kwargs)
        found = self._plan.values(x, y, self._seen_by(calls[0], x, training), training)
        total = ops.zeros((), "float32")
        batch = batch_size(x)
        for penalty, (value, _) in zip(self._plan.penalties, found, strict=True):
            self.values[penalty.name] = value
            # A step of one's own may not carry the count of a warm-up from step to step.
            term = weighted_value(penalty, value, batch, training, warm_up=False)
            total = total + ops.cast(term, total.dtype)
        return total

    def _seen_by(self, call, x, training):
        """What the penalties read from the call of the network."""
        if self._views is not None:
            return self._views
        self._plan.begin(training)
        taps = self._plan.tapped.seen(self._recording, x)
        return self._plan.views(x, call.outputs, taps, training)
