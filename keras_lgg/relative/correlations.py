"""Canonical correlation of two latent spaces: what one can say of the other by a linear map.

    svcca(a, b)   mean correlation of the directions that hold most of the variance
    pwcca(a, b)   mean of all, each weighted by how much the features lie along it

[1] Raghu et al., "SVCCA: singular vector canonical correlation analysis for deep learning dynamics
    and interpretability", arXiv 1706.05806.
[2] Morcos et al., "Insights on representational similarity in neural networks with canonical
    correlation", arXiv 1806.05759.
"""

import numbers

import numpy as np

from keras_lgg import checks
from keras_lgg.relative.comparison import centred, paired_rows
from keras_lgg.types import ArrayLike


def svcca(a: ArrayLike, b: ArrayLike, *, variance: float = 0.99) -> float:
    """Mean canonical correlation of the principal directions of two spaces of any widths.

    Of each centred space the fewest principal components are kept that hold a share ``variance``
    of its variance, and the canonical correlations of these are averaged, as many as the smaller
    number of components. It does not change when a space is rotated, shifted or scaled as a
    whole; with ``variance=1`` it is the mean of all correlations, and no invertible linear map of
    a space changes it.

    It sees nothing of how large a direction is, and needs many times more samples than directions:
    of independent spaces it is far above 0 otherwise. It takes singular value decompositions of
    both spaces in float64, a time of n d² and a few copies of them.

    Args:
        a: Array of shape ``(n, ...)``, one row a sample, of floats or integers.
        b: Array of shape ``(n, ...)``, the same samples in another space, of any width.
        variance: Number in (0, 1].

    Returns:
        A float in [0, 1]; 1 where one of the reduced spaces is a linear map of the other.

    Raises:
        ValueError: If the spaces differ in length, one of them has NaN or infinite values or the
            same row for all samples, the directions of one are not fewer than n - 1, where all
            correlations are 1 by themselves, or ``variance`` is not as above.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import svcca
        >>> rng = np.random.default_rng(0)
        >>> a = rng.normal(size=(500, 8))
        >>> round(svcca(a, a @ rng.normal(size=(8, 8)), variance=1), 6)
        1.0
        >>> print(f"{svcca(a, a[:, :4]):.2f} {svcca(a, rng.normal(size=(500, 8))):.2f}")
        1.00 0.11

    Reference: [1]
    """
    _check_share(variance)
    rows_a, rows_b = paired_rows(a, b)
    first = _directions("a", rows_a, variance)
    second = _directions("b", rows_b, variance)
    return float(np.mean(_correlations(first, second)[1]))


def pwcca(a: ArrayLike, b: ArrayLike, *, whitened: bool = True) -> float:
    """Mean canonical correlation of two spaces, weighted by what the directions account for.

    The canonical directions of the space of fewer features, of ``a`` if there are as many, are
    vectors ``h_i`` of one number a sample. The weight of the correlation i is the sum of
    ``|h_i · x_j|`` over the centred features ``x_j`` of that space. It does not change when a
    space is shifted or scaled as a whole, nor by any invertible linear map of the wider space;
    a rotation of the other changes the weights.

    What `svcca` says of samples and of costs holds here, too.

    Args:
        a: Array of shape ``(n, ...)``, one row a sample, of floats or integers.
        b: Array of shape ``(n, ...)``, the same samples in another space, of any width.
        whitened: Whether the weights are those of the paper. ``False`` gives those of the code that
            was published with it, and of packages that follow it, such as ReSi, to compare with
            their numbers: it turns the features, does not whiten them, and makes what it has
            orthonormal one after the other.

    Returns:
        A float in [0, 1]; 1 where the space of fewer features is a linear map of the other.

    Raises:
        ValueError: If the spaces differ in length, one of them has NaN or infinite values or the
            same row for all samples, or the directions of one are not fewer than n - 1.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import pwcca, svcca
        >>> rng = np.random.default_rng(0)
        >>> a = rng.normal(size=(500, 6)) * [9, 9, 1, 1, 1, 1]
        >>> b = np.concatenate([a[:, :2], rng.normal(size=(500, 6))], axis=1)  # the larger two
        >>> print(f"{svcca(a, b):.2f} {pwcca(a, b):.2f}")
        0.45 0.75

    Reference: [2]
    """
    rows_a, rows_b = paired_rows(a, b)
    first, second = _directions("a", rows_a), _directions("b", rows_b)
    if rows_a.shape[1] > rows_b.shape[1]:
        rows_a, first, second = rows_b, second, first
    turn, correlations = _correlations(first, second)
    features = centred("a", rows_a)
    directions = first @ turn if whitened else _unwhitened(features, first, turn)
    weights = np.abs(features.T @ directions).sum(axis=0)
    return float(weights @ correlations / weights.sum())


def _check_share(variance):
    is_number = isinstance(variance, numbers.Real) and not isinstance(variance, bool)
    if not is_number or not 0 < variance <= 1:
        raise checks.invalid("variance", "a number in (0, 1]", repr(variance))


def _directions(argument, x, variance=1.0):
    """Orthonormal principal directions ``(n, k)`` that hold a share of the variance."""
    u, values, _ = np.linalg.svd(centred(argument, x), full_matrices=False)
    shares = np.cumsum(values**2)
    kept = 1 + np.searchsorted(shares, variance * shares[-1])
    kept = min(kept, np.count_nonzero(values > _rounding(x)))
    if kept >= len(x) - 1:
        expected = (
            f"fewer directions than the {len(x)} samples have at most, which all spaces share. "
            "Take more samples, pool what has positions, or keep less of the variance"
        )
        raise checks.invalid(argument, expected, f"a space of {kept} directions")
    return u[:, :kept]


def _unwhitened(features, directions, turn):
    """The turned principal components ``(n, k)``, orthonormal by Gram and Schmidt."""
    components = directions * np.linalg.norm(directions.T @ features, axis=1)
    return np.linalg.qr(components @ turn)[0]


def _rounding(x):
    """Singular values of rows on the scale of `centred` that rounding alone would give."""
    return np.finfo(x.dtype).eps * np.linalg.norm(x.astype("float64") / np.max(np.abs(x)))


def _correlations(first, second):
    """The turn of the first directions into the canonical ones, and the correlations."""
    turn, values, _ = np.linalg.svd(first.T @ second, full_matrices=False)
    return turn, np.minimum(values, 1)
