"""Relative representations as tensors: samples described by their similarities to fixed anchors.

A projection has two halves. `anchor_statistics` is what it needs to know of the anchors, beyond
the anchors themselves; `relative_projection` is what it does with a batch.
"""

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from keras_lgg.checks import check_choice, check_positive, invalid
from keras_lgg.graphs.arrays import as_tensor, host_array
from keras_lgg.graphs.numerics import (
    as_column,
    as_row,
    flatten_representation,
    in_one_dtype,
    matmul,
    rounding_of_squares,
    safe_sqrt,
    to_float,
)
from keras_lgg.graphs.pairs import ENTRIES
from keras_lgg.graphs.products import EPSILON, ZERO, squared_norms, unit_rows
from keras_lgg.relative.factorisations import (
    column_means,
    inverse_deviations,
    inverse_root_covariance,
    pseudo_inverse,
)
from keras_lgg.types import ArrayLike, Tensor

NORMALIZATIONS = ("none", "center", "standardize", "whiten")
POOLS = ("concat", "sum", "mean", "stack")
QUANTIZATIONS = ("ste_round", "smooth_steps")


def relative_projection(
    x: Tensor,
    anchors: Tensor,
    *,
    similarity: str | Sequence[str] = "cosine",
    normalization: str = "none",
    pool: str = "concat",
    p: float = 2.0,
    stats: Mapping[str, Tensor] | None = None,
    eps: float = EPSILON,
) -> Tensor:
    r"""Relative representations: the similarities of each sample to each anchor.

    With a similarity s and the anchors :math:`a_1, \dots, a_K`, a sample x has the code

    .. math::

        r_x = \bigl( s(x, a_1), \dots, s(x, a_K) \bigr)

    ==================  ==========================================  ============================
    ``similarity``      :math:`s(x, a)`                             what leaves a code unchanged
    ==================  ==========================================  ============================
    ``"cosine"``        :math:`x^\top a / (\|x\| \, \|a\|)`,        rotation, scale
                        0 for a zero row
    ``"inner"``         :math:`x^\top a / \sqrt{d}`                 rotation
    ``"angular"``       :math:`\arccos(\cos(x, a)) / \pi`           rotation, scale
    ``"euclidean"``     :math:`\|x - a\|_2`                         rotation, shift
    ``"l1"``            :math:`\sum_i |x_i - a_i|`                  shift, permutation
    ``"lp"``            :math:`(\sum_i |x_i - a_i|^p)^{1/p}`        shift, permutation
    ``"basis_change"``  entry k of the shortest r with the least    rotation; any invertible map,
                        :math:`\|x - \sum_k r_k a_k\|`              if the anchors span the space
    ==================  ==========================================  ============================

    Before that, ``normalization`` transforms samples and anchors alike, with the mean :math:`\mu`,
    the standard deviations :math:`\sigma` and the covariance C of the anchors:

    .. math::

        \text{center: } x - \mu, \qquad
        \text{standardize: } (x - \mu) / \sigma, \qquad
        \text{whiten: } C^{-1/2} (x - \mu)

    ``"center"`` makes codes invariant to shifts as well. ``"standardize"`` makes them invariant to
    a shift and a scale of each axis, even a negative one, but no longer to rotations. ``"whiten"``
    makes them invariant to any invertible affine map, given more anchors than axes (with ``"l1"``
    and ``"lp"``, only to a shift and a scale, since whitened spaces still differ by a rotation).

    Args:
        x: Representations by the same network as the anchors, shape ``(n, ...)``.
        anchors: Representations of at least 2 anchors, shape ``(K, ...)``. Their order is that of
            the entries of a code. Both are flattened to width d.
        similarity: The function s: ``"cosine"``, ``"inner"``, ``"angular"``, ``"euclidean"``,
            ``"l1"``, ``"lp"`` or ``"basis_change"``, or a list of M of these, which makes a product
            of spaces.
        normalization: What is done first, with the statistics of the anchors: ``"none"``;
            ``"center"`` subtracts their mean; ``"standardize"`` also divides by their standard
            deviation (an axis on which they agree keeps its scale); ``"whiten"`` instead multiplies
            by the inverse root of their covariance. Axes that no anchor reaches become 0 or, with
            K <= d, get 1e-6 of the mean variance, which multiplies their rounding by a thousand:
            whiten with more anchors than axes.
        pool: How the codes of a list of similarities are joined: ``"concat"``, ``"sum"``,
            ``"mean"`` or ``"stack"``.
        p: Exponent of ``"lp"``, at least 1.
        stats: What `anchor_statistics` returned for these anchors; ``None`` computes it.
        eps: Smallest length of a row in a cosine: shorter rows are divided by this.

    Returns:
        Codes ``(n, K)``, float32 or float64; for a list of similarities ``(n, M * K)`` with
        ``"concat"`` and ``(n, M, K)`` with ``"stack"``. Gradients reach ``x`` and
        ``anchors``; through the statistics only if ``stats`` is not given.

    Raises:
        ValueError: If an option is not one of those above, there are fewer than 2 anchors, or
            their width is not that of ``x``.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import relative
        >>> x, anchors = np.array([[0.0, 2.0], [3.0, 3.0]]), np.array([[1.0, 0.0], [0.0, 5.0]])
        >>> print(np.round(np.asarray(relative.relative_projection(x, anchors)), 3))
        [[0.    1.   ]
         [0.707 0.707]]

    Reference: Moschella et al., "Relative representations enable zero-shot latent space
    communication", ICLR 2023, https://arxiv.org/abs/2209.15430; products of spaces: Cannistraci
    et al., "From bricks to bridges", ICLR 2024, https://arxiv.org/abs/2310.01211
    """
    names = similarity_names(similarity)
    check_choice("normalization", normalization, NORMALIZATIONS)
    check_choice("pool", pool, POOLS)
    check_exponent(p)
    check_positive("eps", eps)
    x, anchors = in_one_dtype(flatten_representation(x), flatten_representation(anchors, "anchors"))
    check_anchors(anchors, x.shape[1])
    if stats is None:
        stats = anchor_statistics(anchors, similarity=similarity, normalization=normalization)
    elif set(stats) != needed_statistics(names, normalization):
        raise invalid(
            "stats",
            f"anchor_statistics(anchors, similarity={similarity!r}, "
            f"normalization={normalization!r}), with {needed_statistics(names, normalization)}",
            f"{set(stats)}",
        )
    stats = {name: ops.cast(value, x.dtype) for name, value in stats.items()}
    x, anchors = normalized(x, stats), normalized(anchors, stats)
    codes = [_SIMILARITIES[name](x, anchors, stats, p=p, eps=eps) for name in names]
    return codes[0] if isinstance(similarity, str) else pooled(codes, pool)


