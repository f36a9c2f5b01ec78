"""The builders layer by layer, and what they are trained by against NumPy."""

import keras
import numpy as np
import pytest
from autodiff import BACKEND, to_numpy
from backends import needs

from keras_lgg import manifolds
from keras_lgg.manifolds import Corruption, Sampling, SummedCrossentropy

BUILDERS = {
    "cae": manifolds.build_cae,
    "dae": manifolds.build_dae,
    "vae": manifolds.build_vae,
}
every_builder = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
RNG = np.random.default_rng(0)
X = RNG.random((8, 8, 8, 1)).astype("float32")


def squares(n=48):
    """A bright square somewhere on black: quickly learnt."""
    images = np.zeros((n, 8, 8, 1), "float32")
    for image, (i, j) in zip(images, RNG.integers(0, 5, (n, 2)), strict=True):
        image[i : i + 4, j : j + 4] = 1
    return images


def parts(model):
    return model.get_layer("encoder"), model.get_layer("decoder")


def describe(model):
    """What there is to choose of each convolution, and the shape it gives."""
    return [
        (
            type(layer).__name__,
            layer.filters,
            *layer.kernel_size,
            *layer.strides,
            layer.padding,
            layer.activation.__name__,
            layer.use_bias,
            *layer.output.shape[1:],
        )
        for layer in model.layers
        if hasattr(layer, "kernel_size")
    ]


def divergence(mean, log_variance, beta=1.0):
    """From N(0, 1), by loops over images and latents; the mean over the images."""
    totals = [
        sum(
            0.5 * (np.float64(m) ** 2 + np.exp(np.float64(v)) - 1 - v)
            for m, v in zip(ms.ravel(), vs.ravel(), strict=True)
        )
        for ms, vs in zip(mean, log_variance, strict=True)
    ]
    return beta * sum(totals) / len(totals)


def crossentropies(true, predicted):
    """Of each image, summed over pixels."""
    true, predicted = true.astype("float64"), predicted.astype("float64")
    pixels = -true * np.log(predicted) - (1 - true) * np.log(1 - predicted)
    return np.array([sum(image.ravel()) for image in pixels])


def set_latents(model, mean, log_variance):
    """Let the encoder of a variational model give these for every image, by channel."""
    for name, values in {"mean": mean, "log_variance": log_variance}.items():
        layer = model.get_layer("encoder").get_layer(name)
        layer.set_weights([np.zeros(layer.kernel.shape), np.asarray(values, "float32")])


