"""Deployment: SavedModel and ONNX hold the network, and nothing of its training."""

import collections
import warnings

import keras
import numpy as np
import pytest
from backends import needs
from keras import layers

import keras_lgg as lgg

X = np.random.default_rng(0).normal(size=(12, 8)).astype("float32")
Y = np.arange(12) % 3
pytestmark = [pytest.mark.ci, needs("`export` to SavedModel and ONNX")]


def network(*, penalties, labels=False):
    """A network with or without penalties between its layers; one of them may read labels."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="x")
    y = keras.Input((), dtype="int32", name="labels")
    h1 = layers.Dense(16, "relu", name="h1")(x)
    h2 = layers.Dense(16, "relu", name="h2")(h1)
    if penalties:
        h2 = lgg.layers.GeometryPenalty(lgg.losses.GraphVariation(k=3), weight=0.1)([h1, h2])
    if labels:
        h2 = lgg.layers.GeometryPenalty(lgg.losses.GraphSmoothness())(h2, labels=y)
    return keras.Model([x, y] if labels else x, layers.Dense(3, name="out")(h2))


def trained(model, inputs=X):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    model.fit(inputs, Y, verbose=0)
    return model


def geometry_model():
    penalty = lgg.Penalty(lgg.losses.SmoothnessVariation(num_classes=3), ["h1", "h2"], 0.01)
    return trained(lgg.GeometryModel(network(penalties=False), [penalty]))


def distiller():
    penalty = lgg.Penalty(lgg.losses.GraphDistillation(), [("h1", "h2")], 0.1)
    networks = network(penalties=False), network(penalties=False)
    return trained(lgg.Distiller(*networks, [penalty]))


def relative_network(kind):
    """A network on relative codes to deploy: of fixed anchors, with an encoder, or stitched."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="x")
    h1 = layers.Dense(16, "relu", name="h1")(x)
    h2 = layers.Dense(16, "relu", name="h2")(h1)
    h2 = lgg.layers.GeometryPenalty(lgg.losses.GraphVariation(k=3), weight=0.1)([h1, h2])
    options = {"similarity": ["cosine", "euclidean"], "normalization": "standardize"}
    if kind == "fixed":
        anchors = np.random.default_rng(1).normal(size=(5, 16))
        codes = lgg.layers.RelativeRepresentation(anchors, **options)(h2)
    else:
        encoder = keras.Model(x, h2, name="encoder")
        codes = lgg.layers.RelativeRepresentation(X[:5], encoder=encoder, **options)(x)
    model = keras.Model(x, layers.Dense(3, name="out")(codes))
    model(X)  # Keras exports to ONNX only what has been called
    return lgg.layers.with_fixed_anchors(model) if kind == "encoder" else model


MODELS = {
    "base": lambda: geometry_model().base,
    "student": lambda: distiller().student,
    "layers": lambda: trained(network(penalties=True)),
    "without_penalties": lambda: lgg.layers.without_penalties(
        trained(network(penalties=True, labels=True), [X, Y])
    ),
}
EXPORTED = pytest.mark.parametrize("name", MODELS)


def saved_model(model, path):
    """What an export computes, its variables, and the operations of its program."""
    import tensorflow as tf

    model.export(path, verbose=False)
    loaded = tf.saved_model.load(path)
    library = loaded.signatures["serving_default"].graph.as_graph_def().library
    operations = collections.Counter(
        node.op for function in library.function for node in function.node_def
    )
    return loaded, operations


@EXPORTED
def test_saved_model(name, tmp_path):
    model = MODELS[name]()
    loaded, operations = saved_model(model, str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.serve(X), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)
    if name != "layers":
        plain, expected = saved_model(network(penalties=False), str(tmp_path / "plain"))
        assert operations == expected
        assert len(loaded.variables) == len(plain.variables)


def exported_to_onnx(model, path):
    """The operations of the program in ONNX, and the shapes of its constants."""
    onnx = pytest.importorskip("onnx", reason="needs the extra test")
    pytest.importorskip("onnxruntime", reason="needs the extra test")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of Keras's patch of tf2onnx
        model.export(path, format="onnx", verbose=False)
    graph = onnx.load(path).graph
    operations = collections.Counter(node.op_type for node in graph.node)
    return operations, sorted(tuple(i.dims) for i in graph.initializer)


def run_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: X})[0]


@EXPORTED
def test_onnx(name, tmp_path):
    model = MODELS[name]()
    path = str(tmp_path / "model.onnx")
    found = exported_to_onnx(model, path)
    np.testing.assert_allclose(run_onnx(path), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)
    plain = trained(network(penalties=False))
    assert found == exported_to_onnx(plain, str(tmp_path / "plain.onnx"))


@pytest.mark.parametrize("kind", ["fixed", "encoder"])
def test_relative_codes(kind, tmp_path):
    model = relative_network(kind)
    expected = model.predict(X, verbose=0)
    loaded, _ = saved_model(model, str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.serve(X), expected, rtol=1e-5, atol=1e-6)
    anchor_inputs = (5, 8)
    assert anchor_inputs not in [tuple(v.shape) for v in loaded.variables]
    found = exported_to_onnx(model, str(tmp_path / "model.onnx"))
    np.testing.assert_allclose(run_onnx(str(tmp_path / "model.onnx")), expected, 1e-5, 1e-6)
    plain = lgg.layers.without_penalties(model)
    assert found == exported_to_onnx(plain, str(tmp_path / "plain.onnx"))
    assert anchor_inputs not in found[1]
