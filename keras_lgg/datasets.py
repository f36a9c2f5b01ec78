"""Image classification sets, as ready pipelines and as arrays::

    pipelines(source, ...)   tf.data pipelines: train, validation, test
    arrays(name, ...)        the same splits as NumPy arrays of pixels
    BalancedBatches(...)     batches of P classes × K samples from arrays, for every backend

All data is held in memory. Sets are named ``"digits"`` (from scikit-learn) or as in TensorFlow
Datasets.
"""

import difflib
import functools
import itertools
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_lgg import checks
from keras_lgg.types import ArrayLike, Dataset, PathLike

__all__ = ["Arrays", "BalancedBatches", "Pipelines", "arrays", "balanced_batches", "pipelines"]

AUGMENTATIONS = ("crop", "flip")


def __dir__():
    return __all__


class Arrays(NamedTuple):
    """Splits as ``(images, labels)``: uint8 ``(n, h, w, channels)`` and int32 ``(n,)``.

    `pipelines` also accepts one that you make yourself.

    Args:
        train: ``(images, labels)`` of the training split.
        validation: The same for the validation split, which may be empty.
        test: The same for the test split.
        classes: Number of classes.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.datasets import Arrays
        >>> part = (np.zeros((6, 8, 8, 1), "uint8"), np.arange(6) % 3)
        >>> Arrays(train=part, validation=part, test=part, classes=3).shape
        (8, 8, 1)
    """

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, ``(height, width, channels)``."""
        return self.train[0].shape[1:]


class Pipelines(NamedTuple):
    """`tf.data` pipelines of batches ``(float32 images, int32 labels)``, and facts about them.

    Attributes:
        train: Training batches, reshuffled in each epoch, and augmented if asked for.
        validation: Validation batches in a fixed order, not augmented; none with ``validation=0``.
        test: Test batches in a fixed order, not augmented.
        shape: Shape of one image, ``(height, width, channels)``.
        classes: Number of classes.
        normalization: The `keras.layers.Normalization` that the pipelines apply to pixels in
            [0, 1]. Put in front of the trained network, it makes a model of plain pixels:
            ``keras.Sequential([keras.Input(data.shape), data.normalization, network])``.

    Example:
        >>> from keras_lgg import datasets
        >>> data = datasets.pipelines("digits", batch_size=100)
        >>> len(data.train), data.classes
        (12, 10)
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    shape: tuple[int, ...]
    classes: int
    normalization: keras.layers.Normalization


def pipelines(
    source: str | Arrays,
    *,
    batch_size: int = 128,
    balanced: tuple[int, int] | None = None,
    validation: float = 0.1,
    augment: str | Sequence[str] = (),
    seed: int = 0,
    data_dir: PathLike | None = None,
    download: bool = True,
) -> Pipelines:
    """Ready-made `tf.data` pipelines of an image classification set.

    Images are scaled to [0, 1], then normalised by the mean and the standard deviation of each
    channel over the training split. The pipelines feed ``fit`` on every backend of Keras.

    Args:
        source: ``"digits"`` or a name in TensorFlow Datasets, such as ``"mnist"``, ``"cifar10"``
            or ``"svhn_cropped"``; or `Arrays`, which are already split.
        batch_size: Samples in a batch. The last one of an epoch may be smaller.
        balanced: ``(P, K)`` makes training batches of K samples from each of P classes, as
            `balanced_batches` does, instead of ``batch_size`` samples.
        validation: Share of the training split that is held out, stratified by class. The same
            samples are held out for every ``seed``.
        augment: ``"crop"`` (a random crop after zero padding by an eighth of the width), ``"flip"``
            (left to right), or both, applied to the training images.
        seed: Seed of the order of the training batches and of the augmentation.
        data_dir: Folder of TensorFlow Datasets; by default that in the environment variable
            ``TFDS_DATA_DIR``, else the default of TensorFlow Datasets.
        download: Whether to download a set that is not in ``data_dir``.

    Returns:
        `Pipelines`.

    Raises:
        ValueError: If an argument has none of these forms, or the set does not consist of labelled
            images of one shape with a train and a test split.
        ImportError: If the extra ``datasets`` is not installed.
        OSError: If the data is neither there nor can be downloaded.

    Example:
        >>> from keras_lgg import datasets
        >>> data = datasets.pipelines("digits", batch_size=100)
        >>> images, labels = next(iter(data.train))
        >>> tuple(images.shape), tuple(labels.shape), data.shape, data.classes
        ((100, 8, 8, 1), (100,), (8, 8, 1), 10)
    """
    checks.check_positive_integer("batch_size", batch_size)
    augment = (augment,) if isinstance(augment, str) else tuple(augment)
    for step in augment:
        checks.check_choice("augment", step, AUGMENTATIONS)
    if isinstance(source, Arrays):
        data = source
    else:
        data = arrays(source, validation=validation, data_dir=data_dir, download=download)
    normalization = _normalization(data.train[0])
    finish = functools.partial(_finish, normalization=normalization)
    return Pipelines(
        train=finish(_in_random_order(*data.train, batch_size, balanced, augment, seed)),
        validation=finish(_in_order(*data.validation, batch_size)),
        test=finish(_in_order(*data.test, batch_size)),
        shape=data.shape,
        classes=data.classes,
        normalization=normalization,
    )


