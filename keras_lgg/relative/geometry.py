"""Distances and neighbours within each of two latent spaces, and how much they differ.

    rsa(a, b)                  whether the same pairs of samples are similar
    procrustes_distance(a, b)  what no rotation can remove
    neighbour_jaccard(a, b)    whether samples have the same neighbours

[1] Kriegeskorte et al., "Representational similarity analysis: connecting the branches of systems
    neuroscience", Frontiers in Systems Neuroscience 2, 2008.
[2] Williams et al., "Generalized shape metrics on neural representations", arXiv 2110.14739.
[3] Ding et al., "Grounding representation similarity with statistical testing", arXiv 2108.01661.
[4] Klabunde et al., "Similarity of neural network models: a survey of functional and
    representational measures", arXiv 2305.06329.
"""

import math
from typing import Literal

import numpy as np

from keras_lgg import checks
from keras_lgg.relative.comparison import (
    centred,
    intersection_over_union,
    nearest,
    paired_rows,
    row_blocks,
    unit_rows,
)
from keras_lgg.types import ArrayLike

DECIMALS = 12  # of similarities, whose largest is 1; what differs by less is a tie


def rsa(
    a: ArrayLike, b: ArrayLike, *, metric: Literal["correlation", "euclidean"] = "correlation"
) -> float:
    r"""Representational similarity analysis: are the same pairs of samples similar in both spaces?

    It is Spearman's rank correlation over all pairs of different samples: with :math:`s_{ij}` the
    similarity of the pair in a space, and R the rank among all pairs (ties have their mean rank),

    .. math::

        \text{rsa} = \operatorname{corr}_{i < j}\bigl( R(s^a_{ij}),\, R(s^b_{ij}) \bigr)

    It holds and sorts all pairs, with a peak of 40 n² bytes: 1 GB for n = 5,000, and 100 GB for
    n = 50,000. Take a few thousand samples.

    Args:
        a: Array of shape ``(n, ...)`` with n >= 3, one row per sample, of floats or integers.
        b: Array of shape ``(n, ...)``, the same samples in another space, of any width.
        metric: The similarity, in each space. ``"correlation"``: Pearson's, over the features of
            two samples. It does not change when the space is scaled as a whole, or the same number
            is added to all features; a rotation changes it. A sample whose features are all equal
            has correlation 0 with every other. ``"euclidean"``: the negated distance. It does not
            change when the space is rotated, shifted, or scaled as a whole.

    Returns:
        A float in [-1, 1]; 1 if the pairs are in the same order.

    Raises:
        ValueError: If the spaces differ in length or have fewer than 3 samples, one of them has
            NaN or infinite values or makes all pairs equally similar, as correlation does with a
            single feature, or ``metric`` is not as above.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import rsa
        >>> a, b = np.random.default_rng(0).normal(size=(2, 200, 8))
        >>> print(f"{rsa(a, 2 * a):.2f} {rsa(a, a + b):.2f} {abs(rsa(a, b)):.2f}")
        1.00 0.42 0.01

    Reference: Kriegeskorte et al., "Representational similarity analysis: connecting the branches
    of systems neuroscience", Frontiers in Systems Neuroscience 2, 2008
    """
    checks.check_choice("metric", metric, ("correlation", "euclidean"))
    rows_a, rows_b = paired_rows(a, b, least=3)
    ranks_a = _ranks_of_pairs("a", rows_a, metric)
    ranks_b = _ranks_of_pairs("b", rows_b, metric)
    return float(np.clip(ranks_a @ ranks_b, -1, 1))


