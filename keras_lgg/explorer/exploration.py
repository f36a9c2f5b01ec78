"""The geometry of networks on a batch, computed, and the page that shows it."""

import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import keras
import numpy as np

from keras_lgg import checks, files
from keras_lgg.callbacks.probes import Probe
from keras_lgg.callbacks.snapshots import GraphSnapshot
from keras_lgg.explorer import page
from keras_lgg.explorer.geometry import MEASURES, Geometry, geometry_of
from keras_lgg.explorer.networks import Network, networks_of
from keras_lgg.explorer.placement import placed, start_of
from keras_lgg.explorer.samples import ShownSamples, samples_of
from keras_lgg.graphs.labels import named_classes
from keras_lgg.graphs.pooling import check_pool
from keras_lgg.relative.similarity_maps import Layers
from keras_lgg.types import ArrayLike, PathLike, Samples

MOST_SAMPLES = 500
ROOM = 5_000_000  # bytes of a page for similarities
HEIGHT = 900  # pixels, of the page in a notebook
Explorable: TypeAlias = keras.Model | GraphSnapshot


class Frame(NamedTuple):
    """A layer of a network at an epoch: its geometry, and the places of its nodes ``(n, 2)``."""

    geometry: Geometry
    places: np.ndarray


class Exploration:
    """A batch as the layers of networks see it: numbers, and a page that shows them.

    `keras_lgg.explore` makes it. A notebook shows the page by itself.

    Args:
        networks: What the layers make of the samples.
        samples: What is shown for each sample.
        frames: For each network, epoch and layer a `Frame`.
        classes: Class of each sample, numbered from 0, or ``None``.
        class_names: Name of each class.
        k: Number of neighbours.

    Attributes:
        layers: Dict from the name of each network to the names of its layers.
        epochs: Dict from the name of each network to the epochs at which it was looked at; for a
            model as it is, ``(None,)``.

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
        samples: ShownSamples,
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
        """The numbers of each layer, which the curves of the page show.

        Args:
            network: Name of a network; by default the first.

        Returns:
            Dict from the name of each measure to an array ``(epochs, layers)``:

            * ``"label_smoothness"``: smoothness of the labels on the layer's graph, relative to n,
              as by `keras_lgg.graphs.label_smoothness`: 0 if the classes are separated;
            * ``"effective_rank"``: the number of directions that the layer uses, exp of the entropy
              of its singular values;
            * ``"knn_accuracy"``: share of the samples whose k nearest neighbours vote for their
              class.

            Without labels there is only the effective rank.
        """
        frames = self._frames(network)
        names = [name for name in MEASURES if name in frames[0][0].geometry.measures]
        return {
            name: np.array([[f.geometry.measures[name] for f in row] for row in frames])
            for name in names
        }

    def neighbours(self, network: str | None = None, layer: str | None = None) -> np.ndarray:
        """The k nearest neighbours of each sample at a layer, by cosine, ``(n, k)``.

        Args:
            network: Name of a network; by default the first.
            layer: Name of a layer; by default the last. Of several epochs, the last is taken.
        """
        return self._geometry(network, layer).neighbours

    def suspects(self, network: str | None = None, layer: str | None = None) -> np.ndarray:
        """Samples whose neighbours vote for another class: wrong labels can be found among them.

        Args:
            network: Name of a network; by default the first.
            layer: Name of a layer; by default the last. Of several epochs, the last is taken.

        Returns:
            Their indices, those with the most neighbours of another class first.

        Raises:
            ValueError: If there are no labels.
        """
        if self.classes is None:
            raise checks.invalid("y", "labels, which can be wrong", None)
        return np.asarray(self._geometry(network, layer).suspects)

    def save(self, path: PathLike) -> None:
        """Write the page: one HTML file that needs nothing else, neither a server nor a network.

        Args:
            path: Path of the file, such as ``"page.html"``.
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
    x: Samples,
    y: ArrayLike | None = None,
    *,
    layers: Layers | Mapping[str, Layers] = None,
    images: ArrayLike | None = None,
    texts: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    k: int = 5,
    pool: str | None = None,
    batch_size: int = 128,
) -> Exploration:
    """Look into a network: a page with the geometry of its layers on a batch.

    The page shows the graph of each layer, with a slider through the depth along which the nodes
    keep their places as well as they can. Beside it are the similarities of all pairs, sorted by
    class, and curves along the depth: label smoothness, effective rank, and accuracy of the
    neighbours' vote. A sample selected in one view is selected in all, with its neighbours at each
    layer. Samples whose neighbours vote for another class are listed: wrong labels can be found
    there.

    Args:
        model: Any Keras model. A `GeometryModel` stands for its base, a `Distiller` for teacher and
            student. A `keras_lgg.callbacks.GraphSnapshot` that kept its layers adds a slider along
            the epochs: if there are too many for a page, a selection of them, evenly spread. Up to
            4 of these side by side, in a dict by name or in a list.
        x: From 2 to 500 samples, an array ``(n, ...)`` or a structure of such arrays, as the model
            takes them.
        y: Class labels: integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)`` of which
            the largest entry counts. Without them the page has no classes. With more than 56
            classes, colours and markers repeat.
        layers: Paths of layers, patterns such as ``"block*"``, layers, or a list of these; or a
            dict of such by the name of the model (``"teacher"`` and ``"student"`` for a
            `Distiller`). By default at most 8 layers along the depth.
        images: Images of the samples, ``(n, h, w)`` or ``(n, h, w, c)``, of uint8 or of floats
            in [0, 1]; others are scaled from their smallest to their largest value. By default
            ``x``, if it can be images.
        texts: Texts of the samples, strings ``(n,)``. By default ``x``, if it holds strings.
        classes: Name of each class, by its index; by default the index.
        k: Number of nearest neighbours by cosine that are joined by edges, vote, and are listed.
        pool: How a layer with positions becomes one vector per sample: ``None`` (all positions,
            flattened), ``"mean"``, ``"max"``, ``"first"`` or ``"last"``. Feature maps with many
            pixels are large: ``"mean"`` makes them small.
        batch_size: Number of samples that a model sees at a time.

    Returns:
        An `Exploration`: ``save("page.html")`` writes the page; notebooks show it.

    Raises:
        ValueError: If an argument is not as above, or a layer cannot be tapped or is not finite.
        ImportError: When the page is made, if bokeh, which the extra ``explorer`` brings, is
            missing.

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

    Reference: the graphs: Lassance, Gripon and Ortega, "Representing deep neural networks latent
    space geometries with graphs", Algorithms 14(2):39, 2021, https://arxiv.org/abs/2011.07343; the
    places of the nodes: Rauber, Falcão and Telea, "Visualizing time-dependent data using dynamic
    t-SNE", EuroVis 2016
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
            f"Invalid value for argument `x`. Expected at most {MOST_SAMPLES} samples, all that a "
            f"page can show. Received: {probe.size} of them. Choose some, such as {both}."
        )
    return probe


def _classes(probe, names):
    """The class of each sample, numbered from 0 among those present, and their names."""
    if probe.labels is None:
        if names is not None:
            raise checks.invalid("classes", "None without `y`", repr(names))
        return None, []
    return named_classes(probe.classes, names)


def _placed(geometries):
    """Frames, each of which begins where the one before it, in depth, time or beside it, ended."""
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
