"""The figures of the page, in bokeh, empty: `page.js` fills them."""

from typing import Any

import numpy as np

from keras_lgg import checks
from keras_lgg.plots import style

# For matplotlib's markers: those of bokeh, whose X has no area; signs that look like them, for
# the text around; and how much larger they are drawn, to cover an equal area.
MARKERS = {
    "o": ("circle", "●", 1.0),
    "s": ("square", "■", 0.95),
    "D": ("diamond", "◆", 1.3),
    "^": ("triangle", "▲", 1.15),
    "v": ("inverted_triangle", "▼", 1.15),
    "P": ("plus", "✚", 1.3),
    "X": ("hex", "⬢", 1.0),
    "*": ("star", "★", 1.6),
}
TEXT = "9pt"
INK = "#333333"
PALE = "#DDDDDD"
RING = "#D50000"
TITLES = {
    "label_smoothness": "Label smoothness (0: smooth)",
    "effective_rank": "Effective rank",
    "knn_accuracy": "Accuracy of the neighbours' vote",
}


def looks(count: int) -> list[tuple[str, str, str, float]]:
    """Colour, bokeh's marker, its sign and its size, for each of ``count`` classes."""
    return [(color, *MARKERS[marker]) for color, marker, _ in style.looks(count)]


def node_source(count: int, networks: int) -> Any:
    """The nodes of all graphs: what is selected in one graph is selected in each."""
    columns = [f"{axis}{i}" for i in range(networks) for axis in "xy"]
    columns += ["color", "marker", "size"]
    models = checks.require("bokeh.models", "explorer")
    return models.ColumnDataSource({name: [None] * count for name in columns}, name="nodes")


def graph(index: int, nodes: Any, edges: Any, rings: Any, window: Any, name: str) -> Any:
    """The graph of a layer: samples by class, edges by weight, rings around some samples.

    Args:
        index: Index of the network whose columns of the nodes are drawn.
        nodes: See `node_source`.
        edges: Source of the ends of the edges and of their opacities.
        rings: Source of the places of the rings.
        window: The ends of what it shows along x, and along y.
        name: Name of the figure.
    """
    plot = _square(name, "tap,lasso_select,box_select", *window)
    plot.axis.visible = False
    plot.segment(
        "x0", "y0", "x1", "y1", source=edges, line_color=INK, line_alpha="alpha", line_width=1
    )
    drawn = plot.scatter(
        f"x{index}",
        f"y{index}",
        source=nodes,
        size="size",
        color="color",
        marker="marker",
        line_color="white",
        line_width=0.7,
        nonselection_alpha=0.25,
        selection_line_width=3,
        selection_line_color="black",
    )
    # On top, so that no other node hides them.
    plot.scatter(
        "x",
        "y",
        source=rings,
        size=node_size(len(nodes.data["color"])) + 8,
        marker="circle",
        fill_color=None,
        line_color=RING,
        line_alpha="alpha",
        line_width=2,
    )
    for tool in plot.tools:
        if hasattr(tool, "renderers"):
            tool.renderers = [drawn]
    return plot


def node_size(count: int) -> float:
    """Size of a node in pixels, if there are ``count`` of them."""
    return float(np.clip(2000 / count, 8, 13))


def matrix(count: int, image: Any, bands: Any, classes: Any, signed: bool, name: str) -> Any:
    """The similarities of all pairs of samples, sorted, with the first one at the top left.

    Args:
        count: Number of samples.
        image: Source of the image, of float32.
        bands: Source of the places of the selected samples.
        classes: Pairs of the name of a class and the number of its samples, in the order of the
            samples; or ``None``.
        signed: Whether a similarity is negative.
        name: Name of the figure.
    """
    models = checks.require("bokeh.models", "explorer")
    plot = _square(name, "box_select", (0, count), (0, count))
    scale = models.LinearColorMapper(_colors(signed), low=-1 if signed else 0, high=1)
    plot.image("image", x=0, y=0, dw=count, dh=count, origin="top_left", anchor="bottom_left",
               source=image, color_mapper=scale)  # fmt: skip
    for color, width in (("white", 3), ("black", 1)):
        plot.vspan("place", source=bands, line_color=color, line_width=width, line_alpha="alpha")
        plot.hspan("height", source=bands, line_color=color, line_width=width, line_alpha="alpha")
    plot.add_layout(
        models.ColorBar(color_mapper=scale, width=8, padding=4, major_label_text_font_size=TEXT),
        "right",
    )
    if classes is None:
        plot.xaxis.visible = plot.yaxis.visible = False
    else:
        _name_classes(plot, classes, count, "black" if signed else "white")
    return plot


