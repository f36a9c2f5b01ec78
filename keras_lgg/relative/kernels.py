"""Kernel alignment without the bias of few samples, in batches, and with Gaussian kernels.

    debiased_cka(a, b)    linear kernels; 0 on average for unrelated spaces
    minibatch_cka(a, b)   the same, from small batches
    rbf_cka(a, b)         Gaussian kernels, which see near samples and ignore far ones

[1] Kornblith et al., "Similarity of neural network representations revisited", arXiv 1905.00414.
[2] Song et al., "Feature selection via dependence maximization", JMLR 13, 2012.
[3] Nguyen et al., "Do wide and deep networks learn the same things?", arXiv 2010.15327.
[4] Székely, Rizzo, "Partial distance correlation with methods for dissimilarities", Annals of
    Statistics 42(6), 2014.
"""

import itertools
import math

import numpy as np

from keras_lgg import checks
from keras_lgg.relative.comparison import alignment, centred, paired_rows
from keras_lgg.types import ArrayLike

FEWEST = 4  # samples that the unbiased estimator needs
ROUNDED = 1e-12  # share of a kernel that rounding alone may leave


def debiased_cka(a: ArrayLike, b: ArrayLike) -> float:
    r"""Debiased CKA: centred kernel alignment with linear kernels, from unbiased estimates.

    It is :math:`\text{HSIC}(K, L) / \sqrt{\text{HSIC}(K, K) \, \text{HSIC}(L, L)}` of the kernels
    :math:`K = A A^\top` and :math:`L = B B^\top`. With :math:`\tilde K` and :math:`\tilde L` the
    kernels whose diagonals are set to 0, the unbiased estimator is

    .. math::

        \text{HSIC}(K, L) = \frac{1}{n (n - 3)} \left( \operatorname{tr}(\tilde K \tilde L)
        + \frac{(1^\top \tilde K 1)(1^\top \tilde L 1)}{(n - 1)(n - 2)}
        - \frac{2}{n - 2} 1^\top \tilde K \tilde L 1 \right)

    So independent spaces have 0 on average, whereas `linear_cka` grows as the samples become fewer.
    It does not change when a space is rotated, shifted or scaled as a whole.

    Like `linear_cka`, it works on products of features, or on blocks of the kernels if that is
    cheaper: it needs a few copies of the spaces in float64, and no matrix of all pairs of samples.

    Args:
        a: Array of shape ``(n, ...)`` with n >= 4, one row per sample, of floats or integers.
        b: Array of shape ``(n, ...)``, the same samples in another space, of any width.

    Returns:
        A float in [-1, 1], below 0 only by chance; 1 if one space is a rotated and scaled copy of
        the other.

    Raises:
        ValueError: If the spaces differ in length or have fewer than 4 samples, or one of them has
            NaN or infinite values, the same row for all samples, or all pairs equally similar.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import debiased_cka, linear_cka
        >>> a, b = np.random.default_rng(0).normal(size=(2, 32, 64))  # nothing in common
        >>> print(f"{linear_cka(a, b):.2f} {debiased_cka(a, b):.2f}")
        0.68 0.05
        >>> round(debiased_cka(a, 3 * a[:, ::-1] + 1), 6)
        1.0

    Reference: the estimator: Song et al., "Feature selection via dependence maximization", JMLR 13,
    2012; its use in the alignment: Kornblith et al., "Similarity of neural network representations
    revisited", ICML 2019, https://arxiv.org/abs/1905.00414, and Nguyen et al., "Do wide and deep
    networks learn the same things?", ICLR 2021, https://arxiv.org/abs/2010.15327
    """
    rows_a, rows_b = paired_rows(a, b, least=FEWEST)
    rows_a, rows_b = centred("a", rows_a), centred("b", rows_b)
    own_a, own_b = (_own_part(name, x) for name, x in (("a", rows_a), ("b", rows_b)))
    return float(_unbiased(rows_a, rows_b) / math.sqrt(own_a * own_b))


