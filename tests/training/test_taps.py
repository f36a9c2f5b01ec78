import concurrent.futures

import keras
import numpy as np
import pytest
from autodiff import BACKEND, to_numpy
from keras import layers, ops

import keras_lgg as lgg
from keras_lgg.training.paths import path_at, paths_of, position_of
from keras_lgg.training.taps import EditedModel, Tapped, TappedModel


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
    outputs, taps = TappedModel(model, paths)(np.ones((5, 4), "float32") if x is None else x)
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
    tapped = TappedModel(model, ["a", "bn"])
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
    TappedModel(model, ["a", "bn"])(np.ones((5, 4), "float32"), training=True)
    assert_close(model.get_layer("bn").moving_mean, 0.01 * taps["a"].mean(axis=0), rtol=1e-4)


def test_nested_models_by_path():
    inner = keras.Sequential([keras.Input((3,)), dense("c"), dense("d")], name="inner")
    x = keras.Input((4,))
    h = dense("a")(x)
    middle = keras.Model(x, inner(h), name="middle")
    outer = keras.Sequential([keras.Input((4,)), middle, dense("head", 2)], name="outer")
    assert lgg.layer_paths(outer) == {
        "middle/a": (None, 3),
        "middle/inner/c": (None, 3),
        "middle/inner/d": (None, 3),
        "middle/inner": (None, 3),
        "middle": (None, 3),
        "head": (None, 2),
    }
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
    tapped = TappedModel(model, ["a"])
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


def siamese():
    encoder = keras.Sequential([keras.Input((8,)), dense("z", 4)], name="enc")
    p, q = keras.Input((8,)), keras.Input((8,))
    return keras.Model([p, q], layers.Add()([encoder(p), encoder(q)]))


def many():
    x = h = keras.Input((4,))
    for i in range(59):
        h = dense(f"dense_{i}")(h)
    return keras.Model(x, h)


