"""The gate of the public functions: arrays from whatever can stand for them, or else an error.

What has passed is a tensor of numbers of known rank; no function behind the gate checks it again.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lgg.checks import invalid

REPRESENTATIONS = "numbers of shape (n, ...), one row a sample"


def given_array(argument: str, value: Any, expected: str) -> Any:
    """Numbers as they were given: tensors of the backend stay, all else becomes a NumPy array.

    Args:
        argument: Name of the argument, for the error.
        value: What was given for it.
        expected: What was expected, for the error.

    Returns:
        Tensor or array; 64-bit integers are not cut to 32 bits, as a backend might do.

    Raises:
        ValueError: If the value holds no numbers, or is ragged, symbolic or of unknown rank.

    Example:
        >>> from keras_lgg.graphs.arrays import given_array
        >>> given_array("x", [[1, 2], [3, 4]], "a matrix").shape
        (2, 2)
    """
    array = _checked(argument, value, expected)
    # Numbers in lists have no dtype of their own.
    is_list = isinstance(value, list | tuple) and not ops.is_tensor(array)
    return array.astype(keras.config.floatx()) if is_list and array.dtype.kind == "f" else array


def as_tensor(argument: str, value: Any, expected: str) -> Any:
    """As `given_array`, as a tensor of the backend."""
    value = given_array(argument, value, expected)
    return value if ops.is_tensor(value) else ops.convert_to_tensor(value)


def host_array(argument: str, value: Any, expected: str) -> np.ndarray:
    """As `given_array`, as a NumPy array for computations on the host; lists become float64."""
    value = _checked(argument, value, expected)
    return ops.convert_to_numpy(value) if ops.is_tensor(value) else value


def check_not_empty(argument: str, shape: Any, expected: str) -> None:
    """Raise if an axis of a shape is known to have length 0."""
    if 0 in tuple(shape):
        raise invalid(argument, f"{expected}, at least one in each axis", f"shape {tuple(shape)}")


def _checked(argument, value, expected):
    """A tensor or NumPy array of numbers, of known rank."""
    if isinstance(value, keras.KerasTensor):
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected {expected}. Received: a symbolic "
            f"tensor, {argument}={value}, which has no values yet. Call this inside the `call` of "
            "a layer or a loss, or put lgg.layers.GeometryPenalty into the model."
        )
    if isinstance(value, keras.Variable):
        value = value.value
    if type(value).__name__ in ("RaggedTensor", "SparseTensor"):
        raise invalid(argument, expected, f"a {type(value).__name__}; make it dense")
    if not ops.is_tensor(value):
        value = _from_outside(argument, value, expected)
    name = getattr(value.dtype, "name", None) or str(value.dtype).removeprefix("torch.")
    if not _is_number(name):
        raise invalid(argument, expected, f"values of {name}")
    if getattr(value.shape, "rank", 0) is None:
        raise invalid(argument, expected, "a tensor of unknown rank")
    return value


def _is_number(dtype):
    return dtype == "bool" or dtype.startswith(("int", "uint", "float", "bfloat"))


def _from_outside(argument, value, expected):
    """A NumPy array, or a tensor if there are tensors inside."""
    try:
        if isinstance(value, list | tuple) and any(map(ops.is_tensor, keras.tree.flatten(value))):
            return ops.convert_to_tensor(value)
        array = np.asarray(value)
    except Exception as error:
        received = f"{_kind(value)}, which cannot be made an array"
        raise invalid(argument, expected, received) from error
    if not _is_number(array.dtype.name):
        raise invalid(argument, expected, f"an array of {array.dtype}, {_kind(value)}")
    return array


def _kind(value):
    """A value in a few words, for an error."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({type(value).__name__})"
