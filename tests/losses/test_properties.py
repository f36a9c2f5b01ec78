"""Whatever the batch and the options: a finite value and gradient, or a ValueError that helps."""

import os
import re

import numpy as np
from autodiff import BACKEND, value_and_grads, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import ops

from keras_lgg import graphs, losses, relative
from keras_lgg.graphs import functions
from keras_lgg.relative import projection

# PyTorch draws most: eager TensorFlow is slower, and JAX compiles each new shape, as one program.
CASES = int(os.environ.get("PROPERTY_CASES", {"jax": 6, "tensorflow": 25}.get(BACKEND, 80)))
HOUSE_FORM = re.compile(r"Expected .*\. Received: ", re.DOTALL)
every = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)

CLASSES = 4
sizes = st.integers(1, 9)
dtypes = st.sampled_from(["float16", "bfloat16", "float32", "float64", "int32", "uint8"])
seeds = st.integers(0, 2**16)
WRONG_COUNTS = [0, -1, 1.5, True, "2"]


def mostly(valid, wrong):
    """Mostly what is valid, and sometimes what is wrong: one error must not hide the others."""
    return st.integers(0, 19).flatmap(lambda i: st.sampled_from(wrong) if i == 0 else valid)


counts = mostly(st.one_of(st.none(), st.integers(1, 12), st.just(1000)), WRONG_COUNTS)
powers = mostly(st.integers(1, 4), [*WRONG_COUNTS, None])
arms = mostly(st.integers(2, 12), [*WRONG_COUNTS, None, 1])
positives = mostly(st.floats(1e-3, 1e3) | st.sampled_from([1e-30, 1e30]), [0, -1.0, np.inf, np.nan])
gammas = mostly(st.floats(1e-3, 10.0) | st.just(1e-30), [0, -1.0, np.inf, np.nan, 1e30])
metrics = mostly(st.sampled_from(functions.METRICS), ["euclidean", None])
pairs = mostly(st.sampled_from(functions.PAIRS), ["both"])
known_classes = mostly(st.sampled_from([None, 4]), [2, 0])


def same(n):
    """The batch size of what should go with a batch of n."""
    return mostly(st.just(n), [n + 1])


@st.composite
def batches(draw, n=None):
    """Representations of any rank, dtype and scale, with zero rows and duplicates."""
    n = n or draw(sizes)
    features = draw(st.lists(st.integers(1, 5), max_size=3))
    rng = np.random.default_rng(draw(seeds))
    x = rng.normal(size=(n, *features)) * draw(
        st.sampled_from([0.0, 1e-20, 1e-19, 1e-16, 1e-13, 1e-3, 1.0, 100.0])
    )
    if draw(st.booleans()):
        x = np.abs(x)
    for row in range(n):
        change = draw(st.sampled_from(["keep", "keep", "keep", "zero", "duplicate"]))
        x[row] = {"keep": x[row], "zero": 0.0 * x[row], "duplicate": x[0]}[change]
    dtype = draw(dtypes)
    if "int" in dtype:
        x = np.abs(x).astype(dtype)
    return ops.convert_to_tensor(ops.cast(x, dtype) if dtype == "bfloat16" else x.astype(dtype))


@st.composite
def labels(draw, n):
    """Class labels in every form, and in some that are none."""
    indices = np.random.default_rng(draw(seeds)).integers(0, CLASSES, n)
    forms = ["(n,)", "(n, 1)", "float", "one-hot", "soft"]
    form = draw(mostly(st.sampled_from(forms), ["(n, 1, 1)", "0.5"]))
    one_hot = np.eye(CLASSES, dtype="float32")[indices]
    return {
        "(n,)": indices,
        "(n, 1)": indices[:, None].astype("int64"),
        "float": indices.astype("float32"),
        "one-hot": one_hot,
        "soft": 0.9 * one_hot + 0.1 / CLASSES,
        "(n, 1, 1)": indices[:, None, None],
        "0.5": indices + 0.5,
    }[form]