def anchor_statistics(
    anchors: Tensor, *, similarity: str | Sequence[str] = "cosine", normalization: str = "none"
) -> dict[str, Tensor]:
    r"""What `relative_projection` needs to know of its anchors, beyond the anchors themselves.

    If the anchors are fixed, compute it once and pass it on as ``stats``: a covariance, or the
    pseudo-inverse for a change of basis, costs more than a batch. With the anchors as the rows
    :math:`a_1, \dots, a_K` of a matrix A, the statistics are

    .. math::

        \mu = \frac{1}{K} \sum_k a_k, \qquad
        \sigma_i = \sqrt{C_{ii}}, \qquad
        C = \frac{1}{K} \sum_k (a_k - \mu)(a_k - \mu)^\top, \qquad
        A^{+}

    The scale is :math:`1 / \sigma` to standardise and :math:`C^{-1/2}` to whiten; with K <= d, to
    whiten adds :math:`10^{-6} \operatorname{tr}(C) / d` to the diagonal of C. :math:`A^{+}` is the
    pseudo-inverse of the normalised anchors.

    Args:
        anchors: Representations of at least 2 anchors, shape ``(K, ...)``; flattened to width d.
        similarity: The similarity they are meant for, or a list of several, with the names of
            `relative_projection`: only ``"basis_change"`` needs statistics of its own.
        normalization: ``"none"``, ``"center"``, ``"standardize"`` or ``"whiten"``.

    Returns:
        Dict of tensors, with those that are needed: ``"mean"``, :math:`\mu` ``(d,)``; ``"scale"``,
        a factor for each axis ``(d,)``, or the whitening matrix ``(d, d)``; ``"inverse"``,
        :math:`A^{+}` ``(d, K)``.

    Raises:
        ValueError: If an option is unknown, there are fewer than 2 anchors, or anchors to be
            factorised are not finite.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import relative
        >>> anchors = np.array([[1.0, 0.0], [3.0, 8.0]], "float32")
        >>> stats = relative.anchor_statistics(anchors, normalization="standardize")
        >>> {name: np.asarray(value).tolist() for name, value in stats.items()}
        {'mean': [2.0, 4.0], 'scale': [1.0, 0.25]}

    Reference: Moschella et al., "Relative representations enable zero-shot latent space
    communication", ICLR 2023, https://arxiv.org/abs/2209.15430; standardisation: García-Castellanos
    et al., "Relative representations: topological and geometric perspectives", 2024,
    https://arxiv.org/abs/2409.10967
    """
    names = similarity_names(similarity)
    check_choice("normalization", normalization, NORMALIZATIONS)
    anchors = flatten_representation(anchors, "anchors")
    check_anchors(anchors, anchors.shape[1])
    stats = {}
    if normalization != "none":
        stats["mean"] = column_means(anchors)
        centred = anchors - stats["mean"]
        if normalization == "standardize":
            stats["scale"] = inverse_deviations(anchors, centred)
        elif normalization == "whiten":
            stats["scale"] = inverse_root_covariance(centred)
    if "basis_change" in names:
        anchors = normalized(anchors, stats)
        # Their mean is already 0, up to rounding, which whitening may have made large.
        stats["inverse"] = pseudo_inverse(
            anchors - column_means(anchors) if "mean" in stats else anchors
        )
    return stats


