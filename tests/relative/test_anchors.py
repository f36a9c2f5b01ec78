"""Anchors: each method against slow loops and by hand, and what none of them may do."""

import sys
import tracemalloc
import warnings

import numpy as np
import pytest

from keras_lgg.graphs import pairs
from keras_lgg.relative import anchors
from keras_lgg.relative.anchors import select_anchors

pytestmark = pytest.mark.once
N = 40
X = np.random.default_rng(0).normal(size=(N, 5))
LABELS = np.random.default_rng(1).integers(0, 3, N)
OTHER = np.random.default_rng(2).normal(size=(N, 7))
OPTIONS = {
    "uniform": {},
    "stratified": {"labels": LABELS},
    "fps": {},
    "kmeans": {},
    "top_n": {"first": 30},
    "best_aligned": {"other": OTHER},
}
SEEDED = [method for method in OPTIONS if method != "best_aligned"]
BY_DIRECTION = ["fps", "kmeans", "best_aligned"]


def select(method, x=X, k=12, **options):
    return select_anchors(x, k, method=method, **{**OPTIONS[method], **options})


def unit(x):
    return np.array([row / np.linalg.norm(row) if row.any() else row for row in x])


def rotation(d, seed=3):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


class TestEachMethod:
    @pytest.mark.parametrize("k", [2, 12, 30])
    @pytest.mark.parametrize("method", OPTIONS)
    def test_gives_different_indices_in_order(self, method, k):
        chosen = select(method, k=k)
        assert isinstance(chosen, np.ndarray)
        assert (chosen.shape, chosen.dtype) == ((k,), np.int64)
        assert np.all(np.diff(chosen) > 0)
        assert chosen[0] >= 0
        assert chosen[-1] < N

    @pytest.mark.parametrize("method", OPTIONS)
    def test_is_decided_by_the_seed(self, method):
        found = {tuple(select(method, seed=seed)) for seed in range(5)}
        assert found == {tuple(select(method, seed=seed)) for seed in range(5)}
        assert len(found) == (5 if method in SEEDED else 1)
        assert np.array_equal(select(method), select(method, seed=0))

    @pytest.mark.parametrize("method", OPTIONS)
    def test_can_take_all_samples(self, method):
        options = {"first": N} if method == "top_n" else {}
        np.testing.assert_array_equal(select(method, k=N, **options), np.arange(N))

    @pytest.mark.parametrize("method", OPTIONS)
    def test_leaves_the_global_random_state_alone(self, method):
        before = np.random.get_state()[1].copy()
        select(method)
        np.testing.assert_array_equal(np.random.get_state()[1], before)

    @pytest.mark.parametrize("method", ["uniform", "stratified", "top_n"])
    @pytest.mark.parametrize("x", [np.full((N, 2), np.nan), ["a word"] * N, np.zeros(N)])
    def test_may_need_the_number_of_samples_alone(self, method, x):
        np.testing.assert_array_equal(select(method, x), select(method))

    @pytest.mark.parametrize("method", ["uniform", "stratified", "top_n"])
    @pytest.mark.parametrize(
        "x",
        [
            {"ids": np.zeros((N, 7), "int64"), "padding_mask": np.ones((N, 7))},
            [np.zeros((N, 7)), np.zeros((N, 3, 2))],
            (np.array(["a dog"] * N), np.array(["un chien"] * N)),
        ],
        ids=["dict", "list", "pair"],
    )
    def test_of_several_inputs(self, method, x):
        np.testing.assert_array_equal(select(method, x), select(method))

    @pytest.mark.parametrize("method", BY_DIRECTION)
    def test_flattens(self, method):
        x = np.random.default_rng(5).normal(size=(N, 2, 3))
        np.testing.assert_array_equal(select(method, x), select(method, x.reshape(N, 6)))

    @pytest.mark.parametrize("method", BY_DIRECTION)
    def test_depends_on_directions_up_to_a_rotation(self, method):
        lengths = np.random.default_rng(6).uniform(0.1, 10, size=(N, 1))
        np.testing.assert_array_equal(select(method, lengths * X @ rotation(5)), select(method))
        assert not np.array_equal(select(method, X + 3), select(method))

    @pytest.mark.parametrize("dtype", ["float16", "int64", "uint8"])
    @pytest.mark.parametrize("method", BY_DIRECTION)
    def test_takes_any_real_numbers(self, method, dtype):
        x = np.random.default_rng(7).integers(0, 200, size=(N, 5))
        np.testing.assert_array_equal(
            select(method, x.astype(dtype)), select(method, x.astype("float32"))
        )