def check(loss, *batch):
    """The loss of a batch is finite, and so is its gradient; or it says what is wrong."""
    try:
        (value,) = values(lambda *batch: [loss(*batch)], batch)
    except ValueError as error:
        if not HOUSE_FORM.search(str(error)):
            raise
        return
    assert np.isfinite(value).all()
    arrays = [np.asarray(ops.convert_to_numpy(ops.cast(x, "float32"))) for x in batch]
    _, gradients = value_and_grads(lambda *tensors: ops.sum(loss(*tensors)), arrays)
    assert all(np.isfinite(g).all() for g in gradients)


@every
@given(data=st.data())
def test_graph_distillation(data):
    n = data.draw(sizes)
    options = {
        "k": data.draw(counts),
        "power": data.draw(powers),
        "pairs": data.draw(pairs),
        "labels": data.draw(mostly(labels(n), [None])),
        "num_classes": data.draw(known_classes),
        "block_size": data.draw(counts),
    }
    teacher, student = data.draw(batches(n)), data.draw(batches(data.draw(same(n))))
    check(lambda t, s: losses.graph_distillation(t, s, **options), teacher, student)


@every
@given(data=st.data())
def test_relational(data):
    n = data.draw(sizes)
    teacher, student = data.draw(batches(n)), data.draw(batches(data.draw(same(n))))
    block_size, several = data.draw(counts), data.draw(arms)
    check(lambda t, s: losses.relational_distance(t, s, block_size=block_size), teacher, student)
    check(lambda t, s: losses.relational_angle(t, s, arms=several), teacher, student)


@every
@given(data=st.data())
def test_similarities(data):
    n = data.draw(sizes)
    teacher, student = data.draw(batches(n)), data.draw(batches(data.draw(same(n))))
    blocks = {"block_size": data.draw(counts)}
    kernel = {"gamma": data.draw(gammas), "order": data.draw(powers)}
    check(lambda t, s: losses.similarity_preserving(t, s, **blocks), teacher, student)
    check(lambda t, s: losses.probabilistic_transfer(t, s, **blocks), teacher, student)
    check(lambda t, s: losses.correlation_congruence(t, s, **kernel, **blocks), teacher, student)


@every
@given(data=st.data())
def test_graph_smoothness(data):
    x = data.draw(batches())
    given_labels = data.draw(labels(x.shape[0]))
    options = {
        "alpha": data.draw(positives),
        "k": data.draw(counts),
        "block_size": data.draw(counts),
    }
    check(lambda x: losses.graph_smoothness(given_labels, x, **options), x)


@every
@given(data=st.data())
def test_target_graph(data):
    x = data.draw(batches())
    n = x.shape[0]
    form = data.draw(mostly(st.sampled_from(["labels", "graph"]), ["adjacency"]))
    graph = np.full((n, n), 0.5, "float32")
    right, other = (st.just(graph), labels(n))[:: 1 if form == "graph" else -1]
    target = data.draw(right) if data.draw(st.integers(0, 19)) else data.draw(other)
    square = np.full((CLASSES, CLASSES), 0.5)
    affinities = mostly(st.sampled_from([None, square]), [square[:2], np.nan * square])
    options = {
        "form": form,
        "affinity": None if form == "graph" else data.draw(affinities),
        "metric": data.draw(metrics),
        "alpha": data.draw(positives),
        "num_classes": data.draw(known_classes),
        "block_size": data.draw(counts),
    }
    check(lambda x: losses.target_graph(target, x, **options), x)


@every
@given(data=st.data())
def test_smoothness_variation(data):
    n = data.draw(sizes)
    layers = data.draw(st.lists(batches(n), min_size=2, max_size=3))
    given_labels = data.draw(labels(data.draw(same(n))))
    options = {
        "power": data.draw(powers),
        "k": data.draw(counts),
        "num_classes": data.draw(known_classes),
        "relative": data.draw(st.booleans()),
        "block_size": data.draw(counts),
    }
    check(lambda *layers: losses.smoothness_variation(layers, given_labels, **options), *layers)


