import contextlib
import os

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_lgg import datasets

tfds = pytest.importorskip("tensorflow_datasets", reason="needs the extra datasets")


def to_arrays(pipeline):
    return [np.concatenate(part) for part in zip(*pipeline.as_numpy_iterator(), strict=True)]


def small(n=60, shape=(16, 16, 3), classes=3):
    """Random images; every pixel tells its place and its image."""
    rng = np.random.default_rng(0)

    def part(n):
        images = rng.integers(0, 256, (n, *shape)).astype("uint8")
        return images, (np.arange(n) % classes).astype("int32")

    return datasets.Arrays(part(n), part(n // 3), part(n // 3), classes)


class TestArrays:
    def test_digits(self):
        images, labels = load_digits(return_X_y=True)
        data = datasets.arrays("digits", validation=0.1)
        assert [len(part[1]) for part in (data.train, data.validation, data.test)] == [
            1167,
            130,
            500,
        ]
        assert (data.shape, data.classes) == ((8, 8, 1), 10)
        # Together, the splits are the set, each sample once.
        parts = (data.train, data.validation, data.test)
        ours = np.concatenate([np.c_[x.reshape(len(x), -1), y] for x, y in parts])
        theirs = np.c_[np.round(images * 255 / 16), labels]
        assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs.astype(int)))

    def test_splits_are_stratified_and_always_the_same(self):
        first, second = (datasets.arrays("digits", validation=0.2) for _ in range(2))
        np.testing.assert_array_equal(first.validation[0], second.validation[0])
        counts = np.bincount(first.validation[1])
        assert counts.min() >= 0.9 * counts.max() - 1
        for validation in (0.1, 0.5):
            np.testing.assert_array_equal(
                datasets.arrays("digits", validation=validation).test[0], first.test[0]
            )

    def test_without_validation(self):
        data = datasets.arrays("digits", validation=0)
        assert (len(data.train[1]), len(data.validation[1])) == (1297, 0)
        pipelines = datasets.pipelines("digits", validation=0)
        assert list(pipelines.validation) == []


