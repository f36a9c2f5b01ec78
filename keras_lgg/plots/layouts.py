"""Positions of the nodes of a latent geometry graph in the plane, for figures, in NumPy.

[1] Belkin and Niyogi, "Laplacian eigenmaps for dimensionality reduction and data representation",
    Neural Computation 15(6), 2003.
[2] van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 9, 2008.
[3] Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31(1),
    1966.
"""

import numpy as np

from keras_lgg import checks


def spectral(weights):
    """Laplacian eigenmaps [1]: the two smoothest signals on a graph, as coordinates.

    These are the solutions of ``L y = λ D y`` with the smallest λ, without the constant one. A node
    without edges has no place of its own, and gets the mean of the others.

    Args:
        weights: Symmetric array ``(n, n)``, at least 0, with a zero diagonal.

    Returns:
        Array ``(n, 2)``, centred, with a mean square of 1.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.plots import layouts
        >>> path = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
        >>> spread = layouts.spectral(path)[:, 0]  # from end to end
        >>> bool(spread[0] > spread[1] > spread[2])
        True
    """
    degree = weights.sum(axis=1)
    connected = degree > 0
    positions = np.zeros((len(weights), 2))
    if connected.any():
        root = np.sqrt(degree[connected])
        constant = root / np.linalg.norm(root)
        weights = weights[np.ix_(connected, connected)] / np.outer(root, root)
        # The eigenvalues lie in [0, 2]; that of the constant becomes the last. So the other
        # vectors stay right if the graph is not connected, and several eigenvalues are 0.
        laplacian = np.eye(len(root)) - weights + 3 * np.outer(constant, constant)
        axes = np.linalg.eigh(laplacian)[1][:, : min(2, len(root) - 1)]
        positions[connected, : axes.shape[1]] = axes / root[:, None]
        positions[connected] -= positions[connected].mean(axis=0)
    return _scaled(_with_signs(positions))


def principal(rows):
    """The first two principal components.

    Args:
        rows: Array ``(n, d)``.

    Returns:
        Array ``(n, 2)``, centred, with a mean square of 1.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.plots import layouts
        >>> layouts.principal(np.array([[0.0, 1.0], [0.0, 3.0]]))[:, 0].tolist()
        [1.0, -1.0]
    """
    left, scales, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    positions = np.zeros((len(rows), 2))
    positions[:, : min(2, len(scales))] = (left * scales)[:, :2]
    return _scaled(_with_signs(positions))


def tsne(rows, seed):
    """t-SNE [2] by scikit-learn, for rows ``(n, d)``; returns what `principal` returns."""
    embedding = checks.require("sklearn.manifold", "manifolds").TSNE(
        # A random start: PCA would refuse fewer than two features.
        perplexity=min(30, (len(rows) - 1) / 3),
        init="random",
        random_state=seed,
    )
    positions = embedding.fit_transform(rows.astype("float32")).astype("float64")
    return _scaled(positions - positions.mean(axis=0))


def turned(positions, target):
    """Positions ``(n, 2)``, rotated or mirrored to lie as near to others as possible [3].

    Example:
        >>> import numpy as np
        >>> from keras_lgg.plots import layouts
        >>> corner = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> np.round(layouts.turned(corner[:, ::-1], corner), 6).tolist()
        [[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]]
    """
    left, _, right = np.linalg.svd(positions.T @ target)
    return positions @ (left @ right)


def _with_signs(positions):
    """The same, with the arbitrary signs of the axes chosen: the largest entry is positive."""
    largest = np.take_along_axis(positions, np.abs(positions).argmax(axis=0)[None], axis=0)
    return positions * np.where(largest < 0, -1, 1)


def _scaled(positions):
    size = np.sqrt(np.mean(np.sum(positions**2, axis=1)))
    return positions / size if size > 0 else positions
