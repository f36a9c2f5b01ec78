"""A Hilbert space for latent tensors: product distances, kernels, coordinates, subspaces.

The steps follow each other::

    squared = product_distances(latents)  # (n, n), of all pairs
    points = hilbert_map(product_kernel(squared))  # (n, p), with these Euclidean distances
    angles = principal_angles(subspace(points[:100]), subspace(points[100:]))

[1] Shrivastava, Rameshan, Agnihotri, "Latent space characterization of autoencoder variants",
    arXiv 2412.04755.
[2] Schoenberg, "Metric spaces and positive definite functions", Trans. AMS 44(3), 1938.
"""

import numbers
from collections.abc import Sequence

import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.arrays import host_array
from keras_lgg.manifolds.distances import check_kappa
from keras_lgg.manifolds.strata import MODES, mode_factors
from keras_lgg.types import ArrayLike

KERNELS = ("distance", "gaussian")
MOST_POINTS = 3000  # their eigenvectors take about ten seconds and 200 MiB
BLOCK = 2**22  # numbers of features at a time, 32 MiB
KEPT = 1e-10  # eigenvalues of a kernel above this share of the largest make coordinates
NEGATIVE = 1e-8  # and none may be below minus this share of it
SAME = 1e-10  # if no distance is above this share of the features' lengths, all is rounding


def product_distances(
    latents: ArrayLike,
    *,
    weights: str | Sequence[float] = "median",
    clean: int | None = None,
    kappa: float = 1.0,
    rtol: float | None = None,
) -> np.ndarray:
    r"""Squared distances of latent tensors, as points of a product of three manifolds.

    They are a weighted sum over the three modes (rows, columns and channels):

    .. math::

        d^2 = \sum_{k=1}^{3} w_k d_k^2 ,

    where :math:`d_k` is the `embedded_distance` of the covariances of mode k, divided by their
    traces.

    Args:
        latents: Array of shape ``(n, H, W, C)``, of float32 or float64, n at most 3000.
        weights: ``"median"``: :math:`w_k` is 1 over the median of :math:`d_k^2` over the pairs of
            clean latents (1 if that is below 1e-12), so that no mode drowns the others. Or three
            numbers of at least 0, not all of them 0.
        clean: How many latents, counted from the first, are clean; by default all.
        kappa: Factor of the logarithms against the subspaces in `embedded_distance`, at least 0.
        rtol: A number in (0, 1): singular values of an unfolding above ``rtol`` times the largest
            count towards the rank; by default as in `mode_ranks`.

    Returns:
        Symmetric float64 array ``(n, n)``, 0 on the diagonal.

    Raises:
        ValueError: If an argument is not as above, or the latents are not finite float32 or float64
            tensors with at least two columns in each unfolding.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> z = np.random.default_rng(0).normal(size=(6, 4, 4, 20))
        >>> squared = manifolds.product_distances(np.concatenate([z, 10 * z]))
        >>> bool(np.allclose(squared[:6, :6], squared[6:, 6:]))  # scale does not count
        True

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, section 3, https://arxiv.org/abs/2412.04755
    """
    latents = host_array("latents", latents, "float32 or float64 latents of shape (n, H, W, C)")
    if latents.ndim != 4:
        raise checks.invalid("latents", "shape (n, H, W, C)", f"shape {latents.shape}")
    factors = [mode_factors(latents, mode=mode, rtol=rtol) for mode in MODES]
    clean = len(latents) if clean is None else clean
    squared, _ = weighted_distances(factors, weights=weights, clean=clean, kappa=kappa)
    return squared


def weighted_distances(factors, *, weights, clean, kappa):
    """`product_distances` from the `strata.ModeFactors` of each mode, with the three weights."""
    n = len(factors[0].ranks)
    check_points(n)
    check_kappa(kappa)
    if n < 2:
        raise checks.invalid("latents", "at least 2 latents", f"{n}")
    checks.check_positive_integer("clean", clean)
    if not 2 <= clean <= n:
        raise checks.invalid("clean", f"from 2 to {n}, the number of latents", clean)
    given = _checked_weights(weights)
    total, used = np.zeros((n, n)), []
    for mode, each in enumerate(factors):
        squared = _squared_distances(each, kappa)
        weight = median_weight(squared[:clean, :clean]) if given is None else given[mode]
        total += weight * squared
        used.append(weight)
    return total, tuple(used)


