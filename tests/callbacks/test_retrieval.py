"""The worth of an embedding, measured while it trains."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lgg as lgg
from keras_lgg import retrieval

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 6)).astype("float32"), RNG.integers(0, 4, 40)


def model():
    keras.utils.set_random_seed(0)
    base = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, "relu", name="h1"), layers.Dense(3, name="h2")]
    )
    penalised = lgg.GeometryModel(base, [lgg.Penalty(lgg.losses.TargetGraph(), "h2", 0.01)])
    penalised.compile(keras.optimizers.SGD(0.1))
    return penalised


def logged(monitor, epochs=3, trained=None):
    trained = trained or model()
    history = trained.fit(X, Y, epochs=epochs, verbose=0, callbacks=[monitor]).history
    return trained, history


def test_values_are_those_of_the_trained_network():
    trained, history = logged(lgg.callbacks.RetrievalMonitor(X, Y, k=[1, 3]))
    expected = retrieval.evaluate(trained.base.predict(X, verbose=0), labels=Y, k=[1, 3])
    assert {name: history[f"val_{name}"][-1] for name in expected} == pytest.approx(expected)
    assert len(history["val_mrr"]) == 3
    assert len(set(history["val_mrr"])) > 1


def test_a_layer_within_and_another_metric():
    monitor = lgg.callbacks.RetrievalMonitor(X, Y, tap="h1", metric="euclidean", prefix="")
    trained, history = logged(monitor)
    hidden = keras.Model(trained.base.inputs, trained.base.get_layer("h1").output)
    embedded = hidden.predict(X, verbose=0)
    expected = retrieval.evaluate(embedded, labels=Y, k=[1], metric="euclidean")
    assert history["recall@1"][-1] == pytest.approx(expected["recall@1"])
    assert history["map@r"][-1] == pytest.approx(expected["map@r"], rel=1e-4)


def test_the_training_is_the_same():
    (one, _), (other, _) = logged(lgg.callbacks.RetrievalMonitor(X, Y)), (model(), None)
    other.fit(X, Y, epochs=3, verbose=0)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_second_epoch_and_the_last():
    _, every = logged(lgg.callbacks.RetrievalMonitor(X, Y), 5)
    _, second = logged(lgg.callbacks.RetrievalMonitor(X, Y, every=2), 5)
    found = second["val_mrr"]
    assert np.isnan(found[0])
    assert found[1] == found[2] == every["val_mrr"][1]
    assert found[3:] == every["val_mrr"][3:]


def test_early_stopping_reads_it():
    monitor = lgg.callbacks.RetrievalMonitor(X, Y)
    stopping = keras.callbacks.EarlyStopping("val_recall@1", mode="max", patience=1)
    trained = model()
    trained.optimizer.learning_rate = 0.0
    history = trained.fit(X, Y, epochs=9, verbose=0, callbacks=[monitor, stopping]).history
    assert len(history["val_recall@1"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "cos"}, "metric"),
        ({"k": [0]}, "k"),
        ({"every": 0}, "every"),
        ({"pool": "sum"}, "pool"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        lgg.callbacks.RetrievalMonitor(X, Y, **options)


def test_an_unknown_layer():
    with pytest.raises(ValueError, match="h1"):
        logged(lgg.callbacks.RetrievalMonitor(X, Y, tap="h3"))
