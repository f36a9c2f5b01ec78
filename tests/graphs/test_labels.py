"""Labels that mean what they say, in every form, in functions and in losses."""

import re
from typing import ClassVar

import keras
import numpy as np
import pytest
import reference
from autodiff import BACKEND, MODES, marked, value, value_and_grads

from keras_lgg import graphs, losses, relative
from keras_lgg.graphs.labels import comparable

N = 24
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 5)).astype("float32")
OTHER = RNG.normal(size=(N, 4)).astype("float32")
LABELS = np.arange(N) % 3
KEPT = np.arange(N) % 5 != 0
PARTLY = np.where(KEPT, LABELS, -1)
ONE_HOT = np.eye(3, dtype="float32")
AFFINITY = [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]


def total(x):
    return float(np.sum(keras.ops.convert_to_numpy(x)))


# Functions of (x, labels, **options) that see which samples are of one class.
READERS = {
    "label_smoothness": (graphs.label_smoothness, {}),
    "label_smoothness k": (graphs.label_smoothness, {"k": 3}),
    "label_smoothness power": (graphs.label_smoothness, {"power": 3}),
    "label_smoothness relative": (graphs.label_smoothness, {"relative": True, "k": 4}),
    "graph_smoothness": (lambda x, y, **o: losses.graph_smoothness(y, x, **o), {}),
    "graph_smoothness k": (lambda x, y, **o: losses.graph_smoothness(y, x, **o), {"k": 2}),
    "graph_smoothness blocks": (
        lambda x, y, **o: losses.graph_smoothness(y, x, **o),
        {"k": 2, "block_size": 5},
    ),
    "target_graph": (lambda x, y, **o: losses.target_graph(y, x, **o), {}),
    "target_graph rbf": (lambda x, y, **o: losses.target_graph(y, x, **o), {"metric": "rbf"}),
    "target_graph blocks": (lambda x, y, **o: losses.target_graph(y, x, **o), {"block_size": 7}),
    "smoothness_variation": (
        lambda x, y, **o: losses.smoothness_variation([x, x * x], y, **o),
        {"relative": True},
    ),
}
PAIRS = {
    f"{name} {pairs}": (function, {"pairs": pairs, **options})
    for pairs in ("intra", "inter")
    for name, function, options in [
        ("graph", lambda x, y, **o: graphs.latent_geometry_graph(x, labels=y, **o), {}),
        ("graph k", lambda x, y, **o: graphs.latent_geometry_graph(x, labels=y, **o), {"k": 3}),
        (
            "distillation",
            lambda x, y, **o: losses.graph_distillation(OTHER, x, labels=y, **o),
            {},
        ),
        (
            "distillation blocks",
            lambda x, y, **o: losses.graph_distillation(OTHER, x, labels=y, **o),
            {"block_size": 7},
        ),
    ]
}
ALL = READERS | PAIRS
every_reader = pytest.mark.parametrize(("function", "options"), ALL.values(), ids=ALL)
some = ["label_smoothness", "graph_smoothness", "target_graph", "distillation intra"]
some_readers = pytest.mark.parametrize(("function", "options"), [ALL[s] for s in some], ids=some)


