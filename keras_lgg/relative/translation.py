"""Maps from one latent space to another, fitted on the samples that both share: the anchors.

    Procrustes()       a rotation, with shift and scale (of the space, or of each feature)
    LeastSquares()     a matrix, or the nearest orthogonal one
    Affine()           a matrix and a shift
    InverseRelative()  the rows of the target with the same relative codes

A fitted translator is a function of NumPy arrays, and makes a plain Keras layer that does the
same::

    translate = Procrustes().fit(encoder_a(anchors), encoder_b(anchors))
    stitched = keras.Sequential([encoder_a, translate.layer(), decoder_b])

[1] Maiorca et al., "Latent space translation via semantic alignment", arXiv 2311.00664.
[2] Maiorca et al., "Latent space translation via inverse relative projection", arXiv 2406.15057.
[3] Moschella et al., "Relative representations enable zero-shot latent space communication",
    arXiv 2209.15430.
"""

import math
import warnings
from typing import Literal, Self

import keras
import numpy as np

from keras_lgg import checks
from keras_lgg.relative.comparison import ROUNDING, finite_rows, unit_rows
from keras_lgg.types import ArrayLike

# The condition number above which `fit` warns.
LARGEST_CONDITION = 1e3


class Translator:
    """What the translators share; a subclass has ``_solve(source, target)``, the fit itself.

    Attributes:
        shift: What is subtracted first, of shape ``(d1,)``, or ``None``.
        kernel: Matrix of shape ``(d1, d2)``, or ``None`` before `fit`.
        bias: What is added last, of shape ``(d2,)``, or ``None``.
    """

    shift: np.ndarray | None = None
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None
    normalizes = False  # whether rows are scaled to unit length, after the shift

    def fit(self, source: ArrayLike, target: ArrayLike) -> Self:
        """Fit the map on the anchors.

        Args:
            source: Array of shape ``(K, ...)``, the anchors in the space to translate from; rows
                are flattened to d1 features.
            target: Array of shape ``(K, ...)``, the same anchors, in the same order, in the space
                to translate to; d2 features.

        Returns:
            This translator.

        Raises:
            ValueError: If the two differ in their number of anchors, there are fewer than 2, or a
                value is NaN or infinite.
        """
        known = finite_rows("source", source, "float64")
        wanted = finite_rows("target", target, "float64")
        if len(known) != len(wanted):
            raise ValueError(
                "The anchors do not pair. Expected the same number in both spaces, with row i of "
                f"both for the same sample. Received: {len(known)} in source and {len(wanted)} in "
                "target. Leave out what has no counterpart."
            )
        if len(known) < 2:
            raise checks.invalid("source", "at least 2 anchors", f"{len(known)} of them")
        self.shift, self.kernel, self.bias = self._solve(known, wanted)
        return self

    def _solve(self, source, target):
        """``(shift, kernel, bias)`` from rows of the source to rows of the target."""
        raise NotImplementedError

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """Translate samples.

        Args:
            x: Array of shape ``(n, ...)``, samples of the source space.

        Returns:
            NumPy array of shape ``(n, d2)``, float64.

        Raises:
            ValueError: If the translator is not fitted, the width of the rows is not that of the
                source, or a value is NaN or infinite.
        """
        kernel = self._fitted_kernel()
        rows = finite_rows("x", x, "float64")
        if rows.shape[1] != len(kernel):
            expected = f"rows of {len(kernel)} features, as of the source"
            raise checks.invalid("x", expected, f"{rows.shape[1]} features")
        if self.shift is not None:
            rows = rows - self.shift
        if self.normalizes:
            rows = unit_rows(rows)
        y = rows @ kernel
        return y if self.bias is None else y + self.bias

    def layer(self) -> keras.layers.Layer:
        """The same map as a built Keras layer, in float32, from ``(n, d1)`` to ``(n, d2)``.

        It consists of Keras's own layers, so a model with it loads without this package, and it is
        trainable.

        Returns:
            A `keras.layers.Dense`; for `InverseRelative`, a `keras.Sequential`.

        Raises:
            ValueError: If the translator is not fitted.
        """
        width, units = self._fitted_kernel().shape
        dense = keras.layers.Dense(units, use_bias=self.bias is not None, dtype="float32")
        dense.build((None, width))
        dense.set_weights([w for w in (self.kernel, self.bias) if w is not None])
        if not self.normalizes:
            return dense
        layers = [keras.Input((width,)), keras.layers.UnitNormalization(dtype="float32"), dense]
        if self.shift is not None:
            mean, variance = self.shift.tolist(), [1.0] * width
            shift = keras.layers.Normalization(mean=mean, variance=variance, dtype="float32")
            layers.insert(1, shift)
        return keras.Sequential(layers)

    def _fitted_kernel(self):
        if self.kernel is None:
            raise ValueError(
                f"The translator is not fitted. Expected a call of fit first. Received: none. "
                f"Write {type(self).__name__}().fit(source, target)."
            )
        return self.kernel


