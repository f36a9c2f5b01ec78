"""Products of representations that need few passes over them, and none over pairs of samples.

The full cosine graph is X̂ X̂ᵀ, of rank d, and its rows need not be formed: the functions here
multiply by it, and fold the norms into the small factors. The backward passes are written by hand,
since automatic ones write and add several arrays of the size of the representations.
"""

import functools

import keras
from keras import ops

from keras_lgg.graphs.numerics import alone, as_column, matmul

# Rows shorter than this are scaled by 1 / EPSILON instead of 1 / norm, so that the gradient of a
# dead row stays bounded.
EPSILON = 1e-12
# Rows shorter than this are zero: between them, gradients leave the range of float32.
ZERO = 1e-16


def gram(x):
    """``x @ x.T``; for wide x with a single product in the backward pass."""
    n, d = x.shape
    wide = n is None or d is None or d > n
    return _gram(x) if wide and _by_hand() else matmul(x, ops.transpose(x))


@ops.custom_gradient
def _gram(x):
    def gradient(upstream):
        return matmul(upstream + ops.transpose(upstream), x)

    return matmul(x, ops.transpose(x)), gradient


def inverse_norms(squares):
    """``1 / max(norm, EPSILON)`` from squared norms; 0 for zero rows, NaN where they overflowed."""
    inverse = ops.rsqrt(ops.maximum(squares, EPSILON**2)) + 0.0 * squares
    return ops.where(squares < ZERO**2, 0.0, inverse)


def squared_norms(x):
    """Squared norm of each row, (n,)."""
    return ops.sum(ops.square(x), axis=1)


def unit_rows(x, epsilon=EPSILON):
    """``x_i / max(norm, epsilon)``, 0 for zero rows, with no overflow at any scale."""
    # Rows are first brought to a largest entry of 1. The result does not depend on that scale,
    # so it needs no gradient.
    largest = ops.max(ops.abs(x), axis=1, keepdims=True)
    x = x / ops.stop_gradient(ops.maximum(largest, 2 * epsilon))
    # At least 1 for every row longer than 2 * epsilon: the bounds affect only shorter ones.
    squares = squared_norms(x)
    inverse = ops.rsqrt(ops.maximum(squares, 0.25))
    return x * as_column(ops.where(squares < (0.5 * ZERO / epsilon) ** 2, 0.0, inverse))


def cosine_product(x, z, total=alone):
    """``X̂ @ X̂.T @ z``, for rows x̂ of unit norm, in O(n d c).

    Args:
        x: Representations ``(n, d)``.
        z: Signals ``(n, c)``.
        total: See `alone`.

    Returns:
        Tensor ``(n, c)``; the self loops count.
    """
    return _with_gradient(total)(x, z) if _by_hand() else _cosine_factors(x, z, total)[-1]


def _cosine_factors(x, z, total):
    squares = squared_norms(x)
    inverse = as_column(inverse_norms(squares))
    scaled = inverse * z
    # Signals first, (c, d): XLA on a CPU takes twice as long for x.T @ scaled.
    sums = total(matmul(ops.transpose(scaled), x))
    return squares, inverse, scaled, sums, inverse * matmul(x, ops.transpose(sums))


@functools.cache
def _with_gradient(total):
    def product(x, z):
        return _cosine_product(x, z, total)

    return ops.custom_gradient(product)


def _cosine_product(x, z, total):
    squares, inverse, scaled, sums, product = _cosine_factors(x, z, total)

    def gradient(upstream):
        scaled_upstream = inverse * upstream
        upstream_sums = total(matmul(ops.transpose(scaled_upstream), x))
        z_gradient = inverse * matmul(x, ops.transpose(upstream_sums))
        # The part through the norms; rows bounded by EPSILON do not depend on their norm.
        radial = ops.sum(z * z_gradient + upstream * product, axis=1, keepdims=True)
        radial = ops.where(as_column(squares) < EPSILON**2, 0.0, radial * ops.square(inverse))
        left = ops.concatenate([scaled, scaled_upstream], axis=1)
        right = ops.concatenate([upstream_sums, sums], axis=0)
        return matmul(left, right) - radial * x, z_gradient

    return product, gradient


def _by_hand():
    # On PyTorch, Keras passes the gradient's arguments differently, and has no second derivative.
    return keras.backend.backend() != "torch"
