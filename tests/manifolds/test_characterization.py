"""The protocol, on encoders whose latents NumPy has, too."""

import json
import random

import keras
import numpy as np
import pytest
from keras import layers

from keras_lgg import manifolds

pytest.importorskip("scipy", reason="needs the extra manifolds")

N = 8  # as many as a report keeps pictures of, so that tests can see all disturbed images
SIGMAS = (0.0, 0.1, 0.4)
RNG = np.random.default_rng(0)


def some_images(n=N):
    """Some with blank borders, whose latents have equal rows, and one all blank."""
    images = RNG.random((n, 8, 8, 1)).astype("float32")
    images[0] = 0
    images[1:4, :2] = images[1:4, 6:] = 0
    images[3:5, :, 4:] = 0
    return images


X = some_images()
# Of the four pixels of a patch: a channel twice, and one that is all but blank.
KERNEL = RNG.normal(size=(4, 5)).astype("float32")[:, [0, 1, 2, 0, 3]] * [1, 1, 1, 1, 1e-4]
KERNEL = KERNEL.astype("float32")


def patches(images):
    """(n, 8, 8, 1) -> (n, 4, 4, 4), the 2x2 pixels of each patch."""
    return images.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 4, 4, 4)


def sequence(*parts, shape=(8, 8, 1), **options):
    return keras.Sequential([keras.Input(shape), *parts], **options)


def linear(kernel=KERNEL, **options):
    """An encoder that multiplies each 2x2 patch by a matrix."""
    model = sequence(layers.Conv2D(kernel.shape[1], 2, strides=2, use_bias=False), **options)
    model.set_weights([np.reshape(kernel, (2, 2, 1, -1))])
    return model


def variational(log_variance, *, mean=None, outputs=2):
    """Its mean is its input, unless a layer says otherwise."""
    inputs = keras.Input((8, 8, 1))
    found = [(mean or layers.Identity())(inputs), log_variance(inputs), 0 * inputs]
    folded = [layers.Reshape((4, 4, 4))(each) for each in found]
    return keras.Model(inputs, folded[:outputs])


# Made once: Keras compiles each of them once, then.
LINEAR = linear(name="linear")
READER = sequence(layers.Conv2DTranspose(1, 2, strides=2, bias_initializer="ones"), shape=(4, 4, 5))
FOLD, UNFOLD = (
    sequence(layers.Reshape((4, 4, 4))),
    sequence(layers.Reshape((8, 8, 1)), shape=(4, 4, 4)),
)
# The variance is another for each pixel: exp(2 x - 1).
NOISY = variational(layers.Rescaling(2.0, -1.0))


def characterize(model, x=X, **options):
    return manifolds.characterize(model, x, **{"sigmas": SIGMAS, "progress": False, **options})


def names(report):
    return [each.name for each in report.manifolds], [each.name for each in report.controls]


def pairwise(points):
    return np.sum((points[:, None] - points[None]) ** 2, axis=-1)


def median_of_pairs(squared):
    return np.median([squared[i, j] for i in range(len(squared)) for j in range(i)])


def psnr(decoded, images):
    return [
        10 * np.log10(1 / np.mean((a.astype("float64") - b) ** 2))
        for a, b in zip(decoded, images, strict=True)
    ]


@pytest.fixture(
    scope="module",
    params=[
        {},
        {"kernel": "gaussian", "kappa": 0.3},
        {"weights": (0.5, 2, 0.1), "energy": 0.5, "seed": 3},
        {"kernel": "gaussian", "weights": [1, 0, 2], "rtol": 0.2},
    ],
    ids=["default", "gaussian", "weights", "both"],
)
def case(request):
    report = characterize((LINEAR, READER), controls=False, **request.param)
    options = {"kernel": "distance", "weights": "median", "kappa": 1.0, "energy": 0.8}
    return report, {**options, "rtol": None, **request.param}


@pytest.fixture(scope="module")
def latents(case):
    return [patches(images) @ KERNEL for images in case[0].images]


@pytest.fixture(scope="module")
def points(case, latents):
    """Of all levels in the Hilbert space, by the public functions."""
    _, options = case
    squared = manifolds.product_distances(
        np.concatenate(latents),
        weights=options["weights"],
        clean=N,
        kappa=options["kappa"],
        rtol=options["rtol"],
    )
    gamma = 1 / median_of_pairs(squared[:N, :N])
    kernel = manifolds.product_kernel(squared, kernel=options["kernel"], gamma=gamma)
    return squared, gamma, np.split(manifolds.hilbert_map(kernel), len(SIGMAS))


