"""A network that sees a batch in parts trains as one that sees it whole."""

import itertools

import keras
import numpy as np
import pytest
from autodiff import BACKEND, to_numpy
from keras import layers, ops

import keras_lgg as lgg
from keras_lgg import losses

RNG = np.random.default_rng(0)
X = RNG.normal(size=(44, 6)).astype("float32")
Y = np.arange(44) % 3
BATCH, PART = 22, 8  # parts of 6, 8 and 8, and the last one shorter on other backends
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

ON_LAYERS = {
    "smoothness variation": losses.SmoothnessVariation(power=2, num_classes=3),
    "smoothness variation, k-NN": losses.SmoothnessVariation(k=4),
    "graph variation": losses.GraphVariation(),
    "graph variation, k-NN": losses.GraphVariation(k=4),
    "graph smoothness": losses.GraphSmoothness(),
    "target graph": losses.TargetGraph(),
    "Keras's": CROSS_ENTROPY,
}
ON_PAIRS = {
    "GKD": losses.GraphDistillation(),
    "GKD, k-NN": losses.GraphDistillation(k=4, power=2),
    "GKD, intra": losses.GraphDistillation(pairs="intra"),
    "RKD-D": losses.RelationalDistance(),
    "RKD-A": losses.RelationalAngle(arms=6),
    "SPKD": losses.SimilarityPreserving(),
    "PKT": losses.ProbabilisticTransfer(),
    "CCKD": losses.CorrelationCongruence(),
    "logits": keras.distillation.LogitsDistillation(temperature=2.0),
}


def network(width=8, seed=0, between=()):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(width, "relu", name="h1", bias_initializer="normal"),
            *between,
            layers.Dense(width, "relu", name="h2", bias_initializer="normal"),
            layers.Dense(3, name="out"),
        ]
    )


def trained(model, x=X, y=Y, *, steps=3, batch_size=BATCH, jit_compile=False, rate=0.05):
    """The weights after so many steps, and the logs of the last epoch."""
    optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    model.compile(optimizer, CROSS_ENTROPY, metrics=["accuracy"], jit_compile=jit_compile)
    keras.utils.set_random_seed(1)
    epochs = -(-steps * batch_size // len(x))
    history = model.fit(x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return model.get_weights(), {name: values[-1] for name, values in history.history.items()}


def assert_same(one, other, rtol=1e-5):
    (weights, logs), (others, other_logs) = one, other
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(a).max(), 1e-3))
    assert logs == pytest.approx(other_logs, rel=10 * rtol)


def layers_penalized(loss, micro_batch, base=None, **options):
    taps = None if loss is CROSS_ENTROPY else ["h1", "h2"]
    is_large = isinstance(loss, losses.SmoothnessVariation)
    weight = 1e-6 if is_large else 0.02
    penalty = lgg.Penalty(loss, taps, weight=weight, name="penalty", **options)
    return lgg.GeometryModel(base or network(), [penalty], micro_batch=micro_batch)


def distiller(loss, micro_batch, **options):
    taps = None if loss is ON_PAIRS["logits"] else [("h1", "h1"), ("h2", "h2")]
    penalty = lgg.Penalty(loss, taps, weight=0.3, name="penalty")
    return lgg.Distiller(network(16, 1), network(), [penalty], micro_batch=micro_batch, **options)


@pytest.mark.parametrize("name", ON_LAYERS)
def test_each_loss_on_layers(name):
    whole, parts = (layers_penalized(ON_LAYERS[name], size) for size in (None, PART))
    assert_same(trained(whole), trained(parts))


@pytest.mark.parametrize("name", ON_PAIRS)
def test_each_loss_on_pairs(name):
    whole, parts = (distiller(ON_PAIRS[name], size) for size in (None, PART))
    assert_same(trained(whole), trained(parts))


COMPILED = [False] if BACKEND == "tensorflow" else ["auto"]
# XLA does the same with each loss.
WITH_XLA = [("smoothness variation", True), ("GKD, k-NN", True)] if BACKEND == "tensorflow" else []


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "jit_compile"), [*itertools.product([*ON_LAYERS, *ON_PAIRS], COMPILED), *WITH_XLA]
)
def test_twenty_compiled_steps(name, jit_compile):
    build, loss = (
        (layers_penalized, ON_LAYERS[name]) if name in ON_LAYERS else (distiller, ON_PAIRS[name])
    )
    x = RNG.normal(size=(512, 6)).astype("float32")
    # At a higher rate the trainings part by what the order of a sum rounds.
    options = {"steps": 20, "batch_size": 256, "jit_compile": jit_compile, "rate": 5e-4}
    found = [trained(build(loss, size), x, np.arange(512) % 3, **options) for size in (None, 16)]
    assert_same(*found)


