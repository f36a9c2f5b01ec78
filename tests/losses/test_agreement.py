"""The backends give the same numbers."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import loss_values
import numpy as np
import pytest
from autodiff import BACKEND

SCRIPT = pathlib.Path(loss_values.__file__)
pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(BACKEND != "tensorflow", reason="compared from TensorFlow"),
]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_values_and_gradients_of_every_loss(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    path = tmp_path / "values.npz"
    subprocess.run(
        [sys.executable, str(SCRIPT), str(path)],
        env={**os.environ, "KERAS_BACKEND": backend},
        check=True,
    )
    with np.load(path) as theirs:
        ours = loss_values.values()
        assert set(theirs) == set(ours)
        for name, value in ours.items():
            # A relative variation is a difference of numbers near 1, whose rounding it keeps.
            rounding = 5e-7 if name.startswith("smoothness-variation-relative") else 0.0
            bound = 1e-5 * np.abs(value).max() + rounding
            np.testing.assert_allclose(theirs[name], value, rtol=0, atol=bound, err_msg=name)
