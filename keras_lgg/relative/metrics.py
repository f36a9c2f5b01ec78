"""What decoders are scored by: a named metric, or a function of targets and outputs."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from keras_lgg.checks import invalid, require

Metric: TypeAlias = str | Callable[[Any, np.ndarray], float]

WINDOW = 7  # pixels, the side of the window that SSIM compares at a time


def scorers_of(metrics, y):
    """By name: functions that score outputs against ``y``, and are NaN for ``None``."""
    found = {}
    for metric in metrics:
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
        if name in found:
            raise invalid("metric", "metrics of different names", f"'{name}' twice")
        found[name] = _scorer(metric, y)
    if not found:
        raise invalid("metric", "at least one", "none")
    return found


def _scorer(metric, y):
    if not callable(metric):
        if metric not in _METRICS:
            raise invalid("metric", f"one of {tuple(_METRICS)}, or a function", repr(metric))
        kind, metric = _METRICS[metric]
        kind(y)
    return lambda outputs: float("nan") if outputs is None else float(metric(y, outputs))


def _are_images(y):
    if np.min(y) < 0 or np.max(y) > 1:
        raise invalid("data", "targets in [0, 1]", f"targets from {np.min(y)} to {np.max(y)}")


def _are_pictures(y):
    _are_images(y)
    if np.ndim(y) != 4 or min(np.shape(y)[1:3]) < WINDOW:
        expected = f"images (n, height, width, channels) of at least {WINDOW} pixels per side"
        raise invalid("data", expected, f"targets of shape {np.shape(y)}")


def _are_any(y):
    del y


def _are_classes(y):
    if np.ndim(y) != 1 or np.asarray(y).dtype.kind not in "iu":
        raise invalid("data", "integer classes (n,)", f"targets of shape {np.shape(y)}")


def _squared_errors(y, outputs):
    """Mean squared error of each image."""
    if np.shape(y) != np.shape(outputs):
        raise ValueError(
            "The decoders do not give what they are measured against. Expected outputs of shape "
            f"{np.shape(y)}. Received: {np.shape(outputs)}. Pass the targets of the decoders as y."
        )
    return np.mean(np.square(y - outputs).reshape(len(y), -1), axis=1)


def _mse(y, outputs):
    return np.mean(_squared_errors(y, outputs))


def _psnr(y, outputs):
    with np.errstate(divide="ignore"):  # a perfect image has an infinite PSNR
        return np.mean(-10 * np.log10(_squared_errors(y, outputs)))


def _ssim(y, outputs):
    structural_similarity = require("skimage.metrics", "relative").structural_similarity
    _squared_errors(y, outputs)
    return np.mean(
        [
            structural_similarity(a, b, win_size=WINDOW, data_range=1.0, channel_axis=-1)
            for a, b in zip(np.asarray(y, "float32"), outputs, strict=True)
        ]
    )


def _best_classes(outputs):
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ValueError(
            "The decoders do not give class scores. Expected outputs of shape (n, classes), with "
            f"at least 2 classes. Received: {outputs.shape}. Pass a function as `metric`."
        )
    return np.argmax(outputs, axis=1)


def _accuracy(y, outputs):
    return np.mean(_best_classes(outputs) == y)


def _f1(y, outputs):
    f1_score = require("sklearn.metrics", "relative").f1_score
    return f1_score(y, _best_classes(outputs), average="weighted", zero_division=0)


_METRICS = {
    "mse": (_are_any, _mse),
    "psnr": (_are_images, _psnr),
    "ssim": (_are_pictures, _ssim),
    "accuracy": (_are_classes, _accuracy),
    "f1": (_are_classes, _f1),
}
