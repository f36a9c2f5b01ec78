import re
import shutil
import warnings

import keras
import numpy as np
import pytest
from backends import needs
from damage import HARMS, flip
from keras import layers, ops

import keras_lgg as lgg
from keras_lgg import losses

X = np.random.default_rng(0).random((40, 6)).astype("float32")
Y = np.arange(40) % 3


class Broken(layers.Layer):
    """Nearly the identity, but NaN (or another value) for a batch with a negative input."""

    def __init__(self, value=np.nan, **kwargs):
        super().__init__(**kwargs)
        self.value = value

    def call(self, x):
        return ops.where(ops.any(x < 0), self.value * ops.ones_like(x), 0.9 * x)


def network(value=np.nan, bad="b2"):
    inputs = keras.Input((6,))
    x = inputs
    for name in ("b1", "b2", "b3"):
        layer = Broken(value, name=name) if name == bad else layers.Rescaling(0.9, name=name)
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def bad_batch(step, size=10):
    """The data, with a negative number in the batch of one step, counted from 1."""
    x = X.copy()
    x[(step - 1) * size, 0] = -1.0
    return x


def fit(model, x, **kwargs):
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=kwargs.pop("steps_per_execution", 1),
    )
    guard = lgg.callbacks.GeometryGuard()
    return model.fit(x, Y, batch_size=10, shuffle=False, verbose=0, callbacks=[guard], **kwargs)


def geometry_model(base, taps=("b1", "b2", "b3"), loss=None):
    loss = loss or losses.SmoothnessVariation(num_classes=3)
    return lgg.GeometryModel(base, [lgg.Penalty(loss, list(taps), 0.1)])


@pytest.mark.parametrize("step", [1, 3])
def test_names_the_penalty_the_taps_and_the_step(step):
    with pytest.raises(FloatingPointError) as error:
        fit(geometry_model(network()), bad_batch(step))
    assert f"'smoothness_variation' is not finite at step {step}." in str(error.value)
    assert "'b2', 'b3'" in str(error.value)
    assert "'b1'" not in str(error.value)


def test_the_taps_of_a_teacher():
    student = network(bad=None)
    penalty = lgg.Penalty(losses.GraphDistillation(), [("b1", "b1"), ("b3", "b1")])
    with pytest.raises(FloatingPointError, match="at 'b3 of the teacher'"):
        fit(lgg.Distiller(network(), student, [penalty]), bad_batch(2))


def test_a_loss_that_overflows_on_finite_taps():
    class Overflow(losses.GeometryLoss):
        def call(self, y_true, y_pred):
            return ops.exp(1e6 * ops.sum(y_pred, axis=1))

        needs_labels = True

    model = geometry_model(network(bad=None), ["b1"], Overflow(name="overflow"))
    with pytest.raises(FloatingPointError, match=r"'overflow' is not finite at step 1.*overflowed"):
        fit(model, X)


def test_layers_in_a_plain_model():
    inputs = keras.Input((6,))
    h1 = layers.Dense(4)(Broken()(inputs))
    h2 = layers.Dense(4)(h1)
    h2 = lgg.layers.GeometryPenalty(losses.GraphVariation(), name="smooth")([h1, h2])
    with pytest.raises(FloatingPointError, match="'smooth' is not finite at step 4"):
        fit(keras.Model(inputs, layers.Dense(3)(h2)), bad_batch(4))


def test_the_compiled_loss_alone():
    model = geometry_model(network(bad="b3"), ["b1", "b2"])
    with pytest.raises(FloatingPointError, match="while the geometry penalties were finite"):
        fit(model, bad_batch(2))


@needs("`steps_per_execution`")
def test_several_steps_an_execution():
    with pytest.raises(FloatingPointError, match="not finite at step 4"):
        fit(geometry_model(network()), bad_batch(3), steps_per_execution=4)


def test_finite_training_goes_on():
    history = fit(geometry_model(network()), X, epochs=2)
    assert sorted(history.history) == ["loss", "smoothness_variation"]
    assert len(history.history["loss"]) == 2


def test_nothing_to_guard():
    with pytest.raises(ValueError, match=r"nothing to guard.*TerminateOnNaN"):
        fit(network(), X)