class TestLevels:
    """A linear encoder, whose latents are patches times a matrix."""

    def test_ranks(self, case, latents):
        report, options = case
        found = report.manifolds[0]
        for level, z in zip(found.levels, latents, strict=True):
            np.testing.assert_array_equal(
                level.ranks, manifolds.mode_ranks(z, rtol=options["rtol"])
            )
            np.testing.assert_array_equal(level.coarse_ranks, manifolds.mode_ranks(z, rtol=1e-3))
            assert level.strata == manifolds.strata(level.ranks)
        assert found.shape == (4, 4, 5)
        if options["rtol"] is None:
            assert not np.array_equal(found.levels[0].ranks, found.levels[0].coarse_ranks)

    def test_ranks_by_linear_algebra(self, case, latents):
        report, options = case
        for level, z in zip(report.manifolds[0].levels, latents, strict=True):
            for k in range(3):
                unfolded = np.moveaxis(z.astype("float64"), k + 1, 1).reshape(N, z.shape[k + 1], -1)
                centred = unfolded - unfolded.mean(axis=2, keepdims=True)
                values = np.linalg.svd(centred, compute_uv=False)
                bound = 3e-6 if options["rtol"] is None else options["rtol"] * values[:, :1]
                expected = np.count_nonzero(values > bound, axis=1)
                np.testing.assert_array_equal(level.ranks[:, k], expected)
        # The blank image; and one half of whose rows are blank.
        assert report.manifolds[0].levels[0].ranks[0].tolist() == [0, 0, 0]
        assert report.manifolds[0].levels[0].ranks[1, 0] <= 2

    def test_spectra(self, case, latents):
        for level, z in zip(case[0].manifolds[0].levels, latents, strict=True):
            for k, values in enumerate(level.spectra):
                unfolded = manifolds.unfold(z, mode=k + 1)
                for found, u in zip(values, unfolded, strict=True):
                    expected = np.linalg.svd(u - u.mean(axis=1, keepdims=True), compute_uv=False)
                    np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_points(self, case, points):
        report, options = case
        found = report.manifolds[0]
        squared, gamma, _ = points
        shown = np.concatenate(found.coordinates)
        if options["kernel"] == "distance":
            assert found.gamma is None
            np.testing.assert_allclose(pairwise(shown), squared, rtol=1e-4, atol=1e-4)
        else:
            assert found.gamma == pytest.approx(gamma, rel=1e-5)
            expected = 2 - 2 * np.exp(-gamma * squared)
            np.testing.assert_allclose(pairwise(shown), expected, rtol=1e-4, atol=1e-4)

    def test_weights(self, case, latents):
        report, options = case
        if options["weights"] != "median":
            assert report.manifolds[0].weights == tuple(options["weights"])
            return
        for k, weight in enumerate(report.manifolds[0].weights):
            squared = manifolds.product_distances(
                latents[0], weights=np.eye(3)[k], kappa=options["kappa"]
            )
            assert weight == pytest.approx(1 / median_of_pairs(squared), rel=1e-4)

    def test_subspaces(self, case, points):
        report, options = case
        _, _, levels = points
        bases = [manifolds.subspace(level, energy=options["energy"]) for level in levels]
        for i, level in enumerate(report.manifolds[0].levels):
            assert level.dimension == bases[i].shape[1]
            expected = manifolds.principal_angles(bases[0], bases[i])
            np.testing.assert_allclose(level.angles, expected, rtol=1e-3, atol=1e-3)
            moved = [np.linalg.norm(a - b) for a, b in zip(levels[i], levels[0], strict=True)]
            assert level.displacement == pytest.approx(np.mean(moved), rel=1e-4, abs=1e-9)
        assert report.manifolds[0].levels[2].angles[0] > 5

    def test_curve_lengths(self, case, latents):
        report, options = case
        # Of variances, which are squares.
        rtol = options["rtol"] and options["rtol"] ** 2
        compared = []
        for level, z in zip(report.manifolds[0].levels, latents, strict=True):
            for k in range(3):
                first, second = (manifolds.mode_covariance(a, mode=k + 1) for a in (latents[0], z))
                expected = [
                    manifolds.bonnabel_sepulchre_distance(a, b, kappa=options["kappa"], rtol=rtol)
                    for a, b in zip(first, second, strict=True)
                ]
                found = level.curve_lengths[:, k]
                np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
                compared.extend(np.isfinite(expected))
        assert 0.2 < np.mean(compared) < 0.9

    def test_reconstructions(self, case, latents):
        report, _ = case
        found = report.manifolds[0]
        for i, z in enumerate(latents):
            decoded = READER.predict(z, verbose=0)
            np.testing.assert_allclose(found.reconstructions[i], decoded, atol=1e-5)
            np.testing.assert_allclose(found.levels[i].psnr, psnr(decoded, X), rtol=1e-4)

    def test_interpolations(self, case, latents):
        found = case[0].manifolds[0].interpolations
        assert found.shape == (4, 8, 8, 8, 1)
        for i, steps in enumerate(found):
            for j, step in enumerate(steps):
                between = (1 - j / 7) * latents[0][2 * i] + j / 7 * latents[0][2 * i + 1]
                decoded = READER.predict_on_batch(between[None].astype("float32"))
                np.testing.assert_allclose(step, decoded[0], atol=1e-5)


