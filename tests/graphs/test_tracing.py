"""Functions that are traced once: as often as there are shapes, with the values that they had."""

import numpy as np
import pytest
from autodiff import BACKEND, COMPILED, USUAL, value_and_grads
from keras import ops

from keras_lgg import losses
from keras_lgg.graphs.tracing import forget, traced_once

RNG = np.random.default_rng(0)
LAYERS = [RNG.normal(size=(6, width)).astype("float32") for width in (3, 3, 4, 3)]
CALLS = []


def cubes(x, *, power=3, block=None):
    CALLS.append(x.shape)
    return ops.sum(x**power, axis=1)


def run(mode, **options):
    """How often the function was called, and the gradients of a sum over all layers."""
    forget()
    CALLS.clear()
    _, gradients = value_and_grads(
        lambda *xs: sum(traced_once(cubes, x, **options) for x in xs), LAYERS, mode
    )
    return len(CALLS), gradients


@pytest.mark.parametrize("mode", [USUAL, *COMPILED])
def test_as_often_as_there_are_shapes(mode):
    calls, gradients = run(mode)
    traces = {"tensorflow": 2 if mode == "graph" else 4, "jax": 2, "torch": 4}
    assert calls == traces[BACKEND]
    for x, gradient in zip(LAYERS, gradients, strict=True):
        np.testing.assert_allclose(gradient, 3 * x**2, rtol=1e-5)


def test_options_have_traces_of_their_own():
    _, gradients = run(USUAL, power=2)
    for x, gradient in zip(LAYERS, gradients, strict=True):
        np.testing.assert_allclose(gradient, 2 * x, rtol=1e-5)


def test_in_blocks_it_is_just_called():
    assert run(USUAL, block=2)[0] == 4


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has no traces")
def test_losses_of_equal_layers_are_traced_once(monkeypatch):
    from keras_lgg.graphs import functions

    traced, whole = [], functions._full_smoothness
    labels = np.arange(6) % 2

    def counted(*args, **kwargs):
        traced.append(1)
        return whole(*args, **kwargs)

    monkeypatch.setattr(functions, "_full_smoothness", counted)
    mode = "graph" if BACKEND == "tensorflow" else "jit"
    value_and_grads(
        lambda *xs: losses.smoothness_variation(xs, labels, num_classes=2), LAYERS[:2], mode
    )
    assert len(traced) == 1
