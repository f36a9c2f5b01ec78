"""Similarity measures: against slow definitions, what changes them and what does not, by hand."""

import functools
import pathlib
import re
import tracemalloc

import numpy as np
import pytest
import similarity_reference as reference

from keras_lgg import relative
from keras_lgg.relative import geometry, kernels

pytestmark = pytest.mark.once
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "similarity.md"


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def pair(n, p, q):
    """Two spaces with much in common, of directions of unequal sizes."""
    a = normal(n, p) * np.linspace(1, 2, p)
    b = normal(n, q, seed=1) * np.linspace(1.5, 0.5, q)
    b[:, : min(p, q) // 2] += a[:, : min(p, q) // 2]
    return a, b


def rotation(d):
    return np.linalg.qr(normal(d, d, seed=3))[0]


MEASURES = {
    "linear_cka": relative.linear_cka,
    "debiased_cka": relative.debiased_cka,
    "minibatch_cka": functools.partial(relative.minibatch_cka, batch_size=40),
    "rbf_cka": relative.rbf_cka,
    "svcca": functools.partial(relative.svcca, variance=0.9),
    "svcca, variance=1": functools.partial(relative.svcca, variance=1),
    "pwcca": relative.pwcca,
    "rsa": relative.rsa,
    'rsa, metric="euclidean"': functools.partial(relative.rsa, metric="euclidean"),
    "procrustes_distance": relative.procrustes_distance,
    'procrustes_distance, form="angle"': functools.partial(
        relative.procrustes_distance, form="angle"
    ),
    'procrustes_distance, form="size"': functools.partial(
        relative.procrustes_distance, form="size"
    ),
    "neighbour_jaccard": relative.neighbour_jaccard,
    'neighbour_jaccard, metric="euclidean"': functools.partial(
        relative.neighbour_jaccard, metric="euclidean"
    ),
    "compare_spaces": lambda a, b: relative.compare_spaces(a, b)["mrr"],
}
TRANSFORMS = {
    "rotation": lambda x: x @ rotation(6),
    "scale": lambda x: 3 * x,
    "shift": lambda x: x + np.linspace(-2, 3, 6),
    "scale a feature": lambda x: x * np.linspace(0.1, 3, 6),
    "linear map": lambda x: x @ (np.eye(6) + np.triu(normal(6, 6, seed=6), 1)),
}
ALIKE = ["rotation", "scale", "shift"]
INVARIANCES = {
    "linear_cka": ALIKE,
    "debiased_cka": ALIKE,
    "minibatch_cka": ALIKE,
    "rbf_cka": ALIKE,
    "svcca": ALIKE,
    "svcca, variance=1": list(TRANSFORMS),
    "pwcca": ["scale", "shift"],
    "rsa": ["scale"],
    'rsa, metric="euclidean"': ALIKE,
    "procrustes_distance": ALIKE,
    'procrustes_distance, form="angle"': ALIKE,
    'procrustes_distance, form="size"': ["rotation", "shift"],
    "neighbour_jaccard": ["rotation", "scale"],
    'neighbour_jaccard, metric="euclidean"': ALIKE,
    "compare_spaces": ["scale"],
}


class TestInvariances:
    @pytest.mark.parametrize("name", MEASURES)
    def test_each_space_by_itself(self, name):
        """What should not change the value does not, and all else does."""
        measure = MEASURES[name]
        a, b = pair(160, 6, 6)
        expected = measure(a, b)
        for transform, change in TRANSFORMS.items():
            holds = transform in INVARIANCES[name]
            for spaces in ((change(a), b), (a, change(b))):
                if name == "pwcca" and spaces[0] is a:
                    holds = True  # the other space
                difference = abs(measure(*spaces) - expected)
                assert difference < 1e-8 if holds else difference > 1e-3, (transform, difference)

    @pytest.mark.parametrize("name", MEASURES)
    def test_of_the_samples(self, name):
        """The order of the samples does not count; which of them belong together does."""
        measure = MEASURES[name]
        a, b = pair(160, 6, 6)
        order = np.random.default_rng(0).permutation(160)
        expected = measure(a, b)
        assert abs(measure(a[order], b) - expected) > 1e-2
        if name != "minibatch_cka":
            assert measure(a[order], b[order]) == pytest.approx(expected, abs=1e-10)

    @pytest.mark.parametrize("name", [name for name in MEASURES if name != "compare_spaces"])
    def test_swapped(self, name):
        a, b = pair(60, 5, 7)
        assert MEASURES[name](a, b) == pytest.approx(MEASURES[name](b, a), abs=1e-12)

    def test_of_rsa_by_correlation(self):
        """One number for all features and samples changes nothing, nor one for each sample."""
        a, b = pair(60, 5, 7)
        shifts = normal(60, 1, seed=4)
        assert relative.rsa(a + shifts, b - 7) == pytest.approx(relative.rsa(a, b), abs=1e-10)

    def test_the_table_of_the_documentation(self):
        rows = re.findall(r"^\| (.+) \|$", PAGE.read_text(), re.MULTILINE)
        cells = [[cell.strip() for cell in row.split("|")] for row in rows]
        (header,) = (row for row in cells if row[1:] == list(TRANSFORMS))
        start = cells.index(header)
        table = {}
        for row in cells[start + 2 : start + 2 + len(MEASURES)]:
            assert set(row[1:]) <= {"yes", "no"}
            named = [name for name, cell in zip(header[1:], row[1:], strict=True) if cell == "yes"]
            table[row[0].replace("`", "")] = named
        assert table == INVARIANCES


class TestAgainstDefinitions:
    @pytest.mark.parametrize(("p", "q"), [(3, 4), (40, 50), (1, 90)])  # by features, by samples
    def test_debiased_cka(self, p, q):
        a, b = pair(24, p, q)
        found = relative.debiased_cka(a + 5, b)
        assert found == pytest.approx(reference.debiased_cka(a, b), abs=1e-10)
        assert type(found) is float

    @pytest.mark.parametrize(
        ("size", "ends"), [(4, [4, 8, 12, 16, 21, 25, 29]), (9, [11, 22]), (30, []), (99, [])]
    )
    def test_minibatch_cka(self, size, ends):
        a, b = pair(33, 3, 5)
        parts = np.split(np.arange(33), ends)
        found = relative.minibatch_cka(a + 5, 1e-60 * b, batch_size=size)
        assert found == pytest.approx(reference.minibatch_cka(a, b, parts), abs=1e-10)
        assert type(found) is float

    def test_one_batch_is_all(self):
        a, b = pair(50, 4, 6)
        expected = relative.debiased_cka(a, b)
        assert relative.minibatch_cka(a, b, batch_size=50) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("bandwidth", [0.3, 1, 4.0])
    @pytest.mark.parametrize("n", [20, 21])  # an even and an odd number of pairs, too
    def test_rbf_cka(self, n, bandwidth):
        a, b = pair(n, 3, 5)
        found = relative.rbf_cka(a, b, bandwidth=bandwidth)
        assert found == pytest.approx(reference.rbf_cka(a, b, bandwidth), abs=1e-10)
        assert type(found) is float

    @pytest.mark.parametrize("variance", [0.2, 0.5, 0.9, 0.99, 1])
    def test_svcca(self, variance):
        a, b = pair(80, 6, 9)
        found = relative.svcca(a, b, variance=variance)
        assert found == pytest.approx(reference.svcca(a, b, variance), abs=1e-8)
        assert type(found) is float

    @pytest.mark.parametrize(("p", "q"), [(4, 7), (7, 4), (5, 5)])
    def test_pwcca(self, p, q):
        a, b = pair(80, p, q)
        found = relative.pwcca(a + 3, b)
        assert found == pytest.approx(reference.pwcca(a, b), abs=1e-8)
        assert type(found) is float

    @pytest.mark.parametrize(("p", "q"), [(4, 7), (7, 4), (5, 5)])
    def test_pwcca_as_published_in_code(self, p, q):
        """It is that of the paper where the space of the weights is white, and there alone."""
        a, b = pair(80, p, q)
        found = relative.pwcca(a + 3, b - 1, whitened=False)
        assert found == pytest.approx(reference.pwcca(a, b, whitened=False), abs=1e-8)
        assert abs(relative.pwcca(a, b) - found) > 1e-4
        if p <= q:
            a = reference.centred(a) @ reference.inverse_root(np.cov(a.T))
            assert relative.pwcca(a, b, whitened=False) == pytest.approx(relative.pwcca(a, b))

    @pytest.mark.parametrize("metric", ["correlation", "euclidean"])
    def test_rsa(self, metric, monkeypatch):
        a, b = pair(25, 3, 5)
        expected = reference.rsa(a, b, metric)
        found = relative.rsa(a, b, metric=metric)
        assert found == pytest.approx(expected, abs=1e-10)
        assert type(found) is float
        small_blocks(monkeypatch)
        assert relative.rsa(a, b, metric=metric) == pytest.approx(expected, abs=1e-10)

    @pytest.mark.parametrize("metric", ["correlation", "euclidean"])
    def test_rsa_with_ties(self, metric):
        """Integers, whose pairs are often equally alike; thirds of them are rounded."""
        a, b = (np.random.default_rng(seed).integers(0, 4, (25, 3)) for seed in (0, 1))
        a, b = ((x[(x != x[:, :1]).any(axis=1)])[:18].astype("float64") for x in (a, b))
        pairs = [np.round(np.corrcoef(x), 9) for x in (a, b)]
        upper = np.triu_indices(18, 1)
        assert len(np.unique(pairs[0][upper])) < 60  # of 153
        expected = relative.rsa(a, b, metric=metric)
        assert relative.rsa(a / 3, b * 7, metric=metric) == pytest.approx(expected, abs=1e-12)
        if metric == "correlation":
            by_rank = [reference.ranks(p[upper]) for p in pairs]
            assert expected == pytest.approx(np.corrcoef(*by_rank)[0, 1], abs=1e-10)

    @pytest.mark.parametrize("form", ["shape", "angle", "size"])
    @pytest.mark.parametrize(("p", "q"), [(4, 7), (7, 4), (30, 5), (30, 40)])
    def test_procrustes_distance(self, p, q, form):
        a, b = pair(20, p, q)
        found = relative.procrustes_distance(a + 5, b, form=form)
        assert found == pytest.approx(reference.procrustes_distance(a, b, form), abs=1e-8)
        assert type(found) is float

    @pytest.mark.parametrize("metric", ["cosine", "euclidean"])
    @pytest.mark.parametrize("k", [1, 5, 29])
    def test_neighbour_jaccard(self, k, metric, monkeypatch):
        a, b = pair(30, 3, 5)
        a = a + 1
        expected = reference.neighbour_jaccard(a, b, k, metric)
        assert (expected == 1) == (k == 29)
        found = relative.neighbour_jaccard(a, b, k=k, metric=metric)
        assert found == pytest.approx(expected, abs=1e-12)
        assert type(found) is float
        small_blocks(monkeypatch)
        found = relative.neighbour_jaccard(a, b, k=k, metric=metric)
        assert found == pytest.approx(expected, abs=1e-12)


def small_blocks(monkeypatch, rows=7):
    blocks = lambda n: [slice(i, i + rows) for i in range(0, n, rows)]  # noqa: E731
    monkeypatch.setattr(geometry, "row_blocks", blocks)


class TestKnownValues:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("name", MEASURES)
    def test_equal_spaces(self, name, dtype):
        a = pair(50, 4, 5)[0].astype(dtype)
        expected = 0 if name.startswith("procrustes") else 1
        assert MEASURES[name](a, a.copy()) == pytest.approx(expected, abs=1e-12)

    def test_spaces_with_nothing_in_common(self):
        """Of width 64, 20 pairs: the bias of the one, and none of the others."""
        biased, debiased, by_batch = {}, {}, {}
        rng = np.random.default_rng(0)
        for n in (32, 256):
            pairs = [rng.normal(size=(2, n, 64)) for _ in range(20)]
            biased[n] = np.mean([relative.linear_cka(*spaces) for spaces in pairs])
            debiased[n] = np.mean([relative.debiased_cka(*spaces) for spaces in pairs])
            by_batch[n] = np.mean([relative.minibatch_cka(*p, batch_size=32) for p in pairs])
        assert biased[32] == pytest.approx(0.67, abs=0.01)  # as the docstring says
        assert biased[256] == pytest.approx(0.20, abs=0.005)
        for found in (debiased, by_batch):
            assert found[32] == pytest.approx(0, abs=0.03)
            assert found[256] == pytest.approx(0, abs=0.005)

    def test_a_wide_bandwidth_is_linear(self):
        a, b = pair(60, 4, 6)
        expected = relative.linear_cka(a, b)
        assert relative.rbf_cka(a, b, bandwidth=100) == pytest.approx(expected, abs=1e-3)
        assert abs(relative.rbf_cka(a, b, bandwidth=0.5) - expected) > 0.05

    def test_correlations_by_hand(self):
        """Orthogonal signs: two of three directions are shared, with correlations 1 and 0.6."""
        h = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]] * 3, "float64")
        noise = np.repeat([1.0, -1, 0], 4)  # orthogonal to all three
        noise *= 2 / np.linalg.norm(noise) * np.sqrt(3)
        a = h[:, :2] * [3, 1]
        b = np.stack([5 * h[:, 0], 0.6 * h[:, 1] + 0.8 * noise], axis=1)
        assert relative.svcca(a, b, variance=1) == pytest.approx((1 + 0.6) / 2)
        assert relative.svcca(a, b, variance=0.9) == pytest.approx(1)  # 9 of 10, 25 of 26
        # The directions lie along the features, which are as long as their scales.
        assert relative.pwcca(a, b) == pytest.approx((3 * 1 + 1 * 0.6) / 4)

    def test_rank_deficient_spaces(self):
        """Directions that rounding makes up are none: a copied feature, scores that sum to 1."""
        a, b = pair(60, 3, 5)
        wide = np.concatenate([a, a[:, :1], 1 - a.sum(axis=1, keepdims=True)], axis=1)
        expected = relative.svcca(a, b, variance=1)
        for dtype in ("float32", "float64"):
            found = relative.svcca(wide.astype(dtype), b.astype(dtype), variance=1)
            assert found == pytest.approx(expected, abs=1e-5)
        assert 0 < relative.pwcca(wide, b) < 1

    def test_procrustes_by_hand(self):
        """A square and a line of 4 points: only one axis of the square can be turned onto it."""
        square = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
        line = np.array([[1], [1], [-1], [-1]])
        # Norms √8 and 2, cosine 1 / √2 of the scaled ones; as they are, one axis of 4 remains.
        assert relative.procrustes_distance(square, line, form="size") == pytest.approx(2)
        assert relative.procrustes_distance(square, line, form="angle") == pytest.approx(np.pi / 4)
        expected = np.sqrt(2 - np.sqrt(2))
        assert relative.procrustes_distance(square, line) == pytest.approx(expected)

    @pytest.mark.parametrize("form", ["shape", "angle", "size"])
    def test_procrustes_is_a_metric(self, form):
        """The way over a third space is never the shorter one."""
        spaces = [normal(12, d, seed=d) + normal(12, 1) for d in (2, 5, 20)]
        distance = functools.partial(relative.procrustes_distance, form=form)
        for i in range(3):
            a, b, c = spaces[i], spaces[i - 1], spaces[i - 2]
            assert distance(a, b) < distance(a, c) + distance(c, b)

    def test_small_distances_are_not_rounded(self):
        a = normal(50, 4)
        moved = a + 1e-10 * normal(50, 4, seed=1)
        found = relative.procrustes_distance(a, moved, form="size")
        left = np.linalg.norm(reference.centred(moved - a))
        assert 0.5 * left < found < left
        assert relative.procrustes_distance(a, 7 * a @ rotation(4)) < 1e-13

    def test_rows_of_equal_features_are_alike_to_all(self):
        a, b = pair(20, 5, 7)  # widths for which the mean of equal numbers is another
        a[[3, 8]], b[[2, 8]] = 0.1, 0.7  # to each other, too
        found = relative.rsa(a, b)
        a[[3, 8]] = b[[2, 8]] = 0
        assert found == relative.rsa(a, b)

    def test_duplicates_are_neighbours_of_each_other(self):
        a = np.repeat(normal(20, 3), 2, axis=0)
        assert relative.neighbour_jaccard(a, a.copy(), k=1) == 1
        b = np.roll(a, 1, axis=0)  # other twins
        assert relative.neighbour_jaccard(a, b, k=1) == 0

    @pytest.mark.parametrize("name", MEASURES)
    def test_flattens_and_takes_other_numbers(self, name):
        a, b = (np.random.default_rng(i).integers(0, 9, (60, 2, 3)) for i in range(2))
        expected = MEASURES[name](a.reshape(60, 6).astype("float32"), b.reshape(60, 6) * 1.0)
        assert MEASURES[name](a.astype("uint8"), b) == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("name", [n for n in MEASURES if "size" not in n])
    def test_large_and_small_numbers(self, name):
        a, b = pair(50, 4, 4)
        found = MEASURES[name](1e150 * a, 1e-150 * b)
        assert found == pytest.approx(MEASURES[name](a, b), abs=1e-9)

    def test_size_of_large_numbers(self):
        a, b = pair(50, 4, 6)
        expected = 1e200 * relative.procrustes_distance(a, b, form="size")
        found = relative.procrustes_distance(1e200 * a, 1e200 * b, form="size")
        assert found == pytest.approx(expected)


