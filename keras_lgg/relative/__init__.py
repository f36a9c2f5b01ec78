"""Relative representations: each sample is described by its similarities to fixed anchors.

Codes that do not change when a space is rotated or scaled let encoders and decoders that were
trained apart work together::

    from keras_lgg import layers, relative

    anchors = relative.select_anchors(x_train, 500)  # the same list for every network
    layer = layers.RelativeRepresentation(x_train[anchors], encoder=encoder)
    ...
    model = relative.stitch(encoder_of_one, decoder_of_the_other)

How similar two spaces are, or all layers of two networks::

    relative.debiased_cka(encoder_of_one.predict(x), encoder_of_the_other.predict(x))
    relative.similarity_map(one, other, x).matrix
"""

from keras_lgg.relative.anchors import select_anchors
from keras_lgg.relative.comparison import compare_spaces, linear_cka
from keras_lgg.relative.correlations import pwcca, svcca
from keras_lgg.relative.densification import DensificationLoss, densification_loss
from keras_lgg.relative.geometry import neighbour_jaccard, procrustes_distance, rsa
from keras_lgg.relative.kernels import debiased_cka, minibatch_cka, rbf_cka
from keras_lgg.relative.projection import (
    anchor_statistics,
    class_codes,
    quantize,
    relative_projection,
)
from keras_lgg.relative.similarity_maps import SimilarityMap, similarity_map
from keras_lgg.relative.stitching import StitchingReport, stitch, stitching_matrix
from keras_lgg.relative.translation import Affine, InverseRelative, LeastSquares, Procrustes

__all__ = [
    "Affine",
    "DensificationLoss",
    "InverseRelative",
    "LeastSquares",
    "Procrustes",
    "SimilarityMap",
    "StitchingReport",
    "anchor_statistics",
    "class_codes",
    "compare_spaces",
    "debiased_cka",
    "densification_loss",
    "linear_cka",
    "minibatch_cka",
    "neighbour_jaccard",
    "procrustes_distance",
    "pwcca",
    "quantize",
    "rbf_cka",
    "relative_projection",
    "rsa",
    "select_anchors",
    "similarity_map",
    "stitch",
    "stitching_matrix",
    "svcca",
]


def __dir__():
    return __all__
