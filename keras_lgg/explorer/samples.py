"""How a sample is shown on the page: as its picture, its text, or its numbers."""

import base64
import io
import math
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_lgg import checks

LARGEST = 64  # pixels, the longer side of a picture in the page
LOSSLESS = 32  # pixels, up to which pictures are stored as they are
SHOWN = 8  # numbers that are shown of a row
LONGEST = 400  # letters that are shown of a text


class ShownSamples(NamedTuple):
    """What the page shows of the samples.

    Attributes:
        captions: A text for each sample, or ``None``.
        sheet: All pictures in one image, as a data URL; or ``None``.
        size: Width and height of a picture in the sheet.
        columns: Number of pictures in a row of the sheet.
    """

    captions: list[str] | None = None
    sheet: str | None = None
    size: tuple[int, int] = (0, 0)
    columns: int = 0


def samples_of(x: Any, images: Any = None, texts: Any = None) -> ShownSamples:
    """What is shown of the samples.

    Args:
        x: What the model takes. Arrays ``(n, h, w)``, or ``(n, h, w, c)`` with 1, 3 or 4 channels,
            are shown as pictures, strings as texts, others by their first numbers; of several
            inputs, the first is shown.
        images: Pictures to show, such arrays themselves; or ``None``.
        texts: Texts to show, strings ``(n,)``; or ``None``.

    Raises:
        ValueError: If the pictures or texts are no such arrays, or differ in number from the
            samples.
    """
    first = keras.tree.flatten(x)[0]
    captions, pictures = None, None
    if images is not None:
        pictures = _pictures(_of_samples("images", np.asarray(images), first))
        if pictures is None:
            expected = "pictures (n, h, w), or (n, h, w, c) of 1, 3 or 4 channels, of numbers"
            given = np.asarray(images)
            raise checks.invalid("images", expected, f"{given.dtype} of shape {given.shape}")
    if texts is not None:
        captions = _texts(_of_samples("texts", np.asarray(texts), first))
        if captions is None:
            raise checks.invalid("texts", "a string for each sample", f"a {type(texts).__name__}")
    if pictures is None and captions is None:
        captions = _texts(first)
        pictures = None if captions else _pictures(first)
        if captions is None and pictures is None:
            captions = [_numbers(row) for row in first.reshape(len(first), -1)]
    return (
        ShownSamples(captions)
        if pictures is None
        else _with_sheet(ShownSamples(captions), pictures)
    )


def _of_samples(argument, given, first):
    if given.shape[:1] != first.shape[:1]:
        expected = f"one for each of the {len(first)} samples in `x`"
        received = f"{len(given)} of them" if given.ndim else "a single value"
        raise checks.invalid(argument, expected, received)
    return given


def _texts(given):
    """A list of strings, or ``None`` if these are none."""
    if given.dtype.kind not in "OSUT" or given.size != len(given):
        return None
    words = [each.decode() if isinstance(each, bytes) else each for each in given.ravel().tolist()]
    if not all(isinstance(word, str) for word in words):
        return None
    return [word if len(word) <= LONGEST else f"{word[:LONGEST]}…" for word in words]


def _numbers(row):
    shown = ", ".join(f"{number:.3g}" for number in row[:SHOWN].tolist())
    return f"{shown}, … ({len(row)})" if len(row) > SHOWN else shown


def _pictures(given):
    """Pictures ``(n, h, w, c)`` of uint8, or ``None`` if the array cannot be pictures."""
    if given.dtype.kind not in "buif" or given.ndim not in (3, 4):
        return None
    if given.ndim == 4 and keras.config.image_data_format() == "channels_first":
        given = np.moveaxis(given, 1, -1)
    given = given if given.ndim == 4 else given[..., None]
    if given.shape[-1] not in (1, 3, 4) or not given.size:
        return None
    if given.dtype == np.uint8:
        return given
    pixels = given.astype("float32")
    if not np.isfinite(pixels).all():
        raise checks.invalid("images", "finite pixels", "NaN or infinite ones")
    low, high = min(pixels.min(), 0), max(pixels.max(), 1)
    if (low, high) != (0, 1):  # on another scale, such as standardised ones
        low, high = pixels.min(), pixels.max()
    return np.rint((pixels - low) * (255 / max(high - low, 1e-12))).astype("uint8")


def _with_sheet(samples, pictures):
    """The samples with a sheet of their pictures, scaled down if they are large."""
    image = checks.require("PIL.Image", "explorer")
    n, height, width, channels = pictures.shape
    scale = min(1.0, LARGEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    columns = math.ceil(math.sqrt(n))
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    sheet = image.new(mode, (columns * size[0], math.ceil(n / columns) * size[1]))
    for i, picture in enumerate(pictures):
        tile = image.fromarray(picture[..., 0] if channels == 1 else picture)
        if scale < 1:
            tile = tile.resize(size, image.Resampling.LANCZOS)
        sheet.paste(tile, (i % columns * size[0], i // columns * size[1]))
    kind = "png" if max(size) <= LOSSLESS else "webp"
    options = {"optimize": True} if kind == "png" else {"quality": 85}
    buffer = io.BytesIO()
    sheet.save(buffer, kind, **options)
    coded = base64.b64encode(buffer.getvalue()).decode()
    return samples._replace(sheet=f"data:image/{kind};base64,{coded}", size=size, columns=columns)