class Block(layers.Layer):
    """Two layers which name themselves, added to what comes in."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(4, "relu"), layers.Dense(4)

    def call(self, x):
        return x + self.second(self.first(x))


@keras.saving.register_keras_serializable("test_taps")
class Blocks(keras.Model):
    def __init__(self, depth=3, **kwargs):
        super().__init__(**kwargs)
        self.depth = depth
        self.blocks = [Block() for _ in range(depth)]
        self.head = dense("head", 2)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(x), "last": x}

    def get_config(self):
        return {**super().get_config(), "depth": self.depth}


def blocks():
    model = Blocks()
    model(np.ones((2, 4), "float32"))
    return model


def test_layers_of_a_subclassed_model():
    model = blocks()
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    names = [block.name for block in model.blocks]
    _, taps = run(model, [names[0], "blocks.1", f"{names[1]}/first", "blocks.2/second"], x)
    first, second, third = model.blocks
    assert_close(taps[names[0]], first(x), rtol=1e-6)
    assert_close(taps["blocks.1"], second(first(x)), rtol=1e-6)
    assert_close(taps[f"{names[1]}/first"], second.first(first(x)), rtol=1e-6)
    h = second(first(x))
    assert_close(taps["blocks.2/second"], third.second(third.first(h)), rtol=1e-6)
    shapes = lgg.layer_paths(model)
    assert list(shapes)[-1] == "head"
    assert shapes["head"] == (None, 2)
    assert len(shapes) == 3 * 3 + 1
    assert list(lgg.layer_paths(model, "block*")) == list(shapes)[:-1]


def test_calls_outputs_and_ports():
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    model = called_twice()
    shared = model.get_layer("shared")
    _, taps = run(model, ["shared@0", "shared@1"], x)
    assert_close(taps["shared@0"], shared(x), rtol=1e-6)
    assert_close(taps["shared@1"], shared(shared(x)), rtol=1e-6)

    model = two_outputs()
    sequence = x[:, :, None] * np.ones((1, 1, 2), "float32")
    _, taps = run(model, ["gru:0", "gru:1"], sequence)
    y, state = model.get_layer("gru")(sequence)
    assert_close(taps["gru:0"], y, rtol=1e-6)
    assert_close(taps["gru:1"], state, rtol=1e-6)

    left = keras.Input((4,), name="left")
    model = keras.Model({"left": left}, {"p": dense("a")(left), "q": dense("b")(left)})
    outputs, taps = run(model, ["p", "left", "b"], {"left": x})
    assert_close(taps["p"], outputs["p"])
    assert_close(taps["left"], x)
    assert_close(taps["b"], outputs["q"])
    assert list(lgg.layer_paths(called_twice())) == ["shared@0", "shared@1"]
    assert lgg.layer_paths(two_outputs())["gru:1"] == (None, 3)


class Positions(layers.Layer):
    """Adds the first rows of a table of six: no longer sequence can be traced."""

    def build(self, shape):
        self.table = self.add_weight(shape=(6, shape[-1]), initializer="ones")

    def call(self, x):
        length, width = ops.shape(x)[1], self.table.shape[1]
        return x + ops.slice(ops.convert_to_tensor(self.table), (0, 0), (length, width))

    def compute_output_shape(self, shape):
        return shape


def test_paths_of_a_model_with_a_table_of_positions():
    x = keras.Input((None, 4), name="x")
    h = layers.Conv1D(3, 1, name="conv")(Positions(name="positions")(x))
    paths = lgg.layer_paths(keras.Model(x, layers.GlobalMaxPooling1D(name="max")(h)))
    assert paths == {
        "positions": (None, None, 4),
        "conv": (None, None, 3),
        "max": (None, 3),
    }


def test_a_layer_and_a_pattern():
    model = functional()
    assert paths_of(model, model.get_layer("bn")) == ["bn"]
    assert paths_of(model, "b*") == ["bn", "b"]
    outer = nested()
    assert paths_of(outer, outer.get_layer("backbone").get_layer("block3_relu")) == [
        "backbone/block3_relu"
    ]
    with pytest.raises(ValueError, match=r"matches no layer.*Expected one that matches.*'bn'"):
        paths_of(model, "c*")
    with pytest.raises(ValueError, match=r"The layer 'other' cannot be tapped.*not in it"):
        paths_of(model, dense("other"))
    with pytest.raises(ValueError, match="Invalid tap"):
        paths_of(model, 3)


def test_an_own_call_is_seen_as_it_runs():
    model = own_call()
    x = np.ones((5, 4), "float32")
    outputs, taps = run(model, ["a"], x)
    assert_close(outputs, 2 * taps["a"], rtol=1e-6)


def test_a_model_that_is_built_by_its_first_call():
    model = keras.Sequential([dense("a"), dense("b", 2)])
    outputs, taps = Tapped(model, ["a"])(np.ones((5, 4), "float32"))
    assert_close(outputs, model.get_layer("b")(taps["a"].value), rtol=1e-6)


class Hidden(keras.Model):
    """Calls a layer where its values do not come out."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.inner = dense("inner", 4)
        self.inner.build((None, 4))

    def call(self, x):
        if self.kind == "loop":
            return keras.ops.fori_loop(0, 2, lambda i, h: self.inner(h), x)
        if self.kind == "remat":
            return keras.remat(self.inner)(x)
        if self.kind == "condition":
            return keras.ops.cond(keras.ops.sum(x) > 0, lambda: self.inner(x), lambda: x)
        return x


@pytest.mark.parametrize("kind", ["loop", "condition", "remat", "never"])
def test_what_cannot_be_seen_is_an_error(kind):
    if BACKEND == "torch" and kind != "never":
        pytest.skip("PyTorch runs Python, whatever is around it")
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.run_functions_eagerly(False)
    hidden = Hidden(kind)
    model = lgg.GeometryModel(hidden, [lgg.Penalty(lgg.losses.GraphSmoothness(), "inner")])
    model.compile("sgd")
    x = np.ones((2, 4), "float32")
    # JAX may have traced a rematerialised block before, and does not call the layer again.
    message = {"never": "saw nothing", "remat": "rematerialised"}.get(kind, "inside a loop")
    with pytest.raises(ValueError, match=message):
        model.fit(x, np.array([0, 1]), verbose=0)
    assert "call" not in vars(hidden.inner), "nothing is left on the layer"