@pytest.mark.ci
@pytest.mark.parametrize("jit_compile", [*COMPILED, *{jit for _, jit in WITH_XLA}])
def test_batches_of_all_lengths(jit_compile):
    """Of 44 samples, batches of 18, 18 and 8: as many parts as it takes, and a single one."""
    whole, parts = (layers_penalized(ON_LAYERS["graph smoothness"], size) for size in (None, 8))
    options = {"batch_size": 18, "jit_compile": jit_compile}
    assert_same(trained(whole, **options), trained(parts, **options))


class Noisy(layers.Layer):
    """Drops numbers, drawn for so many samples at once."""

    def __init__(self, at_once):
        super().__init__()
        self.at_once = at_once
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, x, training=False):
        if not training:
            return x
        kept = [
            ops.cast(keras.random.uniform((count, x.shape[1]), seed=self.seeds) < 0.7, x.dtype)
            for count in [self.at_once] * (x.shape[0] // self.at_once)
        ]
        return x * ops.concatenate(kept) / 0.7


def test_random_layers_draw_the_same_numbers_in_both_passes():
    """Were they to draw anew for the gradients, these would be those of another network."""

    def model(micro_batch):
        base = network(between=[Noisy(4)])
        return layers_penalized(ON_LAYERS["smoothness variation"], micro_batch, base)

    x, y = X[:24], Y[:24]
    whole, parts = (trained(model(size), x, y, batch_size=12) for size in (None, 4))
    assert_same(whole, parts)
    without = trained(layers_penalized(ON_LAYERS["smoothness variation"], 4), x, y, batch_size=12)
    assert abs(whole[1]["loss"] - without[1]["loss"]) > 1e-3


@pytest.mark.ci
def test_dropout_of_keras():
    """With 12 samples in one part, they are dropped as in a whole batch of 12."""
    whole, parts = (
        layers_penalized(
            ON_LAYERS["graph smoothness"], size, network(between=[layers.Dropout(0.4, seed=2)])
        )
        for size in (None, 12)
    )
    pair = [trained(model, X[:12], Y[:12], batch_size=12, steps=6) for model in (whole, parts)]
    assert_same(*pair)


def test_batch_normalization_moves_once_a_part():
    normalization = layers.BatchNormalization(momentum=0.5, name="norm")
    model = layers_penalized(ON_LAYERS["graph smoothness"], PART, network(between=[normalization]))
    hidden = to_numpy(model.base.get_layer("h1")(X[:16]))
    trained(model, X[:16], Y[:16], batch_size=16, steps=1)
    mean = np.zeros(8)
    for part in (hidden[:8], hidden[8:]):
        mean = 0.5 * mean + 0.5 * part.mean(axis=0)
    np.testing.assert_allclose(to_numpy(normalization.moving_mean), mean, rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.1, 2.0])
def test_balanced_weights(fraction):
    def model(micro_batch):
        penalty = lgg.Penalty(
            ON_LAYERS["graph smoothness"], ["h1", "h2"], "balanced", fraction=fraction
        )
        return lgg.GeometryModel(network(), [penalty], micro_batch=micro_batch)

    whole, parts = model(None), model(PART)
    assert_same(trained(whole, steps=6), trained(parts, steps=6))
    weights = [float(each.penalties[0].weight) for each in (whole, parts)]
    assert weights[0] == pytest.approx(weights[1], rel=1e-4)
    assert weights[0] > 0


def texts(micro_batch, pool):
    keras.utils.set_random_seed(0)
    ids = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 6, mask_zero=True, name="words")(ids)
    x = layers.Dense(6, "relu", name="h1")(x)
    x = layers.GlobalAveragePooling1D()(x)
    base = keras.Model(ids, layers.Dense(3, name="out")(x))
    loss = losses.GraphSmoothness()
    penalty = lgg.Penalty(loss, ["words", "h1"], weight=0.1, name="penalty", pool=pool)
    return lgg.GeometryModel(base, [penalty], micro_batch=micro_batch)


@pytest.mark.parametrize("pool", [None, "mean", "last"])
def test_masked_positions(pool):
    ids = np.tril(RNG.integers(1, 7, (44, 5)), k=2)[:, :5]
    assert (ids == 0).any()
    assert_same(trained(texts(None, pool), ids), trained(texts(PART, pool), ids))


