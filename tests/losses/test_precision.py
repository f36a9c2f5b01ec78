"""Training in half precision: networks in 16 bits, geometry in 32."""

import contextlib

import keras
import numpy as np
import pytest
from autodiff import to_numpy
from cases import LABELS
from keras import layers

import keras_lgg as lgg

X = np.random.default_rng(0).normal(size=(10, 6)).astype("float32")
POLICIES = pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@contextlib.contextmanager
def under(policy):
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def network(width=32, penalty=None):
    x = keras.Input((6,))
    h1 = layers.Dense(width, "relu", name="h1")(x)
    h2 = layers.Dense(width, "relu", name="h2")(h1)
    if penalty is not None:
        h2 = lgg.layers.GeometryPenalty(penalty, weight=0.1)([h1, h2])
    return keras.Model(x, layers.Dense(4, name="head", dtype="float32")(h2))


def geometry_model():
    penalty = lgg.Penalty(lgg.losses.SmoothnessVariation(num_classes=4), ["h1", "h2"], 0.01)
    return lgg.GeometryModel(network(), [penalty])


def distiller():
    penalty = lgg.Penalty(lgg.losses.GraphDistillation(), [("h1", "h1"), ("h2", "h2")], 10.0)
    return lgg.Distiller(network(48), network(), [penalty])


def penalized_layer():
    return network(penalty=lgg.losses.GraphVariation())


def embedder():
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(5), layers.UnitNormalization(dtype="float32")]
    )


MODELS = {
    "geometry_model": (geometry_model, CROSS_ENTROPY),
    "distiller": (distiller, CROSS_ENTROPY),
    "layer": (penalized_layer, CROSS_ENTROPY),
    "embedder": (embedder, lgg.losses.GraphSmoothness()),
}


def step(name, policy):
    """The change of the weights in one step of gradient descent."""
    make, loss = MODELS[name]
    keras.utils.set_random_seed(0)
    with under(policy):
        model = make()
        optimizer = keras.optimizers.SGD(0.01)
        if policy == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**12)
        model.compile(optimizer, loss)
        before = [to_numpy(v).copy() for v in model.trainable_variables]
        model.fit(X, LABELS, batch_size=10, verbose=0)
    return [to_numpy(v) - b for v, b in zip(model.trainable_variables, before, strict=True)]


@POLICIES
@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_that_of_float32(name, policy):
    half, full = (np.concatenate([v.ravel() for v in step(name, p)]) for p in (policy, "float32"))
    assert half.dtype == np.float32
    # Layers are rounded to 8 bits of bfloat16, or 11 of float16, which the differences of nearly
    # equal graphs feel.
    tolerance = {"mixed_bfloat16": 0.3, "mixed_float16": 0.02}[policy]
    assert np.linalg.norm(half - full) < tolerance * np.linalg.norm(full)


@POLICIES
def test_the_geometry_is_computed_in_float32(policy):
    with under(policy):
        model = geometry_model()
        assert model.dtype_policy.name == policy
        model.compile(keras.optimizers.SGD(0.0), CROSS_ENTROPY)
        logs = model.evaluate(X, LABELS, verbose=0, return_dict=True)
        outputs = [model.base.get_layer(name).output for name in ("h1", "h2")]
        h1, h2 = keras.Model(model.base.input, outputs)(X)
    assert keras.ops.dtype(h1) == policy.removeprefix("mixed_")
    layers_in_32_bits = [to_numpy(keras.ops.cast(h, "float32")) for h in (h1, h2)]
    expected = lgg.losses.smoothness_variation(layers_in_32_bits, LABELS, num_classes=4)
    np.testing.assert_allclose(logs["smoothness_variation"], float(expected), rtol=1e-5)


