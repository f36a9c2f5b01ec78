"""Strata of latent tensors: mode unfoldings, covariances and numerical ranks, in NumPy.

A latent tensor ``(H, W, C)`` is seen three ways: as the matrix of its rows, of its columns and of
its channels. The covariance of each is a symmetric positive semi-definite matrix. All such
matrices of one rank form a manifold, a *stratum*, and a latent tensor lies in the stratum that is
named by the ranks of its three covariances.

[1] Shrivastava, Rameshan, Agnihotri, "Latent space characterization of autoencoder variants",
    arXiv 2412.04755.
"""

import collections
import typing
from collections.abc import Sequence

import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.arrays import host_array
from keras_lgg.types import ArrayLike

MODES = (1, 2, 3)
EPSILON = float(np.finfo("float32").eps)  # latents come from networks, which compute in float32


def unfold(latents: ArrayLike, *, mode: int) -> np.ndarray:
    r"""Latent tensors as matrices of their rows, columns or channels.

    The unfolding of a tensor Z along its rows (mode 1), columns (2) or channels (3) is a matrix
    :math:`X_{(k)}` with one row for each index along that axis; its columns run over the other two
    axes:

    .. math::

        X_{(1)} \in \mathbb{R}^{H \times WC}, \qquad
        X_{(2)} \in \mathbb{R}^{W \times HC}, \qquad
        X_{(3)} \in \mathbb{R}^{C \times HW}

    Args:
        latents: Array of shape ``(..., H, W, C)``.
        mode: 1 for rows, 2 for columns, 3 for channels.

    Returns:
        Array of shape ``(..., H, W * C)``, ``(..., W, H * C)`` or ``(..., C, H * W)``.

    Raises:
        ValueError: If ``mode`` is another number, or the latents have fewer than 3 axes.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> z = np.arange(12).reshape(1, 2, 2, 3)
        >>> manifolds.unfold(z, mode=3)[0]
        array([[ 0,  3,  6,  9],
               [ 1,  4,  7, 10],
               [ 2,  5,  8, 11]])

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, section 3, https://arxiv.org/abs/2412.04755
    """
    latents = host_array("latents", latents, "float32 or float64 latents of shape (..., H, W, C)")
    checks.check_choice("mode", mode, MODES)
    if latents.ndim < 3:
        raise checks.invalid("latents", "shape (..., H, W, C)", f"shape {latents.shape}")
    first = latents.ndim - 3
    moved = np.moveaxis(latents, first + mode - 1, first)
    return moved.reshape(*moved.shape[: first + 1], -1)


def mode_covariance(latents: ArrayLike, *, mode: int) -> np.ndarray:
    r"""Covariance of the rows, columns or channels of latent tensors.

    With :math:`\bar X_{(k)}` the unfolding of mode k, each row minus its own mean, and
    :math:`m_k` its number of columns, it is

    .. math::

        S_k = \frac{1}{m_k - 1} \bar X_{(k)} \bar X_{(k)}^\top

    Args:
        latents: Array of shape ``(..., H, W, C)``, of float32 or float64.
        mode: 1 for rows, 2 for columns, 3 for channels.

    Returns:
        Symmetric positive semi-definite float64 array ``(..., d, d)``, where d is H, W or C.

    Raises:
        ValueError: If ``mode`` is not 1, 2 or 3, or the latents are not finite float32 or float64
            tensors with at least two columns in each unfolding.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> z = np.random.default_rng(0).normal(size=(5, 7, 7, 128))
        >>> manifolds.mode_covariance(z, mode=2).shape
        (5, 7, 7)

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, section 3, https://arxiv.org/abs/2412.04755
    """
    centred = _centred(checked_latents(latents), mode)
    return centred @ np.swapaxes(centred, -1, -2) / (centred.shape[-1] - 1)


