"""A teacher's cache: the same training as with the teacher in memory, or a clear error."""

import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from damage import cut, flip

import keras_lgg as lgg
from keras_lgg.training.fingerprints import DataFingerprint, sample_digests, teacher_fingerprint

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


# What the teacher gave is the same on every backend, wherever it lies.
ONCE = [pytest.param(source, marks=pytest.mark.once) for source in ("arrays", "dataset")]


@pytest.mark.parametrize("source", [*ONCE, "file"])
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
        cached = lgg.teacher_cache.open(path)  # as in another process
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
    (x, _) = next(iter(lgg.teacher_cache(network(10, seed=1), penalty, (X, Y))))
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


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a cache, and its teacher."""
    path = tmp_path_factory.mktemp("written") / "cache"
    model = network(10, seed=1)
    lgg.teacher_cache(model, penalties(), (X, Y), path=path)
    return path, model


class TestFiles:
    """A cache is whole or not there, and nothing but a whole one is opened."""

    @pytest.fixture
    def path(self, written, tmp_path):
        return shutil.copytree(written[0], tmp_path / "cache")

    def test_it_is_opened_wherever_it_is(self, path):
        elsewhere = path.rename(path.with_name("elsewhere"))
        for cached in (lgg.teacher_cache.open(elsewhere), tf.data.Dataset.load(str(elsewhere))):
            assert sum(1 for _ in cached) == len(cached) == 50

    @pytest.mark.parametrize("place", [0.0, 0.01, 0.5, 0.99])
    @pytest.mark.parametrize("harm", [flip, cut])
    def test_a_file_that_was_changed(self, harm, place, path):
        files = [file for file in path.rglob("*") if file.is_file()]
        assert len(files) >= 4
        for file in files:
            whole = file.read_bytes()
            harm(file, place)
            message = rf"{path}' is damaged. Expected .*{file.name}.*teacher_cache\(teacher"
            with pytest.raises(ValueError, match=message):
                lgg.teacher_cache.open(path)
            file.write_bytes(whole)
        assert len(lgg.teacher_cache.open(path)) == 50

    def test_a_file_that_is_missing_or_too_many(self, path):
        (data,) = path.rglob("*.snapshot")
        data.with_name("00000001.snapshot").write_bytes(data.read_bytes())
        with pytest.raises(ValueError, match=r"no files but those.*00000001\.snapshot"):
            lgg.teacher_cache.open(path)
        data.rename(data.with_name("00000001.snapshot"))
        with pytest.raises(ValueError, match=r"damaged.*00000000\.snapshot.*no such file"):
            lgg.teacher_cache.open(path)

    def test_one_of_an_earlier_version(self, path, written):
        (path / "manifest.json").unlink()
        message = r"is no whole cache.*manifest.json.*version 0\.1\.0.*Delete it"
        with pytest.raises(ValueError, match=message):
            lgg.teacher_cache.open(path)
        with pytest.raises(ValueError, match=r"`path`.*of a whole cache.*has no 'manifest.json'"):
            lgg.teacher_cache(written[1], penalties(), (X, Y), path=path)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(ValueError, match=r"`path`.*the folder of a teacher's cache.*is none"):
            lgg.teacher_cache.open(tmp_path / "nothing")

    def test_the_same_again_is_opened(self, path, written, monkeypatch):
        before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
        model = network(10, seed=5)  # whose layers Keras may call something else
        model.set_weights(written[1].get_weights())
        other_order = tf.data.Dataset.from_tensor_slices((X[::-1], Y[::-1])).batch(16)
        for data in ((X, Y), batches(plain()), other_order):
            cached = lgg.teacher_cache(model, penalties(), data, path=path, batch_size=9)
            assert len(cached) == 50
        assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before

    def test_what_is_damaged_is_not_opened_by_writing_it_again(self, path, written):
        (data,) = path.rglob("*.snapshot")
        flip(data)
        with pytest.raises(ValueError, match="damaged"):
            lgg.teacher_cache(written[1], penalties(), (X, Y), path=path)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ((X[:49], Y[:49]), "number of samples 49, .*Received: 50"),
            ((np.repeat(X, 2, 0), np.repeat(Y, 2)), "number of samples 100, .*Received: 50"),
            ((X + np.eye(50, 6, dtype="float32"), Y), "fingerprint of the data"),
            ((X, Y[::-1]), "fingerprint of the data"),
            ((X, Y.astype("float32")), "fingerprint of the data"),
            ((X, Y, np.ones(50, "float32")), "fingerprint of the data"),
        ],
        ids=["fewer", "more", "another sample", "labels", "type", "weights"],
    )
    def test_other_data(self, data, message, path, written):
        message = rf"{path}' holds the cache of something else. Expected the {message}"
        with pytest.raises(ValueError, match=message):
            lgg.teacher_cache(written[1], penalties(), data, path=path)

    def test_another_teacher(self, path, written):
        def other_weights():
            model = network(10, seed=1)
            model.set_weights(written[1].get_weights())
            variance = model.get_layer("norm").moving_variance
            variance.assign(variance + np.eye(10)[3])
            return model

        def other_activation():
            model = network(10, seed=1)
            model.set_weights(written[1].get_weights())
            config = model.get_config()
            (second,) = [c["config"] for c in config["layers"] if c["config"]["name"] == "second"]
            second["activation"] = "tanh"
            changed = keras.Sequential.from_config(config)
            changed.set_weights(written[1].get_weights())
            return changed

        for other in (other_weights(), other_activation(), network(10, seed=2)):
            with pytest.raises(ValueError, match=r"something else.*fingerprint of the teacher"):
                lgg.teacher_cache(other, penalties(), (X, Y), path=path)

    def test_other_taps(self, path, written):
        for chosen in (penalties()[:2], penalties()[1:2]):
            with pytest.raises(ValueError, match=r"the taps \['.*Received: \['first', 'outputs'"):
                lgg.teacher_cache(written[1], chosen, (X, Y), path=path)

    def test_other_inputs_of_the_teacher(self, written, tmp_path):
        model, path = written[1], tmp_path / "cache"
        data = ({"a": X, "b": Y}, Y)
        for given in (data, ({"a": X[::-1], "b": Y[::-1]}, Y[::-1])):
            lgg.teacher_cache(model, penalties(), given, path=path, teacher_inputs=lambda x: x["a"])
        with pytest.raises(ValueError, match=r"something else.*what `teacher_inputs` makes"):
            lgg.teacher_cache(model, penalties(), data, path=path, teacher_inputs=lambda x: -x["a"])
        with pytest.raises(ValueError, match=r"something else.*`teacher_inputs`.*Received: None"):
            lgg.teacher_cache(
                model, penalties(), (X, Y), path=written[0], teacher_inputs=lambda x: x
            )

    @pytest.mark.parametrize(
        "moment",
        [
            "tensorflow.data.Dataset.save",
            "tensorflow.data.Dataset.reduce",
            "keras_lgg.files.checksum",
            "pathlib.Path.write_text",
            "os.fsync",
            "pathlib.Path.replace",
        ],
    )
    @pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "raised"])
    def test_interrupted(self, moment, is_killed, written, tmp_path, monkeypatch):
        class KilledError(Exception):
            pass

        def kill(*args, **kwargs):
            raise KilledError

        path = tmp_path / "cache"
        with monkeypatch.context() as patch:
            patch.setattr(moment, kill)
            if is_killed:  # then nobody tidies up
                patch.setattr("keras_lgg.files.remove", lambda path: None)
            with pytest.raises(KilledError):
                lgg.teacher_cache(written[1], penalties(), (X, Y), path=path)
        assert not path.exists()
        left = is_killed and moment != "tensorflow.data.Dataset.save"
        assert len(list(tmp_path.iterdir())) == left
        assert len(lgg.teacher_cache(written[1], penalties(), (X, Y), path=path)) == 50
        assert list(tmp_path.iterdir()) == [path]
        assert sum(1 for _ in lgg.teacher_cache.open(path)) == 50

    def test_a_dataset_that_cannot_be_read_to_its_end(self, written, tmp_path, monkeypatch):
        save = tf.data.Dataset.save
        monkeypatch.setattr(
            tf.data.Dataset, "save", lambda dataset, path: save(dataset.take(30), path)
        )
        with pytest.raises(OSError, match=r"Expected 50 samples.*Received: 30.*disk"):
            lgg.teacher_cache(written[1], penalties(), (X, Y), path=tmp_path / "cache")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.ci
    def test_killed_while_it_is_written(self, tmp_path):
        path = tmp_path / "cache"
        process = subprocess.Popen(
            [sys.executable, "-c", SLOWLY, path], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "under way\n"
        process.kill()
        process.communicate()
        assert [each.name for each in tmp_path.iterdir()] == ["unfinished_cache"]
        with pytest.raises(ValueError, match="there is none"):
            lgg.teacher_cache.open(path)
        cached = lgg.teacher_cache(network(10, seed=1), penalties(), (X, Y), path=path)
        assert sum(1 for _ in cached) == sum(1 for _ in lgg.teacher_cache.open(path)) == 50
        assert list(tmp_path.iterdir()) == [path]


SLOWLY = """
import sys, time, keras, numpy as np, tensorflow as tf, keras_lgg as lgg
teacher = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="hidden")])
penalty = lgg.Penalty(lgg.losses.GraphDistillation(), [("hidden", "hidden")])
passes = iter(range(9))
def rows():
    which = next(passes)
    for i in range(1000):
        if which == 2 and i > 100:  # while it is written
            print("under way", flush=True)
            time.sleep(60)
        yield np.full((8, 2), i, "float32"), np.zeros(8)
