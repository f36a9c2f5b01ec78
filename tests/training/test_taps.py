import keras
import numpy as np
import pytest
from autodiff import to_numpy
from keras import layers

from keras_lgg.training.taps import edited_model, layer_paths, tapped_model


def assert_close(actual, expected, rtol=1e-7):
    np.testing.assert_allclose(to_numpy(actual), to_numpy(expected), rtol=rtol)


def dense(name, units=3, **kwargs):
    return layers.Dense(units, name=name, **kwargs)


def functional():
    x = keras.Input((4,), name="in")
    h = dense("a")(x)
    h = layers.BatchNormalization(name="bn")(h)
    return keras.Model(x, dense("b")(h), name="net")


def run(model, paths, x=None):
    outputs, taps = tapped_model(model, paths)(np.ones((5, 4), "float32") if x is None else x)
    return outputs, {path: to_numpy(tap) for path, tap in taps.items()}


def test_functional_model():
    model = functional()
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    outputs, taps = run(model, ["a", "bn", "in", "b"], x)
    assert_close(outputs, model(x), rtol=1e-6)
    assert_close(taps["a"], model.get_layer("a")(x), rtol=1e-6)
    assert_close(taps["bn"], model.get_layer("bn")(taps["a"]), rtol=1e-6)
    assert_close(taps["in"], x)
    assert_close(taps["b"], outputs)


def test_every_layer_runs_once():
    model = functional()
    tapped = tapped_model(model, ["a", "bn"])
    moving_mean = model.get_layer("bn").moving_mean
    x = np.ones((5, 4), "float32")
    batch_mean = to_numpy(model.get_layer("a")(x)).mean(axis=0)
    tapped(x, training=True)
    assert_close(moving_mean, 0.01 * batch_mean, rtol=1e-4)


@pytest.mark.parametrize("steps", ["at once", "one by one"])
def test_sequential_model(steps):
    parts = [keras.Input((4,)), dense("a"), layers.BatchNormalization(name="bn"), dense("b")]
    if steps == "at once":
        model = keras.Sequential(parts)
    else:  # each add() calls all layers again: the tap must be that of the last graph
        model = keras.Sequential()
        for part in parts:
            model.add(part)
    outputs, taps = run(model, ["a", "bn"])
    assert_close(outputs, model(np.ones((5, 4), "float32")), rtol=1e-6)
    assert taps["a"].shape == (5, 3)
    model.get_layer("bn").moving_mean.assign([0.0, 0.0, 0.0])
    tapped_model(model, ["a", "bn"])(np.ones((5, 4), "float32"), training=True)
    assert_close(model.get_layer("bn").moving_mean, 0.01 * taps["a"].mean(axis=0), rtol=1e-4)


def test_nested_models_by_path():
    inner = keras.Sequential([keras.Input((3,)), dense("c"), dense("d")], name="inner")
    x = keras.Input((4,))
    h = dense("a")(x)
    middle = keras.Model(x, inner(h), name="middle")
    outer = keras.Sequential([keras.Input((4,)), middle, dense("head", 2)], name="outer")
    assert layer_paths(outer) == [
        "middle",
        *(f"middle/{name}" for name in [layer.name for layer in middle.layers[:1]]),
        "middle/a",
        "middle/inner",
        "middle/inner/c",
        "middle/inner/d",
        "head",
    ]
    ones = np.ones((5, 4), "float32")
    outputs, taps = run(outer, ["middle/inner/c", "middle/a", "middle", "head"], ones)
    assert_close(outputs, outer(ones), rtol=1e-6)
    a = middle.get_layer("a")(ones)
    assert_close(taps["middle/a"], a, rtol=1e-6)
    assert_close(taps["middle/inner/c"], inner.get_layer("c")(a), rtol=1e-6)
    assert_close(taps["middle"], inner(a), rtol=1e-6)


def test_weights_are_shared_and_the_model_is_as_it_was():
    model = functional()
    before, output = model.to_json(), model.get_layer("a").output
    tapped = tapped_model(model, ["a"])
    assert {id(v) for v in tapped.variables} == {id(v) for v in model.variables}
    assert model.to_json() == before
    assert model.get_layer("a").output is output
    assert not tapped.compiled


def test_several_inputs_and_outputs():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    h = layers.Add(name="sum")([left, right])
    model = keras.Model({"left": left, "right": right}, {"p": dense("p")(h), "q": dense("q")(h)})
    x = {"left": np.ones((2, 4), "float32"), "right": np.zeros((2, 4), "float32")}
    outputs, taps = run(model, ["sum"], x)
    assert set(outputs) == {"p", "q"}
    assert_close(taps["sum"], x["left"])
    assert_close(outputs["q"], model(x)["q"], rtol=1e-6)


