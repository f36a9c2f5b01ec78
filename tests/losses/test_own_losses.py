"""Losses that users write, of every kind: what `call` gets, wherever a penalty can stand."""

import keras
import numpy as np
import pytest
from autodiff import to_numpy
from keras import layers, ops

import keras_lgg as lgg
from keras_lgg import losses

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 4)).astype("float32"), np.arange(12) % 3


class Length(losses.GeometryLoss):
    """Of a representation alone."""

    def call(self, y_true, y_pred):
        assert y_true is not None
        assert tuple(y_true.shape) == tuple(y_pred.shape)
        return ops.mean(ops.square(y_pred), axis=1)


class Growth(losses.GeometryLoss):
    """Of all layers alone."""

    across_layers = True
    is_scalar = True

    def call(self, y_true, y_pred):
        assert len(y_true) == len(y_pred)
        return ops.mean(ops.square(y_pred[-1])) - ops.mean(ops.square(y_pred[0]))


class OfClass(losses.GeometryLoss):
    needs_labels = True

    def call(self, y_true, y_pred):
        return ops.mean(y_pred, axis=1) * ops.cast(y_true, "float32")


class ToTeacher(losses.GeometryLoss):
    needs_teacher = True

    def call(self, y_true, y_pred):
        return ops.square(ops.mean(y_pred, axis=1) - ops.mean(y_true, axis=1))


class ToTeacherOfClass(losses.GeometryLoss):
    needs_teacher = True
    needs_labels = True

    def call(self, y_true, y_pred):
        teacher, labels = y_true
        difference = ops.mean(y_pred, axis=1) - ops.mean(teacher, axis=1)
        return difference * ops.cast(labels, "float32")


def network(width=5, seed=0):
    keras.utils.set_random_seed(seed)
    x = keras.Input((4,))
    h1 = layers.Dense(width, name="h1", bias_initializer="normal")(x)
    return keras.Model(x, layers.Dense(3, name="h2", bias_initializer="normal")(h1))


def taps(model):
    outputs = [layer.output for layer in model.layers[1:]]
    return [to_numpy(x) for x in keras.Model(model.input, outputs)(X)]


def expected_on_one(loss, model):
    h1, h2 = taps(model)
    if isinstance(loss, Growth):
        return np.mean(h2**2) - np.mean(h1**2)
    return np.mean(h2**2) if isinstance(loss, Length) else np.mean(h2.mean(axis=1) * Y)


ON_ONE = (Length, Growth, OfClass)
TAPS = {Growth: ["h1", "h2"]}


@pytest.mark.parametrize("kind", ON_ONE)
@pytest.mark.parametrize("place", ["model", "step", "layer", "object"])
def test_on_one_network(kind, place):
    loss, base = kind(name="own"), network()
    expected = expected_on_one(loss, base)
    penalty = lgg.Penalty(loss, TAPS.get(kind, "h2"), weight=1.0)
    if place == "model":
        model = lgg.GeometryModel(base, [penalty])
        model.compile("sgd", jit_compile=False)
        found = model.fit(X, Y, batch_size=12, verbose=0).history["own"][0]
    elif place == "step":
        with lgg.tapping(base, [penalty]) as geometry:
            base(X, training=True)
        found = float(geometry.loss(Y))
    elif place == "layer":
        h1, h2 = (layer.output for layer in base.layers[1:])
        labels = keras.Input((), dtype="int32")
        taken = [h1, h2] if kind is Growth else h2
        out = lgg.layers.GeometryPenalty(loss, weight=1.0)(taken, labels=labels)
        model = keras.Model([base.input, labels], out)
        model.compile("sgd", jit_compile=False)
        found = model.evaluate([X, Y], batch_size=12, verbose=0, return_dict=True)["loss"]
    else:
        taken = taps(base) if kind is Growth else taps(base)[1]
        found = float(loss(Y, taken) if kind is OfClass else loss(taken))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", [ToTeacher, ToTeacherOfClass])
def test_with_a_teacher(kind):
    teacher, student = network(6, seed=1), network()
    difference = taps(student)[1].mean(axis=1) - taps(teacher)[0].mean(axis=1)
    expected = np.mean(difference**2 if kind is ToTeacher else difference * Y)
    penalty = lgg.Penalty(kind(name="own"), [("h1", "h2")], weight=1.0)
    model = lgg.Distiller(teacher, student, [penalty])
    model.compile("sgd", jit_compile=False)
    found = model.fit(X, Y, batch_size=12, verbose=0).history["own"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", [*ON_ONE, ToTeacher, ToTeacherOfClass])
def test_with_a_memory(kind):
    """The second batch stands beside the first; here they are the same, and nothing is trained."""
    loss, base = losses.CrossBatch(kind(name="own"), 12), network()
    if kind in ON_ONE:
        penalty = lgg.Penalty(loss, TAPS.get(kind, "h2"), weight=1.0)
        model = lgg.GeometryModel(base, [penalty])
    else:
        penalty = lgg.Penalty(loss, [("h2", "h2")], weight=1.0)
        model = lgg.Distiller(network(seed=1), base, [penalty])
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    history = model.fit(X, Y, batch_size=12, epochs=2, shuffle=False, verbose=0).history
    first, second = history["own"]
    np.testing.assert_allclose(second, first, rtol=1e-4)


def test_a_teacher_that_is_missing():
    with pytest.raises(ValueError, match="y_pred"):
        ToTeacher()(X)
