"""Balanced weights, against trainings computed by hand."""

import keras
import numpy as np
import pytest
from autodiff import BACKEND, to_numpy, value_and_grads
from backends import needs
from keras import layers

import keras_lgg as lgg
from keras_lgg.training.balance import MOMENTUM

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 5)).astype("float32")
Y = RNG.normal(size=(12, 4)).astype("float32")
RATE = 0.05


def network(width=4, seed=0, name=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(width, use_bias=False, name="h1"),
            layers.Dense(width, use_bias=False, name="h2"),
            layers.Dense(4, use_bias=False, name="out"),
        ],
        name=name,
    )


def arrays(model):
    return [to_numpy(v).astype("float64") for v in model.trainable_variables]


def mse_gradient(a, b):
    return 2 * (a - b) / a.size


def hand_training(weights, steps, *, fraction=0.1, taps=(2,), target=lambda x: Y):
    """Three linear layers, trained by SGD on the error of the last and a balanced penalty.

    The penalty is the mean over the taps (1 for h1, 2 for h2, 3 for the output) of the squared
    error between the representation and its target. Returns the weights after each step, and the
    weight of the penalty in each.
    """
    weights = [w.copy() for w in weights]
    means, found, used = np.zeros(2), np.zeros(2), []
    for _ in range(steps):
        means = MOMENTUM * means + (1 - MOMENTUM) * found
        used.append(fraction * np.sqrt(means[0] / means[1]) if means[1] > 0 else 0.0)
        h = [X.astype("float64")]
        for w in weights:
            h.append(h[-1] @ w)
        penalty = {t: mse_gradient(h[t], target(t)) / len(taps) for t in taps}
        back, gradients = mse_gradient(h[3], Y), [None] * 3
        for layer in (3, 2, 1):
            if layer == taps[-1]:
                found = np.array([np.sum(back**2), np.sum(penalty[layer] ** 2)])
            if layer in taps:
                back = back + used[-1] * penalty[layer]
            gradients[layer - 1] = h[layer - 1].T @ back
            back = back @ weights[layer - 1].T
        weights = [w - RATE * g for w, g in zip(weights, gradients, strict=True)]
    return weights, used


def train(model, steps, **options):
    if not model.compiled:
        model.compile(keras.optimizers.SGD(RATE), "mse", **options)
    model.fit(X, Y, batch_size=12, epochs=steps, shuffle=False, verbose=0)
    return model


def mse(taps=("h2",), **options):
    return lgg.Penalty(
        keras.losses.MeanSquaredError(), list(taps), **{"weight": "balanced", **options}
    )


def assert_trained(model, expected, penalty, weight):
    for ours, theirs in zip(arrays(model), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6)
    assert float(penalty.weight) == pytest.approx(weight, rel=1e-3)