def test_nothing_is_left_behind_when_the_model_raises():
    model = functional()
    tapped = Tapped(model, ["a"])
    with pytest.raises(ValueError, match="incompatible"):
        tapped(np.ones((5, 3), "float32"))
    assert "call" not in vars(model.get_layer("a"))
    tapped(np.ones((5, 4), "float32"))


def test_threads_see_their_own_calls():
    model = functional()
    tapped = Tapped(model, ["a"])
    batches = [np.full((5, 4), i, "float32") for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: tapped(x)[1]["a"].value, batches * 4))
    for x, h in zip(batches * 4, found, strict=True):
        assert_close(h, model.get_layer("a")(x), rtol=1e-6)
    assert "call" not in vars(model.get_layer("a"))


def test_a_tap_finds_its_layer_whatever_it_is_called():
    model = Blocks()
    tap = f"{model.blocks[1].name}/first"
    position = position_of(model, tap)
    for _ in range(2):  # the names move on with each model
        other = Blocks()
        path = path_at(other, tap, position)
        assert path.startswith(other.blocks[1].name + "/")
        assert position_of(other, path)[0][0] == 1
    again = functional()
    assert path_at(again, "bn", position_of(functional(), "bn")) == "bn"


@pytest.mark.parametrize(
    ("make", "path", "message"),
    [
        (functional, "aa", r"Unknown tap 'aa'.*Did you mean 'a'\?.*\['in', 'a', 'bn', 'b'\]"),
        (
            many,
            "dense_33x",
            r"Did you mean 'dense_33'\?.*one of its 60 layers, such as \['dense_33'",
        ),
        (nested, "block3_relu", r"Did you mean 'backbone/block3_relu'\?"),
        (nested, "backbone/nothing", r"Unknown tap 'backbone/nothing' in the model"),
        (nested, "nothing/block3_relu", "Unknown tap 'nothing/block3_relu'"),
        (functional, "a/b", "Unknown tap 'a/b'"),
        (Subclassed, "hiden", r"Did you mean 'hidden'\?"),
        (called_twice, "shared", "calls 2 times.*'shared@0' to 'shared@1'"),
        (called_twice, "shared@2", "Expected a call from 0 to 1.*Received: call 2"),
        (siamese, "enc/z", "'enc/z' is ambiguous.*calls 2 times"),
        (two_outputs, "gru", "a layer with 2.*gru:0, gru:1"),
    ],
)
def test_errors_say_what_to_do(make, path, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        TappedModel(make(), [path])


def test_edits_act_on_one_layer_and_leave_the_model():
    model = functional()
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    before, config = to_numpy(model(x)), model.to_json()
    edited = EditedModel(model, {"a": lambda h: 2 * h, "bn": lambda h: h + 1})
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
    assert_close(EditedModel(outer, edits)(ones), expected, rtol=1e-5)


def test_an_edit_can_be_a_layer():
    model = functional()
    edited = EditedModel(model, {"a": layers.Rescaling(0.0)})
    ones = np.ones((5, 4), "float32")
    zeroed = model.get_layer("b")(model.get_layer("bn")(np.zeros((5, 3), "float32")))
    assert_close(edited(ones), zeroed, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "path", "message"),
    [
        (functional, "aa", r"Unknown tap 'aa'.*Did you mean 'a'\?"),
        (nested, "backbone/nothing", "Unknown tap 'backbone/nothing'"),
        (called_twice, "shared", "calls 2 times"),
        (functional, "in", "The input 'in' of the model 'net' cannot be edited"),
    ],
)
def test_edits_that_cannot_act_raise(make, path, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        EditedModel(make(), {path: lambda h: h})
