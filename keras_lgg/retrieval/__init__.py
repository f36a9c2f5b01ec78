"""What an embedding is worth: do samples find those that are like them?

    evaluate(queries, keys)      recall, precision and mean ranks, by labels or by pairs
    neighbours(queries, keys)    the nearest keys themselves

Exact, on arrays of NumPy and on Keras models.
"""

from keras_lgg.retrieval.evaluation import evaluate
from keras_lgg.retrieval.search import neighbours

__all__ = ["evaluate", "neighbours"]


def __dir__():
    return __all__
