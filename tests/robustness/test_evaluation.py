import dataclasses
import importlib.util
import math
import random
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_lgg import robustness
from keras_lgg.robustness import (
    FGSM,
    PGD,
    CommonCorruption,
    DroppedUnits,
    GaussianNoise,
    QuantizedWeights,
    attacks,
    classifiers,
    evaluate,
    mean_corruption_error,
    perturbations,
)

pytest.importorskip("pandas", reason="the tables need pandas")

SHAPE, CLASSES = (6, 6, 1), 4


@pytest.fixture(autouse=True)
def seeded():
    """In place of the one in conftest: clearing the session costs more than these tests do."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def cleared():
    yield
    keras.backend.clear_session()


def needs(module):
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"needs {module}")


def mlp(*, softmax=False, shape=SHAPE, name="mlp"):
    """A smooth network with steep, reproducible weights."""
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.Flatten(name="flat"),
            layers.Dense(16, activation="tanh", name="hidden"),
            layers.Dense(CLASSES, activation="softmax" if softmax else None, name="head"),
        ],
        name=name,
    )
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model


def mlp_in_numpy(model, x, softmax=False):
    """The network in float64, for finite differences."""
    w1, b1, w2, b2 = (w.astype("float64") for w in model.get_weights())
    z = np.tanh(x.reshape(len(x), -1) @ w1 + b1) @ w2 + b2
    return z - np.logaddexp.reduce(z, axis=1, keepdims=True) if softmax else z


def batch_norm_net():
    x = keras.Input(SHAPE)
    h = layers.Conv2D(3, 3, name="conv")(x)
    h = layers.BatchNormalization(name="bn")(h)
    h = layers.Dropout(0.5)(layers.Flatten()(h))
    model = keras.Model(x, layers.Dense(CLASSES)(h))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def dataset(model, n=40, shape=SHAPE, seed=0):
    """Images, some with pixels at the borders 0 and 1, labelled as the model sees them."""
    x = np.clip(np.random.default_rng(seed).uniform(-0.3, 1.3, (n, *shape)), 0, 1)
    x = x.astype("float32")
    return x, np.argmax(keras.ops.convert_to_numpy(model(x, training=False)), axis=-1)


def run(model, data, perturbations, **kwargs):
    return evaluate(model, data, perturbations, progress=False, **kwargs)


def accuracies(*args, **kwargs):
    return run(*args, **kwargs)["accuracy"].tolist()


def state(model):
    variables = list(model.variables)
    if getattr(model, "optimizer", None) is not None:
        variables += model.optimizer.variables
    return [np.array(keras.ops.convert_to_numpy(v)).tobytes() for v in variables]


# Gradients


@pytest.mark.parametrize("softmax", [False, True])
def test_gradient_against_central_differences(softmax):
    model = mlp(softmax=softmax)
    x, labels = dataset(model, 7)
    labels = (labels + 1) % CLASSES
    found = robustness.input_gradient(model, x, labels, from_logits=not softmax, batch_size=4)

    def loss(x):
        log_p = mlp_in_numpy(model, x, softmax=True)  # log-softmax of the logits, either way
        return -np.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]

    expected = np.zeros(x.shape)
    for i, j in np.ndindex(SHAPE[:2]):
        step = np.zeros(x.shape)
        step[:, i, j] = 1e-5
        expected[:, i, j, 0] = (loss(x + step) - loss(x - step)) / 2e-5
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(expected).max() > 0.1


def test_gradient_leaves_the_model_and_its_gradients():
    model = batch_norm_net()
    x, labels = dataset(model, 5)
    before = state(model)
    robustness.input_gradient(model, x, labels)
    assert state(model) == before
    if keras.backend.backend() == "torch":
        assert all(v.value.grad is None for v in model.trainable_variables)


def linear():
    """Two pixels, two classes: the logits are (a - b, b - a)."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, use_bias=False)])
    model.set_weights([np.array([[1.0, -1.0], [-1.0, 1.0]])])
    return model


