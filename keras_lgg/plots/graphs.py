"""Figures of latent geometry graphs: as graphs, and as matrices."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_lgg import checks, graphs
from keras_lgg.graphs import functions
from keras_lgg.graphs.labels import classes_on_host, named_classes
from keras_lgg.graphs.pooling import check_pool
from keras_lgg.plots import layouts, style
from keras_lgg.relative.comparison import finite_rows
from keras_lgg.training.taps import TappedModel
from keras_lgg.types import Figure, Samples

# What the numbers of each metric are called.
METRICS = {**{name: f"{name} similarity" for name in functions.METRICS}, "precomputed": "weight"}
LAYOUTS = {"spectral": "spectral layout", "pca": "principal components", "tsne": "t-SNE"}
FAINT, STRONG = 0.1, 0.8  # opacity of the weakest and of the strongest edge
EDGE = "#333333"


def representations(
    model: keras.Model,
    x: Samples,
    taps: Sequence[str],
    *,
    batch_size: int = 256,
    pool: str | None = None,
) -> dict[str, np.ndarray]:
    """What some layers of a trained model make of samples, in inference mode.

    Args:
        model: Any Keras model; for a `GeometryModel`, pass its ``base``.
        x: Samples, as ``model.predict`` takes them.
        taps: Paths of layers, such as ``["block1", "backbone/block3"]``.
        batch_size: Number of samples at a time.
        pool: How a layer with positions becomes one vector per sample: ``None`` (all positions,
            flattened), ``"mean"``, ``"max"``, ``"first"`` or ``"last"``; masked positions do not
            count.

    Returns:
        Dict from each path to an array ``(n, ...)``, in the order of the paths.

    Raises:
        ValueError: If ``taps`` is empty, or a layer cannot be tapped.

    Example:
        >>> import keras, numpy as np
        >>> import keras_lgg as lgg
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2)]
        ... )
        >>> x, y = np.eye(4, dtype="float32"), np.array([0, 0, 1, 1])
        >>> layers = lgg.plots.representations(model, x, ["hidden"])
        >>> layers["hidden"].shape
        (4, 3)
        >>> values = [
        ...     float(lgg.graphs.label_smoothness(h, y, num_classes=2, relative=True))
        ...     for h in layers.values()
        ... ]
        >>> figure = lgg.plots.smoothness({"plain": values}, list(layers))
    """
    taps = [taps] if isinstance(taps, str) else list(taps)
    if not taps:
        raise checks.invalid("taps", "at least one path of a layer", taps)
    checks.check_positive_integer("batch_size", batch_size)
    check_pool(pool)
    tapped = TappedModel(model, taps, pool)
    found = tapped.predict(x, batch_size=batch_size, verbose=0)[1]
    return {path: found[path] for path in taps}


def layer_graph(
    x: np.ndarray,
    labels: np.ndarray,
    *,
    layout: str = "spectral",
    k: int | None = 3,
    metric: str = "cosine",
    alpha: float = 1.0,
    classes: Sequence[str] | None = None,
    title: str = "Latent geometry graph",
    seed: int = 0,
) -> Figure:
    """The latent geometry graph of one layer: samples coloured by class, edges shaded by weight.

    The more similar two samples are, the more opaque the edge between them; the legend shows the
    weights of the faintest and of the strongest edge. Negative similarities count as no edge.

    Args:
        x: Representations ``(n, ...)`` of at least 2 samples.
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)`` of which the
            largest entry counts; at most 56 classes.
        layout: Where the nodes are. ``"spectral"``: at the two smoothest signals on the graph of
            all pairs (Laplacian eigenmaps); ``"pca"``: at the principal components of ``x``;
            ``"tsne"``: by t-SNE of ``x``, with scikit-learn, which the extra ``manifolds`` brings.
        k: Number of strongest edges that are drawn for each node (by `keras_lgg.graphs.knn_mask`),
            or ``None`` for all. It does not move the nodes.
        metric: Similarity of two samples: ``"cosine"``, ``"rbf"`` (exp of minus ``alpha`` times the
            squared distance) or ``"exponential"`` (exp of minus ``alpha`` times the distance); or
            ``"precomputed"``, if ``x`` is itself a symmetric adjacency ``(n, n)``.
        alpha: Positive number, the inverse length scale of ``"rbf"`` and ``"exponential"``.
        classes: Name of each class, by its index; by default the index.
        title: Title of the figure.
        seed: Integer of at least 0, for t-SNE.

    Returns:
        A figure, 3.4 inches wide. Positions are centred, and their mean square is 1.

    Raises:
        ValueError: If an argument is not as above, or ``x`` has NaN or infinite values.
        ImportError: If matplotlib is missing.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> x = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> figure = lgg.plots.layer_graph(x, np.array([0, 0, 1, 1]), k=1, classes=["cat", "dog"])
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['cat', 'dog', 'cosine 0.995']

    Reference: the graph: Lassance, Gripon and Ortega, "Representing deep neural networks latent
    space geometries with graphs", Algorithms 14(2):39, 2021, https://arxiv.org/abs/2011.07343;
    Laplacian eigenmaps: Belkin and Niyogi, "Laplacian eigenmaps for dimensionality reduction and
    data representation", Neural Computation 15(6), 2003
    """
    return layer_graphs(
        {title: x},
        labels,
        layout=layout,
        k=k,
        metric=metric,
        alpha=alpha,
        classes=classes,
        seed=seed,
    )


@style.styled
def layer_graphs(
    representations: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    layout: str = "spectral",
    k: int | None = 3,
    metric: str = "cosine",
    alpha: float = 1.0,
    classes: Sequence[str] | None = None,
    columns: int = 3,
    title: str | None = None,
    seed: int = 0,
) -> Figure:
    """The latent geometry graphs of several layers, side by side.

    Each layout is rotated or mirrored to fit the one before as well as possible, so that a sample
    keeps its place from layer to layer. The scale of opacity is the same for all layers.

    Args:
        representations: Dict from the name of each layer to its representations ``(n, ...)`` of
            the same samples, such as the function `representations` returns.
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)`` of which the
            largest entry counts; at most 56 classes.
        layout: Where the nodes are: ``"spectral"`` (Laplacian eigenmaps of the graph of all pairs),
            ``"pca"`` (principal components) or ``"tsne"`` (t-SNE, with scikit-learn, which the
            extra ``manifolds`` brings).
        k: Number of strongest edges that are drawn for each node (by `keras_lgg.graphs.knn_mask`),
            or ``None`` for all. It does not move the nodes.
        metric: Similarity of two samples: ``"cosine"``, ``"rbf"`` (exp of minus ``alpha`` times the
            squared distance) or ``"exponential"`` (exp of minus ``alpha`` times the distance); or
            ``"precomputed"``, if the representations are symmetric adjacencies ``(n, n)``.
        alpha: Positive number, the inverse length scale of ``"rbf"`` and ``"exponential"``.
        classes: Name of each class, by its index; by default the index.
        columns: Number of layers in a row.
        title: Title of the figure; by default only the layers have names.
        seed: Integer of at least 0, for t-SNE.

    Returns:
        A figure, 2.25 inches wide per column, and at least 3.4 inches.

    Raises:
        ValueError: If an argument is not as above.
        ImportError: If matplotlib is missing.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> rng = np.random.default_rng(0)
        >>> layers = {"block1": rng.random((20, 8)), "block2": rng.random((20, 4))}
        >>> figure = lgg.plots.layer_graphs(layers, np.arange(20) % 2, layout="pca")
        >>> [axis.get_title() for axis in figure.axes]
        ['block1', 'block2']

    Reference: Lassance, Gripon and Ortega, "Representing deep neural networks latent space
    geometries with graphs", Algorithms 14(2):39, 2021, https://arxiv.org/abs/2011.07343
    """
    checks.check_choice("layout", layout, tuple(LAYOUTS))
    checks.check_choice("metric", metric, tuple(METRICS))
    if layout != "spectral" and metric == "precomputed":
        raise checks.invalid(
            "layout", "'spectral' with metric='precomputed', which has no features", repr(layout)
        )
    if k is not None:
        checks.check_positive_integer("k", k)
    checks.check_positive_integer("columns", columns)
    checks.check_seed(seed)
    rows = _layers(representations)
    indices, names = _classes(labels, len(next(iter(rows.values()))), classes)
    weights = [_weights(name, each, metric, alpha) for name, each in rows.items()]
    positions = _aligned_positions(layout, rows.values(), weights, seed)
    edges = [_edges(each, k) for each in weights]
    strengths = np.concatenate([strength for _, strength in edges])
    scale = (strengths.min(), strengths.max()) if len(strengths) else ()

    lines, columns = style.grid(len(rows), columns)
    width = max(style.COLUMN, style.PANEL * columns)
    figure, axes = style.empty_figure(lines, columns, (width, (width / columns) * lines))
    for axis, name, places, (pairs, strength) in zip(
        axes.flat, rows, positions, edges, strict=False
    ):
        if len(pairs):
            _draw_edges(axis, places[pairs], strength, scale)
        _draw_nodes(axis, places, indices, names)
        _frame(axis, places)
        axis.set_title(style.wrapped(name, 0.9 * width / columns, 8))
    style.finish_grid(figure, axes, len(rows), title)
    handles, texts = axes.flat[0].get_legend_handles_labels()
    for weight in dict.fromkeys(scale):
        handles.append(_edge_handle(weight, scale))
        texts.append(f"{'weight' if metric == 'precomputed' else metric} {weight:.3g}")
    turned = ", each turned onto the one before" if len(rows) > 1 else ""
    style.legend_below(figure, handles, texts, title=f"{LAYOUTS[layout]}{turned}")
    return figure


@style.styled
def similarity_matrix(
    x: np.ndarray,
    labels: np.ndarray,
    *,
    metric: str = "cosine",
    alpha: float = 1.0,
    classes: Sequence[str] | None = None,
    title: str = "Similarity of the samples",
) -> Figure:
    """The similarities of all pairs of samples, sorted by class, as an image.

    Lines separate the classes; within a class the samples keep their order. The scale goes from 0
    to 1, or from -1 to 1 if a similarity is negative, so that figures can be compared.

    Args:
        x: Representations ``(n, ...)`` of at least 2 samples.
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)`` of which the
            largest entry counts; at most 56 classes.
        metric: Similarity of two samples: ``"cosine"``, ``"rbf"`` (exp of minus ``alpha`` times the
            squared distance) or ``"exponential"`` (exp of minus ``alpha`` times the distance); or
            ``"precomputed"``, if ``x`` is itself a symmetric adjacency ``(n, n)``: the scale then
            ends at the largest magnitude.
        alpha: Positive number, the inverse length scale of ``"rbf"`` and ``"exponential"``.
        classes: Name of each class, by its index; by default the index. Names without room are left
            out.
        title: Title of the figure.

    Returns:
        A figure, 3.4 inches wide.

    Raises:
        ValueError: If an argument is not as above, or ``x`` has NaN or infinite values.
        ImportError: If matplotlib is missing.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> figure = lgg.plots.similarity_matrix(x, np.array([1, 0, 1]))
        >>> figure.axes[0].images[0].get_array().tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]

    Reference: Lassance, Gripon and Ortega, "Representing deep neural networks latent space
    geometries with graphs", Algorithms 14(2):39, 2021, https://arxiv.org/abs/2011.07343
    """
    checks.check_choice("metric", metric, tuple(METRICS))
    rows = _rows("x", x)
    indices, names = _classes(labels, len(rows), classes)
    order = np.argsort(indices, kind="stable")
    matrix = _similarity("x", rows, metric, alpha)[np.ix_(order, order)]
    largest = max(np.abs(matrix).max(), 1e-30) if metric == "precomputed" else 1.0
    signed = matrix.min() < 0

    lines = [style.wrapped(name, 0.8, style.SMALL) for name in names]
    # The side of the image, in inches, beside names, labels and colour bar.
    side = 2.2 - max(style.text_width(text, style.SMALL) for text in lines)
    figure, ((axis,),) = style.empty_figure(1, 1, (style.COLUMN, side + 0.75))
    image = axis.imshow(
        matrix,
        cmap="PuOr_r" if signed else "viridis",
        vmin=-largest if signed else 0,
        vmax=largest,
        interpolation="nearest",
    )
    figure.colorbar(image, label=METRICS[metric])
    counts = np.bincount(indices)
    ends = np.cumsum(counts)
    for end in ends[:-1]:
        for line in (axis.axhline, axis.axvline):
            line(end - 0.5, color="black" if signed else "white", linewidth=0.6)
    centres = ends - counts / 2 - 0.5
    style.heighten(figure, style.name_places(axis, centres, names, side))
    high = 1 + max(text.count("\n") for text in lines)
    shown = style.apart(centres, 0.85 * high * style.LINE * len(rows) / side)
    axis.set_yticks(centres[shown], [lines[i] for i in shown])
    axis.tick_params(length=0)
    axis.set(xlabel="samples, by class", ylabel="samples, by class")
    axis.set_title(style.wrapped(title, 2.4, 8))
    return figure


def _draw_edges(axis, segments, weights, scale):
    """Lines between the ends ``(e, 2, 2)``, the strongest on top."""
    collections = checks.require("matplotlib.collections", "plots")
    order = np.argsort(weights, kind="stable")
    alphas = _opacity(weights[order], scale)
    axis.add_collection(
        collections.LineCollection(
            segments[order], colors=[(EDGE, alpha) for alpha in alphas], linewidths=0.6, zorder=1
        )
    )


def _opacity(weights, scale):
    low, high = scale
    return (
        np.interp(weights, scale, (FAINT, STRONG)) if low < high else np.full(len(weights), STRONG)
    )


def _draw_nodes(axis, positions, indices, names):
    size = np.clip(2000 / len(positions), 11, 26)
    for i, (color, marker, _) in enumerate(style.looks(len(names))):
        axis.scatter(
            *positions[indices == i].T,
            s=2 * size if marker == "*" else size,
            color=color,
            marker=marker,
            edgecolors="white",
            linewidths=0.3,
            label=names[i],
            zorder=2,
        )


def _frame(axis, positions):
    """A square around the nodes."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    half = 0.54 * max((high - low).max(), 0.1)
    (x, y) = (low + high) / 2
    axis.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True, color="#BBBBBB", linewidth=0.5)


