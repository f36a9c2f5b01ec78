"""Figures of numbers: smoothness along the depth, robustness, trials of a tuner."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.arrays import host_array
from keras_lgg.plots import style
from keras_lgg.types import DataFrame, Figure

BAND = 0.18  # opacity
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
CLEAN = "clean"
# The units of the severities in `keras_lgg.robustness`, by the names of its perturbations.
SEVERITIES = {
    "Gaussian noise": "signal-to-noise ratio (dB)",
    "FGSM": "epsilon",
    "FGSM at SNR": "signal-to-noise ratio (dB)",
    "PGD L-inf": "epsilon",
    "PGD L2": "epsilon",
    "dropped units": "share of dropped units",
    "quantized weights": "bits",
}


@style.styled
def smoothness(
    values: Mapping[str, np.ndarray],
    layers: Sequence[str],
    *,
    ylabel: str = "label smoothness (0: smooth)",
    title: str = "Smoothness along the depth",
) -> Figure:
    """A number of each layer along the depth, such as the label smoothness, as one curve per model.

    Several seeds are drawn as their mean, in a band of one standard deviation (of a sample) to
    either side.

    Args:
        values: Dict from the name of each model to an array ``(layers,)`` or ``(seeds, layers)``.
            The example of `representations` shows how to get them.
        layers: Names of the layers.
        ylabel: Label of the y axis: what the numbers are, and in which unit.
        title: Title of the figure.

    Returns:
        A figure, 3.4 inches wide.

    Raises:
        ValueError: If the shapes do not fit, or a value is NaN or infinite.
        ImportError: If matplotlib is missing.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> values = {"plain": np.array([[0.8, 0.2], [0.6, 0.4]]), "smooth": [0.6, 0.3]}
        >>> figure = lgg.plots.smoothness(values, ["block1", "block2"])
        >>> [np.round(line.get_ydata(), 6).tolist() for line in figure.axes[0].lines]
        [[0.7, 0.3], [0.6, 0.3]]

    Reference: Lassance, Gripon and Ortega, "Representing deep neural networks latent space
    geometries with graphs", Algorithms 14(2):39, 2021, https://arxiv.org/abs/2011.07343
    """
    layers = [str(layer) for layer in layers]
    if not layers:
        raise checks.invalid("layers", "at least one name", layers)
    runs = _runs("values", values, len(layers), "layers")
    figure, ((axis,),) = style.empty_figure(1, 1, (style.COLUMN, 2.3))
    places = np.arange(len(layers))
    _draw_curves(axis, places, runs)
    style.heighten(figure, style.name_places(axis, places, layers, style.AXIS))
    if min(each.min() for each in runs.values()) >= 0:
        # With the usual room above, in which markers at the top are whole.
        axis.set_ylim(0, 1.05 * axis.dataLim.ymax or None)
    axis.set(xlabel="layer", ylabel=style.wrapped(ylabel, 1.75, 8))
    axis.set_title(style.wrapped(title, style.AXIS, 8))
    _finish(figure, axis, runs.values())
    return figure


@style.styled
def robustness(
    results: DataFrame | Mapping[str, np.ndarray],
    *,
    severities: Sequence[float] | None = None,
    xlabel: str | None = None,
    columns: int = 3,
    title: str | None = None,
) -> Figure:
    """Accuracy against the severity of perturbations, as one curve per model.

    The first severity is on the left, whether they rise or fall. Accuracies of several seeds are
    drawn as their mean, in a band of one standard deviation (of a sample) to either side.

    Args:
        results: A table from `keras_lgg.robustness.evaluate`, or several of them in one
            (``pandas.concat``), in which rows with the same model, perturbation and severity are
            seeds: it gives one plot per perturbation, with the accuracy on clean data set apart.
            Or a dict from the name of each model to accuracies in [0, 1], of shape
            ``(severities,)`` or ``(seeds, severities)``.
        severities: With a dict: different numbers.
        xlabel: What the severities are, and in which unit; known for the tables of this package.
        columns: Number of perturbations in a row.
        title: Title of the figure.

    Returns:
        A figure, 3.4 inches wide for one perturbation, and 2.25 inches per column for several.

    Raises:
        ValueError: If an argument is not as above, or a seed lacks a severity.
        ImportError: If matplotlib is missing.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> accuracies = {"plain": [0.98, 0.7], "smooth": np.array([[0.98, 0.8], [0.96, 0.7]])}
        >>> figure = lgg.plots.robustness(accuracies, severities=[0, 0.4], xlabel="noise")
        >>> [np.round(line.get_ydata(), 6).tolist() for line in figure.axes[0].lines]
        [[98.0, 70.0], [97.0, 75.0]]
    """
    checks.check_positive_integer("columns", columns)
    if hasattr(results, "columns"):
        if severities is not None:
            raise checks.invalid("severities", "None with a table, which has them", severities)
        clean, plots = _plots_of_table(results, xlabel)
    else:
        plot = _plot_of_arrays(results, severities, xlabel)
        clean, plots, title = {}, [plot._replace(title=title or plot.title)], None

    lines, columns = style.grid(len(plots), columns)
    width = max(style.COLUMN, style.PANEL * columns)
    height = 2.3 if len(plots) == 1 else 1.9 * lines
    figure, axes = style.empty_figure(lines, columns, (width, height), sharey=True)
    room = style.AXIS / style.COLUMN * width / columns
    extra = np.zeros(axes.size)
    for i, plot in enumerate(plots):
        extra[i] = _draw_plot(axes.flat[i], plot, clean, room)
    style.heighten(figure, extra.reshape(axes.shape).max(axis=1).sum())
    for row in axes:
        row[0].set_ylabel("accuracy (%)")
    style.finish_grid(figure, axes, len(plots), title)
    _finish(figure, axes[0][0], plots[0].runs.values())
    return figure


@style.styled
def trade_off(
    trials: Sequence[Mapping[str, Any]],
    *,
    penalty: str,
    metric: str,
    mode: str = "max",
    title: str = "Trade-off",
) -> Figure:
    """A metric against the weight of a penalty, one point per trial, as a tuner found them.

    The axis of the weights is logarithmic. A weight of 0, which has no place on it, is drawn left
    of a break, and a dashed line shows the mean of the trials there.

    Args:
        trials: List of dicts ``{"weights": {penalty: weight}, "metrics": {metric: value}}``, with
            finite numbers; other keys are ignored.
        penalty: Name of the penalty.
        metric: Name of the metric.
        mode: Whether the best value is the largest, ``"max"``, or the smallest, ``"min"``.
        title: Title of the figure.

    Returns:
        A figure, 3.4 inches wide.

    Raises:
        ValueError: If there is no trial, a trial lacks the penalty or the metric, a weight is
            negative, or a number is NaN or infinite.
        ImportError: If matplotlib is missing.

    Example:
        >>> import keras_lgg as lgg
        >>> trials = [
        ...     {"weights": {"graph": weight}, "metrics": {"val_accuracy": value}}
        ...     for weight, value in [(0, 0.91), (0.01, 0.94), (1.0, 0.8)]
        ... ]
        >>> figure = lgg.plots.trade_off(trials, penalty="graph", metric="val_accuracy")
        >>> figure.legends[0].get_texts()[-1].get_text()
        'best: weight 0.01, val_accuracy 0.94'
    """
    checks.check_choice("mode", mode, ("max", "min"))
    trials = list(trials)
    if not trials:
        raise checks.invalid("trials", "at least one trial", trials)
    weights = _numbers_of_trials(trials, "weights", penalty)
    values = _numbers_of_trials(trials, "metrics", metric)
    if weights.min() < 0:
        raise checks.invalid("trials", "weights of at least 0", weights.min())

    figure, ((axis,),) = style.empty_figure(1, 1, (style.COLUMN, 2.3))
    zero = _weight_axis(axis, weights)
    places = np.where(weights == 0, zero, weights)
    look = {"color": style.COLORS[0], "alpha": 0.7, "linewidths": 0}
    handles = [axis.scatter(places, values, s=18, zorder=2, **look)]
    labels = ["trial"]
    if (weights == 0).any():
        unregularised = np.mean(values[weights == 0])
        handles.append(axis.axhline(unregularised, color=style.GRAY, linestyle="--", linewidth=1))
        labels.append("mean at weight 0")
    best = np.argmax(values) if mode == "max" else np.argmin(values)
    star = {"color": style.COLORS[3], "edgecolors": "black", "linewidths": 0.5}
    handles.append(axis.scatter(places[best], values[best], s=75, marker="*", zorder=3, **star))
    labels.append(f"best: weight {weights[best]:.3g}, {metric} {values[best]:.4g}")
    axis.set_xlabel(style.wrapped(f"weight of {penalty}", style.AXIS, 8))
    axis.set_ylabel(style.wrapped(metric, 1.75, 8))
    axis.set_title(style.wrapped(title, style.AXIS, 8))
    style.legend_below(figure, handles, labels)
    return figure


class _Plot(NamedTuple):
    """Accuracies under one perturbation."""

    title: str | None
    xlabel: str
    severities: np.ndarray
    names: list[str] | None  # of perturbations without a severity
    runs: dict[str, np.ndarray]  # model -> (seeds, severities)


def _plot_of_arrays(results, severities, xlabel):
    if severities is None:
        raise checks.invalid("severities", "their numbers, with a dict of arrays", None)
    severities = host_array("severities", severities, "finite numbers (n,) that differ")
    if (
        severities.ndim != 1
        or severities.dtype.kind not in "iuf"
        or not np.isfinite(severities).all()
        or len(np.unique(severities)) < len(severities)
    ):
        raise checks.invalid("severities", "finite numbers (n,) that differ", severities.tolist())
    runs = _accuracies(results, len(severities))
    return _Plot("Robustness", xlabel or "severity", severities.astype("float64"), None, runs)


def _plots_of_table(table, xlabel):
    """Clean accuracies by model, ``(seeds, 1)``, and the plots."""
    cells, runs = _cells(table)

    def part(indices):
        return {model: each[:, indices] for model, each in runs.items()}

    groups = {}
    for i, (perturbation, severity) in enumerate(cells):
        # Each perturbation without a severity is one place in a plot of all of these.
        has_place = severity is not None or perturbation == CLEAN
        groups.setdefault(perturbation if has_place else None, []).append(i)
    clean = groups.pop(CLEAN, [])
    if not groups:
        raise checks.invalid("results", "at least one perturbation", "clean rows only")
    plots = []
    for perturbation, indices in groups.items():
        if perturbation is None:
            names = [cells[i][0] for i in indices]
            places = np.arange(len(names), dtype="float64")
            plots.append(_Plot(None, xlabel or "perturbation", places, names, part(indices)))
        else:
            severities = np.array([cells[i][1] for i in indices])
            label = xlabel or SEVERITIES.get(perturbation, "severity")
            plots.append(_Plot(perturbation, label, severities, None, part(indices)))
    return (part(clean) if clean else {}), plots


def _cells(table):
    """The (perturbation, severity or None) of a table, and model -> accuracies (seeds, cells)."""
    missing = {"perturbation", "severity", "accuracy"} - set(table.columns)
    if missing:
        expected = "a table of keras_lgg.robustness.evaluate"
        raise checks.invalid("results", expected, f"a table without {sorted(missing)}")
    perturbations = [str(name) for name in table["perturbation"]]
    severities = [None if math.isnan(s) else float(s) for s in table["severity"]]
    cells = list(zip(perturbations, severities, strict=True))
    if "model" in table.columns:
        models = [str(name) for name in table["model"]]
        rows = list(zip(models, cells, table["accuracy"], strict=True))
    else:  # one model, perhaps beside a baseline
        named = [name for name in ("baseline", "accuracy") if name in table.columns]
        names = {"accuracy": "model", "baseline": "baseline"}
        rows = [(names[n], *row) for n in named for row in zip(cells, table[n], strict=True)]
    cells = list(dict.fromkeys(cells))
    found = {model: {cell: [] for cell in cells} for model, _, _ in rows}
    for model, cell, accuracy in rows:
        found[model][cell].append(accuracy)
    for model, by_cell in found.items():
        counts = {cell: len(values) for cell, values in by_cell.items()}
        fewest, most = (pick(counts, key=counts.get) for pick in (min, max))
        if counts[fewest] < counts[most]:
            received = f"{counts[fewest]} of '{model}' at {fewest} and {counts[most]} at {most}"
            raise checks.invalid("results", "as many rows of each severity of a model", received)
    runs = {model: np.array(list(by_cell.values())).T for model, by_cell in found.items()}
    return cells, _accuracies(runs, len(cells))


def _accuracies(results, count):
    runs = _runs("results", results, count, "severities")
    for name, each in runs.items():
        if each.min() < 0 or each.max() > 1:
            received = f"numbers from {each.min():g} to {each.max():g}"
            raise checks.invalid(f"results[{name!r}]", "accuracies in [0, 1]", received)
    return runs


def _runs(argument, values, count, what):
    """Each model's numbers as ``(seeds, count)`` in float64, checked."""
    if not isinstance(values, Mapping) or not values:
        expected = f"a dict from the name of each model to an array ({what},) or (seeds, {what})"
        raise checks.invalid(argument, expected, type(values).__name__)
    runs = {}
    for name, each in values.items():
        array = host_array(f"{argument}[{name!r}]", each, f"finite numbers of the {count} {what}")
        if array.ndim not in (1, 2) or array.shape[-1] != count or not array.size:
            expected = f"an array ({count},) or (seeds, {count}), as there are {count} {what}"
            raise checks.invalid(f"{argument}[{name!r}]", expected, f"shape {array.shape}")
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            received = f"an array of {array.dtype}, some of it NaN, infinite or no number"
            raise checks.invalid(f"{argument}[{name!r}]", "finite numbers", received)
        runs[str(name)] = np.atleast_2d(array).astype("float64")
    return runs


