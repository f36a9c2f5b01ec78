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
from keras_lgg.robustness.classifiers import Network
from keras_lgg.robustness.inputs import KINDS
from keras_lgg.types import Samples


class DataPerturbation:
    """Base class of perturbations that change only the data, and so serve all models.

    A subclass has a ``name``, its ``severities``, and ``data(inputs, labels, *, seed)``, which
    yields the changed inputs and labels at each severity. ``takes`` says which kinds of inputs it
    handles: ``"pixels"`` (images, float32 in [0, 1]), ``"ids"`` (token ids, integers of shape
    (n, T)), ``"texts"`` (an array of ``str``, of shape (n,)), ``"several"`` (a dict or list of
    arrays); by default any of them. `evaluate` refuses others.

    Attributes:
        name: Name in the table.
        severities: Sequence of numbers, one per perturbed version of the data.
        takes: Tuple of the kinds of inputs that it handles.

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
        self, inputs: Samples, labels: np.ndarray, *, seed: int
    ) -> Iterator[tuple[Samples, np.ndarray]]:
        """Yield inputs and labels at each severity; a subclass defines it.

        Args:
            inputs: The inputs of the samples, of one of the kinds in ``takes``.
            labels: Their classes, integers ``(n,)``.
            seed: Integer of at least 0.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `data`.")


class ModelPerturbation:
    """Base class of perturbations that must be computed for each model separately.

    A subclass has a ``name``, its ``severities``, and
    ``outputs(network, inputs, labels, *, seed)``, which yields the outputs at each severity, of
    shape (n, classes). The unperturbed outputs of the model, which is ``network.model``, are
    ``network.outputs(inputs)``. ``takes`` says which kinds of inputs it handles: ``"pixels"``,
    ``"ids"``, ``"texts"`` or ``"several"``, as for `DataPerturbation`; by default any of them.

    Attributes:
        name: Name in the table.
        severities: Sequence of numbers, one per perturbed version of the outputs.
        takes: Tuple of the kinds of inputs that it handles.

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
        self, network: Network, inputs: Samples, labels: np.ndarray, *, seed: int
    ) -> Iterator[np.ndarray]:
        """Yield the outputs at each severity; a subclass defines it.

        Args:
            network: The model at inference: ``network.outputs(inputs)`` are its outputs,
                ``network.loss_gradient(images, labels)`` is the gradient of its loss, and
                ``network.model`` the Keras model.
            inputs: The inputs of the samples, of one of the kinds in ``takes``.
            labels: Their classes, integers ``(n,)``.
            seed: Integer of at least 0.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `outputs`.")


def store_numbers(perturbation, argument, is_valid, expected):
    """Keep a sweep as a tuple; raise unless it holds numbers, each valid and given only once."""
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
    """The generator of one sample, independent of order and batch size."""
    key = zlib.crc32(f"{name} {float(severity)}".encode())
    return np.random.default_rng([seed, key, index])


def norms(x):
    """L2 norms of the samples of ``x``, in float64, of shape (n, 1, 1, ...)."""
    x = np.asarray(x, "float64")
    return np.sqrt(np.sum(x * x, axis=tuple(range(1, x.ndim)), keepdims=True))


def at_snr(images, noise, snr):
    """The noise, scaled image by image so that ``20 log10(||image|| / ||noise||) == snr``."""
    return (unit(noise) * norms(images) / 10 ** (snr / 20)).astype("float32")


def unit(x):
    """The samples of ``x`` at length 1; those of length 0 stay as they are."""
    length = norms(x)
    return x / np.where(length > 0, length, 1)


@contextlib.contextmanager
def global_random_states():
    """Restore Python's and NumPy's global random states afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