def curve(measure: str, sources: Any, values: np.ndarray, ticks: Any, looks: Any) -> Any:
    """A measure of each network along the depth, and the place of the layer that is shown.

    Args:
        measure: One of `keras_lgg.explorer.geometry.MEASURES`.
        sources: For each network, a source with a column ``depth`` and one for each measure.
        values: All values that will be shown.
        ticks: Names of the layers, or of their places.
        looks: For each network, its colour, its marker and the pattern of its line.

    Returns:
        The figure, and the line at the layer.
    """
    plotting = checks.require("bokeh.plotting", "explorer")
    models = checks.require("bokeh.models", "explorer")
    # Smoothness is below 0 if many similarities are.
    low, high = min(0.0, float(np.min(values))), max(0.0, float(np.max(values)))
    if measure == "knn_accuracy":
        low, high = max(0.0, np.floor(10 * np.min(values) - 0.5) / 10), 1.0
    room = 0.06 * max(high - low, 1e-6)
    plot = plotting.figure(
        width=400,
        height=210,
        sizing_mode="stretch_width",
        title=TITLES[measure],
        x_range=(-0.3, len(ticks) - 0.7),
        y_range=(low - room if low < 0 else low, high + room),
        tools="",
        toolbar_location=None,
        name=measure,
    )
    place = models.Span(location=0, dimension="height", line_color=INK, line_dash="dashed")
    plot.add_layout(place)
    for source, (color, marker, dash) in zip(sources, looks, strict=True):
        plot.line("depth", measure, source=source, color=color, line_width=2, line_dash=dash)
        plot.scatter("depth", measure, source=source, color=color, size=8, marker=marker)
    plot.xaxis.ticker = list(range(len(ticks)))
    plot.xaxis.major_label_overrides = dict(enumerate(ticks))
    plot.xaxis.major_label_policy = models.NoOverlap()
    if max(map(len, ticks)) > 3:
        plot.xaxis.major_label_orientation = 0.6
    _style(plot)
    return plot, place


def shortened(name: str, most: int = 16) -> str:
    """The path of a layer in at most ``most`` letters: its end says more than its beginning."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _square(name, selecting, x_range, y_range):
    plotting = checks.require("bokeh.plotting", "explorer")
    plot = plotting.figure(
        width=480,
        height=480,
        sizing_mode="scale_width",
        x_range=x_range,
        y_range=y_range,
        tools=f"{selecting},pan,wheel_zoom,reset",
        # A finger or a wheel over a figure scrolls the page.
        active_drag=None,
        active_scroll=None,
        toolbar_location="above",
        name=name,
    )
    _style(plot)
    return plot


def _style(plot):
    plot.toolbar.logo = None
    plot.grid.visible = False
    plot.outline_line_color = PALE
    plot.title.text_font_size = "10pt"
    plot.axis.major_label_text_font_size = TEXT
    plot.axis.minor_tick_line_color = None
    plot.axis.major_label_text_color = INK


def _name_classes(plot, classes, count, color):
    """Names at the middle of each class, and lines between the classes."""
    models = checks.require("bokeh.models", "explorer")
    ends = np.cumsum([size for _, size in classes])
    middles = [float(end - size / 2) for end, (_, size) in zip(ends, classes, strict=True)]
    names = [name if len(name) <= 12 else f"{name[:11]}…" for name, _ in classes]
    for axis, places in ((plot.xaxis, middles), (plot.yaxis, [count - m for m in middles])):
        axis.ticker = sorted(places)
        axis.major_label_overrides = dict(zip(places, names, strict=True))
        axis.major_label_policy = models.NoOverlap()
        axis.major_tick_line_color = None
    if max(map(len, names)) > 2:
        plot.xaxis.major_label_orientation = 0.8
    for end in ends[:-1].tolist():
        for dimension, place in (("height", end), ("width", count - end)):
            plot.add_layout(
                models.Span(location=place, dimension=dimension, line_color=color, line_alpha=0.7)
            )


def _colors(signed):
    palettes = checks.require("bokeh.palettes", "explorer")
    return palettes.interp_palette(palettes.PuOr11, 256) if signed else palettes.viridis(256)
