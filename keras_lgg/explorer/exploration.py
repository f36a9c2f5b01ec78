"""The geometry of networks on a batch, computed, and the page on which one looks at it."""

import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

from keras_lgg import checks, files
from keras_lgg.callbacks.probes import Probe
from keras_lgg.callbacks.snapshots import GraphSnapshot
from keras_lgg.explorer import page
from keras_lgg.explorer.geometry import MEASURES, Geometry, geometry_of
from keras_lgg.explorer.networks import Network, networks_of
from keras_lgg.explorer.placement import placed, start_of
from keras_lgg.explorer.samples import Samples, samples_of
from keras_lgg.graphs.labels import named_classes
from keras_lgg.graphs.pooling import check_pool
from keras_lgg.types import ArrayLike, PathLike

MOST_SAMPLES = 500
ROOM = 5_000_000  # bytes of a page for similarities
HEIGHT = 900  # pixels of the page in a notebook
Explorable: TypeAlias = keras.Model | GraphSnapshot


class Frame(NamedTuple):
    """A layer of a network at an epoch: its geometry, and the places of its nodes ``(n, 2)``."""

    geometry: Geometry
    places: np.ndarray


class Exploration:
    """A batch in the layers of networks: numbers, and a page on which one looks at them.

    `keras_lgg.explore` makes it. A notebook shows the page by itself.

    Args:
        networks: What the layers make of the samples.
        samples: What is shown of a sample.
        frames: Of each network, epoch and layer a `Frame`.
        classes: Class of each sample, counted from 0, or ``None``.
        class_names: Name of each class.
        k: Number of neighbours.

    Attributes:
        layers: Dict from the name of each network to the names of its layers.
        epochs: Dict from the name of each network to the epochs at which it was looked at; of a
            model as it is ``(None,)``.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> x = np.eye(2)[np.arange(12) % 2] + 0.1 * np.random.default_rng(0).random((12, 2))
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Identity()], name="none")
        >>> y = np.arange(12) % 2
        >>> y[3] = 0  # which is wrong
        >>> lgg.explore(model, x, y, k=3).suspects().tolist()
        [3]
    """

    def __init__(
        self,
        networks: Sequence[Network],
        samples: Samples,
        frames: Sequence[Sequence[Sequence[Frame]]],
        classes: np.ndarray | None,
        class_names: Sequence[str],
        k: int,
    ) -> None:
        self.layers = {network.name: network.layers for network in networks}
        self.epochs = {network.name: network.epochs for network in networks}
        self.samples = samples
        self.frames = dict(zip(self.layers, frames, strict=True))
        self.classes = classes
        self.class_names = list(class_names)
        self.k = k

    def measures(self, network: str | None = None) -> dict[str, np.ndarray]:
        """The numbers of each layer, those of the curves of the page.

        Args:
            network: Name of a network; by default the first.

        Returns:
            Dict from ``"label_smoothness"`` (see `keras_lgg.graphs.label_smoothness`, relative),
            ``"effective_rank"`` and ``"knn_accuracy"``, the share of the samples whose k nearest
            neighbours vote for their class, to arrays ``(epochs, layers)``. Without labels there
            is the effective rank alone.
        """
        frames = self._frames(network)
        names = [name for name in MEASURES if name in frames[0][0].geometry.measures]
        return {
            name: np.array([[f.geometry.measures[name] for f in row] for row in frames])
            for name in names
        }

    def neighbours(self, network: str | None = None, layer: str | None = None) -> np.ndarray:
        """The nearest neighbours of each sample at a layer, by cosine, ``(n, k)``.

        Args:
            network: Name of a network; by default the first.
            layer: Name of a layer; by default the last. Of several epochs the last.
        """
        return self._geometry(network, layer).neighbours

    def suspects(self, network: str | None = None, layer: str | None = None) -> np.ndarray:
        """Samples whose neighbours are of another class: wrong labels are found among them.

        Args:
            network: Name of a network; by default the first.
            layer: Name of a layer; by default the last. Of several epochs the last.

        Returns:
            Their indices, those first that have the most neighbours of another class.

        Raises:
            ValueError: If there are no labels.
        """
        if self.classes is None:
            raise checks.invalid("y", "labels, which can be wrong", None)
        return np.asarray(self._geometry(network, layer).suspects)

    def save(self, path: PathLike) -> None:
        """Write the page: one file of HTML that needs nothing else, no server and no network.

        Args:
            path: Of the file, ``"page.html"``.
        """
        text = page.page_of(self)
        with files.beside(path) as unfinished:
            pathlib.Path(unfinished).write_text(text, encoding="utf-8")

    def _repr_html_(self):
        """The page in a frame of its own, for notebooks."""
        return (
            f'<iframe title="Explorer" style="width:100%;height:{HEIGHT}px;border:0" '
            f'srcdoc="{html.escape(page.page_of(self))}"></iframe>'
        )

    def _frames(self, network):
        return self.frames[self._name(network)]

    def _geometry(self, network, layer):
        name = self._name(network)
        layers = self.layers[name]
        layer = layers[-1] if layer is None else layer
        checks.check_choice("layer", layer, layers)
        return self.frames[name][-1][layers.index(layer)].geometry

    def _name(self, network):
        name = next(iter(self.frames)) if network is None else network
        checks.check_choice("network", name, list(self.frames))
        return name


