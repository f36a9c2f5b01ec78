"""Canonical correlation of two latent spaces: what a linear map can tell of one from the other.

    svcca(a, b)   mean correlation of the directions that hold most of the variance
    pwcca(a, b)   mean over all, each weighted by how much of the features lies along it

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
    r"""SVCCA: mean canonical correlation of the principal directions of two spaces of any widths.

    From each centred space, the fewest principal components are kept that hold a share ``variance``
    of its variance. With :math:`U_a` and :math:`U_b` their left singular vectors,
    :math:`n \times k_a` and :math:`n \times k_b`, the canonical correlations are singular values,
    and SVCCA is their mean:

    .. math::

        \text{svcca} = \frac{1}{k} \sum_{i=1}^{k} \rho_i, \qquad
        \rho_i = \sigma_i(U_a^\top U_b), \qquad k = \min(k_a, k_b)

    It does not change when a space is rotated, shifted or scaled as a whole; with ``variance=1``,
    no invertible linear map of a space changes it.

    It ignores how large a direction is, and needs many times more samples than directions: with
    fewer, it is far above 0 even for independent spaces. It takes singular value decompositions of
    both spaces in float64: time of order n d², and a few copies of the spaces.

    Args:
        a: Array of shape ``(n, ...)``, one row per sample, of floats or integers.
        b: Array of shape ``(n, ...)``, the same samples in another space, of any width.
        variance: Share of the variance to keep, a number in (0, 1].

    Returns:
        A float in [0, 1]; 1 if one of the reduced spaces is a linear map of the other.

    Raises:
        ValueError: If the spaces differ in length, one of them has NaN or infinite values or the
            same row for all samples, one of them keeps n - 1 directions or more, so that all
            correlations would be 1 trivially, or ``variance`` is not as above.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import svcca
        >>> rng = np.random.default_rng(0)
        >>> a = rng.normal(size=(500, 8))
        >>> round(svcca(a, a @ rng.normal(size=(8, 8)), variance=1), 6)
        1.0
        >>> print(f"{svcca(a, a[:, :4]):.2f} {svcca(a, rng.normal(size=(500, 8))):.2f}")
        1.00 0.11

    Reference: Raghu et al., "SVCCA: singular vector canonical correlation analysis for deep
    learning dynamics and interpretability", NeurIPS 2017, https://arxiv.org/abs/1706.05806
    """
    _check_share(variance)
    rows_a, rows_b = paired_rows(a, b)
    first = _directions("a", rows_a, variance)
    second = _directions("b", rows_b, variance)
    return float(np.mean(_correlations(first, second)[1]))


def pwcca(a: ArrayLike, b: ArrayLike, *, whitened: bool = True) -> float:
    r"""PWCCA: mean canonical correlation of two spaces, weighted by what directions account for.

    With :math:`\rho_i` the canonical correlations and :math:`h_i` the unit canonical directions,
    one number per sample, of the space with fewer features (``a`` if both have equally many), whose
    centred features are the columns :math:`x_j`, it is

    .. math::

        \text{pwcca} = \frac{\sum_i \alpha_i \rho_i}{\sum_i \alpha_i}, \qquad
        \alpha_i = \sum_j |\langle h_i, x_j \rangle|

    It does not change when a space is shifted or scaled as a whole, or under any invertible linear
    map of the wider space; a rotation of the other changes the weights.

    Like `svcca`, it needs many times more samples than directions, and takes singular value
    decompositions of both spaces in float64.

    Args:
        a: Array of shape ``(n, ...)``, one row per sample, of floats or integers.
        b: Array of shape ``(n, ...)``, the same samples in another space, of any width.
        whitened: Whether the weights are those of the paper, as above. ``False`` gives those of the
            code that was published with it, and of packages that follow it, such as ReSi, for
            comparison with their numbers: it rotates the principal components without whitening
            them, and then makes them orthonormal one after the other.

    Returns:
        A float in [0, 1]; 1 if the space with fewer features is a linear map of the other.

    Raises:
        ValueError: If the spaces differ in length, one of them has NaN or infinite values or the
            same row for all samples, or one of them has n - 1 directions or more.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import pwcca, svcca
        >>> rng = np.random.default_rng(0)
        >>> a = rng.normal(size=(500, 6)) * [9, 9, 1, 1, 1, 1]
        >>> b = np.concatenate([a[:, :2], rng.normal(size=(500, 6))], axis=1)  # the larger two
        >>> print(f"{svcca(a, b):.2f} {pwcca(a, b):.2f}")
        0.45 0.75

    Reference: Morcos et al., "Insights on representational similarity in neural networks with
    canonical correlation", NeurIPS 2018, https://arxiv.org/abs/1806.05759
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
            f"fewer directions than the {len(x)} samples allow, for all spaces share those. Take "
            "more samples, pool what has positions, or keep less of the variance"
        )
        raise checks.invalid(argument, expected, f"a space of {kept} directions")
    return u[:, :kept]


def _unwhitened(features, directions, turn):
    """The rotated principal components ``(n, k)``, made orthonormal by Gram and Schmidt."""
    components = directions * np.linalg.norm(directions.T @ features, axis=1)
    return np.linalg.qr(components @ turn)[0]


def _rounding(x):
    """What rounding alone makes of singular values, on the scale of `centred`."""
    return np.finfo(x.dtype).eps * np.linalg.norm(x.astype("float64") / np.max(np.abs(x)))


def _correlations(first, second):
    """The rotation of the first directions into the canonical ones, and the correlations."""
    turn, values, _ = np.linalg.svd(first.T @ second, full_matrices=False)
    return turn, np.minimum(values, 1)