class TestArchitecture:
    @pytest.mark.parametrize("use_bias", [False, True])
    @pytest.mark.parametrize(
        ("shape", "half", "quarter"),
        [((28, 28, 1), (14, 14), (7, 7)), ((32, 32, 3), (16,) * 2, (8,) * 2)],
    )
    def test_layer_by_layer(self, shape, half, quarter, use_bias):
        encoder, decoder = parts(manifolds.build_cae(shape, use_bias=use_bias))
        assert describe(encoder) == [
            ("Conv2D", 32, 3, 3, 2, 2, "same", "relu", use_bias, *half, 32),
            ("Conv2D", 64, 3, 3, 2, 2, "same", "relu", use_bias, *quarter, 64),
            ("Conv2D", 128, 3, 3, 1, 1, "same", "relu", use_bias, *quarter, 128),
        ]
        assert describe(decoder) == [
            ("Conv2DTranspose", 64, 3, 3, 2, 2, "same", "relu", True, *half, 64),
            ("Conv2DTranspose", 32, 3, 3, 2, 2, "same", "relu", True, *shape[:2], 32),
            ("Conv2D", shape[2], 3, 3, 1, 1, "same", "sigmoid", True, *shape),
        ]
        # Nothing but convolutions, of names that taps can refer to.
        assert [layer.name for layer in encoder.layers[1:]] == ["conv1", "conv2", "latent"]
        assert len(decoder.layers) == 4

    @pytest.mark.parametrize("use_bias", [False, True])
    def test_variational(self, use_bias):
        model = manifolds.build_vae((28, 28, 1), use_bias=use_bias)
        encoder, decoder = parts(model)
        cae = manifolds.build_cae((28, 28, 1), use_bias=use_bias)
        trunk, mean, log_variance = np.split(np.array(describe(encoder), object), [3, 4])
        assert trunk.tolist() == [list(each) for each in describe(parts(cae)[0])]
        assert [layer.name for layer in encoder.layers[1:4]] == ["conv1", "conv2", "trunk"]
        # With biases in any case.
        head = ["Conv2D", 128, 1, 1, 1, 1, "same", "linear", True, 7, 7, 128]
        assert mean.tolist() == log_variance.tolist() == [head]
        assert describe(decoder) == describe(parts(cae)[1])
        assert encoder.output_shape == [(None, 7, 7, 128)] * 2
        assert model.output_shape == (None, 28, 28, 1)
        assert [layer.name for layer in model.layers[1:]] == ["encoder", "sampling", "decoder"]

    def test_denoising(self):
        dae, cae = (build((12, 8, 3), channels=6) for build in list(BUILDERS.values())[1::-1])
        for ours, plain in zip(parts(dae), parts(cae), strict=True):
            assert describe(ours) == describe(plain)
        assert [layer.name for layer in dae.layers[1:]] == ["corruption", "encoder", "decoder"]
        assert dae.get_layer("corruption").stddev == 0.5
        assert cae.output_shape == (None, 12, 8, 3)

    @every_builder
    def test_options(self, build):
        assert describe(parts(build((8, 8, 1)))[0])[2][1] == 128
        encoder, _ = parts(build((8, 8, 1), channels=4, latent_activation="tanh"))
        activations = [row[7] for row in describe(encoder)]
        assert activations[:3] == ["relu", "relu", "tanh"]
        assert set(activations[3:]) <= {"linear"}
        # As many channels as positions are the fewest.
        assert encoder.output.shape[1:] == (2, 2, 4) if build is not BUILDERS["vae"] else True

    @pytest.mark.ci
    @every_builder
    def test_compiled(self, build):
        model = build((8, 8, 1), channels=4)
        assert isinstance(model.optimizer, keras.optimizers.Adam)
        assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
        if build is BUILDERS["vae"]:
            assert isinstance(model.loss, SummedCrossentropy)
        else:
            assert model.loss == "binary_crossentropy"
        assert BUILDERS[model.name] is build

    def test_channels_are_last_whatever_the_user_has(self):
        keras.config.set_image_data_format("channels_first")
        try:
            model = manifolds.build_cae((8, 12, 3), channels=6)
        finally:
            keras.config.set_image_data_format("channels_last")
        assert model.get_layer("encoder").output_shape == (None, 2, 3, 6)
        assert model.output_shape == (None, 8, 12, 3)

    @pytest.mark.parametrize("name", ["cae", "dae"])
    def test_blank_images_have_latents_of_zeros(self, name):
        blank = np.zeros((2, 8, 8, 1), "float32")
        encoder, _ = parts(BUILDERS[name]((8, 8, 1), channels=4))
        assert np.all(to_numpy(encoder(blank)) == 0)
        assert np.any(to_numpy(encoder(X)) > 0)
        encoder, _ = parts(BUILDERS[name]((8, 8, 1), channels=4, use_bias=True))
        encoder.set_weights([w + (w.ndim == 1) for w in encoder.get_weights()])
        assert np.any(to_numpy(encoder(blank)) > 0)

    def test_the_log_variance_is_clipped(self):
        model = manifolds.build_vae((8, 8, 1), channels=6)
        wanted = np.array([-1e6, -10.5, -9.5, 0, 9.5, 1e6])
        set_latents(model, 100 * wanted, wanted)
        mean, log_variance = map(to_numpy, model.get_layer("encoder")(X))
        np.testing.assert_allclose(mean[3, 1, 0], 100 * wanted)
        np.testing.assert_allclose(log_variance[3, 1, 0], [-10, -10, -9.5, 0, 9.5, 10])
        assert np.all(np.isfinite(to_numpy(model(X))))

    @every_builder
    @pytest.mark.parametrize(
        ("shape", "options", "message"),
        [
            ((28, 28, 1), {"channels": 48}, "`channels`.*at least 49.*singular.*channels=48"),
            ((8, 12, 1), {"channels": 5}, "`channels`.*at least 6"),
            ((8, 8, 1), {"channels": 4.0}, "`channels`.*positive integer.*4.0"),
            ((28, 30, 1), {}, r"`input_shape`.*multiples of 4.*\(28, 30, 1\)"),
            ((30, 28, 1), {}, "`input_shape`.*multiples of 4"),
            ((28, 28), {}, r"`input_shape`.*\(height, width, channels\).*\(28, 28\)"),
            ((4, 28, 28, 1), {}, "`input_shape`"),
            (28, {}, "`input_shape`.*channels.*28"),
            ((28, 28, 0), {}, "`input_shape`.*positive integer"),
            ((None, 28, 1), {}, "`input_shape`.*positive integer"),
        ],
    )
    def test_errors(self, build, shape, options, message):
        with pytest.raises(ValueError, match=message):
            build(shape, **options)

    @pytest.mark.parametrize("noise", [0, -0.1, np.inf, np.nan, "0.5", True])
    def test_no_noise(self, noise):
        with pytest.raises(ValueError, match=r"`noise`.*positive finite number"):
            manifolds.build_dae((8, 8, 1), noise=noise)

    @pytest.mark.parametrize("beta", [-1e-9, np.inf, np.nan, "1", True])
    def test_no_beta(self, beta):
        with pytest.raises(ValueError, match=r"`beta`.*positive finite number"):
            manifolds.build_vae((8, 8, 1), beta=beta)