class TestAgainstNumPy:
    @pytest.mark.parametrize("taps", [("h2",), ("h1", "h2"), ("h1",)])
    @pytest.mark.parametrize("fraction", [None, 0.7])
    def test_geometry_model(self, taps, fraction):
        base, penalty = network(), mse(taps, fraction=fraction)
        numbers = tuple(int(tap[1]) for tap in taps)
        fraction = fraction or 0.1
        before = arrays(base)
        expected, _ = hand_training(before, 6, fraction=fraction, taps=numbers)
        _, used = hand_training(before, 7, fraction=fraction, taps=numbers)
        assert used[0] == 0 < used[1]
        model = train(lgg.GeometryModel(base, [penalty]), 6)
        # The weight to come takes in the step that was the last.
        penalty.balance.update()
        assert_trained(base, expected, penalty, used[-1])
        assert not np.allclose(expected[0], hand_training(before, 6, fraction=1e-9)[0][0])
        assert len(model.optimizer.variables) == 2  # the rate and the iterations: no momentum

    def test_on_the_output(self):
        base = network()
        before = arrays(base)
        penalty = lgg.Penalty(keras.losses.MeanSquaredError(), weight="balanced", fraction=0.5)
        model = train(lgg.GeometryModel(base, [penalty]), 5)
        penalty.balance.update()
        # Both are the same error: its gradient counts for one and a half from the second step on.
        expected, used = hand_training(before, 5, fraction=0.5, taps=(3,))
        assert used == [0, *[pytest.approx(0.5)] * 4]
        assert_trained(base, expected, penalty, 0.5)
        assert model.base is base

    def test_distiller(self):
        teacher, student = network(seed=1, name="teacher"), network(name="student")
        states = [X]
        for w in arrays(teacher):
            states.append(states[-1] @ w)
        feature = keras.distillation.FeatureDistillation(loss=keras.losses.MeanSquaredError())
        penalty = lgg.Penalty(feature, [("h1", "h1"), ("h2", "h2")], "balanced", fraction=0.5)
        before, teachers = arrays(student), arrays(teacher)
        options = {"fraction": 0.5, "taps": (1, 2), "target": lambda tap: states[tap]}
        expected, _ = hand_training(before, 5, **options)
        _, used = hand_training(before, 6, **options)
        train(lgg.Distiller(teacher, student, [penalty]), 5)
        penalty.balance.update()
        assert_trained(student, expected, penalty, used[-1])
        for ours, theirs in zip(arrays(teacher), teachers, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_layer(self):
        base = network()
        x, y = keras.Input((5,)), keras.Input((4,))
        h1 = base.get_layer("h1")(x)
        h2 = base.get_layer("h2")(h1)
        layer = lgg.layers.GeometryPenalty(
            keras.losses.MeanSquaredError(), "balanced", fraction=0.5
        )
        model = keras.Model([x, y], base.get_layer("out")(layer([h1, h2], labels=y)))
        before = arrays(base)
        expected, _ = hand_training(before, 5, fraction=0.5, taps=(1, 2))
        _, used = hand_training(before, 6, fraction=0.5, taps=(1, 2))
        model.compile(keras.optimizers.SGD(RATE), "mse")
        model.fit([X, Y], Y, batch_size=12, epochs=5, shuffle=False, verbose=0)
        layer.balance.update()
        assert_trained(base, expected, layer, used[-1])


def nested(seed=0):
    keras.utils.set_random_seed(seed)
    x = keras.Input((5,))
    inner = keras.Sequential(
        [keras.Input((5,)), layers.Dense(6, "relu", name="a"), layers.Dense(6, "relu", name="b")],
        name="inner",
    )
    return keras.Model(x, layers.Dense(4, name="out")(inner(x)))


def variation(**options):
    return lgg.Penalty(lgg.losses.GraphVariation(), ["inner/a", "inner/b"], **options)


def gradients_at(base, weight):
    """Norms of the gradients at the last tap, of the error and of the weighted variation."""
    first, last = (base.get_layer("inner").get_layer(name) for name in "ab")
    a = to_numpy(first(X)).astype("float32")
    b = to_numpy(last(a)).astype("float32")
    kernel, bias = (to_numpy(w) for w in base.get_layer("out").weights)
    task = mse_gradient(b @ kernel + bias, Y) @ kernel.T
    loss = lgg.losses.GraphVariation()
    _, (_, own) = value_and_grads(lambda a, b: loss([a, b]), [a, b])
    return np.linalg.norm(task), weight * np.linalg.norm(own)


class TestTraining:
    def test_the_fraction_is_held(self):
        base, penalty = nested(), variation(weight="balanced", fraction=0.3)
        model = lgg.GeometryModel(base, [penalty])
        model.compile(keras.optimizers.SGD(1e-5), "mse")  # which hardly moves
        model.fit(X, Y, batch_size=12, epochs=3, verbose=0)
        task, own = gradients_at(base, float(penalty.weight))
        assert own / task == pytest.approx(0.3, rel=1e-2)

    def test_evaluation_takes_the_weight_and_leaves_it(self):
        base, penalty = nested(), variation(weight="balanced")
        model = train(lgg.GeometryModel(base, [penalty]), 3)
        weight = float(penalty.weight)
        before = [to_numpy(v).copy() for v in model.variables]
        logs = model.evaluate(X, Y, verbose=0, return_dict=True)
        model.predict(X, verbose=0)
        error = np.mean((to_numpy(base(X)) - Y) ** 2)
        assert weight > 0
        assert logs["loss"] == pytest.approx(error + weight * logs["graph_variation"], rel=1e-5)
        for one, other in zip(before, model.weights, strict=False):
            np.testing.assert_array_equal(one, to_numpy(other))

    def test_the_logged_loss_of_a_step(self):
        model = lgg.GeometryModel(nested(), [variation(weight="balanced")])
        train(model, 3)
        penalty = model.penalties[0]
        penalty.balance.update()
        weight, error = float(penalty.weight), np.mean((to_numpy(model.base(X)) - Y) ** 2)
        penalty.balance._means.assign(
            (to_numpy(penalty.balance._means) - (1 - MOMENTUM) * found(penalty)) / MOMENTUM
        )
        logs = model.fit(X, Y, batch_size=12, verbose=0).history
        expected = error + weight * logs["graph_variation"][0]
        assert logs["loss"][0] == pytest.approx(expected, rel=1e-5)

    def test_the_deployed_model_knows_nothing_of_it(self):
        base = nested()
        names = [layer.name for layer in base.layers]
        model = train(lgg.GeometryModel(base, [variation(weight="balanced")]), 2)
        assert len(base.variables) == 6
        assert [layer.name for layer in model.base.layers] == names

    def test_saved_loaded_and_trained_on(self, tmp_path):
        base = nested()
        model = train(lgg.GeometryModel(base, [variation(weight="balanced", fraction=0.4)]), 4)
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        (theirs,) = loaded.penalties
        assert theirs.balance.fraction == 0.4
        assert float(theirs.weight) == float(model.penalties[0].weight) > 0
        for each in (model, loaded):
            train(each, 3)
        for one, other in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_allclose(to_numpy(one), to_numpy(other), rtol=1e-5, atol=1e-7)

    def test_a_layer_saved_and_loaded(self, tmp_path):
        x = keras.Input((5,))
        h1 = layers.Dense(6, "relu")(x)
        h2 = layers.Dense(6, "relu")(h1)
        h2 = lgg.layers.GeometryPenalty(lgg.losses.GraphVariation(), "balanced", name="p")([h1, h2])
        model = train(keras.Model(x, layers.Dense(4)(h2)), 4)
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        assert float(loaded.get_layer("p").weight) == float(model.get_layer("p").weight) > 0
        for each in (model, loaded):
            train(each, 2)
        np.testing.assert_allclose(
            float(loaded.get_layer("p").weight), float(model.get_layer("p").weight), rtol=1e-5
        )
        plain = lgg.layers.without_penalties(model)
        np.testing.assert_array_equal(plain.predict(X, verbose=0), model.predict(X, verbose=0))

    def test_a_penalty_without_gradient_weighs_nothing(self):
        constant = keras.Sequential(
            [
                keras.Input((5,)),
                layers.Dense(4, name="h1"),
                layers.Rescaling(0.0, name="h2"),
                layers.Dense(4),
            ]
        )
        penalty = lgg.Penalty(lgg.losses.GraphVariation(), ["h1", "h2"], "balanced")
        model = train(lgg.GeometryModel(constant, [penalty]), 3)
        assert float(penalty.weight) == 0
        assert np.isfinite(model.evaluate(X, Y, verbose=0, return_dict=True)["loss"])

    def test_two_penalties_at_one_tap(self):
        base = network()
        one, other = mse(name="one"), mse(fraction=0.3, name="other")
        train(lgg.GeometryModel(base, [one, other]), 4)
        assert float(other.weight) == pytest.approx(3 * float(one.weight), rel=1e-5)

    @pytest.mark.skipif(BACKEND == "jax", reason="XLA takes two minutes to compile it")
    def test_half_precision(self):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            base, penalty = nested(), variation(weight="balanced", fraction=0.3)
            model = lgg.GeometryModel(base, [penalty])
            scaled = keras.optimizers.LossScaleOptimizer(
                keras.optimizers.SGD(1e-5), initial_scale=128.0
            )
            model.compile(scaled, "mse")
            model.fit(X, Y, batch_size=12, epochs=4, verbose=0)
        finally:
            keras.config.set_dtype_policy("float32")
        task, own = gradients_at(base, float(penalty.weight))
        assert own / task == pytest.approx(0.3, rel=0.03)

    @pytest.mark.ci
    @needs("`steps_per_execution`")
    def test_compiled(self):
        found = []
        for jit in (False, True):
            penalty = variation(weight="balanced")
            model = lgg.GeometryModel(nested(), [penalty])
            train(model, 4, jit_compile=jit, steps_per_execution=2)
            found.append([float(penalty.weight), *(w.ravel() for w in model.base.get_weights())])
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)

    @pytest.mark.skipif(BACKEND != "torch", reason="counted where steps run eagerly")
    def test_one_backward_pass(self):
        calls = []

        class Counting(layers.Layer):
            def call(self, x):
                @keras.ops.custom_gradient
                def identity(x):
                    def gradient(*args, upstream=None):
                        calls.append(1)
                        return upstream

                    return keras.ops.copy(x), gradient

                return identity(x)

        base = keras.Sequential(
            [keras.Input((5,)), layers.Dense(4), Counting(), layers.Dense(4, name="h2")]
        )
        base.add(layers.Dense(4))
        train(lgg.GeometryModel(base, [mse()]), 3)
        assert len(calls) == 3