def product_kernel(
    squared_distances: ArrayLike, *, kernel: str = "distance", gamma: float | str = "median"
) -> np.ndarray:
    r"""A positive semi-definite kernel, from squared distances.

    With D the matrix of the squared distances :math:`d_{ij}^2`, the two kernels are

    .. math::

        K = -\tfrac{1}{2} J D J, \quad J = I - \tfrac{1}{n} 1 1^\top, \qquad \text{and} \qquad
        K_{ij} = \exp(-\gamma d_{ij}^2)

    The squared distances of `product_distances` are Euclidean distances between features, so both
    kernels are positive semi-definite, for every :math:`\gamma > 0`. With distances that depend on
    how a pair is aligned, such as `bonnabel_sepulchre_distance`, they need not be.

    Args:
        squared_distances: Array ``(n, n)``, from `product_distances`.
        kernel: ``"distance"``, the first one, whose space has the given distances; or
            ``"gaussian"``, the second one.
        gamma: :math:`\gamma` of the Gaussian kernel: a positive number, or ``"median"`` for 1 over
            the median of the squared distances of all pairs (1 if that is below 1e-12).

    Returns:
        Symmetric float64 array ``(n, n)``.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> manifolds.product_kernel(np.array([[0.0, 4.0], [4.0, 0.0]]))
        array([[ 1., -1.],
               [-1.,  1.]])

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, section 3, https://arxiv.org/abs/2412.04755; positive definiteness: Schoenberg,
    "Metric spaces and positive definite functions", Trans. AMS 44(3), 1938
    """
    squared = _checked_squares(squared_distances)
    checks.check_choice("kernel", kernel, KERNELS)
    if kernel == "distance":
        return -0.5 * _centred_twice(squared)
    if gamma == "median":
        gamma = median_weight(squared)
    checks.check_positive("gamma", gamma)
    return np.exp(-float(gamma) * squared)


def hilbert_map(kernel: ArrayLike) -> np.ndarray:
    r"""Points of a Euclidean space whose inner products are a kernel, once it is centred.

    With the eigenvectors V and the eigenvalues :math:`\Lambda` of the centred kernel
    :math:`J K J = V \Lambda V^\top`, where :math:`J = I - 1 1^\top / n`, the points are the rows of

    .. math::

        Y = V \Lambda^{1/2}

    Args:
        kernel: Positive semi-definite array ``(n, n)``, from `product_kernel`, n at most 3000.

    Returns:
        Float64 array ``(n, p)`` of mean 0, with the axes of the largest spread first; ``p < n`` is
        the number of eigenvalues above 1e-10 of the largest. With the kernel "distance", the points
        have the distances of the product manifold, and with "gaussian" the squared distances
        ``2 - 2 K``.

    Raises:
        ValueError: If an eigenvalue is below -1e-8 of the largest: the kernel comes from distances
            that no Hilbert space has.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> points = manifolds.hilbert_map(np.array([[1.0, -1.0], [-1.0, 1.0]]))
        >>> float(np.linalg.norm(points[0] - points[1]))
        2.0

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, section 3, https://arxiv.org/abs/2412.04755
    """
    matrix = _checked_square("kernel", kernel)
    values, vectors = np.linalg.eigh(_centred_twice(matrix))
    largest = max(values[-1], 0)
    rounding = 8 * len(matrix) * np.finfo("float64").eps * np.max(np.abs(matrix))
    if values[0] < -max(NEGATIVE * largest, rounding):
        raise ValueError(
            "The kernel has no Hilbert space. Expected a positive semi-definite one. Received: "
            f"eigenvalues from {values[0]:.3g} to {values[-1]:.3g}. Use product_kernel on "
            "product_distances; other distances, such as those along the curves of Bonnabel and "
            "Sepulchre, may have none."
        )
    kept = values > max(KEPT * largest, rounding)
    points = vectors[:, kept] * np.sqrt(values[kept])
    return np.ascontiguousarray(points[:, ::-1])


