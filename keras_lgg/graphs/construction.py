"""Latent geometry graphs as `PairMatrix`: each step of the construction, and what is read off.

`keras_lgg.graphs` explains the steps; here they work the same on whole matrices and on blocks.
"""

import math

import numpy as np
from keras import ops

from keras_lgg.graphs.labels import comparable, memberships
from keras_lgg.graphs.low_rank import LowRank
from keras_lgg.graphs.numerics import (
    alone,
    as_column,
    as_row,
    compiled_by_xla,
    connected_nodes,
    inverse_sqrt_degree,
    largest_entry,
    machine_epsilon,
    matmul,
    rounding_of_squares,
    safe_sqrt,
)
from keras_lgg.graphs.pairs import PairMatrix, combine, whole
from keras_lgg.graphs.products import (
    EPSILON,
    ZERO,
    cosine_product,
    gram,
    inverse_norms,
    squared_norms,
    unit_rows,
)


def similarities(x, metric, alpha, block):
    """Similarity of every pair, self-similarities included."""
    if metric == "cosine":
        return _cosines(x, block)
    squares, scale = squared_distances(x, block)
    if metric == "exponential":
        return combine(lambda s, *_: ops.exp(-alpha * scale * safe_sqrt(s)), squares)
    # Beyond 1e30 every nonzero distance gives exp(-inf) anyway; the bound keeps scale**2 from
    # overflowing to inf, and inf times a distance of 0 from becoming NaN.
    factor = math.sqrt(alpha) * ops.minimum(scale, 1e15 / math.sqrt(alpha))
    return combine(lambda s, *_: ops.exp(-factor * factor * s), squares)


def _cosines(x, block):
    if block is None:
        return cosines_of(*inner_products(x))
    return _products({"x": unit_rows(x)}, block)


def inner_products(x):
    """The products of all pairs of rows, ``(n, n)``, and whether these are already cosines."""
    narrow = _narrower_than_pairs(x, None)
    return gram(unit_rows(x) if narrow else x), narrow


def cosines_of(products, are_cosines):
    """The cosines of a whole batch, from the results of `inner_products`."""
    products = whole(products)
    if are_cosines:
        return products
    inverse = inverse_norms(products.diagonal())
    return combine(
        lambda s, _, rows, columns: as_column(rows["r"]) * s * as_row(columns["r"]),
        products,
        r=inverse,
    )


def _narrower_than_pairs(x, block):
    """Whether a pass over the representations costs less than one over their products."""
    n, d = x.shape
    return block is not None or (None not in (n, d) and d < n)


def _products(x, block):
    def entries(rows, columns, others):
        if rows is columns:
            return gram(rows["x"])
        return matmul(rows["x"], ops.transpose(columns["x"]))

    return PairMatrix(x, entries, block)


def squared_distances(x, block):
    """``(squares, scale)`` with ``||x_i - x_j||**2 = scale**2 * squares_ij``, from inner products.

    The scale carries no gradient and keeps the squares from overflowing.
    """
    # Distances do not depend on the centre, and a common offset would only cost digits.
    x = x - ops.stop_gradient(ops.mean(x, axis=0, keepdims=True))
    scale = largest_entry(x)
    x = x / scale
    products = _products({"x": x}, block)
    norms = squared_norms(x) if _narrower_than_pairs(x, block) else products.diagonal()
    noise = rounding_of_squares(x)

    def entries(gram, others, rows, columns):
        norms = as_column(rows["norms"]) + as_row(columns["norms"])
        squares = norms - 2.0 * gram
        apart = ops.logical_and(ops.logical_not(squares <= noise * norms), others)
        return ops.where(apart, squares, 0.0)

    return combine(entries, products, norms=norms), scale


def label_products(labels, dtype, block):
    """Similarity of the `Labels` of two samples: of class numbers, 1 if equal and else 0."""
    if labels.rows is not None:
        return _products({"x": labels.where_counted(ops.cast(labels.rows, dtype))}, block)

    def same(rows, columns, _):
        return ops.cast(ops.equal(as_column(rows["y"]), as_row(columns["y"])), dtype)

    return PairMatrix({"y": comparable(labels.classes, block)}, same, block)


def both_counted(matrix, labels):
    """The same matrix, with 0 where either of the two samples has no label."""
    if labels.counted is None:
        return matrix
    return combine(
        lambda values, _, rows, columns: ops.where(_both(rows, columns), values, 0.0),
        matrix,
        **labels.weights(),
    )


def _both(rows, columns):
    return as_column(rows["counted"]) * as_row(columns["counted"]) > 0.5