class TestClassNumbers:
    """Equal or not: nothing else about a class number counts."""

    @every_reader
    @pytest.mark.parametrize("offset", [2**24, 10**9, 2**33, 2**62])
    def test_of_any_size(self, function, options, offset):
        expected = total(function(X, LABELS, **options))
        found = total(function(X, LABELS.astype("int64") + offset, **options))
        assert found == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("dtype", ["uint8", "int8", "uint32", "uint64", "float32", "bool"])
    @some_readers
    def test_of_any_dtype(self, function, options, dtype):
        labels = LABELS % 2
        found = total(function(X, labels.astype(dtype), **options))
        assert found == pytest.approx(total(function(X, labels, **options)), rel=1e-5)

    @some_readers
    def test_as_a_list(self, function, options):
        found = total(function(X.tolist(), LABELS[:, None].tolist(), **options))
        assert found == pytest.approx(total(function(X, LABELS, **options)), rel=1e-4)

    @pytest.mark.parametrize("mode", marked([m for m in MODES if m != "eager"], left=("xla",)))
    @pytest.mark.parametrize("name", ["label_smoothness", "graph_smoothness blocks", "graph intra"])
    def test_compiled(self, name, mode):
        function, options = ALL[name]
        labels = (LABELS + 2**24 + 1).astype("int32")
        found = value(lambda x, y: function(x, y, **options), [X, labels], mode)
        assert total(found) == pytest.approx(total(function(X, LABELS, **options)), rel=1e-4)

    @pytest.mark.skipif(BACKEND == "jax", reason="JAX has 32 bits, unless it is told otherwise")
    @pytest.mark.parametrize("mode", marked(m for m in MODES if m != "eager" or BACKEND == "torch"))
    def test_of_64_bits_compiled(self, mode):
        labels = LABELS.astype("int64") * 2**40
        found = value(lambda x, y: losses.graph_smoothness(y, x), [X, labels], mode)
        assert total(found) == pytest.approx(total(losses.graph_smoothness(LABELS, X)), rel=1e-5)

    @pytest.mark.parametrize("offset", [2**24, 10**9])
    @pytest.mark.parametrize(
        ("loss", "y_pred"),
        [
            (losses.GraphSmoothness(), X),
            (losses.GraphSmoothness(block_size=5), X),
            (losses.TargetGraph(), X),
            (losses.SmoothnessVariation(), [X, X * X]),
            (losses.GraphDistillation(pairs="intra"), X),
            (relative.DensificationLoss(), X),
        ],
        ids=lambda case: getattr(case, "name", ""),
    )
    def test_in_losses(self, loss, y_pred, offset):
        def y_true(labels):
            return (OTHER, labels) if loss.needs_teacher else labels

        expected = float(loss(y_true(LABELS), y_pred))
        assert float(loss(y_true(LABELS + offset), y_pred)) == pytest.approx(expected, rel=1e-5)
        assert np.isfinite(expected)

    def test_a_count_that_says_little_costs_nothing(self):
        found = total(graphs.label_smoothness(X, LABELS * 10**9, num_classes=3 * 10**9))
        assert found == pytest.approx(total(graphs.label_smoothness(X, LABELS)), rel=1e-5)

    def test_ranks_in_blocks(self):
        numbers = keras.ops.convert_to_tensor(np.array([2**30 + 1, 5, 2**30, 5], "int32"))
        assert keras.ops.convert_to_numpy(comparable(numbers, 2)).tolist() == [2, 0, 1, 0]


