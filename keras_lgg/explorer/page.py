"""The page: one file with the figures, what fills them, and bokeh's scripts."""

import base64
import json
import pathlib
from typing import Any

import numpy as np

from keras_lgg import checks
from keras_lgg.explorer import figures
from keras_lgg.plots import layouts

FOLDER = pathlib.Path(__file__).parent
LEVELS = 255  # steps of a similarity in the page


def page_of(exploration: Any) -> str:
    """The page of an `Exploration`, as HTML."""
    embed = checks.require("bokeh.embed", "explorer")
    resources = checks.require("bokeh.resources", "explorer")
    templates = checks.require("jinja2", "explorer")  # which comes with bokeh
    data = _data(exploration)
    html: str = embed.file_html(
        _document(exploration, data),
        resources.INLINE,
        title=_title(exploration),
        template=templates.Template(_read("page.html")),
        template_variables={
            "style": _read("page.css"),
            "script": _read("page.js") + _read("samples.js"),
            # A text inside a script must not end it.
            "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
            "sheet": exploration.samples.sheet,
            "networks": list(exploration.layers),
            "measures": list(exploration.measures()),
            "depth": max(map(len, exploration.layers.values())),
            "epochs": max(map(len, exploration.epochs.values())),
            "has_classes": exploration.classes is not None,
            "count": len(data["order"]),
            "k": exploration.k,
        },
    )
    return html


