import pathlib

import keras
import numpy as np
import pytest
from backends import needs
from keras import layers, ops

import keras_lgg as lgg
from keras_lgg import losses

X = np.random.default_rng(0).random((40, 6)).astype("float32")
Y = np.arange(40) % 3


class Broken(layers.Layer):
    """The identity, but NaN (or another value) for a batch with a negative input."""

    def __init__(self, value=np.nan, **kwargs):
        super().__init__(**kwargs)
        self.value = value

    def call(self, x):
        return ops.where(ops.any(x < 0), self.value * ops.ones_like(x), x)


def network(value=np.nan, bad="b2"):
    inputs = keras.Input((6,))
    x = inputs
    for name in ("b1", "b2", "b3"):
        layer = Broken(value, name=name) if name == bad else layers.Identity(name=name)
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

    class KilledError(Exception):
        pass

    def train(self, path, epochs=4):
        keras.utils.set_random_seed(0)
        model = geometry_model(network(bad=None))
        model.compile(
            keras.optimizers.Adam(0.01),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        backup = lgg.callbacks.AtomicBackup(path)
        history = model.fit(X, Y, 10, epochs, verbose=0, shuffle=False, callbacks=[backup])
        return len(history.epoch), model.get_weights()

    @pytest.mark.parametrize(
        ("moment", "left"),
        [
            ("keras.Model.save_weights", 3),  # before the second backup is written
            ("numpy.savez", 3),  # half written
            ("pathlib.Path.rename", 3),  # written, not in place
            ("shutil.rmtree", 2),  # in place, while the first one is removed
        ],
    )
    def test_interrupted_in_the_second_backup(self, moment, left, tmp_path, monkeypatch):
        _, expected = self.train(tmp_path / "whole")
        on_epoch_end = lgg.callbacks.AtomicBackup.on_epoch_end

        def kill(path, *args, **kwargs):
            if pathlib.Path(str(path)).name != "unfinished" or moment == "pathlib.Path.rename":
                raise self.KilledError

        def interrupted(backup, epoch, logs=None):
            with monkeypatch.context() as patch:
                if epoch == 1:
                    patch.setattr(moment, kill)
                on_epoch_end(backup, epoch, logs)

        with monkeypatch.context() as patch:
            patch.setattr(lgg.callbacks.AtomicBackup, "on_epoch_end", interrupted)
            with pytest.raises(self.KilledError):
                self.train(tmp_path / "backup")
        epochs, found = self.train(tmp_path / "backup")
        assert epochs == left
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
        assert not (tmp_path / "backup").exists()

    def test_a_model_that_fit_builds(self, tmp_path):
        model = keras.Sequential([layers.Dense(3)])
        model.compile("sgd", "mse")
        backup = lgg.callbacks.AtomicBackup(tmp_path)
        history = model.fit(X, X[:, :3], epochs=2, verbose=0, callbacks=[backup])
        assert len(history.epoch) == 2