def mode_ranks(latents: ArrayLike, *, rtol: float | None = None) -> np.ndarray:
    r"""Numerical ranks of the three covariances of latent tensors: the strata they lie in.

    The rank of mode k counts the singular values :math:`s_i` of the centred unfolding that are
    above ``rtol`` times the largest one and above the rounding of float32, with :math:`\epsilon`
    its machine epsilon and Z the latent before it was centred:

    .. math::

        r_k = \bigl| \{ i : s_i > \max(\text{rtol} \cdot s_1, \, \epsilon \|Z\|_F) \} \bigr|

    So jitter in the last digit of a latent adds no rank, and a constant tensor has rank 0.

    Args:
        latents: Array of shape ``(..., H, W, C)``, of float32 or float64.
        rtol: A number in (0, 1); by default, for an unfolding ``(d, m)``, ``max(d, m)`` times the
            machine epsilon of float32, whatever the dtype.

    Returns:
        Integer array ``(..., 3)``; for an unfolding ``(d, m)``, the rank is at most
        ``min(d, m - 1)``, as in `largest_ranks`.

    Raises:
        ValueError: If ``rtol`` is out of range, or the latents are not finite float32 or float64
            tensors with at least two columns in each unfolding.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> z = np.random.default_rng(0).normal(size=(7, 7, 128))
        >>> manifolds.mode_ranks(z)
        array([ 7,  7, 48])
        >>> z[6] = z[0]  # a border row twice
        >>> manifolds.mode_ranks(z)
        array([ 6,  7, 41])

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, section 3, https://arxiv.org/abs/2412.04755
    """
    latents = checked_latents(latents)
    return np.stack([_mode_ranks(latents, mode, rtol) for mode in MODES], axis=-1)