def minibatch_cka(a: ArrayLike, b: ArrayLike, *, batch_size: int = 256) -> float:
    r"""Minibatch CKA: `debiased_cka` with its three parts averaged over batches of the samples.

    With :math:`K_i` and :math:`L_i` the linear kernels of batch i, and HSIC the unbiased estimator
    of `debiased_cka`, it is

    .. math::

        \frac{\sum_i \text{HSIC}(K_i, L_i)}
        {\sqrt{\sum_i \text{HSIC}(K_i, K_i)} \, \sqrt{\sum_i \text{HSIC}(L_i, L_i)}}

    So it can be computed for any number of samples, and for two networks in one pass over the data
    (`similarity_map`). It estimates the same quantity, and is 0 on average for independent spaces
    whatever the batch size. It works on matrices of all pairs in a batch.

    Args:
        a: Array of shape ``(n, ...)`` with n >= 4, one row per sample, of floats or integers, in
            random order: shuffle samples that are sorted by class.
        b: Array of shape ``(n, ...)``, the same samples in another space, of any width.
        batch_size: The samples are cut, in their order, into ``n // batch_size`` batches of nearly
            equal size, none of them smaller than this; at least 4.

    Returns:
        A float in [-1, 1]; 1 if one space is a rotated and scaled copy of the other.

    Raises:
        ValueError: If ``batch_size`` is no integer of at least 4, the spaces differ in length or
            have fewer than 4 samples, or one of them has NaN or infinite values, or all pairs
            equally similar in every batch.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import debiased_cka, minibatch_cka
        >>> a, noise = np.random.default_rng(0).normal(size=(2, 2000, 16))
        >>> b = a + noise
        >>> print(f"{debiased_cka(a, b):.2f} {minibatch_cka(a, b, batch_size=100):.2f}")
        0.50 0.50

    Reference: Nguyen et al., "Do wide and deep networks learn the same things?", ICLR 2021,
    https://arxiv.org/abs/2010.15327
    """
    check_batch_size(batch_size)
    rows_a, rows_b = paired_rows(a, b, least=FEWEST)
    # Each divided by its largest magnitude, whose fourth power is then 1.
    rows_a, rows_b = (x.astype("float64") / (np.max(np.abs(x)) or 1) for x in (rows_a, rows_b))
    parts = [
        products([rows_a[batch]], [rows_b[batch]]) for batch in batches(len(rows_a), batch_size)
    ]
    cross, own_a, own_b = (sum(part).item() for part in zip(*parts, strict=True))
    for name, own in (("a", own_a), ("b", own_b)):
        if own == 0:
            raise _all_alike(name)
    return cross / math.sqrt(own_a * own_b)


def rbf_cka(a: ArrayLike, b: ArrayLike, *, bandwidth: float = 1.0) -> float:
    r"""RBF CKA: centred kernel alignment of two spaces of any widths, with Gaussian kernels.

    The kernel of two samples at distance r is

    .. math::

        k = \exp\left( -\frac{r^2}{2 \sigma^2} \right), \qquad
        \sigma^2 = \text{bandwidth}^2 \cdot \operatorname{median}(r^2) ,

    with the median over all pairs of different samples of the space. With K and L the kernels of
    the two spaces, centred by :math:`H = I - 1 1^\top / n`, the alignment is

    .. math::

        \frac{\langle H K H, H L H \rangle_F}{\|H K H\|_F \, \|H L H\|_F}

    It does not change when a space is rotated, shifted or scaled as a whole. Like `linear_cka`, it
    is biased if there are few samples, the more so the smaller the bandwidth.

    It builds matrices of all pairs, with a peak of 25 n² bytes: 0.6 GB for n = 5,000, and 63 GB for
    n = 50,000. Take a few thousand samples.

    Args:
        a: Array of shape ``(n, ...)`` with n >= 2, one row per sample, of floats or integers.
        b: Array of shape ``(n, ...)``, the same samples in another space, of any width.
        bandwidth: Positive number; Kornblith et al. try 0.2 to 0.8. The larger it is, the closer
            the result is to `linear_cka`.

    Returns:
        A float in [0, 1]; 1 if one space is a rotated and scaled copy of the other.

    Raises:
        ValueError: If the spaces differ in length, one of them has NaN or infinite values, the
            same row for all samples or for most pairs of them, or ``bandwidth`` is no positive
            number.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import rbf_cka
        >>> a = np.random.default_rng(0).normal(size=(100, 8))
        >>> round(rbf_cka(a, 5 * a[:, ::-1] + 1, bandwidth=0.5), 6)
        1.0

    Reference: Kornblith et al., "Similarity of neural network representations revisited", ICML
    2019, https://arxiv.org/abs/1905.00414
    """
    checks.check_positive("bandwidth", bandwidth)
    rows_a, rows_b = paired_rows(a, b)
    kernel_a = _gaussian("a", centred("a", rows_a), bandwidth)
    kernel_b = _gaussian("b", centred("b", rows_b), bandwidth)
    return float(np.vdot(kernel_a, kernel_b) / (_norm(kernel_a) * _norm(kernel_b)))


