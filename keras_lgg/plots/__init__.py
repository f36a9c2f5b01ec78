"""Figures of latent geometry graphs, of how they change along the depth, and of what that brings.

Every function returns a `matplotlib.figure.Figure`, and shows none. Figures are as wide as a column
of a paper, colours are those of Okabe and Ito, and markers or lines distinguish what colours do::

    from keras_lgg import plots

    layers = plots.representations(model, x_test[:100], ["block1", "block2", "block3"])
    plots.layer_graphs(layers, y_test[:100]).savefig("graphs.pdf")

Needs the extra ``plots``.
"""

from keras_lgg.plots.comparison import effects
from keras_lgg.plots.curves import robustness, smoothness, trade_off
from keras_lgg.plots.graphs import layer_graph, layer_graphs, representations, similarity_matrix
from keras_lgg.plots.maps import similarity_map
from keras_lgg.plots.retrieved import neighbours

__all__ = [
    "effects",
    "layer_graph",
    "layer_graphs",
    "neighbours",
    "representations",
    "robustness",
    "similarity_map",
    "similarity_matrix",
    "smoothness",
    "trade_off",
]


def __dir__():
    return __all__