def test_halves_of_the_clean_latents():
    """Four images have three pairs of halves; the null angle averages ten that were drawn."""
    x = X[4:]
    report = characterize(LINEAR, x, sigmas=(0, 0.2), controls=False, energy=0.9)
    clean = report.manifolds[0].coordinates[0]
    means = []
    for half in ([0, 1], [0, 2], [0, 3]):
        rest = [i for i in range(4) if i not in half]
        bases = [manifolds.subspace(clean[part], energy=0.9) for part in (half, rest)]
        means.append(np.mean(manifolds.principal_angles(*bases)))
    sums = [
        (a * means[0] + b * means[1] + (10 - a - b) * means[2]) / 10
        for a in range(9)
        for b in range(9 - a)
    ]
    assert np.min(np.abs(np.array(sums) - report.manifolds[0].null_angle)) < 1e-6
    seeds = [
        characterize(LINEAR, x, sigmas=(0,), controls=False, seed=s).manifolds[0].null_angle
        for s in range(4)
    ]
    assert len(set(seeds)) > 1
    # Of the same halves, other subspaces.
    few, many = (
        characterize(LINEAR, sigmas=(0,), controls=False, energy=energy).manifolds[0].null_angle
        for energy in (0.01, 1)
    )
    assert abs(many - few) > 1


@pytest.mark.parametrize("kernel", ["distance", "gaussian"])
def test_no_noise_no_change(kernel):
    """Property 8 of the specification."""
    report = characterize(LINEAR, controls=False, kernel=kernel, energy=0.99)
    clean = report.manifolds[0].levels[0]
    assert len(clean.angles) == clean.dimension > 1
    assert np.max(clean.angles) < 1e-5
    assert clean.displacement == 0
    lengths = clean.curve_lengths
    np.testing.assert_allclose(lengths, 0, atol=1e-5)


class Collapsed(layers.Layer):
    """Latents that depend on the image by a small share alone."""

    def __init__(self, share):
        super().__init__()
        self.share, self.fixed = share, RNG.normal(size=(4, 4, 6)).astype("float32")

    def call(self, x):
        part = self.share * keras.ops.tile(x[:, :4, :4], (1, 1, 1, 6))
        return keras.ops.convert_to_tensor(self.fixed) + part


@pytest.mark.parametrize("share", [0, 1e-8, 1e-6, 1e-4])
def test_collapsed_latents(share):
    """There is little to see; nothing fails."""
    report = characterize(sequence(Collapsed(share)), controls=False)
    for level in report.manifolds[0].levels:
        assert np.isfinite(level.displacement)


def test_only_subspaces_that_are_all_the_same():
    """With a kappa of 0 all latents of full rank are one point."""
    report = characterize(FOLD, 0.1 + 0.8 * RNG.random(X.shape), controls=False, kappa=0)
    assert all(level.displacement < 1e-6 for level in report.manifolds[0].levels)