@every
@given(data=st.data())
def test_graph_variation(data):
    n = data.draw(sizes)
    layers = data.draw(st.lists(batches(n), min_size=2, max_size=3))
    options = {"k": data.draw(counts), "block_size": data.draw(counts)}
    check(lambda *layers: losses.graph_variation(layers, **options), *layers)


@every
@given(data=st.data())
def test_latent_geometry_graph(data):
    x = data.draw(batches())
    options = {
        "metric": data.draw(metrics),
        "alpha": data.draw(positives),
        "k": data.draw(counts),
        "normalize": data.draw(st.booleans()),
        "pairs": data.draw(pairs),
        "labels": data.draw(mostly(labels(x.shape[0]), [None])),
    }
    check(lambda x: graphs.latent_geometry_graph(x, **options), x)


@every
@given(data=st.data())
def test_graphs_of_an_adjacency(data):
    n = data.draw(sizes)
    rng = np.random.default_rng(data.draw(seeds))
    shape = data.draw(mostly(st.just((n, n)), [(n, n + 1), (n,)]))
    adjacency = rng.normal(size=shape) * data.draw(st.sampled_from([0.0, 1e-20, 1.0, 100.0]))
    adjacency = (adjacency + adjacency.T if shape == (n, n) else adjacency).astype("float32")
    signal = rng.normal(size=(n, 2)).astype("float32")
    normalized, k = data.draw(st.booleans()), data.draw(arms)
    power = data.draw(powers)
    check(lambda a: graphs.laplacian(a, normalized=normalized), adjacency)
    check(graphs.normalize_degrees, adjacency)
    check(lambda a: ops.cast(graphs.knn_mask(a, k=k), "float32"), adjacency)
    check(lambda a: graphs.smoothness(a, signal, power=power, normalized=normalized), adjacency)


seldom = settings(every, max_examples=CASES // 2)
similarities = st.sampled_from(projection.SIMILARITIES)
several = mostly(similarities | st.lists(similarities, min_size=1, max_size=3), [[], "dot", None])


def among(choices):
    return mostly(st.sampled_from(choices), ["other", None])


@seldom
@given(data=st.data())
def test_relative_projection(data):
    x = data.draw(batches())
    width = int(np.prod(x.shape[1:]))
    anchors = data.draw(batches())
    if data.draw(st.integers(0, 9)):  # mostly of the same width
        rng = np.random.default_rng(data.draw(seeds))
        anchors = rng.normal(size=(data.draw(st.integers(1, 9)), width)).astype("float32")
        if data.draw(st.booleans()):  # duplicates, or samples that are anchors
            flat = ops.reshape(ops.cast(x, "float32"), (-1, width))
            rows = ops.convert_to_numpy(flat)
            anchors = np.concatenate([anchors, anchors[:1], rows])
    options = {
        "similarity": data.draw(several),
        "normalization": data.draw(among(projection.NORMALIZATIONS)),
        "pool": data.draw(among(projection.POOLS)),
        "p": data.draw(mostly(st.floats(1.0, 20.0), [0.5, *WRONG_COUNTS])),
        "eps": data.draw(positives),
    }
    check(lambda x, a: relative.relative_projection(x, a, **options), x, anchors)


@seldom
@given(data=st.data())
def test_codes_in_steps_and_classes(data):
    codes = data.draw(batches())
    options = {
        "bin_size": data.draw(positives),
        "method": data.draw(among(projection.QUANTIZATIONS)),
    }
    check(lambda c: relative.quantize(c, **options), codes)
    if len(codes.shape) > 1:
        rng = np.random.default_rng(data.draw(seeds))
        anchor_labels = rng.integers(0, 2, data.draw(same(codes.shape[-1])))
        check(lambda c: relative.class_codes(c, anchor_labels), codes)


@seldom
@given(data=st.data())
def test_densification(data):
    x = data.draw(batches())
    given_labels = data.draw(st.none() | labels(data.draw(same(x.shape[0]))))
    beta = data.draw(positives)
    check(lambda x: relative.densification_loss(x, labels=given_labels, beta=beta), x)
