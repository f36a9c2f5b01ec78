"""The search of penalties: its space, its tuners, what it gives back, what it refuses."""

import gc
import itertools
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from damage import cut, flip

import keras_lgg as lgg
from keras_lgg.losses import GraphDistillation, GraphSmoothness, GraphVariation, SmoothnessVariation

kt = pytest.importorskip("keras_tuner", reason="the search needs the extra tuner")
PenaltyHyperModel = lgg.tuning.PenaltyHyperModel
PenaltySearch = lgg.tuning.PenaltySearch
search_penalty_weights = lgg.tuning.search_penalty_weights

RNG = np.random.default_rng(0)
X, Y = RNG.random((24, 4), "float32"), np.arange(24) % 3
DATA, HELD_OUT = (X[:12], Y[:12]), (X[12:], Y[12:])
TAPS = ["h1", "h2"]
VARIATION = "graph_variation"
collect = gc.collect
SELDOM = [pytest.mark.ci, pytest.mark.once]
# Of the libraries: pytest.warns raises them anew, where no filter knows them by their module.
THEIRS = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def network():
    layers = [keras.layers.Dense(5, "relu", name=name) for name in TAPS]
    head = keras.layers.Dense(3, "softmax", name="head")
    return keras.Sequential([keras.Input((4,)), *layers, head])


def compiled(model, **options):
    options = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], **options}
    # A model for each trial: to compile each takes longer than its training.
    model.compile("adam", run_eagerly=True, **options)
    return model


def build(penalties):
    return compiled(lgg.GeometryModel(network(), penalties))


def variation(**options):
    return lgg.Penalty(GraphVariation(), TAPS, **options)


def values(hyper):
    """What each hyperparameter can be."""
    hp = kt.HyperParameters()
    hyper.penalties(hp)
    return {parameter.name: parameter.values for parameter in hp.space}


