"""What a compiled step could not refuse, refused by `fit` and its like before it."""

import keras
import numpy as np
import pytest
from autodiff import BACKEND
from keras import layers

import keras_lgg as lgg

X = np.random.default_rng(0).random((32, 8)).astype("float32")
Y = np.arange(32) % 3
PARTLY = np.where(Y == 2, -1, Y)
NUM_CLASSES = {"num_classes": 3}


def network(width):
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(8, "relu", name="h1"),
            layers.Dense(8, "relu", name="h2"),
            layers.Dense(width),
        ]
    )


def model(loss=None, task="mse", width=1):
    loss = loss or lgg.losses.SmoothnessVariation(num_classes=3)
    taps = ["h1", "h2"] if loss.across_layers else "h2"
    penalized = lgg.GeometryModel(network(width), [lgg.Penalty(loss, taps, weight=1e-3)])
    penalized.compile("sgd", task)
    return penalized


def dataset(y):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, y)).batch(8)


def generator(y):
    for start in range(0, len(X), 8):
        yield X[start : start + 8], y[start : start + 8]


class Batches(keras.utils.PyDataset):
    def __init__(self, y):
        super().__init__()
        self.y = y

    def __len__(self):
        return len(X) // 8

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * index + 8)
        return X[rows], self.y[rows]


WAYS = {
    "fit": lambda m, y: m.fit(X, y, verbose=0),
    "fit on a dataset": lambda m, y: m.fit(dataset(y), shuffle=False, verbose=0),
    "fit on a generator": lambda m, y: m.fit(
        generator(y), steps_per_epoch=4, shuffle=False, verbose=0
    ),
    "fit on a PyDataset": lambda m, y: m.fit(Batches(y), verbose=0),
    "validation data": lambda m, y: m.fit(X, Y, validation_data=(X, y), verbose=0),
    "validation dataset": lambda m, y: m.fit(X, Y, validation_data=dataset(y), verbose=0),
    "evaluate": lambda m, y: m.evaluate(X, y, verbose=0),
    "evaluate on a dataset": lambda m, y: m.evaluate(dataset(y), verbose=0),
    "train_on_batch": lambda m, y: m.train_on_batch(X, y),
    "test_on_batch": lambda m, y: m.test_on_batch(X, y),
}
VALIDATION = [WAYS["validation data"], WAYS["validation dataset"]]
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
WRONG = {
    "beyond num_classes": (Y + 1, r"\[0, 3\).*from 1 to 3"),
    "no label": (PARTLY, "-1.*ignore_class"),
    "regression": (Y + 0.37, "whole numbers"),
    "regression in columns": (np.stack([Y, Y, -1.0 * Y], 1), r"in \[0, 1\]"),
}


@every_way
@pytest.mark.parametrize(("y", "message"), WRONG.values(), ids=WRONG)
def test_refused_before_the_first_step(way, y, message):
    if y.ndim == 2 and way in VALIDATION:
        pytest.skip("the data are of another kind")
    trained = model(width=1 if y.ndim == 1 else 3)
    before = [w.copy() for w in trained.get_weights()]
    with pytest.raises(ValueError, match=f"(?s)`labels`.*Expected.*({message}).*"):
        way(trained, y)
    if way not in VALIDATION:
        for a, b in zip(before, trained.get_weights(), strict=False):
            np.testing.assert_array_equal(a, b)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (lgg.losses.GraphSmoothness(), Y + 0.37, "whole numbers"),
        (lgg.losses.SmoothnessVariation(num_classes=3), Y + 1, r"\[0, 3\), by num_classes=3"),
    ],
)
def test_refused_where_steps_are_compiled(loss, y, message):
    trained = model(loss)
    before = trained.get_weights()
    with pytest.raises(ValueError, match=f"`labels`.*Expected.*{message}"):
        trained.fit(X, y, verbose=0)
    for a, b in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@every_way
def test_no_batch_is_lost_or_changed(way):
    seen = []

    class Watching(lgg.losses.SmoothnessVariation):
        def call(self, y_true, y_pred):
            seen.append(tuple(y_true.shape))
            return super().call(y_true, y_pred)

    assert np.isfinite(np.ravel(values(way(model(Watching(num_classes=3)), Y)))).all()
    assert seen


def values(result):
    history = getattr(result, "history", None)
    return np.asarray(result) if history is None else [history[key] for key in sorted(history)]


