"""Matrices over all pairs of a batch in factors, ``left @ right.T + diag(diagonal)``.

The full cosine graph of a batch of n samples in d dimensions has rank d, apart from its diagonal.
What is computed from the factors costs O(n d**2), where the matrix itself would cost O(n**2 d).
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_lgg.graphs.numerics import alone, as_column, matmul
from keras_lgg.types import Tensor


class LowRank(NamedTuple):
    """``left @ right.T + diag(diagonal)``, with factors ``(n, r)`` and a diagonal ``(n,)``.

    ``total`` completes a sum over the rows if other replicas hold the rest of them.
    """

    left: Any
    right: Any
    diagonal: Any
    total: Callable[[Tensor], Tensor] = alone

    def multiply(self, z):
        """The matrix times ``z`` of shape (n, c)."""
        sums = self.total(matmul(ops.transpose(self.right), z))
        return matmul(self.left, sums) + as_column(self.diagonal) * z

    def multiply_transposed(self, z):
        """The transposed matrix times ``z`` of shape (n, c)."""
        sums = self.total(matmul(ops.transpose(self.left), z))
        return matmul(self.right, sums) + as_column(self.diagonal) * z


def add(a, b):
    """The sum of two matrices."""
    return LowRank(
        ops.concatenate([a.left, b.left], axis=1),
        ops.concatenate([a.right, b.right], axis=1),
        a.diagonal + b.diagonal,
        a.total,
    )


def product(a, b):
    """The matrix product ``a @ b``."""
    through = a._replace(right=b.multiply_transposed(a.right), diagonal=0.0 * a.diagonal)
    beside = LowRank(as_column(a.diagonal) * b.left, b.right, a.diagonal * b.diagonal, a.total)
    return add(through, beside)


def subtract(a, b, *, along):
    """The difference ``a - b`` of two symmetric matrices, in terms that add up to it.

    What both have in common along one direction is taken out of the factors and subtracted
    separately; otherwise it would cancel in every sum. For degree-normalised graphs, the direction
    is the vector of root degrees, whose eigenvalue is 1 in both.

    Args:
        a: `LowRank`.
        b: `LowRank`.
        along: Vector ``(n,)``, which carries no gradient.

    Returns:
        List of three `LowRank`: the rest of a, the rest of -b, and the difference along the
        direction.
    """
    along = ops.stop_gradient(along)
    norm = ops.sqrt(a.total(ops.sum(ops.square(along))))
    along = as_column(along / ops.where(ops.equal(norm, 0.0), 1.0, norm))
    (a_rest, a_common, a_left, a_right), (b_rest, b_common, b_left, b_right) = (
        _deflate(m, along) for m in (a, b)
    )
    half = 0.5 * (a_common - b_common) * along
    common = LowRank(
        ops.concatenate([along, a_left - b_left + half], axis=1),
        ops.concatenate([a_right - b_right + half, along], axis=1),
        a.diagonal - b.diagonal,
        a.total,
    )
    return [a_rest, b_rest._replace(left=-b_rest.left), common]


def _deflate(matrix, along):
    """The part of a matrix across a unit vector, and its parts along that vector."""
    left, left_along = _across(matrix.left, along, matrix.total)
    symmetric = matrix.right is matrix.left
    right, right_along = (
        (left, left_along) if symmetric else _across(matrix.right, along, matrix.total)
    )
    common = ops.sum(left_along * right_along)
    to_left = matmul(left, ops.transpose(right_along))
    to_right = to_left if symmetric else matmul(right, ops.transpose(left_along))
    rest = LowRank(left, right, 0.0 * matrix.diagonal, matrix.total)
    return rest, common, to_left, to_right


def _across(factor, along, total):
    part = total(matmul(ops.transpose(along), factor))
    return factor - along * part, part


def power_difference(a, b, difference, power):
    """``a**power - b**power`` from the difference ``a - b``, with no further cancellation."""
    result, b_power = difference, b
    for _ in range(power - 1):
        result = add(product(a, result), product(difference, b_power))
        b_power = product(b, b_power)
    return result


def row_squares(terms, classes=None):
    """The sum of the squared entries of each row, (n,), of a matrix and of each of its terms.

    Args:
        terms: List of `LowRank` that add up to the matrix.
        classes: One-hot classes ``(n, c)``, to count only pairs within a class.

    Returns:
        The row sums of the matrix, and a list of those of the terms.
    """
    squares = [_row_products(term, term, classes) for term in terms]
    pairs = itertools.combinations(terms, 2)
    return sum(squares) + 2.0 * sum(_row_products(a, b, classes) for a, b in pairs), squares


def _row_products(a, b, classes):
    """The row sums of the elementwise product of two matrices."""
    if classes is None:
        sums = _low_rank_products(a.left, a.right, b.left, b.right, a.total)
    else:
        of_class = keras.remat(
            lambda y, left, right, *other: (
                y * _low_rank_products(left, as_column(y) * right, *other, a.total)
            )
        )
        by_class = ops.map(
            lambda y: of_class(y, a.left, a.right, b.left, b.right), ops.transpose(classes)
        )
        sums = ops.sum(by_class, axis=0)
    a_loops, b_loops = (ops.sum(m.left * m.right, axis=1) for m in (a, b))
    return sums + a.diagonal * (b_loops + b.diagonal) + b.diagonal * a_loops


def _low_rank_products(a_left, a_right, b_left, b_right, total):
    core = total(matmul(ops.transpose(a_right), b_right))
    return ops.sum(matmul(a_left, core) * b_left, axis=1)