def outer_products(left, right, block):
    """``left @ right.T`` for tensors of shape (n, c)."""
    return PairMatrix(
        {"left": left, "right": right},
        lambda rows, columns, _: matmul(rows["left"], ops.transpose(columns["right"])),
        block,
    )


def without_loops(matrix):
    """The same matrix with a diagonal of 0."""
    return combine(lambda values, others, *_: ops.where(others, values, 0.0), matrix)


def cosine_graph(x, block):
    """The cosines of all pairs, without loops."""
    return without_loops(similarities(x, "cosine", 1.0, block))


def root_degrees(adjacency, x=None):
    """``degree**(-1/2)`` of each node, 0 on isolated ones, and 1.0 where it is connected.

    Args:
        adjacency: `PairMatrix` with a diagonal of 0.
        x: Representations ``(n, d)``, if the adjacency is their full cosine graph: the degrees of
            a graph in blocks then cost no pass over the pairs.
    """
    if x is not None and adjacency.block is not None:
        degree, magnitude, _ = cosine_degrees(x)
    else:
        sums = adjacency.map_rows(
            lambda values, *_: ops.stack(
                [ops.sum(values, axis=1), ops.sum(ops.abs(values), axis=1)], axis=1
            )
        )
        degree, magnitude = sums[:, 0], sums[:, 1]
    connected = connected_nodes(degree, magnitude)
    return inverse_sqrt_degree(degree, connected), ops.cast(connected, degree.dtype)


def cosine_degrees(x, total=alone):
    """Degrees of the full cosine graph, the magnitude of their sums, and the self loops."""
    loops = self_similarities(x)
    sums = cosine_product(x, ops.ones_like(x[:, :1]), total)[:, 0]
    return sums - loops, _magnitude(sums, loops, total), loops


def _magnitude(sums, loops, total):
    # Each degree is a projection of the sum of all unit vectors: its rounding error is that of n
    # terms, or of the length of that sum.
    n = ops.cast(ops.shape(sums)[0], sums.dtype)
    square, n = ops.unstack(ops.stop_gradient(total(ops.stack([ops.sum(sums), n]))))
    length = ops.sqrt(ops.maximum(square, 0.0))
    return ops.stop_gradient(length + ops.sqrt(n) + loops)


def cosine_factors(x, total=alone):
    """The degree-normalised full cosine graph as a `LowRank`, and the root degrees (n,)."""
    unit = unit_rows(x)
    loops = squared_norms(unit)
    sums = matmul(unit, total(ops.sum(unit, axis=0)))
    degree = sums - loops
    connected = connected_nodes(degree, _magnitude(sums, loops, total))
    weights = inverse_sqrt_degree(degree, connected)
    factor = as_column(weights) * unit
    return LowRank(factor, factor, -loops * ops.square(weights), total), degree * weights


def self_similarities(x):
    """``||x̂||**2``: 1, or less for rows that are too short to be scaled to 1."""
    squares = squared_norms(x)
    short = ops.where(squares < ZERO**2, 0.0, squares / EPSILON**2)
    return ops.where(squares < EPSILON**2, short, 1.0)


def scale_rows_and_columns(matrix, weights):
    """``diag(weights) @ matrix @ diag(weights)``."""
    return combine(
        lambda values, _, rows, columns: as_column(rows["w"]) * values * as_row(columns["w"]),
        matrix,
        w=weights,
    )


def class_pairs(adjacency, pairs, labels):
    """Only the edges within (``"intra"``) or between (``"inter"``) the classes of `Labels`.

    Samples with several classes count as one class if they share any; those without a label have
    no edges.
    """
    if labels.rows is None:
        key = comparable(labels.classes, adjacency.block)

        def alike(a, b):
            return ops.equal(as_column(a), as_row(b))
    else:
        key = memberships(labels)

        def alike(a, b):
            return matmul(a, ops.transpose(b)) > 0.5

    def entries(values, _, rows, columns):
        same = alike(rows["classes"], columns["classes"])
        return ops.where(same if pairs == "intra" else ops.logical_not(same), values, 0.0)

    return both_counted(combine(entries, adjacency, classes=key), labels)


