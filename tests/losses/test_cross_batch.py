"""A memory of past batches beside the present one, which alone is trained."""

import keras
import numpy as np
import pytest
from autodiff import BACKEND, USUAL, to_numpy, value_and_grads
from keras import layers, ops

import keras_lgg as lgg
from keras_lgg import losses

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)).astype("float32")
Y = np.arange(40) % 3
BATCH, SIZE = 4, 10  # full after three batches

# With the labels, or the teacher, as they are called with.
ON_LAYERS = {
    "graph smoothness": losses.GraphSmoothness(),
    "target graph": losses.TargetGraph(),
    "smoothness variation": losses.SmoothnessVariation(num_classes=3),
    "smoothness variation, k-NN": losses.SmoothnessVariation(k=3),
    "graph variation": losses.GraphVariation(),
}
ON_PAIRS = {
    "GKD": losses.GraphDistillation(),
    "GKD, intra": losses.GraphDistillation(pairs="intra"),
    "RKD-D": losses.RelationalDistance(),
    "RKD-A": losses.RelationalAngle(),
    "SPKD": losses.SimilarityPreserving(),
    "PKT": losses.ProbabilisticTransfer(),
    "CCKD": losses.CorrelationCongruence(),
}


def network(width=6, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(width, use_bias=False, name="h1"),
            layers.Dense(3, use_bias=False, name="h2"),
        ]
    )


def geometry_model(loss, taps=("h1", "h2"), base=None, size=SIZE, **options):
    loss = losses.CrossBatch(loss, size, **options)
    penalty = lgg.Penalty(loss, list(taps), weight=1.0, name="penalty")
    return compiled(lgg.GeometryModel(base or network(), [penalty]))


def distiller(loss, taps=(("h1", "h1"), ("h2", "h2")), size=SIZE):
    penalty = lgg.Penalty(losses.CrossBatch(loss, size), list(taps), weight=1.0, name="penalty")
    return compiled(lgg.Distiller(network(8, 1), network(), [penalty]))


def compiled(model, rate=0.0):
    model.compile(keras.optimizers.SGD(rate), jit_compile=BACKEND == "jax")
    return model


def step(model, begin, y=Y, count=BATCH):
    """The penalty's value in a step on some of the samples."""
    model.reset_metrics()
    rows = slice(begin, begin + count)
    return model.train_on_batch(X[rows], y[rows], return_dict=True)["penalty"]


def taps_of(base, x=X):
    h1 = to_numpy(x @ to_numpy(base.get_layer("h1").kernel))
    return h1, h1 @ to_numpy(base.get_layer("h2").kernel)


def value_of(loss, representations, labels):
    given = (labels,) if loss.needs_labels else ()
    if loss.across_layers:
        return loss(*given, representations)
    return sum(ops.sum(loss(*given, x)) for x in representations) / len(representations)


def as_one_batch(begin):
    """The rows of a step with the memory, which has the newest first, but in order in a batch."""
    past = [np.arange(b, b + BATCH) for b in range(begin - BATCH, -1, -BATCH)]
    return np.concatenate([np.arange(begin, begin + BATCH), *past])[: BATCH + SIZE]


@pytest.mark.parametrize("name", ON_LAYERS)
def test_the_value_is_that_of_one_large_batch(name):
    loss = ON_LAYERS[name]
    model = geometry_model(loss)
    h = taps_of(model.base)
    for begin in range(0, 24, BATCH):
        value = step(model, begin)
        rows = as_one_batch(begin) if begin >= 12 else np.arange(begin, begin + BATCH)
        expected = value_of(loss, [x[rows] for x in h], Y[rows])
        np.testing.assert_allclose(value, to_numpy(expected), rtol=1e-4)


@pytest.mark.parametrize("name", ON_PAIRS)
def test_the_value_with_a_teacher(name):
    loss = ON_PAIRS[name]
    model = distiller(loss)
    pairs = list(zip(taps_of(model.teacher), taps_of(model.student), strict=True))
    for begin in range(0, 24, BATCH):
        value = step(model, begin)
        rows = as_one_batch(begin) if begin >= 12 else np.arange(begin, begin + BATCH)
        expected = np.mean([of_pair(loss, *pair, rows) for pair in pairs])
        # Degrees of features with signs nearly cancel: rounding then depends on the processor.
        np.testing.assert_allclose(value, expected, rtol=1e-3)


