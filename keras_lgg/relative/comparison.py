"""How similar two latent spaces of the same samples are, in NumPy.

    compare_spaces(a, b)   neighbours, ranks and cosines (equal widths only), and linear_cka
    linear_cka(a, b)       kernel alignment, of any two widths

[1] Moschella et al., "Relative representations enable zero-shot latent space communication",
    arXiv 2209.15430.
[2] Kornblith et al., "Similarity of neural network representations revisited", arXiv 1905.00414.
"""

import math

import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.arrays import host_array
from keras_lgg.graphs.pairs import rows_of_block
from keras_lgg.types import ArrayLike

# Cosines of unit rows that differ by less, in units of the machine epsilon, count as equal: a
# matrix product rounds the same pair of rows differently from place to place, by up to 10.5
# epsilons as measured for widths from 3 to 4097.
ROUNDING = 16


def compare_spaces(a: ArrayLike, b: ArrayLike, *, k: int = 10) -> dict[str, float]:
    r"""How well two spaces with the same axes agree, sample by sample.

    Row i of one space and row i of the other stand for the same sample. Samples of both spaces are
    looked up in ``b``: :math:`N_k(v)` are the k rows of ``b`` with the largest cosine to a vector
    v, among them the sample itself. With :math:`a_i` and :math:`b_i` the rows of the n samples,

    .. math::

        \text{jaccard@}k = \frac{1}{n} \sum_i
        \frac{|N_k(b_i) \cap N_k(a_i)|}{|N_k(b_i) \cup N_k(a_i)|}, \qquad
        \text{mrr} = \frac{1}{n} \sum_i \frac{1}{\rho_i}, \qquad
        \rho_i = 1 + |\{j : \cos(a_i, b_j) > \cos(a_i, b_i)\}|

    Swapping ``a`` and ``b`` changes all values but ``cosine`` and ``linear_cka``.

    Two spaces that were trained apart have different axes, so these numbers, ``linear_cka``
    excepted, find nothing in common. Compare their relative codes on the same anchors instead, or
    take a measure that ignores rotations, such as `debiased_cka` or `neighbour_jaccard`.

    Args:
        a: Array of shape ``(n, ...)``, one row per sample, of floats or integers.
        b: The same samples in the other space, likewise. The work is done in float64 if either
            array is float64, else in float32; rows are flattened. A row of one space is looked up
            in the other by its coordinates, so all values but ``linear_cka`` are NaN if the widths
            differ.
        k: Number of neighbours, at most n.

    Returns:
        Dict of floats; for k = 10 the keys are

        * ``"jaccard@10"``: intersection over union of the neighbours of row i of ``b`` and those of
          row i of ``a``, averaged over the samples. If several rows tie for the last place, it is
          arbitrary which of them gets it;
        * ``"mrr"``: mean of 1 / rank. The rank is 1 plus the number of rows of ``b`` that have a
          larger cosine to row i of ``a`` than row i of ``b`` has, by more than rounding;
        * ``"mrr@10"``: the same, with 0 in place of 1 / rank if the rank is above 10;
        * ``"cosine"``: mean cosine of row i of ``a`` and row i of ``b``;
        * ``"linear_cka"``: centred kernel alignment, as by `linear_cka`.

        All are 1 for equal spaces. A row of zeros has cosine 0 with every row, which lowers
        ``cosine``; in ``a``, its rank is 1, since all rows of ``b`` tie.

    Raises:
        ValueError: If the spaces differ in length, a space has NaN or infinite values or the same
            row for all samples, or ``k`` is not an integer from 1 to n.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import compare_spaces
        >>> a = np.random.default_rng(0).normal(size=(500, 32))
        >>> found = compare_spaces(a, 3 * a, k=5)
        >>> {name: round(value, 6) for name, value in found.items()}
        {'jaccard@5': 1.0, 'mrr': 1.0, 'mrr@5': 1.0, 'cosine': 1.0, 'linear_cka': 1.0}
        >>> shuffled = np.roll(a, 1, axis=1)  # the same geometry, on other axes
        >>> found = compare_spaces(a, shuffled, k=5)
        >>> round(found["mrr"], 1), round(found["linear_cka"], 6)
        (0.0, 1.0)

    Reference: Moschella et al., "Relative representations enable zero-shot latent space
    communication", ICLR 2023, https://arxiv.org/abs/2209.15430; the alignment: Kornblith et al.,
    "Similarity of neural network representations revisited", ICML 2019,
    https://arxiv.org/abs/1905.00414
    """
    rows_a, rows_b = paired_rows(a, b)
    n = len(rows_a)
    checks.check_positive_integer("k", k)
    if k > n:
        raise checks.invalid("k", f"at most {n}, the number of samples", k)
    return {**_row_by_row(rows_a, rows_b, k), "linear_cka": _aligned(rows_a, rows_b)}


def linear_cka(a: ArrayLike, b: ArrayLike) -> float:
    r"""Linear CKA: centred kernel alignment of two spaces of any widths, with linear kernels.

    With A and B the centred spaces, one row per sample, it is

    .. math::

        \frac{\|B^\top A\|_F^2}{\|A^\top A\|_F \, \|B^\top B\|_F} ,

    computed in float64. It does not change when a space is rotated, shifted or scaled as a whole.

    It is biased: the fewer the samples, the more similar two unrelated spaces appear. For
    independent normal samples of width 64 it is 0.67 at n = 32, 0.20 at n = 256 and 0.03 at
    n = 2048. `debiased_cka` is 0 for them on average, whatever n is.

    Args:
        a: Array of shape ``(n, ...)``, one row per sample, of floats or integers.
        b: Array of shape ``(n, ...)``, the same samples in another space.

    Returns:
        A float in [0, 1]; 1 if one space is a rotated and scaled copy of the other.

    Raises:
        ValueError: If the spaces differ in length, or one of them has NaN or infinite values or
            the same row for all samples.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import linear_cka
        >>> a = np.random.default_rng(0).normal(size=(100, 8))
        >>> wider = np.concatenate([np.ones((100, 4)), 5 * a[:, ::-1]], axis=1)
        >>> round(linear_cka(a, wider), 6)
        1.0

    Reference: Kornblith et al., "Similarity of neural network representations revisited", ICML
    2019, https://arxiv.org/abs/1905.00414
    """
    return _aligned(*paired_rows(a, b))