def test_uniform_reaches_every_sample_alike():
    counts = np.zeros(10)
    for seed in range(2000):
        counts[select_anchors(np.zeros(10), 3, seed=seed)] += 1
    # 600 expected, with a standard deviation of 20.5.
    assert np.all(np.abs(counts - 600) < 100)


class TestStratified:
    def counts(self, labels, k, seed=0):
        x = np.zeros(len(labels))
        chosen = select_anchors(x, k, method="stratified", labels=np.array(labels), seed=seed)
        return np.bincount(np.array(labels)[chosen], minlength=max(labels) + 1).tolist()

    @pytest.mark.parametrize("k", range(2, 31))
    def test_class_counts_differ_by_at_most_one(self, k):
        counts = self.counts([0, 1, 2] * 10, k)
        assert sum(counts) == k
        assert max(counts) - min(counts) <= 1

    def test_classes_without_samples_left_are_skipped(self):
        labels = [0] * 10 + [1] * 2 + [2] * 5
        assert self.counts(labels, 6) == [2, 2, 2]
        assert self.counts(labels, 8) == [3, 2, 3]
        assert self.counts(labels, 12) == [5, 2, 5]
        assert self.counts(labels, 14) == [7, 2, 5]
        assert self.counts(labels, 17) == [10, 2, 5]

    def test_fewer_anchors_than_classes(self):
        found = [self.counts(range(10), 4, seed) for seed in range(50)]
        assert all(max(counts) == 1 for counts in found)
        assert np.all(np.sum(found, axis=0) > 0)  # no class is left out for its number

    def test_samples_of_a_class_are_random(self):
        labels = [0] * 10 + [1] * 10
        x = np.zeros(20)
        found = [
            select_anchors(x, 4, method="stratified", labels=np.array(labels), seed=seed)
            for seed in range(100)
        ]
        assert len(np.unique(found)) == 20

    @pytest.mark.parametrize(
        "labels",
        [
            LABELS[:, None],
            LABELS.tolist(),
            LABELS.astype("float32"),
            LABELS.astype("uint8"),
            np.eye(3)[LABELS],
            np.eye(3)[LABELS] * 0.6 + 0.1,
            10 * LABELS - 7,
        ],
        ids=["column", "list", "float", "uint8", "one-hot", "soft", "other numbers"],
    )
    def test_forms_of_labels(self, labels):
        np.testing.assert_array_equal(select("stratified", labels=labels), select("stratified"))