def explore(
    model: Explorable | Sequence[Explorable] | Mapping[str, Explorable],
    x: Any,
    y: ArrayLike | None = None,
    *,
    layers: Any = None,
    images: ArrayLike | None = None,
    texts: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    k: int = 5,
    pool: str | None = None,
    batch_size: int = 128,
) -> Exploration:
    """Look into a network: a page with the geometry of its layers on a batch.

    The page shows the graph of each layer, whose nodes keep their places as well as they can along
    a slider through the depth; beside it the similarities of all pairs, sorted by class, and label
    smoothness, effective rank and accuracy of the neighbours' vote along the depth. Who is
    selected in one is selected in all, with the neighbours at each layer. Samples whose neighbours
    are of another class are listed: wrong labels are found there.

    Args:
        model: Any Keras model. A `GeometryModel` stands for its base, a `Distiller` for teacher
            and student. A `keras_lgg.callbacks.GraphSnapshot` that kept its layers has a slider
            along the epochs: of many, so many as a page can hold, spread evenly. Up to 4 of these
            side by side, in a dict by name or in a list.
        x: From 2 to 500 samples, an array ``(n, ...)`` or a structure of such, as the model takes
            them.
        y: Class labels: integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)`` of which
            the largest entry counts. Without them the page has no classes. Colours and signs of
            more than 56 classes come again.
        layers: Paths of layers, patterns, or layers, as of `Penalty`; or a dict of such by the
            name of the model (``"teacher"`` and ``"student"`` of a `Distiller`). By default at
            most 8 along the depth.
        images: Pictures of the samples, ``(n, h, w)`` or ``(n, h, w, c)``, of uint8 or of floats
            in [0, 1]; others are scaled from their least to their largest value. By default
            ``x``, where it may be pictures.
        texts: Texts of the samples, strings ``(n,)``. By default ``x``, where it is strings.
        classes: Name of each class, by its index; by default the index.
        k: Number of nearest neighbours by cosine: those that an edge leads to, that vote, and that
            are listed.
        pool: How what has positions is pooled, see `Penalty`. Maps of many pixels are large:
            ``"mean"`` makes them small.
        batch_size: Samples that a model sees at a time.

    Returns:
        An `Exploration`: ``save("page.html")`` writes the page; notebooks show it.

    Raises:
        ValueError: If an argument is not as above, a layer cannot be tapped, or what it gives is
            not finite.
        ImportError: When the page is made, if bokeh is missing, of the extra ``explorer``.

    Example:
        >>> import pathlib, tempfile, keras, numpy as np, keras_lgg as lgg
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((4,)),
        ...         keras.layers.Dense(3, name="h"),
        ...         keras.layers.Dense(2, name="z"),
        ...     ],
        ...     name="small",
        ... )
        >>> x, y = np.random.default_rng(0).random((20, 4)), np.arange(20) % 2
        >>> found = lgg.explore(model, x, y, classes=["cat", "dog"])
        >>> found.layers
        {'small': ('h', 'z')}
        >>> sorted(found.measures())
        ['effective_rank', 'knn_accuracy', 'label_smoothness']
        >>> path = pathlib.Path(tempfile.mkdtemp(), "page.html")
        >>> found.save(path)

    Reference: Algorithms 14(2):39; Rauber et al., EuroVis 2016, for the places of the nodes.
    """
    checks.check_positive_integer("k", k)
    check_pool(pool)
    probe = _probe(x, y, batch_size)
    labels, names = _classes(probe, classes)
    samples = samples_of(probe.x, images, texts)
    n = probe.size
    networks = networks_of(model, probe, layers, pool, max(2, ROOM * 3 // (2 * n * n)))
    k = min(k, n - 1)
    signal = None if labels is None else probe.signal()
    geometries = [
        [[geometry_of(rows, k, labels, signal) for rows in epoch] for epoch in network.rows]
        for network in networks
    ]
    return Exploration(networks, samples, _placed(geometries), labels, names, k)


def _probe(x, y, batch_size):
    probe = Probe(x, y, batch_size=batch_size)
    if probe.size > MOST_SAMPLES:
        both = "x[:500]" if y is None else "x[:500] and y[:500]"
        raise ValueError(
            f"Invalid value for argument `x`. Expected at most {MOST_SAMPLES} samples, which a "
            f"page can show. Received: {probe.size} of them. Choose some, such as {both}."
        )
    return probe


def _classes(probe, names):
    """The class of each sample, counted from 0 among those present, and the names of these."""
    if probe.labels is None:
        if names is not None:
            raise checks.invalid("classes", "None without `y`", repr(names))
        return None, []
    return named_classes(probe.classes, names)


def _placed(geometries):
    """Frames, each of which begins where the one before in depth, in time or beside it ended."""
    frames = []
    for network in geometries:
        epochs = []
        for epoch in network:
            row = []
            for i, geometry in enumerate(epoch):
                beside = [*row[-1:], *(each[i] for each in epochs[-1:])]
                if frames and not beside:
                    beside = [frames[0][0][0]]  # the first graph of the first network
                tethers = [frame.places for frame in beside]
                start = tethers[-1] if tethers else start_of(geometry.cosines)
                row.append(Frame(geometry, placed(geometry.cosines, start, tethers)))
            epochs.append(row)
        frames.append(epochs)
    return frames
