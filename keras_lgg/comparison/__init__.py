"""Does a penalty help? Models with and without it, over several seeds, by measures you choose::

    compare(build, penalties, data, test_data=..., measures=["accuracy", "noise_accuracy"])

returns a table of effects with their spread, a verdict in words, and a figure.
"""

from keras_lgg.comparison.measures import Measure
from keras_lgg.comparison.result import Comparison
from keras_lgg.comparison.runs import compare

__all__ = ["Comparison", "Measure", "compare"]


def __dir__():
    return __all__
