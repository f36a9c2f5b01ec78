"""Numbers that describe the geometry of a layer on a batch; NaN if there is none.

[1] Roy, Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
"""

import numpy as np
from keras import ops

from keras_lgg import graphs, losses
from keras_lgg.graphs.construction import nearest_neighbours
from keras_lgg.graphs.differences import full_graph
from keras_lgg.graphs.numerics import flatten_representation
from keras_lgg.graphs.pairs import rows_of_block
from keras_lgg.relative.comparison import linear_cka


def effective_rank(x: np.ndarray) -> float:
    """The number of directions that a representation ``(n, d)`` uses: exp of its spectral entropy.

    The singular values of ``x``, not centred, are divided by their sum. The result lies between 1
    and ``min(n, d)``; it is 0 if all values are zero, and NaN if a value is not finite.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.callbacks.measures import effective_rank
        >>> round(effective_rank(np.eye(5, 3)), 6), round(effective_rank(np.ones((5, 3))), 4)
        (3.0, 1.0)

    Reference: [1]
    """
    if not np.isfinite(x).all():
        return np.nan
    values = np.linalg.svd(x, compute_uv=False).astype("float64")
    values = values[values > 0]
    shares = values / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0


def isolated_nodes(x: np.ndarray, *, k: int | None = None) -> float:
    """Share of the samples without an edge in ``latent_geometry_graph(x, k=k)``.

    These are rows of zeros, and samples whose similarities to the others sum to 0 or less: the
    degree normalisation of the losses leaves them out.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.callbacks.measures import isolated_nodes
        >>> isolated_nodes(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        0.5

    Reference: Algorithms 14(2):39
    """
    if not np.isfinite(x).all():
        return np.nan
    graph = full_graph(flatten_representation(x), rows_of_block(len(x), None))
    if k is not None:
        graph = nearest_neighbours(graph, k)
    edges = graph.map_rows(lambda values, *_: ops.max(ops.abs(values), axis=1))
    return float(np.mean(ops.convert_to_numpy(edges) == 0))


def label_smoothness(
    x: np.ndarray, labels: np.ndarray, num_classes: int, *, k: int | None = None
) -> float:
    """`keras_lgg.graphs.label_smoothness` with ``relative=True``, comparable across batch sizes."""
    if not np.isfinite(x).all():
        return np.nan
    return float(graphs.label_smoothness(x, labels, num_classes=num_classes, k=k, relative=True))


def graph_change(x: np.ndarray, following: np.ndarray, *, k: int | None = None) -> float:
    """`keras_lgg.losses.graph_variation` of two layers."""
    if not (np.isfinite(x).all() and np.isfinite(following).all()):
        return np.nan
    return float(losses.graph_variation([x, following], k=k))


def alignment(x: np.ndarray, reference: np.ndarray) -> float:
    """`keras_lgg.relative.linear_cka`; NaN if one of the two is the same for all samples."""
    for rows in (x, reference):
        if not np.isfinite(rows).all() or (rows == rows[:1]).all():
            return np.nan
    return linear_cka(x, reference)