def _read(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def _title(exploration):
    return "Latent geometry of " + " and ".join(exploration.layers)


def _data(exploration):
    """What `page.js` reads: lists, and arrays as text."""
    order = order_of(exploration)
    signed = _is_signed(exploration)
    samples = exploration.samples
    return {
        "k": exploration.k,
        "signed": signed,
        "order": order.tolist(),
        "classes": None if exploration.classes is None else exploration.classes.tolist(),
        "names": exploration.class_names,
        "looks": figures.looks(max(1, len(exploration.class_names))),
        "lines": figures.looks(len(exploration.layers)),
        "size": figures.node_size(len(order)),
        "captions": samples.captions,
        "picture": None if samples.sheet is None else [*samples.size, samples.columns],
        "strength": _strength(exploration),
        "networks": [
            {
                "name": name,
                "layers": exploration.layers[name],
                "epochs": exploration.epochs[name],
                "measures": _measures(exploration, name),
                "frames": [[_frame(f, order, signed) for f in row] for row in frames],
            }
            for name, frames in exploration.frames.items()
        ],
    }


def order_of(exploration: Any) -> np.ndarray:
    """The order of the similarities: by class or, without classes, by the last layer."""
    if exploration.classes is not None:
        return np.argsort(exploration.classes, kind="stable")
    cosines = list(exploration.frames.values())[-1][-1][-1].geometry.cosines
    weights = np.maximum(cosines, 0).astype("float64") * (1 - np.eye(len(cosines)))
    return np.argsort(layouts.spectral(weights)[:, 0], kind="stable")


def _frame(frame, order, signed):
    geometry = frame.geometry
    near = np.take_along_axis(geometry.cosines, geometry.neighbours, axis=1)
    upper = geometry.cosines[np.ix_(order, order)][np.triu_indices(len(order), 1)]
    low = -1 if signed else 0
    levels = np.rint((np.maximum(upper, low) - low) * (LEVELS / (1 - low)))
    found = {
        "places": _text(frame.places, "float32"),
        "neighbours": _text(geometry.neighbours, "uint16"),
        "near": _text(near, "float32"),
        "levels": _text(levels, "uint8"),
    }
    if geometry.votes is not None:
        found["votes"] = _text(geometry.votes, "uint16")
        found["against"] = _text(geometry.against, "uint16")
        found["suspects"] = _text(geometry.suspects, "uint16")
    return found


def _text(array, dtype):
    return base64.b64encode(np.ascontiguousarray(array, f"<{np.dtype(dtype).str[1:]}")).decode()


def _measures(exploration, name):
    found = exploration.measures(name)
    return {measure: np.round(values, 6).tolist() for measure, values in found.items()}


def _geometries(exploration):
    for frames in exploration.frames.values():
        for row in frames:
            yield from (frame.geometry for frame in row)


def _is_signed(exploration):
    return bool(min(each.cosines.min() for each in _geometries(exploration)) < -1 / LEVELS)


def _strength(exploration):
    """The similarities of the faintest and of the strongest edge."""
    near = [
        np.take_along_axis(each.cosines, each.neighbours, axis=1)
        for each in _geometries(exploration)
    ]
    return [max(0.0, float(np.min(near))), float(np.max(near))]


def _document(exploration, data):
    """The figures, and what calls `page.js` on events in them."""
    models = checks.require("bokeh.models", "explorer")
    document = checks.require("bokeh.document", "explorer").Document()
    n = len(data["order"])
    source = models.ColumnDataSource
    nodes = figures.node_source(n, len(exploration.layers))
    bands = source({"place": [], "height": [], "alpha": []})
    parts = {"nodes": nodes, "bands": bands, "graphs": []}
    parts |= {"edges": [], "rings": [], "images": [], "curves": [], "places": []}
    window = _window(exploration)
    for i in range(len(exploration.layers)):
        edges = source({name: [] for name in ("x0", "y0", "x1", "y1", "alpha")})
        rings = source({"x": [], "y": [], "alpha": []})
        image = source({"image": [np.zeros((1, 1), "float32")]})
        graph = figures.graph(i, nodes, edges, rings, window, f"graph{i}")
        matrix = figures.matrix(n, image, bands, _sizes(exploration), data["signed"], f"matrix{i}")
        for name, part in zip(
            ("edges", "rings", "images", "graphs"), (edges, rings, image, graph), strict=True
        ):
            parts[name].append(part)
        _listen(graph, "graph", i)
        _listen(matrix, "matrix", i)
        matrix.js_on_event("tap", _call("explorer.tapped(cb_obj)"))
        matrix.js_on_event("selectiongeometry", _call("explorer.framed(cb_obj)"))
        document.add_root(graph)
        document.add_root(matrix)
    for figure in _curves(exploration, data, parts):
        document.add_root(figure)
    nodes.selected.js_on_change("indices", _call("explorer.chosen()"))
    document.js_on_event("document_ready", _call("explorer.start(parts)", parts=parts))
    return document


def _window(exploration):
    """The square that contains all nodes of all graphs: its ends along x and along y."""
    places = np.concatenate(
        [frame.places for frames in exploration.frames.values() for row in frames for frame in row]
    )
    low, high = places.min(axis=0), places.max(axis=0)
    half = 0.53 * max(float((high - low).max()), 1e-3)
    return [(float(middle) - half, float(middle) + half) for middle in (low + high) / 2]


def _curves(exploration, data, parts):
    models = checks.require("bokeh.models", "explorer")
    measures = list(exploration.measures())
    names = list(exploration.layers)
    parts["curves"] = [
        models.ColumnDataSource({name: [] for name in ("depth", *measures)}) for _ in names
    ]
    layers = [list(exploration.layers[name]) for name in names]
    ticks = [figures.shortened(name) for name in layers[0]]
    if any(each != layers[0] for each in layers):
        ticks = [str(i + 1) for i in range(max(map(len, layers)))]
    dashes = ("solid", "dashed", "dotdash", "dotted")
    marks = figures.looks(len(names))
    looks = [(color, mark, dash) for (color, mark, *_), dash in zip(marks, dashes, strict=False)]
    for measure in measures:
        values = np.concatenate([exploration.measures(name)[measure].ravel() for name in names])
        figure, place = figures.curve(measure, parts["curves"], values, ticks, looks)
        figure.js_on_event("tap", _call("explorer.went(cb_obj)"))
        parts["places"].append(place)
        yield figure


def _sizes(exploration):
    if exploration.classes is None:
        return None
    counts = np.bincount(exploration.classes, minlength=len(exploration.class_names))
    return list(zip(exploration.class_names, counts.tolist(), strict=True))


def _listen(figure, kind, index):
    figure.js_on_event("mousemove", _call(f"explorer.pointed('{kind}', {index}, cb_obj)"))
    figure.js_on_event("mouseleave", _call("explorer.left()"))


def _call(code, **args):
    return checks.require("bokeh.models", "explorer").CustomJS(code=code, args=args)