class Procrustes(Translator):
    r"""A rotation (or reflection) with a shift and a scale: the best one on the anchors.

    With the means :math:`\mu_X, \mu_Y` and the scales :math:`s_X, s_Y` of the anchors in the two
    spaces, a sample x is translated to

    .. math::

        y = \frac{s_Y}{s_X} (x - \mu_X) R + \mu_Y, \qquad
        R = U V^\top, \qquad
        U \Sigma V^\top = \tilde X^\top \tilde Y ,

    where :math:`\tilde X, \tilde Y` are the anchors, one per row, without mean and scale, and the
    last equation is a singular value decomposition. Spaces of different widths are rotated as if
    the narrower one were filled up with zeros.

    A space that is a rotated, scaled and shifted copy is recovered exactly, given more anchors than
    features. This is why, by default, a space has one scale, and not one per feature as in the
    paper: features that are scaled one by one are, in general, no longer rotations of each other.
    With fewer anchors, the rotation is determined in the directions in which they differ, and
    arbitrary in the others.

    Args:
        scale: ``"space"``: one scale per space, the root of the summed variance of its anchors.
            ``"feature"``: one for each feature, its standard deviation over the anchors (1 if they
            agree), as in the paper. A space whose axes are permuted, and scaled and shifted one by
            one, is then recovered exactly. A rotated space is not: the result depends on the axes
            in which it is written.

    Raises:
        ValueError: If ``scale`` is neither; in `fit`, as for the other translators, or if the
            anchors are all equal in a space.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import Procrustes
        >>> source = np.random.default_rng(0).normal(size=(20, 2))
        >>> target = 3 * source @ np.array([[0.0, 1.0], [-1.0, 0.0]]) + 5
        >>> Procrustes().fit(source, target)([[1.0, 0.0]]).round(6).tolist()
        [[5.0, 8.0]]

    Reference: Maiorca et al., "Latent space translation via semantic alignment", NeurIPS 2023,
    https://arxiv.org/abs/2311.00664
    """

    def __init__(self, *, scale: Literal["space", "feature"] = "space") -> None:
        checks.check_choice("scale", scale, ("space", "feature"))
        self.scale = scale

    def _solve(self, source, target):
        standardized = _standardized if self.scale == "space" else _standardized_features
        mean, spread, x = standardized("source", source)
        bias, target_spread, y = standardized("target", target)
        # The thin factors of the (d1, d2) product are those of the padded one, without the zeros.
        kernel = _nearest_orthogonal(x.T @ y) * target_spread / np.reshape(spread, (-1, 1))
        return None, kernel, bias - mean @ kernel


class LeastSquares(Translator):
    r"""The matrix that maps the anchors best in the least-squares sense, with no shift.

    With the anchors as the rows of X and Y, a sample x is translated to :math:`y = x W`,

    .. math::

        W = \arg\min_W \|X W - Y\|_F^2

    If several matrices are best, as with fewer anchors than features, it is the one of the smallest
    norm. `fit` warns if the source anchors have a condition number above 1,000.

    Args:
        orthogonal: Whether to replace the matrix by the nearest orthogonal one or, if the widths
            differ, by the nearest one with orthonormal rows or columns.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import LeastSquares
        >>> source = np.random.default_rng(0).normal(size=(20, 3))
        >>> target = source @ np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> LeastSquares().fit(source, target)([[1.0, 1.0, 1.0]]).round(6).tolist()
        [[1.0, 2.0]]
        >>> kernel = LeastSquares(orthogonal=True).fit(source, target).kernel
        >>> np.allclose(kernel, [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
        True

    Reference: Maiorca et al., "Latent space translation via semantic alignment", NeurIPS 2023,
    https://arxiv.org/abs/2311.00664
    """

    def __init__(self, *, orthogonal: bool = False) -> None:
        self.orthogonal = orthogonal

    def _solve(self, source, target):
        _warn_if_ill_conditioned("source anchors", source)
        kernel = np.linalg.lstsq(source, target, rcond=None)[0]
        return None, _nearest_orthogonal(kernel) if self.orthogonal else kernel, None


class Affine(Translator):
    r"""The matrix and the shift that together map the anchors best in the least-squares sense.

    With the anchors as the rows :math:`x_k` and :math:`y_k`, a sample x is translated to
    :math:`y = x W + b`,

    .. math::

        W, b = \arg\min_{W, b} \sum_k \|x_k W + b - y_k\|^2

    If several matrices are best, as with no more anchors than features, it is the one of the
    smallest norm. `fit` warns if the source anchors, centred, have a condition number above 1,000.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import Affine
        >>> source = np.random.default_rng(0).normal(size=(20, 2))
        >>> target = source @ np.array([[1.0, 1.0], [0.0, 2.0]]) + 5
        >>> Affine().fit(source, target)([[1.0, 1.0]]).round(6).tolist()
        [[6.0, 8.0]]

    Reference: Maiorca et al., "Latent space translation via semantic alignment", NeurIPS 2023,
    https://arxiv.org/abs/2311.00664
    """

    def _solve(self, source, target):
        mean, bias = source.mean(axis=0), target.mean(axis=0)
        _warn_if_ill_conditioned("centred source anchors", source - mean)
        kernel = np.linalg.lstsq(source - mean, target - bias, rcond=None)[0]
        return None, kernel, bias - mean @ kernel


