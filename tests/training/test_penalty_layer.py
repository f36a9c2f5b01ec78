import keras
import numpy as np
import pytest
from autodiff import to_numpy
from backends import needs
from keras import layers

import keras_lgg as lgg

LABELS = np.arange(20) % 3
X = np.random.default_rng(0).normal(size=(20, 6)).astype("float32")


def model_with_penalty(weight=0.1):
    x = keras.Input((6,))
    h1 = layers.Dense(8, "relu", name="h1")(x)
    h2 = layers.Dense(5, "relu", name="h2")(h1)
    h = lgg.layers.GeometryPenalty(lgg.losses.GraphVariation(), weight=weight)([h1, h2])
    return keras.Model(x, layers.Dense(3, "softmax", name="head")(h))


def model_with_labels():
    x, y = keras.Input((6,)), keras.Input((), dtype="int32", name="y")
    z = layers.Dense(4, use_bias=False)(x)  # a shift changes no distance: no gradient
    z = lgg.layers.GeometryPenalty(lgg.losses.GraphSmoothness(), weight=0.5)(z, labels=y)
    return keras.Model([x, y], z)


def hidden(model):
    taps = keras.Model(model.inputs[0], [model.get_layer(n).output for n in ("h1", "h2")])
    return taps(X)


def test_is_the_identity():
    layer = lgg.layers.GeometryPenalty(lgg.losses.GraphVariation())
    a, b = X[:, :4], X[:, 2:].astype("float16")
    out = layer([a, b])
    assert keras.ops.dtype(out) == "float16"
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(out), b)