class TestPipelines:
    def test_are_normalised_by_the_training_split(self):
        data = small()
        pipelines = datasets.pipelines(data, batch_size=7)
        images, _ = to_arrays(pipelines.train)
        assert images.dtype == np.float32
        np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(images.std(axis=(0, 1, 2)), 1, atol=1e-5)
        pixels = data.train[0] / 255
        mean, std = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
        test, labels = to_arrays(pipelines.test)
        np.testing.assert_allclose(test, (data.test[0] / 255 - mean) / std, atol=1e-5)
        np.testing.assert_array_equal(labels, data.test[1])

    def test_normalization_is_what_the_pipelines_apply(self):
        data = small()
        pipelines = datasets.pipelines(data, batch_size=10)
        ours, _ = to_arrays(pipelines.test)
        layer = pipelines.normalization(data.test[0] / np.float32(255))
        np.testing.assert_allclose(keras.ops.convert_to_numpy(layer), ours, atol=1e-5)

    def test_a_channel_that_never_varies_is_only_centred(self):
        data = small()
        for images, _ in (data.train, data.validation, data.test):
            images[..., 1] = 51
        images, _ = to_arrays(datasets.pipelines(data).test)
        np.testing.assert_allclose(images[..., 1], 0, atol=1e-5)
        assert np.abs(images[..., 0]).max() > 1

    def test_each_epoch_has_each_sample_once_in_a_new_order(self):
        data = small()
        pipelines = datasets.pipelines(data, batch_size=7)
        epochs = [to_arrays(pipelines.train)[0] for _ in range(2)]
        assert not np.array_equal(*epochs)
        for epoch in epochs:
            back = np.sort(epoch.reshape(60, -1).sum(axis=1))
            reference = np.sort(
                to_arrays(datasets.pipelines(data, batch_size=60).train)[0]
                .reshape(60, -1)
                .sum(axis=1)
            )
            np.testing.assert_allclose(back, reference, atol=1e-2)
        assert [len(y) for _, y in pipelines.train] == [7] * 8 + [4]
        assert pipelines.train.cardinality() == 9

    def test_images_keep_their_labels(self):
        data = small()
        data.train[0][:] = data.train[1][:, None, None, None]
        images, labels = to_arrays(datasets.pipelines(data, batch_size=7, augment="flip").train)
        values = np.unique(images[..., 0].round(4))
        np.testing.assert_array_equal(images[:, 0, 0, 0].round(4), values[labels])

    @pytest.mark.parametrize("options", [{}, {"augment": ("crop", "flip")}, {"balanced": (2, 5)}])
    def test_the_seed_decides_everything(self, options):
        runs = {}
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            keras.utils.set_random_seed(hash(name) % 100)  # which must not matter
            train = datasets.pipelines(small(), batch_size=7, seed=seed, **options).train
            runs[name] = np.concatenate([to_arrays(train)[0] for _ in range(2)])
        np.testing.assert_array_equal(runs["a"], runs["b"])
        assert not np.array_equal(runs["a"], runs["c"])

    def test_crops_are_shifts_of_the_padded_image(self):
        data = small()
        augmented = datasets.pipelines(data, batch_size=60, augment=["crop"])
        layer = keras.ops.convert_to_numpy
        black = layer(augmented.normalization(np.zeros((1, 1, 1, 3), "float32")))[0, 0, 0]
        originals = layer(augmented.normalization(data.train[0] / np.float32(255)))
        padded = np.full((60, 20, 20, 3), black)  # 2 = 16 // 8 on each side
        padded[:, 2:-2, 2:-2] = originals
        shifts = [(i, j) for i in range(5) for j in range(5)]
        windows = np.stack([padded[:, i : i + 16, j : j + 16] for i, j in shifts])
        images, _ = to_arrays(augmented.train)
        found = []
        for image in images:
            distances = np.abs(windows - image).max(axis=(2, 3, 4))
            assert distances.min() < 1e-4
            found.append(shifts[np.unravel_index(distances.argmin(), distances.shape)[0]])
        assert len(set(found)) > 12, "of 25 shifts, 60 draws give about 23"

    def test_flips_about_half_from_left_to_right(self):
        data = small()
        augmented = datasets.pipelines(data, batch_size=60, augment=["flip"])
        originals = keras.ops.convert_to_numpy(
            augmented.normalization(data.train[0] / np.float32(255))
        )
        images, _ = to_arrays(augmented.train)
        flipped = 0
        for image in images:
            as_is = np.abs(originals - image).max(axis=(1, 2, 3)).min()
            mirrored = np.abs(originals[:, :, ::-1] - image).max(axis=(1, 2, 3)).min()
            assert min(as_is, mirrored) < 1e-4
            flipped += mirrored < 1e-4
        assert 15 <= flipped <= 45

    def test_only_training_images_are_augmented(self):
        plain = datasets.pipelines(small())
        augmented = datasets.pipelines(small(), augment=("crop", "flip"))
        for split in ("validation", "test"):
            ours, theirs = (to_arrays(getattr(p, split))[0] for p in (plain, augmented))
            np.testing.assert_array_equal(ours, theirs)

    def test_feed_fit(self):
        data = datasets.pipelines("digits", batch_size=100, augment="crop")
        model = keras.Sequential(
            [
                keras.Input(data.shape),
                keras.layers.Flatten(),
                keras.layers.Dense(data.classes, "softmax"),
            ]
        )
        model.compile(
            keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        history = model.fit(
            data.train, validation_data=data.validation, epochs=8, shuffle=False, verbose=0
        ).history
        assert history["val_accuracy"][-1] > 0.6


class TestBalancedBatches:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 5], [50, 20, 30, 10]))

    def test_each_batch_is_balanced(self):
        batches = datasets.balanced_batches(self.labels, classes=3, samples=4)
        assert batches.shape == (9, 12)
        for batch in batches:
            classes, counts = np.unique(self.labels[batch], return_counts=True)
            assert len(classes) == 3
            assert set(counts) == {4}
            assert len(set(batch)) == 12

    def test_a_class_gives_all_before_one_again(self):
        batches = datasets.balanced_batches(self.labels, classes=4, samples=5)
        for label, size in zip([0, 1, 2, 5], [50, 20, 30, 10], strict=True):
            drawn = [i for batch in batches for i in batch if self.labels[i] == label]
            for start in range(0, len(drawn) - size + 1, size):
                assert len(set(drawn[start : start + size])) == size

    def test_the_classes_of_a_batch_vary(self):
        batches = datasets.balanced_batches(self.labels, classes=2, samples=2)
        chosen = {tuple(np.unique(self.labels[batch])) for batch in batches}
        assert len(chosen) == 6, "all pairs of 4 classes, in 27 batches"

    def test_pipelines_draw_anew_in_each_epoch(self):
        train = datasets.pipelines(small(), balanced=(3, 4)).train
        epochs = [to_arrays(train) for _ in range(2)]
        assert train.cardinality() == 5
        for _, labels in epochs:
            for batch in labels.reshape(5, 12):
                np.testing.assert_array_equal(np.bincount(batch), [4, 4, 4])
        assert not np.array_equal(epochs[0][0], epochs[1][0])

    def test_over_arrays_for_every_backend(self):
        images, labels = small().train
        batches = datasets.BalancedBatches(images, labels, classes=2, samples=5, seed=3)
        assert len(batches) == 6
        first = [batches[i] for i in range(len(batches))]
        for x, y in first:
            assert x.shape == (10, 16, 16, 3)
            assert sorted(np.bincount(y, minlength=3)) == [0, 5, 5]
            for image, label in zip(x, y, strict=True):
                assert label in labels[(images == image).all(axis=(1, 2, 3))]
        batches.on_epoch_end()
        assert not np.array_equal(first[0][0], batches[0][0])
        model = keras.Sequential(
            [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
        )
        model.compile("sgd", "sparse_categorical_crossentropy")
        assert len(model.fit(batches, epochs=2, verbose=0).history["loss"]) == 2


@contextlib.contextmanager
def tiny_mnist(folder):
    """A real folder of TensorFlow Datasets: the stock builder with a few images of ours."""
    from tensorflow_datasets.core import registered
    from tensorflow_datasets.image_classification import mnist

    with registered.skip_registration():

        class Tiny(mnist.MNIST):
            name = "mnist"

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(n) for split, n in SIZES.items()}

            def _generate_examples(self, n):
                for i in range(n):
                    yield i, {"image": np.full((28, 28, 1), i, "uint8"), "label": i % 10}

    Tiny(data_dir=folder).download_and_prepare()
    yield folder


