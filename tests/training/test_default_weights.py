"""Penalties that are given no weight: what stands in the total loss, and for which batches."""

import keras
import numpy as np
import pytest
from autodiff import to_numpy
from keras import layers

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
    "GKD": (losses.GraphDistillation(), lambda n: 2),
    "GKD, mean": (losses.GraphDistillation(reduction="sum_over_batch_size"), lambda n: 2 * n),
    "RKD-D": (losses.RelationalDistance(), lambda n: 5),
    "RKD-D, sum": (losses.RelationalDistance(reduction="sum"), lambda n: 5 / n),
    "RKD-A": (losses.RelationalAngle(), lambda n: 10),
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
    for n, fit in ((48, False), (12, True)):
        alone, found = task(model, n), logs(model, n, fit=fit)
        assert found["penalty"] > 0
        np.testing.assert_allclose(
            found["loss"], alone + weight(n) * found["penalty"], rtol=1e-4, err_msg=str(fit)
        )


def test_trains_as_with_the_number():
    losses_of = [modelled(losses.GraphSmoothness(), w) for w in (None, 30 / 16**2)]
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


def test_a_file_keeps_it(tmp_path):
    model = modelled(losses.GraphSmoothness())
    expected = logs(model, 12, fit=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.penalties[0].weight) == -1
    np.testing.assert_allclose(logs(loaded, 12, fit=False)["loss"], expected["loss"], rtol=1e-5)
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
    model.compile("sgd", jit_compile=False)
    taken = keras.Model(x, [h1, h2])
    for n in (12, 48):
        expected = 5 / n**2 * float(loss(Y[:n], taken(X[:n])))
        found = model.evaluate([X[:n], Y[:n]], batch_size=n, verbose=0, return_dict=True)["loss"]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert float(loaded.layers[-1].weight) == -1


def test_a_step_of_ones_own():
    base = network()
    penalty = lgg.Penalty(losses.GraphSmoothness(), "h2")
    for n in (12, 48):
        with lgg.tapping(base, [penalty]) as geometry:
            base(X[:n], training=True)
        found = float(geometry.loss(Y[:n]))
        value = float(geometry.values["graph_smoothness"])
        np.testing.assert_allclose(found, 30 * value / n**2, rtol=1e-5)


def test_parts_of_a_batch_have_the_weight_of_the_whole():
    base = network()
    model = lgg.GeometryModel(
        base, [lgg.Penalty(losses.GraphSmoothness(), "h2", name="penalty")], micro_batch=12
    )
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", entropy, jit_compile=False)
    alone, found = task(model, 48), logs(model, 48, fit=True)
    expected = alone + 30 * found["penalty"] / 48**2
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


def test_a_loss_of_ones_own_says_its_own():
    class Spread(losses.GeometryLoss):
        def call(self, y_true, y_pred):
            return keras.ops.sum(keras.ops.square(y_pred), axis=1)

    assert Spread().default_weight(7) == 1


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_no_number_stands_for_the_default(weight):
    with pytest.raises(ValueError, match='at least 0, "balanced", or None'):
        lgg.Penalty(losses.GraphVariation(), weight=weight)