class TestNoise:
    GRAY = np.full((12, 8, 8, 1), 0.5, "float32")

    def noise(self, report, level):
        return (report.images[level] - 0.5) / report.config["sigmas"][level]

    def test_one_for_all_levels(self):
        report = characterize(FOLD, self.GRAY, sigmas=(0, 0.01, 0.05, 0.1), controls=False)
        np.testing.assert_array_equal(report.images[0], self.GRAY[:8])
        noise = self.noise(report, 1)
        np.testing.assert_allclose(self.noise(report, 2), noise, atol=1e-4)
        np.testing.assert_allclose(self.noise(report, 3), noise, atol=1e-4)
        # Standard normal, and of each image its own.
        assert np.mean(noise) == pytest.approx(0, abs=4 / np.sqrt(noise.size))
        assert np.std(noise) == pytest.approx(1, abs=0.1)
        assert np.std(noise.mean(axis=0)) == pytest.approx(1 / np.sqrt(8), rel=0.3)

    def test_clipped(self):
        report = characterize((FOLD, UNFOLD), sigmas=(0, 0.01, 0.5, 3), controls=False)
        mild = characterize(FOLD, self.GRAY[:N], sigmas=(0, 0.01), controls=False)
        noise = self.noise(mild, 1)
        for sigma, images in zip((0, 0.01, 0.5, 3), report.images, strict=True):
            np.testing.assert_allclose(images, np.clip(X + sigma * noise, 0, 1), atol=1e-3)
        # The encoder saw these images, and no others.
        np.testing.assert_allclose(report.manifolds[0].reconstructions, report.images, atol=1e-6)

    def test_depends_on_the_seed(self):
        reports = [characterize(FOLD, sigmas=(0, 0.1), controls=False, seed=s) for s in (0, 0, 1)]
        np.testing.assert_array_equal(reports[0].images, reports[1].images)
        assert np.any(reports[0].images[1] != reports[2].images[1])
        np.testing.assert_array_equal(reports[0].images[0], reports[2].images[0])

    def test_one_for_all_models(self):
        both = characterize({"a": (FOLD, UNFOLD), "b": (NOISY, UNFOLD)}, latent="mean")
        for each in both.manifolds:
            np.testing.assert_allclose(each.reconstructions, both.images, atol=1e-6)
        alone = characterize((FOLD, UNFOLD), controls=False)
        np.testing.assert_array_equal(alone.images, both.images)


def eps_of(report, name):
    """The noise of the latents of `NOISY`, whose decoder shows them: one array a level."""
    shown, images = report[name].reconstructions, report.images
    return (shown - images) / np.exp(images - 0.5)


@pytest.fixture(scope="module")
def report():
    return characterize({"V": (NOISY, UNFOLD)})


class TestVariational:
    def test_samples_have_one_noise(self, report):
        eps = eps_of(report, "V")
        np.testing.assert_allclose(eps[1], eps[0], atol=1e-4)
        np.testing.assert_allclose(eps[2], eps[0], atol=1e-4)
        assert np.mean(eps[0]) == pytest.approx(0, abs=4 / np.sqrt(512))
        assert np.std(eps[0]) == pytest.approx(1, abs=0.1)
        assert np.std(eps[0].mean(axis=0)) == pytest.approx(1 / np.sqrt(8), rel=0.3)

    def test_its_noise_is_not_that_of_the_images(self, report):
        """Nor is that of fresh samples at a level."""
        gray = np.full(X.shape, 0.5, "float32")
        found = characterize({"V": (NOISY, UNFOLD)}, gray, sigmas=(0, 0.05))
        images = ((found.images[1] - 0.5) / 0.05).ravel()
        drawn = [images, eps_of(found, "V")[0].ravel(), *eps_of(found, "V, fresh noise")]
        correlations = np.corrcoef([each.ravel() for each in drawn])
        assert np.max(np.abs(correlations - np.eye(4))) < 0.2

    def test_the_mean_has_none(self, report):
        np.testing.assert_allclose(
            report["V, mean"].reconstructions, report.images, rtol=0, atol=1e-6
        )

    def test_fresh_noise_differs_by_level(self, report):
        eps = eps_of(report, "V, fresh noise")
        correlations = np.corrcoef(eps.reshape(3, -1))
        assert np.max(np.abs(correlations - np.eye(3))) < 0.2
        np.testing.assert_allclose(eps.std(axis=(1, 2, 3, 4)), 1, atol=0.1)

    def test_seeds(self, report):
        same, other = (
            characterize({"V": (NOISY, UNFOLD)}, latent="fresh_eps", seed=s) for s in (0, 1)
        )
        for name in ("V", "V, fresh noise"):
            np.testing.assert_array_equal(same[name].reconstructions, report[name].reconstructions)
            assert np.all(np.abs(eps_of(other, name) - eps_of(report, name)).max(axis=0) > 0)

    @pytest.mark.parametrize(
        ("latent", "first", "others"),
        [
            ("sample", "V", ["V, mean", "V, fresh noise"]),
            ("mean", "V, mean", ["V", "V, fresh noise"]),
            ("fresh_eps", "V, fresh noise", ["V", "V, mean"]),
        ],
    )
    def test_the_others_are_controls(self, report, latent, first, others):
        found = characterize({"V": (NOISY, UNFOLD)}, latent=latent)
        assert names(found) == ([first], [*others, "V, mean, untrained"])
        assert found.manifolds[0].latent == found.config["latent"] == latent
        assert len(found[others[0]].levels) == 3
        assert [each.sigma for each in found["V, mean, untrained"].levels] == [0]
        # Whichever is asked for, they are the same.
        for name in (first, *others):
            assert found[name].to_dict() == report[name].to_dict()
        alone = characterize({"V": (NOISY, UNFOLD)}, latent=latent, controls=False)
        assert names(alone) == ([first], [])

    def test_a_third_output_is_not_looked_at(self, report):
        third = variational(layers.Rescaling(2.0, -1.0), outputs=3)
        found = characterize({"V": (third, UNFOLD)}, controls=False)
        assert found.manifolds[0].to_dict() == report["V"].to_dict()

    def test_outputs_by_name(self):
        """Keras has them in the order of the alphabet, the variance first."""
        mean, log_variance = NOISY.outputs
        named = keras.Model(NOISY.inputs[0], {"mean": mean, "log_variance": log_variance})
        with pytest.raises(ValueError, match=r"no order.*a list.*\['log_variance', 'mean'\]"):
            characterize((named, UNFOLD))
        one = keras.Model(NOISY.inputs[0], {"latent": mean})
        found = characterize((one, UNFOLD), controls=False)
        np.testing.assert_allclose(found.manifolds[0].reconstructions, found.images, atol=1e-6)

    def test_of_this_package(self):
        model = manifolds.build_vae((8, 8, 1), channels=4, seed=0)
        found = characterize(model)
        assert names(found) == (["vae"], ["vae, mean", "vae, fresh noise", "vae, mean, untrained"])
        assert found.manifolds[0].shape == (2, 2, 4)