def test_another_teacher_fits_the_memory_or_is_refused():
    model = distiller(ON_PAIRS["GKD"])
    first = model.teacher
    step(model, 0)
    with pytest.raises(ValueError, match=r"shapes .*\(8,\).* Received: .*\(11,\).*new Distiller"):
        model.teacher = network(11, 1)
    assert model.teacher is first
    model.teacher = keras.models.clone_model(first)
    step(model, BATCH)


def of_pair(loss, theirs, ours, rows):
    given = (theirs[rows], Y[rows]) if loss.needs_labels else theirs[rows]
    return float(ops.sum(loss(given, ours[rows])))


@pytest.mark.parametrize("name", ["graph smoothness", "smoothness variation", "graph variation"])
def test_the_present_batch_alone_is_trained(name):
    loss = ON_LAYERS[name]
    model = geometry_model(loss)
    for begin in range(0, 12, BATCH):
        step(model, begin)
    model.optimizer.learning_rate = 0.1
    kernels = [to_numpy(layer.kernel) for layer in model.base.layers]
    rows, past = as_one_batch(12)[:BATCH], as_one_batch(12)[BATCH:]
    past_taps = [x[past] for x in taps_of(model.base)]

    def of_kernels(first, second):
        h1 = ops.matmul(X[rows], first)
        present = [h1, ops.matmul(h1, second)]
        both = [ops.concatenate(pair) for pair in zip(present, past_taps, strict=True)]
        return value_of(loss, both, Y[np.concatenate([rows, past])])

    _, gradients = value_and_grads(of_kernels, kernels, USUAL)
    step(model, 12)
    for layer, kernel, gradient in zip(model.base.layers, kernels, gradients, strict=True):
        moved = to_numpy(layer.kernel) - kernel
        np.testing.assert_allclose(
            moved, -0.1 * gradient, rtol=1e-3, atol=1e-4 * np.abs(moved).max()
        )


def test_memory_is_of_the_training_alone():
    model = geometry_model(ON_LAYERS["graph smoothness"])
    for begin in range(0, 16, BATCH):
        step(model, begin)
    before = [to_numpy(v) for v in model._memory_variables]
    found = model.evaluate(X[:8], Y[:8], batch_size=8, verbose=0, return_dict=True)["penalty"]
    h = [x[:8] for x in taps_of(model.base)]
    expected = value_of(ON_LAYERS["graph smoothness"], h, Y[:8])
    np.testing.assert_allclose(found, to_numpy(expected), rtol=1e-4)
    for old, variable in zip(before, model._memory_variables, strict=True):
        np.testing.assert_array_equal(old, to_numpy(variable))


def test_the_newest_come_first_and_the_oldest_go():
    model = geometry_model(ON_LAYERS["graph smoothness"])
    for begin in range(0, 20, BATCH):
        step(model, begin)
    past, labels, counts = map(to_numpy, model._memory_variables[:3])
    rows = [16, 17, 18, 19, 12, 13, 14, 15, 8, 9]
    np.testing.assert_allclose(past, taps_of(model.base)[0][rows], rtol=1e-5)
    np.testing.assert_array_equal(labels, Y[rows])
    assert counts.tolist() == [SIZE, 1]
    step(model, 0, count=16)  # a batch larger than the memory
    np.testing.assert_array_equal(to_numpy(model._memory_variables[1]), Y[:SIZE])


def test_warmup():
    loss = ON_LAYERS["graph smoothness"]
    early, late = (geometry_model(loss, warmup=warmup) for warmup in (0, 5))
    values = np.array([(step(early, b), step(late, b)) for b in range(0, 28, BATCH)])
    same = np.isclose(values[:, 0], values[:, 1], rtol=1e-4)
    assert same.tolist() == [True, True, True, False, False, True, True]


def test_labels_in_rows():
    loss = losses.GraphSmoothness()
    one_hot = np.eye(3, dtype="float32")[Y]
    model = geometry_model(loss, label_shape=(3,))
    values = [step(model, b, one_hot) for b in range(0, 16, BATCH)]
    numbers = geometry_model(loss)
    expected = [step(numbers, b, Y[:, None]) for b in range(0, 16, BATCH)]
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"Expected shape \(n, \).*Pass label_shape=\(3,\)"):
        step(geometry_model(loss), 0, one_hot)