def weakest_neighbours(adjacency, k, labels=None):
    """The least weight ``(n,)`` that an edge to one of a node's k nearest neighbours may have.

    If `Labels` are given, samples without a label are nobody's neighbours.
    """
    weights = {} if labels is None else labels.weights()

    def weakest(values, others, rows, columns):
        values = ops.stop_gradient(values)
        if weights:
            others = ops.logical_and(others, _both(rows, columns))
        n = values.shape[1]
        # A static n takes min and max; one that is only known at run time needs the ops.
        count = max(1, min(k, n - 1)) if n is not None else ops.clip(ops.shape(values)[1] - 1, 1, k)
        find = _kth_by_bisection if compiled_by_xla() else _kth_by_top_k
        largest, kth = find(values, others, count)
        # Weights that differ only by rounding are ties, and are all kept.
        return kth - 4.0 * machine_epsilon(values) * ops.abs(largest)

    return ops.stop_gradient(adjacency.map_rows(weakest, **weights))


def _kth_by_top_k(values, others, k):
    """The largest and the k-th largest value in each row, among the ``others``."""
    largest = ops.top_k(ops.where(others, values, -np.inf), k)[0]
    return largest[:, 0], largest[:, -1]


def _kth_by_bisection(values, others, k):
    """Like `_kth_by_top_k`, to rounding and from below: XLA on a CPU would sort each row."""
    top = ops.max(ops.where(others, values, -np.inf), axis=1)
    bottom = ops.min(ops.where(others, values, np.inf), axis=1)

    def halve(_, bounds):
        low, high = bounds
        middle = low + 0.5 * (high - low)
        above = ops.logical_and(values >= as_column(middle), others)
        enough = ops.sum(ops.cast(above, "int32"), axis=1) >= k
        return ops.where(enough, middle, low), ops.where(enough, high, middle)

    steps = 2 - round(math.log2(machine_epsilon(values)))
    return top, ops.fori_loop(0, steps, halve, (bottom, top))[0]


def nearest(values, others, rows, columns):
    """Which entries of a block lead to a nearest neighbour, by each node's ``weakest`` weight."""
    # "not below" instead of "at least": a NaN weight is kept, and stays visible.
    either = ops.logical_not(
        ops.logical_and(values < as_column(rows["weakest"]), values < as_row(columns["weakest"]))
    )
    return ops.logical_and(either, others)


def nearest_neighbours(adjacency, k, labels=None):
    """Only the edges to one of the k nearest neighbours of either end."""
    return combine(
        lambda values, *block: ops.where(nearest(values, *block), values, 0.0),
        adjacency,
        weakest=weakest_neighbours(adjacency, k, labels),
    )


def normalized_degrees(adjacency, x=None):
    """``D**(-1/2) A D**(-1/2)``; for the arguments see `root_degrees`."""
    return scale_rows_and_columns(adjacency, root_degrees(adjacency, x)[0])


def multiply(matrix, z):
    """The matrix times ``z`` of shape (n, c)."""
    return matrix.map_rows(lambda values, _, rows, columns: matmul(values, columns["z"]), z=z)


def matrix_power(matrix, power):
    """The matrix to the power ``power``, in O(n**3 (power - 1))."""
    if power == 1:
        return matrix

    def entries(rows, columns, others):
        values = ops.transpose(matrix.entries(rows, columns, others))
        for _ in range(power - 1):
            values = multiply(
                PairMatrix(columns, matrix.entries, matrix.block, like=matrix), values
            )
        return ops.transpose(values)

    return PairMatrix(matrix.tensors, entries, matrix.block, like=matrix)


def pair_smoothness(adjacency, signal, *, power, normalized):
    """``trace(S.T @ L**power @ S)`` of a `PairMatrix`."""
    if not normalized:
        return laplacian_form(lambda z: multiply(adjacency, z), signal, power=power)
    weights, connected = (as_column(w) for w in root_degrees(adjacency))
    return quadratic_form(
        lambda z: connected * z - weights * multiply(adjacency, weights * z), signal, power=power
    )


def laplacian_form(product, signal, *, power):
    """``trace(S.T @ L**power @ S)`` with ``L = diag(A @ 1) - A`` and ``product(z) = A @ z``."""
    # The degrees come with the first product.
    first = product(ops.concatenate([signal, ops.ones_like(signal[:, :1])], axis=1))
    degree = first[:, -1:]
    first = degree * signal - first[:, :-1]
    return quadratic_form(lambda z: degree * z - product(z), signal, power=power, first=first)


def quadratic_form(apply, signal, *, power, first=None):
    """``trace(S.T @ L**power @ S)`` for the symmetric ``apply(z) = L @ z``; `first` is L @ S."""
    images = [signal, apply(signal) if first is None else first]
    while len(images) <= (power + 1) // 2:
        images.append(apply(images[-1]))
    return ops.sum(images[power // 2] * images[(power + 1) // 2])
