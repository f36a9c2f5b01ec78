"""One suite for every backend: `KERAS_BACKEND` chooses which."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

import keras
import numpy as np
import pytest

# Scripts that tests start in processes of their own.
collect_ignore = ["support"]


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session(free_memory=False)  # to collect garbage would double the time


@pytest.fixture
def rng():
    return np.random.default_rng(0)
