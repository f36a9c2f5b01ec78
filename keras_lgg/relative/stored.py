"""Inputs of an encoder as weights: numbers as they are, strings as their bytes.

A weight that nothing was loaded into must not pass for anchors. Floats are then NaN, and integers 0
everywhere, which anchors that differ never are.
"""

import functools

import keras
import numpy as np
from keras import ops

from keras_lgg.checks import invalid

TEXT = "string"


def prepared(arrays, float_dtype):
    """The arrays as they are kept, and the dtypes of what they stand for, in the same structure."""
    dtypes = keras.tree.map_structure(lambda x: _dtype_of(x, float_dtype), arrays)
    kept = [
        bytes_of(x) if dtype == TEXT and isinstance(x, np.ndarray) else x
        for x, dtype in zip(keras.tree.flatten(arrays), keras.tree.flatten(dtypes), strict=True)
    ]
    return keras.tree.pack_sequence_as(arrays, kept), dtypes


def plain(structure):
    """Plain dicts and lists: a layer wraps those that it keeps."""
    if isinstance(structure, dict):
        return {key: plain(each) for key, each in structure.items()}
    if isinstance(structure, list | tuple):
        return (list if isinstance(structure, list) else tuple)(map(plain, structure))
    return structure


def read(variables, dtypes):
    """The inputs as the encoder takes them, and NaN if none were ever loaded, else 0."""
    variables, dtypes = plain(variables), plain(dtypes)
    leaves = [x.value for x in keras.tree.flatten(variables)]
    missing = functools.reduce(ops.logical_and, map(_is_missing, leaves))
    inputs = [
        text_of(x) if dtype == TEXT else x
        for x, dtype in zip(leaves, keras.tree.flatten(dtypes), strict=True)
    ]
    structure = keras.tree.pack_sequence_as(variables, inputs)
    return structure, ops.where(missing, float("nan"), 0.0)


def bytes_of(strings):
    """Strings ``(...)`` as an array of bytes ``(..., L)``, padded with zeros."""
    encoded = [s if isinstance(s, bytes) else str(s).encode() for s in strings.reshape(-1)]
    if any(b"\0" in s for s in encoded):
        raise invalid("anchors", "strings", "strings with a character of code 0")
    longest = max(1, *map(len, encoded))
    flat = np.frombuffer(b"".join(s.ljust(longest, b"\0") for s in encoded), "uint8")
    return flat.reshape(*strings.shape, longest)


def text_of(codes):
    """Tensor of strings ``(...)`` from their bytes ``(..., L)``, on TensorFlow."""
    import tensorflow as tf

    characters = tf.constant([b"", *(bytes([i]) for i in range(1, 256))])
    return tf.strings.reduce_join(tf.gather(characters, tf.cast(codes, "int32")), axis=-1)


def symbols(variables, dtypes):
    """Symbolic inputs of the encoder."""

    def symbol(x, dtype):
        shape = x.shape[:-1] if dtype == TEXT else x.shape
        return keras.KerasTensor(shape, dtype=dtype)

    return keras.tree.map_structure(symbol, plain(variables), plain(dtypes))


def spec_of(variables, dtypes):
    """What a config says of the weights: their shapes, and the dtypes of what they stand for."""
    variables, dtypes = plain(variables), plain(dtypes)
    specs = [
        {"shape": list(x.shape), "dtype": dtype}
        for x, dtype in zip(keras.tree.flatten(variables), keras.tree.flatten(dtypes), strict=True)
    ]
    return keras.tree.pack_sequence_as(variables, specs)


def from_spec(spec):
    """Symbolic arrays from what a config says."""
    if isinstance(spec, dict) and isinstance(spec.get("dtype"), str):
        return keras.KerasTensor(tuple(spec["shape"]), dtype=spec["dtype"])
    if isinstance(spec, dict):
        return {key: from_spec(each) for key, each in spec.items()}
    return type(spec)(from_spec(each) for each in spec)


def _dtype_of(x, float_dtype):
    if isinstance(x, np.ndarray) and x.dtype.kind in "USO":
        return TEXT
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype == "float64":
        return float_dtype
    if dtype != "int64" or keras.backend.backend() != "jax":
        return dtype
    if isinstance(x, np.ndarray) and x.size and np.abs(x).max() >= 2**31:
        raise invalid("anchors", "ids below 2**31, as JAX keeps them", f"ids up to {x.max()}")
    return "int32"


def _is_missing(x):
    if keras.backend.standardize_dtype(x.dtype).startswith(("float", "bfloat")):
        return ops.isnan(ops.reshape(x, (-1,))[0])
    return ops.logical_not(ops.any(ops.not_equal(x, ops.zeros_like(x))))