def _edge_handle(weight, scale):
    (alpha,) = _opacity(np.array([weight]), scale)
    lines = checks.require("matplotlib.lines", "plots")
    return lines.Line2D([], [], color=EDGE, alpha=alpha, linewidth=1)


def _aligned_positions(layout, layers, weights, seed):
    """Positions ``(n, 2)`` of the nodes of each layer, each rotated onto the ones before."""
    positions = []
    for rows, weight in zip(layers, weights, strict=True):
        if layout == "spectral":
            found = layouts.spectral(weight)
        else:
            found = layouts.principal(rows) if layout == "pca" else layouts.tsne(rows, seed)
        positions.append(layouts.turned(found, positions[-1]) if positions else found)
    return positions


def _weights(name, rows, metric, alpha):
    """Weights of the edges ``(n, n)``: similarities above 0, without loops."""
    return np.maximum(_similarity(name, rows, metric, alpha), 0) * (1 - np.eye(len(rows)))


def _edges(weights, k):
    """Pairs of nodes ``(e, 2)`` whose edge is drawn, and its weight ``(e,)``."""
    kept = weights > 0
    if k is not None:
        kept &= keras.ops.convert_to_numpy(graphs.knn_mask(weights, k=k))
    pairs = np.argwhere(np.triu(kept, 1))
    return pairs, weights[pairs[:, 0], pairs[:, 1]]


