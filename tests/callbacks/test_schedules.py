"""`PenaltyWeightSchedule`: which weight a step trains with, whatever came before it."""

import keras
import numpy as np
import pytest
from autodiff import BACKEND, to_numpy
from backends import needs
from keras import layers
from keras.optimizers import schedules

import keras_lgg as lgg
from keras_lgg import losses
from keras_lgg.callbacks import AtomicBackup, PenaltyWeightSchedule

RNG = np.random.default_rng(0)
BATCH = RNG.normal(size=(6, 4)).astype("float32")
X, Y = np.tile(BATCH, (4, 1)), np.tile(np.arange(6) % 2, 4)  # four equal batches an epoch
NO_HEAD = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")


def network():
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="h1"), layers.Dense(5, name="h2")]
    )


def geometry_model(**kwargs):
    return lgg.GeometryModel(network(), [lgg.Penalty(losses.GraphSmoothness(), "h1", **kwargs)])


def distiller():
    return lgg.Distiller(
        network(), network(), [lgg.Penalty(losses.GraphDistillation(), [("h1", "h2")])]
    )


def with_layer(**kwargs):
    inputs, labels = keras.Input((4,)), keras.Input((), dtype="int32")
    h = layers.Dense(5)(inputs)
    penalty = lgg.layers.GeometryPenalty(
        losses.GraphSmoothness(), **{"weight": 1.0, "name": "smooth", **kwargs}
    )
    return keras.Model([inputs, labels], penalty(h, labels=labels))


def fit(model, callbacks, epochs=2, rate=0.0, **kwargs):
    if not model.compiled:
        model.compile(
            keras.optimizers.SGD(rate), steps_per_execution=kwargs.pop("steps_per_execution", 1)
        )
    options = {"batch_size": 6, "verbose": 0, "shuffle": False, **kwargs}
    return model.fit(X, Y, epochs=epochs, callbacks=callbacks, **options).history