@POLICIES
@pytest.mark.parametrize("encoded", [False, True])
def test_relative_codes_are_computed_in_float32(encoded, policy):
    """Of two nearly equal directions far from 0, which 16 bits cannot tell apart."""
    samples = 100.0 + np.array([[0, 0, 0], [0, 1, 0], [3, 0, 1]], "float32")
    options = {"similarity": "euclidean", "normalization": "center"}
    with under(policy):
        encoder = layers.Identity() if encoded else None
        layer = lgg.layers.RelativeRepresentation(samples[:2], encoder=encoder, **options)
        found = layer(samples)
    assert keras.ops.dtype(found) == policy.removeprefix("mixed_")
    held = layer.anchors if encoded else layer.weights[0]
    assert keras.ops.dtype(held) == "float32"
    expected = np.linalg.norm(samples[:, None] - samples[None, :2], axis=2)
    found = to_numpy(keras.ops.cast(found, "float32"))
    np.testing.assert_allclose(found, expected, rtol=2**-8)


@pytest.mark.parametrize(
    ("options", "policy"),
    [({}, "mixed_float16"), ({"refresh_every": 2}, "mixed_bfloat16")],
    ids=str,
)
def test_relative_codes_of_a_network_in_16_bits(options, policy):
    with under(policy):
        encoder = keras.Sequential(
            [keras.Input((6,)), layers.Dense(3), layers.BatchNormalization()]
        )
        codes = lgg.layers.RelativeRepresentation(X[:5], encoder=encoder, **options)
        model = keras.Sequential([keras.Input((6,)), codes, layers.Dense(4, dtype="float32")])
        model.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
        losses = model.fit(X, LABELS, batch_size=10, epochs=5, verbose=0).history["loss"]
        x, anchors = encoder(X), encoder(X[:5])
        found = codes(X)
    assert losses[-1] < losses[0]
    assert keras.ops.dtype(x) == keras.ops.dtype(found) == policy.removeprefix("mixed_")
    expected = to_numpy(lgg.relative.relative_projection(x, anchors))
    assert expected.dtype == np.float32
    found = to_numpy(keras.ops.cast(found, "float32"))
    np.testing.assert_allclose(found, expected, rtol=2**-8, atol=1e-5)


def test_small_gradients_survive_by_loss_scaling():
    """Gradients of a penalty that float16 alone would round to 0."""
    changes = {}
    for policy in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(0)
        with under(policy):
            penalty = lgg.Penalty(lgg.losses.GraphVariation(), ["h1", "h2"], 1e-9)
            base = keras.Model((full := network()).input, full.get_layer("h2").output)
            model = lgg.GeometryModel(base, [penalty])
            optimizer = keras.optimizers.SGD(1e7)
            if policy == "mixed_float16":
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**15)
            model.compile(optimizer)
            before = to_numpy(model.trainable_variables[0]).copy()
            model.fit(X, batch_size=10, verbose=0)
            changes[policy] = to_numpy(model.trainable_variables[0]) - before
    largest = np.abs(changes["float32"]).max()
    assert largest / 1e7 < 6e-8  # the least positive number of float16
    apart = np.linalg.norm(changes["mixed_float16"] - changes["float32"])
    assert apart < 0.2 * np.linalg.norm(changes["float32"])


@pytest.mark.ci
def test_bfloat16_learns_digits_as_well():
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    images, labels = datasets.load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    train, test = slice(0, 1200), slice(1200, None)
    penalty = lgg.losses.SmoothnessVariation(num_classes=10, relative=True)

    def accuracy(policy, seed):
        keras.utils.set_random_seed(seed)
        with under(policy):
            base = keras.Sequential(
                [
                    keras.Input((64,)),
                    layers.Dense(64, "relu", name="h1"),
                    layers.Dense(64, "relu", name="h2"),
                    layers.Dense(10, dtype="float32"),
                ]
            )
            model = lgg.GeometryModel(base, [lgg.Penalty(penalty, ["h1", "h2"], 1.0)])
            model.compile(keras.optimizers.Adam(3e-3), CROSS_ENTROPY, metrics=["accuracy"])
            model.fit(images[train], labels[train], batch_size=100, epochs=10, verbose=0)
            logs = model.evaluate(images[test], labels[test], verbose=0, return_dict=True)
        return logs["accuracy"]

    full, half = (
        [accuracy(policy, seed) for seed in range(3)] for policy in ("float32", "mixed_bfloat16")
    )
    assert min(full) > 0.85
    assert abs(np.mean(full) - np.mean(half)) < 0.01, (full, half)
