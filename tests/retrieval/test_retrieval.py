"""Recall, precision and ranks against a slow reference and pytorch-metric-learning's numbers."""

import importlib.util
import json
import pathlib
import sys

import keras
import numpy as np
import pytest

from keras_lgg import retrieval
from keras_lgg.retrieval import search

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "retrieval.json"
METRICS = ("cosine", "euclidean", "inner")
NEEDS_FAISS = pytest.mark.skipif(not importlib.util.find_spec("faiss"), reason="needs the extra")
ENGINES = ["numpy", pytest.param("faiss", marks=NEEDS_FAISS)]


def similarity(metric, a, b):
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    if metric == "euclidean":
        return -np.sum((a - b) ** 2)
    product = a @ b
    if metric == "inner":
        return product
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return product / lengths if lengths else 0.0


def ranked(metric, queries, keys, i, leaves_out_own):
    """The keys of query i, the nearest first, of equal ones the smaller index."""
    nearness = [round(similarity(metric, queries[i], key), 6) for key in keys]
    order = sorted(range(len(keys)), key=lambda j: (-nearness[j], j))
    return [j for j in order if not (leaves_out_own and j == i)]


def slow(queries, keys, is_relevant, cutoffs=(1, 5, 10), metric="cosine"):
    own = keys is None
    keys = queries if own else keys
    rows = []
    for i in range(len(queries)):
        order = ranked(metric, queries, keys, i, own)
        hits = [is_relevant(i, j) for j in order]
        count = sum(hits)
        if count:
            precisions = [sum(hits[: r + 1]) / (r + 1) for r in range(count)]
            rows.append(
                [
                    *(any(hits[:k]) for k in cutoffs),
                    hits[0],
                    precisions[-1],
                    sum(p * hit for p, hit in zip(precisions, hits, strict=False)) / count,
                    1 / (1 + hits.index(True)),
                ]
            )
    names = [*(f"recall@{k}" for k in cutoffs), "precision@1", "r_precision", "map@r", "mrr"]
    return dict(zip(names, np.mean(rows, axis=0), strict=True))


