"""What the perturbations of `keras_lgg.robustness` share."""

import contextlib
import math
import numbers
import random
import zlib
from collections.abc import Iterable

import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.arrays import host_array


class DataPerturbation:
    """What changes the data alone, and so serves all models.

    A subclass has a ``name``, its ``severities``, and ``data(images, labels, *, seed)``, which
    yields images, float32 in [0, 1], and labels at each severity.
    """


class ModelPerturbation:
    """What must be computed for each model by itself.

    A subclass has a ``name``, its ``severities``, and ``outputs(network, images, labels, *,
    seed)``, which yields the outputs of the network at each severity.
    """


def store_numbers(perturbation, argument, is_valid, expected):
    """Keep a sweep as a tuple; an error unless it holds numbers, each valid and given once."""
    values = getattr(perturbation, argument)
    found = tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else ()
    are_numbers = all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in found)
    if (
        not found
        or not are_numbers
        or not all(map(is_valid, found))
        or len(set(found)) < len(found)
    ):
        raise checks.invalid(argument, f"a tuple of different {expected}", repr(values))
    object.__setattr__(perturbation, argument, found)


def is_positive(value):
    """Whether a number is positive and finite."""
    return 0 < value < math.inf


def sample_rng(seed, name, severity, index):
    """The generator of one sample, which neither order nor batch size can change."""
    key = zlib.crc32(f"{name} {float(severity)}".encode())
    return np.random.default_rng([seed, key, index])


def norms(x):
    """L2 norms of the samples of ``x``, in float64, of shape (n, 1, 1, ...)."""
    x = np.asarray(x, "float64")
    return np.sqrt(np.sum(x * x, axis=tuple(range(1, x.ndim)), keepdims=True))


def at_snr(images, noise, snr):
    """The noise scaled, image by image, to ``20 log10(||image|| / ||noise||) == snr``."""
    return (unit(noise) * norms(images) / 10 ** (snr / 20)).astype("float32")


def unit(x):
    """The samples of ``x`` at length 1; those of length 0 stay."""
    length = norms(x)
    return x / np.where(length > 0, length, 1)


def checked_data(data):
    """The images, float32 in [0, 1], and the labels, of shape (n,)."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise checks.invalid("data", "a pair (images, labels)", type(data).__name__)
    images = host_array("data", data[0], "images of shape (n, ...)")
    labels = host_array("data", data[1], "integer labels of shape (n,)")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        received = f"labels of {labels.dtype} and of shape {labels.shape}"
        raise checks.invalid("data", "integer labels of shape (n,)", received)
    if images.ndim < 2 or len(images) != len(labels) or images.size == 0:
        received = f"{images.shape} images and {len(labels)} labels"
        raise checks.invalid("data", "images of shape (n, ...), and a label for each", received)
    return checks.unit_pixels("data", images), labels


@contextlib.contextmanager
def global_random_states():
    """Python's and NumPy's global random states come out as they went in."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
