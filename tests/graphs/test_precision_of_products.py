"""Products of the geometry keep float32 where a GPU would round them to fewer bits."""

import contextlib

import numpy as np
import pytest
from autodiff import BACKEND
from cases import LOSSES
from keras import ops

from keras_lgg import graphs, losses, relative
from keras_lgg.graphs.differences import is_accurate
from keras_lgg.graphs.numerics import matmul, product_epsilon

RNG = np.random.default_rng(0)
X, OTHER = (np.maximum(RNG.normal(size=(40, d)), 0).astype("float32") for d in (4, 5))
LABELS = np.arange(40) % 3
PROJECTIONS = {
    f"{similarity}, {normalization}": {"similarity": similarity, "normalization": normalization}
    for similarity in ("cosine", "inner", "euclidean", "basis_change")
    for normalization in ("none", "whiten")
}


def jaxpr_of(function, *arrays):
    import jax

    return jax.make_jaxpr(jax.value_and_grad(function))(*map(ops.convert_to_tensor, arrays)).jaxpr


def precisions(jaxpr):
    """The precision of each matrix product of a program, of inner programs too."""
    found = [e.params["precision"] for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    for equation in jaxpr.eqns:
        for inner in _programs(list(equation.params.values())):
            found += precisions(inner)
    return found


def _programs(values):
    for value in values:
        if isinstance(value, list | tuple):
            yield from _programs(value)
        elif hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield from _programs([value.jaxpr])


def assert_highest(jaxpr):
    from jax.lax import Precision

    found = precisions(jaxpr)
    assert len(found) > 1
    assert set(found) == {(Precision.HIGHEST, Precision.HIGHEST)}


@pytest.mark.skipif(BACKEND != "jax", reason="Elsewhere no product can say how exact it is.")
class TestJax:
    @pytest.mark.parametrize("name", LOSSES)
    def test_losses_and_gradients(self, name):
        assert_highest(jaxpr_of(lambda x: LOSSES[name](x, OTHER, LABELS), X))

    def test_factors(self):
        x, other = (np.tile(a, (10, 1)) for a in (X, OTHER))
        assert_highest(jaxpr_of(lambda x: ops.sum(losses.graph_distillation(other, x)), x))

    @pytest.mark.parametrize("name", PROJECTIONS)
    def test_relative_representations(self, name):
        def total(x):
            return ops.sum(relative.relative_projection(x, X[:12], **PROJECTIONS[name]))

        assert_highest(jaxpr_of(total, X[12:]))

    def test_what_is_asked_for_is_respected(self):
        import jax

        with jax.default_matmul_precision("tensorfloat32"):
            asked = precisions(jaxpr_of(lambda x: ops.sum(matmul(x, ops.transpose(x))), X))
            assert product_epsilon(ops.convert_to_tensor(X)) == 2.0**-10
        assert all(p[0] != jax.lax.Precision.HIGHEST for p in asked)
        assert product_epsilon(ops.convert_to_tensor(X)) < 2e-7


@contextlib.contextmanager
def tf32(monkeypatch):
    """As on a GPU that takes TF32."""
    if BACKEND == "jax":
        import jax

        with jax.default_matmul_precision("tensorfloat32"):
            yield
    elif BACKEND == "torch":
        import torch

        with monkeypatch.context() as patches:
            patches.setattr(torch.cuda, "is_available", lambda: True)
            patches.setattr(torch, "get_float32_matmul_precision", lambda: "high")
            yield
    else:
        import tensorflow as tf

        assert tf.config.experimental.tensor_float_32_execution_enabled()
        with monkeypatch.context() as patches:
            patches.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
            yield


def test_coarse_products_are_not_trusted(monkeypatch):
    """What is left of two graphs is a matter of pairs then, and what is nearly equal is equal."""
    rows, terms = ops.convert_to_tensor([1.0]), [ops.convert_to_tensor([10.0])]
    near = ops.convert_to_tensor([[1.0, 0.0], [1.02, 0.0], [-1.0, 0.0], [0.0, 2.0]])

    def found():
        distances = ops.convert_to_numpy(graphs.pairwise_distances(near))
        return bool(is_accurate(rows, terms)), float(distances[0, 1]), product_epsilon(near)

    accurate, distance, epsilon = found()
    assert accurate
    assert distance == pytest.approx(0.02, rel=1e-3)
    assert epsilon < 2e-7
    with tf32(monkeypatch):
        assert found() == (False, 0.0, 2.0**-10)
