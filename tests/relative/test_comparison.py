"""Comparison of spaces: against slow loops, by hand, and on spaces whose values are known."""

import tracemalloc

import numpy as np
import pytest

from keras_lgg.graphs import pairs
from keras_lgg.relative import comparison
from keras_lgg.relative.comparison import compare_spaces, linear_cka

pytestmark = pytest.mark.once
DTYPES = ["float32", "float64"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rotation(d, seed=3):
    return np.linalg.qr(normal(d, d, seed=seed))[0]


def cosine(x, y):
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    return x @ y / norms if norms > 0 else 0.0


def cosines(a, b):
    return np.array([[cosine(x, y) for y in b] for x in a])


def slow(a, b, k):
    n = len(a)
    ab, bb = cosines(a, b), cosines(b, b)
    jaccard, ranks = [], []
    for i in range(n):
        near = [set(sorted(range(n), key=lambda j, c=c: -c[i, j])[:k]) for c in (bb, ab)]
        jaccard.append(len(near[0] & near[1]) / len(near[0] | near[1]))
        ranks.append(1 + sum(ab[i, j] > ab[i, i] for j in range(n)))
    return {
        f"jaccard@{k}": np.mean(jaccard),
        "mrr": np.mean([1 / r for r in ranks]),
        f"mrr@{k}": np.mean([1 / r if r <= k else 0 for r in ranks]),
        "cosine": np.mean([ab[i, i] for i in range(n)]),
        "linear_cka": slow_cka(a, b),
    }


def slow_cka(a, b):
    """By the kernels: centring them is centring the features."""
    n = len(a)
    centring = np.eye(n) - np.ones((n, n)) / n
    kernels = []
    for x in (a, b):
        kernel = np.array([[x[i] @ x[j] for j in range(n)] for i in range(n)])
        kernels.append(centring @ kernel @ centring)
    inner = [[np.trace(p @ q) for q in kernels] for p in kernels]
    return inner[0][1] / np.sqrt(inner[0][0] * inner[1][1])


def peak_of(call):
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def small_blocks(monkeypatch, rows=7):
    blocks = lambda n: [slice(i, i + rows) for i in range(0, n, rows)]  # noqa: E731
    monkeypatch.setattr(comparison, "row_blocks", blocks)


class TestCompareSpaces:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("k", [1, 4, 29, 30])
    def test_against_loops(self, k, dtype):
        a = normal(30, 6)
        b = a + 0.7 * normal(30, 6, seed=1)
        found = compare_spaces(a.astype(dtype), b.astype(dtype), k=k)
        expected = slow(a, b, k)
        assert list(found) == list(expected)
        assert all(type(value) is float for value in found.values())
        assert 0.1 < expected["mrr"] < 0.9
        tolerance = 1e-6 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=tolerance)

    def test_by_hand(self):
        """Directions of a plane, in degrees.

        Neighbours, k = 2, of b: {0, 1} twice, {2, 3} twice. Of a: 0 is nearest to {0, 1}; 87 to
        90 and 95; 52 to 90, 38 away, and 10, 42 away; 40 to 10 and 0. The own ranks are 1; 3 (77
        away, after 3 and 8); 1; 4 (55 away, after 30, 40 and 50).
        """
        a, b = (
            np.stack([np.cos(np.radians(d)), np.sin(np.radians(d))], axis=1)
            for d in ([0, 87, 52, 40], [0, 10, 90, 95])
        )
        lengths = np.array([[1], [3], [0.5], [10]])
        found = compare_spaces(lengths * a, b / lengths, k=2)
        assert found["jaccard@2"] == pytest.approx((1 + 0 + 1 / 3 + 0) / 4)
        assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 + 1 / 4) / 4)
        assert found["mrr@2"] == pytest.approx((1 + 0 + 1 + 0) / 4)
        assert found["cosine"] == pytest.approx(np.cos(np.radians([0, 77, 38, 55])).mean())
        assert compare_spaces(a, b, k=3)["mrr@3"] == pytest.approx((1 + 1 / 3 + 1 + 0) / 4)

    def test_default_of_ten_neighbours(self):
        a, b = normal(40, 5), normal(40, 5, seed=1)
        assert compare_spaces(a, b) == compare_spaces(a, b, k=10)
        assert "jaccard@10" in compare_spaces(a, b)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("n", [300, 2500])  # in one block, in several
    def test_equal_spaces(self, n, dtype):
        a = normal(n, 37).astype(dtype)
        found = compare_spaces(a, a.copy())
        assert found["jaccard@10"] == found["mrr"] == found["mrr@10"] == 1.0
        assert found["cosine"] == pytest.approx(1, abs=1e-6)
        assert found["linear_cka"] == pytest.approx(1, abs=1e-12)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("d", [3, 65, 300])
    @pytest.mark.parametrize("noise", [0, 1e-6])
    def test_equal_spaces_with_duplicates_and_rows_of_zeros(self, noise, d, dtype):
        a = normal(50, d)[np.random.default_rng(1).integers(0, 50, 1003)]
        a = a * (1 + noise * normal(1003, d, seed=2))
        a[[5, 700]] = 0
        a = a.astype(dtype)
        found = compare_spaces(a, a.copy())
        assert found["jaccard@10"] == found["mrr"] == found["mrr@10"] == 1.0
        assert found["cosine"] == pytest.approx(1 - 2 / 1003, abs=1e-6)

    def test_independent_spaces(self):
        n, k = 500, 100
        a, b = normal(n, 64), normal(n, 64, seed=1)
        found = compare_spaces(a, b, k=k)
        assert found[f"jaccard@{k}"] == pytest.approx(k / (2 * n - k), abs=0.01)
        # Every rank is as likely as another.
        assert found["mrr"] == pytest.approx(np.mean(1 / np.arange(1, n + 1)), abs=0.01)
        assert found["cosine"] == pytest.approx(0, abs=0.02)

    def test_a_rotated_copy_is_alike_in_relative_codes_alone(self):
        x = normal(1000, 64)
        y = 3 * x @ rotation(64)
        absolute = compare_spaces(x, y)
        assert absolute["jaccard@10"] < 0.05
        assert absolute["mrr"] < 0.05
        assert abs(absolute["cosine"]) < 0.1
        assert absolute["linear_cka"] == pytest.approx(1, abs=1e-12)
        codes = [cosines(z, z[:100]) for z in (x[:300], y[:300])]
        relative = compare_spaces(*codes)
        np.testing.assert_allclose(list(relative.values()), 1, atol=1e-12)

    def test_neighbours_are_looked_up_in_the_second_space(self):
        a, b = normal(50, 4), normal(50, 4, seed=1)
        b[:25] = b[0] + 0.01 * b[:25]  # half of it in a heap
        one, two = compare_spaces(a, b), compare_spaces(b, a)
        for name in ("jaccard@10", "mrr", "mrr@10"):
            assert one[name] == pytest.approx(slow(a, b, 10)[name])
            assert two[name] == pytest.approx(slow(b, a, 10)[name])
            assert abs(one[name] - two[name]) > 1e-3
        for name in ("cosine", "linear_cka"):
            assert one[name] == pytest.approx(two[name])

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_invariances(self, dtype):
        a, b = normal(60, 6).astype(dtype), (normal(60, 6) + normal(60, 6, seed=1)).astype(dtype)
        expected = compare_spaces(a, b)
        lengths = np.random.default_rng(2).uniform(0.1, 10, size=(60, 1)).astype(dtype)
        q = rotation(6).astype(dtype)
        same = {"rtol": 0, "atol": 1e-6}
        for changed in (
            compare_spaces(1e20 * a, 1e-20 * b),  # squares are out of range in float32
            compare_spaces(a @ q, b @ q),
            compare_spaces(a[::-1], b[::-1]),
        ):
            np.testing.assert_allclose(list(changed.values()), list(expected.values()), **same)
        # Each row by its own length: all but the alignment, which sees the lengths.
        changed = compare_spaces(lengths * a, b)
        for name, value in expected.items():
            assert (abs(changed[name] - value) < 1e-6) == (name != "linear_cka")
        # A shift, a rotation of one, a scale a feature or another pairing changes them.
        scales = np.linspace(0.1, 3, 6).astype(dtype)
        for changed in (
            compare_spaces(a + 1, b + 1),
            compare_spaces(a, b @ q),
            compare_spaces(a * scales, b * scales),
            compare_spaces(a[::-1], b),
        ):
            for name in ("jaccard@10", "mrr", "cosine"):
                assert abs(changed[name] - expected[name]) > 1e-3

    def test_ties_share_the_better_rank(self):
        b = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        a = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        # Sample 1 has cosine 0 with rows 0 and 1 of b, and 1 with row 2.
        assert compare_spaces(a, b, k=1)["mrr"] == pytest.approx((1 + 1 / 2 + 1) / 3)

    @pytest.mark.parametrize(
        ("dtype", "seen", "unseen"), [("float32", 1e-3, 1e-7), ("float64", 1e-6, 1e-15)]
    )
    def test_ranks_differ_by_more_than_the_rounding(self, dtype, seen, unseen):
        def mrr(angle):
            b = np.array([[1, 0], [np.sin(angle), np.cos(angle)], [-1, 0]])
            a = np.array([[0.8, 0.8 * 1], [0, 1], [-1, 0]])
            # Of sample 0 the own row is at 45 degrees, row 1 of b a little nearer.
            return compare_spaces(a.astype(dtype), b.astype(dtype), k=1)["mrr"]

        assert mrr(seen) == pytest.approx((1 / 2 + 1 + 1) / 3)
        assert mrr(unseen) == 1.0

    def test_rows_of_zeros(self):
        a, b = normal(20, 3), normal(20, 3)
        a[4] = b[7] = 0
        found = compare_spaces(a, b, k=3)
        assert found["cosine"] == pytest.approx(18 / 20)
        above = np.count_nonzero(cosines(a[7:8], b) > 0)
        assert found["mrr"] == pytest.approx((19 + 1 / (1 + above)) / 20)

    def test_of_unequal_widths(self):
        """A row of one space is nowhere in the other; what does not ask for that is there."""
        a, b = normal(30, 5), normal(30, 9)
        for x, y in ((a, b), (b, a)):
            found = compare_spaces(x, y, k=3)
            assert list(found) == list(slow(a, a, 3))
            assert found.pop("linear_cka") == pytest.approx(slow_cka(x, y), abs=1e-12)
            assert all(type(value) is float and np.isnan(value) for value in found.values())
        codes = [cosines(z, z[:8]) for z in (a, b)]
        assert np.isfinite(list(compare_spaces(*codes, k=3).values())).all()

    @pytest.mark.parametrize("dtype", ["float16", "int32", "int64", "uint8", "bool"])
    def test_other_numbers_are_worked_on_in_float32(self, dtype):
        rng = np.random.default_rng(0)
        a, b = (rng.integers(0, 2 if dtype == "bool" else 9, size=(30, 12)) for _ in range(2))
        assert compare_spaces(a.astype(dtype), b.astype(dtype)) == compare_spaces(
            a.astype("float32"), b.astype("float32")
        )

    def test_the_wider_dtype_counts(self):
        a, b = normal(30, 5).astype("float32"), normal(30, 5, seed=1)
        assert compare_spaces(a, b) == compare_spaces(a.astype("float64"), b)

    def test_flattens(self):
        a, b = normal(20, 2, 3), normal(20, 2, 3, seed=1)
        assert compare_spaces(a, b) == compare_spaces(a.reshape(20, 6), b.reshape(20, 6))

    def test_in_blocks(self, monkeypatch):
        a = normal(50, 4)
        b = a + normal(50, 4, seed=1)
        expected = compare_spaces(a, b, k=5)
        small_blocks(monkeypatch)
        found = compare_spaces(a, b, k=5)
        np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-12)

    def test_memory_is_that_of_blocks(self):
        a = normal(6000, 16).astype("float32")
        b = a + normal(6000, 16, seed=1).astype("float32")
        # A single float32 matrix of all pairs has 144 MB.
        assert peak_of(lambda: compare_spaces(a, b)) < 100e6

    def test_memory_for_many_neighbours(self, monkeypatch):
        monkeypatch.setattr(pairs, "LARGEST_WHOLE", 2**8)
        monkeypatch.setattr(pairs, "ENTRIES", 2**16)
        a = normal(1500, 3).astype("float32")
        assert peak_of(lambda: compare_spaces(a, a[:, ::-1], k=1000)) < 6e6  # a matrix has 9 MB


