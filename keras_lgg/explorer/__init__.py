"""A page on which one looks into networks: the geometry of their layers on a batch.

    lgg.explore(model, x_test[:500], y_test[:500]).save("page.html")

The page is one file that opens anywhere, with no server and nothing from the network. Needs the
extra ``explorer`` where it is made.
"""

from keras_lgg.explorer.exploration import Exploration, explore

__all__ = ["Exploration", "explore"]


def __dir__():
    return __all__
