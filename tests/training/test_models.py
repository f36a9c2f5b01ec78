"""The ten rules of the design, on GeometryModel and on Distiller."""

import warnings

import keras
import numpy as np
import pytest
from autodiff import BACKEND, to_numpy
from backends import needs
from keras import layers

import keras_lgg as lgg

LABELS = np.arange(24) % 3
X = (np.random.default_rng(0).normal(size=(24, 6)) + LABELS[:, None]).astype("float32")
XE = "sparse_categorical_crossentropy"


def network(width=8, name=None, batch_norm=True, **head):
    # A bias before BatchNorm has no gradient but rounding, which Adam would blow up.
    parts = [keras.Input((6,)), layers.Dense(width, name="d1", use_bias=not batch_norm)]
    if batch_norm:
        parts.append(layers.BatchNormalization(name="bn"))
    parts += [
        layers.ReLU(name="h1"),
        layers.Dense(width, "relu", name="h2"),
        layers.Dense(3, "softmax", name="head", **head),
    ]
    return keras.Sequential(parts, name=name)


def smooth(**kwargs):
    kwargs = {"weight": 0.01, **kwargs}
    return lgg.Penalty(lgg.losses.SmoothnessVariation(power=2), ["h1", "h2"], **kwargs)


def distil(**kwargs):
    kwargs = {"weight": 0.5, **kwargs}
    return lgg.Penalty(lgg.losses.GraphDistillation(), [("h1", "h1"), ("h2", "h2")], **kwargs)


def geometry_model(base=None, **kwargs):
    return lgg.GeometryModel(base or network(), [smooth(**kwargs)])


def distiller(**kwargs):
    return lgg.Distiller(network(16, "teacher"), network(4, "student"), [distil(**kwargs)])


def weights(model):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]


def assert_same(before, after):
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


# A penalty on hidden layers alone trains no head; Keras says so.
NO_HEAD = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables.*head")
BOTH = pytest.mark.parametrize("make", [geometry_model, distiller])


def core(model):
    return model.student if isinstance(model, lgg.Distiller) else model.base


def taps_of(model, x):
    """What a separate inference pass sees at h1 and h2, and the outputs."""
    return [to_numpy(t) for t in tapped(model)(x)]


def tapped(model):
    model = keras.Model(model.inputs[0], [layer.output for layer in model.layers[-3:]])
    return lambda x: model(x, training=False)


def penalty_value(model, x, y):
    """The value of the penalty at inference, by the functions alone."""
    h1, h2, _ = taps_of(core(model), x)
    if isinstance(model, lgg.GeometryModel):
        return float(lgg.losses.smoothness_variation([h1, h2], y, power=2))
    t1, t2, _ = taps_of(model.teacher, x)
    values = [lgg.losses.graph_distillation(t, s) for t, s in ((t1, h1), (t2, h2))]
    return float(np.mean([np.sum(to_numpy(v)) for v in values]))


def cross_entropy(model):
    rows = keras.losses.sparse_categorical_crossentropy(LABELS, model(X))
    return float(to_numpy(rows).mean())


class TestOneForwardPass:
    @BOTH
    def test_batch_norm_moves_once_a_step(self, make):
        model = make()
        model.compile(keras.optimizers.SGD(0.0), XE)
        moving_mean = core(model).get_layer("bn").moving_mean
        first = to_numpy(core(model).get_layer("d1")(X)).mean(axis=0)
        model.fit(X, LABELS, batch_size=24, epochs=1, verbose=0)
        np.testing.assert_allclose(moving_mean, 0.01 * first, rtol=1e-4)

    @BOTH
    def test_evaluate_and_predict_move_nothing(self, make):
        model = make()
        model.compile("sgd", XE)
        before = weights(core(model))
        model.evaluate(X, LABELS, verbose=0)
        model.predict(X, verbose=0)
        assert_same(before, weights(core(model)))

    @BOTH
    def test_layers_are_called_once_a_step(self, make):
        calls = []

        class Counting(layers.Layer):
            def call(self, x):
                calls.append(1)
                return x

        base = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(4, "relu", name="h1"),
                Counting(),
                layers.Dense(4, "relu", name="h2"),
                layers.Dense(3, "softmax"),
            ]
        )
        if make is geometry_model:
            model = geometry_model(base)
        else:
            model = lgg.Distiller(network(), base, [distil()])
        model.compile("sgd", XE, run_eagerly=True)
        model.fit(X, LABELS, batch_size=24, verbose=0)  # builds whatever Keras builds
        calls.clear()
        model.fit(X, LABELS, batch_size=8, verbose=0)
        assert len(calls) == 3

    def test_outputs_are_the_bases(self):
        model = geometry_model()
        np.testing.assert_array_equal(model.predict(X, verbose=0), model.base.predict(X, verbose=0))
        with model.recording_taps():
            np.testing.assert_allclose(to_numpy(model(X)), to_numpy(model.base(X)), rtol=1e-6)