@pytest.mark.ci
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=needs("`jit_compile=True`"))])
def test_adds_the_weighted_loss_to_fit_and_evaluate(jit):
    model = model_with_penalty(0.3)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", jit_compile=jit)
    penalty = float(to_numpy(lgg.losses.graph_variation(hidden(model))))
    supervised = keras.losses.sparse_categorical_crossentropy(LABELS, model(X))
    expected = float(np.mean(to_numpy(supervised))) + 0.3 * penalty
    assert penalty > 0.01
    for found in (
        loss_of(model, X, LABELS),
        model.fit(X, LABELS, batch_size=20, verbose=0).history["loss"][0],
        loss_of(model, X, LABELS),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_trains():
    model = model_with_penalty(1.0)
    model.compile(keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy")
    before = float(lgg.losses.graph_variation(hidden(model)))
    model.fit(X, LABELS, epochs=30, batch_size=20, verbose=0)
    assert float(lgg.losses.graph_variation(hidden(model))) < 0.8 * before


def loss_of(model, *data):
    return model.evaluate(*data, batch_size=20, verbose=0, return_dict=True)["loss"]


def test_weight_is_a_variable():
    model = model_with_penalty(1.0)
    layer = next(x for x in model.layers if isinstance(x, lgg.layers.GeometryPenalty))
    assert layer.trainable_variables == []
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    with_penalty = loss_of(model, X, LABELS)
    layer.weight.assign(0.0)
    without = loss_of(model, X, LABELS)
    np.testing.assert_allclose(
        with_penalty - without, float(lgg.losses.graph_variation(hidden(model))), rtol=1e-3
    )


def test_labels_as_an_input():
    model = model_with_labels()
    model.compile(keras.optimizers.SGD(0.0), loss=None)
    z = model([X, LABELS])
    found = loss_of(model, [X, LABELS])
    expected = 0.5 * np.sum(to_numpy(lgg.losses.graph_smoothness(LABELS, z)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_averages_a_loss_on_single_layers():
    layer = lgg.layers.GeometryPenalty(lgg.losses.GraphSmoothness(), weight=2.0)
    layer([X, 3 * X], labels=LABELS)
    expected = sum(np.sum(to_numpy(lgg.losses.graph_smoothness(LABELS, f * X))) for f in (1, 3))
    np.testing.assert_allclose(float(layer.losses[0]), expected, rtol=1e-4)


def test_keeps_masks():
    ids = keras.Input((5,), dtype="int32")
    h = layers.Embedding(7, 4, mask_zero=True)(ids)
    h = lgg.layers.GeometryPenalty(lgg.losses.GraphVariation(), weight=0.1)([2 * h, h])
    masked = keras.Model(ids, layers.LSTM(3)(h))
    short, padded = np.array([[1, 2, 3, 0, 0]] * 2), np.array([[1, 2, 3, 0, 0]] * 2)
    embedding, lstm = masked.layers[1], masked.layers[-1]
    expected = lstm(embedding(short)[:, :3])
    np.testing.assert_allclose(to_numpy(masked(padded)), to_numpy(expected), rtol=1e-5)


def test_takes_the_mask_of_its_last_input_alone():
    layer = lgg.layers.GeometryPenalty(lgg.losses.GraphVariation())
    masked = layers.Embedding(7, 4, mask_zero=True)(np.array([[1, 2, 0], [3, 0, 0]]))
    plain = keras.ops.ones((2, 5))
    assert getattr(layer([masked, plain]), "_keras_mask", None) is None
    found = layer([plain, masked])._keras_mask
    np.testing.assert_array_equal(found, [[True, True, False], [True, False, False]])


@pytest.mark.parametrize("make", [model_with_penalty, model_with_labels])
def test_saves_and_goes_on(make, tmp_path):
    model = make()
    inputs = [X, LABELS] if len(model.inputs) == 2 else X
    loss = None if len(model.inputs) == 2 else "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(inputs, LABELS, batch_size=20, verbose=0)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    for m in (model, restored):
        m.fit(inputs, LABELS, batch_size=20, verbose=0)
    for a, b in zip(model.variables, restored.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_inside_a_student():
    student = model_with_penalty(0.5)
    teacher = keras.Sequential([keras.Input((6,)), layers.Dense(9, "relu", name="t")])
    distiller = lgg.Distiller(
        teacher, student, [lgg.Penalty(lgg.losses.GraphDistillation(), [("t", "h1")], weight=2.0)]
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.evaluate(X, batch_size=20, verbose=0, return_dict=True)
    expected = 0.5 * float(lgg.losses.graph_variation(hidden(student)))
    np.testing.assert_allclose(logs["loss"], expected + 2 * logs["graph_distillation"], rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: lgg.layers.GeometryPenalty(lgg.losses.GraphVariation())(X),
            r"at least two representations.*Received: 1.*layer\(\[h1, h2\]\)",
        ),
        (
            lambda: lgg.layers.GeometryPenalty(lgg.losses.GraphVariation())(keras.Input((6,))),
            r"at least two representations",
        ),
        (
            lambda: lgg.layers.GeometryPenalty(lgg.losses.GraphSmoothness())(X),
            r"needs class labels.*labels=labels_input",
        ),
        (
            lambda: lgg.layers.GeometryPenalty(lgg.losses.GraphDistillation()),
            "has no teacher.*Distiller",
        ),
        (lambda: lgg.layers.GeometryPenalty("gsl"), "Expected a loss object"),
        (
            lambda: lgg.layers.GeometryPenalty(lgg.losses.GraphVariation(), weight=-1),
            "`weight`.*at least 0",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


class TestWithoutPenalties:
    def test_shares_the_layers(self):
        model = model_with_penalty()
        plain = lgg.layers.without_penalties(model)
        assert [layer.name for layer in plain.layers[1:]] == ["h1", "h2", "head"]
        assert plain.get_layer("h1") is model.get_layer("h1")
        np.testing.assert_array_equal(plain.predict(X, verbose=0), model.predict(X, verbose=0))
        model(X)
        assert len(model.losses) == 1
        assert plain(X).shape == (20, 3)
        assert plain.losses == []

    @pytest.mark.parametrize("form", [list, dict])
    def test_inputs_that_penalties_alone_read_are_gone(self, form):
        x, y = keras.Input((6,), name="x"), keras.Input((), dtype="int32", name="y")
        other = keras.Input((6,), name="other")
        z = layers.Add()([x, other])
        z = lgg.layers.GeometryPenalty(lgg.losses.GraphSmoothness())(z, labels=y)
        inputs = {"x": x, "y": y, "other": other} if form is dict else [x, y, other]
        plain = lgg.layers.without_penalties(keras.Model(inputs, z))
        assert isinstance(plain.input, form)
        assert sorted(tensor.name for tensor in plain.inputs) == ["other", "x"]

    def test_searches_nested_models(self):
        inner = model_with_penalty()
        inputs = keras.Input((6,))
        plain = lgg.layers.without_penalties(keras.Model(inputs, layers.ReLU()(inner(inputs))))
        plain(X)
        assert plain.losses == []
        expected = np.maximum(inner.predict(X, verbose=0), 0)
        np.testing.assert_allclose(plain.predict(X, verbose=0), expected, rtol=1e-6)

    def test_the_mask_stays(self):
        ids = keras.Input((5,), dtype="int32")
        h = layers.Embedding(7, 4, mask_zero=True)(ids)
        h = lgg.layers.GeometryPenalty(lgg.losses.GraphVariation())([2 * h, h])
        model = keras.Model(ids, layers.LSTM(3)(h))
        padded = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0]])
        plain = lgg.layers.without_penalties(model)
        np.testing.assert_allclose(
            plain.predict(padded, verbose=0), model.predict(padded, verbose=0), rtol=1e-6
        )

    def test_a_nested_model_that_is_called_twice(self):
        x = keras.Input((4,))
        penalty = lgg.layers.GeometryPenalty(lgg.losses.GraphVariation())
        inner = keras.Model(x, penalty([x, layers.Dense(4)(x)]), name="inner")
        inputs = keras.Input((4,))
        model = keras.Model(inputs, inner(inner(inputs)))
        plain = lgg.layers.without_penalties(model)
        x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
        np.testing.assert_allclose(
            plain.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6
        )
        assert len(plain.weights) == 2

    def test_a_model_that_is_no_graph(self):
        class Own(keras.Model):
            def call(self, x):
                return x

        with pytest.raises(ValueError, match=r"penalties of 'own' cannot be reached.*Received: a"):
            lgg.layers.without_penalties(Own(name="own"))