class TestUntrained:
    def test_has_new_weights_on_clean_images(self):
        state = random.getstate()
        weights = LINEAR.get_weights()
        report, same, other = (characterize((LINEAR, READER), seed=s) for s in (0, 0, 1))
        assert random.getstate() == state
        np.testing.assert_array_equal(LINEAR.get_weights()[0], weights[0])
        assert names(report) == (["autoencoder"], ["autoencoder, untrained"])
        found, again, others = (each.controls[0] for each in (report, same, other))
        assert [level.sigma for level in found.levels] == [0]
        assert found.levels[0].psnr is found.reconstructions is found.interpolations is None
        assert found.latent == "code"
        trained = report.manifolds[0].levels[0].spectra
        for k, values in enumerate(found.levels[0].spectra):
            assert not np.allclose(values[1:], trained[k][1:], rtol=0.01)
            assert not np.allclose(values[1:], others.levels[0].spectra[k][1:], rtol=0.01)
            np.testing.assert_array_equal(values, again.levels[0].spectra[k])
        # What is blank is blank untrained, too.
        assert found.levels[0].ranks[0].tolist() == [0, 0, 0]
        assert report.not_cloned == {}

    def test_of_an_encoder_that_keras_cannot_copy(self):
        class Own(keras.Model):
            def __init__(self, encoder):
                super().__init__()
                self.inner = encoder

            def call(self, x):
                return self.inner(x)

        state = random.getstate()
        report = characterize({"own": Own(LINEAR), "linear": LINEAR})
        assert random.getstate() == state
        assert names(report) == (["own", "linear"], ["linear, untrained"])
        assert list(report.not_cloned) == ["own"]
        assert "get_config" in report.not_cloned["own"]
        (caveat,) = (text for text in report.caveats if "own: no untrained copy" in text)
        assert "Object Own was created by passing" in caveat
        for ours, theirs in zip(*(each.levels for each in report.manifolds), strict=True):
            assert ours.to_dict() == theirs.to_dict()


@pytest.fixture(scope="module")
def expected():
    return characterize({"m": (LINEAR, READER)}, controls=False).to_dict()


