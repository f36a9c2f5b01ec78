"""Layers for your own models: geometry losses as layers, and relative representations."""

from keras_lgg.relative.deployment import with_fixed_anchors
from keras_lgg.relative.layer import RelativeRepresentation
from keras_lgg.training.penalty_layer import GeometryPenalty, without_penalties

__all__ = ["GeometryPenalty", "RelativeRepresentation", "with_fixed_anchors", "without_penalties"]


def __dir__():
    return __all__
