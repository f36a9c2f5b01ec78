"""Penalties that are given no weight: what stands in the total loss, and for which batches."""

import keras
import numpy as np
import pytest
from autodiff import to_numpy
from keras import layers
from sklearn.datasets import load_digits

import keras_lgg as lgg
from keras_lgg import losses

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = RNG.integers(0, 3, 48)
# Of each loss on one network the weight that its documentation states, at n samples.
ON_ONE = {
    "p = 1": (losses.SmoothnessVariation(num_classes=3), lambda n: 5 / n**2),
    "p = 2": (losses.SmoothnessVariation(power=2, num_classes=3), lambda n: 5 / n**3),
    "k-NN": (losses.SmoothnessVariation(power=2, k=4), lambda n: 5 / (16 * n)),
    "relative": (losses.SmoothnessVariation(relative=True, num_classes=3), lambda n: 3),
    "graph variation": (losses.GraphVariation(), lambda n: 10),
    "graph smoothness": (losses.GraphSmoothness(), lambda n: 30 / n**2),
    "mean": (losses.GraphSmoothness(reduction="sum_over_batch_size"), lambda n: 30 / n),
    "target graph": (losses.TargetGraph(num_classes=3), lambda n: 30 / n**2),
    "memory": (losses.CrossBatch(losses.GraphSmoothness(), 8), lambda n: 30 / (n + 8) ** 2),
    "Keras's own": (keras.losses.SparseCategoricalCrossentropy(from_logits=True), lambda n: 1),
}
WITH_TEACHER = {
    "GKD": (losses.GraphDistillation(), lambda n: 1),
    "GKD, mean": (losses.GraphDistillation(reduction="sum_over_batch_size"), lambda n: n),
    "RKD-D": (losses.RelationalDistance(), lambda n: 5),
    "RKD-D, sum": (losses.RelationalDistance(reduction="sum"), lambda n: 5 / n),
    "RKD-A": (losses.RelationalAngle(), lambda n: 5),
    "SPKD": (losses.SimilarityPreserving(), lambda n: 2 * n),
    "SPKD, sum": (losses.SimilarityPreserving(reduction="sum"), lambda n: 2),
    "PKT": (losses.ProbabilisticTransfer(), lambda n: 20 * n),
    "CCKD": (losses.CorrelationCongruence(), lambda n: 20),
    "logits": (keras.distillation.LogitsDistillation(temperature=3.0), lambda n: 1),
}


def network(width=8, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(width, "relu", name="h1"),
            layers.Dense(width, "relu", name="h2"),
            layers.Dense(3, name="logits"),
        ]
    )


def modelled(loss, weight=None):
    across = getattr(loss, "across_layers", False)
    taps = ["h1", "h2"] if across else "logits"
    model = lgg.GeometryModel(network(), [lgg.Penalty(loss, taps, weight, name="penalty")])
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def distilled(loss, weight=None):
    taps = None if not isinstance(loss, losses.GeometryLoss) else [("h1", "h2")]
    model = lgg.Distiller(
        network(5, seed=1), network(), [lgg.Penalty(loss, taps, weight, name="penalty")]
    )
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def logs(model, n, *, fit):
    options = {"batch_size": n, "verbose": 0}
    if not fit:
        return model.evaluate(X[:n], Y[:n], return_dict=True, **options)
    history = model.fit(X[:n], Y[:n], shuffle=False, **options).history
    return {name: values[0] for name, values in history.items()}


def warm(penalty):
    """A penalty, or a layer, after its warm-up."""
    penalty._steps.assign(100)
    return penalty


def task(model, n):
    outputs = to_numpy(model(X[:n]))
    entropies = keras.losses.sparse_categorical_crossentropy(Y[:n], outputs, from_logits=True)
    return float(np.mean(to_numpy(entropies)))


@pytest.mark.parametrize("name", [*ON_ONE, *WITH_TEACHER])
def test_the_total_has_the_default(name):
    build, (loss, weight) = (
        (modelled, ON_ONE[name]) if name in ON_ONE else (distilled, WITH_TEACHER[name])
    )
    model = build(loss)
    steps = [(48, False, 1.0), (12, True, 0.01), (12, True, 0.02), (48, False, 1.0)]
    for n, fit, share in steps:
        alone, found = task(model, n), logs(model, n, fit=fit)
        assert found["penalty"] > 0
        expected = alone + share * weight(n) * found["penalty"]
        np.testing.assert_allclose(found["loss"], expected, rtol=1e-4, err_msg=str((fit, share)))
    warm(model.penalties[0])
    for _ in range(2):
        alone, found = task(model, 48), logs(model, 48, fit=True)
        expected = alone + weight(48) * found["penalty"]
        np.testing.assert_allclose(found["loss"], expected, rtol=1e-4)