def test_fgsm_on_a_linear_model_by_hand():
    # Class 0 wins by 2 (a - b): a step of epsilon brings a down and b up, until at
    # epsilon = (a - b) / 2 the classes change places.
    x = np.array([[0.5, 0.4], [0.9, 0.1], [0.2, 0.6], [0.05, 0.0]], "float32")
    network = classifiers.Network(linear())
    labels = np.array([0, 0, 1, 0])
    moved = FGSM(epsilons=(0.1,)).attack(network, x, labels, 0.1, 0)
    by_hand = [[0.4, 0.5], [0.8, 0.2], [0.3, 0.5], [0.0, 0.1]]
    np.testing.assert_allclose(moved, by_hand, atol=1e-6)
    # Differences 0.1, 0.8, 0.4 and 0.05 fall at 0.05, 0.4, 0.2 and (clipped at black) 0.025.
    found = accuracies(linear(), (x, labels), [FGSM(epsilons=(0.01, 0.03, 0.1, 0.3, 0.5))])
    assert found == [1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_fgsm_at_snr():
    model = mlp()
    x, labels = dataset(model, 6)
    x[0] = 0
    step = FGSM(snr=(20,))._step(classifiers.Network(model), x, labels, 20)
    assert np.all(step[0] == 0)
    snr = 20 * np.log10(np.linalg.norm(x[1:].reshape(5, -1), axis=1))
    snr -= 20 * np.log10(np.linalg.norm(step[1:].reshape(5, -1), axis=1))
    np.testing.assert_allclose(snr, 20, atol=1e-3)
    for one in step[1:]:  # one size a image, along the sign
        np.testing.assert_allclose(np.abs(one), np.abs(one).max(), rtol=1e-6)
    gradient = robustness.input_gradient(model, x[1:], labels[1:])
    np.testing.assert_array_equal(np.sign(step[1:]), np.sign(gradient))


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("epsilon", [0.01, 0.2, 0.9])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_stays_in_its_ball_and_in_the_pixels(norm, epsilon, random_start):
    model = mlp()
    x, labels = dataset(model, 12)
    x[0], x[1] = 0, 1
    attack = PGD(epsilons=(epsilon,), norm=norm, steps=4, random_start=random_start)
    moved = attack.attack(classifiers.Network(model), x, labels, epsilon, 0)
    assert moved.dtype == np.float32
    assert moved.min() >= 0
    assert moved.max() <= 1
    change = (moved - x).reshape(12, -1)
    length = np.abs(change).max(axis=1) if norm == "linf" else np.linalg.norm(change, axis=1)
    assert np.all(length <= epsilon + 1e-6)
    assert np.all(length[2:] > 0.5 * epsilon)  # it uses its ball


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_steps_by_hand(norm):
    # The gradient of the linear model points along (-1, 1), whatever the image.
    x, labels = np.array([[0.7, 0.4]], "float32"), np.array([0])
    size = 0.01 if norm == "linf" else 0.01 * math.sqrt(2)
    for steps, expected in [(1, 0.01), (3, 0.03), (9, 0.05)]:
        attack = PGD(
            epsilons=(5 * size,), norm=norm, steps=steps, step_size=size, random_start=False
        )
        moved = attack.attack(classifiers.Network(linear()), x, labels, 5 * size, 0)
        np.testing.assert_allclose(moved, [[0.7 - expected, 0.4 + expected]], atol=1e-6)
    # By default a step is 2.5 / steps of the ball: after 1 of 25, a tenth of the way.
    default = PGD(epsilons=(5 * size,), norm=norm, steps=25, random_start=False)
    seen, network = [], classifiers.Network(linear())
    gradient = network.loss_gradient
    network.loss_gradient = lambda x, labels: seen.append(x) or gradient(x, labels)
    default.attack(network, x, labels, 5 * size, 0)
    np.testing.assert_allclose(seen[1], [[0.695, 0.405]], atol=1e-6)
    assert len(seen) == 25


def test_pgd_clips_and_then_projects_by_hand():
    # A step of (-0.3, 0.3) from (0.1, 0.4) ends at (0, 0.7) in the pixels: (-0.1, 0.3) from the
    # image, along which the ball of radius 0.25 ends. To project first would end at (-0.1, 0.177).
    x, labels = np.array([[0.1, 0.4]], "float32"), np.array([0])
    size, radius = 0.3 * math.sqrt(2), 0.25
    attack = PGD(epsilons=(radius,), norm="l2", steps=1, step_size=size, random_start=False)
    moved = attack.attack(classifiers.Network(linear()), x, labels, radius, 0)
    change = np.array([[-0.1, 0.3]]) * radius / math.hypot(0.1, 0.3)
    np.testing.assert_allclose(moved, x + change, atol=1e-6)


@needs("art")
@pytest.mark.filterwarnings("ignore:PyTorch not found")
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_that_of_art(norm):
    evasion = pytest.importorskip("art.attacks.evasion")
    model = mlp()
    x, labels = dataset(model, 12)  # with pixels at 0 and 1
    given = {"eps": 0.9, "eps_step": 0.4, "max_iter": 4, "norm": 2 if norm == "l2" else np.inf}
    art = evasion.ProjectedGradientDescentNumpy(art_estimator(model), verbose=False, **given)
    expected = art.generate(x, np.eye(CLASSES)[labels])
    attack = PGD(epsilons=(0.9,), norm=norm, steps=4, step_size=0.4, random_start=False)
    moved = attack.attack(classifiers.Network(model), x, labels, 0.9, 0)
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_pgd_starts_all_over_its_ball():
    x = np.full((500, 2, 2, 1), 0.5, "float32")
    for norm in ("linf", "l2"):
        start = PGD(epsilons=(0.4,), norm=norm)._start(x, 0.4, 0).reshape(500, -1)
        size = np.abs(start).max(axis=1) if norm == "linf" else np.linalg.norm(start, axis=1)
        # P(size <= r) = (r / epsilon) ** 4, in either ball of 4 dimensions.
        assert abs(np.mean(size <= 0.4 * 0.5 ** (1 / 4)) - 0.5) < 0.07
        assert np.abs(start.mean(axis=0)).max() < 0.03
        other = PGD(epsilons=(0.4,), norm=norm)._start(x, 0.4, 1).reshape(500, -1)
        assert not np.any(start == other)


def test_pgd_is_no_weaker_than_fgsm():
    model = mlp()
    data = dataset(model, 200)
    epsilons = (0.02, 0.05, 0.1)
    fgsm = accuracies(model, data, [FGSM(epsilons=epsilons)])
    pgd = accuracies(model, data, [PGD(epsilons=epsilons, steps=20)])
    assert fgsm[0] == pgd[0] == 1
    assert all(p <= f for p, f in zip(pgd, fgsm, strict=True))
    assert sum(pgd) < sum(fgsm)
    assert fgsm[3] < 0.5 < fgsm[1]


def test_pgd_l2_at_a_zero_gradient_stays():
    model = mlp()
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    x, _ = dataset(model, 3)
    attack = PGD(epsilons=(0.5,), norm="l2", random_start=False)
    moved = attack.attack(classifiers.Network(model), x, np.zeros(3, "int64"), 0.5, 0)
    np.testing.assert_array_equal(moved, x)


# Noise and corruptions


def test_noise_has_its_snr_and_is_clipped():
    x, labels = dataset(mlp(), 30)
    x[0] = 0
    noise = GaussianNoise()
    for snr, (images, same) in zip(
        (30, 25, 20, 15, 10), noise.data(x, labels, seed=0), strict=True
    ):
        added = noise._noise(x, snr, 0)
        ratio = np.linalg.norm(x.reshape(30, -1), axis=1)[1:]
        ratio /= np.linalg.norm(added.reshape(30, -1), axis=1)[1:]
        np.testing.assert_allclose(20 * np.log10(ratio), snr, atol=0.01)
        np.testing.assert_array_equal(images, np.clip(x + added, 0, 1))
        assert images.dtype == np.float32
        assert np.all(images[0] == 0)
        assert same is labels
        shares = added[1:] / np.abs(added[1:]).max(axis=(1, 2, 3), keepdims=True)
        assert abs(shares.mean()) < 0.05
        assert len(np.unique(added)) > 29 * 36  # no two pixels, no two images alike


def colour_images(n=3, size=32):
    return np.random.default_rng(5).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@needs("imagecorruptions")
@pytest.mark.parametrize("name", ["shot_noise", "impulse_noise", "glass_blur", "frost", "pixelate"])
def test_corruptions_are_those_of_the_package(name):
    import imagecorruptions

    images = colour_images()
    np.random.seed(3)
    untouched = np.random.get_state()[1].copy()
    changed = [
        x
        for x, _ in CommonCorruption(name, severities=(1, 4)).data(
            images / np.float32(255), np.zeros(3, int), seed=7
        )
    ]
    np.testing.assert_array_equal(np.random.get_state()[1], untouched)
    for severity, found in zip((1, 4), changed, strict=True):
        for index, image in enumerate(images):
            draw = perturbations.sample_rng(7, name, severity, index)
            image_seed = int(draw.integers(2**32))
            np.random.seed(image_seed)
            own = {"seed": image_seed} if name in ("impulse_noise", "glass_blur") else {}
            direct = imagecorruptions.corrupt(image, corruption_name=name, severity=severity, **own)
            np.testing.assert_array_equal(np.rint(found[index] * 255), direct)
    assert not np.array_equal(changed[0], changed[1])


@needs("imagecorruptions")
def test_every_common_corruption_repeats_itself():
    images, labels = colour_images(2) / np.float32(255), np.zeros(2, int)
    corruptions = robustness.common_corruptions(severities=(2,))
    assert len({corruption.name for corruption in corruptions}) == 15
    for corruption in corruptions:
        (first, _), (second, _), (third, _) = (
            next(corruption.data(images, labels, seed=seed)) for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, second, err_msg=corruption.name)
        assert first.min() >= 0
        assert first.max() <= 1
        assert not np.array_equal(first, images), corruption.name
        fixed = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate")
        is_fixed = corruption.name in (*fixed, "jpeg_compression")
        assert np.array_equal(first, third) == is_fixed, corruption.name


@needs("imagecorruptions")
def test_gray_images_are_the_mean_of_three_channels():
    gray = colour_images()[..., :1]
    labels, corruption = np.zeros(3, int), CommonCorruption("shot_noise", severities=(3,))
    colour, _ = next(corruption.data(np.repeat(gray, 3, -1) / np.float32(255), labels, seed=0))
    for images in (gray, gray[..., 0]):
        found, _ = next(corruption.data(images / np.float32(255), labels, seed=0))
        assert found.shape == images.shape
        np.testing.assert_allclose(
            found.reshape(3, 32, 32), colour.mean(axis=-1), rtol=1e-6, atol=1e-7
        )


@needs("imagecorruptions")
def test_pixels_are_rounded_for_the_package():
    corruption = CommonCorruption("pixelate", severities=(1,))
    images = np.full((1, 32, 32, 3), 100.6 / 255, "float32")
    changed, _ = next(corruption.data(images, np.zeros(1, int), seed=0))
    np.testing.assert_allclose(changed, 101 / 255, rtol=1e-6)


@needs("imagecorruptions")
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 28, 28, 1), "at least 32 x 32 pixels. Received: 28 x 28. Resize them"),
        ((2, 40, 8), "Received: 40 x 8"),
        ((2, 32, 32, 2), r"Expected the shape \(n, h, w, 3\).*Received: \(2, 32, 32, 2\)"),
        ((2, 32), "Received: \\(2, 32\\)"),
    ],
)
def test_corruptions_say_which_images_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        next(CommonCorruption("fog").data(np.zeros(shape, "float32"), np.zeros(2, int), seed=0))


