"""What users may look into: models, and what callbacks kept of a training."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_lgg import checks
from keras_lgg.callbacks.probes import OUTPUT, Probe, condensed, probed, teacher_of
from keras_lgg.callbacks.snapshots import GraphSnapshot
from keras_lgg.relative.comparison import finite_rows
from keras_lgg.training.models import network_of
from keras_lgg.training.paths import layer_paths, paths_of, place_of

MOST_LAYERS = 8  # if none are named
MOST_NETWORKS = 4
# Layers that do not change the geometry in inference, or return no numbers that have one.
PASSED_OVER = (
    "ActivityRegularization",
    "Dropout",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "IntegerLookup",
    "Masking",
    "Permute",
    "Reshape",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "StringLookup",
    "TextVectorization",
)


class Network(NamedTuple):
    """What the layers of a network make of the samples.

    Attributes:
        name: Its name on the page.
        layers: The names of its layers, along the depth.
        epochs: When it was looked at; ``(None,)`` for a model as it is.
        rows: For each epoch and layer an array ``(n, d)``.
    """

    name: str
    layers: tuple[str, ...]
    epochs: tuple[int | None, ...]
    rows: list[list[np.ndarray]]


def networks_of(
    given: Any, probe: Probe, layers: Any, pool: str | None, most_frames: int
) -> list[Network]:
    """The networks that are meant, and what their layers make of a batch.

    Args:
        given: A model, a `GraphSnapshot`, or several of them in a dict by name or in a list; a
            `Distiller` is two, its teacher and its student.
        probe: The batch.
        layers: Paths of layers, for all networks or in a dict by name; or ``None``.
        pool: See `keras_lgg.Penalty`.
        most_frames: How many graphs the page can hold; if there are more epochs, some are left out.

    Raises:
        ValueError: If an argument is not as above, or a layer cannot be tapped or is not finite.
    """
    named = _named(given)
    wanted = layers if isinstance(layers, Mapping) else dict.fromkeys(named, layers)
    if set(wanted) != set(named):
        raise checks.invalid("layers", f"layers of each of {list(named)}", f"{list(wanted)}")
    kept = [isinstance(each, GraphSnapshot) for each in named.values()]
    if pool is not None and all(kept):
        raise checks.invalid("pool", "None: the callback has pooled, by its own `pool`", repr(pool))
    return [
        _from_snapshot(name, each, probe, wanted[name], most_frames // len(named))
        if is_kept
        else _from_model(name, each, probe, wanted[name], pool)
        for (name, each), is_kept in zip(named.items(), kept, strict=True)
    ]


def spread(items: Any, most: int) -> list[Any]:
    """At most ``most`` of the items, evenly spread, the first and the last among them.

    Example:
        >>> from keras_lgg.explorer.networks import spread
        >>> spread("abcdefg", 3), spread("ab", 3)
        (['a', 'd', 'g'], ['a', 'b'])
    """
    items = list(items)
    if len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, max(most, 2)).round().astype(int)]


def default_layers(model: keras.Model) -> list[str]:
    """At most 8 layers along the depth, among those that change the geometry.

    Layers of a nested model are taken if the model around it has few layers of its own.
    """
    shapes = {
        path: shape for path, shape in layer_paths(model).items() if _changes_geometry(model, path)
    }
    deepest = max((path.count("/") for path in shapes), default=0)
    found: list[str] = []
    for depth in range(deepest + 1):
        found = []
        for path, shape in shapes.items():
            if path.count("/") > depth:
                continue
            # A nested model usually returns what the last of its layers does.
            if found and found[-1].startswith(f"{path}/") and shapes[found[-1]] == shape:
                found.pop()
            found.append(path)
        if len(found) >= MOST_LAYERS / 2:
            break
    return spread(found, MOST_LAYERS)


def _changes_geometry(model, path):
    return type(place_of(model, path).layer).__name__ not in PASSED_OVER


def _named(given):
    """A dict from names to models and snapshots, with distillers split into teacher and student."""
    if isinstance(given, Mapping):
        named = {str(name): each for name, each in given.items()}
    else:
        several = list(given) if isinstance(given, list | tuple) else [given]
        names = [_own_name(each) for each in several]
        if len(set(names)) < len(names):  # such as two networks of one class
            names = [f"{name} {i}" for i, name in enumerate(names, start=1)]
        named = dict(zip(names, several, strict=True))
    if not 0 < len(named) <= MOST_NETWORKS:
        expected = f"from 1 to {MOST_NETWORKS} models, side by side"
        raise checks.invalid("model", expected, f"{len(named)} of them")
    parts = {}
    for name, each in named.items():
        if not isinstance(each, keras.Model | GraphSnapshot):
            expected = (
                "a Keras model or a GraphSnapshot, or several of them in a dict by name or in a "
                "list, such as {'plain': plain, 'smooth': smooth}"
            )
            raise checks.invalid("model", expected, f"a {type(each).__name__}")
        if not isinstance(each, GraphSnapshot) and teacher_of(each) is not None:
            prefix = f"{name}: " if len(named) > 1 else ""
            parts |= {f"{prefix}teacher": _Teacher(each), f"{prefix}student": network_of(each)}
        else:
            parts[name] = each
    return parts


class _Teacher(NamedTuple):
    """The teacher of a distiller, which may see the samples in another form."""

    distiller: Any

    def probe(self, probe):
        change = self.distiller._plan.teacher_inputs
        if change is None:
            return probe
        changed = change(keras.tree.map_structure(keras.ops.convert_to_tensor, probe.x))
        x = keras.tree.map_structure(keras.ops.convert_to_numpy, changed)
        return Probe(x, batch_size=probe.batch_size)


def _own_name(each):
    if isinstance(each, GraphSnapshot):
        return each.model.name if each.model is not None else "snapshot"
    return getattr(each, "name", type(each).__name__)


def _from_model(name, model, probe, layers, pool):
    if isinstance(model, _Teacher):
        model, probe = model.distiller.teacher, model.probe(probe)
    network = network_of(model)
    if layers is None:
        paths = default_layers(network)
    else:
        given = [layers] if isinstance(layers, str | keras.layers.Layer) else list(layers)
        paths = list(dict.fromkeys(path for tap in given for path in paths_of(network, tap)))
    if not paths and layers is not None:
        raise checks.invalid("layers", "at least one path of a layer", repr(layers))
    paths = paths or [None]  # no layer can be named: the output
    found = probe.representations(probed(network, paths), paths, pool)
    names = tuple(OUTPUT if path is None else path for path in paths)
    rows = [_finite(name, layer, each) for layer, each in zip(names, found, strict=True)]
    return Network(name, names, (None,), [[condensed(each) for each in rows]])


def _from_snapshot(name, snapshot, probe, layers, most_frames):
    if not snapshot.kept:
        raise ValueError(
            f"The snapshot '{name}' has kept nothing. Expected a GraphSnapshot(..., keep=True) "
            f"that took part in a training. Received: keep={snapshot.keep}, with no epoch."
        )
    if not _same(snapshot.probe.x, probe.x):
        raise ValueError(
            f"The snapshot '{name}' was taken of other samples. Expected the same `x` as that of "
            "the callback. Received: one with other values or another shape."
        )
    known = list(next(iter(snapshot.kept.values())))
    given = [layers] if isinstance(layers, str) else layers
    names = known if given is None else list(given)
    if not names or set(names) - set(known):
        raise checks.invalid("layers", f"some of those that were kept, {known}", repr(layers))
    epochs = spread(snapshot.kept, most_frames // len(names))
    rows = [[_finite(name, each, snapshot.kept[e][each]) for each in names] for e in epochs]
    return Network(name, tuple(names), tuple(epochs), rows)


def _finite(network, layer, rows):
    return finite_rows(f"{network}, layer {layer}", rows, "float32")


def _same(a, b):
    ours, theirs = keras.tree.flatten(a), keras.tree.flatten(b)
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))
