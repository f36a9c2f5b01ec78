"""Penalties in a training step of one's own."""

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
    """Penalties in a training step of one's own: what they make of one call of a model.

    Args:
        model: Any Keras model, with or without a ``train_step`` of its own.
        penalties: List of `Penalty`, as of a `GeometryModel`, or with a teacher as of a
            `Distiller`.
        teacher: A trained model, where the penalties compare one with the model.
        teacher_inputs: See `keras_lgg.Distiller`.
        micro_batch: See `keras_lgg.GeometryModel`.

    Attributes:
        values: After `loss`, a dict from the name of each penalty to its unweighted value.

    Raises:
        ValueError: If a penalty cannot act, or the model is called not once in the block.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="h")])
        >>> penalties = [lgg.Penalty(lgg.losses.GraphSmoothness(), taps="h", weight=0.5)]
        >>> x, y = np.zeros((2, 4), "float32"), np.array([0, 1])
        >>> with lgg.tapping(model, penalties) as geometry:
        ...     outputs = model(x, training=True)
        >>> float(geometry.loss(y)), float(geometry.values["graph_smoothness"])
        (1.0, 2.0)

    A weight that changes in the course of a training has to be a variable of the model that
    trains, so that a compiled step sees it: in ``__init__``, ``self.geometry_variables = [v for
    penalty in penalties for v in penalty.variables]``. A balanced weight needs it, too.
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

        Args:
            y: Class labels, or the targets among which `Penalty` finds its ``labels``, where a
                penalty needs them.
            training: Whether balanced weights follow this step.

        Returns:
            Scalar tensor.
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
            total = total + ops.cast(weighted_value(penalty, value, batch, training), total.dtype)
        return total

    def _seen_by(self, call, x, training):
        """What the penalties read of the one call of the network."""
        if self._views is not None:
            return self._views
        self._plan.begin(training)
        taps = self._plan.tapped.seen(self._recording, x)
        return self._plan.views(x, call.outputs, taps, training)
