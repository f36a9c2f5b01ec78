"""A training that is killed goes on from its last checkpoint, and ends where it would have."""

import os
import pathlib
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from autodiff import BACKEND

pytestmark = pytest.mark.ci
SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "interrupted_training.py"
STEPS = 36  # of a training from beginning to end


class Training:
    """A process that trains; its ``steps`` come as they are done."""

    def __init__(self, model, callback, folder):
        self.result = folder / "result.npz"
        command = [sys.executable, str(SCRIPT), model, callback, folder / "backup", self.result]
        # Where it is killed, it must not leave half a program in a cache that others read.
        environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill_after(self, steps):
        for _ in range(steps):
            assert self.process.stdout.readline() == "step\n", self.process.stderr.read()[-3000:]
        self.process.kill()
        self.process.communicate()
        assert self.process.returncode == -signal.SIGKILL

    def finish(self):
        """How many steps were left, and the weights."""
        output, errors = self.process.communicate()
        assert self.process.returncode == 0, errors[-3000:]
        with np.load(self.result) as weights:
            return output.count("step"), list(weights.values())


CASES = {
    "tensorflow": [("geometry_model", "keras", 1), ("distiller", "atomic", 2)],
    "jax": [("geometry_model", "atomic", 1)],
    "torch": [("distiller", "keras", 1)],
}


@pytest.mark.parametrize(("model", "callback", "kills"), CASES[BACKEND])
def test_killed_and_started_again(model, callback, kills, tmp_path):
    folders = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        folder.mkdir()
    steps, expected = Training(model, callback, folders[0]).finish()
    assert steps == STEPS
    rng = random.Random(0)
    for _ in range(kills):
        Training(model, callback, folders[1]).kill_after(rng.randrange(3, 12))
    steps, found = Training(model, callback, folders[1]).finish()
    assert steps < STEPS
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