class TestLossOfTheVariational:
    @pytest.mark.parametrize("beta", [1.0, 0.3, 0])
    def test_against_numpy(self, beta):
        model = manifolds.build_vae((8, 8, 1), channels=4, beta=beta, seed=1)
        set_latents(model, [0.5, -2, 0, 1], [0.3, -1, 2, 0])
        outputs = model(X, training=True)
        found = float(model.compute_loss(x=X, y=X, y_pred=outputs))
        latents = [to_numpy(each) for each in model.get_layer("encoder")(X)]
        kl = divergence(*latents, beta=beta)
        assert kl >= 20 * beta
        np.testing.assert_allclose(sum(map(float, model.losses)), kl, rtol=1e-5)
        expected = np.mean(crossentropies(X, to_numpy(outputs))) + kl
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_evaluated(self):
        """Each batch by its own mean, the means weighted by their sizes."""
        ours, same = (manifolds.build_vae((8, 8, 1), channels=4, beta=0.3, seed=1) for _ in "ab")
        same.set_weights(ours.get_weights())
        totals = [float(same.compute_loss(x=x, y=x, y_pred=same(x))) for x in (X[:6], X[6:])]
        found = ours.evaluate(X, X, batch_size=6, verbose=0)
        np.testing.assert_allclose(found, (6 * totals[0] + 2 * totals[1]) / 8, rtol=1e-5)

    def test_in_half_precision(self):
        """A mean of 300 alone has a square beyond float16."""
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = manifolds.build_vae((8, 8, 1), channels=4)
        finally:
            keras.config.set_dtype_policy("float32")
        set_latents(model, [300, 0, -2, 0], [0, 10, 0, -10])
        outputs = model(X)
        assert to_numpy(outputs).dtype == "float16"
        assert np.all(np.isfinite(to_numpy(outputs)))
        latents = [to_numpy(each) for each in model.get_layer("encoder")(X)]
        assert latents[0].dtype == "float16"
        expected = divergence(*latents)
        assert expected > 65504
        np.testing.assert_allclose(float(model.losses[0]), expected, rtol=1e-3)
        assert np.isfinite(float(model.compute_loss(x=X, y=X, y_pred=outputs)))