def procrustes_distance(
    a: ArrayLike, b: ArrayLike, *, form: Literal["shape", "angle", "size"] = "shape"
) -> float:
    r"""Procrustes distance of two spaces of any widths: what remains after the best rotation.

    Let A and B be the centred spaces, A the narrower one, and :math:`\hat A`, :math:`\hat B` the
    same divided by their Frobenius norms. The three forms are

    .. math::

        d_\text{shape} = \min_{Q Q^\top = I} \|\hat A Q - \hat B\|_F, \qquad
        d_\text{angle} = 2 \arcsin \frac{d_\text{shape}}{2}, \qquad
        d_\text{size} = \min_{Q Q^\top = I} \|A Q - B\|_F

    All of them are metrics, and do not change when a space is rotated or shifted; the first two
    also do not change when it is scaled as a whole.

    It takes a singular value decomposition of the product of the features: time of order
    ``n d_a d_b`` and ``min(d_a, d_b)² max(d_a, d_b)``, and a few copies of the spaces in float64.
    It builds a matrix of all pairs of samples only if there are more features than samples.

    Args:
        a: Array of shape ``(n, ...)`` with n >= 2, one row per sample, of floats or integers.
        b: Array of shape ``(n, ...)``, the same samples in another space.
        form: ``"shape"``: the distance of the normed matrices, in [0, √2]. ``"angle"``: the angle
            between them, in [0, π/2]. ``"size"``: the distance of the matrices as they are.

    Returns:
        A float of at least 0; 0 if one space is a rotated copy of the other, which may also be
        scaled unless the form is ``"size"``.

    Raises:
        ValueError: If the spaces differ in length, one of them has NaN or infinite values or the
            same row for all samples, or ``form`` is not as above.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import procrustes_distance
        >>> a, b = np.random.default_rng(0).normal(size=(2, 200, 8))
        >>> print(f"{procrustes_distance(a, 2 * a[:, ::-1]):.2f} {procrustes_distance(a, b):.2f}")
        0.00 1.29
        >>> print(f"{procrustes_distance(a, 2 * a, form='size') / np.linalg.norm(a):.2f}")
        1.00

    Reference: ``"shape"``: Ding et al., "Grounding representation similarity with statistical
    testing", NeurIPS 2021, https://arxiv.org/abs/2108.01661; ``"angle"`` and ``"size"``: Williams
    et al., "Generalized shape metrics on neural representations", NeurIPS 2021,
    https://arxiv.org/abs/2110.14739
    """
    checks.check_choice("form", form, ("shape", "angle", "size"))
    rows_a, rows_b = paired_rows(a, b)
    spaces = [_compact(centred(name, x)) for name, x in (("a", rows_a), ("b", rows_b))]
    if form == "size":  # `centred` has divided each by its own
        largest = [np.max(np.abs(x)).astype("float64") for x in (rows_a, rows_b)]
        scale = max(largest)
        spaces = [x * (own / scale) for x, own in zip(spaces, largest, strict=True)]
        return float(scale * _turned_distance(*spaces))
    distance = _turned_distance(*(x / np.linalg.norm(x) for x in spaces))
    return 2 * math.asin(min(distance / 2, 1.0)) if form == "angle" else distance