@pytest.mark.ci
def test_it_is_saved_with_the_model(tmp_path):
    model = compiled(geometry_model(ON_LAYERS["smoothness variation"]), rate=1e-4)
    model.fit(X[:24], Y[:24], batch_size=BATCH, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.penalties[0].loss.size == SIZE
    for one, other in zip(model._memory_variables, loaded._memory_variables, strict=True):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other))
    for each in (model, loaded):
        each.fit(X[24:], Y[24:], batch_size=BATCH, shuffle=False, verbose=0)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.ci
@pytest.mark.parametrize("jit_compile", [False, True] if BACKEND == "tensorflow" else ["auto"])
def test_compiled_and_in_parts(jit_compile):
    """Compiled steps, in whole batches and in parts, take those of one that is run eagerly."""
    weights = []
    for eagerly, part in ((True, None), (False, None), (False, 2)):
        penalty = lgg.Penalty(
            losses.CrossBatch(ON_LAYERS["graph smoothness"], SIZE), ["h1", "h2"], weight=0.01
        )
        model = lgg.GeometryModel(network(), [penalty], micro_batch=part)
        options = {"run_eagerly": True} if eagerly else {"jit_compile": jit_compile}
        model.compile(keras.optimizers.SGD(0.05), **options)
        model.fit(X, Y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for others in weights[1:]:
        for one, other in zip(weights[0], others, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_inside_a_layer():
    keras.utils.set_random_seed(0)
    inputs, labels = keras.Input((5,)), keras.Input((), dtype="int32")
    h1 = layers.Dense(6, use_bias=False, name="h1")(inputs)
    loss = losses.CrossBatch(ON_LAYERS["graph smoothness"], SIZE)
    h2 = layers.Dense(3, use_bias=False, name="h2")(h1)
    h2 = lgg.layers.GeometryPenalty(loss, weight=1.0, name="memory")([h1, h2], labels=labels)
    model = compiled(keras.Model([inputs, labels], h2))
    h = taps_of(model)
    for begin in range(0, 20, BATCH):
        now = slice(begin, begin + BATCH)
        model.reset_metrics()
        value = model.train_on_batch([X[now], Y[now]], return_dict=True)["loss"]
        rows = as_one_batch(begin) if begin >= 12 else np.arange(begin, begin + BATCH)
        expected = value_of(ON_LAYERS["graph smoothness"], [x[rows] for x in h], Y[rows])
        np.testing.assert_allclose(value, to_numpy(expected), rtol=1e-4)


def test_without_a_memory_it_is_the_loss():
    plain, wrapped = losses.GraphSmoothness(alpha=2.0), losses.GraphSmoothness(alpha=2.0)
    wrapped = losses.CrossBatch(wrapped, 8)
    np.testing.assert_allclose(to_numpy(wrapped(Y, X)), to_numpy(plain(Y, X)))
    again = losses.CrossBatch.from_config(wrapped.get_config())
    assert again.get_config() == wrapped.get_config()


def test_what_has_no_memory():
    with pytest.raises(ValueError, match=r"Expected a loss of keras_lgg\.losses"):
        losses.CrossBatch(keras.losses.MeanSquaredError())
    with pytest.raises(ValueError, match="global_graph=True"):
        losses.CrossBatch(losses.GraphSmoothness(global_graph=False))
    with pytest.raises(ValueError, match=r"`size`\. Expected a positive integer"):
        losses.CrossBatch(losses.GraphSmoothness(), 0)
    with pytest.raises(ValueError, match=r"`warmup`\. Expected an integer of at least 0"):
        losses.CrossBatch(losses.GraphSmoothness(), 8, warmup=-1)
    penalty = lgg.Penalty(losses.CrossBatch(losses.GraphSmoothness()), "h1")
    with pytest.raises(ValueError, match="nowhere to remember"):
        lgg.tapping(network(), [penalty])
    unbuilt = keras.Sequential([layers.Dense(3, name="h1")])
    with pytest.raises(ValueError, match="how wide their memory is"):
        lgg.GeometryModel(unbuilt, [penalty])