def subspace(points: ArrayLike, *, energy: float = 0.8) -> np.ndarray:
    r"""The directions along which points spread: an orthonormal basis of the fewest that suffice.

    With :math:`s_1 \ge s_2 \ge \dots` the singular values of the centred points, the basis holds
    the first q right singular vectors, where q is the smallest number with

    .. math::

        \sum_{i=1}^{q} s_i^2 \ge \text{energy} \cdot \sum_i s_i^2

    Args:
        points: Array ``(n, p)``, from `hilbert_map`; their own mean is subtracted.
        energy: Share of the summed squares that the basis must hold, in (0, 1].

    Returns:
        Float64 array ``(p, q)``; q is 0 if all points coincide.

    Raises:
        ValueError: If ``energy`` is out of range, or the points are not finite rows.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> points = np.array([[3.0, 1.0, 7.0], [-3.0, 1.0, 7.0], [0.0, 2.0, 7.0]])
        >>> np.abs(manifolds.subspace(points)).round(6).tolist()
        [[1.0], [0.0], [0.0]]

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, section 3, https://arxiv.org/abs/2412.04755
    """
    points = host_array("points", points, "finite rows (n, p)").astype("float64")
    if points.ndim != 2 or len(points) == 0 or not np.isfinite(points).all():
        raise checks.invalid("points", "finite rows (n, p)", f"an array of shape {points.shape}")
    _check_energy(energy)
    _, values, directions = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    held = np.cumsum(values**2)
    rounding = len(points) * np.finfo("float64").eps
    if not held.size or held[-1] <= rounding**2 * np.sum(points**2):
        return np.zeros((points.shape[1], 0))
    # The margin is for an energy of 1, which the sum may miss by rounding.
    count = np.searchsorted(held, energy * held[-1] * (1 - 1e-12)) + 1
    return directions[:count].T


