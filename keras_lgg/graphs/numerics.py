"""Floating point: dtypes, and roots and quotients that stay finite for degenerate batches."""

import math

import keras
import numpy as np
from keras import ops

from keras_lgg.checks import invalid
from keras_lgg.graphs.arrays import REPRESENTATIONS, as_tensor, check_not_empty


def float_dtypes():
    """The dtypes that geometry is computed in."""
    # On PyTorch, some of Keras's own operations round float64 to float32.
    return ("float32",) if keras.backend.backend() == "torch" else ("float32", "float64")


def to_float(x):
    """x as a float32 tensor, or float64 if it is that already and the backend keeps it."""
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype in float_dtypes() else ops.cast(x, "float32")


def flatten_representation(x, argument="x"):
    """Representations ``(n, ...)`` as a float tensor ``(n, d)``, checked."""
    x = to_float(as_tensor(argument, x, REPRESENTATIONS))
    if len(x.shape) == 0:
        raise invalid(argument, REPRESENTATIONS, "a scalar")
    check_not_empty(argument, x.shape, REPRESENTATIONS)
    if len(x.shape) == 2:
        return x
    features = x.shape[1:]
    if None in features:
        return ops.reshape(x, (ops.shape(x)[0], -1))
    return ops.reshape(x, (-1, math.prod(features)))


def in_one_dtype(*tensors):
    """Float tensors in the widest of their dtypes; "float64" is also the larger string."""
    dtype = max(ops.dtype(x) for x in tensors)
    return [ops.cast(x, dtype) for x in tensors]


def alone(x):
    """Completes a sum over the samples at hand to one over the batch: here, they are all.

    Replicas that each hold a part of the batch use `losses.replicas.total` instead.
    """
    return x


def as_column(x):
    """``(n,)`` as ``(n, 1)``; indexing with ``None`` takes far longer to trace."""
    return ops.expand_dims(x, 1)


def as_row(x):
    """``(n,)`` as ``(1, n)``."""
    return ops.expand_dims(x, 0)


def machine_epsilon(x):
    """The relative rounding error of the dtype of a tensor."""
    return float(np.finfo(keras.backend.standardize_dtype(x.dtype)).eps)


def largest_entry(x):
    """The largest magnitude in a batch, without gradient; 1 where all is 0."""
    largest = ops.stop_gradient(ops.max(ops.abs(x)))
    return ops.where(ops.equal(largest, 0.0), ops.ones_like(largest), largest)


def safe_sqrt(x):
    """Square root with gradient 0 at 0."""
    zero = ops.equal(x, 0.0)
    return ops.where(zero, 0.0, ops.sqrt(ops.where(zero, 1.0, x)))


def connected_nodes(degree, magnitude):
    """Which nodes have a degree above the rounding of its own sum."""
    # The second bound keeps degree**(-3/2), which the gradient needs, from overflowing.
    smallest = np.finfo(keras.backend.standardize_dtype(degree.dtype)).tiny ** (2 / 3)
    bound = ops.maximum(8.0 * machine_epsilon(degree) * magnitude, float(smallest))
    # "not below or equal": a node with a NaN degree does not count as isolated.
    return ops.logical_not(ops.less_equal(degree, bound))


def inverse_sqrt_degree(degree, connected):
    """``degree**(-1/2)``, 0 on isolated nodes, with finite gradients."""
    return ops.where(connected, ops.rsqrt(ops.where(connected, degree, 1.0)), 0.0)


def matmul(a, b):
    """``a @ b`` in the precision of its dtype, also on a GPU, where JAX would use 11 bits of 24.

    A precision set by `jax.default_matmul_precision` is respected. On TensorFlow, precision is a
    setting of the whole process, and is TF32 unless turned off.
    """
    if keras.backend.backend() != "jax":
        return ops.matmul(a, b)
    import jax

    with jax.default_matmul_precision(jax.config.jax_default_matmul_precision or "float32"):
        return ops.matmul(a, b)


def product_epsilon(x):
    """The relative rounding error of a tensor's matrix products, which may be coarser."""
    is_float32 = keras.backend.standardize_dtype(x.dtype) == "float32"
    return 2.0**-10 if is_float32 and _takes_tf32() else machine_epsilon(x)


def rounding_of_squares(x):
    """The share of ``|x|**2 + |y|**2`` below which ``|x - y|**2`` is only rounding error."""
    # Measured on duplicates, in units of epsilon: up to 5 for 131,072 features, 3 for fewer. For
    # coarse products, epsilon bounds the error of each entry.
    return max(8.0 * machine_epsilon(x), 2.0 * product_epsilon(x))


def _takes_tf32():
    """Whether float32 products are computed in fewer bits."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.config.jax_default_matmul_precision not in (None, "float32", "highest")
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available() and torch.get_float32_matmul_precision() != "highest"
    import tensorflow as tf

    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    return has_gpu and tf.config.experimental.tensor_float_32_execution_enabled()


def compiled_by_xla():
    """Whether XLA compiles the current computation."""
    if keras.backend.backend() != "tensorflow":
        return keras.backend.backend() == "jax"
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util  # only this module knows

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