class TestModels:
    """However encoder and decoder are handed over."""

    def test_nested_parts(self, expected):
        inputs = keras.Input((8, 8, 1))
        encoder, decoder = (
            keras.Model(m.inputs[0], m.outputs[0], name=n)
            for m, n in ((LINEAR, "encoder"), (READER, "decoder"))
        )
        model = keras.Model(inputs, decoder(encoder(inputs)), name="m")
        assert characterize(model, controls=False).to_dict() == expected
        assert characterize({"m": model}, controls=False).to_dict() == expected

    def test_attributes(self, expected):
        class Own(keras.Model):
            def __init__(self, **options):
                super().__init__(**options)
                self.encoder, self.decoder = LINEAR, READER

            def call(self, x):
                return self.decoder(self.encoder(x))

        assert characterize(Own(name="m"), controls=False).to_dict() == expected

    def test_a_list(self, expected):
        assert characterize({"m": [LINEAR, READER]}, controls=False).to_dict() == expected
        found = characterize([LINEAR, READER], controls=False)
        assert names(found) == (["autoencoder"], [])

    def test_an_encoder_alone(self, expected):
        found = characterize(LINEAR, controls=False)
        assert names(found) == (["linear"], [])
        for level, theirs in zip(
            found.manifolds[0].to_dict()["levels"], expected["manifolds"][0]["levels"], strict=True
        ):
            assert level == {**theirs, "psnr": None, "psnr_std": None}
        assert found.manifolds[0].reconstructions is found.manifolds[0].interpolations is None

    def test_several(self, expected):
        found = characterize({"a": FOLD, "m": (LINEAR, READER), "c": (FOLD, UNFOLD)})
        untrained = [f"{name}, untrained" for name in "amc"]
        assert names(found) == (["a", "m", "c"], untrained)
        assert found.config["models"] == ["a", "m", "c"]
        assert found["m"].to_dict() == expected["manifolds"][0]
        assert [each.levels[0].psnr is None for each in found.manifolds] == [True, False, False]

    def test_cut_as_the_errors_advise(self):
        """By `inputs`, a list."""
        whole = sequence(layers.Reshape((4, 4, 4), name="tensor"), layers.Flatten())
        cut = keras.Model(whole.inputs, whole.get_layer("tensor").output)
        assert characterize(cut, controls=False).manifolds[0].shape == (4, 4, 4)

    def test_inputs_by_name(self):
        one = keras.Input((8, 8, 1), name="image")
        named = keras.Model({"image": one}, layers.Reshape((4, 4, 4))(one))
        found = characterize((named, UNFOLD), controls=False)
        np.testing.assert_allclose(found.manifolds[0].reconstructions, found.images, atol=1e-6)

    def test_latents_as_large_as_images(self):
        """Of a pair, whose untrained encoder is no autoencoder, either."""
        same = sequence(layers.Conv2D(1, 3, padding="same"))
        report = characterize((same, same))
        assert names(report) == (["autoencoder"], ["autoencoder, untrained"])

    def test_saved_and_loaded(self, tmp_path):
        model = manifolds.build_cae((8, 8, 1), channels=4)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
        reports = [characterize(each, controls=False) for each in (model, loaded)]
        assert reports[0].to_dict() == reports[1].to_dict()
        assert reports[0].manifolds[0].name == "cae"

    def test_leaves_them_as_they_were(self):
        before = [model.get_weights() for model in (LINEAR, READER)]
        characterize((LINEAR, READER))
        for a, b in zip(before, (LINEAR, READER), strict=True):
            for ours, theirs in zip(a, b.get_weights(), strict=True):
                np.testing.assert_array_equal(ours, theirs)

    def test_runs_in_inference_mode(self, expected):
        dropping = sequence(layers.Dropout(0.5), LINEAR)
        found = characterize({"m": (dropping, READER)}, controls=False)
        assert found.to_dict() == expected


class Listening(keras.Model):
    """Notes the sizes of its batches."""

    def __init__(self, sizes):
        super().__init__()
        self.note = sizes.append

    def call(self, x):
        self.note(len(x))
        return keras.ops.reshape(x, (-1, 4, 4, 4))