def arrays(
    name: str, *, validation: float = 0.1, data_dir: PathLike | None = None, download: bool = True
) -> Arrays:
    """The splits of an image classification set as NumPy arrays, for any backend or tool.

    Args:
        name: ``"digits"`` or a name in TensorFlow Datasets, such as ``"cifar10"``.
        validation: Share of the training split that is held out, stratified by class.
        data_dir: Folder of TensorFlow Datasets, by default as for `pipelines`.
        download: Whether to download a set that is not in ``data_dir``.

    Returns:
        `Arrays`. The test split of the 1,797 digits has 500 samples, stratified.

    Raises:
        ValueError: As `pipelines`, which raises the same errors.

    Example:
        >>> from keras_lgg import datasets
        >>> data = datasets.arrays("digits")
        >>> images, labels = data.test
        >>> images.shape, images.dtype.name, labels.shape
        ((500, 8, 8, 1), 'uint8', (500,))
    """
    if not 0 <= validation < 1:
        raise checks.invalid("validation", "a share in [0, 1), such as 0.1", validation)
    if name == "digits":
        (images, labels), test, classes = _digits()
    else:
        (images, labels), test, classes = _tensorflow_dataset(name, data_dir, download)
    train, held_out = (images, labels), (images[:0], labels[:0])
    if validation:
        train, held_out = _split(images, labels, validation)
    return Arrays(train, held_out, test, classes)


def balanced_batches(
    labels: ArrayLike, *, classes: int, samples: int, seed: int | Sequence[int] = 0
) -> np.ndarray:
    """One epoch of class-balanced batches, as indices.

    For each batch, ``classes`` classes are drawn, and ``samples`` samples from each of them. No
    sample of a class is drawn again before all the others were. Losses on labels gain from this:
    every sample has neighbours of its own class.

    Args:
        labels: Integers ``(n,)``, the class of each sample.
        classes: P, the number of classes in a batch.
        samples: K, the number of samples from each of them.
        seed: Integer or sequence of integers, the seed of the draws.

    Returns:
        Integers ``(n // (P * K), P * K)``: the indices of the samples in each batch.

    Raises:
        ValueError: If the labels have fewer than P classes, or fewer than P × K samples.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.datasets import balanced_batches
        >>> labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
        >>> [
        ...     sorted(labels[batch].tolist())
        ...     for batch in balanced_batches(labels, classes=3, samples=2)
        ... ]
        [[0, 0, 1, 1, 2, 2]]
    """
    checks.check_positive_integer("classes", classes)
    checks.check_positive_integer("samples", samples)
    labels = np.asarray(labels)
    known = np.unique(labels)
    if classes > len(known):
        raise checks.invalid(
            "classes", f"at most the {len(known)} classes that the labels have", classes
        )
    count = len(labels) // (classes * samples)
    if count == 0:
        raise ValueError(
            f"There are too few samples for one batch. Expected at least classes * samples = "
            f"{classes * samples} labels. Received: {len(labels)}. Lower one of the two."
        )
    rng = np.random.default_rng(seed)
    streams = {c: _endless(np.flatnonzero(labels == c), rng) for c in known}
    return np.array(
        [
            [next(streams[c]) for c in rng.permutation(known)[:classes] for _ in range(samples)]
            for _ in range(count)
        ]
    )


