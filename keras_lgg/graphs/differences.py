"""Row sums of the squared difference of two graphs: through factors, or by pairs of samples."""

import functools

import keras
from keras import ops

from keras_lgg.graphs.construction import (
    class_pairs,
    cosine_factors,
    cosine_graph,
    cosines_of,
    inner_products,
    matrix_power,
    nearest,
    nearest_neighbours,
    normalized_degrees,
    weakest_neighbours,
    without_loops,
)
from keras_lgg.graphs.low_rank import add, power_difference, row_squares, subtract
from keras_lgg.graphs.numerics import alone, product_epsilon
from keras_lgg.graphs.pairs import combine, whole
from keras_lgg.graphs.tracing import traced_once


def factors_or_pairs(in_factors, by_pairs, *tensors, n, rank, width, power=1):
    """The row sums by the cheaper form, but by pairs if too much cancels in the factors.

    Args:
        in_factors: Function that returns the row sums, and whether they are accurate.
        by_pairs: Function of the tensors that returns the row sums.
        *tensors: All tensors that get a gradient through `by_pairs`.
        n: Batch size: an integer, or a tensor if it is only known at run time; then by pairs.
        rank: Width of the factors.
        width: Number of features multiplied for a pair, forward and backward.
        power: Power of the matrices; each product of two costs ``n**3``.
    """
    if not factors_cost_less(n, rank=rank, width=width, power=power):
        return by_pairs(*tensors)
    rows, accurate = in_factors()
    # Recomputed: TensorFlow's XLA keeps nothing of a loop inside a condition for later.
    return ops.cond(accurate, lambda: rows, lambda: keras.remat(by_pairs)(*tensors))


def factors_cost_less(n, *, rank, width, power=1):
    """Whether factors are the cheaper form; for the arguments see `factors_or_pairs`."""
    if not isinstance(n, int):
        return False
    # Measured on two backends: operations per sample, up to a common factor. In factors: six for
    # each entry of their products, plus a sample's share of the many small steps, whose cost does
    # not depend on n. By pairs: the features of each pair, plus about 100 for the passes over the
    # matrices.
    return 6 * rank**2 + 3e6 / n < n * (width + 100 + 3 * (power - 1) * n)


def is_accurate(rows, terms):
    """Whether row sums of a difference are accurate to 1e-4, whatever cancelled in them.

    Args:
        rows: The row sums ``(n,)``.
        terms: List of the row sums of the squares of the terms that cancelled.
    """
    # Measured: the error is at most a tenth of the rounding error divided by the share left over.
    return ops.sum(rows) > 1e4 * product_epsilon(rows) * sum(ops.sum(term) for term in terms)


def factored_rank(width, other, power):
    """Width of the factors of the difference of two graphs' powers; see `power_difference`."""
    first = width + other + 2
    return power * first + sum(width + i * other for i in range(1, power))


def compare_factors(a, b, *, power=1, pairs="all", one_hot=None, counted=None, total=alone):
    """The row sums for the full graphs of two batches, and whether they are accurate.

    Args:
        a: Representations ``(n, d)``.
        b: Representations ``(n, e)``.
        power: See `losses.graph_distillation`.
        pairs: See `losses.graph_distillation`.
        one_hot: Classes ``(n, c)`` where pairs are not all; zeros for samples without one.
        counted: 1.0 for each sample that has a class, ``(n, 1)``, or ``None`` if all have one.
        total: See `alone`. With any other, rows in float64 are accurate whatever cancels in them,
            and the returned flag is about these rows alone.
    """
    (a, _), (b, root_degrees) = cosine_factors(a, total), cosine_factors(b, total)
    terms = subtract(a, b, along=root_degrees)
    if pairs == "inter":
        # All pairs but those within a class, to which the diagonal belongs.
        edges = [term._replace(diagonal=0.0 * term.diagonal) for term in terms]
        everything, squares = row_squares(edges, counted)
        rows = everything - row_squares(edges, one_hot)[0]
        return _counted_rows(rows, counted), is_accurate(rows, [everything, *squares])
    rows, squares = row_squares(terms, one_hot)
    accurate = is_accurate(rows, squares)
    if power > 1:  # nothing further cancels in the powers
        difference = functools.reduce(add, terms)
        rows, _ = row_squares([power_difference(a, b, difference, power)])
    return _counted_rows(rows, counted), accurate


def compare_by_sums(a, b, total, *, power=1):
    """The row sums for the full graphs of two batches whose other rows are on other replicas.

    In float64, where nothing that matters cancels: a condition could not span the replicas.

    Args:
        a: Representations ``(n, d)``, the rows at hand.
        b: Representations ``(n, e)``.
        total: See `alone`.
        power: See `losses.graph_distillation`.
    """
    wide = (ops.cast(x, "float64") for x in (a, b))
    return ops.cast(compare_factors(*wide, power=power, total=total)[0], a.dtype)


def sums_cost_less(n, d, e, *, power=1):
    """Whether replicas that share a batch should exchange sums over it rather than all its rows.

    Args:
        n: Number of samples of all replicas, or ``None`` if it is only known at run time.
        d: Width of the factors of one graph, or ``None``.
        e: Width of the factors of the other.
        power: Power of the matrices.
    """
    if None in (n, d, e):
        return False
    rank = factored_rank(d, e, power)
    # The sums travel as (r, r), twice as wide in float64, and so do their gradients.
    travels_less = 2 * rank**2 < n * (d + e)
    return travels_less and factors_cost_less(n, rank=rank, width=3 * (d + e), power=power)


def _counted_rows(rows, counted):
    """The row sums, without the remaining diagonal entries of samples without a class."""
    return rows if counted is None else rows * counted[:, 0]


def compare_pairs(teacher, student, *, k, power, pairs, labels, block):
    """The row sums for two batches, on the edges of the first one's graph."""
    if block is None and pairs == "all":
        # Matrices (n, n), whatever the widths: one trace for all pairs of layers.
        products, cosines = zip(*map(inner_products, (teacher, student)), strict=True)
        return traced_once(_compare_products, *products, cosines=cosines, k=k, power=power)
    graphs = [full_graph(x, block) for x in (teacher, student)]
    if pairs != "all":
        graphs = [class_pairs(graph, pairs, labels) for graph in graphs]
    return _compare_graphs(*graphs, k=k, power=power)


def _compare_products(teacher, student, *, cosines, k, power):
    graphs = map(_graph_of_products, (teacher, student), cosines)
    return _compare_graphs(*graphs, k=k, power=power)


def _compare_graphs(target, learned, *, k, power):
    if k is not None:
        learned = combine(
            lambda t, s, *others_rows_columns: ops.where(nearest(t, *others_rows_columns), s, 0.0),
            target,
            learned,
            weakest=weakest_neighbours(target, k),
        )
        target = nearest_neighbours(target, k)
    return squared_difference(matrix_power(learned, power), matrix_power(target, power))


def full_graph(x, block):
    """The degree-normalised cosine graph."""
    if block is not None:
        return normalized_degrees(cosine_graph(x, block), x)
    products, cosines = inner_products(x)
    return whole(traced_once(_full_matrix, products, cosines=cosines))


def _full_matrix(products, *, cosines):
    return _graph_of_products(products, cosines).matrix


def _graph_of_products(products, are_cosines):
    return normalized_degrees(without_loops(cosines_of(products, are_cosines)))


def squared_difference(a, b):
    """Row sums of ``(a - b)**2`` for two `PairMatrix`."""
    return combine(lambda a, b, *_: a - b, a, b).map_rows(
        lambda values, *_: ops.sum(ops.square(values), axis=1)
    )
