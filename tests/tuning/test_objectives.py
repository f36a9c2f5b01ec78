"""Searches by what a penalty is for, in place of clean accuracy."""

import warnings

import keras
import numpy as np
import pytest

pytest.importorskip("keras_tuner")

import keras_lgg as lgg
from keras_lgg.losses import GraphVariation
from keras_lgg.tuning import search_penalty_weights
from keras_lgg.tuning.objectives import Measuring, is_measure

Y = np.arange(60) % 3
X = np.clip(np.eye(3, 6)[Y] * 0.5 + 0.4 * np.random.default_rng(0).random((60, 6)), 0, 1)
DATA, HELD_OUT = (X[:40], Y[:40]), (X[40:], Y[40:])


def build(penalties):
    layers = [keras.layers.Dense(8, "relu", name=name) for name in ("h1", "h2")]
    base = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)])
    model = lgg.GeometryModel(base, penalties)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), entropy, metrics=["accuracy"], jit_compile=False)
    return model


def search(**options):
    penalty = lgg.Penalty(GraphVariation(), ["h1", "h2"])
    given = {"validation_data": HELD_OUT, "weights": (0.1, 0.1), "tuner": "grid", "verbose": 0}
    return search_penalty_weights(build, penalty, DATA, **{**given, **options})


@pytest.mark.once
class TestObjectives:
    """What a penalty is for, by name, in place of clean accuracy."""

    def test_what_is_logged_is_the_measure(self, tmp_path):
        found = search(directory=str(tmp_path), objective="recall@1")
        assert found.tuner.oracle.objective.name == "val_recall@1"
        assert found.tuner.oracle.objective.direction == "max"
        best = found.get_best_models()[0]
        outputs = best.base.predict(HELD_OUT[0], verbose=0)
        expected = lgg.retrieval.evaluate(outputs, labels=HELD_OUT[1], k=[1])["recall@1"]
        assert max(trial["score"] for trial in found.trials) == pytest.approx(expected)

    def test_at_the_taps_of_the_penalty(self):
        found = search(objective="dropped_units_accuracy")
        assert "val_dropped_units_accuracy" in found.trials[0]["metrics"]

    def test_the_least_is_the_best_of_an_error(self):
        objective = Measuring("mean_squared_error", [], HELD_OUT).objective
        assert (objective.name, objective.direction) == ("val_mean_squared_error", "min")

    def test_data_that_is_no_arrays(self):
        with pytest.raises(ValueError, match=r"`validation_data`. Expected arrays.*'recall@1'"):
            search(objective="recall@1", validation_data=iter([HELD_OUT]))

    @pytest.mark.parametrize("name", ["accuracy", "val_accuracy", "loss", "f1_score"])
    def test_metrics_stay_metrics(self, name):
        assert not is_measure(name)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_weight_that_ruins_a_network_is_a_trial_like_others(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fit, of the weight
            found = search(weights=(1e30, 1e30), epochs=3)
        assert found.best_weights == {"graph_variation": 0.0}
        assert len(found.trials) == 2
