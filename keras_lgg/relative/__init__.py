"""Relative representations: a sample described by its similarities to fixed anchors.

Codes that do not change when a space is turned or scaled let encoders and decoders that were
trained apart understand each other::

    from keras_lgg import layers, relative

    anchors = relative.select_anchors(x_train, 500)  # the same list for every network
    layer = layers.RelativeRepresentation(x_train[anchors], encoder=encoder)
    ...
    model = relative.stitch(encoder_of_one, decoder_of_the_other)
"""

from keras_lgg.relative.anchors import select_anchors
from keras_lgg.relative.comparison import compare_spaces, linear_cka
from keras_lgg.relative.densification import DensificationLoss, densification_loss
from keras_lgg.relative.projection import (
    anchor_statistics,
    class_codes,
    quantize,
    relative_projection,
)
from keras_lgg.relative.stitching import StitchingReport, stitch, stitching_matrix
from keras_lgg.relative.translation import Affine, InverseRelative, LeastSquares, Procrustes

__all__ = [
    "Affine",
    "DensificationLoss",
    "InverseRelative",
    "LeastSquares",
    "Procrustes",
    "StitchingReport",
    "anchor_statistics",
    "class_codes",
    "compare_spaces",
    "densification_loss",
    "linear_cka",
    "quantize",
    "relative_projection",
    "select_anchors",
    "stitch",
    "stitching_matrix",
]


def __dir__():
    return __all__
