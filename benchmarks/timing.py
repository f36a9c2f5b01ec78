"""Compiled functions and their times, as medians of runs that take turns."""

import time

import keras
import numpy as np

BACKEND = keras.backend.backend()


def compiled(function, *, jit):
    """The function, compiled; it waits for its results. ``jit`` is XLA on TensorFlow."""
    if BACKEND == "jax":
        import jax

        program = jax.jit(function)
        return lambda *arrays: jax.block_until_ready(program(*arrays))
    import tensorflow as tf

    graph = tf.function(function, jit_compile=jit, autograph=False)

    def run(*arrays):
        result = graph(*arrays)
        keras.tree.map_structure(lambda x: x.numpy(), result)  # on CPU this copies nothing
        return result

    return run


def value_and_gradient(loss):
    """``loss(x, ...)`` and its gradient to x."""
    if BACKEND == "jax":
        import jax

        return jax.value_and_grad(loss)
    import tensorflow as tf

    def both(x, *others):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x, *others)
        return value, tape.gradient(value, x)

    return both


def tensors(*arrays):
    return [keras.ops.convert_to_tensor(array) for array in arrays]


def medians(candidates, *, seconds=3.0, least=5, most=50):
    """Median time of each of some functions, which take turns so that a busy machine hits all.

    Args:
        candidates: Dict from a name to a function and its arguments, ``(function, *arguments)``.
        seconds: About how long to measure all of them.
        least: Rounds at least.
        most: Rounds at most.

    Returns:
        Dict from the name to the seconds of a call.
    """
    for function, *arguments in candidates.values():
        function(*arguments)  # compiles
    start = time.perf_counter()
    times = {name: [] for name in candidates}
    while len(times[next(iter(times))]) < most:
        for name, (function, *arguments) in candidates.items():
            function(*arguments)  # while the memory of the one before is given back
            begin = time.perf_counter()
            function(*arguments)
            times[name].append(time.perf_counter() - begin)
        rounds = len(times[name])
        if rounds >= least and time.perf_counter() - start > seconds:
            break
    return {name: float(np.median(values)) for name, values in times.items()}


def exponent(sizes, seconds):
    """The exponent of a power law through times at some sizes, by least squares of logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