def test_warms_up_in_even_steps():
    """As with a callback that assigns them, across epochs and calls of `fit`."""

    class Assigned(keras.callbacks.Callback):
        steps = 97

        def on_train_batch_begin(self, batch, logs=None):
            self.steps += 1
            share = min(self.steps, 100) / 100
            self.model.penalties[0].weight.assign(share * 30 / 16**2)

    default = modelled(losses.GraphSmoothness())
    default.penalties[0]._steps.assign(97)
    assigned, callback = modelled(losses.GraphSmoothness(), 0.0), Assigned()
    for _ in range(2):
        for model, callbacks in ((default, []), (assigned, [callback])):
            model.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
            model.evaluate(X, Y, verbose=0)  # which counts for nothing
    assert float(default.penalties[0].weight) == -1
    assert float(default.penalties[0]._steps) == 100
    for one, other in zip(default.base.get_weights(), assigned.base.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras takes one step an execution on PyTorch"
)
def test_several_steps_an_execution_count_each():
    model = modelled(losses.GraphSmoothness())
    model.compile("sgd", model.loss, jit_compile=False, steps_per_execution=3)
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    assert float(model.penalties[0]._steps) == 12


@pytest.mark.parametrize("weight", [0.0, 0.5, "balanced"])
def test_no_other_weight_warms_up(weight):
    model = modelled(losses.GraphSmoothness(), weight)
    variables = model.penalties[0].variables
    assert not any("steps" in variable.name for variable in variables)
    if weight != "balanced":
        assert len(variables) == 1
        alone, found = task(model, 12), logs(model, 12, fit=True)
        np.testing.assert_allclose(found["loss"], alone + weight * found["penalty"], rtol=1e-4)


def test_trains_as_with_the_number_after_the_warm_up():
    losses_of = [modelled(losses.GraphSmoothness(), w) for w in (None, 30 / 16**2)]
    warm(losses_of[0].penalties[0])
    trained = []
    for model in losses_of:
        model.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0)
        trained.append(model.base.get_weights())
    for one, other in zip(*trained, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    plain = modelled(losses.GraphSmoothness(), 0.0)
    plain.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    assert np.abs(plain.base.get_weights()[0] - trained[0][0]).max() > 1e-4


def test_an_assigned_weight_takes_its_place():
    model = modelled(losses.GraphVariation())
    assert float(model.penalties[0].weight) == -1
    logs(model, 48, fit=True)
    assert float(model.penalties[0].weight) == -1
    model.penalties[0].weight.assign(0.25)  # in the step that is compiled already
    alone, found = task(model, 48), logs(model, 48, fit=True)
    np.testing.assert_allclose(found["loss"], alone + 0.25 * found["penalty"], rtol=1e-4)
    model.penalties[0].weight.assign(-1)
    alone, found = task(model, 48), logs(model, 48, fit=True)
    np.testing.assert_allclose(found["loss"], alone + 0.03 * 10 * found["penalty"], rtol=1e-4)


def test_a_file_keeps_it(tmp_path):
    model = modelled(losses.GraphSmoothness())
    for _ in range(2):
        logs(model, 12, fit=True)
    expected = logs(model, 12, fit=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.penalties[0].weight) == -1
    np.testing.assert_allclose(logs(loaded, 12, fit=False)["loss"], expected["loss"], rtol=1e-5)
    # The warm-up goes on where it was.
    alone, found = task(loaded, 12), logs(loaded, 12, fit=True)
    share = loaded.penalties[0].loss.default_weight(12) * found["penalty"]
    np.testing.assert_allclose(found["loss"], alone + 0.03 * share, rtol=1e-4)
    loaded.penalties[0].weight.assign(0.5)
    loaded.save(tmp_path / "assigned.keras")
    again = keras.saving.load_model(tmp_path / "assigned.keras")
    assert float(again.penalties[0].weight) == 0.5


def test_a_layer():
    x, y = keras.Input((6,)), keras.Input((), dtype="int32")
    h1 = layers.Dense(8, "relu")(x)
    h2 = layers.Dense(5, "relu")(h1)
    loss = losses.SmoothnessVariation(num_classes=3)
    model = keras.Model([x, y], lgg.layers.GeometryPenalty(loss)([h1, h2], labels=y))
    model.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    taken = keras.Model(x, [h1, h2])
    for n in (12, 48):
        expected = 5 / n**2 * float(loss(Y[:n], taken(X[:n])))
        found = model.evaluate([X[:n], Y[:n]], batch_size=n, verbose=0, return_dict=True)["loss"]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    for steps in (0, 41, 100, 200):
        model.layers[-1]._steps.assign(min(steps, 100))
        expected = min(steps + 1, 100) / 100 * 5 / 48**2 * float(loss(Y, taken(X)))
        found = model.fit([X, Y], batch_size=48, verbose=0).history["loss"][0]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert float(loaded.layers[-1].weight) == -1
    loaded.layers[-1].weight.assign(0.5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loaded))
    assert float(again.layers[-1].weight) == 0.5


