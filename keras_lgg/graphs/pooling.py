"""One vector per sample from representations with positions: a text's tokens, an image's pixels."""

import keras
from keras import ops

from keras_lgg import checks
from keras_lgg.graphs.numerics import as_column, to_float

POOLS = (None, "mean", "max", "first", "last")
# Names of inputs that say which positions count, in KerasHub and other libraries.
MASK_INPUTS = ("padding_mask", "attention_mask")


def pooled(x, mask=None, pool=None):
    """Representations with positions as one vector per sample; masked positions do not count.

    Args:
        x: Tensor ``(n, T, ..., c)``; one of shape ``(n, d)`` has no positions and is returned as
            it is.
        mask: Tensor ``(n, T)``, true where a position counts; or ``None`` if all do.
        pool: ``None``: all positions as they are, 0 where masked. ``"mean"``, ``"max"``: over the
            positions. ``"first"``, ``"last"``: the first or the last position that counts.

    Returns:
        Tensor ``(n, c)``, or ``(n, T, ..., c)`` for ``None``. A sample with no position that counts
        is all 0.

    Raises:
        ValueError: If the mask is not of shape ``(n, T)``.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg.graphs.pooling import pooled
        >>> x, mask = np.array([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]]), np.array([[1, 1, 0]])
        >>> keras.ops.convert_to_numpy(pooled(x, mask, "mean")).tolist()
        [[2.0, 3.0]]
        >>> keras.ops.convert_to_numpy(pooled(x, mask, "last")).tolist()
        [[3.0, 4.0]]
    """
    if len(x.shape) < 3 or (mask is None and pool is None):
        return x
    x = to_float(x)
    mask = None if mask is None else _checked(x, mask)
    if pool is None:
        return ops.where(_on_features(mask, x), x, ops.zeros_like(x))
    x, mask = _positions(x, mask)
    return _POOLING[pool](x, mask)


def check_pool(pool):
    """Raise unless this is a known way to pool."""
    checks.check_choice("pool", pool, POOLS)


def mask_of(tensor):
    """The mask that Keras keeps with a tensor, or ``None``."""
    return keras.src.backend.get_keras_mask(tensor)


def without_mask(tensor):
    """The tensor with its masked positions set to 0, and without its Keras mask."""
    mask = mask_of(tensor)
    if mask is None:
        return tensor
    return pooled(tensor, mask) if len(tensor.shape) > 2 else ops.copy(tensor)


def _checked(x, mask):
    fits = len(mask.shape) == 2 and may_equal(mask.shape[1], x.shape[1])
    if not fits:
        raise checks.invalid(
            "mask",
            f"a mask of shape (n, T) for a representation of shape {tuple(x.shape)}",
            f"shape {tuple(mask.shape)}",
        )
    return ops.cast(mask, "bool")


def may_equal(a, b):
    """Whether two sizes may be equal, as far as they are known."""
    return a is None or b is None or a == b


def _on_features(mask, x):
    """The mask with as many axes as ``x``."""
    return ops.reshape(mask, (*ops.shape(mask), *[1] * (len(x.shape) - 2)))


def _positions(x, mask):
    """``(n, P, c)`` and ``(n, P)`` of a representation of any rank."""
    n, c = ops.shape(x)[0], x.shape[-1]
    if mask is None:
        mask = ops.ones(ops.shape(x)[:2], "bool")
    inner = ops.broadcast_to(_on_features(mask, x), (*ops.shape(x)[:-1], 1))
    return ops.reshape(x, (n, -1, c)), ops.reshape(inner, (n, -1))


def _mean(x, mask):
    counts = ops.cast(mask, x.dtype)[:, :, None]
    # Not a product with the mask: masked values may be infinite.
    total = ops.sum(ops.where(mask[:, :, None], x, 0.0), axis=1)
    return total / ops.maximum(ops.sum(counts, axis=1), 1.0)


def _max(x, mask):
    lowest = ops.full_like(x, -float("inf"))
    largest = ops.max(ops.where(mask[:, :, None], x, lowest), axis=1)
    return ops.where(as_column(ops.any(mask, axis=1)), largest, 0.0)


def _first(x, mask):
    index = ops.argmax(ops.cast(mask, "int32"), axis=1)
    return _at(x, index, mask)


def _last(x, mask):
    from_the_end = ops.argmax(ops.cast(ops.flip(mask, axis=1), "int32"), axis=1)
    index = ops.shape(x)[1] - 1 - ops.cast(from_the_end, "int32")
    return _at(x, index, mask)


def _at(x, index, mask):
    """One position of each sample."""
    index = ops.cast(index, "int32")[:, None, None]
    found = ops.squeeze(ops.take_along_axis(x, index, axis=1), axis=1)
    return ops.where(as_column(ops.any(mask, axis=1)), found, 0.0)


_POOLING = {"mean": _mean, "max": _max, "first": _first, "last": _last}