class BalancedBatches(keras.utils.PyDataset):
    """Class-balanced batches of arrays, drawn anew in each epoch, for ``fit`` on every backend.

    Args:
        images: Array ``(n, ...)``, of images or any other samples.
        labels: Integers ``(n,)``, the class of each sample.
        classes: P, the number of classes in a batch.
        samples: K, the number of samples from each of them.
        seed: Seed of the draws, for all epochs.

    Raises:
        ValueError: If the labels have fewer than P classes, or fewer than P × K samples.

    Example:
        >>> from keras_lgg import datasets
        >>> images, labels = datasets.arrays("digits").train
        >>> batches = datasets.BalancedBatches(images, labels, classes=5, samples=8)
        >>> x, y = batches[0]
        >>> x.shape, len(set(y.tolist()))
        ((40, 8, 8, 1), 5)
    """

    def __init__(
        self,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        classes: int,
        samples: int,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        checks.check_same_length(images=np.asarray(images), labels=np.asarray(labels))
        self.images, self.labels = np.asarray(images), np.asarray(labels)
        self._draw = functools.partial(
            balanced_batches, self.labels, classes=classes, samples=samples
        )
        self._seed, self._epoch = seed, 0
        self._batches = self._draw(seed=(seed, 0))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch = self._batches[index]
        return self.images[batch], self.labels[batch]

    def on_epoch_end(self) -> None:
        """Draw the batches of the next epoch."""
        self._epoch += 1
        self._batches = self._draw(seed=(self._seed, self._epoch))


def _endless(indices, rng):
    while True:
        yield from rng.permutation(indices)


def _digits():
    load_digits = checks.require("sklearn.datasets", "datasets").load_digits
    images, labels = load_digits(return_X_y=True)
    images = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype("uint8")
    train, test = _split(images, labels.astype("int32"), 500)
    return train, test, 10


def _split(images, labels, held_out):
    """Stratified parts ``(rest, held out)``, always the same ones, each in the original order."""
    selection = checks.require("sklearn.model_selection", "datasets")
    parts = selection.train_test_split(
        np.arange(len(labels)), test_size=held_out, stratify=labels, random_state=0
    )
    return [(images[part], labels[part]) for part in map(np.sort, parts)]


def _tensorflow_dataset(name, data_dir, download):
    tfds = checks.require("tensorflow_datasets", "datasets")
    # TensorFlow Datasets itself reads the variable only when it is imported.
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    builder = _builder(tfds, name, data_dir)
    _prepare(builder, download)
    _check_is_classification(builder.info)
    train, test = tfds.load(
        name,
        split=["train", "test"],
        data_dir=data_dir,
        download=False,
        as_supervised=True,
        batch_size=-1,
    )
    train, test = ((x.numpy(), y.numpy().astype("int32")) for x, y in (train, test))
    return train, test, builder.info.features["label"].num_classes


def _builder(tfds, name, data_dir):
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        near = difflib.get_close_matches(str(name), ["digits", *tfds.list_builders()], n=3)
        hint = f" Did you mean one of {near}?" if near else ""
        raise ValueError(
            f"Unknown set '{name}'.{hint} Expected 'digits' or a name of TensorFlow Datasets. "
            f"Received: name={name!r}."
        ) from error


def _prepare(builder, download):
    """Download a set if it is not there yet, or raise an error that says how to get it."""
    if builder.is_prepared():
        return
    reason = None
    if download:
        try:
            builder.download_and_prepare()
            return
        except Exception as error:  # every set fails in its own way
            reason = error
    why = f"the download failed ({type(reason).__name__}: {reason})" if reason else "download=False"
    raise OSError(
        f"The set '{builder.name}' is not on this machine. Expected it at {builder.data_path}. "
        f"Received: nothing there, and {why}. Either point `data_dir`, or the environment "
        "variable TFDS_DATA_DIR, to the folder that holds it; or run, where there is a network, "
        f"tensorflow_datasets.load('{builder.name}', data_dir=...) and copy that folder."
    ) from reason


def _check_is_classification(info):
    features = dict(info.features) if hasattr(info.features, "items") else {}
    shape = getattr(features.get("image"), "shape", None) or (None,)
    is_labelled = info.supervised_keys == ("image", "label")
    if not is_labelled or None in shape or not {"train", "test"} <= set(info.splits):
        raise ValueError(
            f"The set '{info.name}' cannot be used. Expected labelled images of one shape, in a "
            f"'train' and a 'test' split. Received: keys {info.supervised_keys}, images of shape "
            f"{shape}, splits {sorted(info.splits)}."
        )


def _normalization(images):
    """The normalisation of pixels in [0, 1]; a channel that never varies is only centred."""
    axes = tuple(range(images.ndim - 1))
    # In parts, so that no float64 copy of the whole set is made.
    parts = np.array_split(images, math.ceil(len(images) / 1000))
    mean = sum(part.sum(axis=axes, dtype="float64") for part in parts) / images[..., 0].size / 255
    square = sum(((part / 255.0) ** 2).sum(axis=axes) for part in parts) / images[..., 0].size
    variance = square - mean**2
    variance = np.where(variance < 1e-12, 1.0, variance)
    return keras.layers.Normalization(
        mean=mean.tolist(), variance=variance.tolist(), name="normalization"
    )


def _in_order(images, labels, batch_size):
    import tensorflow as tf

    batches = tf.data.Dataset.range(len(labels)).batch(batch_size)
    return batches.map(_gather(images, labels))


def _in_random_order(images, labels, batch_size, balanced, augment, seed):
    """Training batches, drawn by NumPy so that they do not depend on any global seed."""
    import tensorflow as tf

    draw, size = _sampler(labels, batch_size, balanced)
    epochs = itertools.count()

    def batches():
        epoch = (seed, next(epochs))
        rng = np.random.default_rng((*epoch, 1))
        for batch in draw(seed=epoch):
            yield batch, rng.integers(2**31 - 3, size=2)

    specs = (tf.TensorSpec((size,), tf.int64), tf.TensorSpec((2,), tf.int64))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=specs)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(draw(seed=seed))))
    gather = _gather(images, labels)
    return dataset.map(
        lambda index, draw: _augmented(*gather(index), augment, draw), num_parallel_calls=2
    )


