"""Arguments: their checks, the one form of their errors, and what is said of them once."""

import importlib
import inspect
import math
import numbers
import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np


def invalid(argument, expected, received):
    """A ValueError of the one form that the package uses."""
    return ValueError(
        f"Invalid value for argument `{argument}`. Expected {expected}. "
        f"Received: {argument}={received}."
    )


def check_choice(argument, value, choices):
    """Raise unless the value is one of the choices."""
    if value not in choices:
        raise invalid(argument, f"one of {choices}", repr(value))


def check_positive_integer(argument, value):
    """Raise unless the value is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise invalid(argument, "a positive integer", repr(value))


def check_seed(seed):
    """Raise unless the seed is an integer of at least 0."""
    check_natural("seed", seed)


def check_natural(argument, value):
    """Raise unless the value is an integer of at least 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise invalid(argument, "an integer of at least 0", repr(value))


def check_positive(argument, value):
    """Raise unless the value is a finite number above 0."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise invalid(argument, "a positive finite number", repr(value))


def check_fraction(argument, value):
    """Raise unless the value is a number between 0 and 1, and neither of them."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < 1:
        raise invalid(argument, "a number in (0, 1)", repr(value))


def check_same_length(**tensors):
    """Raise where the first axes of two tensors, by name, are known and differ."""
    (first, a), (second, b) = tensors.items()
    n, m = np.shape(a)[:1] if not hasattr(a, "shape") else tuple(a.shape)[:1], tuple(b.shape)[:1]
    if None not in n + m and n != m:
        raise ValueError(
            f"Arguments `{first}` and `{second}` are of different batches. Expected the same "
            f"number of samples. Received: {n[0] if n else 0} in `{first}` and {m[0]} in "
            f"`{second}`."
        )


def unit_pixels(argument, images):
    """Images as float32 in [0, 1], from these or from uint8."""
    if images.dtype == np.uint8:
        return images / np.float32(255)
    expected = "images of uint8 in [0, 255], or of floats in [0, 1] (divide by 255)"
    if not np.issubdtype(images.dtype, np.floating):
        raise invalid(argument, expected, f"images of {images.dtype}")
    if not np.isfinite(images).all():
        raise invalid(argument, expected, "images with NaN or infinite pixels")
    if images.min() < 0 or images.max() > 1:
        raise invalid(argument, expected, f"pixels from {images.min()} to {images.max()}")
    return images.astype("float32")


def require(module, extra):
    """An optional module, or an ImportError that names the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"The package '{module}' is missing. Expected the extra '{extra}' to be installed. "
            f'Received: {error}. Run: pip install "keras_lgg[{extra}]"'
        ) from error


Described = TypeVar("Described", bound=Callable[..., Any])
ARGS = re.compile(r"^Args:\n((?:    .*\n|\n(?=    ))*)", re.MULTILINE)
ENTRY = re.compile(r"^    (?=\S)", re.MULTILINE)


def described_by(*sources: Callable[..., Any]) -> Callable[[Described], Described]:
    """A decorator that completes ``Args:`` of a docstring by what others say of these arguments.

    What a class or function passes on to another is so described once, where it acts, and read in
    both places. What the docstring says itself stays, and of several sources the first counts.
    """

    def complete(described: Described) -> Described:
        entries: dict[str, str] = {}
        for source in (described, *sources):
            entries = _entries(source) | entries
        parameters = inspect.signature(described).parameters
        own = "".join(entries[name] for name in parameters if name in entries)
        doc = inspect.cleandoc(described.__doc__ or "") + "\n"
        if described.__doc__ and not ARGS.search(doc):
            raise TypeError(f"The docstring of {described.__name__} has no line `Args:`.")
        described.__doc__ = ARGS.sub(lambda _: f"Args:\n{own}", doc, count=1)
        return described

    return complete


def _entries(source):
    """Dict from each argument to the lines that describe it."""
    found = ARGS.search(inspect.cleandoc(source.__doc__ or "") + "\n")
    texts = ENTRY.split(found[1] if found else "")[1:]
    return {text.partition(":")[0].lstrip("*"): f"    {text.rstrip()}\n" for text in texts}
