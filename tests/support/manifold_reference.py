"""Strata, distances and the Hilbert map, slow and straight from their definitions, in float64."""

import numpy as np
import pytest

linalg = pytest.importorskip("scipy.linalg", reason="needs the extra manifolds")

EPSILON = 2.0**-23  # of float32


def unfold(z, mode):
    """One tensor (H, W, C), entry by entry: the other two axes in their order."""
    h, w, c = z.shape
    rows = []
    if mode == 1:
        for i in range(h):
            rows.append([z[i, j, k] for j in range(w) for k in range(c)])
    elif mode == 2:
        for j in range(w):
            rows.append([z[i, j, k] for i in range(h) for k in range(c)])
    else:
        for k in range(c):
            rows.append([z[i, j, k] for i in range(h) for j in range(w)])
    return np.array(rows)


def centred(z, mode):
    return np.array([row - sum(row) / len(row) for row in unfold(z, mode).astype("float64")])


def covariance(z, mode):
    return np.atleast_2d(np.cov(unfold(z, mode).astype("float64")))


def rank(z, mode, rtol=None):
    x = centred(z, mode)
    values = linalg.svdvals(x)
    rtol = max(x.shape) * EPSILON if rtol is None else rtol
    rounding = EPSILON * np.linalg.norm(np.asarray(z, "float64").ravel())
    return sum(value > rtol * values[0] and value > rounding for value in values)


def polar(a, r=None, normalize=True):
    """U (d, r) and lambda (r,) of A = U diag(lambda) U^T, of rank r."""
    values, vectors = linalg.eigh(a)
    if r is None:
        r = sum(value > 1e-10 * values[-1] for value in values)
    values, vectors = values[len(values) - r :], vectors[:, len(values) - r :]
    return vectors, values / sum(values) if normalize and r else values


def embedded_squared(first, second, kappa=1.0):
    """d² of two pairs of `polar`."""
    projectors, logarithms = [], []
    for u, values in (first, second):
        projectors.append(u @ u.T)
        logarithms.append(u @ np.diag(np.log(values)) @ u.T)
    return (
        0.5 * np.linalg.norm(projectors[0] - projectors[1]) ** 2
        + kappa * np.linalg.norm(logarithms[0] - logarithms[1]) ** 2
    )


def curve_squared(first, second, kappa=1.0):
    """l² of two pairs of `polar`, of one rank."""
    (u, a), (v, b) = first, second
    o_a, _, o_b_t = np.linalg.svd(u.T @ v)  # U_A^T U_B = O_A cos(Theta) O_B^T
    theta = linalg.subspace_angles(u, v)
    r_a = o_a.T @ np.diag(a) @ o_a
    r_b = o_b_t @ np.diag(b) @ o_b_t.T
    ratios = linalg.eigh(r_b, r_a, eigvals_only=True)
    return sum(theta**2) + kappa * sum(np.log(ratios) ** 2)


def median(values):
    values = sorted(values)
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def mode_distances(z, mode, kappa=1.0, rtol=None):
    """d_k² of all pairs of tensors, each pair on its own."""
    factors = [polar(covariance(x, mode), rank(x, mode, rtol)) for x in z]
    return np.array([[embedded_squared(a, b, kappa) for b in factors] for a in factors])


def median_weight(squared, clean):
    middle = median([squared[i, j] for i in range(clean) for j in range(i)])
    return 1 / middle if middle >= 1e-12 else 1.0


def product_distances(z, weights="median", clean=None, kappa=1.0, rtol=None):
    total = 0
    for mode in (1, 2, 3):
        squared = mode_distances(z, mode, kappa, rtol)
        if isinstance(weights, str):
            weight = median_weight(squared, len(z) if clean is None else clean)
        else:
            weight = weights[mode - 1]
        total = total + weight * squared
    return total


def distance_kernel(squared):
    n = len(squared)
    centring = np.eye(n) - np.ones((n, n)) / n
    return -0.5 * centring @ squared @ centring


def pairwise_squares(points):
    return np.array([[sum((x - y) ** 2) for y in points] for x in points])