SIZES = {"train": 100, "test": 30}


@pytest.mark.once
class TestTensorFlowDatasets:
    @pytest.mark.parametrize("by", ["argument", "environment"])
    def test_reads_a_prepared_folder(self, tmp_path, monkeypatch, by):
        with tiny_mnist(tmp_path):
            if by == "environment":
                monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
            data = datasets.arrays(
                "mnist", validation=0.2, data_dir=tmp_path if by == "argument" else None
            )
        assert [len(p[1]) for p in (data.train, data.validation, data.test)] == [80, 20, 30]
        assert (data.shape, data.classes) == ((28, 28, 1), 10)
        for images, labels in (data.train, data.validation, data.test):
            np.testing.assert_array_equal(images[:, 5, 5, 0] % 10, labels)

    def test_real_images(self):
        folder = os.environ.get("TFDS_DATA_DIR")
        if not folder or not tfds.builder("mnist", data_dir=folder).is_prepared():
            pytest.skip("TFDS_DATA_DIR points to no MNIST")
        data = datasets.pipelines("mnist", batch_size=1000)
        assert (data.shape, data.classes, len(data.train)) == ((28, 28, 1), 10, 54)
        assert len(to_arrays(data.test)[1]) == 10_000
        np.testing.assert_allclose(data.normalization.input_mean, [0.1307], atol=5e-4)

    def test_absent_data_says_the_two_ways_out(self, tmp_path):
        with pytest.raises(OSError, match=r"data_dir.*TFDS_DATA_DIR.*tensorflow_datasets.load"):
            datasets.arrays("mnist", data_dir=tmp_path, download=False)

    def test_a_failed_download_says_the_two_ways_out(self, tmp_path, monkeypatch):
        def refuse(*args, **kwargs):
            raise ConnectionError("no route")

        monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
        with pytest.raises(OSError, match=r"ConnectionError: no route.*TFDS_DATA_DIR") as caught:
            datasets.arrays("fashion_mnist", data_dir=tmp_path)
        assert isinstance(caught.value.__cause__, ConnectionError)

    def test_a_typo_names_what_is_near(self):
        with pytest.raises(ValueError, match=r"'cifar_10'.*'cifar10'"):
            datasets.pipelines("cifar_10")

    def test_a_set_without_labelled_images_is_refused(self, tmp_path):
        class Info:
            name, supervised_keys, features, splits = "texts", None, {}, {"train": None}

        with pytest.raises(ValueError, match=r"'texts' cannot be used.*labelled images"):
            datasets._check_is_classification(Info)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: datasets.pipelines("digits", batch_size=0), "`batch_size`.*positive integer"),
        (lambda: datasets.pipelines("digits", augment="mirror"), "`augment`.*'crop', 'flip'"),
        (lambda: datasets.pipelines("digits", balanced=10), r"`balanced`.*\(10, 10\)"),
        (lambda: datasets.arrays("digits", validation=1.0), r"`validation`.*\[0, 1\)"),
        (lambda: datasets.pipelines("digits", balanced=(11, 2)), "`classes`.*at most the 10"),
        (lambda: datasets.balanced_batches([0, 1], classes=2, samples=2), "too few samples"),
        (lambda: datasets.balanced_batches([0, 1], classes=2, samples=0), "`samples`"),
        (
            lambda: datasets.BalancedBatches(np.zeros((3, 2)), [0, 1], classes=1, samples=1),
            "same number",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "module"), [("mnist", "tensorflow_datasets"), ("digits", "sklearn.datasets")]
)
def test_a_missing_package_names_the_extra(monkeypatch, name, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=r"keras_lgg\[datasets\]"):
        datasets.arrays(name)
