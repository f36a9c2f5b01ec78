"""Figures of what variants of a training achieve."""

from collections.abc import Mapping

import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.arrays import host_array
from keras_lgg.plots import style
from keras_lgg.types import ArrayLike, Figure


@style.styled
def effects(values: Mapping[str, Mapping[str, ArrayLike]], *, title: str | None = None) -> Figure:
    """What each variant of a training reaches, by measure, seed by seed.

    For each variant, a marker shows the mean over the seeds, and a bar one standard deviation (of a
    sample) to either side; each seed is a dot, and a line joins the dots of one seed.

    Args:
        values: Dict from each measure to a dict from each variant, the baseline first, to its
            values ``(seeds,)``.
        title: Title of the figure.

    Returns:
        A figure with one panel per measure, side by side.

    Raises:
        ValueError: If there is nothing to draw, or the variants of a measure have different numbers
            of values.
        ImportError: If matplotlib is missing.

    Example:
        >>> import keras_lgg as lgg
        >>> accuracy = {"plain": [90.1, 91.0], "smooth geometry": [92.4, 92.0]}
        >>> figure = lgg.plots.effects({"accuracy (%)": accuracy})
        >>> len(figure.axes)
        1
    """
    panels = {name: _runs(name, variants) for name, variants in values.items()}
    if not panels:
        raise checks.invalid("values", "at least one measure", repr(values))
    rows, columns = style.grid(len(panels), 3)
    names = list(next(iter(panels.values())))
    figure, axes = style.empty_figure(
        rows, columns, (style.PANEL * columns, (1.2 + 0.28 * len(names)) * rows)
    )
    for axis, (name, runs) in zip(axes.flat, panels.items(), strict=False):
        _draw(axis, runs)
        axis.set_title(style.wrapped(name, style.PANEL - 0.4, 8))
    style.finish_grid(figure, axes, len(panels), title)
    return figure


def _draw(axis, runs):
    places = np.arange(len(runs))
    seeds = np.stack(list(runs.values()))
    for of_seed in seeds.T:
        axis.plot(of_seed, places, ".-", color=style.GRAY, linewidth=0.6, markersize=3, alpha=0.6)
    looks = style.looks(len(runs))
    for place, values, (color, marker, _) in zip(places, seeds, looks, strict=True):
        spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
        axis.errorbar(np.mean(values), place, xerr=spread, color=color, marker=marker, capsize=3)
    axis.set_yticks(places, [style.wrapped(name, 1.0, style.SMALL) for name in runs])
    axis.set_ylim(len(runs) - 0.5, -0.5)  # the baseline is at the top
    axis.margins(x=0.1)


def _runs(measure, variants):
    runs = {
        name: host_array("values", each, "numbers (seeds,)").astype("float64").reshape(-1)
        for name, each in variants.items()
    }
    sizes = {len(each) for each in runs.values()}
    if len(sizes) != 1 or 0 in sizes:
        expected = "the same number of values for each variant, one per seed"
        raise checks.invalid("values", expected, f"{sorted(sizes)} for {measure!r}")
    return runs