def peak_of(call):
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


class TestMemory:
    """A matrix of all pairs of 4,000 samples has 128 MB."""

    @pytest.mark.parametrize(
        "name", ["debiased_cka", "minibatch_cka", "svcca", "pwcca", "procrustes_distance"]
    )
    def test_of_long_spaces(self, name):
        a, b = normal(4000, 20), normal(4000, 30, seed=1)
        assert peak_of(lambda: getattr(relative, name)(a, b)) < 12e6

    def test_of_neighbours(self):
        a, b = (normal(4000, 4, seed=i).astype("float32") for i in range(2))
        assert peak_of(lambda: relative.neighbour_jaccard(a, b)) < 100e6

    @pytest.mark.parametrize("name", ["debiased_cka", "procrustes_distance"])
    def test_of_wide_spaces(self, name):
        a, b = normal(20, 4000), normal(20, 3000, seed=1)
        assert peak_of(lambda: getattr(relative, name)(a, b)) < 12e6  # 96 MB of products

    @pytest.mark.parametrize(("name", "each"), [("rbf_cka", 25), ("rsa", 40)])
    def test_of_all_pairs(self, name, each):
        """As many bytes for each pair as the docstrings say."""
        a, b = normal(1000, 3), normal(1000, 4, seed=1)
        assert 0.7 < peak_of(lambda: getattr(relative, name)(a, b)) / (each * 1000**2) < 1.05
        assert f"{each} n²" in getattr(relative, name).__doc__


