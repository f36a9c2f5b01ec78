"""How good an embedding is for retrieval: do samples find those that are like them?

::

    evaluate(queries, keys)      recall, precision and mean ranks, by labels or by pairs
    neighbours(queries, keys)    the nearest keys themselves

Both are exact, work in blocks, and take arrays of any backend. `keras_lgg.plots.neighbours` draws
what was found, and `keras_lgg.callbacks.RetrievalMonitor` measures an embedding while it trains.
"""

from keras_lgg.retrieval.evaluation import evaluate
from keras_lgg.retrieval.search import neighbours

__all__ = ["evaluate", "neighbours"]


def __dir__():
    return __all__