def quantize(codes: Tensor, *, bin_size: float, method: str = "ste_round") -> Tensor:
    r"""Round codes to steps of a given size, which hides small differences between two spaces.

    With the size b of a step and :math:`u = r / b` for an entry r of a code, the two methods are

    .. math::

        \text{ste\_round: } b \operatorname{round}(u), \qquad
        \text{smooth\_steps: } b \left( u - \frac{\sin 2 \pi u}{2 \pi} \right)

    Args:
        codes: Float tensor of any shape.
        bin_size: Size b of a step, a positive number.
        method: ``"ste_round"`` rounds to the nearest step, and passes the gradient on as if nothing
            had been rounded; ``"smooth_steps"`` is differentiable, and flat at every step.

    Returns:
        Tensor of the shape of ``codes``, float32 or float64.

    Raises:
        ValueError: If ``bin_size`` is not positive or the method unknown.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import relative
        >>> codes = np.array([[0.1, 0.3, 0.9]], "float32")
        >>> np.asarray(relative.quantize(codes, bin_size=0.5)).tolist()
        [[0.0, 0.5, 1.0]]

    Reference: Moschella et al., "Relative representations enable zero-shot latent space
    communication", ICLR 2023, https://arxiv.org/abs/2209.15430
    """
    check_positive("bin_size", bin_size)
    check_choice("method", method, QUANTIZATIONS)
    codes = to_float(as_tensor("codes", codes, "codes, numbers of any shape"))
    steps = codes / bin_size
    if method == "smooth_steps":
        return bin_size * (steps - _in_own_dtype("sin", 2 * math.pi * steps) / (2 * math.pi))
    return codes + ops.stop_gradient(bin_size * ops.round(steps) - codes)