def _sampler(labels, batch_size, balanced):
    """A function that draws an epoch's batches of indices, and their size if it is fixed."""
    if balanced is None:
        places = range(batch_size, len(labels), batch_size)
        return functools.partial(_permutation, len(labels), places), None
    try:
        classes, samples = balanced
    except TypeError as error:
        expected = "(classes, samples), such as (10, 10)"
        raise checks.invalid("balanced", expected, balanced) from error
    draw = functools.partial(balanced_batches, labels, classes=classes, samples=samples)
    return draw, classes * samples


def _permutation(count, places, *, seed):
    return np.split(np.random.default_rng(seed).permutation(count), places)


def _gather(images, labels):
    """A function from a batch of indices to its samples."""
    import tensorflow as tf

    with tf.device("CPU"):
        images, labels = tf.constant(images), tf.constant(labels)
    return lambda index: (tf.gather(images, index), tf.gather(labels, index))


def _augmented(images, labels, augment, seed):
    import tensorflow as tf

    if "crop" in augment:
        images = _random_crop(images, seed)
    if "flip" in augment:
        draw = tf.random.stateless_uniform((tf.shape(labels)[0], 1, 1, 1), seed + 1)
        images = tf.where(draw < 0.5, tf.reverse(images, axis=[2]), images)
    return images, labels


def _random_crop(images, seed):
    """A random crop of each image, after zero padding by an eighth."""
    import tensorflow as tf

    height, width = images.shape[1:3]
    pad_y, pad_x = height // 8, width // 8
    padded = tf.pad(images, [[0, 0], [pad_y, pad_y], [pad_x, pad_x], [0, 0]])
    n = tf.shape(images)[0]
    y = tf.random.stateless_uniform((n, 1), seed, maxval=2 * pad_y + 1, dtype=tf.int64)
    x = tf.random.stateless_uniform((n, 1), seed + 2, maxval=2 * pad_x + 1, dtype=tf.int64)
    rows = tf.gather(padded, y + tf.range(height, dtype=tf.int64), axis=1, batch_dims=1)
    crops = tf.gather(rows, x + tf.range(width, dtype=tf.int64), axis=2, batch_dims=1)
    return tf.ensure_shape(crops, images.shape)


def _finish(dataset, normalization):
    import tensorflow as tf

    mean = np.float32(255) * np.reshape(normalization.input_mean, (-1,)).astype("float32")
    scale = np.reshape(normalization.input_variance, (-1,)).astype("float32") ** -0.5 / 255

    def normalize(images, labels):
        return (tf.cast(images, tf.float32) - mean) * scale, labels

    # There is nothing to autotune here, and on one core autotuning delays the end of each epoch by
    # up to twice the time that the epoch took (TensorFlow 2.21).
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.map(normalize, num_parallel_calls=2).prefetch(2).with_options(options)
