import itertools

import keras
import numpy as np
import pytest
import reference
from autodiff import ALL_MODES, value

import keras_lgg as lgg

SHAPES = [(9, 4), (4, 9), (3, 3, 5, 8), (3, 2, 16)]


def orthogonality_error(kernel):
    """How far the singular values are from 1."""
    w = np.asarray(kernel, "float64").reshape(-1, kernel.shape[-1])
    return np.abs(np.linalg.svd(w, compute_uv=False) - 1).max()


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_published_step(shape, mode, rng):
    kernel = rng.normal(size=shape).astype("float32")
    if mode == "graph":
        pytest.skip("kernels have static shapes")
    found = value(lgg.constraints.Parseval(0.02), [kernel], mode)
    np.testing.assert_allclose(found, reference.parseval(kernel, 0.02), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_shrinks_step_by_step(shape, rng):
    kernel, step = (0.3 * rng.normal(size=shape)).astype("float32"), lgg.constraints.Parseval(0.1)
    errors = [orthogonality_error(kernel)]
    for _ in range(60):
        kernel = np.asarray(step(kernel))
        errors.append(orthogonality_error(kernel))
    assert all(after < before for before, after in itertools.pairwise(errors[:30]))
    assert errors[-1] < 0.02


def test_an_orthogonal_kernel_stays(rng):
    q, _ = np.linalg.qr(rng.normal(size=(6, 4)))
    np.testing.assert_allclose(lgg.constraints.Parseval()(q.astype("float32")), q, atol=1e-6)


def test_in_layers_after_each_update(tmp_path):
    parseval = lgg.constraints.Parseval
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3, kernel_constraint=parseval(0.1), name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, kernel_constraint=parseval(0.1), name="dense"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    kernels = [model.get_layer(name).kernel for name in ("conv", "dense")]
    before = [np.array(keras.ops.convert_to_numpy(k)) for k in kernels]
    model.fit(np.ones((2, 6, 6, 2)), np.ones((2, 3)), batch_size=2, verbose=0)
    for kernel, old in zip(kernels, before, strict=True):
        np.testing.assert_allclose(kernel, reference.parseval(old, 0.1), rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert restored.get_layer("conv").kernel_constraint.get_config() == {"beta": 0.1}


@pytest.mark.parametrize("beta", [0, -0.1, 0.6, np.nan, "0.01"])
def test_bad_beta(beta):
    with pytest.raises(ValueError, match="`beta`"):
        lgg.constraints.Parseval(beta)


def test_bad_kernel():
    with pytest.raises(ValueError, match=r"at least two axes.*\(5,\)"):
        lgg.constraints.Parseval()(np.ones(5))