class TestFarthestPoints:
    def slow(self, x, k, start):
        """Indices in the order of their choice, and the distance that each was chosen for."""
        u, chosen, distances = unit(x), [start], []
        while len(chosen) < k:
            best, farthest = None, -1.0
            for i in range(len(u)):
                nearest = min(np.linalg.norm(u[i] - u[j]) for j in chosen)
                if i not in chosen and nearest > farthest:
                    best, farthest = i, nearest
            chosen.append(best)
            distances.append(farthest)
        return chosen, distances

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_against_loops(self, dtype):
        expected = {tuple(sorted(self.slow(X, 6, start)[0])) for start in range(N)}
        found = {tuple(select("fps", X.astype(dtype), 6, seed=seed)) for seed in range(600)}
        assert found == expected  # every start is drawn, with its own choice

    def test_distances_never_increase(self):
        for start in range(N):
            distances = self.slow(X, 15, start)[1]
            assert np.all(np.diff(distances) <= 0)
        # What follows for the set: no sample is farther from it than two of its own are apart.
        for seed in range(10):
            u, chosen = unit(X), select("fps", seed=seed)
            distance = np.linalg.norm(u[:, None] - u[None, chosen], axis=-1)
            apart = distance[chosen][~np.eye(len(chosen), dtype=bool)]
            assert apart.min() >= distance.min(axis=1).max()

    def test_by_hand(self):
        # Five directions of a plane, each with a shorter near copy.
        angles = np.radians([0, 1, 72, 73, 144, 145, 216, 217, 288, 289])
        x = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.tile([5, 1], 5)[:, None]
        for seed in range(10):
            chosen = select_anchors(x, 5, method="fps", seed=seed)
            np.testing.assert_array_equal(chosen // 2, range(5))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_duplicates_and_rows_of_zeros(self, dtype):
        x = np.concatenate([np.tile(X[:3], (4, 1)), np.zeros((3, 5))]).astype(dtype)
        for seed in range(5):
            few = select_anchors(x, 4, method="fps", seed=seed)
            assert len(np.unique(x[few], axis=0)) == 4  # zeros are as far as orthogonal rows
            assert len(set(select_anchors(x, 14, method="fps", seed=seed))) == 14
        zeros = np.zeros((6, 2), dtype)
        assert len(set(select_anchors(zeros, 5, method="fps"))) == 5


class TestClusters:
    def test_against_loops(self):
        from sklearn.cluster import KMeans

        for seed in range(3):
            u = unit(X)
            centres = KMeans(15, n_init=1, random_state=seed).fit(u).cluster_centers_
            expected = []
            for centre in centres:
                cosines = [row @ centre / np.linalg.norm(centre) for row in u]
                # Rounded, since both samples of a cluster of two are equally near.
                order = sorted(range(N), key=lambda i, cosines=cosines: -round(cosines[i], 10))
                expected.append(next(i for i in order if i not in expected))
            found = select("kmeans", k=15, seed=seed)
            np.testing.assert_array_equal(found, sorted(expected))

    def test_one_of_each_cluster(self):
        rng = np.random.default_rng(0)
        x = np.repeat(np.eye(4), 8, axis=0) + 0.05 * rng.normal(size=(32, 4))
        x *= rng.uniform(0.1, 10, size=(32, 1))
        chosen = select_anchors(x, 4, method="kmeans")
        np.testing.assert_array_equal(chosen // 8, range(4))
        # The nearest to the mean direction of its cluster.
        for i, index in enumerate(chosen):
            cluster = unit(x[8 * i : 8 * i + 8])
            assert np.argmax(cluster @ cluster.mean(axis=0)) == index - 8 * i

    def fake(self, monkeypatch, centres, warning=None):
        class FakeKMeans:
            def __init__(self, k, *, n_init, random_state):
                self.cluster_centers_ = np.array(centres, "float64")

            def fit(self, x):
                if warning is not None:
                    warnings.warn(warning, stacklevel=1)
                return self

        monkeypatch.setattr("sklearn.cluster.KMeans", FakeKMeans)

    def test_next_nearest_where_one_is_taken(self, monkeypatch):
        angles = np.radians([0, 20, 50, 90])
        x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        # At 1, 2 and 3 degrees: all nearest to sample 0, then to 1, then to 2.
        degrees = np.radians([1, 2, 3])
        self.fake(monkeypatch, np.stack([np.cos(degrees), np.sin(degrees)], axis=1))
        np.testing.assert_array_equal(select_anchors(x, 3, method="kmeans"), [0, 1, 2])
        # 90 degrees first, then 60 (nearest to 50), then 55: both near ones are taken.
        degrees = np.radians([90, 60, 55])
        self.fake(monkeypatch, np.stack([np.cos(degrees), np.sin(degrees)], axis=1))
        # From 55 degrees: 50 and 90 are taken (5 and 35 away), 20 is as far as 90.
        np.testing.assert_array_equal(select_anchors(x, 3, method="kmeans"), [1, 2, 3])

    def test_duplicates_and_rows_of_zeros(self):
        x = np.concatenate([np.tile(X[:3], (4, 1)), np.zeros((3, 5))])
        chosen = select_anchors(x, 10, method="kmeans")  # warnings are errors in this suite
        assert len(set(chosen)) == 10

    def test_only_the_warning_of_duplicates_is_hidden(self, monkeypatch):
        from sklearn.exceptions import ConvergenceWarning

        x = np.eye(3)
        self.fake(monkeypatch, x, ConvergenceWarning("Number of distinct clusters (2) found"))
        select_anchors(x, 3, method="kmeans")
        self.fake(monkeypatch, x, ConvergenceWarning("It did not converge"))
        with pytest.warns(ConvergenceWarning, match="did not converge"):
            select_anchors(x, 3, method="kmeans")
        self.fake(monkeypatch, x, UserWarning("Number of distinct clusters"))
        with pytest.warns(UserWarning, match="distinct"):
            select_anchors(x, 3, method="kmeans")

    def test_without_scikit_learn(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
        with pytest.raises(ImportError, match=r"sklearn\.cluster.*keras_lgg\[relative\]"):
            select("kmeans")
        select("fps")


def test_top_n_takes_the_first_samples_only():
    found = [select_anchors(X, 5, method="top_n", first=8, seed=seed) for seed in range(50)]
    np.testing.assert_array_equal(np.unique(found), np.arange(8))
    np.testing.assert_array_equal(select_anchors(X, 8, method="top_n", first=8), np.arange(8))


class TestBestAligned:
    def slow(self, a, b):
        scores = []
        a, b = unit(a), unit(b)
        for i in range(len(a)):
            rows = []
            for u in (a, b):
                row = np.array([np.linalg.norm(u[i] - u[j]) for j in range(len(u))])
                rows.append(row / np.linalg.norm(row))
            scores.append(np.linalg.norm(rows[0] - rows[1]))
        return np.array(scores)

    @pytest.mark.parametrize("k", [2, 7, 25])
    def test_against_loops(self, k):
        expected = np.sort(np.argsort(self.slow(X, OTHER))[:k])
        np.testing.assert_array_equal(select("best_aligned", k=k), expected)

    def test_by_hand(self):
        """A rotated copy in which some samples were replaced: those are aligned worst."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(60, 5))
        other = 2 * x @ rotation(5)
        replaced = [3, 17, 30, 59]
        other[replaced] = rng.normal(size=(4, 5))
        chosen = select_anchors(x, 56, method="best_aligned", other=other)
        np.testing.assert_array_equal(chosen, np.setdiff1d(np.arange(60), replaced))

    def test_equal_rows_are_no_trouble(self):
        ones = np.ones((N, 3))
        assert len(select("best_aligned", ones)) == 12
        np.testing.assert_array_equal(select("best_aligned", ones, other=ones), np.arange(12))

    def test_in_blocks(self, monkeypatch):
        expected = select("best_aligned")
        for size in (1, 7, N - 1):
            blocks = [slice(i, i + size) for i in range(0, N, size)]
            monkeypatch.setattr(anchors, "row_blocks", lambda n, blocks=blocks: blocks)
            np.testing.assert_array_equal(select("best_aligned"), expected)

    def test_memory_is_that_of_blocks(self, monkeypatch):
        monkeypatch.setattr(pairs, "LARGEST_WHOLE", 2**8)
        monkeypatch.setattr(pairs, "ENTRIES", 2**16)
        x = np.random.default_rng(0).normal(size=(2000, 4))
        tracemalloc.start()
        select_anchors(x, 10, method="best_aligned", other=x[:, ::-1])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8e6  # a single matrix of all pairs has 32 MB


class TestErrors:
    @pytest.mark.parametrize(
        ("method", "options", "message"),
        [
            ("uniform", {"k": 1}, "`k`.*integer of at least 2.*k=1"),
            ("uniform", {"k": 2.0}, "`k`.*integer of at least 2.*k=2.0"),
            ("uniform", {"k": True}, "`k`.*integer.*True"),
            ("uniform", {"k": N + 1}, f"`k`.*at most {N}.*k={N + 1}"),
            ("uniform", {"x": np.float32(3)}, "`x`.*one row a sample.*float32"),
            ("uniform", {"seed": -1}, "`seed`.*at least 0.*seed=-1"),
            ("uniform", {"seed": None}, "`seed`.*at least 0.*None"),
            ("uniform", {"first": 20}, "`first`.*None with method='uniform'.*first=20"),
            ("fps", {"labels": LABELS}, r"`labels`.*None with method='fps'.*shape \(40,\)"),
            ("kmeans", {"other": OTHER}, r"`other`.*None with method='kmeans'.*shape \(40, 7\)"),
            ("top_n", {"labels": LABELS}, "`labels`.*None with method='top_n'"),
            ("stratified", {"first": 30}, "`first`.*None with method='stratified'"),
            ("best_aligned", {"first": 30}, "`first`.*None with method='best_aligned'"),
            ("stratified", {"labels": None}, "`labels`.*method='stratified' needs.*None"),
            ("stratified", {"labels": LABELS[:-1]}, "`x` and `labels`.*40.*39"),
            ("stratified", {"labels": np.zeros((N, 2, 2))}, r"`labels`.*\(n, c\).*\(40, 2, 2\)"),
            ("stratified", {"labels": LABELS + 0.5}, "`labels`.*whole numbers"),
            ("stratified", {"labels": np.full(N, np.nan)}, "`labels`.*finite.*NaN"),
            ("stratified", {"labels": np.full((N, 2), np.nan)}, "`labels`.*NaN"),
            ("stratified", {"labels": ["cat"] * N}, "`labels`.*integers.*<U3"),
            ("stratified", {"labels": 3}, r"`labels`.*integers.*shape \(\)"),
            ("top_n", {"first": None}, "`first`.*method='top_n' needs.*None"),
            ("top_n", {"first": 11}, "`first`.*k=12 to n=40.*first=11"),
            ("top_n", {"first": N + 1}, "`first`.*k=12 to n=40.*first=41"),
            ("top_n", {"first": 20.0}, "`first`.*positive integer.*20.0"),
            ("best_aligned", {"other": None}, "`other`.*method='best_aligned' needs.*None"),
            ("best_aligned", {"other": OTHER[:-1]}, "`x` and `other`.*40.*39"),
            ("best_aligned", {"other": OTHER * np.inf}, "`other`.*finite"),
            ("best_aligned", {"other": OTHER[:, 0]}, r"`other`.*\(n, ...\).*shape \(40,\)"),
            (
                "uniform",
                {"x": (["a"] * N, np.array(["b"] * 39))},
                r"different samples.*Received: 40 in x\[0\] and 39 in x\[1\]",
            ),
            (
                "uniform",
                {"x": {"en": np.array(["a"] * N), "hi": np.array(["b"] * 39)}},
                r"different samples.*translation.*40 in x\['en'\] and 39 in x\['hi'\]",
            ),
            ("fps", {"x": [X, X]}, r"`x`.*real numbers.*encoder.predict\(x\).*several inputs"),
            ("kmeans", {"x": np.array(["a"] * N)}, r"`x`.*encoder.predict\(x\).*strings, <U1"),
            ("fps", {"x": X[:, 0]}, r"`x`.*\(n, ...\).*shape \(40,\)"),
            ("fps", {"x": X[:, :0]}, r"`x`.*\(n, ...\).*shape \(40, 0\)"),
            ("fps", {"x": X + 1j}, "`x`.*real numbers.*complex128"),
            ("fps", {"x": X.astype(str)}, "`x`.*real numbers.*<U"),
        ],
    )
    def test_say_what_was_wrong(self, method, options, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            select(method, **options)

    def test_unknown_methods(self):
        with pytest.raises(ValueError, match=r"`method`.*'uniform', 'stratified'.*'closest'"):
            select_anchors(X, 3, method="closest")

    @pytest.mark.parametrize("method", BY_DIRECTION)
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite(self, method, value):
        x = X.copy()
        x[3, 1] = value
        with pytest.raises(ValueError, match=r"`x`.*finite values.*NaN or infinite"):
            select(method, x)
