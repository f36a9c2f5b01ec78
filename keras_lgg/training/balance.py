"""Weights of penalties that follow the gradients: ``weight="balanced"``.

The norms are read off in the usual backward pass of the training step. A tensor passes through an
identity, which hands the tensor its gradient unchanged, and hands a variable the squared norm of
that gradient as *its* gradient; Keras's optimizers overwrite such a variable with its gradient.
"""

import keras
from keras import ops

MOMENTUM = 0.98  # of the running means, which look some 50 steps back


class Balance:
    """A weight that keeps the norm of a penalty's gradient at a fraction of the task's.

    Both gradients are taken with respect to the last representation that the penalty reads: at an
    earlier one, what comes back through the network includes this penalty's own gradient.

    Args:
        fraction: Norm of the weighted penalty's gradient divided by that of the task's.
    """

    def __init__(self, fraction):
        self.fraction = fraction
        # On PyTorch, Keras resets the gradient of only one variable with a given name.
        uid = keras.backend.get_uid("keras_lgg_balance")
        self._task = _overwritten(f"task_squares_{uid}")
        self._penalty = _overwritten(f"penalty_squares_{uid}")
        self._means = keras.Variable(
            ops.zeros((2,)),
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="mean",
            name=f"mean_squares_{uid}",
        )
        self.variables = [self._task, self._penalty, self._means]

    @property
    def weight(self):
        """Scalar float32 tensor; 0 before the first step, and if a gradient is 0."""
        task, penalty = ops.unstack(ops.convert_to_tensor(self._means))
        ratio = task / ops.where(penalty > 0, penalty, 1.0)
        return ops.where(penalty > 0, self.fraction * ops.sqrt(ratio), 0.0)

    def update(self):
        """Update the running means with the result of the last step."""
        # Both start from 0, so their bias cancels in the ratio.
        found = ops.stop_gradient(ops.stack([self._task.value, self._penalty.value]))
        self._means.assign(MOMENTUM * self._means + (1 - MOMENTUM) * found)

    def watch_task(self, x):
        """``x``, on its way from the last tap to the task's loss."""
        return _observed(x, self._task, 1.0)

    def watch_penalty(self, representations):
        """Representations, on their way to the loss of the penalty; ``None`` stays ``None``.

        The weight is applied to their gradient here, since the gradient of the value itself must
        arrive without it: see `weighted`.
        """
        *others, last = representations
        weight = self.weight
        return [*(_scaled(x, weight) for x in others), _observed(last, self._penalty, weight)]

    def weighted(self, value):
        """A term of the total loss: ``weight * value``, with the gradient of ``value``."""
        return _replaced(value, ops.cast(self.weight, value.dtype) * value)


def _overwritten(name):
    variable = keras.Variable(
        ops.zeros(()), dtype="float32", autocast=False, aggregation="sum", name=name
    )
    variable.overwrite_with_gradient = True
    return variable


def _observed(x, variable, factor):
    """``x``, its gradient multiplied by ``factor``; the variable gets that gradient's square."""

    @ops.custom_gradient
    def identity(x, variable, factor):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            square = ops.sum(ops.square(ops.cast(upstream, "float32")))
            return upstream * ops.cast(factor, upstream.dtype), square, ops.zeros_like(factor)

        return ops.copy(x), gradient

    return identity(x, variable.value, ops.convert_to_tensor(factor, "float32"))


def _scaled(x, factor):
    return x if x is None else _replaced(ops.cast(factor, x.dtype) * x, x)


def _replaced(x, value):
    """``value``, with the gradient of ``x``."""

    @ops.custom_gradient
    def replace(x, value):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return upstream, ops.zeros_like(value)

        return ops.copy(value), gradient

    return replace(x, value)