def test_the_mask_of_the_output_reaches_the_loss():
    def model(micro_batch):
        keras.utils.set_random_seed(0)
        ids = keras.Input((5,), dtype="int32")
        x = layers.Embedding(7, 6, keras.initializers.RandomNormal(stddev=1.0), mask_zero=True)(ids)
        x = layers.Dense(6, "relu", name="h1", bias_initializer="ones")(x)
        x = layers.Dense(6, "relu", name="h2", bias_initializer="ones")(x)
        base = keras.Model(ids, layers.Dense(3, name="out")(x))
        penalty = lgg.Penalty(losses.GraphVariation(), ["h1", "h2"], weight=0.1, pool="mean")
        return lgg.GeometryModel(base, [penalty], micro_batch=micro_batch)

    ids = RNG.integers(0, 7, (44, 5))
    y = RNG.integers(0, 3, (44, 5))
    assert_same(trained(model(None), ids, y), trained(model(PART), ids, y))


class MeanSquare(layers.Layer):
    """Adds the mean over the samples of what it sees."""

    def call(self, x):
        self.add_loss(ops.mean(ops.square(x)))
        return x


def test_losses_of_layers():
    def model(micro_batch):
        regularized = {"kernel_regularizer": "l2", "activity_regularizer": "l2"}
        start = keras.initializers.GlorotUniform(seed=2)
        dense = layers.Dense(8, kernel_initializer=start, **regularized)
        base = network(between=[MeanSquare(), dense])
        return layers_penalized(ON_LAYERS["graph smoothness"], micro_batch, base)

    assert_same(trained(model(None)), trained(model(PART)))


def test_several_inputs_and_outputs():
    def model(micro_batch):
        keras.utils.set_random_seed(0)
        a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
        x = layers.Dense(8, "relu", name="h1")(layers.Concatenate()([a, b]))
        outputs = {"p": layers.Dense(3, name="p")(x), "q": layers.Dense(1, name="q")(x)}
        base = keras.Model({"a": a, "b": b}, outputs)
        penalty = lgg.Penalty(losses.GraphSmoothness(), "h1", weight=0.1, labels="p")
        return lgg.GeometryModel(base, [penalty], micro_batch=micro_batch)

    weights = []
    for size in (None, PART):
        each = model(size)
        each.compile("sgd", {"p": CROSS_ENTROPY, "q": "mse"})
        y = {"p": Y, "q": X[:, :1]}
        each.fit({"a": X, "b": -X}, y, batch_size=BATCH, shuffle=False, verbose=0)
        weights.append((each.get_weights(), {}))
    assert_same(*weights)


def test_sample_weights_and_evaluation():
    logs = []
    for size in (None, PART):
        model = layers_penalized(ON_LAYERS["target graph"], size)
        model.compile("sgd", CROSS_ENTROPY, weighted_metrics=["accuracy"], jit_compile=False)
        share = np.linspace(0, 2, 44)
        model.fit(X, Y, sample_weight=share, batch_size=BATCH, shuffle=False, verbose=0)
        logs.append(model.evaluate(X, Y, BATCH, sample_weight=share, verbose=0, return_dict=True))
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)


def test_a_teacher_who_sees_the_data_differently_sees_it_in_parts():
    seen = []

    def halved(x):
        seen.append(x.shape[0])
        return x / 2

    whole, parts = (distiller(ON_PAIRS["GKD"], size, teacher_inputs=halved) for size in (None, 11))
    assert_same(trained(whole), trained(parts))
    assert BATCH in seen
    # Two parts in each of four steps, or in a trace of them: and none of them again for gradients.
    assert 2 <= seen.count(11) <= 12


@pytest.mark.ci
def test_half_precision_with_loss_scaling():
    def model(micro_batch):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            base = network()
        finally:
            keras.config.set_dtype_policy("float32")
        return layers_penalized(ON_LAYERS["graph smoothness"], micro_batch, base)

    found = []
    for size in (None, PART):
        each = model(size)
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), 2.0**10)
        each.compile(optimizer, CROSS_ENTROPY, jit_compile=BACKEND == "jax")
        each.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0)
        assert {v.dtype for v in each.base.trainable_variables} == {"float32"}
        found.append((each.get_weights(), {}))
    assert_same(*found, rtol=2e-3)