def found(penalty):
    balance = penalty.balance
    return np.array([float(balance._task), float(balance._penalty)])


class TestErrors:
    @pytest.mark.parametrize("fraction", [0, -0.1, np.nan, np.inf, "0.1", True])
    def test_fraction(self, fraction):
        with pytest.raises(ValueError, match=r"`fraction`.*positive finite number"):
            mse(fraction=fraction)

    def test_a_fraction_of_a_fixed_weight(self):
        with pytest.raises(ValueError, match=r"`fraction`.*None, unless weight=\"balanced\".*0.1"):
            mse(weight=1.0, fraction=0.1)
        with pytest.raises(ValueError, match=r"`fraction`.*unless"):
            lgg.layers.GeometryPenalty(lgg.losses.GraphVariation(), 0.1, fraction=0.1)

    @pytest.mark.parametrize("weight", ["balance", "auto"])
    def test_weight(self, weight):
        with pytest.raises(ValueError, match=r"`weight`.*at least 0, \"balanced\", or None"):
            mse(weight=weight)

    def test_it_cannot_be_set(self):
        with pytest.raises(ValueError, match=r"is balanced. Expected to be left to the training"):
            mse().weight = 0.1

    def test_no_task(self):
        model = lgg.GeometryModel(network(), [mse()])
        model.compile("sgd")
        with pytest.raises(ValueError, match=r"'mean_squared_error'.*nothing to be balanced with"):
            model.fit(X, Y, verbose=0)

    def test_several_outputs(self):
        def two():
            x = keras.Input((5,))
            return keras.Model(x, [layers.Dense(4)(x), layers.Dense(4)(x)])

        logits = keras.distillation.LogitsDistillation()
        model = lgg.Distiller(two(), two(), [lgg.Penalty(logits, weight="balanced")])
        model.compile("sgd", ["mse", "mse"])
        with pytest.raises(ValueError, match=r"no single output.*2 outputs.*`taps`"):
            model.fit(X, [Y, Y], verbose=0)
