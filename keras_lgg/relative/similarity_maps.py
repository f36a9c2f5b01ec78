"""Every layer of one network against every layer of another.

[1] Kornblith et al., "Similarity of neural network representations revisited", arXiv 1905.00414.
[2] Nguyen et al., "Do wide and deep networks learn the same things?", arXiv 2010.15327.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import keras
import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.pooling import check_pool
from keras_lgg.relative import comparison, correlations, geometry, kernels
from keras_lgg.relative.comparison import finite_rows
from keras_lgg.relative.structures import check_vocabulary, rows_of
from keras_lgg.training.paths import layer_paths, paths_of
from keras_lgg.training.taps import TappedModel
from keras_lgg.types import Samples

Measure: TypeAlias = Callable[[np.ndarray, np.ndarray], float]
Layers: TypeAlias = str | keras.layers.Layer | Sequence[str | keras.layers.Layer] | None
BY_BATCH = "minibatch_cka"  # the only one that needs no whole layer
MEASURES: dict[str, Measure] = {
    "linear_cka": comparison.linear_cka,
    "debiased_cka": kernels.debiased_cka,
    BY_BATCH: kernels.minibatch_cka,
    "rbf_cka": kernels.rbf_cka,
    "svcca": correlations.svcca,
    "pwcca": correlations.pwcca,
    "rsa": geometry.rsa,
    "procrustes_distance": geometry.procrustes_distance,
    "neighbour_jaccard": geometry.neighbour_jaccard,
}


@dataclasses.dataclass(frozen=True)
class SimilarityMap:
    """A measure between every layer of one network and every layer of another.

    Entry (i, j) of the matrix is :math:`m(A_i, B_j)`, with m the measure and :math:`A_i`,
    :math:`B_j` what layer i of the one network and layer j of the other make of the same samples.

    Args:
        matrix: Array ``(p, q)`` of float64, a row for each layer of the one and a column for each
            layer of the other. NaN if one of the two is the same for all samples or, with
            ``"minibatch_cka"``, makes all pairs of samples equally similar.
        layers_a: Paths of the p layers.
        layers_b: Paths of the q layers.
        measure: Name of the measure.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import relative
        >>> found = relative.SimilarityMap(np.array([[1.0, 0.25]]), ("h",), ("h1", "h2"), "rsa")
        >>> print(found.to_markdown())
        | rsa | h1 | h2 |
        | --- | --- | --- |
        | h | 1.00 | 0.25 |

    Reference: such maps for linear CKA: Kornblith et al., "Similarity of neural network
    representations revisited", ICML 2019, https://arxiv.org/abs/1905.00414
    """

    matrix: np.ndarray
    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    measure: str

    def to_markdown(self) -> str:
        """A table of the matrix."""
        lines = [[self.measure, *self.layers_b], ["---"] * (1 + len(self.layers_b))]
        for layer, row in zip(self.layers_a, self.matrix, strict=True):
            lines.append([layer, *(f"{value:.2f}" for value in row)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def similarity_map(
    model_a: keras.Model,
    model_b: keras.Model,
    x: Samples,
    *,
    x_b: Samples | None = None,
    layers_a: Layers = None,
    layers_b: Layers = None,
    measure: str | Measure = BY_BATCH,
    batch_size: int = 256,
    pool: str | None = None,
) -> SimilarityMap:
    r"""How similar every layer of one network is to every layer of another, on the same samples.

    With a measure m, and :math:`A_1, \dots, A_p` and :math:`B_1, \dots, B_q` what the layers of the
    two networks make of the samples, it is the matrix

    .. math::

        M_{ij} = m(A_i, B_j)

    Both networks run in inference mode, batch by batch. ``"minibatch_cka"`` holds the layers of one
    batch at a time, and a matrix of all pairs in the batch for each layer, so its memory does not
    grow with the number of samples. All other measures need the layers of all samples at once:
    ``n (d_1 + ... + d_p+q)`` numbers for layers of ``d_i`` features, and then the measure's own
    costs ``p q`` times. Name the layers you need, or pool what has positions.

    Args:
        model_a: Any Keras model that knows its input shape; for a `GeometryModel`, pass its
            ``base``.
        model_b: The other model, likewise; ``model_a`` itself shows how a network changes along its
            depth.
        x: Array ``(n, ...)``, or a structure of such arrays, as the models take them, in random
            order: shuffle samples that are sorted by class.
        x_b: The same n samples as ``model_b`` takes them, if it takes other inputs than
            ``model_a``; by default ``x``.
        layers_a: Paths of layers, patterns such as ``"block*"``, layers, or a list of these. By
            default all of `keras_lgg.layer_paths` that return something for each sample.
        layers_b: The same for ``model_b``.
        measure: Name of a measure of this module, which is called with its defaults:
            ``"minibatch_cka"``, ``"linear_cka"``, ``"debiased_cka"``, ``"rbf_cka"``, ``"svcca"``,
            ``"pwcca"``, ``"rsa"``, ``"procrustes_distance"`` or ``"neighbour_jaccard"``. Or a
            function of two arrays ``(n, d)``, such as ``lambda a, b: svcca(a, b, variance=0.9)``.
        batch_size: Number of samples that a model sees at a time, and the batch size of
            ``"minibatch_cka"``; at least 4.
        pool: How a layer with positions becomes one vector per sample: ``None`` (all positions,
            flattened), ``"mean"``, ``"max"``, ``"first"`` or ``"last"``. Masked positions do not
            count.

    Returns:
        A `SimilarityMap`.

    Raises:
        ValueError: If an argument is not as above, ``x`` and ``x_b`` differ in length or have fewer
            than 4 samples, a layer cannot be tapped or returns NaN or infinite values, or the
            measure refuses two layers; the error says which.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg import relative
        >>> first, second = (
        ...     keras.Sequential(
        ...         [
        ...             keras.Input((4,)),
        ...             keras.layers.Dense(width, "relu", name="h1"),
        ...             keras.layers.Dense(2, name="h2"),
        ...         ]
        ...     )
        ...     for width in (8, 16)
        ... )
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> found = relative.similarity_map(first, second, x)
        >>> found.layers_a, found.layers_b, found.matrix.shape
        (('h1', 'h2'), ('h1', 'h2'), (2, 2))
        >>> same = relative.similarity_map(first, first, x, measure="rsa")
        >>> np.allclose(np.diag(same.matrix), 1)
        True

    Reference: Kornblith et al., "Similarity of neural network representations revisited", ICML
    2019, https://arxiv.org/abs/1905.00414; in batches: Nguyen et al., "Do wide and deep networks
    learn the same things?", ICLR 2021, https://arxiv.org/abs/2010.15327
    """
    if isinstance(measure, str):
        checks.check_choice("measure", measure, tuple(MEASURES))
    elif not callable(measure):
        raise checks.invalid("measure", "a name or a function of two arrays", repr(measure))
    kernels.check_batch_size(batch_size)
    check_pool(pool)
    networks = [
        _Network(name, model, layers, pool)
        for name, model, layers in (
            ("layers_a", model_a, layers_a),
            ("layers_b", model_b, layers_b),
        )
    ]
    own = ("x", _arrays(x))
    data = [own, own if x_b is None else ("x_b", _arrays(x_b))]
    for (name, inputs), model in zip(data, (model_a, model_b), strict=True):
        check_vocabulary(name, model, inputs)
    parts = kernels.batches(_length(data), batch_size)
    seen = (
        tuple(
            network.look(rows_of(inputs, part), part.stop - part.start)
            for network, (_, inputs) in zip(networks, data, strict=True)
        )
        for part in parts
    )
    matrix = _by_batch(seen) if measure == BY_BATCH else _of_whole_layers(seen, networks, measure)
    name = measure if isinstance(measure, str) else getattr(measure, "__name__", repr(measure))
    paths_a, paths_b = (tuple(network.paths) for network in networks)
    return SimilarityMap(matrix, paths_a, paths_b, name)


class _Network:
    """A model, and the layers that are looked at."""

    def __init__(self, argument, model, layers, pool):
        self.name = model.name
        self.paths = _chosen(argument, model, layers)
        self._tapped = TappedModel(model, self.paths, pool)

    def look(self, batch, n):
        """What the layers make of a batch of n samples, a float array ``(n, d)`` for each layer."""
        found = self._tapped.predict_on_batch(batch)[1]
        return [self._rows(path, found[path], n) for path in self.paths]

    def _rows(self, path, found, n):
        if np.shape(found)[:1] != (n,) or np.ndim(found) < 2:
            raise ValueError(
                f"The layer '{path}' of '{self.name}' cannot be compared. Expected an output of "
                f"shape (n, ...), one row for each of the {n} samples of a batch. Received: one "
                f"of shape {np.shape(found)}. Leave it out of the layers."
            )
        return finite_rows(f"{path} of {self.name}", found)


def _chosen(argument, model, layers):
    """Paths of the chosen layers, each once."""
    if layers is None:
        shapes = layer_paths(model)
        return [path for path, shape in shapes.items() if shape[:1] == (None,) and len(shape) > 1]
    given = [layers] if isinstance(layers, str | keras.layers.Layer) else list(layers)
    if not given:
        raise checks.invalid(argument, "at least one layer", layers)
    return list(dict.fromkeys(path for tap in given for path in paths_of(model, tap)))


def _arrays(x):
    return keras.tree.map_structure(np.asarray, x)


def _length(data):
    """The number of samples, the same in all arrays."""
    lengths = {np.shape(array)[:1] for _, arrays in data for array in keras.tree.flatten(arrays)}
    if len(lengths) != 1 or min(lengths) < (kernels.FEWEST,):
        shapes = [keras.tree.map_structure(np.shape, arrays) for _, arrays in data]
        expected = f"arrays of one length of at least {kernels.FEWEST} samples"
        raise checks.invalid(data[1][0], expected, f"shapes {shapes}")
    return lengths.pop()[0]


def _by_batch(seen: Iterator[tuple[list[np.ndarray], list[np.ndarray]]]) -> np.ndarray:
    """`minibatch_cka` of all pairs; NaN if all samples of a layer are equally similar."""
    cross, own_a, own_b = (
        sum(part)
        for part in zip(*(kernels.products(*_in_float64(each)) for each in seen), strict=True)
    )
    scale = np.outer(np.sqrt(own_a), np.sqrt(own_b))
    return np.divide(cross, scale, out=np.full(cross.shape, np.nan), where=scale > 0)


def _in_float64(spaces):
    return [[x.astype("float64") for x in each] for each in spaces]


def _of_whole_layers(seen, networks, measure):
    spaces_a, spaces_b = (
        [np.concatenate(rows) for rows in zip(*parts, strict=True)]
        for parts in zip(*seen, strict=True)
    )
    function = MEASURES[measure] if isinstance(measure, str) else measure
    matrix = np.full((len(spaces_a), len(spaces_b)), np.nan)
    for i, a in enumerate(spaces_a):
        for j, b in enumerate(spaces_b):
            if _differs(a) and _differs(b):
                matrix[i, j] = _measured(function, (a, b), networks, (i, j))
    return matrix


def _differs(x):
    return bool((x != x[:1]).any())


def _measured(function, spaces, networks, places):
    try:
        return function(*spaces)
    except ValueError as error:
        a, b = (
            f"'{network.paths[place]}' of '{network.name}'"
            for network, place in zip(networks, places, strict=True)
        )
        raise ValueError(f"{error} Here `a` is {a}, and `b` is {b}.") from error
