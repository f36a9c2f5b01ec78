"""Pooling of positions against loops, with gradients; padding changes nothing."""

import keras
import numpy as np
import pytest
from autodiff import ALL_MODES, BACKEND, MODES, marked, value, value_and_grads

from keras_lgg.graphs.pooling import POOLS, pooled

RNG = np.random.default_rng(0)
MASK = np.array([[1, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]], bool)


def by_loops(x, mask, pool):
    """One sample after the other, one position after the other."""
    samples = []
    for sample, counts in zip(x, mask, strict=True):
        if pool is None:
            samples.append(np.stack([row * c for row, c in zip(sample, counts, strict=True)]))
            continue
        rows = [row.reshape(-1, row.shape[-1]) for row, c in zip(sample, counts, strict=True) if c]
        rows = np.concatenate(rows) if rows else np.zeros((0, x.shape[-1]))
        if not len(rows):
            samples.append(np.zeros(x.shape[-1]))
        elif pool in ("mean", "max"):
            samples.append(getattr(np, pool)(rows, axis=0))
        else:
            samples.append(rows[0 if pool == "first" else -1])
    return np.stack(samples)


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 2, 3)])
@pytest.mark.parametrize("pool", POOLS)
def test_against_loops(pool, shape, mode):
    x = RNG.normal(size=shape).astype("float32")
    found = value(lambda x, mask: pooled(x, mask, pool), [x, MASK], mode)
    np.testing.assert_allclose(found, by_loops(x, MASK, pool), rtol=1e-6, atol=1e-7)
    whole = value(lambda x: pooled(x, None, pool), [x], mode)
    np.testing.assert_allclose(whole, by_loops(x, MASK | True, pool), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pool", POOLS)
def test_what_is_masked_has_no_gradient_and_may_be_anything(pool):
    x = RNG.normal(size=(5, 4, 3)).astype("float32")
    x[~MASK] = np.inf
    weights = RNG.normal(size=(5, 4, 3) if pool is None else (5, 3)).astype("float32")

    def function(x):
        kept = pooled(x, keras.ops.convert_to_tensor(MASK), pool)
        return keras.ops.sum(keras.ops.convert_to_tensor(weights) * kept)

    _, (gradient,) = value_and_grads(function, [x])
    assert np.isfinite(gradient).all()
    assert (gradient[~MASK] == 0).all()
    step = 1e-2
    for _ in range(3):
        at = (*np.argwhere(MASK)[RNG.integers(MASK.sum())], RNG.integers(3))
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        change = (value(function, [up]) - value(function, [down])) / (2 * step)
        np.testing.assert_allclose(gradient[at], change, atol=2e-3)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pool", POOLS[1:])
def test_padding_changes_nothing(pool, side):
    x = RNG.normal(size=(5, 4, 3)).astype("float32")
    mask = np.ones((5, 4), bool)
    expected = value(lambda x, mask: pooled(x, mask, pool), [x, mask])
    pad = (0, 7) if side == "right" else (7, 0)
    longer = np.pad(x, ((0, 0), pad, (0, 0)), constant_values=5)
    mask = np.pad(mask, ((0, 0), pad))
    found = value(lambda x, mask: pooled(x, mask, pool), [longer, mask])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", marked(m for m in MODES if m == "graph"))
@pytest.mark.parametrize("pool", POOLS)
def test_open_lengths(pool, mode):
    import tensorflow as tf

    specs = [tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None, None), "bool")]
    run = tf.function(lambda x, mask: pooled(x, mask, pool), input_signature=specs)
    x = RNG.normal(size=(5, 4, 2, 3)).astype("float32")
    found = run.get_concrete_function()(tf.constant(x), tf.constant(MASK))
    np.testing.assert_allclose(found, by_loops(x, MASK, pool), rtol=1e-6, atol=1e-7)


def test_vectors_have_no_positions_and_masks_must_fit():
    x = RNG.normal(size=(5, 3)).astype("float32")
    np.testing.assert_array_equal(pooled(x, None, "mean"), x)
    with pytest.raises(ValueError, match=r"mask.*Expected a mask of shape \(n, T\)"):
        pooled(np.zeros((5, 4, 3), "float32"), np.ones((5, 3), bool), "mean")
    if BACKEND == "tensorflow":
        assert pooled(x.astype("float16"), None, "max").dtype == "float16"