class TestRefused:
    CASES: ClassVar = {
        "regression": (LABELS + 0.37, {}, "whole numbers.*continuous=True"),
        "negative": (PARTLY, {}, "at least 0.*-1.*ignore_class"),
        "NaN": (np.where(KEPT, LABELS, np.nan), {}, "finite"),
        "float32 ids": ((LABELS + 2**25).astype("float32"), {}, "float32 does not tell apart"),
        "signed rows": (X[:, :3], {}, r"in \[0, 1\]"),
        "counts": (3 * ONE_HOT[LABELS], {}, r"in \[0, 1\]"),
        "strings": (["cat"] * N, {}, "Expected integers"),
        "objects": (np.array([None] * N), {}, "Expected integers"),
        "ragged": ([[1], [1, 2]] * (N // 2), {}, "Expected integers"),
        "complex": (LABELS * 1j, {}, "Expected integers"),
        "symbolic": (keras.KerasTensor((N,), "int32"), {}, "symbolic"),
        "three axes": (LABELS[:, None, None], {}, "shape"),
        "too few": (LABELS[:5], {}, "5 in `(labels|target)`"),
        "empty": (LABELS[:0], {}, "at least one"),
        "other ignored": (PARTLY, {"ignore_class": -2}, "ignore_class=-2"),
    }

    @pytest.mark.parametrize(("labels", "more", "message"), CASES.values(), ids=CASES)
    @some_readers
    def test_in_words(self, function, options, labels, more, message):
        with pytest.raises(ValueError, match=r"(?s)Expected.*Received") as error:
            function(X, labels, **options, **more)
        assert re.search(f"(?s){message}", str(error.value)), str(error.value)

    @pytest.mark.parametrize("labels", [LABELS + 1, ONE_HOT[LABELS][:, :2] * 1.0])
    def test_beyond_num_classes(self, labels):
        with pytest.raises(ValueError, match=r"(?s)Expected.*num_classes|width"):
            graphs.label_smoothness(X, labels, num_classes=3)

    @pytest.mark.parametrize("mode", marked([m for m in MODES if m != "eager"], left=("xla",)))
    def test_floats_whose_values_nobody_knows(self, mode):
        with pytest.raises(ValueError, match=r"(?s)as integers inside a compiled.*astype\('int32'"):
            value(lambda x, y: losses.graph_smoothness(y, x), [X, LABELS.astype("float32")], mode)

    def test_options_that_exclude_each_other(self):
        for options in ({"num_classes": 3}, {"ignore_class": -1}):
            with pytest.raises(ValueError, match=r"`continuous` excludes.*Expected.*Received"):
                graphs.label_smoothness(X, LABELS, continuous=True, **options)
        with pytest.raises(ValueError, match="`ignore_class` has no meaning"):
            losses.target_graph(np.eye(N), X, form="graph", ignore_class=-1)

    @pytest.mark.parametrize("wrong", [1.5, "no", True])
    def test_ignore_class_that_is_none(self, wrong):
        with pytest.raises(ValueError, match=r"`ignore_class`.*integer"):
            losses.GraphSmoothness(ignore_class=wrong)


class TestNoLabel:
    """Left out: the value is that of the batch without these samples."""

    @pytest.mark.parametrize(("function", "options"), READERS.values(), ids=READERS)
    @pytest.mark.parametrize("form", ["numbers", "rows", "another number", "ids"])
    def test_as_if_they_were_not_there(self, function, options, form):
        if form == "rows" and function is not graphs.label_smoothness and "metric" in options:
            pytest.skip("the same as numbers")
        labels, ignored = {
            "numbers": (PARTLY, -1),
            "rows": (ONE_HOT[LABELS] * KEPT[:, None], -1),
            "another number": (np.where(KEPT, LABELS, 255), 255),
            "ids": (np.where(KEPT, LABELS.astype("int64") + 2**40, -1), -1),
        }[form]
        expected = total(function(X[KEPT], LABELS[KEPT], **options))
        found = total(function(X, labels, ignore_class=ignored, **options))
        assert found == pytest.approx(expected, rel=1e-4)
        assert abs(total(function(X, LABELS, **options)) - expected) > 1e-3

    @pytest.mark.parametrize("n", [N, 300])  # by pairs, and without
    @pytest.mark.parametrize("relative", [False, True])
    def test_in_the_linear_form(self, n, relative, rng):
        x, labels = np.abs(rng.normal(size=(n, 5))).astype("float32"), np.arange(n) % 3
        kept = np.arange(n) % 5 != 0
        options = {"num_classes": 3, "relative": relative, "power": 2}
        expected = total(graphs.label_smoothness(x[kept], labels[kept], **options))
        partly = np.where(kept, labels, -1)
        found = graphs.label_smoothness(x, partly, ignore_class=-1, **options)
        assert total(found) == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("options", [{"num_classes": 3}, {"affinity": AFFINITY}])
    def test_in_factors(self, options, rng):
        x, labels = rng.normal(size=(300, 3)).astype("float32"), np.arange(300) % 3
        kept = np.arange(300) % 5 != 0
        expected = total(losses.target_graph(labels[kept], x[kept], **options))
        partly = np.where(kept, labels, -1)
        found = losses.target_graph(partly, x, ignore_class=-1, **options)
        assert total(found) == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("pairs", ["intra", "inter"])
    @pytest.mark.parametrize("options", [{}, {"num_classes": 3}, {"block_size": 50}])
    def test_in_no_pair_of_classes(self, pairs, options, rng):
        a, b = (np.abs(rng.normal(size=(200, 3))).astype("float32") for _ in range(2))
        labels, kept = np.arange(200) % 3, np.arange(200) % 7 != 0
        same = labels[:, None] == labels[None, :]
        wanted = (same if pairs == "intra" else ~same) & kept[:, None] & kept[None, :]
        expected = wanted * (reference.graph(a) - reference.graph(b)) ** 2
        partly = np.where(kept, labels, -1)
        found = losses.graph_distillation(
            a, b, pairs=pairs, labels=partly, ignore_class=-1, **options
        )
        np.testing.assert_allclose(found, expected.sum(axis=1), rtol=2e-3, atol=1e-6)

    @pytest.mark.parametrize(("function", "options"), READERS.values(), ids=READERS)
    def test_nobody_has_one(self, function, options):
        nobody = np.full(N, -1)
        found, (gradient,) = value_and_grads(
            lambda x: function(x, nobody, ignore_class=-1, **options), [X]
        )
        assert found == 0.0
        assert np.isfinite(gradient).all()

    @pytest.mark.parametrize("mode", marked([m for m in MODES if m != "eager"], left=("xla",)))
    @pytest.mark.parametrize("name", ["label_smoothness k", "graph_smoothness blocks"])
    def test_compiled(self, name, mode):
        function, options = READERS[name]
        found = value(
            lambda x, y: function(x, y, ignore_class=-1, **options),
            [X, PARTLY.astype("int32")],
            mode,
        )
        expected = total(function(X[KEPT], LABELS[KEPT], **options))
        assert total(found) == pytest.approx(expected, rel=1e-4)


class TestMultiHot:
    ROWS = (RNG.random((N, 4)) < 0.5).astype("float32")
    COSINES = reference.similarity(ROWS)
    SHARED = ROWS @ ROWS.T > 0

    def test_similarity_is_the_cosine(self):
        found = losses.target_graph(self.ROWS, X)
        expected = (reference.similarity(X) - self.COSINES) ** 2 * (1 - np.eye(N))
        np.testing.assert_allclose(found, expected.sum(axis=1), rtol=1e-4)

    def test_of_a_square_batch(self):
        rows = np.triu(np.ones((5, 5), "float32"))
        expected = (reference.similarity(X[:5]) - reference.similarity(rows)) ** 2
        found = losses.target_graph(rows, X[:5])
        np.testing.assert_allclose(found, (expected * (1 - np.eye(5))).sum(axis=1), rtol=1e-4)

    def test_an_affinity_asks_for_no_more_than_1(self):
        z = np.ones((2, 2), "float32")
        rows = np.array([[1, 1, 0], [1, 1, 0]])
        np.testing.assert_allclose(losses.target_graph(rows, z, affinity=AFFINITY), 0, atol=1e-6)

    def test_smoothness(self):
        apart = 1 - self.COSINES
        unlabelled = ~self.ROWS.any(axis=1)
        apart[unlabelled] -= 0.5
        apart[:, unlabelled] -= 0.5
        expected = (reference.graph(np.abs(X), normalize=False) * apart * 2).sum() / 2 * 1.0
        found = total(graphs.label_smoothness(np.abs(X), self.ROWS))
        assert found == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
    @pytest.mark.parametrize("pairs", ["intra", "inter"])
    def test_pairs_that_share_a_class(self, pairs, dtype):
        found = graphs.latent_geometry_graph(X, pairs=pairs, labels=self.ROWS.astype(dtype))
        wanted = self.SHARED if pairs == "intra" else ~self.SHARED
        np.testing.assert_allclose(found, reference.graph(X) * wanted, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("pairs", ["intra", "inter"])
    @pytest.mark.parametrize("block_size", [None, 60])
    def test_distillation_in_a_large_batch(self, pairs, block_size, rng):
        a, b = (np.abs(rng.normal(size=(300, 3))).astype("float32") for _ in range(2))
        rows = (rng.random((300, 4)) < 0.4).astype("float32")
        shared = rows @ rows.T > 0
        wanted = shared if pairs == "intra" else ~shared
        expected = wanted * (reference.graph(a) - reference.graph(b)) ** 2
        found = losses.graph_distillation(a, b, pairs=pairs, labels=rows, block_size=block_size)
        np.testing.assert_allclose(found, expected.sum(axis=1), rtol=2e-3, atol=1e-6)


class TestContinuous:
    TARGET = RNG.normal(size=N).astype("float32")

    @pytest.mark.parametrize("options", [{}, {"power": 3}, {"k": 4}, {"block_size": 5}])
    @pytest.mark.parametrize("columns", [None, 1, 3])
    def test_is_the_signal(self, options, columns):
        target = (
            self.TARGET if columns is None else self.TARGET[:, None] * np.arange(1, columns + 1)
        )
        graph = reference.graph(X, normalize=False, k=options.get("k"))
        signal = target.reshape(N, -1)
        expected = reference.smoothness(graph, signal, options.get("power", 1))
        found = total(graphs.label_smoothness(X, target, continuous=True, **options))
        assert found == pytest.approx(expected, rel=1e-3)

    def test_loss(self):
        loss = losses.SmoothnessVariation(continuous=True)
        copy = losses.SmoothnessVariation.from_config(loss.get_config())
        a, b = (total(graphs.label_smoothness(x, self.TARGET, continuous=True)) for x in (X, X * X))
        for each in (loss, copy):
            assert float(each(self.TARGET, [X, X * X])) == pytest.approx(abs(a - b), rel=1e-4)

    def test_not_finite(self):
        with pytest.raises(ValueError, match="finite"):
            graphs.label_smoothness(X, self.TARGET * np.nan, continuous=True)
