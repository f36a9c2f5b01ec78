"""A page to look into networks: the geometry of their layers on a batch::

    lgg.explore(model, x_test[:500], y_test[:500]).save("page.html")

The page is one file that opens anywhere, without a server or a network. Making it needs the extra
``explorer``.
"""

from keras_lgg.explorer.exploration import Exploration, explore

__all__ = ["Exploration", "explore"]


def __dir__():
    return __all__