def _similarity(name, rows, metric, alpha):
    """Similarities ``(n, n)`` in float64, including those of each sample to itself."""
    if metric != "precomputed":
        found = graphs.similarity(rows, metric=metric, alpha=alpha)
        return keras.ops.convert_to_numpy(found).astype("float64")
    if rows.shape[0] != rows.shape[1] or not np.allclose(rows, rows.T, rtol=1e-4, atol=1e-6):
        expected = "a symmetric adjacency (n, n), with metric='precomputed'"
        raise checks.invalid(name, expected, f"an array of shape {rows.shape}")
    return rows


def _layers(representations):
    if not isinstance(representations, Mapping) or not representations:
        expected = "a dict from the name of each layer to its representations (n, ...)"
        raise checks.invalid("representations", expected, type(representations).__name__)
    rows = {
        str(name): _rows(f"representations[{name!r}]", x) for name, x in representations.items()
    }
    first, *others = rows
    for name in others:
        checks.check_same_length(**{first: rows[first], name: rows[name]})
    return rows


def _rows(argument, x):
    rows = finite_rows(argument, x, "float64")
    if len(rows) < 2:
        raise checks.invalid(argument, "at least 2 samples", f"{len(rows)}")
    return rows


def _classes(labels, n, names):
    """The class of each sample, numbered from 0 among those present, and their names."""
    found = classes_on_host(labels)
    if len(found) != n:
        raise checks.invalid("labels", f"one for each of the {n} samples", f"{len(found)} labels")
    count = len(np.unique(found))
    distinct = len(style.COLORS) * len(style.MARKERS)
    if count > distinct:
        expected = f"at most {distinct} classes, which markers and colours can tell apart"
        raise checks.invalid("labels", expected, f"{count} classes")
    return named_classes(found, names)
