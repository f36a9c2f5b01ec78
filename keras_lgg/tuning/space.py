"""The space of penalties that a tuner searches: their weights, and choices of their arguments."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_lgg.checks import check_positive_integer, invalid
from keras_lgg.training.penalties import Penalty, fresh, weight_config

PER_DECADE = 4  # weights closer to each other train the same network, up to noise
LOSS_ARGUMENTS = ("k", "power", "alpha")


@dataclasses.dataclass(frozen=True)
class PenaltySpace:
    """What to search for one penalty.

    ``weights`` is a list that starts with 0, or ``None``; ``options`` maps each argument to a dict
    from labels to values, since the values of a KerasTuner choice must have one type, and not be
    None.
    """

    template: Penalty
    weights: list[float] | None
    options: dict[str, dict[str, Any]]

    @property
    def names(self):
        """The names of all hyperparameters that such a penalty may have."""
        return [f"{self.template.name}/{a}" for a in ("weight", *LOSS_ARGUMENTS, "taps")]

    def choose(self, hp):
        """The weight, and the label of each option; no labels if the penalty is off."""
        with hp.name_scope(self.template.name):
            if self.weights is None:
                return self._own_weight(), self._labels(hp)
            weight = hp.Choice("weight", self.weights)
            if not self.options:
                return weight, {}
            with hp.conditional_scope("weight", self.weights[1:]):
                labels = self._labels(hp)
            return weight, labels if weight else {}

    def _own_weight(self):
        weight = weight_config(self.template)["weight"]
        return _plain(weight) if isinstance(weight, float) else weight

    def _labels(self, hp):
        return {
            argument: hp.Choice(argument, list(self.options[argument])) for argument in self.options
        }

    def penalty(self, hp):
        """A fresh copy of the template, as ``hp`` chooses it."""
        weight, labels = self.choose(hp)
        chosen = {argument: self.options[argument][label] for argument, label in labels.items()}
        taps = chosen.pop("taps", self.template.taps)
        loss = _with_arguments(self.template.loss, chosen)
        return fresh(self.template, loss=loss, taps=taps, weight=weight)

    def combinations(self):
        """How many penalties there are to try."""
        options = math.prod(len(labels) for labels in self.options.values())
        return options if self.weights is None else 1 + (len(self.weights) - 1) * options


def penalty_spaces(templates, given):
    """A `PenaltySpace` for each penalty, from arguments given for all of them or by name."""
    of_all = {
        argument: _by_penalty(argument, value, templates) for argument, value in given.items()
    }
    return [
        PenaltySpace(
            template,
            _weights(of_all["weights"].get(template.name)),
            {
                argument: _labelled(argument, values[template.name], template)
                for argument, values in of_all.items()
                if argument != "weights" and values.get(template.name) is not None
            },
        )
        for template in templates
    ]


def _by_penalty(argument, given, templates):
    """Dict from the names of penalties to the argument for each."""
    names = [template.name for template in templates]
    is_of_all = not isinstance(given, Mapping)
    if argument == "taps" and not is_of_all:
        is_of_all = not all(isinstance(value, Mapping) for value in given.values())
    if is_of_all:
        return dict.fromkeys(names, given)
    unknown = [name for name in given if name not in names]
    if unknown or not given:
        raise invalid(argument, f"names of penalties among {names}", repr(given))
    return dict(given)


def _weights(given):
    """0 and the weights of a range ``(low, high)`` or ``(low, high, count)``, or ``None``."""
    if given is None:
        return None
    expected = "(low, high) or (low, high, count), with 0 < low <= high and a count of at least 1"
    if not isinstance(given, Sequence) or len(given) not in (2, 3):
        raise invalid("weights", expected, repr(given))
    try:
        low, high = float(given[0]), float(given[1])
    except (TypeError, ValueError):
        raise invalid("weights", expected, repr(given)) from None
    if not 0 < low <= high < math.inf:
        raise invalid("weights", f"{expected} (0 is tried in any case)", repr(given))
    decades = math.log10(high / low)
    count = given[2] if len(given) == 3 else 1 + math.ceil(PER_DECADE * decades - 1e-6)
    check_positive_integer("weights", count)
    return [0.0, *dict.fromkeys(_plain(weight) for weight in np.geomspace(low, high, count))]


def _plain(weight):
    """A weight with the digits that a person would write."""
    return float(f"{float(weight):.6g}")


def _labelled(argument, values, template):
    """Dict from labels to the values to choose from, checked."""
    if argument == "taps":
        if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
            raise invalid("taps", "a dict from names of your own to taps", repr(values))
        return dict(values)
    if not isinstance(values, list | tuple) or not values:
        raise invalid(argument, "a list of values to choose from", repr(values))
    for value in values:
        _with_arguments(template.loss, {argument: value}, template.name)
    return {str(value): value for value in values}


def _with_arguments(loss, chosen, name=""):
    """The loss with these arguments, or the loss itself if there are none."""
    if not chosen:
        return loss
    config = loss.get_config()
    missing = [argument for argument in chosen if argument not in config]
    if missing:
        raise ValueError(
            f"The penalty '{name}' has no `{missing[0]}` to search. Expected one of the arguments "
            f"of {type(loss).__name__}: {sorted(config)}. Received: {missing[0]}. Name the "
            f"penalties that have one, such as {missing[0]}={{'graph_variation': [None, 5]}}."
        )
    return type(loss).from_config({**config, **chosen})