def hyperparameters(hyper, **chosen):
    hp = kt.HyperParameters()
    hp.values = {name.replace("__", "/"): value for name, value in chosen.items()}
    hyper.penalties(hp)
    return hp


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch):
    """KerasTuner collects garbage for each model, which takes longer than all else here."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


@pytest.fixture
def score(monkeypatch):
    """Replaces the training: the score of a model is a function of its first penalty."""
    trained = []

    def use(function, **metrics):
        def fit(self, hp, model, **options):
            penalty = model.penalties[0]
            callbacks = [type(callback) for callback in options["callbacks"]]
            trained.append({**options, "callbacks": callbacks, "weight": float(penalty.weight)})
            return {"val_accuracy": function(penalty), **metrics}

        monkeypatch.setattr(kt.HyperModel, "fit", fit)
        return trained

    return use


def closeness(penalty):
    """Best, and 1, at the weight 0.1; the default counts as 1."""
    weight = float(penalty.weight)
    weight = 1.0 if weight == -1 else max(weight, 1e-9)
    return 1 / (1 + abs(np.log10(weight) + 1))


def search(penalties=None, *, make=build, **options):
    options = {"validation_data": HELD_OUT, "weights": (0.01, 1, 3), "verbose": 0, **options}
    return search_penalty_weights(make, penalties or variation(), DATA, **options)


class TestSpace:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ((0.1, 10), [0, 0.1, 0.177828, 0.316228, 0.562341, 1, 1.77828, 3.16228, 5.62341, 10]),
            ((0.1, 10, 3), [0, 0.1, 1, 10]),
            ([1e-5, 1e-3, 3], [0, 1e-5, 1e-4, 1e-3]),
            ((2, 2), [0, 2]),
            ((1, 3), [0, 1, 1.73205, 3]),
        ],
    )
    def test_weights_are_even_on_a_log_scale_after_zero(self, given, expected):
        hyper = PenaltyHyperModel(build, variation(), weights=given)
        assert values(hyper) == {"graph_variation/weight": expected}

    def test_options_are_searched_where_the_penalty_is_on(self):
        smoothness = lgg.Penalty(SmoothnessVariation(num_classes=3), TAPS, weight=0.25, labels=None)
        hyper = PenaltyHyperModel(
            build,
            [smoothness, variation(name="other")],
            weights={"other": (1, 10, 2)},
            k=[None, 5],
            power={"smoothness_variation": [1, 3]},
            taps={"all": TAPS, "again": [*TAPS, "head"]},
        )
        assert values(hyper) == {
            "smoothness_variation/k": ["None", "5"],
            "smoothness_variation/power": ["1", "3"],
            "smoothness_variation/taps": ["all", "again"],
            "other/weight": [0, 1, 10],
            "other/k": ["None", "5"],
            "other/taps": ["all", "again"],
        }
        hp = hyperparameters(
            hyper, smoothness_variation__k="5", smoothness_variation__power="3", other__weight=10.0
        )
        first, second = hyper.penalties(hp)
        assert (first.loss.k, first.loss.power, first.loss.num_classes) == (5, 3, 3)
        assert (float(first.weight), first.taps) == (0.25, TAPS)
        assert (second.loss.k, float(second.weight), second.name) == (None, 10, "other")
        assert hyper.weights(hp) == {"smoothness_variation": 0.25, "other": 10}
        assert hyper.others(hp) == {
            "smoothness_variation/k": 5,
            "smoothness_variation/power": 3,
            "smoothness_variation/taps": "all",
            "other/k": None,
            "other/taps": "all",
        }
        hp.values.update({"other/weight": 0.0, "smoothness_variation/taps": "again"})
        first, second = hyper.penalties(hp)
        assert first.taps == [*TAPS, "head"]
        assert second.taps == TAPS, "as in the template: an option of what is off is not chosen"
        assert not any(name.startswith("other/") for name in hyper.others(hp))

    def test_taps_and_alpha_of_each_penalty(self):
        first = lgg.Penalty(GraphSmoothness(), "h1", name="a")
        second = lgg.Penalty(GraphSmoothness(), "h2", name="b")
        hyper = PenaltyHyperModel(
            build,
            [first, second],
            weights=None,
            alpha={"a": [0.5, 2]},
            taps={"b": {"one": "h1", "two": "h2"}},
        )
        assert values(hyper) == {"a/alpha": ["0.5", "2"], "b/taps": ["one", "two"]}
        hp = hyperparameters(hyper, a__alpha="2", b__taps="two")
        first, second = hyper.penalties(hp)
        assert (first.loss.alpha, first.taps, second.loss.alpha, second.taps) == (2, "h1", 1, "h2")

    def test_balanced_templates(self):
        template = lgg.Penalty(GraphSmoothness(), "h1", "balanced", name="a", fraction=0.3)
        hyper = PenaltyHyperModel(build, template, weights=None, alpha=[0.5, 2])
        hp = hyperparameters(hyper, a__alpha="2")
        (penalty,) = hyper.penalties(hp)
        assert (penalty.loss.alpha, penalty.balance.fraction) == (2, 0.3)
        assert penalty.balance is not template.balance
        assert hyper.weights(hp) == {}
        searched = PenaltyHyperModel(build, template, weights=(1, 10, 2))
        (penalty,) = searched.penalties(hyperparameters(searched, a__weight=10.0))
        assert (penalty.balance, float(penalty.weight)) == (None, 10)

    def test_penalties_are_fresh_and_templates_stay(self):
        class Unregistered(lgg.losses.GeometryLoss):
            needs_labels = True

            def call(self, y_true, y_pred):
                return keras.ops.sum(y_pred, axis=-1)

        template = lgg.Penalty(Unregistered(), "h1", weight=3.0, name="mine", labels="y")
        hyper = PenaltyHyperModel(build, template, weights=(1, 10, 2))
        (one,), (two,) = (
            hyper.penalties(hyperparameters(hyper, mine__weight=w)) for w in (1.0, 10.0)
        )
        assert (float(one.weight), float(two.weight), float(template.weight)) == (1, 10, 3)
        assert (one.name, one.taps, one.labels) == ("mine", "h1", "y")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"weights": (0, 1)}, r"`weights`.*0 < low <= high.*0 is tried in any case.*\(0, 1\)"),
            ({"weights": (-1, 1)}, "0 < low <= high"),
            ({"weights": (2, 1)}, "0 < low <= high"),
            ({"weights": (1, float("inf"))}, "0 < low <= high"),
            ({"weights": (float("nan"), 1)}, "0 < low <= high"),
            ({"weights": (1,)}, "0 < low <= high"),
            ({"weights": ("a", "b")}, "0 < low <= high"),
            ({"weights": 0.1}, "0 < low <= high"),
            ({"weights": (1, 2, 0)}, "`weights`.*positive integer"),
            ({"weights": (1, 2, 2.5)}, "`weights`.*positive integer"),
            ({"weights": {"graph": (1, 2)}}, r"`weights`.*names of penalties.*'graph_variation'"),
            ({"weights": {}}, "`weights`.*names of penalties"),
            ({"k": {"graph": [5]}}, r"`k`.*names of penalties.*'graph_variation'"),
            ({"k": 5}, "`k`.*a list of values.*k=5"),
            ({"k": []}, "`k`.*a list of values"),
            ({"k": [5, 0]}, "`k`.*positive integer"),
            ({"power": [1]}, "'graph_variation' has no `power`.*GraphVariation.*'k'"),
            ({"alpha": [1]}, "'graph_variation' has no `alpha`"),
            ({"taps": TAPS}, "`taps`.*a dict"),
            ({"taps": {}}, "`taps`"),
            ({"taps": {1: TAPS}}, "`taps`.*a dict"),
            ({"penalties": []}, "`penalties`.*at least one"),
            ({"penalties": [GraphVariation()]}, "`penalties`.*lgg.Penalty"),
            ({"build": None}, "`build`.*a function"),
        ],
    )
    def test_what_is_refused(self, options, message):
        options = {"build": build, "penalties": variation(), "weights": (1, 2), **options}
        with pytest.raises(ValueError, match=message):
            PenaltyHyperModel(options.pop("build"), options.pop("penalties"), **options)


class TestModel:
    """The model has to hold every penalty, with its weight."""

    def built(self, make, penalties=None, weight=0.5):
        penalties = penalties or variation(name="p")
        hyper = PenaltyHyperModel(make, penalties, weights={"p": (0.5, 2, 2)})
        return hyper.build(hyperparameters(hyper, p__weight=weight))

    def test_geometry_model(self):
        model = self.built(build)
        assert float(model.penalties[0].weight) == 0.5
        assert model.optimizer.built, "so that a checkpoint has a place for its variables"

    def test_distiller(self):
        teacher = network()
        template = lgg.Penalty(GraphDistillation(), [("h1", "h1")], name="p")
        model = self.built(lambda p: compiled(lgg.Distiller(teacher, network(), p)), template)
        assert float(model.penalties[0].weight) == 0.5

    @staticmethod
    def layered(penalty, weight):
        x = keras.Input((4,))
        h1 = keras.layers.Dense(5)(x)
        h2 = lgg.layers.GeometryPenalty(penalty.loss, weight)([h1, keras.layers.Dense(5)(h1)])
        return compiled(keras.Model(x, keras.layers.Dense(3)(h2)))

    def test_layer(self):
        model = self.built(lambda p: self.layered(p[0], float(p[0].weight)))
        (layer,) = [x for x in model.layers if isinstance(x, lgg.layers.GeometryPenalty)]
        assert float(layer.weight) == 0.5
        with pytest.raises(ValueError, match=r"'p' does not act with its weight.*weights \[3.0\]"):
            self.built(lambda p: self.layered(p[0], 3.0))

    @pytest.mark.parametrize("weight", [0.0, 0.5])
    def test_compiled_loss(self, weight):
        template = lgg.Penalty(GraphSmoothness(), name="p")

        def make(penalties, weighted=True):
            (penalty,) = penalties
            options = {"loss_weights": float(penalty.weight)} if weighted else {}
            return compiled(network(), loss=penalty.loss, metrics=None, **options)

        model = self.built(make, template, weight)
        value = model.evaluate(X, Y, verbose=0, batch_size=24)
        expected = weight * float(GraphSmoothness()(Y, model.predict(X, verbose=0)))
        assert value == pytest.approx(expected, rel=1e-4)
        with pytest.raises(ValueError, match=r"'p' does not act.*loss_weights.*weights \[1.0\]"):
            self.built(lambda p: make(p, weighted=False), template, weight)

    def test_compiled_loss_of_one_output_of_two(self):
        def make(penalties):
            x = keras.Input((4,))
            outputs = {"z": keras.layers.Dense(2)(x), "out": keras.layers.Dense(3)(x)}
            losses = {"z": penalties[0].loss, "out": "mse"}
            weights = {"z": float(penalties[0].weight), "out": 1.0}
            model = keras.Model(x, outputs)
            return compiled(model, loss=losses, loss_weights=weights, metrics=None)

        assert self.built(make, lgg.Penalty(GraphSmoothness(), name="p")).compiled

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda p: None, "`build`.*compiled.*a NoneType"),
            (lambda p: network(), "`build`.*a Sequential that is not compiled"),
            (lambda p: compiled(network()), "'p' does not act.*a model without its loss"),
            (lambda p: build([variation(name="p", weight=0.5)]), "'p' does not act.*without"),
        ],
    )
    def test_what_is_refused(self, make, message):
        with pytest.raises(ValueError, match=message):
            self.built(make)

    def test_every_penalty_must_act(self):
        penalties = [variation(name="p"), variation(name="q")]
        with pytest.raises(ValueError, match="'q' does not act"):
            self.built(lambda p: build(p[:1]), penalties)

    def test_a_model_that_is_wrong_in_one_trial_ends_the_search(self, score):
        trained = score(closeness)
        with pytest.raises(ValueError, match=r"`build`.*a NoneType"):
            search(make=lambda p: build(p) if not float(p[0].weight) else None, tuner="grid")
        assert len(trained) == 1
        with pytest.raises(ValueError, match=r"does not act"):
            search(make=lambda p: build(p if not float(p[0].weight) else [variation(weight=9)]))

    def test_a_wrong_model_ends_the_search_before_any_training(self, score):
        trained = score(closeness)
        with pytest.raises(ValueError, match="does not act"):
            search(make=lambda p: compiled(network()))
        assert not trained


@pytest.mark.filterwarnings("ignore:The optimal value found")  # scikit-learn's, of its kernel
@pytest.mark.once
class TestTuners:
    """With the training replaced by a function of the weight."""

    def test_grid_tries_all_and_finds_the_best(self, score):
        trained = score(closeness, val_loss=0.5)
        found = search(tuner="grid", weights=(0.001, 10, 5))
        tried = [0, 0.001, 0.01, 0.1, 1, 10]
        assert [trial["weights"][VARIATION] for trial in found.trials] == tried
        assert [t["weight"] for t in trained] == pytest.approx(tried)
        assert found.best_weights == {VARIATION: 0.1}
        assert float(found.best_penalties()[0].weight) == pytest.approx(0.1)
        best = found.trials[3]
        assert best == {
            "trial": "0003",
            "weights": {VARIATION: 0.1},
            "hyperparameters": {},
            "score": pytest.approx(1),
            "metrics": {"val_accuracy": pytest.approx(1), "val_loss": 0.5},
        }

    def test_a_grid_has_no_options_for_what_is_off(self, score):
        score(closeness)
        found = search(
            [variation(name="a"), variation(name="b")],
            tuner="grid",
            weights={"a": (1, 10, 2), "b": (1, 1)},
            k={"a": [None, 2, 3]},
        )
        tried = [
            (t["weights"]["a"], t["hyperparameters"].get("a/k", "off"), t["weights"]["b"])
            for t in found.trials
        ]
        on = itertools.product((1, 10), (None, 2, 3), (0, 1))
        assert len(tried) == len(set(tried))
        assert set(tried) == {*on, (0, "off", 0), (0, "off", 1)}

    @pytest.mark.parametrize("tuner", ["random", "bayesian", kt.RandomSearch])
    def test_first_without_penalties_then_as_asked(self, score, tuner):
        score(closeness)
        penalties = [variation(name="a"), variation(name="b", weight=0.25)]
        found = search(penalties, tuner=tuner, weights={"a": (1e-3, 10)}, k={"a": [2, 3]}, seed=0)
        first, *others = found.trials
        assert first["weights"] == {"a": 0, "b": 0.25}
        assert first["hyperparameters"] == {}
        assert len(others) == 9
        for trial in others:
            assert (trial["weights"]["a"] > 0) == ("a/k" in trial["hyperparameters"])
        assert len({trial["weights"]["a"] for trial in found.trials}) > 4
        best = max(found.trials, key=lambda trial: trial["score"])
        assert found.best_weights == best["weights"]

    def test_bayesian_search_comes_near_the_best(self, score):
        score(closeness)
        found = search(tuner="bayesian", weights=(1e-5, 1e3), trials=15, seed=0)
        assert 0.03 < found.best_weights[VARIATION] < 0.3

    def test_more_hyperparameters_of_the_user(self, score):
        def make(penalties, hp):
            model = build(penalties)
            model.optimizer.learning_rate = hp.Float("rate", 0.1, 0.4, step=0.1)
            return model

        score(lambda penalty: 1.0)
        found = search(make=make, tuner="grid", weights=(1, 1))
        assert [(t["weights"][VARIATION], t["hyperparameters"]) for t in found.trials] == [
            (weight, {"rate": pytest.approx(rate)})
            for weight in (0, 1)
            for rate in (0.1, 0.2, 0.3, 0.4)
        ]

    def test_what_fit_is_given(self, score):
        trained = score(lambda penalty: 1.0)
        weights = np.ones(12)
        callback = keras.callbacks.TerminateOnNaN()
        options = {"validation_data": HELD_OUT, "weights": (1, 1), "verbose": 0}
        options |= {"tuner": "grid", "epochs": 7, "batch_size": 4, "callbacks": callback}
        search_penalty_weights(build, variation(), (*DATA, weights), **options)
        given = trained[0]
        assert given["x"] is DATA[0]
        assert given["y"] is DATA[1]
        assert given["sample_weight"] is weights
        assert given["validation_data"] is HELD_OUT
        assert (given["epochs"], given["batch_size"], given["verbose"]) == (7, 4, 0)
        assert type(callback) in given["callbacks"]

    def test_options_of_the_tuner(self, score):
        score(closeness)
        found = search(tuner="random", trials=2, tuner_options={"max_retries_per_trial": 2})
        assert found.tuner.oracle.max_retries_per_trial == 2

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"validation_data": None}, "`validation_data`.*not trained on"),
            ({"trials": 0}, "`trials`.*positive integer"),
            ({"trials": 3, "tuner": "hyperband"}, "`trials`.*None with Hyperband.*trials=3"),
            ({"trials": 3, "tuner": "grid"}, "`trials`.*there are 4.*count.*trials=3"),
            ({"trials": 9, "tuner": "grid", "k": [1, 2, 3]}, "there are 10"),
            ({"tuner": "evolution"}, "`tuner`.*'random', 'bayesian', 'hyperband', 'grid'"),
            ({"tuner": kt.Objective}, "`tuner`.*a class"),
            ({"executions_per_trial": 0}, "`executions_per_trial`.*positive integer"),
        ],
    )
    def test_what_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            search(**options)

    def test_the_table_has_the_best_first(self, score):
        score(closeness)
        found = search(tuner="grid", k={VARIATION: [None, 2]}, weights=(0.1, 1000, 2))
        assert found.to_markdown() == str(found)
        assert str(found).splitlines() == [
            "| trial | weight of graph_variation | graph_variation/k | val_accuracy |",
            "| ----- | ------------------------- | ----------------- | ------------ |",
            "| 0001  | 0.1                       | None              | 1            |",
            "| 0002  | 0.1                       | 2                 | 1            |",
            "| 0003  | 1e+03                     | None              | 0.2          |",
            "| 0004  | 1e+03                     | 2                 | 0.2          |",
            "| 0000  | 0                         |                   | 0.1111       |",
        ]
        score(lambda penalty: 0.123456789 if float(penalty.weight) == 0 else 0.0)
        found = search(tuner="grid", k={VARIATION: [2]}, weights=(0.1, 0.1))
        assert re.fullmatch(r"\| 0000 +\| 0 +\| +\| 0.1235 +\|", str(found).splitlines()[2])

    def test_lower_is_better_where_the_objective_says_so(self, score):
        score(closeness)
        found = search(tuner="grid", objective=kt.Objective("val_accuracy", "min"))
        assert found.best_weights == {VARIATION: 0}
        scores = [line.split("|")[-2].strip() for line in str(found).splitlines()[2:]]
        assert scores == ["0.1111", "0.5", "0.5", "1"]


class TestTraining:
    """With real models."""

    @pytest.mark.parametrize(
        ("tuner", "objective"),
        [
            ("random", kt.Objective("val_accuracy", "max")),
            pytest.param("bayesian", kt.Objective("val_graph_variation", "min"), marks=SELDOM),
            pytest.param("grid", "val_loss", marks=SELDOM),
            pytest.param("hyperband", "val_accuracy", marks=pytest.mark.once),
        ],
    )
    def test_best_models_are_those_that_were_trained(self, tuner, objective):
        options = {"epochs": 2, "weights": (0.1, 10, 2), "batch_size": 12}
        options |= {} if tuner in ("grid", "hyperband") else {"trials": 3}
        options |= {"tuner_options": {"factor": 2}} if tuner == "hyperband" else {}
        found = search(tuner=tuner, objective=objective, seed=0, **options)
        assert len(found.trials) >= 3
        assert found.trials[0]["weights"] == {VARIATION: 0}
        name = getattr(objective, "name", objective)
        sign = -1 if name == "val_accuracy" else 1
        ranked = sorted(found.trials, key=lambda trial: sign * trial["score"])
        models = found.get_best_models(100)
        assert len(models) == len(ranked)
        for trial, model in zip(ranked, models, strict=True):
            assert float(model.penalties[0].weight) == pytest.approx(trial["weights"][VARIATION])
            values = model.evaluate(*HELD_OUT, verbose=0, return_dict=True)
            assert trial["score"] == trial["metrics"][name]
            for metric, value in values.items():
                assert trial["metrics"][f"val_{metric}"] == pytest.approx(value, rel=1e-4), metric
        assert found.best_weights == ranked[0]["weights"]

    @pytest.mark.once
    def test_hyperband_goes_on_with_the_state_of_the_optimizer(self):
        """A trial of a later round continues the one that it names."""
        steps = []

        class Steps(keras.callbacks.Callback):
            def __deepcopy__(self, memo):
                return Steps()

            def on_train_begin(self, logs=None):
                steps.append(int(self.model.optimizer.iterations))

        options = {"tuner_options": {"factor": 2}, "callbacks": [Steps()], "batch_size": 12}
        found = search(tuner="hyperband", epochs=4, seed=0, weights=(0.1, 10), **options)
        trials = {trial["trial"]: trial for trial in found.trials}
        continued = 0
        for trial, began in zip(trials.values(), steps, strict=True):
            past = trials.get(trial["hyperparameters"].get("tuner/trial_id"))
            if past is None:
                assert began == 0
            else:
                continued += 1
                assert 1 <= began <= past["hyperparameters"]["tuner/epochs"]
                assert trial["weights"] == past["weights"]
        assert continued > 1
        assert max(t["hyperparameters"]["tuner/epochs"] for t in found.trials) == 4
        assert "| epochs |" in str(found)
        assert "tuner/" not in str(found)

    @pytest.mark.once
    def test_the_same_seed_gives_the_same_search(self):
        kernels = []

        def make(penalties):
            model = build(penalties)
            kernels.append(model.base.get_layer("h1").get_weights()[0])
            return model

        def trials(seed):
            options = {"tuner": "random", "trials": 2, "seed": seed, "weights": (1e-3, 1e3)}
            return search(make=make, batch_size=6, **options).trials

        first = trials(0)
        for kernel in kernels[1:]:
            np.testing.assert_array_equal(kernel, kernels[0])
        assert trials(0) == first
        keras.utils.set_random_seed(5)
        assert trials(0) == first, "whatever the state of the global generators"
        del kernels[1:]
        other = trials(1)
        assert other[1]["weights"] != first[1]["weights"]
        assert np.abs(kernels[1] - kernels[0]).max() > 0.1

    def test_the_order_of_batches_does_not_hang_on_how_a_model_is_built(self, score):
        drawn = []

        def make(penalties):
            if float(penalties[0].weight):
                np.random.random()
            return build(penalties)

        score(lambda penalty: drawn.append(np.random.random()) or 1.0)
        search(make=make, tuner="grid", weights=(1, 1), seed=0)
        assert drawn[0] == drawn[1]
        drawn.clear()
        search(make=make, tuner="grid", weights=(1, 1))
        assert drawn[0] != drawn[1], "without a seed"

    @pytest.mark.once
    def test_each_execution_has_a_seed_of_its_own(self):
        started, ended = [], []

        class Ends(keras.callbacks.Callback):
            def __deepcopy__(self, memo):
                return Ends()

            def on_epoch_end(self, epoch, logs=None):
                ended.append(logs["val_loss"])

        def make(penalties):
            model = build(penalties)
            started.append(model.base.get_layer("h1").get_weights()[0].ravel()[0])
            return model

        options = {"tuner": "grid", "weights": (1, 1), "executions_per_trial": 2, "seed": 3}
        found = search(make=make, objective="val_loss", callbacks=[Ends()], **options)
        *_, a, b, c, d = started  # before these, the tuner looks at the space
        assert (a, b) == (c, d)
        assert a != b
        scores = [trial["score"] for trial in found.trials]
        assert scores == pytest.approx([np.mean(ended[:2]), np.mean(ended[2:])])

    def test_a_metric_that_is_missing_is_named_after_one_epoch(self):
        message = r"`objective`.*'accuracy', 'graph_variation'.*'val_graph_variation'.*val_recall"
        epochs = []

        class Count(keras.callbacks.Callback):
            def __deepcopy__(self, memo):
                return Count()

            def on_epoch_begin(self, epoch, logs=None):
                epochs.append(epoch)

        with pytest.raises(ValueError, match=message):
            search(objective=kt.Objective("val_recall", "max"), epochs=3, callbacks=[Count()])
        assert epochs == [0]


@pytest.mark.once
class TestDirectory:
    def test_a_search_goes_on(self, score, tmp_path, capsys):
        trained = score(closeness)
        options = {"tuner": "random", "seed": 0, "directory": str(tmp_path), "weights": (0.01, 1)}
        first = search(trials=2, **options).trials
        longer = search(trials=4, **options).trials
        assert longer[:2] == first
        assert len(trained) == len(longer) == 4
        assert search(trials=4, **options).trials == longer
        assert len(trained) == 4
        assert "Reloading" in capsys.readouterr().out
        assert search(trials=2, overwrite=True, **options).trials == first
        assert len(trained) == 6

    def test_an_interrupted_trial_is_run_again(self, score, tmp_path, capsys):
        calls = []

        def interrupt(penalty):
            calls.append(float(penalty.weight))
            if len(calls) == 2:
                raise KeyboardInterrupt
            return closeness(penalty)

        score(interrupt)
        options = {"tuner": "grid", "directory": str(tmp_path)}
        with pytest.raises(KeyboardInterrupt):
            search(**options)
        found = search(**options)
        assert [t["weights"][VARIATION] for t in found.trials] == [0, 0.01, 0.1, 1]
        assert calls == pytest.approx([0, 0.01, 0.01, 0.1, 1])
        assert "Reloading" in capsys.readouterr().out

    def test_a_grid_that_stopped_between_two_trials_goes_on(self, score, tmp_path, capsys):
        score(closeness)
        options = {"tuner": "grid", "directory": str(tmp_path)}
        assert len(search(**options, tuner_options={"max_trials": 2}).trials) == 2
        found = search(**options)
        assert [t["weights"][VARIATION] for t in found.trials] == [0, 0.01, 0.1, 1]

    @pytest.mark.parametrize("moment", [1, 2, 3, 4, 6])
    def test_a_search_that_was_killed_while_it_wrote_goes_on(
        self, moment, score, tmp_path, capsys, monkeypatch
    ):
        class KilledError(BaseException):
            pass

        writes = []

        def kill(descriptor):
            writes.append(descriptor)
            if len(writes) == moment:
                raise KilledError

        score(closeness)
        options = {"tuner": "grid", "directory": str(tmp_path)}
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", kill)
            patch.setattr("keras_lgg.files.remove", lambda path: None)  # as none is left to
            with pytest.raises(KilledError):
                search(**options)
        found = search(**options)
        assert [t["weights"][VARIATION] for t in found.trials] == [0, 0.01, 0.1, 1]
        assert not list(tmp_path.rglob("unfinished_*.json"))

    @pytest.mark.parametrize(
        ("name", "harm"),
        [
            ("oracle.json", cut),
            ("tuner0.json", cut),
            ("trial_*/trial.json", cut),
            ("trial_*/manifest.json", flip),
            ("trial_*/trial.json", lambda path: path.write_text("{}")),
        ],
    )
    def test_a_search_that_was_damaged(self, name, harm, score, tmp_path):
        score(closeness)
        options = {"tuner": "grid", "directory": str(tmp_path)}
        found = search(**options)
        path = sorted((tmp_path / "penalty_weights").glob(name))[0]
        harm(path)
        with pytest.raises(ValueError, match=rf"(?s){path.name}'.*overwrite=True"):
            search(**options)
        assert len(search(**options, overwrite=True).trials) == len(found.trials)

    def test_the_best_models_are_those_that_were_trained(self, tmp_path):
        found = search(tuner="grid", directory=str(tmp_path), weights=(0.1, 0.1))
        assert found.get_best_models()
        folder = found.tuner.get_trial_dir(found._completed()[0].trial_id)
        flip(pathlib.Path(folder) / "checkpoint.weights.h5")
        with pytest.raises(ValueError, match=r"trial of a search.*damaged.*checkpoint.weights.h5"):
            found.get_best_models()

    @pytest.mark.parametrize(
        "changed", [{"weights": (0.01, 2, 3)}, {"k": [3]}, {"k": None}, {"weights": None}]
    )
    def test_a_search_of_another_space_is_not_gone_on_with(self, score, tmp_path, changed):
        score(closeness)
        options = {"tuner": "random", "trials": 2, "directory": str(tmp_path), "k": [2]}
        search(**options)
        with pytest.raises(ValueError, match=r"holds a search of another space.*overwrite=True"):
            search(**{**options, **changed})
        assert search(**{**options, **changed, "overwrite": True}).trials

    def test_a_temporary_one_goes_with_the_result(self, score):
        score(closeness)
        found = search(tuner="grid")
        folder = found.tuner.directory
        assert os.path.isdir(folder)
        del found
        collect()
        assert not os.path.exists(folder)


@THEIRS
@pytest.mark.once
class TestFailures:
    def test_trials_that_fail_are_left_out_with_a_warning(self, score, capsys):
        def fails_above(penalty):
            if float(penalty.weight) > 0.05:
                raise RuntimeError("too strong")
            return closeness(penalty)

        score(fails_above)
        with pytest.warns(UserWarning, match=r"2 of 4 trials failed.*0002 \(.*too strong\), 0003"):
            found = search(tuner="grid")
        assert [trial["weights"][VARIATION] for trial in found.trials] == [0, 0.01]
        found.tuner.load_model = lambda trial: trial.trial_id
        assert found.get_best_models(4) == ["0001", "0000"]

    @pytest.mark.filterwarnings("ignore:All-NaN")  # KerasTuner's
    def test_a_score_of_nan_is_a_failure(self, score):
        score(lambda penalty: float("nan") if float(penalty.weight) else 0.5)
        with pytest.warns(UserWarning, match="1 of 2 trials failed"):
            found = search(tuner="grid", weights=(1, 1))
        assert found.best_weights == {VARIATION: 0}

    def test_a_search_in_which_all_fail_has_no_result(self, score, capsys):
        def fails(penalty):
            raise RuntimeError("out of luck")

        score(fails)
        with (
            pytest.warns(UserWarning, match="2 of 2 trials"),
            pytest.raises(RuntimeError, match=r"(?s)no result.*out of luck"),
        ):
            search(tuner="grid", weights=(1, 1))
        with pytest.raises(RuntimeError, match="Number of consecutive failures"):
            search(tuner="grid")

    def test_a_tuner_of_something_else(self, tmp_path):
        tuner = kt.RandomSearch(lambda hp: network(), "val_loss", directory=tmp_path)
        with pytest.raises(ValueError, match=r"`tuner`.*PenaltyHyperModel.*DefaultHyperModel"):
            PenaltySearch(tuner)


@pytest.mark.once
def test_is_imported_where_it_is_asked_for():
    code = """
import sys
import keras_lgg
assert "keras_tuner" not in sys.modules
assert "tuning" in dir(keras_lgg) and "Penalty" in dir(keras_lgg)
assert keras_lgg.tuning.PenaltyHyperModel is sys.modules["keras_lgg.tuning"].PenaltyHyperModel
assert "keras_tuner" in sys.modules
try:
    keras_lgg.nothing
except AttributeError as error:
    assert "'keras_lgg' has no attribute 'nothing'" in str(error)
else:
    raise AssertionError
for name in [name for name in sys.modules if name.startswith("keras_lgg.tuning")]:
    del sys.modules[name]
del keras_lgg.tuning
sys.modules["keras_tuner"] = None
try:
    keras_lgg.tuning
except ImportError as error:
    assert 'pip install "keras_lgg[tuner]"' in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