def test_each_batch_of_a_dataset_comes_once_and_in_order():
    def weights(build, data):
        keras.utils.set_random_seed(0)
        trained = build()
        trained.fit(data, epochs=2, shuffle=False, verbose=0)
        return getattr(trained, "base", trained).get_weights()

    def plain():
        base = network(1)
        base.compile("sgd", "mse")
        return base

    def penalized():
        loss = lgg.losses.SmoothnessVariation(num_classes=3)
        trained = lgg.GeometryModel(network(1), [lgg.Penalty(loss, ["h1", "h2"], weight=0.0)])
        trained.compile("sgd", "mse")
        return trained

    def shuffled():
        return dataset(Y).shuffle(4, seed=1)

    for data in (shuffled, lambda: Batches(Y)):
        for a, b in zip(weights(plain, data()), weights(penalized, data()), strict=False):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_whole_floats_of_an_array_are_class_numbers():
    expected = model().evaluate(X, Y, verbose=0)
    keras.utils.set_random_seed(0)
    integers, floats = model(), model()
    floats.set_weights(integers.get_weights())
    expected = integers.evaluate(X, Y, verbose=0)
    found = floats.evaluate(X, Y.astype("float64"), verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="integers from a dataset"):
        floats.fit(Batches(Y.astype("float32")), verbose=0)


def test_floats_that_keras_would_round():
    with pytest.raises(ValueError, match="does not tell apart"):
        model(lgg.losses.GraphSmoothness()).fit(X, Y + 2.0**24, verbose=0)


@pytest.mark.skipif(BACKEND != "jax", reason="others keep 64 bits")
def test_what_jax_would_cut():
    with pytest.raises(ValueError, match="32 bits, to which JAX cuts"):
        model(lgg.losses.GraphSmoothness()).fit(X, Y.astype("int64") * 2**40, verbose=0)


@pytest.mark.parametrize("shift", [0, 2**24, 10**9])
def test_ids_are_classes_in_a_step(shift):
    penalized = model(lgg.losses.GraphSmoothness())
    expected = penalized.evaluate(X, Y, verbose=0, return_dict=True)["graph_smoothness"]
    found = penalized.evaluate(X, Y + shift, verbose=0, return_dict=True)["graph_smoothness"]
    assert found == pytest.approx(expected, rel=1e-5)
    embedder = network(4)
    embedder.compile("sgd", lgg.losses.GraphSmoothness())
    expected = embedder.evaluate(X, Y, verbose=0)
    assert embedder.evaluate(X, Y + shift, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_on_few_labels():
    loss = lgg.losses.SmoothnessVariation(num_classes=3, ignore_class=-1)
    task = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    penalized = model(loss, task, width=3)
    found = penalized.evaluate(X, PARTLY, verbose=0, return_dict=True)["smoothness_variation"]
    kept = PARTLY >= 0
    expected = penalized.evaluate(X[kept], Y[kept], batch_size=32, verbose=0, return_dict=True)[
        "smoothness_variation"
    ]
    assert found == pytest.approx(expected, rel=1e-4)
    assert np.isfinite(penalized.fit(X, PARTLY, verbose=0).history["loss"]).all()


def test_continuous_targets():
    loss = lgg.losses.SmoothnessVariation(continuous=True, relative=True)
    target = np.random.default_rng(0).normal(size=32).astype("float32")
    penalized = model(loss)
    first = penalized.base.get_layer("h1")(X)
    expected = float(loss(target, [first, penalized.base.get_layer("h2")(first)]))
    found = penalized.evaluate(X, target, batch_size=32, verbose=0, return_dict=True)
    assert found["smoothness_variation"] == pytest.approx(expected, rel=1e-3)
    assert np.isfinite(penalized.fit(X, target, verbose=0).history["loss"]).all()


def test_a_loss_of_ones_own_reads_what_it_likes():
    class Regression(lgg.losses.GeometryLoss):
        needs_labels = True

        def call(self, y_true, y_pred):
            return keras.ops.square(y_true - keras.ops.mean(y_pred, axis=1))

    found = model(Regression(name="regression")).fit(X, Y + 0.37, verbose=0)
    assert np.isfinite(found.history["regression"]).all()


def test_a_pair_with_a_teacher():
    loss = lgg.losses.GraphDistillation(pairs="intra", num_classes=3)
    distiller = lgg.Distiller(network(1), network(1), [lgg.Penalty(loss, [("h1", "h1")])])
    distiller.compile("sgd", "mse")
    with pytest.raises(ValueError, match="num_classes=3"):
        distiller.fit(X, Y + 1, verbose=0)


@pytest.mark.ci
def test_the_guard_speaks_of_labels():
    first = np.where(np.arange(32) < 8, Y, Y + 1)  # the first batch is as it should be
    trained = model()
    if BACKEND == "torch":  # which runs eagerly: each batch is looked at
        with pytest.raises(ValueError, match="num_classes=3"):
            trained.fit(Batches(first), verbose=0, shuffle=False)
        return
    with pytest.raises(FloatingPointError, match=r"labels.*num_classes"):
        trained.fit(
            Batches(first), verbose=0, shuffle=False, callbacks=[lgg.callbacks.GeometryGuard()]
        )