def largest_ranks(shape: Sequence[int]) -> tuple[int, ...]:
    r"""The largest ranks that latents of a given shape can have.

    For an unfolding with :math:`d_k` rows and :math:`m_k` columns, centring removes one rank:

    .. math::

        r_k \le \min(d_k, m_k - 1)

    Args:
        shape: The triple ``(H, W, C)``.

    Returns:
        Triple of integers, one for each mode.

    Example:
        >>> from keras_lgg import manifolds
        >>> manifolds.largest_ranks((7, 7, 128)), manifolds.largest_ranks((8, 8, 128))
        ((7, 7, 48), (8, 8, 63))

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, https://arxiv.org/abs/2412.04755, whose largest rank of 7 x 7 x 128 latents is
    48
    """
    expected = "the triple (H, W, C) of positive integers"
    numbers = host_array("shape", shape, expected)
    if numbers.shape != (3,) or numbers.dtype.kind not in "iu" or numbers.min() < 1:
        raise checks.invalid("shape", expected, repr(shape))
    shape = tuple(numbers.tolist())
    size = int(np.prod(shape))
    return tuple(min(d, size // d - 1) for d in shape)


def strata(ranks: ArrayLike) -> collections.Counter[tuple[int, ...]]:
    """How many latents lie in each stratum.

    A stratum is named by the triple of ranks :math:`(r_1, r_2, r_3)` of the three covariances of a
    latent; counted is how often each triple occurs.

    Args:
        ranks: Integer array ``(..., 3)``, from `mode_ranks`.

    Returns:
        `collections.Counter` from a triple of ranks to the number of latents, largest first.

    Example:
        >>> from keras_lgg import manifolds
        >>> manifolds.strata([[7, 7, 48], [7, 6, 40], [7, 7, 48]])
        Counter({(7, 7, 48): 2, (7, 6, 40): 1})

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, https://arxiv.org/abs/2412.04755
    """
    expected = "integers of shape (..., 3), the ranks of latents"
    ranks = host_array("ranks", ranks, expected)
    if ranks.ndim == 0 or ranks.shape[-1] != 3:
        raise checks.invalid("ranks", expected, f"shape {ranks.shape}")
    counts = collections.Counter(map(tuple, np.reshape(ranks, (-1, 3)).tolist()))
    return collections.Counter(dict(counts.most_common()))


class ModeFactors(typing.NamedTuple):
    """The covariances of one mode of many latents, by their eigenvectors.

    Beyond the rank of a latent, the columns of its ``vectors`` and ``variances`` are zeros.

    Args:
        vectors: Array ``(n, d, r)``, orthonormal columns.
        variances: Array ``(n, r)``, eigenvalues in descending order, with sum 1.
        singular_values: Array ``(n, min(d, m))``, of the centred unfolding.
        ranks: Integer array ``(n,)``.
    """

    vectors: np.ndarray
    variances: np.ndarray
    singular_values: np.ndarray
    ranks: np.ndarray


def mode_factors(latents, *, mode, rtol=None):
    """`ModeFactors` of latents ``(n, H, W, C)``, from the SVD of the unfolding."""
    latents = checked_latents(latents)
    vectors, values, _ = np.linalg.svd(_centred(latents, mode), full_matrices=False)
    ranks = _rank(latents, mode, values, rtol)
    kept = np.arange(values.shape[-1]) < ranks[..., None]
    largest = np.where(ranks > 0, values[..., 0], 1)[..., None]
    variances = np.where(kept, (values / largest) ** 2, 0)
    variances /= np.maximum(variances.sum(axis=-1, keepdims=True), 1)  # the largest is 1
    # No latent has a higher rank than this: further columns would be zeros for all.
    width = largest_ranks(latents.shape[-3:])[mode - 1]
    vectors = np.where(kept[..., None, :], vectors, 0)[..., :width]
    return ModeFactors(vectors, variances[..., :width], values, ranks)


def ranks_at(factors, latents, *, mode, rtol):
    """The ranks at another tolerance, without a new SVD."""
    return _rank(checked_latents(latents), mode, factors.singular_values, rtol)


def checked_latents(latents):
    """The latents in float64, finite, of shape ``(..., H, W, C)``."""
    latents = host_array("latents", latents, "float32 or float64 latents of shape (..., H, W, C)")
    dtype = latents.dtype
    if latents.ndim < 3 or 0 in latents.shape:
        raise checks.invalid("latents", "shape (..., H, W, C)", f"shape {latents.shape}")
    if dtype not in ("float32", "float64"):
        raise checks.invalid(
            "latents",
            "float32 or float64: ranks count singular values down to the rounding of float32 (in "
            "half precision, load the encoder with the dtype policy 'float32')",
            f"an array of {dtype}",
        )
    latents = latents.astype("float64", copy=False)
    if not (np.abs(latents) < 1e100).all():  # squares must not overflow; False for NaN
        received = "an array with NaN or infinite values, or larger ones"
        raise checks.invalid("latents", "finite values, below 1e100 in size", received)
    size = int(np.prod(latents.shape[-3:]))
    if any(size // d < 2 for d in latents.shape[-3:]):
        expected = "at least two columns in each unfolding (of one, there is no covariance)"
        raise checks.invalid("latents", expected, f"tensors of shape {latents.shape[-3:]}")
    return latents


def _centred(latents, mode):
    unfolded = unfold(latents, mode=mode)
    return unfolded - unfolded.mean(axis=-1, keepdims=True)


def _mode_ranks(latents, mode, rtol):
    values = np.linalg.svd(_centred(latents, mode), compute_uv=False)
    return _rank(latents, mode, values, rtol)


def _rank(latents, mode, singular_values, rtol):
    d = latents.shape[mode - 4]
    columns = int(np.prod(latents.shape[-3:])) // d
    if rtol is None:
        rtol = max(d, columns) * EPSILON
    else:
        checks.check_fraction("rtol", rtol)
    norm = np.sqrt(np.sum(latents**2, axis=(-3, -2, -1)))
    threshold = np.maximum(rtol * singular_values[..., 0], EPSILON * norm)
    return np.count_nonzero(singular_values > threshold[..., None], axis=-1)
