"""Representations with positions, as vectors that can be compared: pooled, or all positions."""

import math

import keras
from keras import ops

from keras_lgg.checks import invalid
from keras_lgg.graphs.arrays import host_array
from keras_lgg.graphs.numerics import flatten_representation
from keras_lgg.graphs.pooling import MASK_INPUTS, mask_of, pooled
from keras_lgg.training import internals

# With these similarities, positions beyond those of the anchors add nothing.
WITHIN_ANCHORS = ("inner", "basis_change")
# What the statistics of anchors are padded with, beyond the anchors' positions.
FILLS = {"anchors": 0.0, "mean": 0.0, "scale": 1.0}


def mask_from(encoder, inputs, encoded):
    """The mask of what an encoder returned: Keras's own, or the input with the name of a mask."""
    if len(encoded.shape) < 3:
        return None
    mask = mask_of(encoded)
    if mask is not None:
        return mask
    named = internals.inputs_by_name(encoder, inputs)
    found = [named[name] for name in MASK_INPUTS if name in named]
    return next((m for m in found if _fits(m, encoded)), None)


def with_mask(x, mask):
    """A tensor with a mask, as Keras keeps it."""
    x = ops.copy(x)
    keras.src.backend.set_keras_mask(x, mask)
    return x


def vectors(x, mask, pool, argument="x"):
    """One vector per sample, ``(n, d)``."""
    return flatten_representation(pooled(x, mask, pool), argument)


def vector_width(shape, pool):
    """The width of what `vectors` returns, or ``None``."""
    features = shape[-1:] if pool is not None and len(shape) > 2 else shape[1:]
    return None if None in features else math.prod(features)


def may_vary(x, mask, pool):
    """Whether samples are compared position by position, and padded to an unknown length."""
    return pool is None and mask is not None and len(x.shape) > 2


def checked_mask(mask, anchors):
    """The mask of anchors ``(K, T)`` as booleans."""
    shape = tuple(getattr(anchors, "shape", ()))  # several inputs have none
    if not isinstance(mask, keras.KerasTensor):
        mask = host_array("anchor_mask", mask, "booleans of shape (K, T)").astype(bool)
    if len(shape) < 2 or tuple(mask.shape) != shape[:2]:
        expected = "shape (K, T), of anchors (K, T, ...) in one array"
        raise invalid("anchor_mask", expected, f"shape {tuple(mask.shape)}")
    return mask


def masked(inputs, mask):
    """Inputs of an encoder with the mask that a call was given, as Keras keeps it."""
    if all(m is None for m in keras.tree.flatten(mask)):
        return inputs
    if hasattr(inputs, "shape"):
        return with_mask(inputs, mask)
    if hasattr(mask, "shape"):
        expected = "None, as the encoder takes several inputs: its mask is one of them"
        raise invalid("mask", expected, f"shape {tuple(mask.shape)}")
    return inputs  # each has its own mask


def check_masks(x, mask, anchors_lack_mask):
    """Raise if positions of the samples are masked and no mask of the anchors is known."""
    if mask is None or len(x.shape) < 3 or not anchors_lack_mask:
        return
    raise ValueError(
        "The anchors have positions, and no mask. Expected one, as the samples have one: otherwise "
        "padding of the anchors would count. Received: anchor_mask=None. Pass anchor_mask=mask of "
        "shape (K, T), true where a position counts; np.ones((K, T), bool) for anchors that are "
        "not padded."
    )


def of_one_length(x, state, name, normalization):
    """Samples and the statistics of anchors at one length, if they were padded to different ones.

    Both are treated as if followed by endless zeros. So a code does not depend on how far a batch
    was padded, and the statistics are those of the anchors as they are.

    Args:
        x: Vectors ``(n, d1)`` of all positions, 0 where they are masked.
        state: Dict of the anchors ``(K, d2)`` and their statistics, by name.
        name: The similarity.
        normalization: See `keras_lgg.relative.relative_projection`. Whitening sets axes that no
            anchor reaches to 0, and so those beyond all anchors.
    """
    own, held = ops.shape(x)[1], ops.shape(state["anchors"])[1]
    x = _filled(x, held - own, 0.0)
    if name in WITHIN_ANCHORS or normalization == "whiten":
        return ops.reshape(x[:, :held], (-1, held)), state
    filled = {
        key: _filled(value, own - held, FILLS[key]) for key, value in state.items() if key in FILLS
    }
    return x, filled


def _filled(x, count, value):
    """Tensor ``(..., d)`` with ``count`` more columns, if that is positive."""
    if isinstance(count, int):
        if count <= 0:
            return x
        return ops.pad(x, [[0, 0]] * (len(x.shape) - 1) + [[0, count]], constant_values=value)
    shape = (*ops.shape(x)[:-1], ops.maximum(count, 0))
    return ops.concatenate([x, ops.full(shape, value, dtype=x.dtype)], axis=-1)


def _fits(mask, x):
    if len(mask.shape) != 2:
        return False
    return None in (mask.shape[1], x.shape[1]) or mask.shape[1] == x.shape[1]
