"""Does a penalty help? Models with it and without, over seeds, by what they are for.

    compare(build, penalties, data, test_data=..., measures=["accuracy", "noise_accuracy"])

gives a table of effects with their spread, a verdict in words, and a figure.
"""

from keras_lgg.comparison.measures import Measure
from keras_lgg.comparison.result import Comparison
from keras_lgg.comparison.runs import compare

__all__ = ["Comparison", "Measure", "compare"]


def __dir__():
    return __all__
