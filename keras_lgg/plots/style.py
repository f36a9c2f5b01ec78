"""The style of the package's figures, and what all of them need; they load matplotlib.

Figures belong to no window: the caller saves or shows them. They are as wide as a column of a
paper, and grow in height with their legends and long names.
"""

import functools
import io
import itertools
import math
import re

import numpy as np

from keras_lgg import checks

# The colours of Okabe and Ito, which colour-blind readers can distinguish.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
# One more than there are colours: cycled together, no pair repeats before the 57th.
MARKERS = "osD^vPX*"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
GRAY = "#777777"
COLUMN = 3.4  # inches, the width of a column of a paper
PANEL = 2.25  # inches, the width of each of several plots side by side
SMALL = 7  # points, the size of ticks and legends
AXIS = 2.35  # inches, roughly, the x axis of a figure of one column
LINE = 0.13  # inches, a line of text of the small size
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def styled(draw):
    """Make a function draw in the package's style, whatever the user's own is."""

    @functools.wraps(draw)
    def in_style(*args, **kwargs):
        checks.require("matplotlib", "plots")
        with checks.require("matplotlib.style", "plots").context(["default", STYLE]):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # makes the ticks, before the user's style is back
        return figure

    return in_style


def empty_figure(rows, columns, size, **kwargs):
    """A figure, its size in inches, that belongs to no window, and its axes ``(rows, columns)``."""
    figures = checks.require("matplotlib.figure", "plots")
    figure = figures.Figure(size, layout="constrained")
    # Without this, notebooks would show it as text until something calls pyplot.
    figure._repr_png_ = functools.partial(_png, figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def _png(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def grid(count, columns):
    """Rows and columns, of these at most ``columns``, that leave the fewest places empty."""
    rows = math.ceil(count / columns)
    return rows, math.ceil(count / rows)


def looks(count):
    """Colour, marker and line of each of ``count`` things."""
    cycles = (itertools.cycle(each) for each in (COLORS, MARKERS, LINES))
    return list(itertools.islice(zip(*cycles, strict=False), count))


def legend_below(figure, handles, labels, *, title=None):
    """A legend under the axes, in as many columns as fit; the figure grows by its height."""
    room = figure.get_figwidth()
    labels = [wrapped(label, room - 0.7, SMALL) for label in labels]
    title = title and wrapped(title, room - 0.2, SMALL)
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=columns,
            title=title,
            title_fontsize=SMALL,
        )
        box = legend.get_window_extent()
        if columns == 1 or box.width < 0.98 * figure.bbox.width:
            break
        legend.remove()
    heighten(figure, box.height / figure.dpi)


def finish_grid(figure, axes, count, title):
    """Remove the axes beyond ``count``, and add a title of the whole figure, if there is one."""
    for axis in axes.flat[count:]:
        axis.remove()
    if title is not None:
        text = wrapped(title, 0.8 * figure.get_figwidth(), 8)  # bold letters are wider
        figure.suptitle(text, fontsize=8, fontweight="bold")
        heighten(figure, (1 + text.count("\n")) * LINE)


def heighten(figure, inches):
    """Add height for what stands around the axes."""
    figure.set_figheight(figure.get_figheight() + inches)


def name_places(axis, places, names, width):
    """Ticks with names on an x axis of ``width`` inches: in one line, in several, or upright.

    Returns:
        By how many inches the names are higher than one line.
    """
    names = [str(name) for name in names]
    low, high = sorted(axis.get_xlim())
    inches = np.asarray(places, "float64") * width / (high - low)
    gaps = np.abs(np.diff(inches))
    widths = np.array([text_width(name, SMALL) for name in names])
    # What sticks out on the left would overlap the label of the y axis.
    sides = 2 * (0.25 + inches.min() - low * width / (high - low))
    if widths[0] < sides and (widths[:-1] + widths[1:] < 1.6 * gaps).all():
        axis.set_xticks(places, names)
        return 0.0
    room = np.min(0.8 * gaps, initial=sides)
    pieces = [piece.strip() for name in names for piece in _pieces(name)]
    lines = [wrapped(name, room, SMALL) for name in names]
    height = max(text.count("\n") for text in lines) * LINE
    if height < 3 * LINE and max(text_width(piece, SMALL) for piece in pieces) < room:
        axis.set_xticks(places, lines)
        return height
    kept = apart(inches, 0.85 * LINE)
    axis.set_xticks(np.asarray(places)[kept], [names[i] for i in kept], rotation=90)
    return widths[kept].max() - LINE


def mark_break(axis, low, high):
    """The mark of an interrupted axis, from one number to another."""
    style = {"transform": axis.get_xaxis_transform(), "clip_on": False, "zorder": 3}
    axis.plot([low, high], [0, 0], color="white", linewidth=2, label="_", **style)
    marker = {"marker": [(-1, -2), (1, 2)], "markersize": 7, "markeredgewidth": 0.8}
    axis.plot([low, high], [0, 0], "k", linestyle="", label="_", **marker, **style)


def text_width(text, points):
    """Inches that the widest line of a text takes."""
    measure = checks.require("matplotlib.textpath", "plots").text_to_path
    font = checks.require("matplotlib.font_manager", "plots").FontProperties(size=points)
    lines = str(text).split("\n")
    return max(measure.get_text_width_height_descent(line, font, False)[0] for line in lines) / 72


def wrapped(text, width, points):
    """The text in lines of at most ``width`` inches, broken after spaces or ``/ _ , -``."""
    lines = [""]
    for piece in _pieces(str(text)):
        if lines[-1] and text_width(lines[-1] + piece.rstrip(), points) > width:
            lines.append("")
        for letter in piece:
            if lines[-1].strip() and text_width(lines[-1] + letter, points) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(line.strip() for line in lines)


def _pieces(text):
    return re.findall(r"[^\s/_,-]*[\s/_,-]+|[^\s/_,-]+", text) or [text]


def apart(places, distance):
    """Indices of places, each at least ``distance`` from the one kept before."""
    kept = []
    for i in np.argsort(places, kind="stable"):
        if not kept or places[i] - places[kept[-1]] >= distance:
            kept.append(int(i))
    return kept