class TestSampling:
    MEAN, LOG_VARIANCE = (RNG.normal(size=(5, 2, 3)).astype("float32") for _ in "ab")

    def test_divergence_against_loops(self):
        for beta in (1.0, 2.5):
            layer = Sampling(beta)
            layer(self.MEAN, self.LOG_VARIANCE)
            expected = divergence(self.MEAN, self.LOG_VARIANCE, beta)
            np.testing.assert_allclose(float(layer.losses[0]), expected, rtol=1e-5)
        assert len(layer.losses) == 1

    def test_nothing_is_added_for_a_standard_normal(self):
        layer = Sampling()
        layer(np.zeros((3, 4), "float32"), np.zeros((3, 4), "float32"))
        assert float(layer.losses[0]) == 0

    @pytest.mark.parametrize("training", [True, False])
    def test_mean_and_spread(self, training):
        """In inference, too; every entry of every image has a draw of its own."""
        shape = (300, 10, 20)
        log_variance = np.full(shape, np.log(9), "float32")
        draws = Sampling(seed=0)(np.full(shape, 2, "float32"), log_variance, training=training)
        eps = (to_numpy(draws) - 2) / 3
        assert np.mean(eps) == pytest.approx(0, abs=4 / np.sqrt(eps.size))
        assert np.std(eps) == pytest.approx(1, abs=0.02)
        assert np.std(eps.mean(axis=0)) == pytest.approx(1 / np.sqrt(300), rel=0.3)
        assert np.std(eps.mean(axis=(1, 2))) == pytest.approx(1 / np.sqrt(200), rel=0.3)
        assert np.mean(np.abs(eps) < 1) == pytest.approx(0.683, abs=0.01)

    def test_a_variance_of_nothing(self):
        low = np.full(self.MEAN.shape, -60, "float32")
        np.testing.assert_allclose(to_numpy(Sampling()(self.MEAN, low)), self.MEAN, atol=1e-6)

    def test_seeds(self):
        def drawn(layer):
            return to_numpy(layer(self.MEAN, self.LOG_VARIANCE))

        first = Sampling(seed=3)
        start = drawn(first)
        np.testing.assert_array_equal(drawn(Sampling(seed=3)), start)
        assert np.all(drawn(Sampling(seed=4)) != start)
        assert np.all(drawn(first) != start)

    def test_models_of_one_seed(self):
        ours, same, other = (manifolds.build_vae((8, 8, 1), channels=4, seed=s) for s in (5, 5, 6))
        for model in (same, other):
            model.set_weights(ours.get_weights())
        start = to_numpy(ours(X))
        np.testing.assert_array_equal(to_numpy(same(X)), start)
        assert np.any(to_numpy(other(X)) != start)
        assert np.any(to_numpy(ours(X, training=False)) != start)


class TestCorruption:
    GRAY = np.full((400, 32, 32, 1), 0.5, "float32")

    def test_off_in_inference(self):
        layer = Corruption(0.5, seed=0)
        np.testing.assert_array_equal(to_numpy(layer(X)), X)
        np.testing.assert_array_equal(to_numpy(layer(X, training=False)), X)
        assert np.any(to_numpy(layer(X, training=True)) != X)

    def test_strength_is_uniform_over_images(self):
        noise = to_numpy(Corruption(0.04, seed=0)(self.GRAY, training=True)) - 0.5
        found = np.sort(noise.std(axis=(1, 2, 3))) / 0.04
        # Kolmogorov and Smirnov at 1 %, and some for the deviation of 1024 pixels.
        assert np.max(np.abs(found - np.arange(400) / 400)) < 1.63 / np.sqrt(400) + 0.02
        each = noise / noise.std(axis=(1, 2, 3), keepdims=True)
        assert np.mean(np.abs(each) < 1) == pytest.approx(0.683, abs=0.01)
        assert abs(np.mean(each)) < 0.01
        # The images have noises of their own.
        assert np.std(each.mean(axis=0)) == pytest.approx(1 / np.sqrt(400), rel=0.1)

    def test_clipped(self):
        for level in (0.0, 0.5, 1.0):
            noisy = to_numpy(Corruption(5.0, seed=0)(self.GRAY * 2 * level, training=True))
            assert noisy.min() == 0
            assert noisy.max() == 1
            assert noisy.dtype == "float32"

    def test_seeds(self):
        def noisy(layer):
            return to_numpy(layer(self.GRAY[:2], training=True))

        first = Corruption(seed=3)
        start = noisy(first)
        np.testing.assert_array_equal(noisy(Corruption(seed=3)), start)
        assert np.any(noisy(Corruption(seed=4)) != start)
        assert np.any(noisy(first) != start)

    def test_in_a_model(self):
        ours, same = (
            manifolds.build_dae((8, 8, 1), channels=4, noise=0.3, seed=7) for _ in range(2)
        )
        layer = ours.get_layer("corruption")
        assert (layer.stddev, layer.seed) == (0.3, 7)
        same.set_weights(ours.get_weights())
        encoder, decoder = parts(ours)
        clean = to_numpy(decoder(encoder(X)))
        np.testing.assert_array_equal(to_numpy(ours(X, training=False)), clean)
        noisy = to_numpy(ours(X, training=True))
        assert np.any(noisy != clean)
        np.testing.assert_array_equal(to_numpy(same(X, training=True)), noisy)