def class_codes(codes: Tensor, anchor_labels: ArrayLike) -> Tensor:
    r"""The mean similarity of each sample to the anchors of each class.

    With :math:`r_x` the code of a sample and :math:`A_c` the indices of the anchors of class c,

    .. math::

        r^\text{class}_{x, c} = \frac{1}{|A_c|} \sum_{k \in A_c} r_{x, k}

    Args:
        codes: Codes ``(..., K)``.
        anchor_labels: Class of each anchor, integers ``(K,)``; every class from 0 to the largest
            has at least one anchor.

    Returns:
        Tensor ``(..., classes)``, float32 or float64.

    Raises:
        ValueError: If the number of labels is not that of the anchors, or a class has no anchor.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import relative
        >>> codes = np.array([[0.25, 0.75, 1.0]], "float32")
        >>> np.asarray(relative.class_codes(codes, [0, 0, 1])).tolist()
        [[0.5, 1.0]]

    Reference: Moschella et al., "Relative representations enable zero-shot latent space
    communication", ICLR 2023, https://arxiv.org/abs/2209.15430
    """
    codes = to_float(as_tensor("codes", codes, "codes of shape (..., K)"))
    if len(codes.shape) == 0:
        raise invalid("codes", "codes of shape (..., K)", "a scalar")
    means = class_averages(anchor_labels, codes.shape[-1])
    return matmul(codes, ops.cast(means, codes.dtype))


def similarity_names(similarity):
    """The similarities as a list, or raise."""
    names = [similarity] if isinstance(similarity, str) else similarity
    if not isinstance(names, list | tuple) or not names:
        raise invalid("similarity", f"one of {SIMILARITIES}, or a list of them", repr(similarity))
    for name in names:
        check_choice("similarity", name, SIMILARITIES)
    return list(names)


def check_exponent(p):
    """Raise unless p is the exponent of a distance."""
    check_positive("p", p)
    if p < 1:
        raise invalid("p", "a number of at least 1, which makes a distance", p)


def needed_statistics(names, normalization):
    """The keys of what `anchor_statistics` returns."""
    keys = {
        "none": set(),
        "center": {"mean"},
        "standardize": {"mean", "scale"},
        "whiten": {"mean", "scale"},
    }[normalization]
    return keys | {"inverse"} if "basis_change" in names else keys


def check_anchors(anchors, width):
    """Raise unless there are at least 2 anchors, of the given width."""
    count, received = anchors.shape
    if count is not None and count < 2:
        raise invalid("anchors", "at least 2 anchors, one per row", f"shape {tuple(anchors.shape)}")
    if None not in (width, received) and width != received:
        raise ValueError(
            "Samples and anchors are of different spaces. Expected representations of one width, "
            f"from the same network. Received: samples of width {width}, anchors of width "
            f"{received}. Encode the anchors with the network that encodes the samples."
        )


def normalized(x, stats):
    """Representations, normalised by the statistics of the anchors."""
    if "mean" in stats:
        x = x - stats["mean"]
    if "scale" in stats:
        x = x * stats["scale"] if len(stats["scale"].shape) == 1 else matmul(x, stats["scale"])
    return x


def pooled(codes, pool):
    """A list of codes ``(n, K)`` as one."""
    if pool == "concat":
        return ops.concatenate(codes, axis=-1)
    codes = ops.stack(codes, axis=1)
    if pool == "stack":
        return codes
    total = ops.sum(codes, axis=1)
    return total if pool == "sum" else total / codes.shape[1]


def pooled_shape(n, width, count, pool):
    """The shape of what `pooled` makes of ``count`` codes ``(n, width)``."""
    shapes = {"concat": (n, width and width * count), "stack": (n, count, width)}
    return shapes.get(pool, (n, width))


def class_averages(anchor_labels, count):
    """The NumPy matrix ``(count, classes)`` that averages over the anchors of each class."""
    labels = host_array("anchor_labels", anchor_labels, "integers of shape (K,)")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or count not in (None, len(labels)):
        raise invalid(
            "anchor_labels",
            f"one integer for each of the {count} anchors",
            f"{labels.dtype} of shape {labels.shape}",
        )
    fits = labels.size and labels.min() >= 0 and labels.max() < len(labels)
    members = np.eye(labels.max() + 1)[labels] if fits else np.zeros((1, 1))
    if not members.any(axis=0).all():
        raise invalid(
            "anchor_labels",
            "an anchor of every class, from 0 to the largest (select_anchors with "
            'method="stratified" takes some of each)',
            f"labels {sorted(set(labels.tolist()))}",
        )
    return members / members.sum(axis=0)


def _in_own_dtype(name, x):
    """A function of Keras that rounds float64 to float32 on JAX, without that rounding."""
    if keras.backend.backend() != "jax":
        return getattr(ops, name)(x)
    import jax

    return getattr(jax.numpy, name)(x)


