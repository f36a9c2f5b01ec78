"""Train networks by the geometry of their latent spaces, with Keras 3."""

import importlib

from keras_lgg import (
    callbacks,
    comparison,
    constraints,
    datasets,
    distribute,
    graphs,
    layers,
    losses,
    manifolds,
    plots,
    relative,
    retrieval,
    robustness,
)
from keras_lgg.comparison.runs import compare
from keras_lgg.training.distiller import Distiller
from keras_lgg.training.geometry_model import GeometryModel
from keras_lgg.training.paths import layer_paths
from keras_lgg.training.penalties import Penalty
from keras_lgg.training.tapping import tapping
from keras_lgg.training.teacher_cache import teacher_cache

__version__ = "0.2.0"

__all__ = [
    "Distiller",
    "GeometryModel",
    "Penalty",
    "callbacks",
    "compare",
    "comparison",
    "constraints",
    "datasets",
    "distribute",
    "explore",
    "explorer",
    "graphs",
    "layer_paths",
    "layers",
    "losses",
    "manifolds",
    "plots",
    "relative",
    "retrieval",
    "robustness",
    "tapping",
    "teacher_cache",
    "tuning",
]


def __getattr__(name):
    # Imported only on demand: one brings KerasTuner with it, the other is large.
    if name in ("explorer", "tuning"):
        return importlib.import_module(f"keras_lgg.{name}")
    if name == "explore":
        return importlib.import_module("keras_lgg.explorer").explore
    raise AttributeError(f"module 'keras_lgg' has no attribute '{name}'")


def __dir__():
    return __all__