A = normal(20, 4)
NAMES = [name for name in MEASURES if "," not in name and name != "compare_spaces"]


class TestErrors:
    @pytest.mark.parametrize("name", NAMES)
    def test_of_all(self, name):
        measure = getattr(relative, name)
        for a, b, message in (
            (A, normal(19, 3), "`a` and `b`.*20.*19"),
            (A * np.nan, A, "`a`.*finite.*NaN"),
            (A, A * np.inf, "`b`.*finite"),
            (A[:, 0], A, r"`a`.*\(n, ...\)"),
            (A[:1], A[:1], "`a`.*samples"),
        ):
            with pytest.raises(ValueError, match=f"(?s){message}"):
                measure(a, b)
        flat = np.full((20, 2), 0.1)
        for spaces, argument in (((flat, A), "a"), ((A, flat), "b")):
            with pytest.raises(ValueError, match=f"`{argument}`.*Expected.*Received"):
                measure(*spaces)

    @pytest.mark.parametrize(
        ("name", "least"),
        [("debiased_cka", 4), ("minibatch_cka", 4), ("rsa", 3)],
    )
    def test_of_few_samples(self, name, least):
        measure = getattr(relative, name)
        assert -1 <= measure(A[:least], A[least : 2 * least]) <= 1
        with pytest.raises(ValueError, match=f"`a`.*at least {least} samples.*{least - 1}"):
            measure(A[: least - 1], A[: least - 1])

    @pytest.mark.parametrize("name", ["debiased_cka", "minibatch_cka", "rsa"])
    def test_of_pairs_that_are_equally_alike(self, name):
        """Each sample has a feature of its own."""
        for spaces, argument in (((np.eye(20), A), "a"), ((A, np.eye(20)), "b")):
            with pytest.raises(ValueError, match=f"(?s)`{argument}`.*more alike.*equally alike"):
                getattr(relative, name)(*spaces)

    def test_of_a_single_feature_by_correlation(self):
        with pytest.raises(ValueError, match=r"`b`.*by correlation.*equally alike"):
            relative.rsa(A, A[:, :1])
        assert relative.rsa(A[:, :1], A[:, :1], metric="euclidean") == pytest.approx(1)

    def test_of_samples_that_are_mostly_equal(self):
        a = np.zeros((20, 2))
        a[0] = 1
        with pytest.raises(ValueError, match=r"`a`.*most pairs of samples differ.*median"):
            relative.rbf_cka(a, A)

    @pytest.mark.parametrize("name", ["svcca", "pwcca"])
    def test_of_as_many_directions_as_samples(self, name):
        """All correlations would be 1."""
        options = {"variance": 1} if name == "svcca" else {}
        measure = functools.partial(getattr(relative, name), **options)
        assert measure(normal(20, 3, seed=1), normal(20, 18)) < 1 - 1e-3
        for width in (19, 40):
            with pytest.raises(ValueError, match=r"(?s)`b`.*fewer directions than the 20 samples"):
                measure(A, normal(20, width))

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: relative.minibatch_cka(A, A, batch_size=3), "`batch_size`.*at least 4.*3"),
            (lambda: relative.minibatch_cka(A, A, batch_size=4.0), "`batch_size`.*integer.*4.0"),
            (lambda: relative.rbf_cka(A, A, bandwidth=0), "`bandwidth`.*positive.*0"),
            (lambda: relative.svcca(A, A, variance=0), r"`variance`.*\(0, 1\].*0"),
            (lambda: relative.svcca(A, A, variance=1.1), r"`variance`.*\(0, 1\].*1.1"),
            (lambda: relative.svcca(A, A, variance=True), r"`variance`.*\(0, 1\].*True"),
            (lambda: relative.rsa(A, A, metric="cosine"), "`metric`.*correlation.*cosine"),
            (lambda: relative.procrustes_distance(A, A, form="x"), "`form`.*shape.*'x'"),
            (lambda: relative.neighbour_jaccard(A, A, k=20), "`k`.*at most 19.*20"),
            (lambda: relative.neighbour_jaccard(A, A, k=0), "`k`.*positive integer.*0"),
            (lambda: relative.neighbour_jaccard(A, A, metric="l1"), "`metric`.*cosine.*l1"),
        ],
    )
    def test_of_options(self, call, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            call()


@pytest.mark.parametrize("n", [4, 5, 17, 255, 256, 257, 1000])
@pytest.mark.parametrize("size", [4, 7, 256])
def test_batches(n, size):
    parts = kernels.batches(n, size)
    assert np.concatenate([np.arange(n)[part] for part in parts]).tolist() == list(range(n))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(n, size)
    assert len(parts) == max(n // size, 1)