# The similarities, each ``(x, anchors, stats, p, eps)`` to codes ``(n, K)``.


def _cosine(x, anchors, stats, *, p, eps):
    eps = max(eps, ZERO)  # shorter rows are zero
    return matmul(unit_rows(x, eps), ops.transpose(unit_rows(anchors, eps)))


def _inner(x, anchors, stats, *, p, eps):
    return matmul(x, ops.transpose(anchors)) / math.sqrt(anchors.shape[1])


def _angular(x, anchors, stats, *, p, eps):
    cosines = _cosine(x, anchors, stats, p=p, eps=eps)
    # At the ends the slope is infinite; it is set to 0, as for a distance of 0.
    ends = ops.abs(cosines) >= 1.0
    angles = _in_own_dtype("arccos", ops.where(ends, 0.0, cosines))
    return ops.where(ends, ops.where(cosines > 0, 0.0, math.pi), angles) / math.pi


def _euclidean(x, anchors, stats, *, p, eps):
    # Distances do not depend on the origin; a common offset would only cost digits.
    centre = ops.stop_gradient(column_means(anchors))
    x, anchors = x - centre, anchors - centre
    # Each sample has its own scale, so that its code does not depend on the others.
    reach = ops.stop_gradient(ops.max(ops.abs(anchors)))
    scale = ops.maximum(ops.stop_gradient(ops.max(ops.abs(x), axis=1, keepdims=True)), reach)
    scale = ops.where(ops.equal(scale, 0.0), 1.0, scale)
    reach = ops.where(ops.equal(reach, 0.0), 1.0, reach)
    x, anchors, ratio = x / scale, anchors / reach, reach / scale
    norms = as_column(squared_norms(x)) + ops.square(ratio) * as_row(squared_norms(anchors))
    squares = norms - 2.0 * ratio * matmul(x, ops.transpose(anchors))
    # What is below the rounding of the products is no distance, and has no direction.
    zero = squares <= rounding_of_squares(x) * norms
    return scale * safe_sqrt(ops.where(zero, 0.0, squares))


def _manhattan(x, anchors, stats, *, p, eps):
    return _by_differences(x, anchors, lambda d: ops.sum(d, axis=-1))


def _minkowski(x, anchors, stats, *, p, eps):
    def norm(differences):
        largest = ops.stop_gradient(ops.max(differences, axis=-1))
        largest = ops.where(ops.equal(largest, 0.0), 1.0, largest)
        total = ops.sum((differences / largest[..., None]) ** p, axis=-1)
        zero = ops.equal(total, 0.0)
        return largest * ops.where(zero, 0.0, ops.where(zero, 1.0, total) ** (1.0 / p))

    return _by_differences(x, anchors, norm)


def _by_differences(x, anchors, norm):
    """``norm(|x_i - a_k|)`` of every pair, in blocks if an (n, K, d) array would be large."""

    def to_block(x, block):
        differences = x[:, None, :] - block[None, :, :]
        # The absolute value, with a slope of 0 at 0 on every backend.
        return norm(differences * ops.stop_gradient(ops.sign(differences)))

    (n, width), count = x.shape, anchors.shape[0]
    if None in (n, count) or n * count * width <= ENTRIES:
        return to_block(x, anchors)
    size = max(1, ENTRIES // (n * width))
    blocks = -(-count // size)
    filled = ops.pad(anchors, [[0, blocks * size - count], [0, 0]])
    to_block = keras.remat(to_block)  # only its arguments get gradients
    codes = ops.map(lambda b: to_block(x, b), ops.reshape(filled, (blocks, size, width)))
    return ops.reshape(ops.transpose(codes, (1, 0, 2)), (n, blocks * size))[:, :count]


def _basis_change(x, anchors, stats, *, p, eps):
    return matmul(x, stats["inverse"])


_SIMILARITIES = {
    "cosine": _cosine,
    "inner": _inner,
    "angular": _angular,
    "euclidean": _euclidean,
    "l1": _manhattan,
    "lp": _minkowski,
    "basis_change": _basis_change,
}
SIMILARITIES = tuple(_SIMILARITIES)
