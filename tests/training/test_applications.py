"""Networks of keras.applications as backbones: tapped inside, trained, saved, deployed."""

import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from autodiff import BACKEND, to_numpy
from backends import needs
from keras import layers

import keras_lgg as lgg

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(BACKEND == "jax", reason="XLA takes minutes; test_hub.py has smaller ones"),
]

Y = np.arange(20) % 10
X = np.random.default_rng(0).normal(size=(20, 32, 32, 3)) + Y.reshape(-1, 1, 1, 1) / 5
X = X.astype("float32")
XE = "sparse_categorical_crossentropy"
BLOCKS = {
    "mobilenetv2": ["block_2_add", "block_4_add", "block_7_add"],
    "efficientnetb0": ["block2b_add", "block3b_add", "block4c_add"],
}
# A penalty alone trains nothing behind its last tap; Keras says so.
PENALTY_ALONE = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")


def backbone(name="mobilenetv2", alpha=0.35):
    options = {"weights": None, "include_top": False, "pooling": "avg", "input_shape": (32, 32, 3)}
    if name == "efficientnetb0":
        return keras.applications.EfficientNetB0(**options)
    return keras.applications.MobileNetV2(alpha=alpha, **options)


def classifier(inner):
    """A backbone inside a model of ten classes, as in transfer learning."""
    x = keras.Input((32, 32, 3))
    h = layers.Rescaling(0.5)(x)
    return keras.Model(x, layers.Dense(10, "softmax", name="head")(inner(h)))


def nested(inner, blocks):
    return [f"{inner.name}/{block}" for block in blocks]


def geometry_model(name="mobilenetv2", weight=0.01):
    inner = backbone(name)
    penalty = lgg.Penalty(
        lgg.losses.SmoothnessVariation(num_classes=10), nested(inner, BLOCKS[name]), weight
    )
    return lgg.GeometryModel(classifier(inner), [penalty])


def distiller():
    """A nested student of a wider teacher, which is the application itself, with its own top."""
    teacher = keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), classes=10, alpha=0.5
    )
    inner = backbone()
    blocks = BLOCKS["mobilenetv2"]
    pairs = list(zip(blocks, nested(inner, blocks), strict=True))
    penalty = lgg.Penalty(lgg.losses.GraphDistillation(), pairs, weight=0.1)
    return lgg.Distiller(teacher, classifier(inner), [penalty])


def inner_of(model):
    """The application inside a classifier."""
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def trained(model, optimizer=None, loss=XE, eagerly=BACKEND == "tensorflow"):
    """Two steps; without a graph on TensorFlow, which takes ten times as long to trace them."""
    optimizer = optimizer or keras.optimizers.SGD(0.01)
    model.compile(optimizer, loss, run_eagerly=eagerly)
    return fit(model)


def fit(model):
    model.fit(X, Y, batch_size=10, shuffle=False, verbose=0)
    return model


def evaluate(model):
    return model.evaluate(X, Y, batch_size=20, verbose=0, return_dict=True)


def predict(model):
    return to_numpy(model(X, training=False))


def weights(model):
    return {v.path: np.array(to_numpy(v)) for v in model.weights}


def assert_same_weights(found, expected, rtol=0.0, atol=0.0):
    for (path, a), b in zip(weights(found).items(), weights(expected).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=path)


def blocks_of(inner, blocks, x):
    """What the layers inside an application give, found without taps."""
    outputs = [inner.get_layer(block).output for block in blocks]
    return keras.Model(inner.input, outputs)(0.5 * x, training=False)


def test_penalty_is_that_of_the_nested_blocks():
    model = geometry_model()
    model.compile(loss=XE)
    logs = evaluate(model)
    seen = blocks_of(inner_of(model.base), BLOCKS["mobilenetv2"], X)
    expected = float(lgg.losses.smoothness_variation(seen, Y, num_classes=10))
    assert expected > 1e-3
    np.testing.assert_allclose(logs["smoothness_variation"], expected, rtol=1e-3)
    rows = keras.losses.sparse_categorical_crossentropy(Y, predict(model))
    total = to_numpy(rows).mean() + 0.01 * expected
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-4)