def principal_angles(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    r"""Angles between two subspaces, in degrees.

    With A and B their orthonormal bases, the angles are given by singular values:

    .. math::

        \cos \theta_i = \sigma_i(A^\top B)

    Args:
        a: Basis of orthonormal columns, shape ``(p, q)``.
        b: Basis of the other subspace, likewise, shape ``(p, q')``.

    Returns:
        Float64 array of ``min(q, q')`` angles from 0 to 90, the largest first. All are 0 if one
        subspace lies in the other.

    Raises:
        ValueError: If the bases belong to spaces of different dimensions.
        ImportError: If scipy is missing; the extra ``manifolds`` brings it.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> manifolds.principal_angles(np.eye(3)[:, :2], np.eye(3)[:, 1:]).round(6).tolist()
        [90.0, 0.0]

    Reference: Björck and Golub, "Numerical methods for computing angles between linear subspaces",
    Math. Comp. 27, 1973; of latent spaces: Shrivastava, Rameshan and Agnihotri, "Latent space
    characterization of autoencoder variants", 2024, https://arxiv.org/abs/2412.04755
    """
    a, b = (
        host_array(name, basis, "a finite basis (p, q)").astype("float64")
        for name, basis in (("a", a), ("b", b))
    )
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise checks.invalid("b", f"a basis (p, q) beside `a` of {a.shape}", f"shape {b.shape}")
    for name, basis in (("a", a), ("b", b)):
        if not np.isfinite(basis).all():
            raise checks.invalid(name, "a finite basis (p, q)", "one with NaN or infinite values")
    if 0 in (a.shape[1], b.shape[1]):
        return np.zeros(0)
    linalg = checks.require("scipy.linalg", "manifolds")
    return np.degrees(linalg.subspace_angles(a, b))


def check_points(n):
    """Raise if there are more points than a kernel may have."""
    if n > MOST_POINTS:
        raise ValueError(
            f"There are too many points for a kernel of all pairs. Expected at most {MOST_POINTS} "
            f"in total, images times levels. Received: {n}. Take fewer images, or fewer levels."
        )


def _check_energy(energy):
    if not isinstance(energy, numbers.Real) or not 0 < energy <= 1:
        raise checks.invalid("energy", "a number in (0, 1]", repr(energy))


def _squared_distances(factors, kappa):
    """Squared embedded distances of the matrices of one mode, (n, n)."""
    n, d, _ = factors.vectors.shape
    positive = factors.variances > 0
    logarithms = np.sqrt(kappa) * np.log(np.where(positive, factors.variances, 1))
    # The upper half of each symmetric matrix: in the norm, entries off the diagonal count twice.
    upper = np.flatnonzero(np.triu(np.ones((d, d))))
    scale = np.where(upper % (d + 1), np.sqrt(2), 1)

    def features(rows):
        vectors = factors.vectors[rows]
        projector = np.sqrt(0.5) * vectors @ np.swapaxes(vectors, 1, 2)
        logarithm = (vectors * logarithms[rows, None, :]) @ np.swapaxes(vectors, 1, 2)
        both = [matrix.reshape(-1, d * d)[:, upper] * scale for matrix in (projector, logarithm)]
        return np.concatenate(both, axis=1)

    # Relative to one of them, so that what all share takes no digits from the differences.
    origin = features(slice(0, 1))
    size = max(1, BLOCK // d**2)
    blocks = [slice(start, start + size) for start in range(0, n, size)]
    gram = np.empty((n, n))
    for i, rows in enumerate(blocks):
        left = features(rows) - origin
        for columns in blocks[: i + 1]:
            right = left if columns == rows else features(columns) - origin
            gram[rows, columns] = left @ right.T
            gram[columns, rows] = gram[rows, columns].T
    norms = gram.diagonal()
    squared = np.maximum(norms[:, None] + norms - 2 * gram, 0)
    lengths = 0.5 * factors.ranks + np.sum(logarithms**2, axis=1)  # of the features, squared
    # All or none: leaving out some would leave distances that no Hilbert space has.
    return squared if squared.max() > SAME**2 * lengths.max() else np.zeros((n, n))


def median_weight(squared):
    """1 over the median of the squared distances of all pairs; 1 if they vanish."""
    median = np.median(squared[np.triu_indices(len(squared), 1)]) if len(squared) > 1 else 0
    return float(1 / median) if median >= 1e-12 else 1.0


def _centred_twice(matrix):
    means = matrix.mean(axis=0)
    centred = matrix - means - means[:, None] + means.mean()
    return (centred + centred.T) / 2  # symmetric to the last digit


def _checked_weights(weights):
    """Three floats, or ``None`` for the median."""
    if isinstance(weights, str) and weights == "median":
        return None
    values = np.asarray(weights, dtype=object).reshape(-1)
    are_numbers = all(isinstance(v, numbers.Real) and 0 <= v < np.inf for v in values)
    if isinstance(weights, str) or len(values) != 3 or not are_numbers or not any(values):
        expected = "'median', or three numbers of at least 0 that are not all 0"
        raise checks.invalid("weights", expected, repr(weights))
    return [float(v) for v in values]


def _checked_square(argument, matrix):
    matrix = host_array(argument, matrix, "a matrix of shape (n, n)").astype("float64")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise checks.invalid(argument, "shape (n, n)", f"shape {matrix.shape}")
    check_points(len(matrix))
    if not np.isfinite(matrix).all():
        raise checks.invalid(argument, "finite values", "a matrix with NaN or infinite values")
    if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-10 * np.max(np.abs(matrix))):
        raise checks.invalid(argument, "a symmetric matrix", "one that differs from its transpose")
    return matrix


def _checked_squares(matrix):
    matrix = _checked_square("squared_distances", matrix)
    if matrix.min() < 0 or matrix.diagonal().any():
        expected = "values of at least 0, and 0 on the diagonal"
        raise checks.invalid("squared_distances", expected, "a matrix with others")
    return matrix