def neighbour_jaccard(
    a: ArrayLike,
    b: ArrayLike,
    *,
    k: int = 10,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> float:
    r"""Whether samples have the same neighbours in two spaces of any widths.

    With :math:`N^a_k(i)` and :math:`N^b_k(i)` the k nearest other samples of sample i in the one
    space and in the other, it is the mean intersection over union

    .. math::

        J_k = \frac{1}{n} \sum_{i=1}^{n} \frac{|N^a_k(i) \cap N^b_k(i)|}{|N^a_k(i) \cup N^b_k(i)|}

    Neighbours are searched within each space; for neighbours across two spaces of one width, see
    `compare_spaces`. For independent spaces it is about ``k / (2 (n - 1) - k)``.

    It works in blocks of bounded size, in time of order n² d. If several samples tie for the last
    place, it is arbitrary which of them gets it.

    Args:
        a: Array of shape ``(n, ...)`` with n >= 2, one row per sample, of floats or integers.
        b: Array of shape ``(n, ...)``, the same samples in another space.
        k: Number of neighbours, below n.
        metric: What makes a neighbour near. ``"cosine"``: the result does not change when a space
            is rotated or scaled as a whole, or a single row is scaled. ``"euclidean"``: it does not
            change when a space is rotated, shifted or scaled as a whole.

    Returns:
        A float in [0, 1]; 1 if all neighbours are the same.

    Raises:
        ValueError: If the spaces differ in length or have fewer than 2 samples, one of them has
            NaN or infinite values or the same row for all samples, ``k`` is not an integer from 1
            to n - 1, or ``metric`` is not as above.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import neighbour_jaccard
        >>> a, b = np.random.default_rng(0).normal(size=(2, 200, 8))
        >>> print(f"{neighbour_jaccard(a, a[:, ::-1]):.2f} {neighbour_jaccard(a, b):.2f}")
        1.00 0.03

    Reference: Klabunde et al., "Similarity of neural network models: a survey of functional and
    representational measures", https://arxiv.org/abs/2305.06329
    """
    checks.check_choice("metric", metric, ("cosine", "euclidean"))
    rows_a, rows_b = paired_rows(a, b, least=2)
    checks.check_positive_integer("k", k)
    if k >= len(rows_a):
        raise checks.invalid("k", f"at most {len(rows_a) - 1}, the number of other samples", k)
    centres = [centred(name, x) for name, x in (("a", rows_a), ("b", rows_b))]
    if metric == "cosine":
        spaces = [(unit_rows(x.astype("float64")), 0.0) for x in (rows_a, rows_b)]
    else:
        spaces = [(x, np.sum(x**2, axis=1) / 2) for x in centres]
    found = [
        intersection_over_union(*(_neighbours(x, offset, rows, k) for x, offset in spaces))
        for rows in row_blocks(len(rows_a))
    ]
    return float(np.mean(np.concatenate(found)))


def _neighbours(x, offset, rows, k):
    """Indices ``(b, k)`` of the k largest inner products minus an offset, other than its own."""
    # The copy: see `compare_spaces`; equal spaces have equal products.
    products = x[rows].copy() @ x.T - offset
    own = np.arange(len(products))
    products[own, rows.start + own] = -np.inf
    return nearest(products, k)


def _ranks_of_pairs(argument, x, metric):
    """Ranks ``(n (n - 1) / 2,)`` of the similarities of pairs, centred and of norm 1."""
    alike = np.round(_alike(centred(argument, x) if metric == "euclidean" else x, metric), DECIMALS)
    if alike.min() == alike.max():
        expected = f"a space in which some pairs are more alike than others, by {metric}"
        raise checks.invalid(argument, expected, "one in which all are equally alike")
    ranks = _mean_ranks(alike)
    ranks -= ranks.mean()
    return ranks / np.linalg.norm(ranks)


def _alike(x, metric):
    """Similarities of the pairs of rows, at most 1 in magnitude, in one vector."""
    x = x.astype("float64")
    if metric == "correlation":
        is_flat = (x == x[:, :1]).all(axis=1, keepdims=True)
        x = unit_rows(x)  # first of all, or a mean might overflow
        x = unit_rows(np.where(is_flat, 0, x - x.mean(axis=1, keepdims=True)))
        lengths = np.zeros(len(x))
    else:
        lengths = np.sum(x**2, axis=1) / 2
    found = np.empty(len(x) * (len(x) - 1) // 2)
    start = 0
    for rows in row_blocks(len(x)):
        block = x[rows] @ x.T - lengths - lengths[rows, None]
        # Of the block, only the pairs of a row with a later one.
        after = np.triu(np.ones(block.shape, bool), 1 + rows.start)
        found[start : start + np.count_nonzero(after)] = block[after]
        start += np.count_nonzero(after)
    if metric == "euclidean":
        found = -np.sqrt(np.maximum(-found, 0))
        found /= max(-found.min(), np.finfo("float64").tiny)
    return found


def _mean_ranks(values):
    """Ranks from 1; ties get their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _compact(x):
    """Rows of at most n features: wider ones are rotated, which keeps their distances."""
    return np.linalg.qr(x.T, mode="r").T if x.shape[1] > len(x) else x


def _turned_distance(a, b):
    """Frobenius norm of what remains of two spaces after the best rotation of the narrower one."""
    if a.shape[1] > b.shape[1]:
        a, b = b, a
    # From the difference itself: a difference of norms would lose the digits near 0.
    u, _, vt = np.linalg.svd(a.T @ b, full_matrices=False)
    return float(np.linalg.norm(a @ (u @ vt) - b))
