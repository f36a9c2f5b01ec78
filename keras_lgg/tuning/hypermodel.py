"""The model that a tuner builds and trains, and whose penalties it chooses."""

import collections
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_lgg.checks import invalid, require
from keras_lgg.training.models import PenalizedModel
from keras_lgg.training.penalties import Penalty, check_penalties, named_taps
from keras_lgg.training.penalty_layer import GeometryPenalty
from keras_lgg.tuning.space import penalty_spaces
from keras_lgg.types import Taps

# At the top, for the base class; the package imports these modules only on demand.
if TYPE_CHECKING:
    import keras_tuner as kt
else:
    kt = require("keras_tuner", "tuner")


class PenaltyHyperModel(kt.HyperModel):
    """A `keras_tuner.HyperModel`: models under penalties whose weights a tuner searches.

    A weight is chosen from a list of values that starts with 0 and is then evenly spaced on a log
    scale. So every tuner can try the model without the penalty; k, power, alpha and taps are not
    searched for a penalty that is off. In the tuner, the hyperparameters are called
    ``"<penalty>/weight"``, ``"<penalty>/k"`` and so on.

    Args:
        build: Function ``build(penalties)``, or ``build(penalties, hp)`` to tune more, such as a
            learning rate ``hp.Float(...)``, that returns a compiled model with all of the
            penalties, which come in the order of ``penalties``. They act in a `GeometryModel` or a
            `Distiller`; as layers ``GeometryPenalty(penalty.loss, float(penalty.weight))``; or as
            the loss of ``compile``, with ``loss_weights=float(penalty.weight)`` if the weight is
            searched.
        penalties: A `Penalty`, or a list of them: templates of what ``build`` is given.
        weights: ``(low, high)``, the smallest weight above 0 and the largest, or ``(low, high,
            count)`` with the number of weights; by default 4 per decade. ``None`` keeps the weight
            of the template. A dict from names of penalties gives each its own range; penalties it
            does not name keep their weight.
        k: List of values to try as the ``k`` of the loss, such as ``[None, 5, 10]``; a dict from
            names of penalties gives each its own list. ``None`` keeps the value of the template.
        power: List of values to try as the ``power`` of the loss, such as ``[1, 2]``, or a dict or
            ``None``, as for ``k``.
        alpha: List of values to try as the ``alpha`` of the loss, such as ``[0.5, 1.0]``, or a dict
            or ``None``, as for ``k``.
        taps: Dict from names of your choice to taps, such as ``{"early": ["h1", "h2"], "late":
            ["h3", "h4"]}``; a dict of such dicts, by names of penalties, gives each its own.
            ``None`` keeps the taps of the template.
        seed: Seed of the initial weights and of the order of the batches, set by
            `keras.utils.set_random_seed`. It is the same for all trials, so that they differ in
            nothing else, and goes up by one for each further execution of a trial, or if a tuner
            tries the same values again, as the Bayesian one may. ``None`` sets no seed.

    Raises:
        ValueError: If a range or a choice has none of these forms, or names a penalty that does not
            exist or an argument that its loss does not have; in the search, if ``build`` does not
            return a compiled model, or one in which a penalty does not act with its weight.

    Example:
        >>> import keras, keras_tuner as kt, keras_lgg as lgg
        >>> def build(penalties):
        ...     layers = [keras.layers.Dense(8, name=name) for name in ("h1", "h2")]
        ...     model = lgg.GeometryModel(keras.Sequential([keras.Input((4,)), *layers]), penalties)
        ...     model.compile("adam", "mse")
        ...     return model
        >>> penalty = lgg.Penalty(lgg.losses.GraphVariation(), taps=["h1", "h2"])
        >>> hyper = lgg.tuning.PenaltyHyperModel(build, penalty, weights=(0.1, 10, 3), k=[None, 5])
        >>> hp = kt.HyperParameters()
        >>> _ = hyper.build(hp)  # a tuner does this: kt.RandomSearch(hyper, ...)
        >>> [parameter.name for parameter in hp.space]
        ['graph_variation/weight', 'graph_variation/k']
        >>> hp.space[0].values
        [0.0, 0.1, 1.0, 10.0]
    """

    def __init__(
        self,
        build: Callable[..., keras.Model],
        penalties: Penalty | Sequence[Penalty],
        *,
        weights: Sequence[float] | Mapping[str, Sequence[float] | None] | None,
        k: Sequence[int | None] | Mapping[str, Sequence[int | None]] | None = None,
        power: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
        alpha: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
        taps: Mapping[str, Taps] | Mapping[str, Mapping[str, Taps]] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not callable(build):
            raise invalid("build", "a function build(penalties)", repr(build))
        if not penalties:
            raise invalid("penalties", "at least one lgg.Penalty", repr(penalties))
        self._build_model = build
        self._seed = seed
        self._times_trained: collections.Counter[Any] = collections.Counter()
        self._spaces = penalty_spaces(
            check_penalties(penalties),
            {"weights": weights, "k": k, "power": power, "alpha": alpha, "taps": taps},
        )

    def build(self, hp: kt.HyperParameters) -> keras.Model:
        """Build a model with fresh penalties, as ``hp`` chooses them."""
        self._set_seed(hp)
        penalties = self.penalties(hp)
        takes_hp = "hp" in inspect.signature(self._build_model).parameters
        model = self._build_model(penalties, **({"hp": hp} if takes_hp else {}))
        _check_model(model, penalties)
        if model.built and model.optimizer is not None and not model.optimizer.built:
            # KerasTuner loads checkpoints, with an optimizer's variables, before any training.
            model.optimizer.build(model.trainable_variables)
        return model

    def fit(
        self, hp: kt.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """`keras.Model.fit`, with the batches in the order that the seed gives."""
        self._set_seed(hp)
        self._times_trained[_key(hp)] += 1
        # A weight that ruins the network makes a trial with a bad score, and is no reason to stop.
        callbacks = [*kwargs.pop("callbacks", []), keras.callbacks.TerminateOnNaN()]
        return super().fit(hp, model, *args, callbacks=callbacks, **kwargs)

    @property
    def taps(self) -> list[str]:
        """The layers of the trained network that the templates tap."""
        return named_taps(space.template for space in self._spaces)

    def penalties(self, hp: kt.HyperParameters) -> list[Penalty]:
        """Fresh copies of the penalties, as ``hp`` chooses them."""
        return [space.penalty(hp) for space in self._spaces]

    def weights(self, hp: kt.HyperParameters) -> dict[str, float]:
        """The weight of each penalty by name, as ``hp`` chooses it, if it is a number."""
        chosen = {space.template.name: space.choose(hp)[0] for space in self._spaces}
        return {name: weight for name, weight in chosen.items() if isinstance(weight, float)}

    def others(self, hp: kt.HyperParameters) -> dict[str, Any]:
        """All that ``hp`` chooses except the weights, by hyperparameter; for taps, their name."""
        chosen = {}
        for space in self._spaces:
            for argument, label in space.choose(hp)[1].items():
                value = label if argument == "taps" else space.options[argument][label]
                chosen[f"{space.template.name}/{argument}"] = value
        ours = {name for space in self._spaces for name in space.names}
        return {**chosen, **{name: v for name, v in hp.values.items() if name not in ours}}

    def _set_seed(self, hp):
        # Counted, since KerasTuner does not say for which execution of a trial it builds.
        if self._seed is not None:
            keras.utils.set_random_seed(self._seed + self._times_trained[_key(hp)])


def _key(hp):
    """A key that tells trials apart, to count how often each was trained."""
    return tuple(sorted(hp.values.items()))


def _check_model(model, penalties):
    """Raise if the model cannot be trained, or a penalty does not act with its weight."""
    if not isinstance(model, keras.Model) or not model.compiled:
        received = f"a {type(model).__name__}"
        received += " that is not compiled" if isinstance(model, keras.Model) else ""
        # A fatal error ends the search; any other error makes a failed trial.
        raise kt.errors.FatalValueError(
            "Invalid value for argument `build`. Expected a function that returns a compiled "
            f"keras.Model. Received: one that returned {received}."
        )
    acting = list(_acting(model))
    for penalty in penalties:
        weights = [weight for loss, weight in acting if loss is penalty.loss]
        if not np.isclose(weights, float(penalty.weight), rtol=1e-5, atol=0).any():
            found = f"it with the weights {weights}" if weights else "a model without its loss"
            raise kt.errors.FatalValueError(
                f"The penalty '{penalty.name}' does not act with its weight. Expected each of "
                "the penalties that build(penalties) is given in the model that it returns: in "
                "lgg.GeometryModel(base, penalties) or lgg.Distiller, as "
                "lgg.layers.GeometryPenalty(penalty.loss, float(penalty.weight)), or as "
                "compile(loss=penalty.loss, loss_weights=float(penalty.weight)). Received: "
                f"{found}."
            )


def _acting(model):
    """Each loss in a model that may belong to a penalty, with its weight."""
    for layer in model._flatten_layers():
        if isinstance(layer, PenalizedModel):
            yield from ((penalty.loss, float(penalty.weight)) for penalty in layer.penalties)
        elif isinstance(layer, GeometryPenalty):
            yield layer.loss, float(layer.weight)
    losses = keras.tree.flatten(model.loss)
    weights = keras.tree.flatten(model.get_compile_config().get("loss_weights"))
    if weights == [None]:
        weights = [1.0] * len(losses)
    yield from zip(losses, weights, strict=False)