class TestLinearCka:
    @pytest.mark.parametrize(("p", "q"), [(3, 4), (50, 60), (2, 70)])  # by features, by samples
    def test_against_loops(self, p, q, monkeypatch):
        a = normal(20, p)
        b = np.concatenate([a[:, :2] ** 2, normal(20, q, seed=1)], axis=1)
        expected = slow_cka(a, b)
        assert linear_cka(a, b) == pytest.approx(expected, abs=1e-12)
        assert linear_cka(b, a) == pytest.approx(expected, abs=1e-12)
        small_blocks(monkeypatch)
        assert linear_cka(a, b) == pytest.approx(expected, abs=1e-12)
        assert type(linear_cka(a, b)) is float

    def test_of_single_features_is_the_squared_correlation(self):
        a, b = normal(30, 1), normal(30, 1) + normal(30, 1, seed=1)
        expected = np.corrcoef(a[:, 0], b[:, 0])[0, 1] ** 2
        assert linear_cka(a, b) == pytest.approx(expected)
        assert linear_cka(a, -5 * a + 3) == pytest.approx(1)

    def test_by_hand(self):
        # Orthogonal features: the kernels have eigenvalues 4 and 4, and 4; their product 16.
        a = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
        assert linear_cka(a, a[:, :1]) == pytest.approx(16 / np.sqrt(32 * 16))
        assert linear_cka(a[:, :1], a[:, 1:]) == pytest.approx(0)

    def test_invariances(self):
        a, b = normal(40, 6), normal(40, 9, seed=1)
        a[:, :3] += b[:, :3]
        expected = linear_cka(a, b)
        for changed in (
            linear_cka(1e100 * a @ rotation(6), b),
            linear_cka(a, 1e-100 * b),
            linear_cka(a + 1e3, b - 1e3 * normal(9, seed=2)),
            linear_cka(a[::-1], b[::-1]),
        ):
            assert changed == pytest.approx(expected, abs=1e-10)
        for changed in (
            linear_cka(a @ normal(6, 6, seed=4), b),  # an invertible map
            linear_cka(a * np.linspace(0.1, 3, 6), b),
            linear_cka(a[::-1], b),
        ):
            assert abs(changed - expected) > 1e-3

    def test_works_in_float64(self):
        # A large mean, which float32 could not take away.
        a, b = normal(500, 4), normal(500, 4, seed=1)
        a[:, 0] += b[:, 0]
        a, b = ((z + 1e4).astype("float32") for z in (a, b))
        expected = linear_cka(a.astype("float64"), b.astype("float64"))
        assert linear_cka(a, b) == pytest.approx(expected, abs=1e-12)

    def test_memory_of_wide_spaces(self):
        a, b = normal(20, 4000), normal(20, 3000, seed=1)
        assert peak_of(lambda: linear_cka(a, b)) < 10e6  # products of features have 72 MB and more

    def test_memory_of_long_spaces(self):
        a, b = normal(4000, 20), normal(4000, 30, seed=1)
        assert peak_of(lambda: linear_cka(a, b)) < 10e6  # a matrix of all pairs has 128 MB

    def test_flattens(self):
        a, b = normal(20, 2, 3), normal(20, 4, seed=1)
        assert linear_cka(a, b) == linear_cka(a.reshape(20, 6), b)


