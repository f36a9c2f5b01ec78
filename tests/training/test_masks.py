"""Masks and pooling: no value depends on how far a batch was padded."""

import keras
import numpy as np
import pytest
from autodiff import to_numpy
from keras import layers, ops

import keras_lgg as lgg
from keras_lgg import losses

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, 50, (12, 6))
LABELS = np.arange(12) % 3
XE = "sparse_categorical_crossentropy"
POOLS = [None, "mean", "max", "first", "last"]


def embedded(tokens, name="h"):
    h = layers.Embedding(50, 5, mask_zero=True, name=f"{name}_embedding")(tokens)
    h = layers.GRU(6, return_sequences=True, name=name)(h)
    return layers.Dense(4, "tanh", name=f"{name}2")(h)


def masked_network():
    """A mask of Keras, from the embedding on."""
    tokens = keras.Input((None,), dtype="int32")
    h = layers.GlobalAveragePooling1D()(embedded(tokens))
    return keras.Model(tokens, layers.Dense(3, "softmax")(h))


def padded(length, tokens=TOKENS):
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))


def named_network(name):
    """A mask that is an input, in which what is masked is anything."""
    x = keras.Input((None, 5), name="x")
    mask = keras.Input((None,), name=name)
    h = layers.Dense(4, "tanh", name="h")(x)
    h2 = layers.Dense(4, "tanh", name="h2")(h)
    kept = layers.Multiply()([h2, layers.Reshape((-1, 1))(mask)])
    out = layers.Dense(3, "softmax")(layers.GlobalMaxPooling1D()(kept))
    return keras.Model({"x": x, name: mask}, out)


def named_data(name, length):
    x = np.full((12, length, 5), 7.0, "float32")
    x[:, :6] = np.random.default_rng(1).normal(size=(12, 6, 5))
    return {"x": x, name: (np.arange(length) < 6).astype("float32")[None].repeat(12, 0)}


def value_of(model, data, name="p"):
    model.compile("sgd", XE, jit_compile=False)
    return model.evaluate(data, LABELS, batch_size=12, verbose=0, return_dict=True)[name]


