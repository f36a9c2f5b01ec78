"""Callbacks for training under geometry penalties: guard, backup, weights, monitors, figures."""

from keras_lgg.callbacks.backup import AtomicBackup
from keras_lgg.callbacks.checkpoint import PlainCheckpoint
from keras_lgg.callbacks.guard import GeometryGuard
from keras_lgg.callbacks.monitor import GeometryMonitor
from keras_lgg.callbacks.retrieval import RetrievalMonitor
from keras_lgg.callbacks.schedules import PenaltyWeightSchedule
from keras_lgg.callbacks.snapshots import GraphSnapshot

__all__ = [
    "AtomicBackup",
    "GeometryGuard",
    "GeometryMonitor",
    "GraphSnapshot",
    "PenaltyWeightSchedule",
    "PlainCheckpoint",
    "RetrievalMonitor",
]


def __dir__():
    return __all__