class TestOptions:
    def test_the_size_of_batches_does_not_matter(self):
        found = [
            characterize((LINEAR, READER), controls=False, batch_size=size).manifolds[0]
            for size in (3, 256)
        ]
        for ours, theirs in zip(*(each.levels for each in found), strict=True):
            np.testing.assert_array_equal(ours.ranks, theirs.ranks)
            np.testing.assert_allclose(ours.angles, theirs.angles, atol=1e-2)
            np.testing.assert_allclose(ours.psnr, theirs.psnr, rtol=1e-5)

    def test_batches_are_no_larger(self):
        sizes = []
        model = Listening(sizes)
        characterize((model, UNFOLD), sigmas=(0,), controls=False, batch_size=3)
        assert max(sizes) == 3
        sizes.clear()
        with pytest.raises(ValueError, match="at most 3000"):
            characterize(model, RNG.random((1001, 8, 8, 1)))
        assert sizes == []  # it says so first

    def test_bytes_and_floats_agree(self):
        whole = np.round(255 * X).astype("uint8")
        reports = [
            characterize((LINEAR, READER), images, controls=False)
            for images in (whole, whole / 255, (whole / 255).astype("float32"))
        ]
        np.testing.assert_allclose(reports[0].images[0], whole / 255, atol=1e-7)
        np.testing.assert_allclose(reports[0].images, reports[1].images, atol=1e-6)
        for other in reports[1:]:
            for a, b in zip(reports[0].manifolds[0].levels, other.manifolds[0].levels, strict=True):
                np.testing.assert_array_equal(a.ranks, b.ranks)
                np.testing.assert_allclose(a.psnr, b.psnr, rtol=1e-4)

    def test_again(self):
        model = {"V": (NOISY, UNFOLD), "L": (LINEAR, READER)}
        assert characterize(model).to_dict() == characterize(model).to_dict()
        assert characterize(model).to_dict() != characterize(model, seed=1).to_dict()

    def test_config(self):
        found = characterize(
            LINEAR,
            sigmas=np.array([0, 0.25]),
            controls=False,
            weights=np.array([1, 2, 3]),
            kernel="gaussian",
            energy=0.7,
            kappa=2,
            rtol=1e-4,
            seed=np.int64(4),
        )
        assert json.loads(json.dumps(found.config)) == {
            "models": ["linear"],
            "images": 8,
            "image_shape": [8, 8, 1],
            "sigmas": [0.0, 0.25],
            "latent": "sample",
            "energy": 0.7,
            "kernel": "gaussian",
            "weights": [1.0, 2.0, 3.0],
            "kappa": 2,
            "rtol": 1e-4,
            "coarse_rtol": 1e-3,
            "seed": 4,
        }
        assert characterize(LINEAR, controls=False).config["weights"] == "median"

    @pytest.mark.parametrize("name", ["kappa", "energy", "rtol"])
    def test_numbers_of_numpy(self, name):
        found = characterize(LINEAR, controls=False, **{name: np.float32(0.5)})
        assert json.loads(found.to_json())["config"][name] == 0.5

    def test_default_levels(self):
        found = manifolds.characterize(LINEAR, X, controls=False, progress=False)
        assert found.config["sigmas"] == [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5]
        assert [level.sigma for level in found.manifolds[0].levels] == found.config["sigmas"]

    def test_pictures_of_a_few(self):
        """Eight images are kept of twenty, and fifty axes of the Hilbert space."""
        model = (
            sequence(layers.Reshape((2, 2, 16))),
            sequence(layers.Reshape((8, 8, 1)), shape=(2, 2, 16)),
        )
        found = characterize(model, RNG.random((20, 8, 8, 1)), controls=False)
        assert found.images.shape == found.manifolds[0].reconstructions.shape == (3, 8, 8, 8, 1)
        assert found.manifolds[0].coordinates.shape == (3, 20, 50)
        assert len(found.manifolds[0].levels[1].psnr) == len(found.manifolds[0].levels[1].ranks)
        few = characterize((FOLD, UNFOLD), X[:5], controls=False)
        assert few.manifolds[0].interpolations.shape == (2, 8, 8, 8, 1)
        assert len(few.images[0]) == 5

    def test_progress(self, capsys):
        model = {"V": (NOISY, UNFOLD), "L": LINEAR}
        options = {"sigmas": (0, 0.1)}
        manifolds.characterize(model, X, progress=False, **options)
        assert capsys.readouterr().out == ""
        manifolds.characterize(model, X, **options)
        assert "6/6" in capsys.readouterr().out  # three latents, one code, two untrained


def broken(*parts, shape=(8, 8, 1), **options):
    return sequence(*parts, shape=shape, name="broken", **options)