class TestAccounts:
    @pytest.mark.ci
    @BOTH
    @pytest.mark.parametrize("jit", [False, pytest.param(True, marks=needs("`jit_compile=True`"))])
    def test_total_is_the_sum_in_evaluate(self, make, jit):
        model = make(weight=0.3)
        core(model).get_layer("d1").kernel_regularizer = None
        model.compile("sgd", XE, jit_compile=jit)
        logs = model.evaluate(X, LABELS, batch_size=24, verbose=0, return_dict=True)
        expected = penalty_value(model, X, LABELS)
        supervised = cross_entropy(core(model))
        name = model.penalties[0].name
        np.testing.assert_allclose(logs[name], expected, rtol=1e-4)
        np.testing.assert_allclose(logs["loss"], supervised + 0.3 * expected, rtol=1e-4)

    @BOTH
    def test_total_is_the_sum_in_fit(self, make):
        # Without BatchNorm and with a learning rate of 0, training and inference agree.
        model = make(weight=0.3)
        core(model).get_layer("bn").trainable = False  # inference mode
        model.compile(keras.optimizers.SGD(0.0), XE)
        history = model.fit(
            X,
            LABELS,
            batch_size=24,
            verbose=0,
            validation_data=(X, LABELS),
            validation_batch_size=24,
        ).history
        name = model.penalties[0].name
        assert sorted(history) == sorted(["loss", name, "val_loss", f"val_{name}"])
        np.testing.assert_allclose(history[name], history[f"val_{name}"], rtol=1e-4)
        np.testing.assert_allclose(history["loss"], history["val_loss"], rtol=1e-4)

    @BOTH
    def test_add_loss_and_regularizers_inside_reach_the_total(self, make):
        class Extra(layers.Layer):
            def call(self, x):
                self.add_loss(keras.ops.convert_to_tensor(10.0))
                return x

        base = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(4, "relu", name="h1", kernel_regularizer="l2"),
                Extra(),
                layers.Dense(4, "relu", name="h2"),
                layers.Dense(3, "softmax"),
            ]
        )
        if make is geometry_model:
            model = geometry_model(base)
        else:
            model = lgg.Distiller(network(), base, [distil()])
        model.compile(keras.optimizers.SGD(0.0), XE)
        name = model.penalties[0].name
        weight = float(model.penalties[0].weight)
        kernel = to_numpy(base.get_layer("h1").kernel)
        for logs in (
            model.evaluate(X, LABELS, batch_size=24, verbose=0, return_dict=True),
            {k: v[0] for k, v in model.fit(X, LABELS, batch_size=24, verbose=0).history.items()},
        ):
            supervised = cross_entropy(base)
            np.testing.assert_allclose(
                logs["loss"],
                supervised + 10 + 0.01 * (kernel**2).sum() + weight * logs[name],
                rtol=1e-4,
            )

    @BOTH
    def test_zero_sample_weights_remove_the_supervised_loss_alone(self, make):
        model = make(weight=2.0)
        core(model).get_layer("bn").trainable = False  # inference mode
        model.compile(keras.optimizers.SGD(0.0), XE)
        zeros = np.zeros(24)
        logs = model.evaluate(
            X, LABELS, sample_weight=zeros, batch_size=24, verbose=0, return_dict=True
        )
        name = model.penalties[0].name
        assert logs[name] > 0
        np.testing.assert_allclose(logs["loss"], 2.0 * logs[name], rtol=1e-5)

    @BOTH
    def test_class_weights(self, make):
        model = make(weight=0.0)
        core(model).get_layer("bn").trainable = False  # inference mode
        model.compile(keras.optimizers.SGD(0.0), XE)
        plain = model.fit(X, LABELS, batch_size=24, verbose=0).history["loss"][0]
        doubled = model.fit(
            X, LABELS, batch_size=24, class_weight={0: 2, 1: 2, 2: 2}, verbose=0
        ).history["loss"][0]
        np.testing.assert_allclose(doubled, 2 * plain, rtol=1e-4)

    @BOTH
    def test_the_metric_of_an_epoch_weighs_a_partial_last_batch(self, make):
        model = make()
        model.compile("sgd", XE)
        name = model.penalties[0].name
        logs = model.evaluate(X[:20], LABELS[:20], batch_size=16, verbose=0, return_dict=True)
        first = penalty_value(model, X[:16], LABELS[:16])
        last = penalty_value(model, X[16:20], LABELS[16:20])
        np.testing.assert_allclose(logs[name], (16 * first + 4 * last) / 20, rtol=1e-3)

    def test_the_step_is_that_of_the_summed_loss(self):
        """One SGD step equals a step on the gradient of the sum, by hand."""
        model = geometry_model(network(batch_norm=False), weight=0.05)
        base = model.base
        copy = keras.models.clone_model(base)
        copy.set_weights(base.get_weights())
        inner = keras.Model(copy.inputs[0], [copy.layers[-3].output, copy.layers[-2].output])

        class ByHand(keras.Model):
            def __init__(self):
                super().__init__()
                self.copy = copy

            def call(self, x):
                return self.copy(x)

            def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
                penalty = lgg.losses.smoothness_variation(inner(x), y, power=2)
                return super().compute_loss(x, y, y_pred, sample_weight) + 0.05 * penalty

        by_hand = ByHand()
        by_hand(X)
        for m in (model, by_hand):
            m.compile(keras.optimizers.SGD(0.1), XE)
            m.fit(X, LABELS, batch_size=24, epochs=3, shuffle=False, verbose=0)
        for a, b in zip(weights(base), weights(copy), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    @BOTH
    @NO_HEAD
    def test_without_a_compiled_loss(self, make):
        model = make()
        model.compile(keras.optimizers.SGD(0.01))
        history = model.fit(X, LABELS, batch_size=24, epochs=3, verbose=0).history
        weight = float(model.penalties[0].weight)
        np.testing.assert_allclose(
            history["loss"], weight * np.array(history[model.penalties[0].name]), rtol=1e-5
        )

    @NO_HEAD
    def test_distilling_needs_no_labels(self):
        model = distiller(weight=1.0)
        model.compile(keras.optimizers.Adam(0.01))
        history = model.fit(X, batch_size=24, epochs=20, verbose=0).history
        assert history["graph_distillation"][-1] < 0.7 * history["graph_distillation"][0]


class TestWaysToTrain:
    @pytest.mark.ci
    @BOTH
    @pytest.mark.parametrize(
        "options",
        [
            {},
            pytest.param({"jit_compile": True}, marks=needs("`jit_compile=True`")),
            {"run_eagerly": True},
            pytest.param({"steps_per_execution": 3}, marks=needs("`steps_per_execution`")),
        ],
        ids=str,
    )
    def test_the_same_numbers_however_compiled(self, make, options):
        results = []
        for chosen in ({"jit_compile": False}, options):
            keras.utils.set_random_seed(1)
            model = make()
            model.compile(keras.optimizers.SGD(0.01), XE, **chosen)
            model.fit(X[:20], LABELS[:20], batch_size=8, epochs=2, shuffle=False, verbose=0)
            results.append(weights(core(model)))
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5)

    @BOTH
    @pytest.mark.parametrize("labels", ["integers", "column", "one-hot"])
    def test_label_forms(self, make, labels):
        y, loss = {
            "integers": (LABELS, XE),
            "column": (LABELS[:, None], XE),
            "one-hot": (np.eye(3)[LABELS], "categorical_crossentropy"),
        }[labels]
        model = make()
        model.compile("sgd", loss, metrics=["accuracy"])
        logs = model.evaluate(X, y, batch_size=24, verbose=0, return_dict=True)
        np.testing.assert_allclose(
            logs[model.penalties[0].name], penalty_value(model, X, LABELS), rtol=1e-4
        )
        assert "accuracy" in logs

    def test_several_inputs_and_outputs(self):
        left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
        h1 = layers.Dense(8, "relu", name="h1")(layers.Concatenate()([left, right]))
        h2 = layers.Dense(8, "relu", name="h2")(h1)
        outputs = {
            "kind": layers.Dense(3, "softmax", name="kind")(h2),
            "size": layers.Dense(1, name="size")(h2),
        }
        base = keras.Model({"left": left, "right": right}, outputs)
        model = lgg.GeometryModel(base, [smooth(labels="kind")])
        model.compile("sgd", {"kind": XE, "size": "mse"}, metrics={"kind": "accuracy"})
        x = {"left": X, "right": 2 * X}
        y = {"kind": LABELS, "size": X[:, :1]}
        history = model.fit(x, y, verbose=0, validation_data=(x, y)).history
        assert {"loss", "kind_loss", "size_loss", "smoothness_variation"} <= set(history)
        assert set(model.predict(x, verbose=0)) == {"kind", "size"}

        ambiguous = lgg.GeometryModel(base, [smooth()])
        ambiguous.compile("sgd", {"kind": XE, "size": "mse"})
        with pytest.raises(ValueError, match=r"needs class labels.*2 of them.*labels="):
            ambiguous.fit(x, y, verbose=0)

    def test_nested_base(self):
        inner = keras.Sequential(
            [keras.Input((6,)), layers.Dense(4, "relu", name="h1"), layers.Dense(4, name="h2")],
            name="backbone",
        )
        x = keras.Input((6,))
        base = keras.Model(x, layers.Dense(3, "softmax")(inner(x)))
        model = lgg.GeometryModel(
            base,
            [
                lgg.Penalty(
                    lgg.losses.GraphVariation(), ["backbone/h1", "backbone/h2"], weight=0.1
                ),
            ],
        )
        model.compile("sgd", XE)
        before = weights(base)
        logs = model.fit(X, LABELS, batch_size=24, verbose=0).history
        h1 = np.maximum(X @ before[0] + before[1], 0)
        expected = float(lgg.losses.graph_variation([h1, h1 @ before[2] + before[3]]))
        np.testing.assert_allclose(logs["graph_variation"][0], expected, rtol=1e-3)

    def test_output_penalty_of_any_model(self):
        class Embedder(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(4)

            def call(self, x):
                return self.dense(x)

        model = lgg.GeometryModel(Embedder(), [lgg.Penalty(lgg.losses.GraphSmoothness())])
        model.compile("sgd")
        history = model.fit(X, LABELS, epochs=3, verbose=0).history["graph_smoothness"]
        assert history[-1] < history[0]

    def test_a_plain_keras_loss_on_a_tap(self):
        base = keras.Sequential(
            [keras.Input((6,)), layers.Dense(3, "softmax", name="early"), layers.Dense(3)]
        )
        early = lgg.Penalty(keras.losses.SparseCategoricalCrossentropy(name="early_xe"), "early")
        model = lgg.GeometryModel(base, [early])
        model.compile("sgd")
        logs = model.evaluate(X, LABELS, batch_size=24, verbose=0, return_dict=True)
        expected = keras.losses.sparse_categorical_crossentropy(LABELS, base.layers[0](X))
        np.testing.assert_allclose(logs["early_xe"], np.mean(to_numpy(expected)), rtol=1e-5)

    def test_a_loop_of_ones_own(self):
        model = geometry_model(network(batch_norm=False), weight=1.0)
        model.compile("sgd", XE)
        with model.recording_taps():
            total = model.compute_loss(X, LABELS, model(X, training=True), training=True)
        expected = model.evaluate(X, LABELS, batch_size=24, verbose=0)
        expected = expected[0] if isinstance(expected, list) else expected
        np.testing.assert_allclose(float(total), expected, rtol=1e-4)
        with pytest.raises(ValueError, match="recording_taps"):
            model.compute_loss(X, LABELS, model(X, training=True), training=True)

    def test_nothing_is_kept_after_a_step(self):
        from keras_lgg.training import models

        model = geometry_model()
        model.compile("sgd", XE)
        model.fit(X, LABELS, verbose=0)
        model.predict(X, verbose=0)
        assert models._record.get() is None


EVERY_LOSS = {
    "smoothness_variation": lgg.losses.SmoothnessVariation(power=3, k=3, relative=True),
    "graph_variation": lgg.losses.GraphVariation(k=3),
    "graph_smoothness": lgg.losses.GraphSmoothness(k=3, reduction="sum_over_batch_size"),
    "target_graph": lgg.losses.TargetGraph(metric="rbf", reduction="sum_over_batch_size"),
    "graph_distillation": lgg.losses.GraphDistillation(pairs="inter", k=3, power=2),
    "relational_distance": lgg.losses.RelationalDistance(),
    "relational_angle": lgg.losses.RelationalAngle(),
    "similarity_preserving": lgg.losses.SimilarityPreserving(),
    "probabilistic_transfer": lgg.losses.ProbabilisticTransfer(),
    "correlation_congruence": lgg.losses.CorrelationCongruence(gamma=1.0, order=3),
}


@pytest.mark.ci
@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX compiles every fit, PyTorch none")
@pytest.mark.parametrize("name", EVERY_LOSS)
def test_every_loss_trains_under_xla_as_without(name):
    loss = EVERY_LOSS[name]
    results = []
    for jit in (False, True):
        keras.utils.set_random_seed(1)
        base = network(batch_norm=False)
        if loss.needs_teacher:
            penalty = lgg.Penalty(loss, [("h1", "h1"), ("h2", "h2")], 0.1)
            model = lgg.Distiller(network(16, batch_norm=False), base, [penalty])
        else:
            model = lgg.GeometryModel(base, [lgg.Penalty(loss, ["h1", "h2"], 0.1)])
        model.compile(keras.optimizers.SGD(0.01), XE, jit_compile=jit)
        model.fit(X[:20], LABELS[:20], batch_size=10, epochs=2, shuffle=False, verbose=0)
        results.append(weights(base))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


class TestPenaltyWeights:
    @BOTH
    def test_are_variables_that_a_callback_can_schedule(self, make):
        model = make(weight=1.0)
        core(model).get_layer("bn").trainable = False  # inference mode
        model.compile(keras.optimizers.SGD(0.0), XE)
        penalty = model.penalties[0]

        class Switch(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                penalty.weight.assign([0.0, 1.0, 10.0][epoch])

        history = model.fit(
            X, LABELS, batch_size=24, epochs=3, verbose=0, callbacks=[Switch()]
        ).history
        loss, value = np.array(history["loss"]), np.array(history[penalty.name])
        np.testing.assert_allclose(loss - loss[0], np.array([0, 1, 10]) * value, rtol=1e-3)

    def test_are_not_trained(self):
        model = geometry_model()
        assert not {id(p.weight) for p in model.penalties} & {
            id(v) for v in model.trainable_variables
        }
        assert {id(p.weight) for p in model.penalties} <= {
            id(v) for v in model.non_trainable_variables
        }


class TestTeacher:
    def test_is_untouched(self):
        teacher = network(16)
        teacher.compile("adam", XE)
        teacher.fit(X, LABELS, verbose=0)
        before, trainable = weights(teacher), len(teacher.trainable_variables)
        optimizer = teacher.optimizer
        model = lgg.Distiller(teacher, network(4), [distil()])
        model.compile("adam", XE)
        model.fit(X, LABELS, epochs=2, verbose=0)
        model.evaluate(X, LABELS, verbose=0)
        assert_same(before, weights(teacher))
        assert teacher.trainable
        assert all(layer.trainable for layer in teacher.layers)
        assert len(teacher.trainable_variables) == trainable
        assert teacher.optimizer is optimizer
        teacher.fit(X, LABELS, verbose=0)  # and can go on

    def test_its_weights_are_not_the_distillers(self):
        model = distiller()
        model.compile("adam", XE)
        model.fit(X, LABELS, verbose=0)
        student = {id(v) for v in model.student.trainable_variables}
        assert {id(v) for v in model.trainable_variables} == student
        assert {id(v) for v in model.trainable_weights} == student
        assert len(model.optimizer.variables) == 2 + 2 * len(student)  # Adam's slots

    @NO_HEAD
    def test_runs_in_inference_mode_and_its_losses_stay_out(self):
        class Loud(layers.Layer):
            def call(self, x, training=None):
                self.add_loss(keras.ops.convert_to_tensor(1000.0))
                return x if not training else 0 * x

        teacher = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(9, "relu", name="h1", kernel_regularizer=keras.regularizers.L2(100)),
                layers.Dropout(0.9),
                Loud(),
                layers.Dense(9, "relu", name="h2"),
                layers.Dense(3, "softmax"),
            ]
        )
        model = lgg.Distiller(teacher, network(4), [distil()])
        model.compile(keras.optimizers.SGD(0.0))
        history = model.fit(X, batch_size=24, epochs=2, shuffle=False, verbose=0).history
        assert len(teacher.losses) == 1  # its regularizer: nothing was left behind
        assert history["loss"][0] < 100
        expected = penalty_value_of(teacher, model.student, training=True)
        np.testing.assert_allclose(history["graph_distillation"][0], expected, rtol=1e-3)

    def test_stays_the_same_object(self):
        teacher = network(16)
        model = lgg.Distiller(teacher, network(4), [distil()])
        assert model.teacher is teacher
        assert all(layer is not teacher for layer in model._flatten_layers())

    def test_can_be_exchanged(self):
        model = distiller()
        model.compile(keras.optimizers.SGD(0.0), XE)
        first = model.evaluate(X, LABELS, batch_size=24, verbose=0, return_dict=True)
        model.teacher = network(32)
        second = model.evaluate(X, LABELS, batch_size=24, verbose=0, return_dict=True)
        np.testing.assert_allclose(
            second["graph_distillation"], penalty_value(model, X, LABELS), rtol=1e-3
        )
        assert first["graph_distillation"] != second["graph_distillation"]

    def test_may_change_between_fits(self):
        model = distiller()
        model.compile(keras.optimizers.SGD(0.0), XE)
        model.evaluate(X, LABELS, batch_size=24, verbose=0)
        model.teacher.set_weights(network(16).get_weights())
        logs = model.evaluate(X, LABELS, batch_size=24, verbose=0, return_dict=True)
        np.testing.assert_allclose(
            logs["graph_distillation"], penalty_value(model, X, LABELS), rtol=1e-3
        )

    def test_may_share_layers_with_the_student(self):
        x = keras.Input((6,))
        stem = layers.Dense(8, "relu", name="stem")(x)
        teacher = keras.Model(x, layers.Dense(3, name="t")(stem))
        student = keras.Model(x, layers.Dense(3, name="s")(stem))
        loss = lgg.losses.GraphDistillation()
        model = lgg.Distiller(teacher, student, [lgg.Penalty(loss, [("t", "s")])])
        model.compile(keras.optimizers.SGD(0.1))
        before = keras.ops.convert_to_numpy(teacher.get_layer("stem").kernel).copy()
        model.fit(X, verbose=0)
        assert (
            np.abs(keras.ops.convert_to_numpy(teacher.get_layer("stem").kernel) - before).max() > 0
        )

    def test_without_taps_may_be_any_model(self):
        class Teacher(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(5)

            def call(self, x):
                return self.dense(x)

        teacher = Teacher()
        with pytest.raises(ValueError, match="has no weights yet"):
            lgg.Distiller(teacher, network(4), [lgg.Penalty(lgg.losses.GraphDistillation())])
        teacher(X)
        model = lgg.Distiller(teacher, network(4), [lgg.Penalty(lgg.losses.GraphDistillation())])
        model.compile(keras.optimizers.SGD(0.01))
        logs = model.evaluate(X, batch_size=24, verbose=0, return_dict=True)
        rows = lgg.losses.graph_distillation(teacher(X), model.student(X))
        np.testing.assert_allclose(logs["graph_distillation"], np.sum(to_numpy(rows)), rtol=1e-4)


def penalty_value_of(teacher, student, training):
    """GKD between the teacher at inference and the student in training mode, at h1 and h2."""
    t = keras.Model(teacher.inputs[0], [teacher.get_layer(n).output for n in ("h1", "h2")])
    s = keras.Model(student.inputs[0], [student.get_layer(n).output for n in ("h1", "h2")])
    values = [
        np.sum(to_numpy(lgg.losses.graph_distillation(a, b)))
        for a, b in zip(t(X, training=False), s(X, training=training), strict=True)
    ]
    return float(np.mean(values))


class TestKerasDistillation:
    def test_logits(self):
        loss = keras.distillation.LogitsDistillation(temperature=4.0)
        model = lgg.Distiller(network(16), network(4), [lgg.Penalty(loss, weight=0.5)])
        model.compile("adam", XE)
        logs = model.evaluate(X, LABELS, batch_size=24, verbose=0, return_dict=True)
        t, s = (to_numpy(m(X)) / 4 for m in (model.teacher, model.student))
        p, q = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (t, s))
        expected = 16 * np.mean(np.sum(p * np.log(p / q), axis=1))
        np.testing.assert_allclose(logs["logits_distillation"], expected, rtol=1e-3, atol=1e-7)
        before = weights(model.student)
        model.fit(X, LABELS, verbose=0)
        assert any((a != b).any() for a, b in zip(before, weights(model.student), strict=True))

    @pytest.mark.parametrize("where", ["loss", "taps"])
    def test_features(self, where):
        if where == "loss":
            loss = keras.distillation.FeatureDistillation(
                loss="mse", teacher_layer_name="h1", student_layer_name="h2"
            )
            penalty = lgg.Penalty(loss)
        else:
            loss = keras.distillation.FeatureDistillation(loss="mse")
            penalty = lgg.Penalty(loss, taps=[("h1", "h2")])
        model = lgg.Distiller(network(8), network(8), [penalty])
        model.compile("adam", XE)
        logs = model.evaluate(X, LABELS, batch_size=24, verbose=0, return_dict=True)
        t1, _, _ = taps_of(model.teacher, X)
        _, s2, _ = taps_of(model.student, X)
        np.testing.assert_allclose(logs["feature_distillation"], np.mean((t1 - s2) ** 2), rtol=1e-4)

    def test_both_at_once_with_a_plain_keras_loss(self):
        model = lgg.Distiller(
            network(8),
            network(8),
            [
                distil(),
                lgg.Penalty(keras.distillation.LogitsDistillation(), weight=0.5),
                lgg.Penalty(keras.losses.MeanSquaredError(name="hint"), [("h2", "h2")]),
            ],
        )
        model.compile("adam", XE)
        history = model.fit(X, LABELS, verbose=0).history
        assert {"graph_distillation", "logits_distillation", "hint", "loss"} == set(history)

    def test_class_pairs_get_the_labels(self):
        penalty = lgg.Penalty(lgg.losses.GraphDistillation(pairs="intra"), [("h2", "h2")])
        model = lgg.Distiller(network(16), network(4), [penalty])
        model.compile("adam", XE)
        logs = model.evaluate(X, LABELS, batch_size=24, verbose=0, return_dict=True)
        _, t, _ = taps_of(model.teacher, X)
        _, s, _ = taps_of(model.student, X)
        rows = lgg.losses.graph_distillation(t, s, pairs="intra", labels=LABELS)
        np.testing.assert_allclose(logs["graph_distillation"], np.sum(to_numpy(rows)), rtol=1e-4)


