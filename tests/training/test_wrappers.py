"""Models with penalties as models: built, cloned, exported, asked, checkpointed, saved."""

import keras
import numpy as np
import pytest
from autodiff import BACKEND, to_numpy
from keras import layers

import keras_lgg as lgg
from keras_lgg import losses

RNG = np.random.default_rng(0)
X = RNG.random((16, 8)).astype("float32")
LABELS = np.arange(16) % 3
XE = "sparse_categorical_crossentropy"


def network(width=8, name=None):
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(width, "relu", name="h1"),
            layers.Dense(width, "relu", name="h2"),
            layers.Dense(3, "softmax", name="head"),
        ],
        name=name,
    )


def geometry_model(base=None):
    return lgg.GeometryModel(base or network(), [lgg.Penalty(losses.GraphSmoothness(), "h1")])


def distiller():
    return lgg.Distiller(
        network(12, "teacher"),
        network(),
        [lgg.Penalty(losses.GraphDistillation(), [("h2", "h1")])],
    )


class Late(keras.Model):
    """Knows its input shape only once it was called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.h1, self.head = layers.Dense(4, name="h1"), layers.Dense(3, "softmax")

    def call(self, x):
        return self.head(self.h1(x))


@pytest.mark.parametrize(
    "late",
    [lambda: keras.Sequential([layers.Dense(4, name="h1"), layers.Dense(3, "softmax")]), Late],
)
def test_build_and_load_weights(late, tmp_path):
    first = geometry_model(late())
    first.compile("sgd", XE)
    first.fit(X, LABELS, verbose=0)
    first.save_weights(tmp_path / "first.weights.h5")
    second = geometry_model(late())
    second.build((None, 8))
    second.load_weights(tmp_path / "first.weights.h5")
    np.testing.assert_allclose(
        second.predict(X, verbose=0), first.predict(X, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_a_clone_is_given_the_teacher_too():
    model = distiller()
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for a, b in zip(clone.teacher.get_weights(), model.teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(clone.student.get_weights(), model.student.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    student = [np.zeros_like(w) for w in keras.Model.get_weights(model)]
    model.set_weights(student)  # the best weights of an earlier version
    assert not np.any([w.any() for w in model.student.get_weights()])
    assert model.teacher.get_weights()[0].any()


def test_a_cloned_layer_with_anchors_gives_nan_until_it_is_loaded():
    inputs = keras.Input((8,))
    anchors = RNG.normal(size=(5, 8)).astype("float32")
    model = keras.Model(inputs, lgg.layers.RelativeRepresentation(anchors)(inputs))
    clone = keras.models.clone_model(model)
    assert np.isnan(clone.predict(X, verbose=0)).all()
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5)


@pytest.mark.parametrize("make", [geometry_model, distiller])
def test_answers_as_the_network_does(make, capsys):
    model = make()
    plain = model.base if hasattr(model, "base") else model.student
    assert model.get_layer("h2") is plain.get_layer("h2")
    assert model.input_shape == plain.input_shape
    assert model.output_shape == plain.output_shape
    texts = []
    for each in (model, plain):
        each.summary(expand_nested=True)
        texts.append(capsys.readouterr().out)
    with_penalties, alone = texts
    assert with_penalties.startswith(alone)
    assert with_penalties[len(alone) :].startswith("Penalty 'graph_")
    assert "h2" in alone


@pytest.mark.ci
@pytest.mark.skipif(BACKEND != "tensorflow", reason="tested as TensorFlow's SavedModel")
@pytest.mark.parametrize("make", [geometry_model, distiller])
def test_exports_the_network(make, tmp_path):
    import tensorflow as tf

    model = make()
    model.compile("sgd", XE)
    model.fit(X, LABELS, verbose=0)
    model.export(str(tmp_path / "exported"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(loaded.serve(X), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights_only", [False, True])
@pytest.mark.parametrize("make", [geometry_model, distiller])
def test_plain_checkpoints(make, weights_only, tmp_path):
    model = make()
    model.compile("sgd", XE)
    path = str(tmp_path / ("{epoch}.weights.h5" if weights_only else "{epoch}.keras"))
    kept = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept.append(self.model.predict(X, verbose=0))

    checkpoint = lgg.callbacks.PlainCheckpoint(path, save_weights_only=weights_only)
    model.fit(X, LABELS, epochs=2, batch_size=8, verbose=0, callbacks=[checkpoint, Keep()])
    for epoch, expected in enumerate(kept, start=1):
        file = path.format(epoch=epoch)
        if weights_only:
            plain = network()
            plain.load_weights(file)
        else:
            plain = keras.saving.load_model(file)
        assert not isinstance(plain, lgg.GeometryModel | lgg.Distiller)
        np.testing.assert_allclose(
            plain.predict(X, verbose=0), expected, rtol=1e-5, atol=1e-6, err_msg=epoch
        )


def test_plain_checkpoints_within_an_epoch(tmp_path):
    inputs = keras.Input((8,))
    h = layers.Dense(4, name="h")(inputs)
    labels = keras.Input((), dtype="int32")
    h = lgg.layers.GeometryPenalty(losses.GraphSmoothness(), 0.1)(h, labels=labels)
    model = keras.Model([inputs, labels], layers.Dense(3, "softmax")(h))
    model.compile("sgd", XE)
    path = tmp_path / "latest.keras"
    model.fit(
        [X, LABELS],
        LABELS,
        batch_size=8,
        verbose=0,
        callbacks=[lgg.callbacks.PlainCheckpoint(str(path), save_freq=1)],
    )
    loaded = keras.saving.load_model(path)
    expected = lgg.layers.without_penalties(model).predict(X, verbose=0)
    np.testing.assert_allclose(loaded.predict(X, verbose=0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["penalty", "layer"])
def test_a_weight_that_is_assigned_after_a_batch_acts_at_the_next(kind):
    """As the sum over the batches of what each step adds, with a learning rate of 0."""
    if kind == "penalty":
        holder = lgg.Penalty(losses.GraphSmoothness(), "h1", weight=0.0)
        model = lgg.GeometryModel(network(), [holder])
    else:
        inputs, labels = keras.Input((8,)), keras.Input((), dtype="int32")
        holder = lgg.layers.GeometryPenalty(losses.GraphSmoothness(), 0.0, name="p")
        h = holder(layers.Dense(3, "softmax")(inputs), labels=labels)
        model = keras.Model([inputs, labels], h)
    data = X if kind == "penalty" else [X, LABELS]
    read = []

    class Ramp(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            holder.weight.assign(holder.weight + 1.0)
            read.append(float(to_numpy(holder.weight)))

    model.compile(keras.optimizers.SGD(0.0), XE)
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    loss = model.fit(data, LABELS, epochs=2, callbacks=[Ramp()], **fit).history["loss"]
    assert read == [1.0, 2.0, 3.0, 4.0]

    def with_weight(weight, rows):
        holder.weight.assign(weight)
        batch = keras.tree.map_structure(lambda a: a[rows], data)
        logs = model.evaluate(batch, LABELS[rows], batch_size=8, verbose=0, return_dict=True)
        return logs["loss"]

    first, second = slice(0, 8), slice(8, 16)
    expected = [
        (with_weight(0.0, first) + with_weight(1.0, second)) / 2,
        (with_weight(2.0, first) + with_weight(3.0, second)) / 2,
    ]
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.skipif(BACKEND == "jax", reason="Keras keeps metrics out of the forward pass")
def test_a_layer_logs_its_value():
    inputs, labels = keras.Input((8,)), keras.Input((), dtype="int32")
    z = layers.Dense(3)(inputs)
    out = lgg.layers.GeometryPenalty(losses.GraphSmoothness(), 0.1, name="gsl")(z, labels=labels)
    model = keras.Model([inputs, labels], out)
    model.compile(keras.optimizers.SGD(0.0), None)
    history = model.fit([X, LABELS], batch_size=10, shuffle=False, epochs=2, verbose=0).history
    parts = [slice(0, 10), slice(10, 16)]
    values = [
        np.sum(to_numpy(losses.graph_smoothness(LABELS[p], model([X[p], LABELS[p]]))))
        for p in parts
    ]
    np.testing.assert_allclose(history["gsl"], [np.average(values, weights=[10, 6])] * 2, rtol=1e-4)


def test_names_that_are_taken():
    penalty = lgg.Penalty(losses.GraphSmoothness(), "h1", name="accuracy")
    model = lgg.GeometryModel(network(), [penalty])
    model.compile("sgd", XE, metrics=["accuracy"])
    with pytest.raises(ValueError, match=r"name 'accuracy' is taken.*Expected one name"):
        model.fit(X, LABELS, verbose=0)
    with pytest.raises(ValueError, match=r"stay what they are.*assign\(0.1\)"):
        model.penalties = [penalty]
    with pytest.raises(ValueError, match=r"is a variable. Expected penalty.weight.assign"):
        model.penalties[0].weight = 0.5
    layer = lgg.layers.GeometryPenalty(losses.GraphSmoothness())
    with pytest.raises(ValueError, match=r"is a variable. Expected penalty.weight.assign"):
        layer.weight = 0.5


def conv(size):
    inputs = keras.Input((size, size, 3))
    h = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="c")(inputs))
    return keras.Model(inputs, layers.Dense(3)(h))


def test_a_teacher_of_another_size():
    images, targets = RNG.random((8, 16, 16, 3)).astype("float32"), RNG.random((8, 3))
    penalty = lgg.Penalty(losses.GraphDistillation(), [("c", "c")])
    model = lgg.Distiller(conv(32), conv(16), [penalty])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"teacher '.*does not take the student's inputs.*teacher"):
        model.fit(images, targets, verbose=0)
    larger = layers.UpSampling2D(2)
    teacher, student = conv(32), conv(16)
    model = lgg.Distiller(teacher, student, [penalty], teacher_inputs=larger)
    model.compile("sgd", "mse")
    found = model.evaluate(images, targets, batch_size=8, verbose=0, return_dict=True)
    expected = np.sum(
        to_numpy(
            losses.graph_distillation(
                teacher.get_layer("c")(larger(images)), student.get_layer("c")(images)
            )
        )
    )
    np.testing.assert_allclose(found["graph_distillation"], expected, rtol=1e-4)
    again = lgg.Distiller.from_config(model.get_config())
    assert isinstance(again._plan.teacher_inputs, layers.UpSampling2D)


def test_an_output_that_is_not_told_is_refused():
    def two():
        inputs = keras.Input((8,))
        return keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(2, name="b")(inputs)])

    with pytest.raises(ValueError, match=r"which output of the teacher.*Expected `taps`"):
        lgg.Distiller(two(), two(), [lgg.Penalty(losses.GraphDistillation())])
    with pytest.raises(ValueError, match=r"which output of the teacher.*Expected `taps`"):
        lgg.Distiller(two(), network(), [lgg.Penalty(losses.GraphDistillation(), [(None, "h1")])])
    lgg.Distiller(two(), network(), [lgg.Penalty(losses.GraphDistillation(), [("b", "h1")])])