class TestAtomicBackup:
    """`test_interrupts` kills whole processes; here, at the moments that chance may miss."""

    STOPPED, WHOLE = [], []  # what several tests use is trained once

    class KilledError(Exception):
        pass

    def assert_as_if_it_had_not_stopped(self, found):
        if not self.WHOLE:
            self.WHOLE.append(self.train(None)[1])
        for a, b in zip(found, self.WHOLE[0], strict=True):
            np.testing.assert_array_equal(a, b)

    def train(self, path, epochs=4):
        keras.utils.set_random_seed(0)
        model = geometry_model(network(bad=None))
        model.compile(
            keras.optimizers.Adam(0.01),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        backups = [] if path is None else [lgg.callbacks.AtomicBackup(path)]
        history = model.fit(X, Y, 10, epochs, verbose=0, shuffle=False, callbacks=backups)
        return len(history.epoch), model.get_weights()

    @pytest.mark.parametrize(
        ("moment", "left"),
        [
            ("keras.Model.save_weights", 2),  # before the third backup is written
            ("numpy.savez", 2),  # half written
            ("keras_lgg.files.write_manifest", 2),
            ("os.fsync", 2),
            ("pathlib.Path.replace", 2),  # written, not in place
            ("shutil.rmtree", 1),  # in place, while the first one is removed
        ],
    )
    def test_interrupted_in_the_third_backup(self, moment, left, tmp_path, monkeypatch):
        on_epoch_end = lgg.callbacks.AtomicBackup.on_epoch_end

        def kill(*args, **kwargs):
            raise self.KilledError

        def interrupted(backup, epoch, logs=None):
            with monkeypatch.context() as patch:
                if epoch == 2:
                    patch.setattr(moment, kill)
                    patch.setattr("keras_lgg.files.remove", lambda path: None)  # as none is left to
                on_epoch_end(backup, epoch, logs)

        with monkeypatch.context() as patch:
            patch.setattr(lgg.callbacks.AtomicBackup, "on_epoch_end", interrupted)
            with pytest.raises(self.KilledError):
                self.train(tmp_path / "backup")
        unfinished = [path for path in (tmp_path / "backup").iterdir() if "unfin" in path.name]
        assert len(unfinished) == (moment != "shutil.rmtree")
        epochs, found = self.train(tmp_path / "backup")
        assert epochs == left
        self.assert_as_if_it_had_not_stopped(found)
        assert not (tmp_path / "backup").exists()

    @pytest.fixture
    def backups(self, tmp_path, tmp_path_factory, monkeypatch):
        """The folder that a training leaves which was stopped after its third epoch."""
        if not self.STOPPED:
            self.STOPPED.append(tmp_path_factory.mktemp("stopped") / "backup")
            with monkeypatch.context() as patch:
                patch.setattr(lgg.callbacks.AtomicBackup, "on_train_end", lambda *args: None)
                self.train(self.STOPPED[0], epochs=3)
        return shutil.copytree(self.STOPPED[0], tmp_path / "backup")

    def test_the_last_two_are_kept(self, backups):
        found = sorted(path.relative_to(backups).as_posix() for path in backups.rglob("*.*"))
        names = ["manifest.json", "model.weights.h5", "seeds.npz"]
        assert found == [f"{epoch}/{name}" for epoch in ("000002", "000003") for name in names]

    @pytest.mark.parametrize("name", ["manifest.json", "model.weights.h5", "seeds.npz"])
    @pytest.mark.parametrize("harm", HARMS)
    def test_a_damaged_backup_is_passed_over(self, name, harm, backups):
        HARMS[harm](backups / "000003" / name)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            epochs, found = self.train(backups)
        (text,) = [str(each.message) for each in caught if "backup" in str(each.message)]
        message = rf"The backup '.*000003' is damaged\. Expected .*{name}.* before, '.*000002'"
        assert re.match(message, text)
        assert epochs == 2
        self.assert_as_if_it_had_not_stopped(found)

    def test_all_are_damaged(self, backups):
        for path in backups.rglob("*.h5"):
            flip(path)
        message = r"no backup is whole.*000003' is damaged.*Received.*000002' is damaged.*Delete"
        with pytest.raises(ValueError, match=message):
            self.train(backups)
        assert len(list(backups.iterdir())) == 2  # nothing is thrown away

    def test_one_of_an_earlier_version(self, backups):
        for path in backups.rglob("manifest.json"):
            path.unlink()
        with pytest.raises(ValueError, match=r"version 0\.1\.0.*load_weights\('.*000003/model"):
            self.train(backups)

    def test_a_model_that_fit_builds(self, tmp_path):
        model = keras.Sequential([layers.Dense(3)])
        model.compile("sgd", "mse")
        backup = lgg.callbacks.AtomicBackup(tmp_path)
        history = model.fit(X, X[:, :3], epochs=2, verbose=0, callbacks=[backup])
        assert len(history.epoch) == 2