def _numbers_of_trials(trials, key, name):
    """A number of each trial, by its key and its name."""
    numbers = []
    for i, trial in enumerate(trials):
        known = trial.get(key) if isinstance(trial, Mapping) else None
        if not isinstance(known, Mapping) or name not in known:
            expected = f"a dict with '{name}' in its dict '{key}'"
            raise checks.invalid(f"trials[{i}]", expected, repr(trial))
        numbers.append(known[name])
    numbers = host_array("trials", numbers, f"finite numbers of '{name}'")
    if numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        expected = f"finite numbers of '{name}'. Leave out the trials that failed"
        raise checks.invalid("trials", expected, numbers.tolist())
    return numbers.astype("float64")


def _draw_curves(axis, places, runs, *, joined=True):
    """Mean over the seeds of each model, and a band of one standard deviation."""
    for (name, each), (color, marker, line) in zip(
        runs.items(), style.looks(len(runs)), strict=True
    ):
        look = {"color": color, "marker": marker, "linestyle": line if joined else ""}
        mean = each.mean(axis=0)
        axis.plot(places, mean, label=name, **look)
        if len(each) > 1:
            spread = each.std(axis=0, ddof=1)
            if joined and len(places) > 1:
                axis.fill_between(
                    places, mean - spread, mean + spread, color=color, alpha=BAND, linewidth=0
                )
            else:  # a band needs two places
                axis.errorbar(places, mean, spread, color=color, linestyle="", capsize=2)