signature = (tf.TensorSpec((None, 2)), tf.TensorSpec((None,), tf.float64))
data = tf.data.Dataset.from_generator(rows, output_signature=signature)
lgg.teacher_cache(teacher, penalty, data, path=sys.argv[1])
"""


class TestFingerprints:
    def model(self, activation="relu", twice=False, **names):
        inputs = keras.Input((4,))
        first, second = (keras.layers.Dense(4, activation, **names) for _ in range(2))
        inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model = keras.Model(inputs, inner((first if twice else second)(first(inputs))))
        for weight in model.weights:
            weight.assign(np.ones(weight.shape))
        return model

    def test_of_a_teacher(self, tmp_path):
        model = self.model()
        expected = teacher_fingerprint(model)
        assert teacher_fingerprint(self.model()) == expected  # though Keras counts its names up
        model.compile("adam", "mse")
        model.trainable = False
        assert teacher_fingerprint(model) == expected
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert teacher_fingerprint(loaded) == expected
        others = [
            self.model("tanh"),
            self.model(twice=True),
            self.model(dtype="float16"),
            self.model(use_bias=False),
        ]
        assert expected not in map(teacher_fingerprint, others)

    def test_of_a_teacher_without_a_config(self):
        class Custom(keras.Model):
            def __init__(self, hidden, thing):
                super().__init__()
                self.hidden = hidden

            def call(self, x):
                return self.hidden(x)

        def custom(layer):
            model = Custom(layer, object())
            model(X[:2])
            return model

        layer = keras.layers.Dense(6)
        expected = teacher_fingerprint(custom(layer))
        assert teacher_fingerprint(custom(layer)) == expected
        assert teacher_fingerprint(custom(keras.layers.Dense(6))) != expected

    def of(self, *batches):
        found = DataFingerprint()
        for batch in batches:
            found.add(batch, sample_digests(batch))
        return found.digest

    def test_of_data(self):
        expected = self.of((X, Y))
        assert self.of((X[30:], Y[30:]), (X[:30], Y[:30])) == expected
        assert self.of((X[:30], Y[:30]), (X[:30], Y[:30])) != self.of((X[:30], Y[:30]))
        assert self.of(({"a": X}, Y)) != self.of(({"b": X}, Y))
        assert self.of(({"a": X, "b": Y},)) == self.of(({"b": Y, "a": X},))
        assert self.of((X.reshape(50, 2, 3), Y)) != expected
        a, b = (np.array([b"one", b"three"], object) for _ in range(2))
        assert self.of((a,)) == self.of((b,)) != self.of((b[:1],))


class TestErrors:
    @pytest.mark.parametrize("on_disk", [False, True])
    def test_augmentation(self, on_disk, tmp_path):
        path = tmp_path / "cache" if on_disk else None
        with pytest.raises(ValueError, match=r"(?s)change from one pass.*augmentation.*in memory"):
            lgg.teacher_cache(network(10, seed=1), penalties(), augmented(), path=path)
        assert path is None or not path.exists()

    def test_one_sample_that_changes_late(self, tmp_path):
        step = tf.Variable(0)

        def change(x, y):
            return tf.cond(
                tf.equal(step.assign_add(1), 97), lambda: (x + 1, y), lambda: (x, y)
            )  # the 47th sample of the second pass

        data = plain().map(change, num_parallel_calls=1).batch(10)
        with pytest.raises(ValueError, match="change from one pass"):
            lgg.teacher_cache(network(10, seed=1), penalties(), data, path=tmp_path / "cache")
        assert not (tmp_path / "cache").exists()

    def test_shuffled_data_are_the_same_data(self):
        data = plain().shuffle(50, reshuffle_each_iteration=True).batch(16)
        cached = lgg.teacher_cache(network(10, seed=1), penalties(), data)
        assert cached.cardinality() == 50

    def test_data_without_end(self):
        with pytest.raises(ValueError, match=r"`data`.*finite"):
            lgg.teacher_cache(network(10, seed=1), penalties(), batches(plain()).repeat())

    def test_data_of_another_kind(self):
        with pytest.raises(ValueError, match=r"`data`.*tuple of arrays.*list"):
            lgg.teacher_cache(network(10, seed=1), penalties(), [X, Y])

    def test_samples_that_are_left_out_or_come_twice(self):
        for change in (lambda data: data.take(2), lambda data: data.repeat(2)):
            passes = tf.Variable(0)
            once = batches(plain()).prefetch(0)

            def rows(change=change, passes=passes, once=once):
                data = change(once) if int(passes.assign_add(1)) == 2 else once
                yield from data.as_numpy_iterator()

            data = tf.data.Dataset.from_generator(rows, output_signature=once.element_spec)
            with pytest.raises(ValueError, match="change from one pass"):
                lgg.teacher_cache(network(10, seed=1), penalties(), data)

    @pytest.mark.parametrize(
        "data", [(X[:0], Y[:0]), batches(plain().take(0))], ids=["arrays", "dataset"]
    )
    def test_no_data(self, data):
        with pytest.raises(ValueError, match=r"`data`.*at least one sample"):
            lgg.teacher_cache(network(10, seed=1), penalties(), data)

    def test_a_path_that_exists(self, tmp_path):
        with pytest.raises(ValueError, match=r"`path`.*does not exist yet"):
            lgg.teacher_cache(network(10, seed=1), penalties(), (X, Y), path=tmp_path)

    def test_an_unknown_tap(self):
        penalty = lgg.Penalty(lgg.losses.GraphDistillation(), [("secnd", "first")])
        with pytest.raises(ValueError, match=r"Unknown tap 'secnd'.*Did you mean 'second'"):
            lgg.teacher_cache(network(10, seed=1), penalty, (X, Y))

    def test_a_cache_of_other_penalties(self):
        penalty = lgg.Penalty(lgg.losses.GraphDistillation(), [("second", "first")])
        cached = lgg.teacher_cache(network(10, seed=1), penalty, (X, Y))
        with pytest.raises(ValueError, match=r"(?s)does not hold.*first.*outputs.*second"):
            trained(lgg.Distiller(None, network(4, 2), penalties()), cached.batch(10))

    def test_neither_teacher_nor_cache(self):
        with pytest.raises(ValueError, match=r"(?s)has no teacher.*teacher_cache"):
            trained(lgg.Distiller(None, network(4, 2), penalties()), batches(plain()))
