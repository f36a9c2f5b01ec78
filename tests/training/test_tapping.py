"""Penalties in training steps of one's own, and models whose own steps a wrapper would lose."""

import keras
import numpy as np
import pytest
from autodiff import BACKEND, to_numpy
from keras import layers, ops

import keras_lgg as lgg
from keras_lgg import losses

RNG = np.random.default_rng(0)
X = RNG.random((12, 8)).astype("float32")
LABELS = np.arange(12) % 3


def network(width=8, seed=0, name=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(width, "relu", name="h1"),
            layers.Dense(width, "relu", name="h2"),
            layers.Dense(3, name="out"),
        ],
        name=name,
    )


def penalties():
    return [
        lgg.Penalty(losses.GraphSmoothness(), "h1", weight=0.5, name="gsl"),
        lgg.Penalty(losses.GraphVariation(), ["h1", "h2"], weight=2.0),
        lgg.Penalty(losses.GraphSmoothness(), weight=0.25, name="output"),
    ]


def test_the_values_are_those_of_the_model():
    model = network()
    with lgg.tapping(model, penalties()) as geometry:
        outputs = model(X, training=True)
    loss = geometry.loss(LABELS)
    h1 = model.get_layer("h1")(X)
    h2 = model.get_layer("h2")(h1)
    expected = {
        "gsl": ops.sum(losses.graph_smoothness(LABELS, h1)),
        "graph_variation": losses.graph_variation([h1, h2]),
        "output": ops.sum(losses.graph_smoothness(LABELS, outputs)),
    }
    assert set(geometry.values) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(to_numpy(geometry.values[name]), to_numpy(value), rtol=1e-5)
    total = 0.5 * expected["gsl"] + 2 * expected["graph_variation"] + 0.25 * expected["output"]
    np.testing.assert_allclose(to_numpy(loss), to_numpy(total), rtol=1e-5)
    assert "call" not in vars(model.get_layer("h1"))


def test_with_a_teacher_who_sees_the_data_differently():
    teacher, student = network(16, seed=1), network()
    penalty = lgg.Penalty(losses.GraphDistillation(), [("h2", "h1")], weight=3.0)
    with lgg.tapping(
        student, [penalty], teacher=teacher, teacher_inputs=lambda x: 2 * x
    ) as geometry:
        student(X, training=True)
    theirs = teacher.get_layer("h2")(teacher.get_layer("h1")(2 * X))
    value = ops.sum(losses.graph_distillation(theirs, student.get_layer("h1")(X)))
    np.testing.assert_allclose(to_numpy(geometry.loss()), 3 * to_numpy(value), rtol=1e-5)


