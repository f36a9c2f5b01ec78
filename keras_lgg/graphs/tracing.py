"""Functions that are traced once, and not again for tensors of equal shapes."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_lgg.graphs.numerics import compiled_by_xla
from keras_lgg.types import Tensor


def traced_once(
    function: Callable[..., Tensor], *tensors: Tensor, any_width: bool = False, **options: Any
) -> Tensor:
    """``function(*tensors, **options)``, traced once for all tensors of equal shapes.

    The layers of a network have few different shapes, and the computations on them take longer to
    trace, forward and backward, than the layers themselves. Outside a trace, under XLA on
    TensorFlow, on PyTorch, and where it works on blocks of rows, the function is simply called.

    Args:
        function: A function of a module, since its traces are kept as long as it lives. It knows of
            replicas, labels and penalties only what its tensors say. It must not contain a
            condition, which TensorFlow could differentiate only once.
        *tensors: What it is called with.
        any_width: Whether the function does the same for any widths: then TensorFlow traces it once
            for all of them.
        **options: Hashable arguments; each combination has its own traces. ``block`` is that of
            `PairMatrix`.
    """
    backend = None if options.get("block") is not None else keras.backend.backend()
    # XLA on TensorFlow would compile such a function again in every step.
    if backend == "tensorflow" and _is_in_graph() and not compiled_by_xla():
        specs = [_spec(x, any_width) for x in tensors]
        return _graph_function(function, *specs, **options)(*tensors)
    if backend == "jax" and _is_traced(tensors):
        return _jitted(function, **options)(*tensors)
    return function(*tensors, **options)


def _is_in_graph():
    import tensorflow as tf

    return not tf.executing_eagerly()


def _is_traced(tensors):
    import jax

    return any(isinstance(x, jax.core.Tracer) for x in tensors)


def _spec(x, any_width):
    import tensorflow as tf

    return tf.TensorSpec((*x.shape[:-1], None) if any_width else x.shape, x.dtype)


@functools.cache
def _graph_function(function, *specs, **options):
    import tensorflow as tf

    traceable = tf.function(
        functools.partial(function, **options),
        autograph=False,
        # Otherwise TensorFlow inlines it at each call, and optimises each copy again.
        experimental_attributes={"_noinline": True},
    )
    return traceable.get_concrete_function(*specs)


@functools.cache
def _jitted(function, **options):
    import jax

    return jax.jit(functools.partial(function, **options))


def forget() -> None:
    """Drop all traces, as in a new process."""
    _graph_function.cache_clear()
    _jitted.cache_clear()
