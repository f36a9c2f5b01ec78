"""How losses enter a training: penalties, taps, and the models and the layer that hold them.

Its names are public at the top level, such as `keras_lgg.GeometryModel`, and in `keras_lgg.layers`.
"""

from keras_lgg.training.distiller import Distiller
from keras_lgg.training.geometry_model import GeometryModel
from keras_lgg.training.paths import layer_paths
from keras_lgg.training.penalties import Penalty
from keras_lgg.training.penalty_layer import GeometryPenalty, without_penalties
from keras_lgg.training.tapping import tapping
from keras_lgg.training.teacher_cache import teacher_cache

__all__ = [
    "Distiller",
    "GeometryModel",
    "GeometryPenalty",
    "Penalty",
    "layer_paths",
    "tapping",
    "teacher_cache",
    "without_penalties",
]


def __dir__():
    return __all__
