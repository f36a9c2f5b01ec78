"""The figure of what queries found: each with its nearest keys."""

from collections.abc import Sequence

import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.arrays import host_array
from keras_lgg.plots import style
from keras_lgg.types import ArrayLike, Figure

FORMS = "images (n, height, width) or (n, height, width, 1, 3 or 4), or a list of texts"
# Inches: side of an image, size of a text, gap between two cells, and between a query and its keys.
SIDE, TEXT, GAP, AFTER_QUERY = 0.48, (1.5, 0.62), 0.06, 0.2
LINES = 4  # of a text; longer ones are cut
# Colour, line and mark of a key that is relevant, and of one that is not.
HIT, MISS = ("#009E73", "-", "✓"), ("#D55E00", (0, (2, 1)), "✗")


@style.styled
def neighbours(
    found: ArrayLike,
    queries: ArrayLike | Sequence[str],
    *,
    keys: ArrayLike | Sequence[str] | None = None,
    hits: ArrayLike | None = None,
    title: str | None = None,
) -> Figure:
    """Queries and the keys that they found: one row per query, followed by its keys, nearest first.

    Keys that are relevant to the query have a green frame and a check mark, others a red, dashed
    frame and a cross.

    Args:
        found: Indices ``(n, k)`` of keys, the nearest first, as `keras_lgg.retrieval.neighbours`
            returns them, with one row for each query to show.
        queries: The n queries: images ``(n, height, width)``, with or without channels, of uint8 or
            of floats in [0, 1]; or a list of texts, which are cut after 4 lines.
        keys: All keys, as images or texts; ``None`` if the queries were searched among themselves:
            ``queries`` are then all samples, of which the first n are the queries.
        hits: Whether each key is relevant, booleans ``(n, k)``, such as
            ``labels[found] == labels[:n, None]``; ``None`` draws no frames.
        title: Title of the figure.

    Returns:
        A figure, wider than a column if the cells need it.

    Raises:
        ValueError: If an argument is not as above.
        ImportError: If matplotlib is missing.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> images, labels = np.random.default_rng(0).random((20, 8, 8)), np.arange(20) % 2
        >>> found, _ = lgg.retrieval.neighbours(images, k=5)
        >>> hits = labels[found] == labels[:, None]
        >>> figure = lgg.plots.neighbours(found[:4], images, hits=hits[:4])
        >>> len(figure.axes[0].images)
        24
    """
    indices = _indices(found)
    of_queries = _Cells("queries", queries)
    of_keys = of_queries if keys is None else _Cells("keys", keys)
    _check(indices, of_queries, of_keys)
    relevant = None if hits is None else _relevant(hits, indices.shape)
    width, height = np.maximum(of_queries.size, of_keys.size)
    n, k = indices.shape
    lefts = AFTER_QUERY + (width + GAP) * np.arange(1, k + 1)
    tops = (height + GAP) * np.arange(n)
    end = lefts[-1] + width
    figure, ((axis,),) = style.empty_figure(
        1, 1, (max(style.COLUMN, end + 0.2), tops[-1] + height + 0.3)
    )
    axis.set(xlim=(-GAP, end + GAP), ylim=(tops[-1] + height + GAP, -style.LINE), aspect="equal")
    axis.axis("off")
    for left, name in zip([0, *lefts], ["query", *map(str, range(1, k + 1))], strict=True):
        axis.text(left + width / 2, -0.3 * style.LINE, name, size=style.SMALL, ha="center")
    for i, top in enumerate(tops):
        of_queries.draw(axis, i, (0, top, width, height))
        for j, left in enumerate(lefts):
            box = (left, top, width, height)
            of_keys.draw(axis, indices[i, j], box)
            if relevant is not None:
                _frame(axis, box, HIT if relevant[i, j] else MISS)
    if relevant is not None:
        _legend(figure)
    style.finish_grid(figure, np.array([axis]), 1, title)
    return figure


class _Cells:
    """Images or texts, drawn one at a time."""

    def __init__(self, argument, given):
        self._texts = _texts(given)
        self._images = None if self._texts else _images(argument, given)
        self.size = TEXT if self._texts else (SIDE, SIDE)

    def __len__(self):
        return len(self._texts or self._images)

    def draw(self, axis, i, box):
        left, top, width, height = box
        if self._texts:
            text = _cut(self._texts[i], width - 0.16)
            place = (left + 0.05, top + height / 2)
            axis.text(*place, text, size=style.SMALL - 1, va="center", linespacing=1.1)
            return
        image = self._images[i]
        rows, columns = image.shape[:2]
        side = min(width, height) / max(rows, columns)
        half_height, half_width = 0.5 * side * rows, 0.5 * side * columns
        x, y = left + width / 2, top + height / 2
        extent = (x - half_width, x + half_width, y + half_height, y - half_height)
        limits = axis.axis()
        axis.imshow(image, extent=extent, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.axis(limits)


def _texts(given):
    """A list of texts, or None if these are none."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "UO":
        given = given.tolist()
    if isinstance(given, Sequence) and all(isinstance(x, str | bytes) for x in given):
        return [x.decode() if isinstance(x, bytes) else x for x in given]
    return None


def _images(argument, given):
    images = host_array(argument, given, FORMS)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != 3 and not (images.ndim == 4 and images.shape[-1] in (3, 4)):
        raise checks.invalid(argument, FORMS, f"shape {images.shape}")
    return checks.unit_pixels(argument, images)


def _cut(text, width):
    lines = style.wrapped(" ".join(text.split()), width, style.SMALL - 1).split("\n")
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], lines[LINES - 1].rstrip(" .,") + " …"]
    return "\n".join(lines)


def _frame(axis, box, look):
    patches = checks.require("matplotlib.patches", "plots")
    left, top, width, height = box
    color, line, mark = look
    frame = patches.Rectangle((left, top), width, height, fill=False, clip_on=False)
    frame.set(edgecolor=color, linestyle=line, linewidth=1.6)
    axis.add_patch(frame)
    axis.text(
        left + width - 0.025,
        top + 0.03,
        mark,
        size=5,
        weight="bold",
        color="white",
        ha="right",
        va="top",
        bbox={"boxstyle": "square,pad=0.15", "facecolor": color, "edgecolor": "none"},
    )


def _legend(figure):
    patches = checks.require("matplotlib.patches", "plots")
    handles = [
        patches.Patch(fill=False, edgecolor=color, linestyle=line, linewidth=1.6)
        for color, line, _ in (HIT, MISS)
    ]
    style.legend_below(figure, handles, [f"{HIT[2]} relevant", f"{MISS[2]} not relevant"])


def _indices(found):
    found = host_array("found", found, "indices of keys (n, k)")
    if found.dtype.kind not in "iu" or found.ndim != 2 or 0 in found.shape:
        received = f"{found.dtype} of shape {found.shape}"
        raise checks.invalid("found", "indices of keys (n, k)", received)
    return found


def _check(indices, queries, keys):
    n = len(indices)
    if len(queries) != n and not (keys is queries and len(queries) > n):
        raise checks.invalid("queries", f"the {n} queries of `found`", f"{len(queries)}")
    low, high = indices.min(), indices.max()
    if not 0 <= low <= high < len(keys):
        expected = f"indices from 0 to {len(keys) - 1}, of the keys"
        raise checks.invalid("found", expected, f"{low} to {high}")


def _relevant(hits, shape):
    hits = host_array("hits", hits, f"booleans {shape}, as `found`")
    if hits.shape != shape:
        raise checks.invalid("hits", f"booleans {shape}, as `found`", f"shape {hits.shape}")
    return hits