# Ready-made sets


def write_ready_made(stock, config, folder, images, labels):
    """A data set as the stock builder writes it, from these images."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    builder = tfds.builder_cls(stock)  # found, and so registered, before what follows
    with registered.skip_registration():

        class Tiny(builder):
            name = stock

            def _split_generators(self, dl_manager):
                return {"test": self._generate_examples()}

            def _generate_examples(self):
                for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                    yield index, {"image": image, "label": int(label)}

        tfds.disable_progress_bar()
        Tiny(data_dir=folder, config=config).download_and_prepare()


@needs("tensorflow_datasets")
def test_ready_made_cifar(tmp_path, monkeypatch):
    model = mlp(shape=(32, 32, 3))
    x, labels = colour_images(8), np.arange(8) % 3
    predicted = np.argmax(keras.ops.convert_to_numpy(model(x / np.float32(255))), axis=-1)
    write_ready_made("cifar10_corrupted", "fog_2", tmp_path, x, predicted)
    write_ready_made("cifar10_corrupted", "fog_5", tmp_path, x, (predicted + 1) % CLASSES)
    corruptions = robustness.ready_made_corruptions(
        "cifar10_corrupted", corruptions=["fog"], severities=(2, 5), data_dir=tmp_path
    )
    table = run(model, (x, labels), corruptions)
    assert table["perturbation"].tolist()[1:] == ["cifar10_corrupted/fog"] * 2
    assert table["severity"].tolist()[1:] == [2, 5]
    assert table["accuracy"].tolist()[1:] == [1, 0]  # its own labels, not those of the data
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    by_variable = [dataclasses.replace(each, data_dir=None) for each in corruptions]
    assert run(model, (x, labels), by_variable).equals(table)
    assert len(robustness.ready_made_corruptions("cifar10_corrupted")) == 15


@needs("tensorflow_datasets")
def test_ready_made_mnist_has_no_severity(tmp_path):
    model = mlp(shape=(28, 28, 1))
    x, labels = colour_images(4, 28)[..., :1], np.zeros(4, int)
    predicted = np.argmax(keras.ops.convert_to_numpy(model(x / np.float32(255))), axis=-1)
    write_ready_made("mnist_corrupted", "shear", tmp_path, x, predicted)
    corruption = robustness.ReadyMadeCorruption("mnist_corrupted", "shear", data_dir=tmp_path)
    table = run(model, (x, labels), [corruption])
    assert math.isnan(table["severity"][1])
    assert table["accuracy"][1] == 1
    names = [each.corruption for each in robustness.ready_made_corruptions("mnist_corrupted")]
    assert len(names) == 15
    assert "identity" not in names


@needs("tensorflow_datasets")
def test_ready_made_sets_that_are_not_there(tmp_path):
    absent = robustness.ReadyMadeCorruption("cifar10_corrupted", "fog", data_dir=tmp_path)
    model = mlp(shape=(32, 32, 3))
    with pytest.raises(FileNotFoundError, match=r"'cifar10_corrupted/fog_1' is not there.*") as e:
        run(model, (colour_images(), np.zeros(3, int)), [absent])
    assert str(tmp_path) in str(e.value)
    assert "TFDS_DATA_DIR" in str(e.value)
    assert "tensorflow_datasets.load('cifar10_corrupted/fog_1'" in str(e.value)
    for arguments, message in [
        (("cifar100", "fog"), "Invalid value for argument `dataset`"),
        (("cifar10_corrupted", "rain"), "Invalid value for argument `corruption`"),
    ]:
        with pytest.raises(ValueError, match=message):
            robustness.ReadyMadeCorruption(*arguments)
    with pytest.raises(ValueError, match="integers from 1 to 5"):
        robustness.ReadyMadeCorruption("cifar10_corrupted", "fog", severities=(6,))
    with pytest.raises(ValueError, match="None for mnist_corrupted"):
        robustness.ReadyMadeCorruption("mnist_corrupted", "fog", severities=(1,))


# Faults


def dropped_outputs(model, x, rate, taps=("hidden",), seed=0, batch_size=16, **options):
    network = classifiers.Network(model, batch_size=batch_size)
    perturbation = DroppedUnits(taps, rates=(rate,), **options)
    return next(perturbation.outputs(network, x, None, seed=seed))


def test_dropping_none_and_all_units():
    model = mlp()
    x, _ = dataset(model, 21)
    whole = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(dropped_outputs(model, x, 0), whole, rtol=1e-5, atol=1e-5)
    bias = model.get_weights()[-1]
    np.testing.assert_allclose(
        dropped_outputs(model, x, 1), np.tile(bias, (21, 1)), rtol=1e-5, atol=1e-6
    )


def test_the_share_of_dropped_units():
    # Flatten, then the identity: the outputs are the dropped units themselves.
    model = keras.Sequential(
        [keras.Input((10, 10, 1)), layers.Identity(name="tap"), layers.Flatten()]
    )
    x = np.full((50, 10, 10, 1), 0.5, "float32")
    for rate in (0.1, 0.4):
        units = dropped_outputs(model, x, rate, ["tap"], rescale=False)
        assert set(np.unique(units)) == {0, 0.5}
        rescaled = dropped_outputs(model, x, rate, ["tap"])
        np.testing.assert_allclose(rescaled, units / (1 - rate), rtol=1e-6)
        assert abs(np.mean(units == 0) - rate) < 0.03
        assert len(np.unique(units, axis=0)) == 50  # each sample has its own
    others = dropped_outputs(model, x, 0.4, ["tap"], seed=1)
    assert not np.array_equal(rescaled, others)
    np.testing.assert_array_equal(rescaled, dropped_outputs(model, x, 0.4, ["tap"], batch_size=7))


def test_dropped_units_of_nested_models():
    inner = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(5, name="h")])
    inner.name = "network"
    normal = layers.Normalization(mean=0.5, variance=0.25)
    model = keras.Sequential([keras.Input(SHAPE), normal, inner, layers.Dense(CLASSES, name="o")])
    data = dataset(model)
    before = state(model)
    table = run(model, data, [DroppedUnits("network/h", rates=(0, 1))])
    assert table["accuracy"][1] == 1
    bias_class = np.argmax(model.get_layer("o").bias)
    assert table["accuracy"][2] == np.mean(data[1] == bias_class)
    assert state(model) == before
    with pytest.raises(ValueError, match=r"Unknown tap 'h' .*Did you mean 'network/h'"):
        run(model, data, [DroppedUnits(["h"])])


def test_quantized_weights_have_few_levels(monkeypatch):
    model = mlp()
    model.get_layer("hidden").bias.assign(np.full(16, 0.3))
    data = dataset(model)
    before, seen = state(model), []
    whole = model.get_weights()
    outputs = classifiers.Network.outputs

    def spy(network, images):
        seen.append(network.model.get_weights())
        return outputs(network, images)

    monkeypatch.setattr(classifiers.Network, "outputs", spy)
    run(model, data, [QuantizedWeights(bits=(5, 1))])
    assert state(model) == before
    clean, five, one = seen
    for w, w5, w1 in zip(whole, five, one, strict=True):
        assert len(np.unique(w5)) <= 32
        assert len(np.unique(w1)) <= 2
        step = (w.max() - w.min()) / 31
        assert np.abs(w5 - w).max() <= step / 2 + 1e-6
        np.testing.assert_allclose([w5.min(), w5.max()], [w.min(), w.max()], rtol=1e-5)
    assert len(np.unique(five[0])) > 20
    np.testing.assert_array_equal(five[1], whole[1])  # a constant tensor
    np.testing.assert_array_equal(clean[0], whole[0])


def test_frozen_models_cannot_be_quantized():
    model = mlp()
    data = dataset(model)
    model.trainable = False
    with pytest.raises(ValueError, match=r"Expected trainable weights.*model.trainable = True"):
        run(model, data, [QuantizedWeights()])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_model_as_it_was(monkeypatch, error):
    model = batch_norm_net()
    data = dataset(model)
    before, calls = state(model), []
    outputs = classifiers.Network.outputs

    def stop(network, images):
        calls.append(network.model.get_weights()[0])
        if len(calls) == 3:
            raise error
        return outputs(network, images)

    monkeypatch.setattr(classifiers.Network, "outputs", stop)
    with pytest.raises(error):
        run(model, data, [QuantizedWeights(bits=(4, 3))])
    assert not np.array_equal(calls[2], calls[0])  # it was in the midst of it
    assert state(model) == before


class Restless(layers.Layer):
    """Draws, and counts its calls, at inference too."""

    def __init__(self):
        super().__init__()
        self.random = keras.random.SeedGenerator(0)
        self.calls = self.add_weight(name="calls", shape=(), trainable=False, initializer="zeros")

    def call(self, x):
        self.calls.assign(self.calls + 1)
        return x + 0 * keras.random.normal(keras.ops.shape(x), seed=self.random)


def test_evaluate_moves_no_state():
    base = batch_norm_net()
    x, labels = dataset(base)
    base.fit(x, labels, epochs=1, verbose=0)  # so that the optimizer has a state
    restless = keras.Sequential([keras.Input(SHAPE), Restless(), base])
    before = state(base), state(restless)
    perturbations = [
        GaussianNoise(snr=(10,)),
        FGSM(epsilons=(0.1,)),
        DroppedUnits([base.name + "/bn"], rates=(0.5,)),
        QuantizedWeights(bits=(3,)),
    ]
    table = run(restless, (x, labels), perturbations)
    assert (state(base), state(restless)) == before
    assert len(table) == 5


# Tables

SWEEP = [
    GaussianNoise(snr=(10, 0)),
    FGSM(epsilons=(0.02, 0.05)),
    PGD(epsilons=(0.05,), steps=3),
    DroppedUnits(["hidden"], rates=(0.2, 0.5)),
    QuantizedWeights(bits=(3, 2)),
]


def test_table_of_one_model():
    model = mlp()
    table = run(model, dataset(model), SWEEP)
    assert list(table.columns) == ["perturbation", "severity", "accuracy"]
    assert table["perturbation"].tolist() == [
        "clean",
        *["Gaussian noise"] * 2,
        *["FGSM"] * 2,
        "PGD L-inf",
        *["dropped units"] * 2,
        *["quantized weights"] * 2,
    ]
    assert math.isnan(table["severity"][0])
    assert table["severity"].tolist()[1:] == [10, 0, 0.02, 0.05, 0.05, 0.2, 0.5, 3, 2]
    assert str(table["severity"].dtype) == str(table["accuracy"].dtype) == "float64"
    assert table["accuracy"][0] == 1
    assert table["accuracy"][1:].max() < 1


def test_the_seed_alone_decides():
    model = mlp()
    data = dataset(model, 150)
    first = run(model, data, SWEEP, seed=3)
    assert first.equals(run(model, data, SWEEP, seed=3))
    assert first.equals(run(model, data, SWEEP, seed=3, batch_size=7))
    other = run(model, data, SWEEP, seed=4)
    for name in ("Gaussian noise", "dropped units"):
        rows = first["perturbation"] == name
        assert not first[rows].equals(other[rows]), name
    backwards = run(model, data, SWEEP[::-1], seed=3)
    for perturbation in SWEEP:
        rows = first[first["perturbation"] == perturbation.name]
        again = backwards[backwards["perturbation"] == perturbation.name]
        assert rows["accuracy"].tolist() == again["accuracy"].tolist()


def test_images_of_uint8_and_of_floats_are_the_same():
    model = mlp()
    pixels = np.random.default_rng(0).integers(0, 256, (30, *SHAPE), dtype=np.uint8)
    labels = dataset(model, 30)[1]
    by_uint8 = run(model, (pixels, labels), SWEEP[:2])
    assert by_uint8.equals(run(model, (pixels / 255.0, labels[:, None]), SWEEP[:2]))
    expected = np.argmax(keras.ops.convert_to_numpy(model(pixels / np.float32(255))), -1)
    assert by_uint8["accuracy"][0] == np.mean(expected == labels)


def test_probabilities_give_what_their_logits_give():
    model, softmax = mlp(), mlp(softmax=True)
    data = dataset(model)
    logits = run(model, data, SWEEP[:3])
    assert logits.equals(run(softmax, data, SWEEP[:3], from_logits=False))


class Fixed(perturbations.DataPerturbation):
    """Images that are all black, with labels chosen for the accuracies asked for."""

    def __init__(self, name, severities, shares):
        self.name, self.severities, self.shares = name, severities, shares

    def data(self, images, labels, *, seed):
        for share in self.shares:
            right = np.arange(10) < 10 * share
            yield np.zeros((10, *SHAPE), "float32"), np.where(right, 2, 0)


def always(winner):
    """A network that always gives class 2, or always class 0."""
    model = mlp()
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    model.get_layer("head").bias.assign(3 * np.eye(CLASSES)[winner])
    return model


def test_corruption_errors_by_hand():
    data = np.zeros((10, *SHAPE)), np.array([2] * 9 + [0])
    perturbations = [Fixed("a", (1, 2), (0.9, 0.7)), Fixed("b", (1,), (0.2,))]
    table = run(always(2), data, perturbations, baseline=always(0))
    assert list(table.columns)[-3:] == ["accuracy", "baseline", "corruption_error"]
    np.testing.assert_allclose(table["accuracy"], [0.9, 0.9, 0.7, 0.2])
    np.testing.assert_allclose(table["baseline"], [0.1, 0.1, 0.3, 0.8])
    # a: (0.1 + 0.3) / (0.9 + 0.7); b: 0.8 / 0.2
    np.testing.assert_allclose(table["corruption_error"], [math.nan, 0.25, 0.25, 4.0])
    assert mean_corruption_error(table) == pytest.approx(100 * (0.25 + 4) / 2)
    assert mean_corruption_error(table[table["perturbation"] == "a"]) == pytest.approx(25)


def test_a_baseline_without_errors():
    data = np.zeros((10, *SHAPE)), np.full(10, 2)
    perturbations = [Fixed("a", (1,), (1.0,)), Fixed("b", (1,), (0.0,))]
    table = run({"two": always(2), "zero": always(0)}, data, perturbations, baseline="two")
    np.testing.assert_array_equal(
        table["corruption_error"], [math.nan] * 2 + [1, math.nan, math.inf, 0]
    )


def test_a_dict_of_models_gives_what_each_gives():
    one, two = mlp(), mlp(name="other")
    two.set_weights([np.roll(w, 1) for w in two.get_weights()])
    data = dataset(one, 60)
    table = run({"one": one, "two": two}, data, SWEEP, baseline="two")
    assert table.columns[0] == "model"
    assert table["model"].unique().tolist() == ["one", "two"]
    for name, model in (("one", one), ("two", two)):
        rows = table[table["model"] == name].drop(columns="model").reset_index(drop=True)
        assert rows.equals(run(model, data, SWEEP, baseline=two))
    errors = mean_corruption_error(table)
    assert errors.index.tolist() == ["one", "two"]
    assert errors["two"] == pytest.approx(100)
    alone = mean_corruption_error(run(one, data, SWEEP, baseline=two))
    assert errors["one"] == pytest.approx(alone)


def test_data_perturbations_are_made_once_for_all_models(monkeypatch):
    made, data_of = [], GaussianNoise.data

    def spy(self, *args, **kwargs):
        made.append(self.name)
        return data_of(self, *args, **kwargs)

    monkeypatch.setattr(GaussianNoise, "data", spy)
    model = mlp()
    run({"a": model, "b": mlp()}, dataset(model), SWEEP[:1], baseline="a")
    assert made == ["Gaussian noise"]


def test_nan_outputs_count_as_wrong():
    model = mlp()
    x, _ = dataset(model)

    class Broken(perturbations.ModelPerturbation):
        name, severities = "broken", (1,)

        def outputs(self, network, images, labels, *, seed):
            yield np.where(np.arange(40)[:, None] < 10, np.nan, network.outputs(images))

    winner = always(0)
    assert accuracies(winner, (x, np.zeros(40, int)), [Broken()]) == [1, 0.75]


def test_progress_is_shown_on_demand(capsys):
    model = mlp()
    evaluate(model, dataset(model), SWEEP[:1])
    assert "3/3" in capsys.readouterr().out
    run(model, dataset(model), SWEEP[:1])
    assert capsys.readouterr().out == ""


# Errors

X, Y = np.zeros((4, *SHAPE), "float32"), np.zeros(4, int)
NOISE = [GaussianNoise()]


@pytest.mark.parametrize(
    ("data", "perturbations", "kwargs", "message"),
    [
        ((X + 2, Y), NOISE, {}, "divide by 255.*pixels from 2.0 to 2.0"),
        ((X - 0.1, Y), NOISE, {}, "pixels from -0.1"),
        ((X + np.nan, Y), NOISE, {}, "NaN or infinite pixels"),
        ((X.astype(int), Y), NOISE, {}, "Received: data=images of int64"),
        ((X, Y[:3]), NOISE, {}, r"a label for each.*\(4, 6, 6, 1\) images and 3 labels"),
        ((X[:0], Y[:0]), NOISE, {}, "and 0 labels"),
        ((X, Y + 0.5), NOISE, {}, "integer labels of shape.*labels of float64"),
        ((X, np.zeros((4, 2), int)), NOISE, {}, r"of shape \(4, 2\)"),
        ((X, Y + 4), NOISE, {}, "labels from 0 to 3.*labels from 4 to 4"),
        ((X, Y - 1), NOISE, {}, "labels from -1"),
        (X, NOISE, {}, r"a pair \(images, labels\).*Received: data=ndarray"),
        ((X, Y), [], {}, "at least one perturbation"),
        ((X, Y), NOISE * 2, {}, "different names.*'Gaussian noise', 'Gaussian noise'"),
        ((X, Y), [Fixed("clean", (1,), (1,))], {}, 'none of them "clean"'),
        ((X, Y), ["noise"], {}, r"robustness.GaussianNoise\(\).*'noise'"),
        ((X, Y), NOISE, {"seed": -1}, "`seed`. Expected an integer of at least 0"),
        ((X, Y), NOISE, {"seed": 0.5}, "`seed`"),
        ((X, Y), NOISE, {"batch_size": 0}, "`batch_size`"),
        ((X, Y), NOISE, {"baseline": "a"}, "a name needs a dict"),
        ((X, Y), NOISE, {"from_logits": False}, "Expected from_logits=True, as"),
    ],
)
def test_errors_say_what_was_wrong(data, perturbations, kwargs, message):
    with pytest.raises(ValueError, match=f"(?s)Invalid value for argument.*{message}|{message}"):
        run(mlp(), data, perturbations, **kwargs)


def two_outputs():
    x = keras.Input(SHAPE)
    h = layers.Flatten()(x)
    return keras.Model(x, {"a": layers.Dense(3)(h), "b": layers.Dense(3)(h)})


def diverged():
    model = mlp()
    model.get_layer("head").bias.assign([0, np.nan, 0, 0])
    return model


@pytest.mark.parametrize(
    ("make", "kwargs", "message"),
    [
        (lambda: mlp(softmax=True), {}, "Expected from_logits=False, as"),
        (lambda: "mlp", {}, "a Keras model.*Received: model=mlp"),
        (lambda: keras.Sequential([layers.Dense(3)]), {}, "Sequential, not built"),
        (dict, {}, "at least one model, by a name"),
        (lambda: {"a": mlp()}, {"baseline": "b"}, r"one of the names \['a'\].*'b'"),
        (lambda: {"a": mlp()}, {"baseline": mlp()}, r"one of the names \['a'\]"),
        (two_outputs, {}, "a model with one output.*a dict of outputs"),
        (lambda: keras.Sequential([keras.Input(SHAPE), layers.Conv2D(2, 3)]), {}, "two classes"),
        (diverged, {}, "NaN or infinite outputs of 'model'"),
    ],
)
def test_errors_say_what_is_wrong_with_the_model(make, kwargs, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        run(make(), (X, Y), NOISE, **kwargs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GaussianNoise(snr=()),
            "`snr`. Expected a tuple of different finite numbers of dB",
        ),
        (lambda: GaussianNoise(snr=(math.inf,)), "`snr`"),
        (lambda: GaussianNoise(snr=(10, 10)), "different"),
        (lambda: GaussianNoise(snr=10), "`snr`.*snr=10"),
        (FGSM, "exactly one of `epsilons` and `snr`"),
        (lambda: FGSM(epsilons=(0.1,), snr=(3,)), "exactly one"),
        (lambda: FGSM(epsilons=(0,)), "positive numbers"),
        (lambda: PGD(epsilons=(-1,)), "positive numbers"),
        (lambda: PGD(epsilons=(1,), norm="l1"), "`norm`"),
        (lambda: PGD(epsilons=(1,), steps=0), "`steps`"),
        (lambda: PGD(epsilons=(1,), step_size=0), "`step_size`"),
        (lambda: DroppedUnits([]), "`taps`"),
        (lambda: DroppedUnits(["a"], rates=(1.5,)), "numbers from 0 to 1"),
        (lambda: QuantizedWeights(bits=(0,)), "integers from 1 to 16"),
        (lambda: QuantizedWeights(bits=(4.5,)), "integers from 1 to 16"),
    ],
)
def test_perturbations_check_their_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@needs("imagecorruptions")
def test_corruptions_check_their_arguments():
    with pytest.raises(ValueError, match=r"`name`.*'gaussian_noise'.*Received: name='rain'"):
        CommonCorruption("rain")
    with pytest.raises(ValueError, match="integers from 1 to 5"):
        CommonCorruption("fog", severities=(0,))


def test_mean_corruption_error_needs_a_baseline():
    model = mlp()
    data = dataset(model)
    with pytest.raises(ValueError, match=r"evaluate\(..., baseline=...\)"):
        mean_corruption_error(run(model, data, NOISE))
    table = run(model, data, NOISE, baseline=model)
    with pytest.raises(ValueError, match=r"at least one perturbation.*clean rows only"):
        mean_corruption_error(table[:1])


@pytest.mark.parametrize(
    ("module", "use", "extra"),
    [
        ("imagecorruptions", lambda: CommonCorruption("fog"), "robustness"),
        ("imagecorruptions", robustness.common_corruptions, "robustness"),
        ("pandas", lambda: run(mlp(), (X, Y), NOISE), "robustness"),
        (
            "tensorflow_datasets",
            lambda: robustness.ready_made_corruptions("mnist_corrupted"),
            "datasets",
        ),
        ("art.attacks.attack", lambda: robustness.ArtAttack(object), "attacks"),
    ],
)
def test_a_missing_package_names_its_extra(monkeypatch, module, use, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'{module}.*pip install "keras_lgg\[{extra}\]"'):
        use()


# The Adversarial Robustness Toolbox


def art_estimator(model, from_logits=True):
    network = classifiers.Network(model, from_logits=from_logits, batch_size=16)
    return attacks._art_estimator()(network, SHAPE, CLASSES)


@needs("art")
@pytest.mark.filterwarnings("ignore:PyTorch not found")
@pytest.mark.parametrize("softmax", [False, True])
def test_art_sees_the_gradients_of_the_model(softmax):
    model = mlp(softmax=softmax)
    x, labels = dataset(model, 5)
    estimator = art_estimator(model, from_logits=not softmax)
    one_hot = np.eye(CLASSES)[labels]
    expected = robustness.input_gradient(model, x, labels, from_logits=not softmax)
    np.testing.assert_allclose(estimator.loss_gradient(x, one_hot), expected, rtol=1e-5)
    log_p = mlp_in_numpy(model, x, softmax=True)
    losses = -log_p[np.arange(5), labels]
    np.testing.assert_allclose(estimator.compute_loss(x, one_hot), losses, rtol=1e-3, atol=1e-5)
    assert estimator.compute_loss(x, labels, reduction="mean") == pytest.approx(
        losses.mean(), rel=1e-3
    )
    every = estimator.class_gradient(x)
    assert every.shape == (5, CLASSES, *SHAPE)
    np.testing.assert_allclose(estimator.class_gradient(x, label=2)[:, 0], every[:, 2], rtol=1e-5)
    chosen = estimator.class_gradient(x, label=labels)[:, 0]
    np.testing.assert_allclose(chosen, every[np.arange(5), labels], rtol=1e-5)
    if not softmax:  # the cross-entropy's gradient, from those of the logits
        p = np.exp(log_p) - one_hot
        by_hand = np.einsum("nc,nc...->n...", p, every)
        np.testing.assert_allclose(expected, by_hand, rtol=1e-3, atol=1e-5)


@needs("art")
@pytest.mark.filterwarnings("ignore:PyTorch not found")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DeepFool", {"max_iter": 20, "batch_size": 16}),
        ("ProjectedGradientDescent", {"eps": 0.2, "eps_step": 0.05, "max_iter": 5}),
        ("SquareAttack", {"eps": 0.3, "max_iter": 60}),
    ],
)
def test_art_attacks(monkeypatch, name, settings):
    evasion = pytest.importorskip("art.attacks.evasion")
    model = mlp()
    data = dataset(model, 24)
    seen, outputs = [], classifiers.Network.outputs

    def spy(network, images):
        seen.append(images)
        return outputs(network, images)

    monkeypatch.setattr(classifiers.Network, "outputs", spy)
    attack = robustness.ArtAttack(getattr(evasion, name), settings=settings)
    before, states = state(model), (random.getstate(), np.random.get_state()[1].copy())
    table = run(model, data, [attack])
    assert table["perturbation"][1] == name
    assert math.isnan(table["severity"][1])
    assert table["accuracy"][0] == 1
    assert table["accuracy"][1] < 0.6
    assert seen[-1].min() >= 0
    assert seen[-1].max() <= 1
    assert state(model) == before
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    first = seen[-1]
    run(model, data, [attack])
    np.testing.assert_array_equal(seen[-1], first)  # repeats itself


@needs("art")
@pytest.mark.filterwarnings("ignore:PyTorch not found")
def test_art_attacks_sweep_a_severity():
    evasion = pytest.importorskip("art.attacks.evasion")
    model = mlp()
    attack = robustness.ArtAttack(
        evasion.FastGradientMethod, severities=(0.01, 0.05), name="ART's FGSM"
    )
    data = dataset(model, 100)
    table = run(model, data, [attack, FGSM(epsilons=(0.01, 0.05))])
    assert table["severity"].tolist()[1:3] == [0.01, 0.05]
    assert table["accuracy"].tolist()[1:3] == table["accuracy"].tolist()[3:]
    assert table["accuracy"][2] < 1


@needs("art")
@pytest.mark.filterwarnings("ignore:PyTorch not found")
def test_art_attacks_check_their_arguments():
    evasion = pytest.importorskip("art.attacks.evasion")
    with pytest.raises(ValueError, match=r"a class of art\.attacks\.evasion"):
        robustness.ArtAttack(dict)
    with pytest.raises(ValueError, match="an untargeted attack"):
        robustness.ArtAttack(evasion.FastGradientMethod, settings={"targeted": True})
    with pytest.raises(ValueError, match="`severities`"):
        robustness.ArtAttack(evasion.FastGradientMethod, severities=())