def draw(seed, n=60, d=4, classes=7, metric="cosine"):
    """Embeddings of which many tie, some are equal and some zero; of distances, none tie."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    if metric == "euclidean":
        return rng.normal(size=(n, d)).astype("float32"), labels
    signs = rng.choice([-1.0, 1.0], (n, d)) * (rng.random((n, 1)) < 0.9)
    return signs.astype("float32"), labels


def assert_close(found, expected):
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_among_themselves(metric, seed):
    x, labels = draw(seed, metric=metric)
    found = retrieval.evaluate(x, labels=labels, metric=metric)
    assert_close(found, slow(x, None, lambda i, j: labels[i] == labels[j], metric=metric))


@pytest.mark.parametrize("metric", METRICS)
def test_queries_and_keys(metric):
    (x, labels), (keys, key_labels) = (
        draw(seed, n, metric=metric) for seed, n in ((3, 20), (4, 45))
    )
    found = retrieval.evaluate(x, keys, labels=labels, key_labels=key_labels, metric=metric)
    expected = slow(x, keys, lambda i, j: labels[i] == key_labels[j], metric=metric)
    assert_close(found, expected)


def test_labels_of_several_classes():
    x, _ = draw(5)
    labels = (np.random.default_rng(5).random((60, 6)) < 0.2).astype("int32")
    assert (labels.sum(axis=1) == 0).any()
    found = retrieval.evaluate(x, labels=labels)
    assert_close(found, slow(x, None, lambda i, j: (labels[i] * labels[j]).any()))


def test_labels_of_several_classes_of_queries_and_keys():
    (x, _), (keys, _) = draw(5, 30), draw(6, 50)
    rng = np.random.default_rng(5)
    labels, key_labels = ((rng.random((n, 6)) < 0.3).astype("float32") for n in (30, 50))
    found = retrieval.evaluate(x, keys, labels=labels, key_labels=key_labels)
    assert_close(found, slow(x, keys, lambda i, j: labels[i] @ key_labels[j] > 0))


def test_class_numbers_of_any_size():
    x, labels = draw(5)
    big = 2**62 + labels  # equal, where they are compared in floats
    expected = retrieval.evaluate(x, x, labels=labels, key_labels=labels)
    for of_keys in (big, big.astype("uint64")):
        assert_close(retrieval.evaluate(x, x, labels=big, key_labels=of_keys), expected)
    floats = labels.astype("float32")
    assert_close(retrieval.evaluate(x, x, labels=labels, key_labels=floats), expected)


def test_pairs():
    (x, _), (keys, _) = draw(6, 30), draw(7, 40)
    of_each = np.random.default_rng(6).integers(0, 40, 30)
    found = retrieval.evaluate(x, keys, pairs=of_each)
    assert_close(found, slow(x, keys, lambda i, j: of_each[i] == j))
    several = np.random.default_rng(8).integers(0, 30, (50, 2))
    several = np.concatenate([several, several[:3]])  # told twice
    assert set(several[:, 0]) != set(range(30))
    known = set(map(tuple, several.tolist()))
    assert_close(
        retrieval.evaluate(x, keys, pairs=several), slow(x, keys, lambda i, j: (i, j) in known)
    )


def test_one_class_and_cutoffs_beyond_the_keys():
    x, _ = draw(9, 8)
    found = retrieval.evaluate(x, labels=np.zeros(8, "int32"), k=[3, 100])
    assert set(found) == {"recall@3", "recall@100", "precision@1", "r_precision", "map@r", "mrr"}
    assert all(value == 1.0 for value in found.values())


def test_queries_alone_in_their_class_do_not_count():
    x, labels = draw(10, 20, classes=3)
    alone = np.concatenate([x, [[1, 1, 1, 1]]]), np.concatenate([labels, [99]])
    expected = slow(alone[0], None, lambda i, j: alone[1][i] == alone[1][j])
    assert_close(retrieval.evaluate(alone[0], labels=alone[1]), expected)
    with pytest.raises(ValueError, match="No query has a relevant key"):
        retrieval.evaluate(x, labels=np.arange(20))


@pytest.mark.parametrize("engine", ENGINES)
def test_blocks_and_threads(monkeypatch, engine):
    x, labels = draw(11)
    options = {"engine": engine, "metric": "euclidean"}
    x = x + np.random.default_rng(0).normal(size=x.shape)  # no ties: faiss has its own order there
    whole = retrieval.evaluate(x, labels=labels, **options), retrieval.neighbours(x, k=7, **options)
    monkeypatch.setattr(search, "ENTRIES", 150)
    monkeypatch.setattr(search, "FEW_ENTRIES", 1)
    monkeypatch.setattr(search, "_cores", lambda: 3)
    parts = retrieval.evaluate(x, labels=labels, **options), retrieval.neighbours(x, k=7, **options)
    assert_close(parts[0], whole[0])
    np.testing.assert_array_equal(parts[1][0], whole[1][0])
    np.testing.assert_allclose(parts[1][1], whole[1][1], rtol=1e-4)


def test_without_threadpoolctl(monkeypatch):
    x, labels = draw(11)
    expected = retrieval.evaluate(x, labels=labels)
    monkeypatch.setattr(search, "FEW_ENTRIES", 1)
    monkeypatch.setattr(search, "_cores", lambda: 2)
    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    assert_close(retrieval.evaluate(x, labels=labels), expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("own", [True, False])
def test_neighbours(metric, own):
    x, _ = draw(12, 25, metric=metric)
    keys = None if own else draw(13, 40, metric=metric)[0]
    indices, values = retrieval.neighbours(x, keys, k=6, metric=metric)
    assert indices.shape == values.shape == (25, 6)
    among = x if own else keys
    for i in range(25):
        assert indices[i].tolist() == ranked(metric, x, among, i, own)[:6]
        exact = [similarity(metric, x[i], among[j]) for j in indices[i]]
        exact = np.sqrt(np.abs(exact)) if metric == "euclidean" else exact
        np.testing.assert_allclose(values[i], exact, atol=1e-3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("own", [True, False])
def test_many_samples(metric, own):
    """So many that not all keys are candidates: of a cluster, as of them all."""
    rng = np.random.default_rng(3)
    labels, key_labels = rng.integers(0, 8, 60), rng.integers(0, 8, 250)
    centres = rng.normal(size=(8, 16))
    x, keys = (centres[of] + rng.normal(size=(len(of), 16)) for of in (labels, key_labels))
    x[:3], keys[40:45] = 0, 0
    if metric != "euclidean":  # products of signs tie
        x, keys = np.sign(x), np.sign(keys)
    if own:
        x, labels, keys, key_labels = keys, key_labels, None, None
    among = labels if own else key_labels
    found = retrieval.evaluate(x, keys, labels=labels, key_labels=key_labels, metric=metric)
    assert_close(found, slow(x, keys, lambda i, j: labels[i] == among[j], metric=metric))
    indices, _ = retrieval.neighbours(x, keys, metric=metric)
    for i in range(0, len(x), 10):
        expected = ranked(metric, x, x if own else keys, i, own)[:10]
        assert indices[i].tolist() == expected


@NEEDS_FAISS
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("own", [True, False])
def test_faiss(metric, own):
    rng = np.random.default_rng(4)
    x, keys = rng.normal(size=(90, 5)), None if own else rng.normal(size=(120, 5))
    for options in ({"k": 6}, {"k": 500}):
        found, expected = (
            retrieval.neighbours(x, keys, metric=metric, engine=engine, **options)
            for engine in ("faiss", "numpy")
        )
        assert [a.dtype for a in found] == [a.dtype for a in expected]
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], atol=1e-5)
    labels = {"labels": rng.integers(0, 20, 90)}
    if not own:
        labels["key_labels"] = rng.integers(0, 20, 120)
    found, expected = (
        retrieval.evaluate(x, keys, metric=metric, engine=engine, k=[1], **labels)
        for engine in ("faiss", "numpy")
    )
    assert_close(found, expected)


@NEEDS_FAISS
def test_faiss_leaves_the_own_row_out_where_all_are_equal():
    found, values = retrieval.neighbours(np.ones((12, 3)), k=4, engine="faiss")
    assert (found != np.arange(12)[:, None]).all()
    assert all(len(set(row)) == 4 for row in found.tolist())
    np.testing.assert_allclose(values, 1, rtol=1e-6)


def test_faiss_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"extra 'faiss'.*keras_lgg\[faiss\]"):
        retrieval.neighbours(X, engine="faiss")


def test_all_neighbours_where_there_are_fewer():
    assert retrieval.neighbours(draw(0, 5)[0], k=10)[0].shape == (5, 4)
    assert retrieval.neighbours(draw(0, 5)[0], draw(1, 5)[0], k=10)[0].shape == (5, 5)


def test_distances_far_from_the_origin():
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    near, far = (retrieval.neighbours(x + shift, k=5, metric="euclidean")[0] for shift in (0, 1000))
    assert (near == far).mean() > 0.95


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
def test_any_scale(metric, scale):
    x, labels = draw(14, metric=metric)
    scaled = x * np.float32(scale)
    options = {"labels": labels, "metric": metric}
    assert_close(retrieval.evaluate(scaled, **options), retrieval.evaluate(x, **options))
    if metric == "euclidean":
        found, expected = (retrieval.neighbours(a, metric=metric)[1] for a in (scaled, x))
        np.testing.assert_allclose(found, scale * expected, rtol=1e-3)
        found, expected = (retrieval.neighbours(a, 50 * a, metric=metric)[1] for a in (scaled, x))
        np.testing.assert_allclose(found, scale * expected, rtol=1e-3)
        exact = [np.linalg.norm(50 * x - query, axis=1).min() for query in x]
        np.testing.assert_allclose(expected[:, 0], exact, rtol=1e-3)
    if metric == "inner":  # of two sides, each has its own
        found, values = retrieval.neighbours(scaled, x / np.float32(scale), metric=metric)
        expected = retrieval.neighbours(x, x, metric=metric)
        np.testing.assert_array_equal(found, expected[0])
        np.testing.assert_allclose(values, expected[1], rtol=1e-5)


def test_models_and_tensors():
    x, labels = draw(15)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    embedded = model.predict(x, verbose=0)
    expected = retrieval.evaluate(embedded, labels=labels)
    assert_close(retrieval.evaluate(x, labels=labels, model=model), expected)
    tensor = keras.ops.convert_to_tensor(embedded)
    found = retrieval.evaluate(tensor, labels=keras.ops.convert_to_tensor(labels[:, None]))
    assert_close(found, expected)
    maps = embedded.reshape(60, 2, 2)
    assert_close(retrieval.evaluate(maps, labels=labels), expected)


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()), ids=lambda case: case["name"])
def test_numbers_of_pytorch_metric_learning(case):
    rng = np.random.default_rng(case["seed"])
    x = rng.normal(size=(case["n"], case["d"])).astype("float32")
    labels = rng.integers(0, case["classes"], case["n"])
    keys, key_labels = None, None
    if case["keys"]:
        keys = rng.normal(size=(case["keys"], case["d"])).astype("float32")
        key_labels = rng.integers(0, case["classes"], case["keys"])
    found = retrieval.evaluate(
        x, keys, labels=labels, key_labels=key_labels, metric="euclidean", k=[1]
    )
    for name, value in case["found"].items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


X, Y = np.ones((4, 2)), [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": X}, "one of `labels` and `pairs`. Received: neither"),
        ({"queries": X, "labels": Y, "pairs": Y}, "Received: both"),
        ({"queries": X, "labels": Y[:3]}, "a label for each of the 4 embeddings. Received: .*3"),
        ({"queries": X, "keys": X, "labels": Y}, "Expected `key_labels` with `keys`"),
        ({"queries": X, "labels": Y, "key_labels": Y}, "keys=None"),
        ({"queries": X, "keys": np.ones((4, 3)), "labels": Y, "key_labels": Y}, "width.*2"),
        ({"queries": X, "labels": Y, "metric": "cos"}, "metric"),
        ({"queries": X, "labels": Y, "engine": "annoy"}, "engine.*faiss"),
        ({"queries": X, "labels": Y, "k": [0]}, "k"),
        ({"queries": X, "labels": Y, "k": []}, "cut-offs"),
        ({"queries": X * np.nan, "labels": Y}, "NaN or infinite values in 4 of 4 rows"),
        ({"queries": X, "keys": X, "pairs": [0, 1, 2, 4]}, "keys from 0 to 3. Received.*0 to 4"),
        ({"queries": X, "keys": X, "pairs": [0, 1]}, "a key for each of the 4 queries"),
        ({"queries": X, "pairs": [0, 1, 2, 3]}, "no query paired with itself"),
        ({"queries": X, "keys": X, "pairs": [0.5, 1, 2, 3]}, "indices of keys"),
        ({"queries": np.ones((0, 2)), "labels": []}, "at least one"),
        (
            {"queries": X, "keys": X, "labels": Y, "key_labels": np.eye(4)},
            "labels as of the queries",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        retrieval.evaluate(**arguments)
