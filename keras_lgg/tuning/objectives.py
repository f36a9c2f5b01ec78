"""Objectives of a search that are measured on the plain network, by name."""

from collections.abc import Sequence
from typing import Any, Self

import keras
import keras_tuner as kt
import numpy as np

from keras_lgg.checks import invalid
from keras_lgg.comparison.measures import NAMES, is_of_retrieval, measure
from keras_lgg.training.models import network_of
from keras_lgg.types import Data


def is_measure(objective: str) -> bool:
    """Whether an objective is a measure of `comparison.compare`, not a metric of ``compile``."""
    return objective != "accuracy" and (objective in NAMES or is_of_retrieval(objective))


class Measuring(keras.callbacks.Callback):
    """Logs a measure of the plain network on held-out data at the end of each epoch.

    Args:
        name: Name of the measure; it is logged with ``val_`` in front.
        taps: Layers of the network in which units are dropped.
        data: Arrays ``(x, y)``.
    """

    def __init__(self, name: str, taps: Sequence[str], data: Data) -> None:
        super().__init__()
        self.measure = measure(name, taps)
        self._data = _checked(name, data)
        self.objective = kt.Objective(f"val_{name}", self.measure.best)

    def __deepcopy__(self, memo: Any) -> Self:  # done by a tuner for each trial; shares the data
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        value = self.measure.value(network_of(self.model), *self._data)
        if logs is not None:
            logs[self.objective.name] = float(value)


def _checked(name, data):
    is_pair = isinstance(data, tuple | list) and len(data) in (2, 3)
    flat = keras.tree.flatten(data[0]) if is_pair else []
    if not flat or not all(isinstance(x, np.ndarray) for x in flat):
        expected = f"arrays (x, y), on which {name!r} can be measured"
        raise invalid("validation_data", expected, type(data).__name__)
    return data[0], np.asarray(data[1])
