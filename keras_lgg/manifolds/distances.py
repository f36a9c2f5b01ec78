"""Distances between positive semi-definite matrices, in NumPy.

A matrix of rank r is written as ``A = U R² U^T``: the subspace spanned by its r eigenvectors ``U``,
and the positive definite part ``R²`` on it. There are two distances: `embedded_distance`, which is
Euclidean between features of the matrices and takes any two ranks; and
`bonnabel_sepulchre_distance`, the length of a curve between matrices of one rank.

[1] Shrivastava, Rameshan, Agnihotri, "Latent space characterization of autoencoder variants",
    arXiv 2412.04755.
[2] Bonnabel and Sepulchre, "Riemannian metric and geometric mean for positive semidefinite
    matrices of fixed rank", SIAM J. Matrix Anal. Appl. 31(3), 2010.
[3] Jayasumana et al., "Kernel methods on Riemannian manifolds with Gaussian RBF kernels", IEEE
    TPAMI 37(12), 2015.
"""

import math
import numbers

import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.arrays import host_array
from keras_lgg.manifolds.strata import EPSILON
from keras_lgg.types import ArrayLike

# Below this cosine two subspaces are at a right angle, where no curve is uniquely the shortest.
RIGHT_ANGLE = 1e-8


def embedded_distance(
    a: ArrayLike,
    b: ArrayLike,
    *,
    kappa: float = 1.0,
    normalize: bool = True,
    rtol: float | None = None,
) -> float:
    r"""Euclidean distance between fixed features of two positive semi-definite matrices.

    A matrix :math:`A = U \Lambda U^\top` of rank r, with r orthonormal eigenvectors and positive
    eigenvalues, has two features: the projector :math:`P = U U^\top` on its subspace, and the
    logarithm :math:`L = U \log(\Lambda) U^\top` on it. The distance d is

    .. math::

        d^2 = \tfrac{1}{2} \|P - P'\|_F^2 + \kappa \, \|L - L'\|_F^2

    The first term is the sum of :math:`\sin^2` of the principal angles if the ranks are equal. For
    :math:`\kappa > 0` it is a metric, also across ranks; between positive definite matrices it is
    the log-Euclidean distance times :math:`\sqrt{\kappa}`.

    Args:
        a: Symmetric positive semi-definite matrix, shape ``(d, d)``; computed in float64.
        b: The other matrix, of the same shape.
        kappa: Factor :math:`\kappa` of the second term, at least 0.
        normalize: Whether each matrix is first divided by its trace, so that scale does not matter.
        rtol: A number in (0, 1): eigenvalues above ``rtol`` times the largest count as positive. By
            default ``(d * eps)²``, with the machine epsilon of float32.

    Returns:
        A float.

    Raises:
        ValueError: If the matrices are not finite, symmetric, positive semi-definite and of one
            shape, or ``kappa`` or ``rtol`` is out of range.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> a, b = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
        >>> manifolds.embedded_distance(a, b)  # a right angle, and nothing else
        1.0

    Reference: the features: Jayasumana et al., "Kernel methods on Riemannian manifolds with
    Gaussian RBF kernels", IEEE TPAMI 37(12), 2015; of latent tensors: Shrivastava, Rameshan and
    Agnihotri, "Latent space characterization of autoencoder variants", 2024,
    https://arxiv.org/abs/2412.04755
    """
    first, second = _factors(a, b, normalize, rtol)
    check_kappa(kappa)
    (p, log_a), (q, log_b) = _features(*first), _features(*second)
    return math.sqrt(0.5 * np.sum((p - q) ** 2) + kappa * np.sum((log_a - log_b) ** 2))