class Autoencoder(keras.Model):
    """A model whose loss is computed in its own `compute_loss`, on any backend."""

    def __init__(self, penalties, **kwargs):
        super().__init__(**kwargs)
        self.encoder = keras.Sequential(
            [keras.Input((8,)), layers.Dense(6, "tanh", name="h"), layers.Dense(2, name="code")]
        )
        self.decoder = keras.Sequential([keras.Input((2,)), layers.Dense(8)])
        self.penalties = penalties
        self.penalty_variables = [v for p in penalties for v in p.variables]

    def call(self, x, training=None):
        return self.decoder(self.encoder(x, training=training), training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        with lgg.tapping(self.encoder, self.penalties) as geometry:
            code = self.encoder(x, training=training)
        error = ops.mean(ops.square(self.decoder(code) - x))
        return error + geometry.loss(y, training=training)


def trained(weight, **options):
    keras.utils.set_random_seed(0)
    penalty = lgg.Penalty(losses.GraphSmoothness(), "h", weight=weight)
    model = Autoencoder([penalty])
    model.compile(keras.optimizers.SGD(0.05), **options)
    history = model.fit(X, LABELS, batch_size=12, epochs=2, shuffle=False, verbose=0).history
    return penalty, model, history["loss"]


OPTIONS = [{"run_eagerly": True}, {"jit_compile": BACKEND != "torch"}]


@pytest.mark.parametrize("options", OPTIONS, ids=["eager", "compiled"])
def test_in_a_step_of_ones_own(options):
    """The second loss is that after a step down a gradient found by differences."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.run_functions_eagerly(False)
    _, _, found = trained(0.1, **options)
    keras.utils.set_random_seed(0)
    model = Autoencoder([])
    expected = [one_step(model), loss_of(model)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def loss_of(model):
    h = model.encoder.get_layer("h")(X)
    error = ops.mean(ops.square(ops.subtract(model(X), X)))
    return float(to_numpy(error + 0.1 * ops.sum(losses.graph_smoothness(LABELS, h))))


def one_step(model):
    """Change the weights by a step of gradient descent, by differences; returns the loss before."""
    value, gradients = loss_of(model), []
    for variable in model.trainable_variables:
        array = to_numpy(variable).copy()
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            sides = []
            for step in (2e-2, -2e-2):
                moved = array.copy()
                moved[index] += step
                variable.assign(moved)
                sides.append(loss_of(model))
            gradient[index] = (sides[0] - sides[1]) / 4e-2
        variable.assign(array)
        gradients.append(gradient)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        variable.assign(to_numpy(variable) - 0.05 * gradient)
    return value


def test_a_weight_that_is_assigned_acts():
    penalty, model, _ = trained(0.0)
    before = model.evaluate(X, LABELS, batch_size=12, verbose=0)
    penalty.weight.assign(10.0)
    assert model.evaluate(X, LABELS, batch_size=12, verbose=0) > before + 1


class Stranger:
    """Complains when it is asked what it is, as the objects do that PyTorch has deprecated."""

    @property
    def __class__(self):
        raise FutureWarning("deprecated")


def test_strangers_in_memory_are_left_alone():
    stranger = Stranger()
    penalty, _, _ = trained(0.1)
    penalty.weight.assign(2.0)
    assert float(to_numpy(penalty.weight)) == 2.0
    assert type(stranger) is Stranger


def test_balanced():
    penalty, _, losses_ = trained("balanced")
    assert np.isfinite(losses_).all()
    assert float(to_numpy(penalty.weight)) > 0


def test_one_call_in_the_block():
    model = network()
    with lgg.tapping(model, penalties()) as geometry:
        model(X), model(X)
    with pytest.raises(ValueError, match=r"Expected one call of .* Received: 2 calls"):
        geometry.loss(LABELS)
    with lgg.tapping(model, penalties()) as geometry:
        pass
    with pytest.raises(ValueError, match=r"Received: 0 calls"):
        geometry.loss(LABELS)


class OwnLoss(keras.Model):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


class OwnStep(keras.Model):
    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


class OwnTest(keras.Model):
    def test_step(self, *args, **kwargs):
        return super().test_step(*args, **kwargs)


@pytest.mark.parametrize("kind", [OwnLoss, OwnStep, OwnTest])
def test_what_a_wrapper_would_pass_over_is_refused(kind):
    inputs = keras.Input((8,))
    model = kind(inputs, layers.Dense(3, name="h")(inputs))
    with pytest.raises(ValueError, match=r"by code of its own.*Expected.*lgg\.tapping"):
        lgg.GeometryModel(model, [lgg.Penalty(losses.GraphSmoothness(), "h")])
    with pytest.raises(ValueError, match=r"by code of its own"):
        lgg.Distiller(network(), model, [lgg.Penalty(losses.GraphDistillation(), [("h1", "h")])])
    # A teacher only infers.
    lgg.Distiller(model, network(), [lgg.Penalty(losses.GraphDistillation(), [("h", "h1")])])


def test_penalties_inside_of_penalties_are_refused():
    inner = lgg.GeometryModel(network(), [lgg.Penalty(losses.GraphSmoothness(), "h1")])
    with pytest.raises(ValueError, match=r"has penalties of its own.*model\.base"):
        lgg.GeometryModel(inner, [lgg.Penalty(losses.GraphSmoothness())])
    inputs = keras.Input((8,))
    whole = keras.Model(inputs, layers.Dense(3)(inner(inputs)))
    with pytest.raises(ValueError, match=r"has penalties of its own"):
        lgg.GeometryModel(whole, [lgg.Penalty(losses.GraphSmoothness())])
    whole.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"would do nothing inside"):
        whole.fit(X, LABELS, verbose=0)