FLAT = broken(layers.Flatten())
NAN = broken(layers.Reshape((4, 4, 4)), layers.Rescaling(np.nan))
HALF = broken(layers.Reshape((4, 4, 4)), layers.Identity(dtype="float16"))
INPUTS = keras.Input((8, 8, 1))
TWO_SHAPES = keras.Model(
    INPUTS, [layers.Reshape((4, 4, 4))(INPUTS), layers.Reshape((2, 2, 16))(INPUTS)], name="broken"
)
MANY = np.zeros((1001, 8, 8, 1), "float32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"autoencoder": FLAT}, r"'broken' is not a tensor.*\(n, H, W, C\).*\(1, 64\).*Cut the"),
        (
            {"autoencoder": {"mine": (FLAT, UNFOLD)}},
            r"'mine' is not a tensor of rows, columns and channels.*encoder.get_layer\(name\)",
        ),
        (
            {"autoencoder": sequence(layers.Identity(), name="broken")},
            r"'broken' returns tensors of the shape of its images.*Pass the pair \(encoder, dec",
        ),
        (
            {"autoencoder": TWO_SHAPES},
            r"'broken' has two outputs that are not mean and log-variance.*\(1, 2, 2, 16\)",
        ),
        (
            {"autoencoder": (FOLD, broken(layers.Reshape((4, 16, 1)), shape=(4, 4, 4)))},
            r"decoder of 'autoencoder'.*\(8, 8, 8, 1\).*Received: \(8, 4, 16, 1\)",
        ),
        (
            {"autoencoder": (FOLD, sequence(NAN, UNFOLD, shape=(8, 8, 1)))},
            "decoder of 'autoencoder'",
        ),
        (
            {"autoencoder": keras.Model([INPUTS, keras.Input((2,))], 1 * INPUTS)},
            "`autoencoder`.*encoders and decoders of one input.*one of 2",
        ),
        ({"autoencoder": NAN}, "`latents`.*finite values.*NaN"),
        ({"autoencoder": HALF}, "`latents`.*float32 or float64.*dtype policy 'float32'.*float16"),
        ({"autoencoder": {}}, "`autoencoder`.*at least one model.*empty dict"),
        ({"autoencoder": "cae"}, "`autoencoder`.*a Keras model, a pair.*or a dict.*'str'"),
        ({"autoencoder": (FOLD, None)}, r"`autoencoder`.*\['Sequential', 'NoneType'\]"),
        ({"autoencoder": (FOLD, UNFOLD, FOLD)}, "`autoencoder`.*a pair.*'tuple'"),
        ({"autoencoder": {"a": np.zeros(3)}}, "`autoencoder`.*a Keras model"),
        ({"autoencoder": layers.Identity()}, "`autoencoder`.*a Keras model.*'Identity'"),
        ({"sigmas": (0.1, 0.2)}, r"`sigmas`.*growing numbers from 0 on.*\(0.1, 0.2\)"),
        ({"sigmas": (0, 0.2, 0.1)}, "`sigmas`.*growing"),
        ({"sigmas": (0, 0.2, 0.2)}, "`sigmas`.*growing"),
        ({"sigmas": (0, np.inf)}, "`sigmas`.*growing"),
        ({"sigmas": (0, np.nan)}, "`sigmas`.*growing"),
        ({"sigmas": ()}, "`sigmas`.*growing"),
        ({"sigmas": 0.1}, "`sigmas`.*growing.*0.1"),
        ({"sigmas": (0, "1")}, "`sigmas`.*growing"),
        ({"x": X[:3]}, r"`x`.*at least 4 images.*\(3, 8, 8, 1\)"),
        ({"x": X[..., 0]}, r"`x`.*\(n, height, width, channels\).*\(8, 8, 8\)"),
        ({"x": 1.01 * np.ones_like(X)}, r"`x`.*\[0, 1\] \(divide by 255\).*to 1.0"),
        ({"x": X - 1e-3}, r"`x`.*\[0, 1\].*pixels from -0.001"),
        ({"x": X * np.nan}, "`x`.*images with NaN"),
        ({"x": X.astype("int64")}, "`x`.*uint8.*int64"),
        ({"x": MANY}, "at most 3000.*images times levels.*3003.*fewer images, or fewer levels"),
        ({"latent": "samples"}, r"`latent`.*'sample', 'mean', 'fresh_eps'.*'samples'"),
        ({"kernel": "rbf"}, r"`kernel`.*'distance', 'gaussian'.*'rbf'"),
        ({"weights": "mean"}, "`weights`.*'median', or three numbers.*'mean'"),
        ({"weights": (1, 2)}, "`weights`.*three numbers"),
        ({"weights": (1, 2, -1)}, "`weights`.*three numbers"),
        ({"kappa": -1}, "`kappa`.*at least 0"),
        ({"energy": 0}, r"`energy`.*\(0, 1\]"),
        ({"energy": 1.1}, r"`energy`.*\(0, 1\]"),
        ({"rtol": 1}, r"`rtol`.*\(0, 1\)"),
        ({"batch_size": 0}, "`batch_size`.*positive integer"),
        ({"seed": -1}, "`seed`.*integer of at least 0.*-1"),
        ({"seed": None}, "`seed`.*integer of at least 0.*None"),
        ({"seed": True}, "`seed`.*integer of at least 0.*True"),
        ({"seed": 0.0}, "`seed`.*integer of at least 0"),
    ],
)
def test_errors_say_what_to_do(options, message):
    options = {"autoencoder": (FOLD, UNFOLD), "x": X, "sigmas": SIGMAS, **options}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        manifolds.characterize(progress=False, **options)


@pytest.mark.parametrize("module", ["scipy.linalg", "threadpoolctl"])
def test_a_missing_extra(module, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=rf"{module}.*keras_lgg\[manifolds\]"):
        characterize(FOLD)