def gradients_of_own_step(micro_batch, x, wrt_inputs=False):
    """Loss and gradients of a training step of one's own, with respect to kernels or inputs."""
    model = network()
    penalties = [
        lgg.Penalty(losses.GraphSmoothness(), "h1", weight=0.5),
        lgg.Penalty(losses.GraphDistillation(), [(None, None)], weight=0.5),
    ]
    teacher, kernel = network(16, 1), model.get_layer("h1").kernel

    def step(x):
        with lgg.tapping(model, penalties[:1], micro_batch=micro_batch) as geometry:
            outputs = model(x, training=True)
        loss = geometry.loss(Y[:BATCH]) + ops.mean(ops.square(outputs))
        with lgg.tapping(
            model, penalties[1:], teacher=teacher, micro_batch=micro_batch
        ) as geometry:
            model(x, training=True)
        return loss + geometry.loss()

    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = step(x)
        return loss, tape.gradient(loss, x if wrt_inputs else kernel.value)
    if BACKEND == "torch":
        x = ops.convert_to_tensor(x).requires_grad_()
        loss = step(x)
        loss.backward()
        return loss, x.grad if wrt_inputs else kernel.value.grad
    import jax

    if wrt_inputs:
        return jax.value_and_grad(step)(x)

    def of_kernel(value):
        with keras.StatelessScope([(kernel, value)]):
            return step(x)

    return jax.value_and_grad(of_kernel)(kernel.value)


@pytest.mark.parametrize("wrt_inputs", [False, True])
def test_a_step_of_ones_own(wrt_inputs):
    found = [gradients_of_own_step(size, X[:BATCH], wrt_inputs) for size in (None, PART)]
    for a, b in zip(*(map(to_numpy, each) for each in found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * np.abs(a).max())
    assert np.abs(to_numpy(found[0][1])).max() > 1e-3


def test_only_a_part_is_in_the_network_at_a_time():
    seen = []

    class Watched(layers.Layer):
        def call(self, x, training=False):
            if training:  # not where Keras looks for shapes
                seen.append(x.shape[0])
            return x

    keras.utils.set_random_seed(0)
    base = network(between=[Watched()])
    seen.clear()
    trained(layers_penalized(ON_LAYERS["graph smoothness"], PART, base), steps=1)
    assert max(size for size in seen if size is not None) <= PART


@pytest.mark.skipif(BACKEND != "jax", reason="JAX says what memory a program takes")
def test_memory_is_that_of_a_part():
    import jax

    def temporary(micro_batch, n=512):
        model = layers_penalized(
            losses.SmoothnessVariation(num_classes=3), micro_batch, network(256), pool="mean"
        )
        model.compile("sgd", CROSS_ENTROPY)
        model.train_on_batch(X[:4], Y[:4])
        state = [
            [v.value for v in variables]
            for variables in (
                model.trainable_variables,
                model.non_trainable_variables,
                model.optimizer.variables,
                model.metrics_variables,
            )
        ]
        data = np.zeros((n, 6), "float32"), np.zeros(n, "int32")
        program = jax.jit(model.train_step).lower(tuple(state), data).compile()
        return program.memory_analysis().temp_size_in_bytes

    taps = 2 * 512 * 256 * 4
    assert temporary(16) < 3 * taps < temporary(None)


def test_saving_keeps_it(tmp_path):
    model = layers_penalized(ON_LAYERS["graph smoothness"], PART)
    expected = trained(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config()["micro_batch"] == PART
    assert_same(trained(loaded), trained(model))
    assert expected[1]["penalty"] > 0


def test_what_cannot_be_done_in_parts():
    with pytest.raises(ValueError, match=r"`micro_batch`. Expected a positive integer"):
        layers_penalized(ON_LAYERS["graph smoothness"], 0)
    inputs = keras.Input((6,))
    h1 = layers.Dense(4, name="h1")(inputs)
    penalty = lgg.layers.GeometryPenalty(losses.GraphVariation(), name="inside")
    inside = keras.Model(inputs, penalty([h1, layers.Dense(4, name="h2")(h1)]))
    with pytest.raises(ValueError, match=r"\['inside'\].*would see parts of the batch"):
        layers_penalized(ON_LAYERS["graph smoothness"], 8, inside)


def test_an_output_that_is_of_no_sample():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    h1 = layers.Dense(4, name="h1")(inputs)
    base = keras.Model(inputs, [h1, ops.sum(h1)])
    penalty = lgg.Penalty(losses.GraphSmoothness(), "h1")
    model = lgg.GeometryModel(base, [penalty], micro_batch=8)
    model.compile("sgd", [CROSS_ENTROPY, None])
    with pytest.raises(ValueError, match="has no row for each sample"):
        model.fit(X, Y, batch_size=BATCH, verbose=0)


def test_a_model_that_is_built_in_a_call():
    class Lazy(keras.Model):
        def __init__(self):
            super().__init__()
            self.out = layers.Dense(3)

        def call(self, x):
            return self.out(x)

        def build(self, input_shape):
            self.built = True

    model = Lazy()
    with (
        pytest.raises(ValueError, match="Call it on a sample first"),
        lgg.tapping(model, [lgg.Penalty(losses.GraphSmoothness())], micro_batch=8),
    ):
        model(X)
