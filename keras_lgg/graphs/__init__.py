"""Latent geometry graphs: how similar the samples of a batch look to one layer.

Every function takes the representations of one batch, of shape ``(n, ...)``, and flattens them
to ``(n, d)``. Arithmetic runs in float32 at least (float16, bfloat16 and integers are cast up)
and stays in float64 where the input is float64. Values and gradients are finite for zero rows,
duplicates, isolated nodes and a batch of one; a NaN in the input stays visible in the output.

References:
    Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space Geometries with
    Graphs", Algorithms 14(2):39, 2021, https://arxiv.org/abs/2011.07343
"""

from keras_lgg.graphs.functions import (
    knn_mask,
    label_smoothness,
    laplacian,
    latent_geometry_graph,
    normalize_degrees,
    pairwise_distances,
    similarity,
    smoothness,
)

__all__ = [
    "knn_mask",
    "label_smoothness",
    "laplacian",
    "latent_geometry_graph",
    "normalize_degrees",
    "pairwise_distances",
    "similarity",
    "smoothness",
]


def __dir__():
    return __all__
