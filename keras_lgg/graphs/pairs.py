"""Matrices over all pairs of a batch, held whole or recomputed block by block.

For a small batch there is one matrix ``(n, n)``. For a large one, rows are computed a block at a
time, forward and backward, so that memory grows like ``n * block`` and not like ``n * n``.
"""

import keras
from keras import ops

from keras_lgg.checks import check_positive_integer
from keras_lgg.graphs.numerics import as_column, as_row

# Size of the largest batch whose matrix is held whole. Its number of entries, 16 MiB in float32, is
# also that of the largest block.
LARGEST_WHOLE = 2048
ENTRIES = LARGEST_WHOLE**2


class PairMatrix:
    """A matrix ``(n, n)`` of which any block of rows can be computed.

    Args:
        tensors: Structure of tensors ``(n, ...)``, all that the entries depend on.
        entries: ``entries(rows, columns, others)``, a block ``(b, n)`` of the matrix, where
            ``rows`` are the tensors of b samples, ``columns`` those of all n, and ``others`` is
            a boolean ``(b, n)``, false on the diagonal.
        block: Number of rows in a block, or ``None`` to compute and hold the whole matrix now.
        like: A `PairMatrix` of the same samples, whose ``others`` are used again.
    """

    def __init__(self, tensors, entries, block, *, like=None):
        self.tensors, self.entries, self.block = tensors, entries, block
        if block is None:
            self.others = _others(keras.tree.flatten(tensors)[0]) if like is None else like.others
            self.tensors = entries(tensors, tensors, self.others)
            self.entries = lambda rows, columns, others: rows

    @property
    def matrix(self):
        """The whole matrix; only where ``block`` is ``None``."""
        return self.tensors

    def map_rows(self, function, *, only_rows=None, **tensors):
        """A tensor ``(n, ...)``, computed from the rows of the matrix.

        Args:
            function: ``function(values, others, rows, columns)`` maps a block ``(b, n)`` of the
                matrix to ``(b, ...)``; ``rows`` and ``columns`` are dicts of the tensors. The last
                block is filled up with rows of zeros, where the function must be differentiable.
            only_rows: Dict of tensors ``(n, ...)`` that are not among the columns.
            **tensors: Tensors ``(n, ...)``, by name. All tensors that need a gradient through
                `function` must be among these, since the backward pass calls it again.
        """
        only_rows = only_rows or {}
        if self.block is None:
            return function(self.matrix, self.others, {**tensors, **only_rows}, tensors)
        structure = (self.tensors, tensors)
        columns = keras.tree.flatten(structure)
        names = list(only_rows)
        n = ops.shape(columns[0])[0]
        # Floats, exact up to 16 million: the recomputation differentiates by all that it gets.
        index = ops.cast(ops.arange(n), "float32")

        def compute(row_index, column_index, *flat):
            rows, whole = (
                keras.tree.pack_sequence_as(structure, half)
                for half in (flat[: len(columns)], flat[len(columns) : 2 * len(columns)])
            )
            extra = dict(zip(names, flat[2 * len(columns) :], strict=True))
            others = ops.not_equal(as_column(row_index), as_row(column_index))
            values = self.entries(rows[0], whole[0], others)
            return function(values, others, {**rows[1], **extra}, whole[1])

        compute = keras.remat(compute)

        def on_block(slices):
            row_index, *rows = slices
            rows, extra = rows[: len(columns)], rows[len(columns) :]
            return compute(row_index, index, *rows, *columns, *extra)

        sliced = [_cut(t, n, self.block) for t in (index, *columns, *only_rows.values())]
        found = ops.map(on_block, sliced)
        return ops.reshape(found, (-1, *ops.shape(found)[2:]))[:n]

    def diagonal(self):
        """The diagonal (n,); only where ``block`` is ``None``."""
        return ops.sum(ops.where(self.others, 0.0, self.matrix), axis=1)


def _others(x):
    """Which entries of a matrix of all pairs of rows of ``x`` are off the diagonal."""
    index = ops.arange(ops.shape(x)[0])
    return ops.not_equal(as_column(index), as_row(index))


def whole(matrix):
    """A tensor ``(n, n)`` as a `PairMatrix`."""
    return PairMatrix(matrix, lambda rows, columns, others: rows, None)


def combine(function, *matrices, **tensors):
    """The `PairMatrix` with entries ``function(*values, others, rows, columns)``.

    Args:
        function: As in `PairMatrix.map_rows`, with the values of each matrix; returns ``(b, n)``.
        *matrices: At least one `PairMatrix`, all of one block size.
        **tensors: As in `PairMatrix.map_rows`.
    """

    def entries(rows, columns, others):
        values = [
            m.entries(r, c, others) for m, r, c in zip(matrices, rows[0], columns[0], strict=True)
        ]
        return function(*values, others, rows[1], columns[1])

    first = matrices[0]
    return PairMatrix(([m.tensors for m in matrices], tensors), entries, first.block, like=first)


def rows_of_block(n, block_size):
    """Number of rows in a block for n samples, or ``None`` if one matrix will do.

    Args:
        n: Batch size: an integer, or a tensor if it is only known at run time; then one matrix will
            do unless the user says otherwise.
        block_size: The user's choice, or ``None`` for an automatic one.
    """
    if block_size is not None:
        check_positive_integer("block_size", block_size)
        return None if isinstance(n, int) and n <= block_size else block_size
    return max(ENTRIES // n, 1) if isinstance(n, int) and n > LARGEST_WHOLE else None


def _cut(x, n, block):
    """A tensor (n, ...) in blocks (count, block, ...), the last one filled with zeros."""
    count = (n + block - 1) // block
    padding = [[0, 0] for _ in x.shape]
    padding[0][1] = count * block - n
    return ops.reshape(ops.pad(x, padding), (count, block, *ops.shape(x)[1:]))
