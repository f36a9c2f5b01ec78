"""The largest entries of rows are those of a stable sort, whatever the rows are like."""

import numpy as np
import pytest

from keras_lgg.retrieval import selection

RNG = np.random.default_rng(0)
M = 1500
SPECIAL = np.array([-np.inf, -3e38, -1, -0.0, 0.0, 1e-40, 2, 3e38], "float32")
ROWS = {
    "normal": RNG.normal(size=M),
    "negative": -np.exp(RNG.normal(size=M)),
    "few values": RNG.integers(0, 4, M),
    "special values": RNG.choice(SPECIAL, M),
    "all equal": np.zeros(M),
    "one above": np.eye(M)[700],
    "rising": np.arange(M),
    "falling": -np.arange(M),
    "large in the sample": np.arange(M) % selection.STRIDE == 0,
    "large beside the sample": np.arange(M) % selection.STRIDE != 0,
}
BLOCK = np.stack(list(ROWS.values())).astype("float32")


@pytest.mark.parametrize("k", [1, 2, 10, 60, 150, 700, M - 1, M])
def test_order_is_that_of_a_stable_sort(k):
    expected = np.argsort(-BLOCK, axis=1, kind="stable")[:, :k]
    found = selection.largest(BLOCK, k)
    assert found.dtype == "int64"
    for name, a, b in zip(ROWS, found, expected, strict=True):
        np.testing.assert_array_equal(a, b, name)


@pytest.mark.parametrize("m", [1, 2, 12, 13, 14, 40, 200])
def test_few_columns(m):
    rows = RNG.integers(0, 9, (30, m)).astype("float32")
    for k in {1, (m + 1) // 2, m}:
        expected = np.argsort(-rows, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(selection.largest(rows, k), expected)


def test_candidates_are_few():
    """Where rows have no ties, and where they are nothing else."""
    normal = RNG.normal(size=(50, 5000)).astype("float32")
    for rows in (normal, np.zeros_like(normal)):
        for k in (1, 10, 500):
            counts = selection._candidates(rows, k).sum(axis=1)
            assert (counts >= k).all()
            assert (counts <= 2 * k + selection.FEW).all()
