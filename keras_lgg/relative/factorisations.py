"""The statistics of anchors: deviations, a whitening, a pseudo-inverse, with exact gradients.

Only constants are factorised. What follows is linear in the difference of the anchors from these
constants: a matrix of zeros with an exact gradient. The gradient of the factors themselves is not
finite where singular values coincide.
"""

import numpy as np
from keras import ops

from keras_lgg.checks import invalid
from keras_lgg.graphs.labels import known_values
from keras_lgg.graphs.numerics import as_column, as_row, machine_epsilon, matmul

RIDGE = 1e-6  # of the mean variance, if there are too few anchors to whiten by


def column_means(x):
    """The mean of each axis, exact if the rows agree, however far from 0."""
    first = ops.stop_gradient(x[:1])
    # On JAX, `ops.mean` of float64 keeps only the digits of float32.
    return first[0] + ops.sum(x - first, axis=0) / ops.cast(ops.shape(x)[0], x.dtype)


def inverse_deviations(anchors, centred):
    """1 over the standard deviation of each axis; 1 where the anchors agree up to rounding."""
    variance = column_means(ops.square(centred))
    rounding = 10 * machine_epsilon(anchors) * ops.maximum(1.0, ops.max(ops.abs(anchors), axis=0))
    agree = variance < ops.square(rounding)
    return ops.where(agree, 1.0, ops.rsqrt(ops.where(agree, 1.0, variance)))


def inverse_root_covariance(centred):
    """``C**(-1/2)`` of the covariance, 0 on axes that no anchor reaches."""
    _check_finite(centred)
    count, width = ops.shape(centred)[0], centred.shape[1]
    few = ops.convert_to_tensor(count <= width)  # may be known only at run time
    covariance = matmul(ops.transpose(centred), centred) / ops.cast(count, centred.dtype)
    spans = centred.shape[0] is not None and centred.shape[0] >= width
    _, _, axes = ops.svd(ops.stop_gradient(centred), full_matrices=not spans)
    along = matmul(ops.stop_gradient(centred), ops.transpose(axes))
    variances = column_means(ops.square(along))
    reached = variances > ops.max(variances) * (width * machine_epsilon(centred)) ** 2
    ridge = ops.where(few, RIDGE / width * ops.trace(covariance), 0.0)
    covariance = covariance + ridge * ops.eye(width, dtype=centred.dtype)
    variances = variances + ops.stop_gradient(ridge)
    reached = ops.where(few, variances > 0, reached)
    inverse = ops.where(reached, ops.rsqrt(ops.where(reached, variances, 1.0)), 0.0)
    root = ops.where(reached, ops.sqrt(variances), 1.0)
    slopes = as_column(inverse) * as_row(inverse) / (as_column(root) + as_row(root))
    change = _on_axes(covariance - ops.stop_gradient(covariance), axes)
    return matmul(ops.transpose(axes), matmul(ops.diag(inverse) - slopes * change, axes))


def _check_finite(anchors):
    values = known_values(anchors)
    if values is not None and not np.isfinite(values).all():
        raise invalid(
            "anchors", "finite numbers: no others can be factorised", "a NaN or an infinity"
        )


def _on_axes(matrix, axes):
    return matmul(axes, matmul(matrix, ops.transpose(axes)))


def pseudo_inverse(a):
    """The Moore-Penrose inverse ``(d, K)`` of a matrix ``(K, d)``."""
    _check_finite(a)
    constant = ops.stop_gradient(a)
    left, values, axes = ops.svd(constant, full_matrices=False)
    count, width = ops.shape(a)[0], a.shape[1]
    rounding = ops.cast(ops.maximum(count, width), a.dtype) * machine_epsilon(a)
    reached = values > ops.max(values) * rounding
    inverse = ops.where(reached, 1.0 / ops.where(reached, values, 1.0), 0.0)
    pinv = matmul(ops.transpose(axes) * inverse, ops.transpose(left))
    change = a - constant
    # Golub and Pereyra, "The differentiation of pseudo-inverses", 1973, at constant rank.
    off_rows = ops.eye(count, dtype=a.dtype) - matmul(constant, pinv)
    off_axes = ops.eye(width, dtype=a.dtype) - matmul(pinv, constant)
    turned = ops.transpose(change)
    return (
        pinv
        - matmul(pinv, matmul(change, pinv))
        + matmul(pinv, matmul(ops.transpose(pinv), matmul(turned, off_rows)))
        + matmul(off_axes, matmul(turned, matmul(ops.transpose(pinv), pinv)))
    )
