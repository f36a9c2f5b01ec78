"""Where the nodes of many graphs of the same samples lie, moving as little as possible.

A layout is that of t-SNE [1] with equal affinity to each of the nearest neighbours, which gives
what calibrated affinities do [2]: it follows only the graph, whatever the scale of its weights. A
graph starts from the nodes of those beside it, and is drawn towards them [3].

[1] van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 9, 2008.
[2] Böhm, Berens and Kobak, "Attraction-repulsion spectrum in neighbor embeddings", JMLR 23, 2022.
[3] Rauber, Falcão and Telea, "Visualizing time-dependent data using dynamic t-SNE", EuroVis 2016.
"""

import numpy as np

from keras_lgg.plots import layouts

NEIGHBOURS = 15  # how many attract a node, if there are three times as many
FIRST, NEXT = 300, 120  # steps from an arbitrary start, and from the nodes of another graph
EXAGGERATION = 4.0  # of the attraction in the first third of the steps: clusters form
TETHER = 0.01  # how strongly the nodes of other graphs attract


def start_of(cosines):
    """Positions ``(n, 2)`` to start from: the eigenmaps of a graph, scaled down."""
    weights = np.maximum(cosines, 0).astype("float64")
    np.fill_diagonal(weights, 0)
    return 1e-2 * layouts.spectral(weights).astype("float32")


def placed(cosines, start, tethers=()):
    """Positions ``(n, 2)`` of the nodes of a graph, centred.

    Args:
        cosines: Similarities ``(n, n)``.
        start: Positions ``(n, 2)``.
        tethers: Positions ``(n, 2)`` in the graphs beside this one, if there are any.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.explorer.placement import placed, start_of
        >>> x = np.eye(2)[np.arange(20) % 2] + 0.01 * np.random.default_rng(0).random((20, 2))
        >>> unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        >>> places = placed(unit @ unit.T, start_of(unit @ unit.T))
        >>> gap = np.linalg.norm(places[::2].mean(axis=0) - places[1::2].mean(axis=0))
        >>> bool(gap > 2 * places[::2].std(axis=0).max())
        True
    """
    attraction = _affinities(cosines)
    n = len(attraction)
    target = np.mean(tethers, axis=0, dtype="float32") if len(tethers) else None
    steps = NEXT if len(tethers) else FIRST
    positions = start.astype("float32")
    velocity, gains = np.zeros_like(positions), np.ones_like(positions)
    rate = max(n / (4 * EXAGGERATION), 50.0)
    for step in range(steps):
        early = step < steps // 3
        slope = _slope(positions, attraction, EXAGGERATION if early else 1.0)
        if target is not None:
            slope += TETHER / n * (positions - target)
        # Gains and momentum are those of [1].
        gains = np.where(slope * velocity < 0, gains + 0.2, np.maximum(0.8 * gains, 0.01))
        velocity = (0.5 if early else 0.8) * velocity - rate * gains * slope
        positions = positions + velocity
    return positions - positions.mean(axis=0)


def _affinities(cosines):
    """Symmetric array ``(n, n)`` with sum 1: each node is attracted by its nearest ones."""
    n = len(cosines)
    k = min(NEIGHBOURS, max(1, (n - 1) // 3))
    others = cosines - 4 * np.eye(n, dtype=cosines.dtype)  # below any cosine
    nearest = np.argpartition(-others, k - 1, axis=1)[:, :k]
    found = np.zeros((n, n), "float32")
    np.put_along_axis(found, nearest, 1, axis=1)
    return (found + found.T) / (2 * n * k)


def _slope(positions, attraction, exaggeration):
    """The gradient ``(n, 2)`` of the divergence that t-SNE minimises."""
    squares = np.sum(positions**2, axis=1)
    closeness = squares[:, None] + squares - 2 * positions @ positions.T
    np.maximum(closeness, 0, out=closeness)
    closeness += 1
    np.reciprocal(closeness, out=closeness)
    np.fill_diagonal(closeness, 0)
    forces = exaggeration * attraction - closeness / closeness.sum()
    forces *= closeness
    return 4 * (forces.sum(axis=1)[:, None] * positions - forces @ positions)