class InverseRelative(Translator):
    r"""Translation through relative codes: the row of the target with the cosines of the source.

    A sample becomes its cosines to the source anchors, and these become the row of the target space
    whose products with the target anchors, at unit length, match them best in the least-squares
    sense. With the anchors at unit length as the rows of :math:`\hat X` and :math:`\hat Y`, and
    :math:`{}^{+}` the pseudo-inverse, a sample x is translated to

    .. math::

        y = \frac{x}{\|x\|} \hat X^\top \bigl( \hat Y^\top \bigr)^{+}

    The length of a sample is lost: the result has roughly unit length. If the target is a rotated
    and scaled copy, its directions are recovered exactly if the anchors span it; fewer anchors
    recover the part in their span. A row of zeros becomes a row of zeros.

    `fit` warns if the target anchors, at unit length, have a condition number above 1,000.

    Args:
        center: Whether to subtract the mean of its anchors from each space first, and to add that
            of the target last, for spaces that are also shifted. Needs more anchors than features.
        scale: Whether to multiply the result by the mean length of the target anchors (centred,
            with ``center``).

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import InverseRelative
        >>> source = np.random.default_rng(0).normal(size=(20, 2))
        >>> target = 5 * source @ np.array([[0.6, 0.8], [-0.8, 0.6]])
        >>> InverseRelative().fit(source, target)([[2.0, 0.0], [0.0, 0.0]]).round(6).tolist()
        [[0.6, 0.8], [0.0, 0.0]]

    Reference: Maiorca et al., "Latent space translation via inverse relative projection",
    https://arxiv.org/abs/2406.15057; the relative codes: Moschella et al., "Relative
    representations enable zero-shot latent space communication", ICLR 2023,
    https://arxiv.org/abs/2209.15430
    """

    normalizes = True

    def __init__(self, *, center: bool = False, scale: bool = False) -> None:
        self.center, self.scale = center, scale

    def _solve(self, source, target):
        shift = bias = None
        if self.center:
            shift, bias = source.mean(axis=0), target.mean(axis=0)
            source, target = source - shift, target - bias
        directions = unit_rows(target)
        _warn_if_ill_conditioned("target anchors, of unit length,", directions)
        cutoff = max(directions.shape) * np.finfo("float64").eps
        kernel = unit_rows(source).T @ np.linalg.pinv(directions.T, cutoff)
        if self.scale:
            kernel = kernel * np.mean(np.linalg.norm(target, axis=1))
        return shift, kernel, bias


def _standardized(argument, anchors):
    """Mean, root of the summed variance, and the anchors with both removed."""
    mean, centred = _centred(argument, anchors)
    peak = np.max(np.abs(centred))  # squares of very large or small numbers would be lost
    # The summed variance, not the mean one: zeros that pad a space do not change it.
    spread = peak * np.linalg.norm(centred / peak) / math.sqrt(len(anchors))
    return mean, spread, centred / spread


def _standardized_features(argument, anchors):
    """Means, standard deviations, and the anchors with both removed."""
    mean, centred = _centred(argument, anchors)
    peak = np.max(np.abs(centred), axis=0)
    varies = peak > ROUNDING * np.finfo("float64").eps * np.max(np.abs(anchors), axis=0)
    peak = np.where(varies, peak, 1.0)
    deviations = np.sqrt(np.mean((centred / peak) ** 2, axis=0))
    spread = np.where(varies, peak * deviations, 1.0)
    return mean, spread, np.where(varies, centred / spread, 0.0)


def _centred(argument, anchors):
    """The mean, and the anchors minus it."""
    if (anchors == anchors[:1]).all():
        raise checks.invalid(argument, "anchors that differ", f"{len(anchors)} equal rows")
    mean = anchors.mean(axis=0)
    return mean, anchors - mean


def _nearest_orthogonal(matrix):
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    return u @ v


def _warn_if_ill_conditioned(name, anchors):
    condition = np.linalg.cond(anchors)
    if condition > LARGEST_CONDITION:
        warnings.warn(
            f"The {name} have a condition number of {condition:.3g}. Expected at most "
            f"{LARGEST_CONDITION:g}, since noise may grow by as much. Fit on more anchors, or on "
            "more diverse ones.",
            stacklevel=4,  # the caller of `fit`, which called `_solve`, which called this
        )
