"""Class labels in the forms that Keras users hold them in, and what a graph needs of them.

Labels are integers ``(n,)`` or ``(n, 1)`` in any numeric dtype, or one-hot or soft ``(n, c)``.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_lgg.checks import check_positive_integer, invalid


def label_signal(labels, *, num_classes=None, dtype="float32"):
    """Class labels as a signal Y on the graph, with ``(Y @ Y.T)_ij = 1`` for equal classes.

    Args:
        labels: Integers ``(n,)`` or ``(n, 1)`` in any numeric dtype, or one-hot or soft
            ``(n, c)``, which are returned as they are.
        num_classes: Number of classes of integer labels. Without it the signal has one column
            a sample, which describes the same classes.

        dtype: ``"float32"`` or ``"float64"``, that of the signal.

    Returns:
        Tensor ``(n, num_classes)``, ``(n, c)`` or ``(n, n)``.

    Raises:
        ValueError: If the labels have another shape, are not whole numbers, or lie outside
            ``[0, num_classes)``.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.graphs.labels import label_signal
        >>> np.asarray(label_signal(np.array([1, 0]), num_classes=2)).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    if num_classes is not None:
        check_positive_integer("num_classes", num_classes)
    if not are_class_indices(labels):
        labels = ops.cast(labels, dtype)
        if num_classes not in (None, labels.shape[1]):
            raise invalid(
                "num_classes",
                f"{labels.shape[1]}, the width of the labels, or None",
                num_classes,
            )
        return labels
    if num_classes is None:
        same = ops.cast(label_kernel(labels), dtype)
        # Each class of m samples fills m equal columns of weight 1 / sqrt(m).
        return same / ops.sqrt(ops.sum(same, axis=1, keepdims=True))
    indices = class_indices(labels)
    _check_label_range(indices, num_classes)
    valid = ops.logical_and(indices >= 0, indices < num_classes)
    one_hot = ops.one_hot(ops.cast(indices, "int32"), num_classes, dtype=dtype)
    # A label out of range in compiled code, where nothing can raise, must not pass for "no class".
    return ops.where(valid[:, None], one_hot, math.nan)


def are_class_indices(labels):
    """Whether labels are class indices, (n,) or (n, 1), and not one-hot or soft (n, c)."""
    shape = tuple(labels.shape) if hasattr(labels, "shape") else np.shape(labels)
    if len(shape) not in (1, 2):
        raise invalid(
            "labels",
            "integers of shape (n,) or (n, 1), or one-hot or soft labels of shape (n, c)",
            f"shape {shape}",
        )
    return len(shape) == 1 or shape[1] == 1


def class_indices(labels):
    """Class index of each sample, (n,), in the dtype of the labels."""
    if not are_class_indices(labels):
        return ops.argmax(ops.convert_to_tensor(labels), axis=1)
    labels = ops.reshape(ops.convert_to_tensor(labels), (-1,))
    known = known_values(labels)
    if known is not None and not np.array_equal(known, np.floor(known)):
        raise invalid("labels", "whole numbers, the class indices", known[:5])
    return labels


def label_kernel(labels):
    """``Y @ Y.T`` of the labels: 1 for two samples of one class, 0 for two classes."""
    if are_class_indices(labels):
        indices = class_indices(labels)
        return ops.cast(ops.equal(indices[:, None], indices[None, :]), "float32")
    labels = ops.convert_to_tensor(labels)
    dtype = "float64" if ops.dtype(labels) == "float64" else "float32"
    labels = ops.cast(labels, dtype)
    return ops.matmul(labels, ops.transpose(labels))


def known_values(x):
    """The values of a tensor as a NumPy array, or None where this process cannot read them.

    So it is inside a function that is being traced, and for a JAX array of several processes.
    """
    x = ops.convert_to_tensor(x)
    if keras.backend.backend() == "tensorflow" and not hasattr(x, "numpy"):
        return None
    try:
        return ops.convert_to_numpy(x) if getattr(x, "is_fully_addressable", True) else None
    except TypeError:  # of a JAX tracer
        return None


def _check_label_range(indices, num_classes):
    known = known_values(indices)
    if known is None or known.size == 0:
        return
    if known.min() < 0 or known.max() >= num_classes:
        raise invalid(
            "labels",
            f"class indices in [0, {num_classes}), by num_classes={num_classes}",
            f"labels from {known.min()} to {known.max()}",
        )
