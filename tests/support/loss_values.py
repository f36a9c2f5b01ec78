"""Writes the value and the gradient of every loss on the golden inputs.

KERAS_BACKEND=jax python tests/support/loss_values.py values.npz
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from autodiff import MODES, value_and_grads
from cases import LOSSES

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "geometry.npz"


def values():
    """By loss: its value; by loss and "gradient": the gradient to the student's layer."""
    with np.load(GOLDEN) as golden:
        x, other, labels = golden["gkd0_s1"], golden["gkd0_t1"], golden["gkd0_y"]
    found = {}
    for name, loss in LOSSES.items():
        found[name], (found[f"{name} gradient"],) = value_and_grads(
            lambda x, loss=loss: loss(x, other, labels), [x], MODES[-1]
        )
    return found


if __name__ == "__main__":
    np.savez(sys.argv[1], **values())