class TestErrors:
    A = normal(20, 4)

    @pytest.mark.parametrize(
        ("a", "b", "k", "message"),
        [
            (A, A[1:], 3, "`a` and `b`.*20.*19"),
            (A, A, 0, "`k`.*positive integer.*k=0"),
            (A, A, 2.0, "`k`.*positive integer.*2.0"),
            (A, A, True, "`k`.*positive integer.*True"),
            (A, A, 21, "`k`.*at most 20.*k=21"),
            (A, normal(20, 5), 21, "`k`.*at most 20.*k=21"),
            (A, normal(20, 5) * np.nan, 3, "`b`.*finite.*NaN"),
            (A * np.nan, A, 3, "`a`.*finite.*NaN"),
            (A, A * -np.inf, 3, "`b`.*finite.*infinite"),
            (A[:, 0], A, 3, r"`a`.*\(n, ...\).*shape \(20,\)"),
            (A, A[:, :0], 3, r"`b`.*\(n, ...\).*shape \(20, 0\)"),
            (A + 1j, A, 3, "`a`.*real numbers.*complex128"),
            (A, A.astype(object), 3, "`b`.*real numbers.*object"),
            (A, np.zeros((20, 4)), 3, "`b`.*samples that differ.*20 equal rows"),
            (A[:1], A[:1], 1, "`a`.*samples that differ.*1 equal rows"),
            (A[:0], A[:0], 1, "`k`.*at most 0"),
        ],
    )
    def test_of_compare_spaces(self, a, b, k, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            compare_spaces(a, b, k=k)

    @pytest.mark.parametrize(
        ("a", "b", "message"),
        [
            (A, normal(19, 3), "`a` and `b`.*20.*19"),
            (A, A * np.inf, "`b`.*finite"),
            (A[:, 0], A, r"`a`.*\(n, ...\)"),
            (np.full((20, 2), 0.1), A, "`a`.*samples that differ.*20 equal rows"),
            (A, np.full((20, 9), 1e9), "`b`.*samples that differ.*20 equal rows"),
        ],
    )
    def test_of_linear_cka(self, a, b, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            linear_cka(a, b)