class TestSummedCrossentropy:
    TRUE, FOUND = RNG.random((2, 5, 4, 3, 2)).astype("float32")

    def test_against_numpy(self):
        each = crossentropies(self.TRUE, self.FOUND)
        for reduction, expected in {
            "sum_over_batch_size": np.mean(each),
            "sum": np.sum(each),
            "none": each,
        }.items():
            loss = SummedCrossentropy(reduction=reduction)
            found = to_numpy(loss(self.TRUE, self.FOUND))
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        found = to_numpy(SummedCrossentropy()(self.TRUE, self.FOUND))
        np.testing.assert_allclose(found, np.mean(each), rtol=1e-5)

    def test_certain_pixels_are_finite(self):
        ones = np.ones((2, 3, 3, 1), "float32")
        loss = SummedCrossentropy()
        assert float(loss(ones, ones)) == pytest.approx(0, abs=1e-4)
        assert 9 * 10 < float(loss(ones, 0 * ones)) < 9 * 20


@pytest.mark.parametrize(
    "layer",
    [Corruption(0.2, seed=3, name="noise"), Sampling(0.4, seed=4, name="draw"), Sampling(0)],
)
def test_config_of_layers(layer):
    config = layer.get_config()
    same = type(layer).from_config(config)
    assert same.get_config() == config
    assert {"seed", "name"} < set(config)
    for key in ("stddev", "beta", "seed"):
        assert getattr(same, key, None) == getattr(layer, key, None) == config.get(key)


def test_config_of_the_loss():
    loss = SummedCrossentropy(name="elbo", reduction="sum")
    same = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(same) is SummedCrossentropy
    assert same.get_config() == loss.get_config()
    assert (same.name, same.reduction) == ("elbo", "sum")


@pytest.fixture(scope="module")
def trained():
    """A model of each kind after three epochs, with the loss of each."""
    keras.utils.set_random_seed(0)
    images, found = squares(), {}
    for name, build in BUILDERS.items():
        model = build((8, 8, 1), channels=4, **({} if name == "cae" else {"seed": 0}))
        model.optimizer.learning_rate = 0.01
        history = model.fit(images, images, epochs=3, batch_size=16, verbose=0)
        found[name] = model, history.history["loss"]
    return found


class TestTraining:
    @pytest.mark.parametrize("name", BUILDERS)
    def test_lowers_the_loss(self, trained, name):
        _, losses = trained[name]
        assert losses[2] < 0.97 * losses[0]
        # 64 pixels of a cross-entropy of log 2 each, before anything is learnt.
        assert losses[0] < 1.1 * np.log(2) * (64 if name == "vae" else 1)

    @pytest.mark.parametrize("name", BUILDERS)
    def test_goes_on_from_a_file(self, trained, name, tmp_path):
        model, losses = trained[name]
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        for ours, theirs in zip(parts(model), parts(loaded), strict=True):
            outputs = [
                keras.tree.flatten(part(np.ones((2, *part.input_shape[1:]))))
                for part in (ours, theirs)
            ]
            for a, b in zip(*outputs, strict=True):
                np.testing.assert_array_equal(to_numpy(a), to_numpy(b))
        if name != "vae":  # which draws samples
            found = [to_numpy(each(X)) for each in (model, loaded)]
            np.testing.assert_array_equal(*found)
        for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b))
        images = squares()
        history = loaded.fit(images, images, batch_size=16, verbose=0)
        assert int(loaded.optimizer.iterations) == 12
        assert history.history["loss"][0] < losses[0]


@pytest.mark.ci
@needs("`jit_compile=True`")
@pytest.mark.skipif(BACKEND == "jax", reason="as always with JAX")
def test_compiled_by_xla():
    """Its random numbers may be others."""
    losses = []
    for jit in (False, True):
        model = manifolds.build_vae((4, 4, 1), channels=1, seed=0)
        model.compile(model.optimizer, model.loss, jit_compile=jit)
        losses.append(model.evaluate(X[:, :4, :4], X[:, :4, :4], verbose=0))
    assert np.isfinite(losses).all()
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
