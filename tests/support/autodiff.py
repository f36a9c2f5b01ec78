"""Values and gradients on any backend, eagerly and compiled."""

import contextlib

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()

# How a function can run. "graph" leaves the batch size open, as `fit` does.
MODES = {
    "tensorflow": ["eager", "graph", "xla"],
    "jax": ["eager", "jit"],
    "torch": ["eager"],
}[BACKEND]
# How a test runs what it does not run in several ways.
USUAL = "jit" if BACKEND == "jax" else "eager"


def marked(modes, left=("graph", "xla")):
    """Modes as parameters of tests: those of ``left`` are left to CI."""
    return [pytest.param(m, marks=[pytest.mark.ci] if m in left else []) for m in modes]


# On JAX compiled alone: eagerly it compiles each operation, and much else runs so.
ALL_MODES = marked(MODES if BACKEND == "tensorflow" else MODES[-1:])
# For a test that calls one function many times, which pays for its compilation.
COMPILED = marked([m for m in MODES if m != "eager"] or MODES, left=("xla",))


@contextlib.contextmanager
def precision(dtype):
    """Lets JAX, which rounds to float32 by default, work in float64."""
    if BACKEND == "jax" and dtype == "float64":
        import jax

        with jax.enable_x64(True):
            yield
    else:
        yield


def value_and_grads(function, arrays, mode=USUAL):
    """Value of ``sum(function(*arrays))``, and its gradients, as NumPy arrays."""
    return differentiable(function, arrays, mode)(*arrays)


def differentiable(function, arrays, mode=USUAL, wrt=None):
    """A compiled function of arrays like these, for `value_and_grads` over many of them.

    It gives the value and the gradients to the first ``wrt`` arrays (all, by default).
    """
    run = _BUILDERS[BACKEND](function, arrays, mode, len(arrays) if wrt is None else wrt)
    dtype = max(str(a.dtype) for a in arrays)

    def on_numpy(*arrays):
        with precision(dtype):
            total, grads = run(*arrays)
            return to_numpy(total), [to_numpy(g) for g in grads]

    return on_numpy


def value(function, arrays, mode=USUAL):
    """Value of ``function(*arrays)`` as a NumPy array."""
    return values(lambda *tensors: [function(*tensors)], arrays, mode)[0]


def values(function, arrays, mode=USUAL):
    """The list of values of ``function(*arrays)`` as NumPy arrays."""
    arrays = [a if keras.ops.is_tensor(a) else np.asarray(a) for a in arrays]
    with precision(max(keras.backend.standardize_dtype(a.dtype) for a in arrays)):
        if mode in ("graph", "xla"):
            function = _tf_function(function, arrays, mode)
        elif mode == "jit":
            import jax

            function = jax.jit(function)
        return [to_numpy(v) for v in function(*[keras.ops.convert_to_tensor(a) for a in arrays])]


def to_numpy(x):
    return keras.ops.convert_to_numpy(x)


def _tf_function(function, arrays, mode):
    import tensorflow as tf

    if mode == "xla":
        return tf.function(function, jit_compile=True, autograph=False)
    signature = [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays]
    # A graph even where TensorFlow is told to run functions eagerly.
    graph = tf.function(function, input_signature=signature, autograph=False)
    return graph.get_concrete_function()


def _build_tensorflow(function, arrays, mode, wrt):
    import tensorflow as tf

    def run(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors[:wrt])
            total = keras.ops.sum(function(*tensors))
        return total, tape.gradient(total, tensors[:wrt], unconnected_gradients="zero")

    if mode != "eager":
        run = _tf_function(run, arrays, mode)
    return lambda *arrays: run(*[tf.constant(a) for a in arrays])


def _build_jax(function, arrays, mode, wrt):
    import jax

    run = jax.value_and_grad(
        lambda *tensors: keras.ops.sum(function(*tensors)), argnums=tuple(range(wrt))
    )
    if mode == "jit":
        run = jax.jit(run)
    return lambda *arrays: run(*[jax.numpy.asarray(a) for a in arrays])


def _build_torch(function, arrays, mode, wrt):
    import torch

    def run(*arrays):
        tensors = [torch.tensor(a) for a in arrays]
        for t in tensors[:wrt]:
            t.requires_grad_()
        total = keras.ops.sum(function(*tensors))
        if not total.requires_grad:  # it depends on none of them
            return total, [torch.zeros_like(t) for t in tensors[:wrt]]
        grads = torch.autograd.grad(total, tensors[:wrt], allow_unused=True)
        return total, [
            torch.zeros_like(t) if g is None else g
            for t, g in zip(tensors[:wrt], grads, strict=True)
        ]

    return run


_BUILDERS = {"tensorflow": _build_tensorflow, "jax": _build_jax, "torch": _build_torch}
