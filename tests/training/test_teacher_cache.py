"""A teacher's cache: the same training as with the teacher in memory, or a clear error."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lgg as lgg

X = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
Y = np.arange(50) % 3


def network(width, seed):
    init = keras.initializers.GlorotUniform(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(width, "relu", kernel_initializer=init, name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(width, "relu", kernel_initializer=init, name="second"),
            keras.layers.Dense(3, kernel_initializer=init),
        ]
    )


def penalties():
    taps = [("first", "first"), ("second", "second")]
    logits = keras.distillation.LogitsDistillation(temperature=3.0)
    return [
        lgg.Penalty(lgg.losses.GraphDistillation(), taps, weight=2.0),
        lgg.Penalty(lgg.losses.RelationalDistance(), taps[1:], weight=1.0),
        lgg.Penalty(logits, weight=0.5),
    ]


def teacher():
    model = network(10, seed=1)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, epochs=3, verbose=0)  # moves the statistics of the BatchNormalization
    return model


def trained(distiller, data, **kwargs):
    distiller.compile(
        keras.optimizers.SGD(0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = distiller.fit(data, epochs=2, shuffle=False, verbose=0, **kwargs)
    return distiller.student.get_weights(), history.history


def batches(data):
    return data.batch(16)


def plain():
    return tf.data.Dataset.from_tensor_slices((X, Y))


@pytest.mark.parametrize("source", ["arrays", "dataset", "file"])
def test_training_is_that_with_the_teacher_in_memory(source, tmp_path):
    model = teacher()
    expected, history = trained(
        lgg.Distiller(model, network(4, 2), penalties()),
        batches(plain()),
        validation_data=batches(plain()),
    )
    data = (X, Y) if source == "arrays" else batches(plain())
    path = tmp_path / "cache" if source == "file" else None
    cached = lgg.teacher_cache(model, penalties(), data, path=path, batch_size=7)
    del model
    if source == "file":
        cached = tf.data.Dataset.load(str(path))  # as in another process
    found, cached_history = trained(
        lgg.Distiller(None, network(4, 2), penalties()),
        batches(cached),
        validation_data=batches(cached),
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert set(cached_history) == set(history)
    assert {"graph_distillation", "val_graph_distillation"} <= set(history)
    for name, values in history.items():
        np.testing.assert_allclose(cached_history[name], values, rtol=1e-4)


def test_representations_stay_with_their_sample_in_any_order():
    model = teacher()
    cached = lgg.teacher_cache(model, penalties(), (X, Y))
    tapped = keras.Model(model.inputs[0], model.get_layer("second").output)
    for x, y in cached.shuffle(50, seed=3).batch(20):
        np.testing.assert_allclose(
            x["teacher"]["second"], tapped.predict(x["inputs"].numpy(), verbose=0), rtol=1e-5
        )
        rows = [np.flatnonzero((row == X).all(axis=1))[0] for row in x["inputs"].numpy()]
        np.testing.assert_array_equal(Y[rows], y)


def test_only_what_the_penalties_tap_is_kept():
    penalty = lgg.Penalty(lgg.losses.GraphDistillation(), [("second", "first")])
    (x, _) = next(iter(lgg.teacher_cache(teacher(), penalty, (X, Y))))
    assert set(x["teacher"]) == {"second"}
    assert x["teacher"]["second"].shape == (10,)


def test_sample_weights_and_structures_pass_through():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((3,), name="b")}
    joined = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    hidden = keras.layers.Dense(5, name="hidden")(joined)
    model = keras.Model(inputs, keras.layers.Dense(3, name="out")(hidden))
    data = ({"a": X[:, :3], "b": X[:, 3:]}, Y, np.ones(50, "float32"))
    penalty = lgg.Penalty(lgg.losses.GraphDistillation(), [("hidden", "hidden")])
    cached = lgg.teacher_cache(model, penalty, data)
    x, _, weight = next(iter(cached.batch(50)))
    assert set(x["inputs"]) == {"a", "b"}
    assert weight.shape == (50,)
    student = keras.models.clone_model(model)
    weights, _ = trained(lgg.Distiller(None, student, [penalty]), cached.batch(25))
    assert all(np.isfinite(w).all() for w in weights)


def test_the_student_predicts_plain_inputs():
    distiller = lgg.Distiller(None, network(4, 2), penalties())
    np.testing.assert_allclose(
        distiller.predict(X, verbose=0), distiller.student.predict(X, verbose=0), rtol=1e-6
    )


def augmented():
    """New in each pass; random ops of TensorFlow, once seeded, begin each pass anew."""
    shift = tf.Variable(0.0)
    return plain().map(lambda x, y: (x + shift.assign_add(0.1), y)).batch(16)


class TestErrors:
    @pytest.mark.parametrize("on_disk", [False, True])
    def test_augmentation(self, on_disk, tmp_path):
        path = tmp_path / "cache" if on_disk else None
        with pytest.raises(ValueError, match=r"(?s)change from one pass.*augmentation.*in memory"):
            lgg.teacher_cache(teacher(), penalties(), augmented(), path=path)
        assert path is None or not path.exists()

    def test_one_sample_that_changes_late(self, tmp_path):
        step = tf.Variable(0)

        def change(x, y):
            return tf.cond(
                tf.equal(step.assign_add(1), 97), lambda: (x + 1, y), lambda: (x, y)
            )  # the 47th sample of the second pass

        data = plain().map(change, num_parallel_calls=1).batch(10)
        with pytest.raises(ValueError, match="change from one pass"):
            lgg.teacher_cache(teacher(), penalties(), data, path=tmp_path / "cache")
        assert not (tmp_path / "cache").exists()

    def test_shuffled_data_are_the_same_data(self):
        data = plain().shuffle(50, reshuffle_each_iteration=True).batch(16)
        cached = lgg.teacher_cache(teacher(), penalties(), data)
        assert cached.cardinality() == 50

    def test_data_without_end(self):
        with pytest.raises(ValueError, match=r"`data`.*finite"):
            lgg.teacher_cache(teacher(), penalties(), batches(plain()).repeat())

    def test_data_of_another_kind(self):
        with pytest.raises(ValueError, match=r"`data`.*tuple of arrays.*list"):
            lgg.teacher_cache(teacher(), penalties(), [X, Y])

    def test_a_path_that_exists(self, tmp_path):
        with pytest.raises(ValueError, match=r"`path`.*does not exist yet"):
            lgg.teacher_cache(teacher(), penalties(), (X, Y), path=tmp_path)

    def test_an_unknown_tap(self):
        penalty = lgg.Penalty(lgg.losses.GraphDistillation(), [("secnd", "first")])
        with pytest.raises(ValueError, match=r"Unknown tap 'secnd'.*Did you mean 'second'"):
            lgg.teacher_cache(teacher(), penalty, (X, Y))

    def test_a_cache_of_other_penalties(self):
        penalty = lgg.Penalty(lgg.losses.GraphDistillation(), [("second", "first")])
        cached = lgg.teacher_cache(teacher(), penalty, (X, Y))
        with pytest.raises(ValueError, match=r"(?s)does not hold.*first.*outputs.*second"):
            trained(lgg.Distiller(None, network(4, 2), penalties()), cached.batch(10))

    def test_neither_teacher_nor_cache(self):
        with pytest.raises(ValueError, match=r"(?s)has no teacher.*teacher_cache"):
            trained(lgg.Distiller(None, network(4, 2), penalties()), batches(plain()))