PENALTIES = {
    "gsl": (losses.GraphSmoothness(), "h"),
    "target": (losses.TargetGraph(), "h"),
    "variation": (losses.GraphVariation(), ["h", "h2"]),
    "smoothness": (losses.SmoothnessVariation(num_classes=3), ["h", "h2"]),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", PENALTIES)
def test_padding_leaves_a_penalty_where_it_was(name, pool):
    loss, taps = PENALTIES[name]
    model = lgg.GeometryModel(masked_network(), [lgg.Penalty(loss, taps, name="p", pool=pool)])
    found = [value_of(model, padded(length)) for length in (6, 12, 19)]  # n is 12
    np.testing.assert_allclose(found, found[0], rtol=1e-5)


@pytest.mark.parametrize(
    "loss", [losses.GraphDistillation(), losses.RelationalDistance(), losses.RelationalAngle()]
)
@pytest.mark.parametrize("pool", [None, "mean"])
def test_padding_leaves_a_distillation_where_it_was(loss, pool):
    pairs = [("h", "h"), ("h2", "h2")]
    penalty = lgg.Penalty(loss, pairs, name="p", pool=pool)
    model = lgg.Distiller(masked_network(), masked_network(), [penalty])
    found = [value_of(model, padded(length)) for length in (6, 12)]
    np.testing.assert_allclose(found, found[0], rtol=1e-5)


def test_padding_leaves_keras_distillation_where_it_was():
    loss = keras.distillation.FeatureDistillation(loss="mse")
    model = lgg.Distiller(
        masked_network(), masked_network(), [lgg.Penalty(loss, [("h", "h")], name="p")]
    )
    found = [value_of(model, padded(length)) for length in (6, 12)]
    np.testing.assert_allclose(found, found[0], rtol=1e-5)


@pytest.mark.parametrize("name", ["padding_mask", "attention_mask", "valid"])
def test_an_input_is_the_mask(name):
    given = {"mask": "valid"} if name == "valid" else {}
    base = named_network(name)
    for pool in POOLS:
        penalty = lgg.Penalty(losses.GraphSmoothness(), "h", name="p", pool=pool, **given)
        model = lgg.GeometryModel(base, [penalty])
        found = [value_of(model, named_data(name, length)) for length in (6, 12)]
        np.testing.assert_allclose(found, found[0], rtol=1e-5)
    h = to_numpy(base.get_layer("h")(named_data(name, 6)["x"])).mean(axis=1)
    model = lgg.GeometryModel(
        base, [lgg.Penalty(losses.GraphSmoothness(), "h", name="p", pool="mean", **given)]
    )
    expected = np.sum(to_numpy(lgg.losses.graph_smoothness(LABELS, h)))
    np.testing.assert_allclose(value_of(model, named_data(name, 12)), expected, rtol=1e-5)


def test_a_mask_that_nothing_reads_is_an_error():
    base = named_network("valid")
    data = named_data("valid", 6)
    head = base.layers[-1].name
    for tap, message in (("h", "finds no input 'missing'"), (head, "would be read by nothing")):
        mask = "missing" if tap == "h" else "valid"
        model = lgg.GeometryModel(base, [lgg.Penalty(losses.GraphSmoothness(), tap, mask=mask)])
        model.compile("sgd", XE)
        with pytest.raises(ValueError, match=message):
            model.fit(data, LABELS, verbose=0)
    with pytest.raises(ValueError, match=r"`pool`.*Expected one of"):
        lgg.Penalty(losses.GraphSmoothness(), "h", pool="average")


def test_the_gradient_does_not_reach_what_is_masked():
    """The weights that one step gives are those of a batch without padding."""
    steps = []
    for length in (6, 12):
        keras.utils.set_random_seed(0)
        penalty = lgg.Penalty(losses.GraphSmoothness(), "h2", weight=0.1, pool="mean")
        model = lgg.GeometryModel(masked_network(), [penalty])
        model.compile(keras.optimizers.SGD(0.1), XE)
        model.fit(padded(length), LABELS, batch_size=12, verbose=0)
        steps.append(model.base.get_weights())
    for a, b in zip(*steps, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pool", [None, "mean"])
def test_a_layer_reads_the_mask_of_keras(pool):
    tokens = keras.Input((None,), dtype="int32")
    h = lgg.layers.GeometryPenalty(losses.GraphVariation(), weight=1.0, pool=pool)(
        [embedded(tokens, "a"), embedded(tokens, "b")]
    )
    model = keras.Model(tokens, layers.Dense(3, "softmax")(layers.GlobalAveragePooling1D()(h)))
    model.compile("sgd", XE)
    found = [
        model.evaluate(padded(length), LABELS, batch_size=12, verbose=0, return_dict=True)["loss"]
        for length in (6, 12)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model)).layers[
        -3
    ].pool == (pool)


def test_a_compiled_loss_on_masked_outputs():
    tokens = keras.Input((None,), dtype="int32")
    model = keras.Model(tokens, embedded(tokens))
    model.compile("sgd", losses.GraphSmoothness())
    expected = np.sum(
        to_numpy(lgg.losses.graph_smoothness(LABELS, ops.convert_to_tensor(model(TOKENS))))
    )
    for length in (6, 12):
        found = model.evaluate(padded(length), LABELS, batch_size=12, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_monitors_and_plots_respect_masks(pool):
    base = masked_network()
    found = []
    for length in (6, 12):
        seen = lgg.plots.representations(base, padded(length), ["h", "h2"], pool=pool)
        callback = lgg.callbacks.GeometryMonitor(
            padded(length), LABELS, taps=["h", "h2"], pool=pool
        )
        model = lgg.GeometryModel(base, [lgg.Penalty(losses.GraphSmoothness(), "h", weight=0.0)])
        model.compile(keras.optimizers.SGD(0.0), XE)
        logs = model.fit(
            padded(length), LABELS, batch_size=12, verbose=0, callbacks=[callback]
        ).history
        found.append((seen, {k: v for k, v in logs.items() if "/" in k or "cka" in k}))
    (seen, logs), (longer, more) = found
    for name, x in seen.items():
        rest = longer[name]
        np.testing.assert_allclose(rest[:, :6] if pool is None else rest, x, rtol=1e-4, atol=1e-6)
        assert pool is not None or not rest[:, 6:].any()
    assert logs
    for name, values in logs.items():
        np.testing.assert_allclose(more[name], values, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("pool", [None, "mean", "last"])
def test_a_cache_keeps_what_is_pooled(pool):
    teacher, student = masked_network(), masked_network()
    given = [
        lgg.Penalty(losses.GraphDistillation(), [("h", "h"), ("h2", "h2")], name="p", pool=pool),
        lgg.Penalty(losses.RelationalDistance(), [("h", "h2")], name="q", pool="max"),
    ]
    in_memory = lgg.Distiller(teacher, student, given)
    expected = [value_of(in_memory, padded(9), name) for name in ("p", "q")]
    cached = lgg.teacher_cache(teacher, given, (padded(9), LABELS))
    model = lgg.Distiller(None, student, given)
    model.compile("sgd", XE)
    logs = model.evaluate(cached.batch(12), verbose=0, return_dict=True)
    np.testing.assert_allclose([logs["p"], logs["q"]], expected, rtol=1e-4)
    other = lgg.Penalty(losses.GraphDistillation(), [("h", "h")], pool="first")
    model = lgg.Distiller(None, student, other)
    model.compile("sgd", XE)
    with pytest.raises(ValueError, match=r"does not hold what the penalties need.*first"):
        model.evaluate(cached.batch(12), verbose=0)