@PENALTY_ALONE
def test_gradient_of_the_penalty_reaches_the_blocks():
    model = geometry_model(weight=1.0)
    before = {v.path: to_numpy(v).copy() for v in model.trainable_variables}
    trained(model, keras.optimizers.SGD(1.0), loss=None)
    inner = inner_of(model.base)
    last = [layer.name for layer in inner.layers].index("block_7_add")
    reached = {v.path for layer in inner.layers[: last + 1] for v in layer.trainable_variables}
    moved = {v.path for v in model.trainable_variables if np.any(to_numpy(v) != before[v.path])}
    assert any("block_2" in path for path in reached)
    assert moved == reached


def test_statistics_are_those_of_plain_training():
    """At weight 0 the penalty is computed and changes nothing: not the weights, no statistics."""
    plain, model = classifier(backbone()), geometry_model(weight=0.0)
    model.base.set_weights(plain.get_weights())
    trained(model)
    assert_same_weights(model.base, trained(plain), rtol=1e-3, atol=1e-5)
    moving = [v for path, v in weights(model.base).items() if path.endswith("moving_variance")]
    assert len(moving) == 52
    assert all(np.all(variance != 1) for variance in moving)


@pytest.mark.parametrize("make", [geometry_model, distiller])
def test_saved_with_its_compile_state(make, tmp_path):
    """A model that was loaded goes on where the saved one stood, momenta included."""
    model = trained(make(), keras.optimizers.Adam(1e-3))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same_weights(loaded, model)
    assert evaluate(loaded) == pytest.approx(evaluate(model), rel=1e-4)
    assert int(loaded.optimizer.iterations) == 2
    if make is distiller:
        assert_same_weights(loaded.teacher, model.teacher)
    fit(loaded)
    assert_same_weights(loaded, fit(model), rtol=1e-3, atol=1e-4)
    assert int(loaded.optimizer.iterations) == 4


LOAD = """
import sys
sys.modules["keras_lgg"] = None  # as where it is not installed
import keras, numpy as np
x = np.load("x.npy")
for name in sys.argv[1:]:
    if name.endswith(".keras"):
        predicted = keras.saving.load_model(name)(x, training=False)
    else:
        import tensorflow as tf
        loaded = tf.saved_model.load(name)
        predicted = loaded.serve(x)
    np.save(name + ".npy", keras.ops.convert_to_numpy(predicted))
"""


def assert_predicted_elsewhere(expected, folder):
    """Saved models, by their names, predict so in a process that does not have the package."""
    np.save(folder / "x.npy", X)
    subprocess.run([sys.executable, "-c", LOAD, *expected], cwd=folder, check=True)
    for name, predictions in expected.items():
        found = np.load(folder / f"{name}.npy")
        np.testing.assert_allclose(found, predictions, rtol=1e-4, atol=1e-6, err_msg=name)


def test_plain_models_are_loaded_without_the_package(tmp_path):
    trained(geometry_model("efficientnetb0")).save(tmp_path / "geometry.keras")
    models = {
        "mobilenetv2.keras": trained(geometry_model(), eagerly=False).base,
        "efficientnetb0.keras": fit(keras.saving.load_model(tmp_path / "geometry.keras")).base,
    }
    for name, model in models.items():
        model.save(tmp_path / name)
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert b"keras_lgg" not in archive.read("config.json")
    expected = {name: predict(model) for name, model in models.items()}
    assert_predicted_elsewhere(expected, tmp_path)


@needs("`export` to SavedModel and ONNX")
def test_plain_model_is_exported(tmp_path):
    model = trained(distiller())
    model.student.export(tmp_path / "saved_model", verbose=False)
    assert_predicted_elsewhere({"saved_model": predict(model)}, tmp_path)
