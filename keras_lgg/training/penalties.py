"""Penalties: which loss, at which layers of a model, and how strongly."""

import copy
import functools
import math
import numbers
import re
from typing import Any, Self

import keras
from keras import ops

from keras_lgg import checks
from keras_lgg.graphs.pooling import check_pool
from keras_lgg.losses import replicas
from keras_lgg.losses.base import GeometryLoss, mean
from keras_lgg.losses.cross_batch import CrossBatch
from keras_lgg.training.balance import Balance
from keras_lgg.training.paths import paths_of
from keras_lgg.training.weights import (
    DEFAULT,
    PenaltyWeight,
    counted_steps,
    next_share,
    unassignable,
)
from keras_lgg.types import Taps, Tensor

FRACTION = 0.1  # of a balanced weight


@keras.saving.register_keras_serializable("keras_lgg")
class Penalty:
    r"""A loss on the latent geometry: which loss, at which layers, and how strongly.

    It adds ``weight * loss`` to the total loss of the model that trains with it. A balanced weight
    follows the training:

    .. math::

        w = f \, \Bigl( \mathbb{E} \, \lVert \partial \mathcal{L} / \partial h \rVert^2 \, \Big/ \,
            \mathbb{E} \, \lVert \partial \mathcal{P} / \partial h \rVert^2 \Bigr)^{1/2}

    Here f is ``fraction``, h the representation at the last tap, :math:`\mathcal{P}` the penalty's
    value, and :math:`\mathcal{L}` all that is computed from h on: the loss of the task, and
    penalties deeper in the network. The means run over some 50 steps and are read off in the usual
    backward pass; at the first step there are none, and w is 0. It goes to 0 as the task is learnt,
    and grows where the penalty's own gradient vanishes. It needs a Keras optimizer.

    Args:
        loss: A loss of `keras_lgg.losses`, or any Keras loss of ``(labels, representation)``; in a
            `Distiller`, of ``(teacher, student)`` representations, and also
            `keras.distillation.LogitsDistillation` and `FeatureDistillation`.
        taps: In a `GeometryModel`: a layer, or a list of them in their order along the depth. In
            a `Distiller`: a list of ``(teacher layer, student layer)`` pairs. A layer is given by
            its path through the names, or attributes, of the models and layers around it, such as
            ``"backbone/block3"``; ``"shared@1"`` is its second call, ``"lstm:0"`` its first output.
            A pattern such as ``"stage*_out"`` stands for all layers that it matches, in the order
            of `layer_paths`. A layer object is a tap, too, and so is the name of an output.
            ``None`` is the output of the model. A loss on single layers is averaged over its taps.
        weight: Factor of the penalty in the total loss, a number of at least 0. ``None`` takes the
            default of the loss for the batch size, ``loss.default_weight(n)``, which suits most
            networks: see :doc:`/which_loss`. In ``fit``, it is reached in even steps over the first
            100 steps of training. ``"balanced"``: see above.
        name: Name of the metric that logs the unweighted value; by default that of the loss.
        pool: How a representation ``(n, T, ..., c)`` with positions (tokens, pixels) becomes one
            vector per sample: ``None`` flattens all positions, ``"mean"`` and ``"max"`` run over
            them, ``"first"`` and ``"last"`` pick one. Masked positions are set to 0 before
            flattening and left out otherwise, so no value depends on the padding of a batch.
        mask: Name of the model input ``(n, T)`` that says which positions count. By default
            Keras's own mask of the layer; else the one that the layer, or the layer around it, was
            given; else the input named ``"padding_mask"`` or ``"attention_mask"``.
        labels: Which target holds the class labels, if the model has several: its key or index in
            ``y``.
        fraction: Positive fraction f for a balanced weight; 0.1 by default.

    Attributes:
        weight: The factor as a `keras.Variable`; ``penalty.weight.assign(0.1)`` takes effect at
            the next step, without another ``compile``. -1 stands for the default of the loss. A
            balanced weight is a tensor, the factor of the next step.

    Raises:
        ValueError: If an argument has none of these forms.

    Example:
        >>> import keras_lgg as lgg
        >>> penalty = lgg.Penalty(lgg.losses.GraphVariation(), taps=["conv1", "conv2"], weight=0.1)
        >>> penalty
        Penalty(GraphVariation(), taps=['conv1', 'conv2'], weight=0.1)
        >>> penalty.name, round(float(penalty.weight), 3)
        ('graph_variation', 0.1)
    """

    def __init__(
        self,
        loss: keras.losses.Loss | keras.distillation.DistillationLoss,
        taps: Taps | None = None,
        weight: float | str | None = None,
        name: str | None = None,
        *,
        pool: str | None = None,
        mask: str | None = None,
        labels: str | int | None = None,
        fraction: float | None = None,
    ) -> None:
        self.loss = check_loss(loss)
        self.taps = taps if taps is None or _is_tap(taps) else list(taps)
        self.balance, self._steps = balance_of(weight, fraction), None
        if self.balance is None:
            self._weight = PenaltyWeight(checked_weight(weight), "penalty_weight")
            self._steps = counted_steps(self._weight)
        self.name = name or getattr(loss, "name", None) or _snake_case(type(loss).__name__)
        self.labels = labels
        check_pool(pool)
        self.pool, self.mask = pool, mask

    @property
    def weight(self) -> keras.Variable | Tensor:
        return self._weight if self.balance is None else self.balance.weight

    @weight.setter
    def weight(self, value: Any) -> None:
        raise unassignable(self, value)

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables to track: the weight, or those that it is computed from."""
        if self.balance is not None:
            return self.balance.variables
        return [self._weight] if self._steps is None else [self._weight, self._steps]

    def __repr__(self) -> str:
        others = [(n, getattr(self, n)) for n in ("pool", "mask", "labels")]
        given = [("taps", self.taps), *weight_config(self).items(), *others]
        options = [f"{name}={_shown(value)}" for name, value in given if value is not None]
        return f"Penalty({', '.join([described(self.loss), *options])})"

    def get_config(self) -> dict[str, Any]:
        return {
            "loss": keras.saving.serialize_keras_object(self.loss),
            "taps": self.taps,
            **saved_weight(self),
            "name": self.name,
            "labels": self.labels,
            "pool": self.pool,
            "mask": self.mask,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return restored(cls, config)


def named_taps(penalties):
    """The layers of the trained network that penalties tap, if they are given by name."""
    found = []
    for penalty in penalties:
        for tap in layer_taps(penalty):
            tap = tap[1] if isinstance(tap, list | tuple) else tap
            found += [tap] if isinstance(tap, str) else []
    return found


def fresh(penalty, **changes):
    """A copy of a penalty with its own weight variable, and with these arguments replaced."""
    given = {name: getattr(penalty, name) for name in ("taps", "name", "pool", "mask", "labels")}
    given |= {"loss": penalty.loss, **weight_config(penalty), **changes}
    if given["weight"] != "balanced":
        given.pop("fraction", None)
    return Penalty(**given)


def loss_on_layers(loss, representations, labels=None, memories=None):
    """Value of a loss on the tapped representations of one network, averaged over the taps.

    Args:
        loss: A `GeometryLoss` that needs no teacher, or any Keras loss of
            ``(labels, representation)``.
        representations: List of tensors ``(n, ...)``.
        labels: Class labels of the batch, or ``None`` where the loss needs none.
        memories: The memories of a `CrossBatch`, one for each of its calls, see `memories_of`.

    Returns:
        Scalar tensor.
    """
    given = (labels,) if loss_needs_labels(loss) else ()
    if getattr(loss, "across_layers", False):
        return remembering(loss, memories, 0)(*given, representations)
    return mean(
        [ops.sum(remembering(loss, memories, i)(*given, x)) for i, x in enumerate(representations)]
    )


def remembering(loss, memories, call):
    """The loss, with the memory for its ``call``-th call if it has memories."""
    return functools.partial(loss, memory=memories[call]) if memories else loss


def memories_of(loss, shapes):
    """A memory for each call of a `CrossBatch`, ``None`` for other losses.

    Args:
        loss: The loss.
        shapes: Shapes of the representations: a list for one network, a list of pairs for a teacher
            and a student.
    """
    if not isinstance(loss, CrossBatch):
        return None
    if loss.across_layers:
        return [loss.memory(*shapes)]
    return [loss.memory(*(shape if loss.needs_teacher else [shape])) for shape in shapes]


def loss_needs_labels(loss):
    """Whether a loss on one network reads class labels; a plain Keras loss always does."""
    return getattr(loss, "needs_labels", True)


def is_keras_distillation(loss):
    """Whether a loss is one of `keras.distillation`, which have their own interface."""
    return hasattr(loss, "compute_loss") and hasattr(loss, "validate_outputs")


def with_softmax(loss):
    """`keras.distillation.LogitsDistillation` as it is documented.

    Keras 3.15 applies the softmax and the squared temperature where the loss is a `KLDivergence`
    object, but resolves its default, "kl_divergence", to a function: it then compares raw logits.
    """
    if not is_keras_distillation(loss) or not hasattr(loss, "temperature"):
        return loss
    objects = keras.tree.map_structure(
        lambda x: keras.losses.KLDivergence() if x is keras.losses.kl_divergence else x, loss.loss
    )
    return type(loss)(temperature=loss.temperature, loss=objects)


def check_loss(loss):
    """Return a loss object that a penalty can hold, or raise."""
    is_class = isinstance(loss, type)
    if not is_class and (isinstance(loss, keras.losses.Loss) or is_keras_distillation(loss)):
        return with_softmax(loss)
    received = f"the class {loss.__name__}" if is_class else repr(loss)
    name = loss.__name__ if is_class else "lgg.losses.GraphDistillation"
    raise ValueError(
        "Invalid value for argument `loss`. Expected a loss object of keras_lgg.losses, "
        f"keras.losses or keras.distillation. Received: {received}. Write for instance {name}()."
    )


def balance_of(weight, fraction):
    """The `Balance` of a balanced weight, or ``None`` for a fixed one."""
    if isinstance(weight, str) and weight == "balanced":
        fraction = FRACTION if fraction is None else fraction
        checks.check_positive("fraction", fraction)
        return Balance(fraction)
    if fraction is not None:
        raise checks.invalid("fraction", 'None, unless weight="balanced"', repr(fraction))
    return None


def _shown(value):
    # A variable is float32: its further digits are only rounding.
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def described(loss):
    """A loss as the call that makes it; a Keras loss by its class."""
    return repr(loss) if isinstance(loss, GeometryLoss) else f"{type(loss).__name__}(...)"


def weight_words(penalty):
    """The weight of a penalty in words."""
    weight = weight_config(penalty)["weight"]
    if weight is None:
        return "the default weight of the loss"
    return "a balanced weight" if weight == "balanced" else f"weight {_shown(weight)}"


def weighted_value(penalty, value, batch, training, *, warm_up=True):
    """The term that a value of a penalty adds to the total loss.

    Args:
        penalty: A `Penalty`, or a `GeometryPenalty` layer.
        value: Scalar tensor.
        batch: Number of samples that this replica holds.
        training: Whether a balanced weight follows this step.
        warm_up: Whether a default weight grows over the first steps of a training.
    """
    if penalty.balance is not None and training:
        return penalty.balance.weighted(value)
    weight = penalty.weight
    if penalty._steps is not None:
        default = default_in_use(penalty.loss, batch)
        if training and warm_up:
            default = next_share(penalty._steps) * default
        weight = ops.convert_to_tensor(weight)
        weight = ops.where(weight == DEFAULT, default, weight)
    return ops.cast(weight, value.dtype) * value


def default_in_use(loss, batch):
    """The default weight of a loss, for batches of which this replica holds so many samples."""
    n = replicas.graph_size(batch, getattr(loss, "global_graph", True))
    return default_weight(loss, n)


def default_weight(loss, n):
    """The weight of a penalty that was given none, for graphs of n samples."""
    return loss.default_weight(n) if isinstance(loss, GeometryLoss) else 1.0


def weight_config(penalty):
    """The arguments that give a penalty, or a `GeometryPenalty`, its weight."""
    if penalty.balance is not None:
        return {"weight": "balanced", "fraction": penalty.balance.fraction}
    weight = float(penalty.weight)
    return {"weight": None if weight == DEFAULT else weight}


def saved_weight(penalty):
    """The entries of a config that restore its weight, and no other variables than it has now."""
    found = weight_config(penalty)
    if penalty._steps is None or found["weight"] is None:
        return found
    return {"weight": None, "assigned_weight": found["weight"]}


def restored(cls, config):
    """A penalty, or a `GeometryPenalty`, from its config."""
    loss = keras.saving.deserialize_keras_object(config["loss"])
    config = {**config, "loss": loss}
    assigned = config.pop("assigned_weight", None)
    penalty = cls(**config)
    if assigned is not None:
        penalty.weight.assign(assigned)
    return penalty


def checked_weight(weight):
    """Return the weight of a penalty as a float, `DEFAULT` for none, or raise."""
    if weight is None:
        return DEFAULT
    is_number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
    if not is_number or not 0 <= weight < math.inf:
        expected = 'a finite number of at least 0, "balanced", or None'
        raise checks.invalid("weight", expected, repr(weight))
    return float(weight)


def layer_taps(penalty):
    """The layers that a penalty on one network taps, as a list."""
    return penalty.taps if isinstance(penalty.taps, list) else [penalty.taps]


def located(penalty, base):
    """The penalty, with patterns and layer objects among its taps replaced by paths of the base.

    If there are any, this is a copy that shares the weight: in another model they mean others.
    """
    if penalty.taps is None:
        return penalty
    taps = penalty.taps if isinstance(penalty.taps, list) else [penalty.taps]
    return _with_taps(penalty, [path for tap in taps for path in paths_of(base, tap)])


def located_pairs(penalty, teacher, student):
    """As `located`, for a penalty that compares a teacher with a student."""
    if penalty.taps is None:
        return penalty
    pairs = []
    for theirs, ours in teacher_student_taps(penalty):
        found = [
            [tap]
            if tap is None or (model is None and isinstance(tap, str))
            else paths_of(model, tap)
            for model, tap in ((teacher, theirs), (student, ours))
        ]
        if len(found[0]) != len(found[1]):
            raise ValueError(
                f"The patterns of the penalty '{penalty.name}' do not fit together. Expected as "
                f"many layers of the teacher as of the student. Received: {found[0]} for "
                f"{theirs!r} and {found[1]} for {ours!r}."
            )
        pairs += zip(*found, strict=True)
    return _with_taps(penalty, pairs)


def _with_taps(penalty, taps):
    given = penalty.taps if isinstance(penalty.taps, list) else [penalty.taps]
    if [*map(_as_tuple, given)] == [*map(_as_tuple, taps)]:
        return penalty
    penalty = copy.copy(penalty)
    penalty.taps = taps
    return penalty


def _as_tuple(tap):
    return tuple(tap) if isinstance(tap, list) else tap


def teacher_student_taps(penalty):
    """The (teacher, student) pairs of layers of a penalty; None in a pair is the output."""
    loss = penalty.loss
    if not is_keras_distillation(loss) and not getattr(loss, "needs_teacher", True):
        raise ValueError(
            f"The penalty '{penalty.name}' does not compare a teacher with a student. Expected a "
            "distillation loss in a Distiller, such as lgg.losses.GraphDistillation. Received: "
            f"{type(loss).__name__}. To put it on the student, add a "
            "lgg.layers.GeometryPenalty to the student."
        )
    named = (getattr(loss, "teacher_layer_name", None), getattr(loss, "student_layer_name", None))
    if named != (None, None):  # keras.distillation.FeatureDistillation names its own layers
        if penalty.taps is not None:
            raise ValueError(
                f"The penalty '{penalty.name}' names its layers twice. Expected them in the loss "
                f"or in `taps`. Received: {named} in the loss and taps={penalty.taps}. "
                "Leave out one of the two."
            )
        return [named]
    if penalty.taps is None:
        return [(None, None)]
    pairs = penalty.taps
    if (
        isinstance(pairs, str)
        or not pairs
        or not all(
            isinstance(pair, list | tuple) and len(pair) == 2 and all(map(_is_end, pair))
            for pair in pairs
        )
    ):
        raise ValueError(
            f"Invalid value for argument `taps` of the penalty '{penalty.name}'. Expected a list "
            f"of (teacher layer, student layer) pairs. Received: taps={pairs!r}. "
            "Write for instance taps=[('teacher_block1', 'student_block1')]."
        )
    return [tuple(pair) for pair in pairs]


def _is_tap(tap):
    return isinstance(tap, str | keras.layers.Layer)


def _is_end(tap):
    """Whether this can be one of a pair of taps; ``None`` is the output."""
    return tap is None or _is_tap(tap)


def base_penalty(penalty, base):
    """The penalty `located` on one network, or raise where it cannot act on it."""
    loss, taps = penalty.loss, penalty.taps
    if is_keras_distillation(loss) or getattr(loss, "needs_teacher", False):
        raise ValueError(
            f"The penalty '{penalty.name}' compares a teacher with a student. Expected a loss on "
            f"one network in a GeometryModel. Received: {type(loss).__name__}. "
            "Use lgg.Distiller(teacher, student, penalties)."
        )
    if taps is not None and not (taps and all(map(_is_tap, layer_taps(penalty)))):
        raise ValueError(
            f"Invalid value for argument `taps` of the penalty '{penalty.name}'. Expected the path "
            f"of a layer, a pattern, a layer, or a list of them. Received: taps={taps!r}."
        )
    penalty = located(penalty, base)
    if getattr(loss, "across_layers", False) and len(layer_taps(penalty) if taps else []) < 2:
        raise ValueError(
            f"The penalty '{penalty.name}' compares layers with each other. Expected at least two "
            f"taps. Received: taps={taps!r}. Name them in their order along the depth, such as "
            "taps=['block1', 'block2']."
        )
    outputs = getattr(base, "outputs", None)
    if taps is None and outputs is not None and len(outputs) > 1:
        raise ValueError(
            f"The penalty '{penalty.name}' cannot tell which output it acts on. Expected `taps` "
            f"in a model of several outputs. Received: taps=None with {len(outputs)} outputs. "
            f"Name one of the output layers: {base.output_names}."
        )
    return penalty


def check_penalties(penalties):
    """Return the penalties of a model as a list, or raise."""
    penalties = list(penalties) if isinstance(penalties, list | tuple) else [penalties]
    for penalty in penalties:
        if not isinstance(penalty, Penalty):
            raise ValueError(
                "Invalid value for argument `penalties`. Expected a list of keras_lgg.Penalty. "
                f"Received: {penalty!r} in it. Wrap a loss as lgg.Penalty(loss, taps=[...])."
            )
    names = [penalty.name for penalty in penalties]
    for name in names:
        if names.count(name) > 1 or name == "loss":
            raise ValueError(
                f"The penalty name '{name}' is taken. Expected one name for each metric. Received: "
                f"penalties named {names}. Pass lgg.Penalty(..., name='another_name')."
            )
    return penalties


def _snake_case(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