def _draw_plot(axis, plot, clean, width):
    """Draw a perturbation on an axis ``width`` inches wide; return the inches of upright names."""
    places, texts = plot.severities, plot.names
    if texts is None:
        order = np.argsort(places, kind="stable")
        order = order[::-1] if places[0] > places[-1] else order
        places = places[order]
        texts = [f"{place:.3g}" for place in places]
        _draw_curves(axis, places, {name: 100 * each[:, order] for name, each in plot.runs.items()})
    else:
        runs = {name: 100 * each for name, each in plot.runs.items()}
        _draw_curves(axis, places, runs, joined=False)
    if clean:
        step = (places[-1] - places[0]) / min(5, max(1, len(places) - 1)) or 1.0
        start = places[0] - step
        _draw_curves(axis, np.array([start]), {name: 100 * each for name, each in clean.items()})
        style.mark_break(axis, start + 0.45 * step, start + 0.55 * step)
        places, texts = np.array([start, *places]), [CLEAN, *texts]
    if places[0] > places[-1]:
        axis.invert_xaxis()
    axis.set_xlabel(style.wrapped(plot.xlabel, 1.2 * width, 8))
    if plot.title:
        axis.set_title(style.wrapped(plot.title, width, 8))
    return style.name_places(axis, places, texts, width)


