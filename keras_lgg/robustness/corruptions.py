"""Noise and corruptions of images; their public face is `keras_lgg.robustness`."""

import contextlib
import dataclasses
import io
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from keras_lgg import checks
from keras_lgg.robustness.inputs import checked_data
from keras_lgg.robustness.perturbations import (
    DataPerturbation,
    at_snr,
    global_random_states,
    sample_rng,
    store_numbers,
)
from keras_lgg.types import PathLike


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianNoise(DataPerturbation):
    r"""White Gaussian noise at a given signal-to-noise ratio, image by image.

    With a standard normal draw :math:`\eta`, scaled to the length that gives exactly this ratio, an
    image x with pixels in [0, 1] becomes

    .. math::

        x' = \operatorname{clip}_{[0, 1]}(x + \sigma \eta), \qquad
        20 \log_{10} \frac{\|x\|_2}{\|\sigma \eta\|_2} = \text{SNR}

    A black image stays as it is.

    Args:
        snr: Ratios in dB: 300 leaves next to no noise, 0 makes it as strong as the image.

    Its name is "Gaussian noise"; its severities are the ratios.

    Raises:
        ValueError: Unless ``snr`` holds different finite numbers.

    Example:
        >>> from keras_lgg import robustness
        >>> robustness.GaussianNoise(snr=(20, 10)).severities
        (20, 10)

    Reference: the ratio is that of Lassance, Gripon and Ortega, "Representing deep neural networks
    latent space geometries with graphs", Algorithms 14(2):39, 2021,
    https://arxiv.org/abs/2011.07343
    """

    snr: Sequence[float] = (30, 25, 20, 15, 10)

    takes = ("pixels",)

    def __post_init__(self) -> None:
        store_numbers(self, "snr", math.isfinite, "finite numbers of dB")

    name = "Gaussian noise"

    @property
    def severities(self) -> Sequence[float]:
        return self.snr

    def data(
        self, images: np.ndarray, labels: np.ndarray, *, seed: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for snr in self.snr:
            yield np.clip(images + self._noise(images, snr, seed), 0, 1), labels

    def _noise(self, images, snr, seed):
        rngs = (sample_rng(seed, self.name, snr, i) for i in range(len(images)))
        noise = np.stack([rng.standard_normal(images.shape[1:]) for rng in rngs])
        return at_snr(images, noise, snr)


@dataclasses.dataclass(frozen=True)
class CommonCorruption(DataPerturbation):
    """One of the corruptions of Hendrycks and Dietterich, by the package imagecorruptions.

    Images have at least 32 x 32 pixels, and the shape ``(n, h, w, 3)``, ``(n, h, w, 1)`` or
    ``(n, h, w)``; gray ones are repeated to three channels, and the mean of the three is taken
    afterwards. Pixels are first rounded to uint8, as the package takes them.

    Args:
        name: Name of the corruption, such as "gaussian_noise", "fog" or "jpeg_compression"; also
            its name in the table.
        severities: Integers from 1 to 5.

    Raises:
        ValueError: If the name or a severity is unknown or, later, if the images do not fit.
        ImportError: Without the extra ``robustness``.

    Example:
        >>> from keras_lgg import robustness
        >>> robustness.CommonCorruption("fog", severities=(1, 3)).severities
        (1, 3)

    Reference: Hendrycks and Dietterich, "Benchmarking neural network robustness to common
    corruptions and perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261
    """

    name: str
    _: dataclasses.KW_ONLY
    severities: Sequence[int] = (1, 2, 3, 4, 5)

    takes = ("pixels",)

    def __post_init__(self) -> None:
        package = checks.require("imagecorruptions", "robustness")
        checks.check_choice("name", self.name, package.get_corruption_names("all"))
        store_numbers(self, "severities", (1, 2, 3, 4, 5).__contains__, "integers from 1 to 5")

    def data(
        self, images: np.ndarray, labels: np.ndarray, *, seed: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        pixels = _three_channels(self.name, images)
        for severity in self.severities:
            corrupted = self._corrupt(pixels, int(severity), seed) / np.float32(255)
            if images.shape != corrupted.shape:
                corrupted = corrupted.mean(axis=-1).reshape(images.shape)
            yield corrupted, labels

    def _corrupt(self, pixels, severity, seed):
        """The uint8 images corrupted by the package, each seeded by itself."""
        seeds = [
            int(sample_rng(seed, self.name, severity, i).integers(2**32))
            for i in range(len(pixels))
        ]
        corrupt = checks.require("imagecorruptions", "robustness").corrupt
        with contextlib.ExitStack() as stack:
            stack.enter_context(global_random_states())
            # What the package prints of its own workings is of no use to the user.
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            corrupted = []
            for image, image_seed in zip(pixels, seeds, strict=True):
                np.random.seed(image_seed)
                # These two draw from their own generators.
                own = {"seed": image_seed} if self.name in ("glass_blur", "impulse_noise") else {}
                corrupted.append(
                    corrupt(image, corruption_name=self.name, severity=severity, **own)
                )
        return np.stack(corrupted)


def common_corruptions(*, severities: Sequence[int] = (1, 2, 3, 4, 5)) -> list[CommonCorruption]:
    """The 15 common corruptions of Hendrycks and Dietterich, as a list of `CommonCorruption`.

    These are the types of noise, blur, weather and digital artefacts whose errors
    `mean_corruption_error` averages.

    Args:
        severities: Integers from 1 to 5.

    Returns:
        List of 15 `CommonCorruption`.

    Example:
        >>> from keras_lgg import robustness
        >>> [corruption.name for corruption in robustness.common_corruptions()][-2:]
        ['pixelate', 'jpeg_compression']

    Reference: Hendrycks and Dietterich, "Benchmarking neural network robustness to common
    corruptions and perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261
    """
    names = checks.require("imagecorruptions", "robustness").get_corruption_names("common")
    return [CommonCorruption(name, severities=severities) for name in names]


# The corruptions beyond the benchmark, and the severities, in the sets of TensorFlow Datasets.
_BEYOND = {
    "cifar10_corrupted": ("gaussian_blur", "saturate", "spatter", "speckle_noise"),
    "mnist_corrupted": ("identity",),
}


_SEVERITIES = {"cifar10_corrupted": (1, 2, 3, 4, 5), "mnist_corrupted": (math.nan,)}


@dataclasses.dataclass(frozen=True)
class ReadyMadeCorruption(DataPerturbation):
    """A published, corrupted test set, which brings its own images and labels.

    It is read with TensorFlow Datasets (the extra ``datasets``), and never downloaded. Its name in
    the table is "<dataset>/<corruption>".

    Args:
        dataset: "cifar10_corrupted" (CIFAR-10-C) or "mnist_corrupted" (MNIST-C).
        corruption: Name of the corruption, such as "fog".
        severities: Integers from 1 to 5, all by default; MNIST-C has none (NaN in the table).
        data_dir: Folder of the prepared sets; by default that of the environment variable
            ``TFDS_DATA_DIR``, else the default of TensorFlow Datasets.

    Raises:
        ValueError: If the set, the corruption or a severity is unknown.
        FileNotFoundError: From `evaluate`, if the set is not there.
        ImportError: Without the extra ``datasets``.

    Example:
        >>> from keras_lgg import robustness
        >>> robustness.ReadyMadeCorruption("cifar10_corrupted", "fog").name  # doctest: +SKIP
        'cifar10_corrupted/fog'

    Reference: Hendrycks and Dietterich, "Benchmarking neural network robustness to common
    corruptions and perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261; Mu and Gilmer,
    "MNIST-C: a robustness benchmark for computer vision", 2019, https://arxiv.org/abs/1906.02337
    """

    dataset: str
    corruption: str
    _: dataclasses.KW_ONLY
    severities: Sequence[int] | None = None
    data_dir: PathLike | None = None

    takes = ("pixels",)

    def __post_init__(self) -> None:
        checks.check_choice("corruption", self.corruption, _corruption_types(self.dataset))
        known = _SEVERITIES[self.dataset]
        if self.severities is None:
            object.__setattr__(self, "severities", known)
        elif self.dataset == "mnist_corrupted":
            raise checks.invalid("severities", "None for mnist_corrupted", self.severities)
        else:
            store_numbers(self, "severities", known.__contains__, "integers from 1 to 5")

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.corruption}"

    def data(
        self, images: np.ndarray, labels: np.ndarray, *, seed: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for severity in self.severities or _SEVERITIES[self.dataset]:
            suffix = "" if math.isnan(severity) else f"_{int(severity)}"
            yield checked_data(_load(f"{self.name}{suffix}", self.data_dir))


def ready_made_corruptions(
    dataset: str,
    *,
    corruptions: Iterable[str] | None = None,
    severities: Sequence[int] | None = None,
    data_dir: PathLike | None = None,
) -> list[ReadyMadeCorruption]:
    """The corruptions of a published test set, as a list of `ReadyMadeCorruption`.

    Args:
        dataset: "cifar10_corrupted" (CIFAR-10-C) or "mnist_corrupted" (MNIST-C).
        corruptions: Their names; by default the 15 of the benchmark.
        severities: Integers from 1 to 5, all by default; MNIST-C has none.
        data_dir: Folder of the prepared sets; by default that of the environment variable
            ``TFDS_DATA_DIR``, else the default of TensorFlow Datasets.

    Returns:
        List of `ReadyMadeCorruption`, one per corruption.

    Example:
        >>> from keras_lgg import robustness
        >>> len(robustness.ready_made_corruptions("mnist_corrupted"))  # doctest: +SKIP
        15

    Reference: Hendrycks and Dietterich, "Benchmarking neural network robustness to common
    corruptions and perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261; Mu and Gilmer,
    "MNIST-C: a robustness benchmark for computer vision", 2019, https://arxiv.org/abs/1906.02337
    """
    if corruptions is None:
        known = _corruption_types(dataset)
        corruptions = [name for name in known if name not in _BEYOND[dataset]]
    return [
        ReadyMadeCorruption(dataset, name, severities=severities, data_dir=data_dir)
        for name in corruptions
    ]


def _corruption_types(dataset):
    checks.check_choice("dataset", dataset, tuple(_BEYOND))
    configs = checks.require("tensorflow_datasets", "datasets").builder_cls(dataset).BUILDER_CONFIGS
    return list(dict.fromkeys(config.corruption for config in configs))


def _load(name, data_dir):
    tfds = checks.require("tensorflow_datasets", "datasets")
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    try:
        loaded = tfds.load(
            name, split="test", data_dir=data_dir, download=False, batch_size=-1, as_supervised=True
        )
    except AssertionError as error:  # what tfds raises if there is nothing to read
        raise FileNotFoundError(
            f"The data set '{name}' is not there. Expected it in "
            f"{data_dir or 'the default folder of TensorFlow Datasets'}. Received: {error} Either "
            "pass data_dir=<the folder that holds it> (or set TFDS_DATA_DIR), or prepare it once "
            f"where there is a network: tensorflow_datasets.load('{name}', data_dir=...)."
        ) from error
    images, labels = tfds.as_numpy(loaded)
    return images, labels


def _three_channels(name, images):
    """The images as uint8, of shape (n, h, w, 3)."""
    shape = images.shape[1:]
    is_gray = len(shape) == 2 or (len(shape) == 3 and shape[2] == 1)
    if not is_gray and (len(shape) != 3 or shape[2] != 3):
        raise ValueError(
            f"The corruption '{name}' does not fit the images. Expected the shape (n, h, w, 3), "
            f"(n, h, w, 1) or (n, h, w). Received: {images.shape}."
        )
    if min(shape[:2]) < 32:
        raise ValueError(
            f"The corruption '{name}' does not fit the images. Expected at least 32 x 32 pixels. "
            f"Received: {shape[0]} x {shape[1]}. Resize them first, with keras.ops.image.resize, "
            "and put the inverse keras.layers.Resizing in front of the model; or, for MNIST, use "
            'robustness.ready_made_corruptions("mnist_corrupted").'
        )
    pixels = np.rint(images * 255).astype("uint8").reshape(len(images), *shape[:2], -1)
    return np.repeat(pixels, 3, axis=-1) if is_gray else pixels