def check_batch_size(batch_size):
    """Raise unless a batch is large enough for the unbiased estimator."""
    checks.check_positive_integer("batch_size", batch_size)
    if batch_size < FEWEST:
        raise checks.invalid("batch_size", f"at least {FEWEST}", batch_size)


def batches(n, batch_size):
    """Slices that cut n samples into batches of at least ``batch_size``, as equal as can be."""
    ends = np.linspace(0, n, max(n // batch_size, 1) + 1).round().astype("int64")
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def products(spaces_a, spaces_b):
    """Unbiased HSIC on one batch, for each space ``(n, d)`` of one list with each of another.

    Returns:
        Tuple of arrays ``(p, q)``, ``(p,)`` and ``(q,)``: each of the p with each of the q, and
        each with itself, which is 0 if all samples of a space are equally similar.
    """
    n = len(spaces_a[0])
    a, b = (
        np.stack([_without_means(x) for x in spaces]) / math.sqrt(n * (n - 3))
        for spaces in (spaces_a, spaces_b)
    )
    return a @ b.T, np.sum(a**2, axis=1), np.sum(b**2, axis=1)


def _without_means(x):
    """The linear kernel of a space, flat, with zero diagonal and rows that sum to 0; see [4]."""
    n = len(x)
    if (x == x[:1]).all():
        return np.zeros(n * n)
    x = x - x.mean(axis=0)
    kernel = x @ x.T
    scale = np.max(np.abs(kernel))
    np.fill_diagonal(kernel, 0)
    means = kernel.sum(axis=0) / (n - 2)
    kernel -= means + means[:, None] - means.sum() / (n - 1)
    np.fill_diagonal(kernel, 0)
    return kernel.ravel() * (np.max(np.abs(kernel)) > ROUNDED * scale)


def _unbiased(a, b):
    """n (n - 3) times the unbiased HSIC of centred spaces, from their features; see [2].

    The rows of a centred kernel sum to 0, so without the diagonal they sum to minus the diagonal.
    """
    n = len(a)
    first, second = (np.sum(x**2, axis=1) for x in (a, b))
    mean = first.sum() * second.sum() / ((n - 1) * (n - 2))
    return alignment(a, b) - n / (n - 2) * (first @ second) + mean


def _own_part(argument, x):
    own = _unbiased(x, x)
    if own <= ROUNDED * alignment(x, x):
        raise _all_alike(argument)
    return own


def _all_alike(argument):
    expected = "a space in which some pairs of samples are more alike than others"
    return checks.invalid(argument, expected, "one in which all are equally alike")


def _gaussian(argument, x, bandwidth):
    """The centred Gaussian kernel ``(n, n)`` of centred rows."""
    lengths = np.sum(x**2, axis=1)
    kernel = x @ x.T
    kernel *= -2
    kernel += lengths
    kernel += lengths[:, None]
    np.maximum(kernel, 0, out=kernel)
    # Each pair occurs twice, which does not change the median.
    median = np.median(kernel[~np.eye(len(x), dtype=bool)], overwrite_input=True)
    if median <= ROUNDED * lengths.max():
        expected = "a space in which most pairs of samples differ"
        raise checks.invalid(argument, expected, "one whose median distance is 0")
    kernel /= -2 * bandwidth**2 * median
    np.exp(kernel, out=kernel)
    means = kernel.mean(axis=0)
    kernel -= means
    kernel -= means[:, None] - means.mean()
    return kernel


def _norm(kernel):
    return math.sqrt(np.vdot(kernel, kernel))