def _weight_axis(axis, weights):
    """A logarithmic axis for the weights; returns the place of 0, left of a break."""
    positive = weights[weights > 0]
    if not len(positive):
        axis.set_xticks([0.0], ["0"])
        return 0.0
    low, high = math.floor(np.log10(positive.min())), math.ceil(np.log10(positive.max()))
    if low == high:
        low, high = low - 1, high + 1
    exponents = np.arange(low, high + 1)
    axis.set_xscale("log")
    margin = 0.05 * (high - low)
    left = low - margin
    ticks, texts = [], []
    if len(positive) < len(weights):
        zero = low - 0.18 * (high - low)
        style.mark_break(axis, *10.0 ** (low + np.array([-0.11, -0.09]) * (high - low)))
        left = zero - margin
        ticks, texts = [10.0**zero], ["0"]
    shown = exponents[:: math.ceil(len(exponents) / 7)]
    ticks += [10.0**e for e in shown]
    texts += [f"10{str(e).translate(SUPERSCRIPTS)}" for e in shown]
    axis.set_xticks(ticks, texts)
    small = [m * 10.0**e for e in exponents[:-1] for m in range(2, 10)] if high - low < 7 else []
    axis.set_xticks(small, [], minor=True)
    axis.set_xlim(10.0**left, 10.0 ** (high + margin))
    return ticks[0]


def _finish(figure, axis, runs):
    """The legend, which explains the bands."""
    handles, names = axis.get_legend_handles_labels()
    by_name = dict(zip(names, handles, strict=True))
    seeds = {len(each) for each in runs}
    note = None
    if max(seeds) > 1:
        note = f"mean ± standard deviation over {min(seeds - {1})} to {max(seeds)} seeds"
        if len(seeds - {1}) == 1:
            note = f"mean ± standard deviation over {max(seeds)} seeds"
    style.legend_below(figure, list(by_name.values()), list(by_name), title=note)