class Recorder(keras.callbacks.Callback):
    """The weight that each step had."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        if BACKEND == "jax":
            self.model.jax_state_sync()
        self.weights.append(round(float(self.model.penalties[0].weight), 5))


def weights(schedule, epochs=2, model=None, **kwargs):
    recorder = Recorder()
    fit(model or geometry_model(), [schedule, recorder], epochs, **kwargs)
    return recorder.weights


def set_weights(schedule, epochs=2, *, first=0):
    """The weights that the callback sets, with no training: four steps an epoch."""
    model = geometry_model()
    model.compile(keras.optimizers.SGD(0.0))
    schedule.set_model(model)
    schedule.on_train_begin()
    found = []
    for epoch in range(first, epochs):
        model.optimizer.iterations.assign(4 * epoch)
        schedule.on_epoch_begin(epoch)
        for batch in range(4):
            schedule.on_train_batch_begin(batch)
            found.append(round(float(model.penalties[0].weight), 5))
    return found


def powers(step):
    return 2.0**step


@NO_HEAD
@pytest.mark.parametrize("make", [geometry_model, distiller])
def test_the_compiled_step_has_the_weight(make):
    """With a learning rate of 0 and equal batches, the loss is a constant times the weight."""
    history = fit(make(), [PenaltyWeightSchedule(powers)])
    name = "graph_smoothness" if make is geometry_model else "graph_distillation"
    value = history[name][0]
    assert value > 0.1
    np.testing.assert_allclose(history["loss"][0], value * (1 + 2 + 4 + 8) / 4, rtol=1e-5)
    np.testing.assert_allclose(history["loss"][1], value * (16 + 32 + 64 + 128) / 4, rtol=1e-5)
    assert history[f"{name}_weight"] == [8.0, 128.0]


def test_a_layer_in_a_plain_model():
    model = with_layer()
    model.compile(keras.optimizers.SGD(0.0))
    options = {"batch_size": 6, "verbose": 0, "shuffle": False}
    constant = model.fit([X, Y], **options).history["loss"][0]
    schedule = PenaltyWeightSchedule(powers, "smooth")
    history = model.fit([X, Y], callbacks=[schedule], **options).history
    np.testing.assert_allclose(history["loss"][0], constant * (16 + 32 + 64 + 128) / 4, rtol=1e-5)
    assert history["smooth_weight"] == [128.0]


@NO_HEAD
def test_trains_as_a_loop_that_sets_the_weight():
    trained, looped = geometry_model(), geometry_model()
    looped.set_weights(trained.get_weights())
    fit(trained, [PenaltyWeightSchedule(lambda step: 0.3 / (1 + step))], rate=0.1)
    looped.compile(keras.optimizers.SGD(0.1))
    for step in range(8):
        looped.penalties[0].weight.assign(0.3 / (1 + step))
        looped.train_on_batch(BATCH, Y[:6])
    kernel = trained.base.layers[0].kernel
    np.testing.assert_allclose(to_numpy(kernel), looped.base.layers[0].kernel, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "options", "expected"),
    [
        (lambda t: t + 1, {}, [1, 2, 3, 4, 5, 6, 7, 8]),
        (lambda t: t + 1, {"delay": 3}, [0, 0, 0, 1, 2, 3, 4, 5]),
        (lambda t: t + 1, {"warmup": 2}, [0, 1, 3, 4, 5, 6, 7, 8]),
        (0.4, {"warmup": 4}, [0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4]),
        (1, {"delay": 2, "warmup": 4}, [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]),
        (lambda t: t + 1, {"unit": "epoch"}, [1, 1, 1, 1, 2, 2, 2, 2]),
        (2.0, {"unit": "epoch", "delay": 1}, [0, 0, 0, 0, 2, 2, 2, 2]),
        (2.0, {"unit": "epoch", "warmup": 4}, [0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5]),
        (np.float32(0.5), {}, [0.5] * 8),
        (lambda t: keras.ops.convert_to_tensor(0.5), {}, [0.5] * 8),
    ],
)
def test_the_weight_of_each_step(schedule, options, expected):
    assert set_weights(PenaltyWeightSchedule(schedule, **options)) == expected


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.ExponentialDecay(0.1, 3, 0.5),
        schedules.PiecewiseConstantDecay([2, 5], [0.1, 0.2, 0.3]),
        schedules.PolynomialDecay(0.1, 5, 0.01, power=2.0),
        schedules.InverseTimeDecay(0.1, 2, 0.5),
        schedules.CosineDecay(0.0, 4, warmup_target=0.1, warmup_steps=3),
        schedules.CosineDecayRestarts(0.1, 3),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_schedules_of_keras(schedule):
    expected = [round(float(schedule(step)), 5) for step in range(4)]
    assert len(set(expected)) > 1
    assert set_weights(PenaltyWeightSchedule(schedule), epochs=1) == expected


@NO_HEAD
@needs("`steps_per_execution`")
def test_several_steps_an_execution():
    history = fit(geometry_model(), [PenaltyWeightSchedule(powers)], steps_per_execution=2)
    value = history["graph_smoothness"][0]
    np.testing.assert_allclose(history["loss"][0], value * (1 + 1 + 4 + 4) / 4, rtol=1e-5)
    assert history["graph_smoothness_weight"] == [4.0, 64.0]


@NO_HEAD
def test_a_second_fit_goes_on():
    model = geometry_model()
    schedule = PenaltyWeightSchedule(lambda step: step)
    assert weights(schedule, 1, model) == [0, 1, 2, 3]
    assert weights(schedule, 1, model) == [4, 5, 6, 7]
    model.compile(keras.optimizers.SGD(0.0))  # a new optimizer has made no step
    assert weights(schedule, 1, model) == [0, 1, 2, 3]


@NO_HEAD
def test_a_weight_that_was_changed_between_two_fits():
    model, schedule = geometry_model(), PenaltyWeightSchedule(0.25)
    assert weights(schedule, 1, model) == [0.25] * 4
    model.penalties[0].weight.assign(9.0)
    assert weights(schedule, 1, model) == [0.25] * 4


def test_epochs_from_the_initial_one():
    schedule = PenaltyWeightSchedule(lambda epoch: epoch, unit="epoch")
    assert set_weights(schedule, 4, first=2) == [2, 2, 2, 2, 3, 3, 3, 3]


@NO_HEAD
def test_accumulated_gradients():
    model = geometry_model()
    model.compile(keras.optimizers.SGD(0.0, gradient_accumulation_steps=2))
    schedule = PenaltyWeightSchedule(lambda step: step)
    assert weights(schedule, 2, model) == list(range(8))


@NO_HEAD
@needs("several devices, `tf.distribute.MirroredStrategy`")
def test_replicas():
    """One device will do: its variables are those of several."""
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = geometry_model()
        model.compile(keras.optimizers.SGD(0.0))
    history = fit(model, [PenaltyWeightSchedule(powers)])
    value = history["graph_smoothness"][0]
    np.testing.assert_allclose(history["loss"][1], value * (16 + 32 + 64 + 128) / 4, rtol=1e-5)
    assert history["graph_smoothness_weight"] == [8.0, 128.0]


class KilledError(Exception):
    pass


class Kill(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KilledError


@NO_HEAD
def test_goes_on_from_a_backup(tmp_path):
    def train(folder, *more):
        keras.utils.set_random_seed(1)
        model = geometry_model()
        model.compile(keras.optimizers.Adam(0.01))
        schedule = PenaltyWeightSchedule(lambda t: 0.1 * t, delay=1, warmup=3)
        recorder = Recorder()
        try:
            history = fit(model, [schedule, AtomicBackup(folder), recorder, *more], 4)
        except KilledError:
            return recorder.weights, None, None
        return recorder.weights, history["graph_smoothness_weight"], model.get_weights()

    recorded, logged, expected = train(tmp_path / "whole")
    first, _, _ = train(tmp_path / "killed", Kill())
    rest, logged_rest, found = train(tmp_path / "killed")
    assert len(first) == len(rest) == 8
    assert first + rest == recorded
    assert logged_rest == logged[2:]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("value", "received"),
    [
        (-0.5, "-0.5"),
        (np.nan, "nan"),
        (np.inf, "inf"),
        (None, "None"),
        ("0.1", "'0.1'"),
        (True, "True"),
        (np.ones(1), r"array\(\[1"),
        (1j, "1j"),
    ],
)
def test_no_weight(value, received):
    schedule = PenaltyWeightSchedule(lambda step: value if step == 2 else 0.1, delay=3)
    with pytest.raises(
        ValueError,
        match=rf"'graph_smoothness' no weight at step 5. .*Received: {received}.*for 2 s",
    ):
        set_weights(schedule)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": "cosine"}, "`schedule`. Expected a keras.optimizers.schedules"),
        ({"schedule": -1.0}, "`schedule`.*Received: schedule=-1.0"),
        ({"schedule": np.nan}, "`schedule`.*Received: schedule=nan"),
        ({"schedule": 1.0, "unit": "batch"}, "`unit`. Expected one of"),
        ({"schedule": 1.0, "delay": -1}, "`delay`. Expected a number of steps, at least 0"),
        ({"schedule": 1.0, "delay": 1.5}, "`delay`"),
        ({"schedule": 1.0, "unit": "epoch", "warmup": True}, "`warmup`. Expected a number of epoc"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PenaltyWeightSchedule(**arguments)


def penalties(*names):
    return [lgg.Penalty(losses.GraphSmoothness(), "h1", 1.0, name=name) for name in names]


@NO_HEAD
def test_one_of_several_penalties():
    model = lgg.GeometryModel(network(), penalties("one", "two"))
    fit(model, [PenaltyWeightSchedule(0.25, "two")], 1)
    assert [float(penalty.weight) for penalty in model.penalties] == [1.0, 0.25]


@pytest.mark.parametrize(("name", "received"), [(None, "None"), ("three", "'three'")])
def test_which_of_several_penalties(name, received):
    model = lgg.GeometryModel(network(), penalties("one", "two"))
    message = (
        rf"`penalty`. Expected one of the names \['one', 'two'\].*Received: penalty={received}"
    )
    with pytest.raises(ValueError, match=message):
        fit(model, [PenaltyWeightSchedule(1.0, name)])


def test_no_penalty():
    model = network()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"has no penalty to schedule.*Received: a Sequential"):
        model.fit(X, np.ones((24, 5)), verbose=0, callbacks=[PenaltyWeightSchedule(1.0)])


@pytest.mark.parametrize("make", [geometry_model, with_layer])
def test_a_balanced_penalty(make):
    schedule = PenaltyWeightSchedule(1.0)
    schedule.set_model(make(weight="balanced"))
    with pytest.raises(ValueError, match=r"of the penalty '.*smooth.*' cannot be set.*balanced"):
        schedule.on_train_begin()
