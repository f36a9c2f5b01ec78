"""Search for the weights of penalties, and their k, power, alpha and taps, with KerasTuner."""

from keras_lgg.tuning.hypermodel import PenaltyHyperModel
from keras_lgg.tuning.result import PenaltySearch
from keras_lgg.tuning.search import search_penalty_weights

__all__ = ["PenaltyHyperModel", "PenaltySearch", "search_penalty_weights"]


def __dir__():
    return __all__
