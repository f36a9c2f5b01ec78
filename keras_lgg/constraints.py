"""Constraints on kernels that keep layers from amplifying deviations of their inputs."""

from typing import Any

import keras
from keras import ops

from keras_lgg import checks
from keras_lgg.types import Tensor

__all__ = ["Parseval"]


def __dir__():
    return __all__


@keras.saving.register_keras_serializable("keras_lgg")
class Parseval(keras.constraints.Constraint):
    r"""One step towards a kernel with orthonormal rows, after each update of the optimizer.

    .. math::

        W \leftarrow (1 + \beta) \, W - \beta \, W W^\top W

    :math:`W` is the kernel as a matrix of shape ``(outputs, everything else)``. A singular value
    :math:`s` becomes :math:`s \, (1 + \beta - \beta s^2)` and so moves towards 1, as long as
    :math:`s^2 < (2 + \beta) / \beta` (s below 14 at the default), which holds for every usual
    initialiser.

    Args:
        beta: Number in (0, 0.5], the size of the step; 0.01 by default.

    Call arguments:
        w: Kernel with the outputs on its last axis: ``(in, out)`` of a Dense layer,
            ``(height, width, in, out)`` of a convolution.

    Returns:
        Kernel of the same shape and dtype.

    Raises:
        ValueError: If ``beta`` is out of range, or the kernel has fewer than two axes.

    Example:
        >>> import keras, keras_lgg as lgg
        >>> layer = keras.layers.Dense(4, kernel_constraint=lgg.constraints.Parseval(beta=0.01))

    Reference: Cisse et al., "Parseval networks: improving robustness to adversarial examples", ICML
    2017, https://arxiv.org/abs/1704.08847.
    """

    def __init__(self, beta: float = 0.01) -> None:
        checks.check_positive("beta", beta)
        if beta > 0.5:
            raise checks.invalid("beta", "a number in (0, 0.5], such as 0.01", beta)
        self.beta = beta

    def __call__(self, w: Tensor) -> Tensor:
        shape = tuple(w.shape)
        if len(shape) < 2:
            raise checks.invalid("w", "a kernel of at least two axes", f"shape {shape}")
        kernel = ops.reshape(w, (-1, shape[-1]))  # the transpose of W
        transposed = ops.transpose(kernel)
        # (K K.T) K == K (K.T K): use the smaller Gram matrix.
        if kernel.shape[0] < kernel.shape[1]:
            cube = ops.matmul(ops.matmul(kernel, transposed), kernel)
        else:
            cube = ops.matmul(kernel, ops.matmul(transposed, kernel))
        return ops.reshape((1.0 + self.beta) * kernel - self.beta * cube, shape)

    def get_config(self) -> dict[str, Any]:
        return {"beta": self.beta}