def test_a_step_of_ones_own():
    base = network()
    penalty = lgg.Penalty(losses.GraphSmoothness(), "h2")
    for n in (12, 48):
        with lgg.tapping(base, [penalty]) as geometry:
            base(X[:n], training=True)
        found = float(geometry.loss(Y[:n]))
        value = float(geometry.values["graph_smoothness"])
        np.testing.assert_allclose(found, 30 * value / n**2, rtol=1e-5)


def test_a_loop_of_ones_own():
    model = modelled(losses.GraphSmoothness())
    value = lgg.GeometryModel(model.base, [lgg.Penalty(losses.GraphSmoothness(), "logits", 0.0)])
    value.compile("sgd", model.loss, jit_compile=False)
    for _ in range(2):
        found = []
        for each in (model, value):
            with each.recording_taps():
                found.append(float(each.compute_loss(X, Y, each(X, training=True))))
        smoothness = float(value._penalty_metrics[0].result())
        np.testing.assert_allclose(found[0], found[1] + 30 * smoothness / 48**2, rtol=1e-4)
    assert float(model.penalties[0]._steps) == 0


def test_parts_of_a_batch_have_the_weight_of_the_whole():
    base = network()
    model = lgg.GeometryModel(
        base, [lgg.Penalty(losses.GraphSmoothness(), "h2", name="penalty")], micro_batch=12
    )
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", entropy, jit_compile=False)
    alone, found = task(model, 48), logs(model, 48, fit=True)
    expected = alone + 0.01 * 30 * found["penalty"] / 48**2
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in ON_ONE if name not in ("k-NN", "memory")])
def test_means_the_same_in_any_batch(name):
    loss, _ = ON_ONE[name]
    rng = np.random.default_rng(1)

    def weighted(n):
        classes = np.arange(n) % 3
        x = np.eye(3, 8)[classes] + 0.2 * rng.random((n, 8))
        y = np.repeat(np.eye(3), 2, 1)[classes][:, :5] + rng.random((n, 5))
        x, y = x.astype("float32"), y.astype("float32")
        taken = [x, y] if getattr(loss, "across_layers", False) else x
        weight = loss.default_weight(n) if isinstance(loss, losses.GeometryLoss) else 1.0
        given = (classes, taken) if getattr(loss, "needs_labels", True) else (taken,)
        return weight * float(loss(*given))

    few, many = weighted(60), weighted(480)
    assert few > 0
    np.testing.assert_allclose(many, few, rtol=0.15)


def test_ruins_no_network():
    """At a high rate and with no normalisation; from the first step, the same weight does."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    reached = []
    for weight in (0.0, None):
        keras.utils.set_random_seed(0)
        hidden = [layers.Dense(128, "relu", name=name) for name in ("a", "b", "c")]
        base = keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10)])
        loss = losses.SmoothnessVariation(power=2, num_classes=10)
        model = lgg.GeometryModel(base, [lgg.Penalty(loss, ["a", "b", "c"], weight)])
        entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            keras.optimizers.SGD(0.1, 0.9), entropy, metrics=["accuracy"], jit_compile=False
        )
        model.fit(x, y, batch_size=100, epochs=3, verbose=0)
        reached.append(model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"])
    plain, default = reached
    assert default > plain - 0.1


def test_a_loss_of_ones_own_says_its_own():
    class Spread(losses.GeometryLoss):
        def call(self, y_true, y_pred):
            return keras.ops.sum(keras.ops.square(y_pred), axis=1)

    assert Spread().default_weight(7) == 1


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_no_number_stands_for_the_default(weight):
    with pytest.raises(ValueError, match='at least 0, "balanced", or None'):
        lgg.Penalty(losses.GraphVariation(), weight=weight)
