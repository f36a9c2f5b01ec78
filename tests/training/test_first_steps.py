"""What `fit` says by itself in its first steps, and when a loss is NaN."""

import warnings

import keras
import numpy as np
import pytest
from backends import needs
from keras import layers

import keras_lgg as lgg
from keras_lgg import losses

RNG = np.random.default_rng(0)
X = RNG.random((64, 6)).astype("float32")
Y = np.arange(64) % 3
TAPS = ["h1", "h2"]


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "relu", name="h1"),
            layers.Dense(8, "relu", name="h2"),
            layers.Flatten(name="flat"),
            layers.Dense(8, name="embedding"),
            layers.UnitNormalization(name="unit"),
            layers.Dense(3, name="logits"),
        ]
    )


def variation(weight=None, taps=TAPS, **options):
    loss = losses.SmoothnessVariation(power=2, num_classes=3, **options)
    return lgg.Penalty(loss, taps, weight)


def model_with(*penalties, base=None, loss="cross-entropy", **options):
    model = lgg.GeometryModel(base or network(), list(penalties))
    if loss == "cross-entropy":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss, **options)
    return model


def remarks(model, x=X, y=Y, **options):
    """What one `fit` warns of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        model.fit(x, y, **{"batch_size": 16, "verbose": 0, **options})
    # Not what the libraries say of one another.
    texts = [str(each.message) for each in found]
    return [text for text in texts if text.startswith("The penalty")]


class TestWeights:
    @pytest.mark.parametrize("jit", [False, pytest.param(True, marks=needs("`jit_compile=True`"))])
    def test_one_that_ruins_the_network(self, jit):
        (remark,) = remarks(model_with(variation(1e6), jit_compile=jit), epochs=2)
        assert "'smoothness_variation' drowns the loss of the task" in remark
        assert "with the weight 1e+06" in remark
        assert f"default of this loss, {5 / 16**3:.2g} at n = 16" in remark

    def test_one_that_does_nothing(self):
        (remark,) = remarks(model_with(variation(1e-12)))
        assert "adds next to nothing to the loss of the task" in remark
        assert "with the weight 1e-12" in remark

    @pytest.mark.parametrize("weight", [None, 0.0, 1e-3, "balanced"])
    def test_others_are_passed_over(self, weight):
        assert remarks(model_with(variation(weight))) == []

    def test_the_weight_to_try_of_a_loss_that_has_no_default(self):
        labels = keras.losses.SparseCategoricalCrossentropy(from_logits=True, name="entropy")
        model = model_with(lgg.Penalty(labels, "logits", 5e4))
        value = task = model.evaluate(X, Y, verbose=0, return_dict=True)["entropy"]
        (remark,) = remarks(model)
        assert f"Try weight={0.1 * task / value:.1g}" in remark

    def test_nothing_to_compare_with(self):
        assert remarks(model_with(variation(1e6), loss=None)) == []

    def test_of_two_the_one_that_is_meant(self):
        other = lgg.Penalty(losses.GraphVariation(), TAPS)
        (remark,) = remarks(model_with(other, variation(1e6)))
        assert "'smoothness_variation'" in remark

    def test_a_student(self):
        penalty = lgg.Penalty(losses.RelationalDistance(), [("h1", "h2")], 1e9)
        distiller = lgg.Distiller(network(), network(), [penalty])
        entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.0), entropy)
        (remark,) = remarks(distiller)
        assert "default of this loss, 5 at n = 16" in remark

    def test_a_second_training_is_looked_at_anew(self):
        model = model_with(variation(0.0))
        assert remarks(model) == []
        model.penalties[0].weight.assign(1e6)
        assert len(remarks(model)) == 1

    def test_later_steps_are_the_plain_ones(self):
        model = model_with(variation())
        seen = []

        class Look(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                seen.append(self.model.train_function)

        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[Look()])
        assert [step == seen[-1] for step in seen] == [False] * 3 + [True] * 5
        assert model.train_function == seen[-1]
        model.fit(X[:8], Y[:8], batch_size=8, verbose=0)  # is over before the third step
        assert model.train_function == seen[-1]


class TestTaps:
    @pytest.mark.parametrize("repeated", [["h1", "h1"], ["h1", "h2", "flat"]])
    def test_one_that_repeats_another(self, repeated):
        model = model_with(variation(taps=repeated))
        (remark,) = remarks(model)
        assert "taps the same twice" in remark
        assert f"{repeated[-2]!r} and {repeated[-1]!r}" in remark
        assert remarks(model) == []  # once is enough

    def test_a_dataset_is_not_read_for_it(self):
        def batches():
            for begin in range(0, 64, 16):
                yield X[begin : begin + 16], Y[begin : begin + 16]

        def said(taps):
            return remarks(model_with(variation(taps=taps)), batches(), None, batch_size=None)

        assert "'h1' and 'h1'" in said(["h1", "h1", "h2"])[0]
        assert said(["h1", "h2", "flat"]) == []

    @pytest.mark.parametrize("pairs", [[("h1", "h1"), ("h1", "h1")]])
    def test_a_pair_that_repeats_another(self, pairs):
        penalty = lgg.Penalty(losses.GraphDistillation(), pairs)
        teacher = keras.models.clone_model(network())
        distiller = lgg.Distiller(teacher, network(), [penalty])
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        assert any("taps the same twice" in remark for remark in remarks(distiller))

    @pytest.mark.parametrize(
        ("tap", "said"),
        [
            ("embedding", "the Dense 'embedding' returns"),
            ("unit", None),
            (None, "the Dense 'logits'"),
        ],
    )
    def test_an_embedding_without_a_bound(self, tap, said):
        found = remarks(model_with(lgg.Penalty(losses.GraphSmoothness(), tap)))
        assert len(found) == (said is not None)
        assert said is None or said in found[0]

    @pytest.mark.parametrize(
        "layer", [layers.Dense(4, "tanh", name="last"), layers.ReLU(max_value=6.0)]
    )
    def test_a_bound_by_the_activation(self, layer):
        base = keras.Sequential([keras.Input((6,)), layers.Dense(4), layer])
        assert remarks(model_with(lgg.Penalty(losses.GraphSmoothness()), base=base)) == []


class TestBatches:
    def test_one_class(self):
        model = model_with(variation())
        (remark,) = remarks(model, y=np.sort(Y), shuffle=False)
        assert "sees one class" in remark
        assert "the label 0 alone in the first batch" in remark
        assert remarks(model, y=np.sort(Y)) == []  # it is shuffled
        (remark,) = remarks(model, y=np.full(64, 2))
        assert "the label 2 alone in all of the data" in remark

    def test_one_class_and_samples_without_a_label(self):
        labels = np.where(Y == 1, 1, -1)
        (remark,) = remarks(model_with(variation(ignore_class=-1), loss=None), y=labels)
        assert "the label 1 alone" in remark

    def test_one_class_in_the_first_batch_of_a_generator(self):
        def batches(y):
            for begin in range(0, 64, 16):
                yield X[begin : begin + 16], y[begin : begin + 16]

        model = model_with(variation())
        assert "in the first batch" in remarks(model, batches(np.sort(Y)), None, batch_size=None)[0]
        assert remarks(model, batches(Y), None, batch_size=None) == []

    @pytest.mark.parametrize(("k", "said"), [(14, 0), (15, 1), (40, 1)])
    def test_too_few_for_k(self, k, said):
        found = remarks(model_with(variation(k=k)))
        assert len(found) == said
        assert not said or f"k={k} and 16 samples" in found[0]


class Overflow(losses.GeometryLoss):
    """Infinite for a batch with an input above 10."""

    needs_labels = True

    def call(self, labels, x):
        return keras.ops.exp(1e3 * keras.ops.sum(keras.ops.relu(x - 10.0), axis=1))


class Echo(layers.Layer):
    def call(self, x):
        return x


def with_echo():
    base = keras.Sequential([keras.Input((6,)), Echo(name="echo"), layers.Dense(3)])
    return model_with(lgg.Penalty(Overflow(name="overflow"), "echo", 0.1), base=base)


def with_outlier(step, value):
    x = X.copy()
    x[(step - 1) * 8 + 1] = value
    return x


class TestFinite:
    """A loss that becomes NaN in one of the first steps, or later in the epoch."""

    OPTIONS = {"batch_size": 8, "verbose": 0, "shuffle": False}  # noqa: RUF012 (it stays)

    @pytest.mark.parametrize("step", [1, 3, 4, 6])
    def test_a_penalty(self, step):
        with pytest.raises(FloatingPointError) as error:
            with_echo().fit(with_outlier(step, 100.0), Y, **self.OPTIONS)
        assert f"'overflow' is not finite at step {step} of the epoch" in str(error.value)

    @pytest.mark.parametrize("step", [1, 6])
    def test_the_data(self, step):
        with pytest.raises(FloatingPointError) as error:
            with_echo().fit(with_outlier(step, np.nan), Y, **self.OPTIONS)
        assert f"The loss is not finite at step {step}" in str(error.value)
        assert "in all losses at once" in str(error.value)

    def test_the_loss_of_the_task(self):
        base = keras.Sequential([keras.Input((6,)), layers.Dense(4, name="h"), layers.Dense(3)])
        model = lgg.GeometryModel(base, [lgg.Penalty(losses.TargetGraph(), "h", 0.0)])
        model.compile(
            "sgd", lambda y, z: keras.ops.sum(z, axis=1) / keras.ops.cast(y - 1, "float32")
        )
        with pytest.raises(FloatingPointError, match="in the loss of the task alone"):
            model.fit(X, np.where(np.arange(64) == 40, 1, np.arange(64) % 2 * 2), **self.OPTIONS)

    def test_in_a_later_epoch(self):
        model = with_echo()

        class Harm(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 2:
                    self.model.optimizer.learning_rate = np.inf

        seen = []
        with pytest.raises(FloatingPointError, match="at step 2 of the epoch"):
            model.fit(
                X,
                Y,
                epochs=5,
                callbacks=[
                    Harm(),
                    keras.callbacks.LambdaCallback(
                        on_epoch_end=lambda epoch, logs: seen.append(epoch)
                    ),
                ],
                **self.OPTIONS,
            )
        assert seen == [0, 1]  # no backup is written of what is lost

    def test_who_stops_in_another_way_is_not_disturbed(self):
        stops = keras.callbacks.TerminateOnNaN()
        history = with_echo().fit(with_outlier(2, 100.0), Y, callbacks=[stops], **self.OPTIONS)
        assert not np.isfinite(history.history["loss"][0])

    def test_a_finite_training(self):
        assert remarks(with_echo(), epochs=2) == []


class Counted(losses.GraphVariation):
    """Counts how often it is traced."""

    traces = 0

    def call(self, *args, **kwargs):
        self.traces += 1
        return super().call(*args, **kwargs)


@pytest.mark.ci
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others trace a step once")
@pytest.mark.parametrize("as_dataset", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_step_is_traced_once(steps, as_dataset):
    import tensorflow as tf

    loss = Counted()
    model = model_with(
        lgg.Penalty(loss, TAPS),
        metrics=["accuracy"],
        weighted_metrics=["accuracy"],
        steps_per_execution=steps,
        jit_compile=False,
    )
    weights = np.ones(64, "float32")
    if as_dataset:
        data = tf.data.Dataset.from_tensor_slices((X, Y, weights)).batch(16, drop_remainder=True)
        model.fit(data, epochs=2, shuffle=False, verbose=0)
    else:
        model.fit(X, Y, sample_weight=weights, batch_size=16, epochs=2, verbose=0)
    assert loss.traces == 1


def with_two_outputs(loss):
    """A plain model, and the same with a penalty."""
    base = network()
    base = keras.Model(base.inputs[0], [base.get_layer("h1").output, *base.outputs])
    found = [base, lgg.GeometryModel(base, [lgg.Penalty(losses.GraphVariation(), TAPS, 0.0)])]
    for model in found:
        model.compile("sgd", loss)
    return found


@pytest.mark.parametrize("loss", [["mse", "mse"], ["mse"] * 3])
def test_labels_that_do_not_fit_are_refused_in_the_words_of_keras(loss):
    said = []
    for model in with_two_outputs(loss):
        with pytest.raises((ValueError, KeyError)) as caught:
            model.fit(X, np.eye(3)[Y], verbose=0)
        said.append((caught.type, str(caught.value).partition("\n")[0]))
    assert said[0] == said[1]


def test_labels_of_one_output_of_two():
    logs = [
        model.evaluate(X, np.eye(3)[Y], verbose=0, return_dict=True)
        for model in with_two_outputs([None, "mse"])
        if model.fit(X, np.eye(3)[Y], shuffle=False, verbose=0)
    ]
    assert logs[1]["loss"] < logs[0]["loss"]  # trained twice as long