def finite_rows(argument, x, dtype=None):
    """Samples ``(n, ...)`` as finite rows ``(n, d)``, float64 if they are float64, else float32.

    Args:
        argument: Name of the argument, for the errors.
        x: Array of shape ``(n, ...)``.
        dtype: Dtype of the rows; ``None`` derives it from ``x`` as above.
    """
    x = host_array(argument, x, "real numbers")
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise checks.invalid(
            argument, "an array of shape (n, ...), one row per sample", f"shape {x.shape}"
        )
    if not np.can_cast(x.dtype, "float32", "same_kind"):
        raise checks.invalid(argument, "real numbers", f"an array of {x.dtype}")
    if dtype is None:
        dtype = "float64" if x.dtype == "float64" else "float32"
    rows = x.reshape(len(x), math.prod(x.shape[1:])).astype(dtype, copy=False)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        count = np.count_nonzero(~finite)
        received = f"NaN or infinite values in {count} of {len(rows)} rows"
        raise checks.invalid(argument, "finite values", received)
    return rows


def unit_rows(x):
    """Rows divided by their L2 norms; rows of zeros stay zeros."""
    # First by the largest entry: squares of very large or small ones would over- or underflow.
    peak = np.max(np.abs(x), axis=1, keepdims=True)
    x = x / np.where(peak > 0, peak, 1)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1)


def row_blocks(n):
    """Slices that cut n rows into blocks, such that a block by all n stays of bounded size."""
    size = rows_of_block(n, None) or n
    return [slice(start, start + size) for start in range(0, n, size)]


def paired_rows(a, b, *, least=0):
    """The rows of two spaces of the same samples, at least ``least`` of them, in one dtype."""
    a, b = finite_rows("a", a), finite_rows("b", b)
    checks.check_same_length(a=a, b=b)
    if len(a) < least:
        raise checks.invalid("a", f"at least {least} samples", f"{len(a)}")
    dtype = np.result_type(a, b)
    return a.astype(dtype, copy=False), b.astype(dtype, copy=False)


def _row_by_row(a, b, k):
    """What is computed row by row; NaN if the widths differ."""
    names = (f"jaccard@{k}", "mrr", f"mrr@{k}", "cosine")
    if a.shape[1] != b.shape[1]:
        return dict.fromkeys(names, math.nan)
    parts = _by_blocks(unit_rows(a), unit_rows(b), k)
    jaccard, ranks, cosines = (np.concatenate(part) for part in zip(*parts, strict=True))
    found = (jaccard, 1 / ranks, np.where(ranks <= k, 1 / ranks, 0), cosines)
    return {name: float(np.mean(x, dtype="float64")) for name, x in zip(names, found, strict=True)}


def _by_blocks(a, b, k):
    """Jaccard index, rank and cosine of each sample, block by block, of unit rows."""
    margin = ROUNDING * np.finfo(b.dtype).eps
    for rows in row_blocks(len(b)):
        # The copy keeps NumPy from the routine for a matrix times its own transpose, which rounds
        # differently: so equal spaces have equal cosines, and the same rows win ties.
        expected = nearest(b[rows].copy() @ b.T, k)
        cosines = a[rows] @ b.T
        # From the same product: another one would round differently.
        own = cosines.diagonal(rows.start).copy()
        ranks = 1 + np.count_nonzero(cosines > (own + margin)[:, None], axis=1)
        yield intersection_over_union(expected, nearest(cosines, k)), ranks, own


def nearest(cosines, k):
    """Column indices of the k largest of each row, in any order."""
    n = cosines.shape[1]
    # A copy, or the few columns would keep the indices of all of them in memory.
    return np.argpartition(cosines, n - k, axis=1)[:, n - k :].copy()


def intersection_over_union(first, second):
    """Intersection over union of the sets in the rows of two arrays (b, k)."""
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)
    common = np.count_nonzero(both[:, 1:] == both[:, :-1], axis=1)
    return common / (both.shape[1] - common)


def _aligned(a, b):
    a, b = centred("a", a), centred("b", b)
    return float(alignment(a, b) / math.sqrt(alignment(a, a) * alignment(b, b)))


def centred(argument, x):
    """Centred rows in float64, scaled so that fourth powers stay finite."""
    if (x == x[:1]).all():
        raise checks.invalid(argument, "samples that differ", f"{len(x)} equal rows")
    x = x.astype("float64") / np.max(np.abs(x))
    return x - x.mean(axis=0)


def alignment(a, b):
    """``|a^T b|²``, the inner product of ``a a^T`` and ``b b^T``, by the cheaper of the two."""
    n, (p, q) = len(a), (a.shape[1], b.shape[1])
    if p * q <= n * (p + q):
        return np.sum((a.T @ b) ** 2)
    return sum(np.sum((a[rows] @ a.T) * (b[rows] @ b.T)) for rows in row_blocks(n))
