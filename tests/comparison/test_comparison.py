"""`compare`: what it trains, what it measures, and what it says."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lgg as lgg
from keras_lgg import losses
from keras_lgg.comparison.measures import measure
from keras_lgg.comparison.result import Comparison

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
X = np.clip(np.eye(3, 6)[Y] * 0.5 + 0.3 * RNG.random((60, 6)), 0, 1).astype("float32")
DATA, TEST = (X[:40], Y[:40]), (X[40:], Y[40:])


def network():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "relu", name="h1"),
            layers.Dense(8, "relu", name="h2"),
            layers.Dense(3, name="out"),
        ]
    )


def build(penalties):
    model = lgg.GeometryModel(network(), penalties)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), entropy, jit_compile=False)
    return model


def variation(weight=None):
    return lgg.Penalty(losses.GraphVariation(), ["h1", "h2"], weight)


def compared(penalties, **options):
    options = {"test_data": TEST, "seeds": 2, "progress": False, "batch_size": 20, **options}
    return lgg.compare(build, penalties, DATA, **options)


class TestRuns:
    def test_as_by_hand(self):
        found = compared(variation(50.0), epochs=3, measures=["accuracy", "mean_squared_error"][:1])
        for seed in (0, 1):
            for name, penalties in (("plain", []), ("graph_variation", [variation(50.0)])):
                keras.utils.set_random_seed(seed)
                model = build(penalties)
                keras.utils.set_random_seed(seed)
                model.fit(*DATA, batch_size=20, epochs=3, verbose=0)
                outputs = model.base.predict(TEST[0], verbose=0)
                expected = 100 * np.mean(outputs.argmax(axis=1) == TEST[1])
                assert found.values[name]["accuracy"][seed] == pytest.approx(expected)

    def test_a_weight_of_zero_is_the_plain_training(self):
        outputs = lgg.comparison.Measure(
            "sum", lambda network, x, y: network.predict(x, verbose=0).sum()
        )
        found = compared(variation(), weights=[0.0, 100.0], measures=[outputs], epochs=2)
        assert list(found.values) == ["plain", "weight 0", "weight 100"]
        plain, none, much = (found.values[name]["sum"] for name in found.values)
        np.testing.assert_array_equal(plain, none)
        assert np.abs(plain - much).min() > 1e-3
        assert plain[0] != plain[1]

    def test_every_variant_has_penalties_of_its_own(self):
        penalty = variation(0.5)
        given = []

        def build_and_keep(penalties):
            given.append(penalties)
            return build(penalties)

        lgg.compare(build_and_keep, penalty, DATA, test_data=TEST, seeds=2, progress=False)
        assert [len(each) for each in given] == [0, 1, 0, 1]
        assert given[1][0] is not given[3][0]
        assert given[1][0].loss is penalty.loss
        assert penalty not in given[1]

    def test_variants_by_name(self):
        def other():
            model = network()
            model.compile("adam", losses.GraphSmoothness())
            return model

        variants = {"both": [variation(), lgg.Penalty(losses.TargetGraph(), "h2")], "other": other}
        found = compared(variants, measures=["recall@1", "map@r"])
        assert found.baseline == "both"
        assert list(found.values["other"]) == ["recall@1", "map@r"]

    def test_students(self):
        keras.utils.set_random_seed(5)
        teacher = network()

        def student(penalties):
            model = lgg.Distiller(teacher, network(), penalties)
            model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            return model

        penalty = lgg.Penalty(losses.RelationalDistance(), [("h2", "h2")])
        found = lgg.compare(
            student,
            penalty,
            DATA,
            test_data=TEST,
            measures=["student_accuracy", "dropped_units_accuracy"],
            seeds=[3],
            progress=False,
        )
        assert found.seeds == [3]
        assert found.values["relational_distance"]["student_accuracy"].shape == (1,)

    def test_progress_is_one_bar(self, capsys):
        compared(variation(), epochs=2, progress=True)
        assert "8/8" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("penalties", "options", "message"),
        [
            ({"one": []}, {}, "`penalties`. Expected at least two variants"),
            (variation(), {"measures": ["acuracy"]}, "`measures`. Expected one of .*'accuracy'"),
            (variation(), {"measures": ["accuracy", "accuracy"]}, "of different names"),
            (variation(), {"seeds": []}, "`seeds`. Expected at least one"),
            ([variation()], {"weights": [1.0]}, "`weights`. Expected one lgg.Penalty"),
            ({"a": [], "b": network}, {}, "`build`. Expected a function that returns a compiled"),
            (
                {"a": [], "b": lambda: build([])},
                {"measures": ["dropped_units_accuracy"]},
                "penalties with taps",
            ),
        ],
    )
    def test_errors(self, penalties, options, message):
        with pytest.raises(ValueError, match=message):
            compared(penalties, **options)

    def test_variants_that_are_penalties_need_a_model(self):
        with pytest.raises(ValueError, match=r"a compiled model, .* Received: build=None"):
            lgg.compare(None, {"a": [], "b": network}, (X, Y), test_data=(X, Y))


class TestMeasures:
    NETWORK = keras.Sequential([keras.Input((3,)), layers.Identity()])
    SCORES = np.array(
        [[0.9, 0.1, 0.2], [0.2, 0.8, 0.1], [0.7, 0.2, 0.1], [0.1, 0.2, 0.9]], "float32"
    )

    @pytest.mark.parametrize(
        "labels", [[0, 1, 2, 2], [[0], [1], [2], [2]], np.eye(3)[[0, 1, 2, 2]]]
    )
    def test_accuracy(self, labels):
        assert measure("accuracy").of(self.NETWORK, self.SCORES, np.array(labels)) == 75

    def test_mean_squared_error(self):
        found = measure("mean_squared_error")
        assert found.best == "min"
        assert found.of(self.NETWORK, self.SCORES, self.SCORES + 0.5) == pytest.approx(0.25)

    @pytest.mark.parametrize("name", ["recall@1", "recall@2", "precision@1", "map@r", "mrr"])
    def test_retrieval(self, name):
        labels = np.array([0, 1, 0, 1])
        expected = lgg.retrieval.evaluate(self.SCORES, labels=labels, k=[1, 2])[name]
        assert measure(name).of(self.NETWORK, self.SCORES, labels) == pytest.approx(100 * expected)

    def test_noise(self):
        x, y = np.tile(self.SCORES, (5, 1)), np.tile([0, 1, 0, 2], 5)
        noise = lgg.robustness.GaussianNoise(snr=(20, 15, 10, 5, 0))
        table = lgg.robustness.evaluate(self.NETWORK, (x, y), [noise], progress=False)
        expected = 100 * table["accuracy"][1:].mean()
        assert expected < 100
        assert measure("noise_accuracy").of(self.NETWORK, x, y) == pytest.approx(expected)
        assert measure(noise).of(self.NETWORK, x, y) == pytest.approx(expected)
        assert measure(noise).name == "accuracy, Gaussian noise"

    @pytest.mark.parametrize("name", ["recall@0", "recall@", "recall", "map", "noise", "", None])
    def test_unknown_names(self, name):
        with pytest.raises(ValueError, match=r"`measures`\. Expected one of"):
            measure(name)


def measured(plain, other, third=None):
    values = {"plain": plain, "smooth": other} | ({"third": third} if third else {})
    measures = [measure("accuracy"), measure("mean_squared_error")]
    return Comparison(
        {
            name: {
                m.name: np.array(each, "float64") for m, each in zip(measures, both, strict=True)
            }
            for name, both in values.items()
        },
        measures,
        list(range(len(plain[0]))),
    )


class TestResult:
    FOUND = measured(([90, 92, 94], [1.0, 2.0, 3.0]), ([93, 96, 96], [1.0, 2.5, 2.5]))

    def test_effects_are_of_pairs(self):
        effects = self.FOUND.effects()["smooth"]
        assert effects["accuracy"] == pytest.approx((3.0, 1.0))
        assert effects["mean_squared_error"] == pytest.approx((0.0, 0.5))

    def test_a_gain(self):
        assert self.FOUND.verdict() == (
            "smooth against plain: accuracy +3.0 ± 1.0 points; mean_squared_error +0.000 ± 0.500. "
            "Better in accuracy, beyond the spread of 3 seeds."
        )

    def test_a_loss_of_what_is_best_small(self):
        found = measured(([90, 90], [1.0, 2.0]), ([80, 81], [1.5, 2.6]))
        assert found.verdict().endswith(
            ". Worse in accuracy and mean_squared_error, beyond the spread of 2 seeds."
        )
        found = measured(([90, 90], [1.0, 2.0]), ([90, 90], [0.5, 1.4]))
        assert found.verdict().endswith(
            ". Better in mean_squared_error, beyond the spread of 2 seeds."
        )

    def test_nothing_beyond_the_spread(self):
        found = measured(([90, 92], [1.0, 1.0]), ([95, 90], [1.0, 1.0]))
        assert found.verdict().endswith(". All within the spread of 2 seeds.")

    def test_one_seed(self):
        found = measured(([90], [1.0]), ([95], [0.5]))
        assert found.verdict() == (
            "smooth against plain: accuracy +5.0 points; mean_squared_error -0.500. "
            "One seed has no spread."
        )

    def test_the_table(self):
        assert self.FOUND.to_markdown().split("\n") == [
            "|  | accuracy (%) | mean_squared_error |",
            "| --- | --- | --- |",
            "| plain | 92.0 ± 2.0 | 2.000 ± 1.000 |",
            "| smooth | 95.0 ± 1.7 (+3.0 ± 1.0 points) | 2.000 ± 0.866 (+0.000 ± 0.500) |",
        ]
        assert str(self.FOUND) == f"{self.FOUND.to_markdown()}\n\n{self.FOUND.verdict()}"

    def test_the_frame(self):
        frame = self.FOUND.to_frame()
        assert list(frame.columns) == ["variant", "seed", "accuracy", "mean_squared_error"]
        assert frame["accuracy"].tolist() == [90, 92, 94, 93, 96, 96]
        assert frame["seed"].tolist() == [0, 1, 2] * 2

    def test_the_figure(self):
        found = measured(*[([90, 92], [1.0, 2.0])] * 3)
        figure = found.plot(title="A comparison")
        assert [axis.get_title() for axis in figure.axes] == ["accuracy (%)", "mean_squared_error"]
        assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
            "plain",
            "smooth",
            "third",
        ]
        one = measured(([90], [1.0]), ([95], [0.5])).plot()
        low, high = one.axes[0].get_xlim()
        assert low < 90 < 95 < high