class TestSaving:
    def assert_goes_on(self, model, restored):
        for m in (model, restored):
            m.fit(X, LABELS, batch_size=24, shuffle=False, verbose=0)
        for a, b in zip(weights(core(model)), weights(core(restored)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    @BOTH
    def test_save_load_and_fit_goes_on(self, make, tmp_path):
        model = make()
        model.compile(keras.optimizers.Adam(0.01), XE, metrics=["accuracy"])
        model.fit(X, LABELS, batch_size=24, epochs=2, verbose=0)
        model.penalties[0].weight.assign(0.123)
        model.save(tmp_path / "model.keras")
        restored = keras.saving.load_model(tmp_path / "model.keras")
        assert float(restored.penalties[0].weight) == pytest.approx(0.123)
        assert restored.penalties[0].name == model.penalties[0].name
        np.testing.assert_allclose(
            restored.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5
        )
        before = model.evaluate(X, LABELS, verbose=0, return_dict=True)
        after = restored.evaluate(X, LABELS, verbose=0, return_dict=True)
        for name, expected in before.items():
            np.testing.assert_allclose(after[name], expected, rtol=1e-4)
        assert int(restored.optimizer.iterations) == 2
        self.assert_goes_on(model, restored)

    @pytest.mark.parametrize(
        "loss",
        [
            keras.distillation.LogitsDistillation(temperature=2.0),
            keras.distillation.FeatureDistillation(
                loss="mse", teacher_layer_name="h1", student_layer_name="h1"
            ),
        ],
        ids=["logits", "features"],
    )
    def test_keras_distillation_losses(self, loss, tmp_path):
        model = lgg.Distiller(network(8), network(8), [lgg.Penalty(loss)])
        model.compile(keras.optimizers.Adam(0.01), XE)
        model.fit(X, LABELS, verbose=0)
        model.save(tmp_path / "model.keras")
        restored = keras.saving.load_model(tmp_path / "model.keras")
        self.assert_goes_on(model, restored)

    @pytest.mark.ci  # run eagerly, half a step is taken before the error
    def test_without_the_teacher(self, tmp_path):
        model = distiller()
        model.compile(keras.optimizers.Adam(0.01), XE)
        model.fit(X, LABELS, batch_size=24, verbose=0)
        model.save(tmp_path / "with.keras")
        model.save(tmp_path / "without.keras", include_teacher=False)
        assert model.teacher is not None
        with_size, without_size = (
            (tmp_path / name).stat().st_size for name in ("with.keras", "without.keras")
        )
        assert without_size < with_size
        restored = keras.saving.load_model(tmp_path / "without.keras")
        assert restored.teacher is None
        np.testing.assert_allclose(
            restored.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5
        )
        with pytest.raises(ValueError, match=r"distiller.teacher = teacher"):
            restored.fit(X, LABELS, verbose=0)
        restored.teacher = model.teacher
        self.assert_goes_on(model, restored)

    @BOTH
    def test_the_deployed_model_is_plain(self, make, tmp_path):
        model = make()
        model.compile("adam", XE)
        model.fit(X, LABELS, verbose=0)
        core(model).save(tmp_path / "plain.keras")
        import zipfile

        config = zipfile.ZipFile(tmp_path / "plain.keras").read("config.json").decode()
        assert "lgg" not in config
        plain = keras.saving.load_model(tmp_path / "plain.keras")
        np.testing.assert_allclose(
            plain.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5
        )

    def test_weights_alone(self, tmp_path):
        model, other = geometry_model(), geometry_model()
        model.save_weights(tmp_path / "w.weights.h5")
        other.load_weights(tmp_path / "w.weights.h5")
        np.testing.assert_array_equal(other.predict(X, verbose=0), model.predict(X, verbose=0))


class TestErrors:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: lgg.GeometryModel(
                    network(), [lgg.Penalty(lgg.losses.GraphSmoothness(), "h3")]
                ),
                r"Unknown tap 'h3'.*one of its layers: \['d1', 'bn', 'h1', 'h2', 'head'",
            ),
            (
                lambda: lgg.GeometryModel(
                    network(), [lgg.Penalty(lgg.losses.GraphDistillation(), "h1")]
                ),
                "compares a teacher with a student.*lgg.Distiller",
            ),
            (
                lambda: lgg.GeometryModel(
                    network(), [lgg.Penalty(lgg.losses.GraphVariation(), "h1")]
                ),
                "at least two taps.*taps='h1'",
            ),
            (
                lambda: lgg.GeometryModel(network(), [lgg.Penalty(lgg.losses.GraphVariation())]),
                "at least two taps.*taps=None",
            ),
            (
                lambda: lgg.GeometryModel(
                    network(), [lgg.Penalty(lgg.losses.GraphSmoothness(), [("h1", "h2")])]
                ),
                "Expected the path of a layer",
            ),
            (
                lambda: lgg.GeometryModel(network(), [smooth(), smooth()]),
                "name 'smoothness_variation' is taken.*name='another_name'",
            ),
            (
                lambda: lgg.GeometryModel(network(), lgg.losses.GraphVariation()),
                r"Expected a list of keras_lgg.Penalty.*lgg.Penalty\(loss",
            ),
            (
                lambda: lgg.Distiller(
                    network(), network(), [lgg.Penalty(lgg.losses.GraphDistillation(), ("a", "b"))]
                ),
                r"\(teacher layer, student layer\) pairs.*taps=\[\('teacher_block1'",
            ),
            (
                lambda: lgg.Distiller(
                    network(),
                    network(name="small"),
                    [lgg.Penalty(lgg.losses.GraphDistillation(), [("h1", "h9")])],
                ),
                "Unknown tap 'h9' in the model 'small'",
            ),
            (
                lambda: lgg.Distiller(
                    network(), network(), [lgg.Penalty(lgg.losses.GraphSmoothness())]
                ),
                "does not compare a teacher.*GeometryPenalty",
            ),
            (
                lambda: lgg.Distiller(
                    network(),
                    network(),
                    [
                        lgg.Penalty(
                            keras.distillation.FeatureDistillation(teacher_layer_name="h1"),
                            [("h1", "h1")],
                        )
                    ],
                ),
                "names its layers twice",
            ),
            (lambda: lgg.Penalty(lgg.losses.GraphSmoothness), r"the class .*GraphSmoothness\(\)"),
            (lambda: lgg.Penalty(lgg.losses.graph_smoothness), "Expected a loss object"),
            (lambda: lgg.Penalty("mse"), "Expected a loss object.*'mse'"),
            (lambda: smooth(weight=-1.0), "`weight`.*at least 0.*-1.0"),
            (lambda: smooth(weight=np.nan), "`weight`.*finite.*nan"),
            (lambda: smooth(weight="1"), "`weight`.*'1'"),
        ],
    )
    def test_at_construction(self, make, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            make()

    def test_missing_labels(self):
        model = geometry_model()
        model.compile("sgd")
        with pytest.raises(ValueError, match=r"needs class labels.*0 of them.*Pass y to fit"):
            model.fit(X, verbose=0)

    def test_labels_of_another_length(self):
        model = geometry_model()
        model.compile("sgd", XE)
        with pytest.raises(ValueError, match="cardinality"):
            model.fit(X, LABELS[:5], verbose=0)
        unsupervised = geometry_model()
        unsupervised.compile("sgd")
        with unsupervised.recording_taps():
            outputs = unsupervised(X, training=True)
            with pytest.raises(ValueError, match="5 in `labels` and 24 in `x`"):
                unsupervised.compute_loss(X, LABELS[:5], outputs)

    @pytest.mark.parametrize("labels", ["kind", 0])
    def test_unknown_target(self, labels):
        model = geometry_model(labels=labels)
        model.compile("sgd")
        with pytest.raises(ValueError, match=r"finds no labels=.* in y.*a single target"):
            model.fit(X, LABELS, verbose=0)

    def test_several_outputs_and_no_tap(self):
        x = keras.Input((6,))
        base = keras.Model(x, [layers.Dense(2, name="p")(x), layers.Dense(2, name="q")(x)])
        with pytest.raises(ValueError, match=r"cannot tell which output.*\['p', 'q'\]"):
            lgg.GeometryModel(base, [lgg.Penalty(lgg.losses.GraphSmoothness())])


@pytest.mark.ci
def test_no_warnings_of_gradients_that_do_not_exist():
    model = distiller()
    model.compile("adam", XE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, LABELS, verbose=0)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.data under another backend is Keras's own")
def test_tf_data():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(10)
    model = geometry_model()
    model.compile("sgd", XE)
    model.fit(data, validation_data=data, epochs=2, shuffle=False, verbose=0)