def bonnabel_sepulchre_distance(
    a: ArrayLike,
    b: ArrayLike,
    *,
    kappa: float = 1.0,
    normalize: bool = True,
    rtol: float | None = None,
) -> float:
    r"""Length of the curve of Bonnabel and Sepulchre between matrices of one rank.

    Let :math:`A = U R^2 U^\top` and :math:`A' = U' R'^2 U'^\top`, and let the singular value
    decomposition :math:`U^\top U' = O \cos(\Theta) O'^\top` define the principal angles
    :math:`\Theta`. With :math:`\tilde R^2 = O^\top R^2 O` and
    :math:`\tilde R'^2 = O'^\top R'^2 O'`, the parts seen in the principal vectors, the length l is

    .. math::

        l^2 = \|\Theta\|_F^2 + \kappa \sum_i \log^2 \lambda_i(\tilde R'^2, \tilde R^2) ,

    where :math:`\lambda_i` are generalised eigenvalues: the second term is the squared
    affine-invariant distance of the positive definite parts.

    It does not change when both matrices are scaled alike or, with ``normalize=False``, when both
    are pseudo-inverted; at full rank it is then the affine-invariant distance times
    :math:`\sqrt{\kappa}`. It violates the triangle inequality, and kernels built on it need not be
    positive definite: use it for reports, not for kernels.

    Args:
        a: Symmetric positive semi-definite matrix, shape ``(d, d)``; computed in float64.
        b: The other matrix, of the same shape.
        kappa: Factor :math:`\kappa` of the second term, at least 0.
        normalize: Whether each matrix is first divided by its trace.
        rtol: A number in (0, 1): eigenvalues above ``rtol`` times the largest count as positive. By
            default ``(d * eps)²``, with the machine epsilon of float32.

    Returns:
        A float; NaN if the ranks differ, or if subspaces of two or more dimensions have a right
        angle between them, so that there are several such curves.

    Raises:
        ValueError: If the matrices are not finite, symmetric, positive semi-definite and of one
            shape, or ``kappa`` or ``rtol`` is out of range.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> a, b = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
        >>> round(manifolds.bonnabel_sepulchre_distance(a, b), 6)
        1.570796

    Reference: Bonnabel and Sepulchre, "Riemannian metric and geometric mean for positive
    semidefinite matrices of fixed rank", SIAM J. Matrix Anal. Appl. 31(3), 2010; of latent tensors:
    Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder variants",
    2024, https://arxiv.org/abs/2412.04755
    """
    (u, a_values), (v, b_values) = _factors(a, b, normalize, rtol)
    check_kappa(kappa)
    if len(a_values) != len(b_values):
        return math.nan
    return float(curve_lengths(u[None], a_values[None], v[None], b_values[None], kappa=kappa)[0])


def curve_lengths(u, u_values, v, v_values, *, kappa):
    """`bonnabel_sepulchre_distance` of n pairs of one rank r, from their eigenvectors.

    Args:
        u: Array ``(n, d, r)``.
        u_values: Array ``(n, r)``, positive.
        v: Array ``(n, d, r)``.
        v_values: Array ``(n, r)``, positive.
        kappa: See `bonnabel_sepulchre_distance`.

    Returns:
        Array ``(n,)``.
    """
    if u.shape[-1] == 0:
        return np.zeros(len(u))
    left, cosines, right_t = np.linalg.svd(np.swapaxes(u, 1, 2) @ v)
    right = np.swapaxes(right_t, 1, 2)
    # From the sines, too: the cosines cannot tell small angles apart.
    sines = np.linalg.norm(v @ right - (u @ left) * cosines[:, None, :], axis=1)
    angles = np.arctan2(sines, cosines)
    # R~² = F F^T with F = O^T R: the generalised eigenvalues are the squared singular values of
    # F^-1 F', which lose half as many digits.
    inverse = left / np.sqrt(u_values)[:, :, None]
    other = right_t * np.sqrt(v_values)[:, None, :]
    ratios = np.linalg.svd(inverse @ other, compute_uv=False)
    squares = np.sum(angles**2, axis=1) + kappa * np.sum((2 * np.log(ratios)) ** 2, axis=1)
    ambiguous = (cosines[:, -1] < RIGHT_ANGLE) & (u.shape[-1] > 1)
    return np.where(ambiguous, math.nan, np.sqrt(squares))


def _features(vectors, values):
    return vectors @ vectors.T, (vectors * np.log(values)) @ vectors.T


def _factors(a, b, normalize, rtol):
    factors = [_factor(name, x, normalize, rtol) for name, x in (("a", a), ("b", b))]
    if len(factors[0][0]) != len(factors[1][0]):
        raise checks.invalid(
            "b", f"the shape of `a`, {np.shape(a)}", f"a matrix of shape {np.shape(b)}"
        )
    return factors


def _factor(argument, matrix, normalize, rtol):
    """Eigenvectors (d, r) and eigenvalues (r,) of a matrix of rank r."""
    matrix = host_array(argument, matrix, "a square matrix").astype("float64")
    d = len(matrix) if matrix.ndim else 0
    if matrix.shape != (d, d) or d == 0:
        raise checks.invalid(argument, "a square matrix", f"shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise checks.invalid(argument, "finite values", "a matrix with NaN or infinite values")
    size = np.max(np.abs(matrix))
    if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-10 * size):
        raise checks.invalid(argument, "a symmetric matrix", "one that differs from its transpose")
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < -1e-10 * size:
        raise checks.invalid(
            argument, "a positive semi-definite matrix", f"an eigenvalue of {values[0]:.3g}"
        )
    if rtol is None:
        rtol = (d * EPSILON) ** 2
    else:
        checks.check_fraction("rtol", rtol)
    kept = values > max(rtol * values[-1], 0)
    values, vectors = values[kept], vectors[:, kept]
    return vectors, values / values.sum() if normalize else values


def check_kappa(kappa):
    """Raise unless the factor of the second term is a number of at least 0."""
    is_number = isinstance(kappa, numbers.Real) and not isinstance(kappa, bool)
    if not is_number or not 0 <= kappa < math.inf:
        raise checks.invalid("kappa", "a finite number of at least 0", repr(kappa))