def test_a_list_of_one_output_comes_out_as_the_model_gives_it():
    x = keras.Input((4,))
    model = keras.Model(x, [dense("a")(x)])
    outputs, _ = run(model, ["a"])
    assert tuple(outputs.shape) == tuple(model(np.ones((5, 4), "float32")).shape)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = dense("hidden")

    def call(self, x):
        return self.hidden(x)


class OwnCall(keras.Model):
    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training)


def own_call():
    x = keras.Input((4,))
    return OwnCall(x, dense("a")(x))


def called_twice():
    x, shared = keras.Input((4,)), dense("shared", 4)
    return keras.Model(x, shared(shared(x)))


def two_outputs():
    x = keras.Input((4, 2))
    y, state = layers.GRU(3, return_state=True, name="gru")(x)
    return keras.Model(x, layers.Add()([y, state]))


def nested():
    inner = keras.Sequential([keras.Input((4,)), dense("block3_relu")], name="backbone")
    return keras.Sequential([keras.Input((4,)), inner])


@pytest.mark.parametrize(
    ("make", "path", "message"),
    [
        (functional, "aa", r"Unknown tap 'aa'.*Did you mean 'a'\?.*\['in', 'a', 'bn', 'b'\]"),
        (nested, "block3_relu", r"Did you mean 'backbone/block3_relu'\?"),
        (nested, "backbone/nothing", r"Unknown tap 'nothing' in the model 'backbone'"),
        (nested, "nothing/block3_relu", "Unknown tap 'nothing/block3_relu'"),
        (functional, "a/b", "Expected a Functional or Sequential model.*Received: a Dense"),
        (Subclassed, "hidden", "Python code that a tap cannot look into.*functional API"),
        (own_call, "a", r"overrides call\(\)"),
        (lambda: keras.Sequential([dense("a")]), "a", "not been built.*keras.Input"),
        (called_twice, "shared", "calls 2 times.*Identity"),
        (two_outputs, "gru", "a layer with 2.*Identity"),
    ],
)
def test_errors_say_what_to_do(make, path, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        tapped_model(make(), [path])


def test_edits_act_on_one_layer_and_leave_the_model():
    model = functional()
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    before, config = to_numpy(model(x)), model.to_json()
    edited = edited_model(model, {"a": lambda h: 2 * h, "bn": lambda h: h + 1})
    a, bn, b = (model.get_layer(name) for name in ("a", "bn", "b"))
    assert_close(edited(x), b(bn(2 * a(x)) + 1), rtol=1e-5)
    assert {id(v) for v in edited.variables} == {id(v) for v in model.variables}
    assert_close(model(x), before, rtol=0)
    assert model.to_json() == config


def test_edits_reach_into_nested_models():
    inner = keras.Sequential([keras.Input((3,)), dense("c"), dense("d")], name="inner")
    x = keras.Input((4,))
    middle = keras.Model(x, inner(dense("a")(x)), name="middle")
    outer = keras.Sequential([keras.Input((4,)), middle, dense("head", 2)], name="outer")
    ones = np.ones((5, 4), "float32")
    edits = {"middle/inner/c": lambda h: 2 * h, "middle/a": lambda h: h + 1, "middle": lambda h: -h}
    a, c, d = middle.get_layer("a"), inner.get_layer("c"), inner.get_layer("d")
    expected = outer.get_layer("head")(-d(2 * c(a(ones) + 1)))
    assert_close(edited_model(outer, edits)(ones), expected, rtol=1e-5)


def test_an_edit_can_be_a_layer():
    model = functional()
    edited = edited_model(model, {"a": layers.Rescaling(0.0)})
    ones = np.ones((5, 4), "float32")
    zeroed = model.get_layer("b")(model.get_layer("bn")(np.zeros((5, 3), "float32")))
    assert_close(edited(ones), zeroed, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "path", "message"),
    [
        (functional, "aa", r"Unknown tap 'aa'.*Did you mean 'a'\?"),
        (nested, "backbone/nothing", "Unknown tap 'nothing' in the model 'backbone'"),
        (called_twice, "shared", "calls 2 times"),
        (functional, "in", "The input 'in' of the model 'net' cannot be edited"),
    ],
)
def test_edits_that_cannot_act_raise(make, path, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        edited_model(make(), {path: lambda h: h})
