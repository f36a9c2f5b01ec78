"""What the perturbations of `keras_lgg.robustness` share."""

import contextlib
import math
import numbers
import random
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

from keras_lgg import checks
from keras_lgg.robustness.inputs import KINDS


class DataPerturbation:
    """What changes the data alone, and so serves all models: the base of one's own.

    A subclass has a ``name``, its ``severities``, and ``data(inputs, labels, *, seed)``, which
    yields inputs and labels at each severity. ``takes`` says of what kinds its inputs are:
    ``"pixels"`` (images, float32 in [0, 1]), ``"ids"`` (token ids, integers of shape (n, T)),
    ``"texts"`` (an array of ``str``, of shape (n,)), ``"several"`` (a dict or list of arrays); any
    of them by default. `evaluate` refuses others.

    Example:
        >>> from keras_lgg import robustness
        >>> class Darker(robustness.DataPerturbation):
        ...     name, severities, takes = "darker", (0.5, 0.25), ("pixels",)
        ...
        ...     def data(self, inputs, labels, *, seed):
        ...         for share in self.severities:
        ...             yield share * inputs, labels
    """

    name: Any
    severities: Any
    takes: ClassVar[tuple[str, ...]] = tuple(KINDS)

    def data(
        self, inputs: Any, labels: np.ndarray, *, seed: int
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """Inputs and labels at each severity, which a subclass yields."""
        raise NotImplementedError(f"{type(self).__name__} has no method `data`.")


class ModelPerturbation:
    """What must be computed for each model by itself: the base of one's own.

    A subclass has a ``name``, its ``severities``, and ``outputs(network, inputs, labels, *,
    seed)``, which yields the outputs at each severity, of shape (n, classes). Those of the model,
    ``network.model``, are ``network.outputs(inputs)``. ``takes`` is as of `DataPerturbation`.

    Example:
        >>> from keras_lgg import robustness
        >>> class Rounded(robustness.ModelPerturbation):
        ...     name, severities = "rounded outputs", (0, 1)
        ...
        ...     def outputs(self, network, inputs, labels, *, seed):
        ...         for digits in self.severities:
        ...             yield network.outputs(inputs).round(digits)
    """

    name: Any
    severities: Any
    takes: ClassVar[tuple[str, ...]] = tuple(KINDS)

    def outputs(
        self, network: Any, inputs: Any, labels: np.ndarray, *, seed: int
    ) -> Iterator[np.ndarray]:
        """Outputs at each severity, which a subclass yields."""
        raise NotImplementedError(f"{type(self).__name__} has no method `outputs`.")


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


@contextlib.contextmanager
def global_random_states():
    """Python's and NumPy's global random states come out as they went in."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
