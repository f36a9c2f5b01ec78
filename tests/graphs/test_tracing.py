"""Functions that are traced once: as often as there are shapes, with the values that they had."""

import numpy as np
import pytest
from autodiff import BACKEND, COMPILED, USUAL, value_and_grads
from keras import ops

from keras_lgg import losses
from keras_lgg.graphs import differences, functions
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


def test_of_any_width():
    mode = "graph" if BACKEND == "tensorflow" else USUAL
    calls, gradients = run(mode, any_width=True)
    assert calls == {"tensorflow": 1, "jax": 2, "torch": 4}[BACKEND]
    for x, gradient in zip(LAYERS, gradients, strict=True):
        np.testing.assert_allclose(gradient, 3 * x**2, rtol=1e-5)


def test_options_have_traces_of_their_own():
    _, gradients = run(USUAL, power=2)
    for x, gradient in zip(LAYERS, gradients, strict=True):
        np.testing.assert_allclose(gradient, 2 * x, rtol=1e-5)


def test_in_blocks_it_is_just_called():
    assert run(USUAL, block=2)[0] == 4


TRACED = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has no traces")
TRACING = "graph" if BACKEND == "tensorflow" else "jit"


def count(monkeypatch, module, name):
    """A list that grows by each call of a function."""
    calls, function = [], getattr(module, name)

    def counted(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
    return calls


@TRACED
def test_losses_of_equal_layers_are_traced_once(monkeypatch):
    calls, labels = count(monkeypatch, functions, "_full_smoothness"), np.arange(6) % 2
    value_and_grads(
        lambda *xs: losses.smoothness_variation(xs, labels, num_classes=2), LAYERS[:2], TRACING
    )
    assert len(calls) == 1


@TRACED
@pytest.mark.parametrize("options", [{}, {"k": 2, "power": 2}])
def test_pairs_of_layers_are_compared_in_one_trace(monkeypatch, options):
    forget()
    calls = count(monkeypatch, differences, "_compare_products")
    narrow = [np.abs(x) for x in LAYERS]
    wide = [np.concatenate([x] * 3, axis=1) for x in narrow]
    teachers, students = [*wide, *narrow], [*wide[::-1], *narrow[::-1]]
    _, together = value_and_grads(
        lambda *xs: sum(
            ops.sum(losses.graph_distillation(t, x, **options))
            for t, x in zip(teachers, xs, strict=True)
        ),
        students,
        TRACING,
    )
    assert len(calls) == 2  # of cosines, as of products
    for t, x, gradient in zip(teachers, students, together, strict=True):
        _, (alone,) = value_and_grads(
            lambda x, t=t: losses.graph_distillation(t, x, block_size=6, **options), [x], USUAL
        )
        np.testing.assert_allclose(gradient, alone, rtol=1e-4, atol=1e-6)
