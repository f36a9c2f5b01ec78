"""Labels in the forms that Keras users have them in, and what a graph needs from them.

Every function takes labels through `read_labels`: class numbers, which stay integers, rows
``(n, c)`` over the classes, or a continuous target. The similarity of two class numbers is 1 or 0;
that of two rows is their product. A row longer than 1, such as one with several ones, is scaled to
length 1: the similarity is then the cosine, and never more than 1.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_lgg.checks import check_positive_integer, check_same_length, invalid
from keras_lgg.graphs.arrays import check_not_empty, given_array
from keras_lgg.graphs.numerics import alone, as_column, as_row

FORMS = "integers of shape (n,) or (n, 1), or one-hot, soft or multi-hot labels of shape (n, c)"
# Whole numbers from here on are not all different in these dtypes.
EXACT_BELOW = {"float64": 2**53, "float32": 2**24, "float16": 2**11, "bfloat16": 2**8}


class Labels(NamedTuple):
    """Labels, read and checked.

    Attributes:
        classes: Class numbers ``(n,)``, integers; or ``None``.
        rows: Rows ``(n, c)``, one-hot, soft or multi-hot, or continuous; or ``None``.
        counted: Boolean ``(n,)``, false for samples without a label; ``None`` if all have one.
        num_classes: The number of classes, if that is known; the width of the rows.
        is_continuous: Whether the rows are a continuous target and not classes.
    """

    classes: Any
    rows: Any
    counted: Any
    num_classes: int | None
    is_continuous: bool = False

    def where_counted(self, x):
        """A tensor ``(n, ...)`` with rows of 0 for samples without a label."""
        if self.counted is None:
            return x
        counted = ops.reshape(self.counted, (-1, *[1] * (len(x.shape) - 1)))
        return ops.where(counted, x, ops.zeros_like(x))

    def count(self, n, dtype, total=alone):
        """How many of n samples have a label, a scalar tensor; for ``total`` see `alone`."""
        if self.counted is None:
            return total(ops.cast(n, dtype))
        return ops.maximum(total(ops.sum(ops.cast(self.counted, dtype))), 1.0)

    def weights(self, dtype="float32"):
        """1.0 for each sample with a label and 0.0 for others, by name, for a `PairMatrix`."""
        return {} if self.counted is None else {"counted": ops.cast(self.counted, dtype)}


def read_labels(
    labels,
    like=None,
    *,
    argument="labels",
    of="x",
    num_classes=None,
    ignore_class=None,
    continuous=False,
    any_number=False,
):
    """Read and check labels; all labels pass through here.

    Args:
        labels: Class numbers ``(n,)`` or ``(n, 1)``: integers, or floats whose values are known
            here and whole. Or one-hot, soft or multi-hot rows ``(n, c)`` of values in [0, 1].
        like: Tensor with as many samples, or ``None``.
        argument: Name of the argument, for errors.
        of: Name of `like`, for errors.
        num_classes: Number of classes of class numbers, if it is known.
        ignore_class: Class number that marks samples without a label, or ``None``. Of rows, those
            of zeros have none.
        continuous: Whether the labels are a continuous target ``(n,)`` or ``(n, m)``.
        any_number: Whether class numbers may be negative, since none of them means "no label".

    Returns:
        `Labels`.

    Raises:
        ValueError: If the labels have none of these forms, or another length than `like`. Values
            that are unknown, inside a compiled function, are not checked.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.graphs.labels import read_labels
        >>> np.asarray(read_labels(np.array([[2], [0]])).classes).tolist()
        [2, 0]
    """
    if num_classes is not None:
        check_positive_integer("num_classes", num_classes)
    labels = given_array(argument, labels, "continuous targets" if continuous else FORMS)
    _check_shape(argument, labels.shape, continuous)
    if like is not None:
        check_same_length(**{argument: labels, of: like})
    known = known_values(labels)
    if known is not None:
        check_known(
            known,
            argument=argument,
            num_classes=num_classes,
            ignore_class=ignore_class,
            continuous=continuous,
            any_number=any_number,
        )
    if continuous:
        rows = labels if len(labels.shape) == 2 else ops.reshape(labels, (-1, 1))
        return Labels(None, rows, None, rows.shape[1], True)
    if not are_class_indices(labels):
        _check_width(num_classes, labels.shape[1])
        return _from_rows(labels, ignore_class)
    if known is None:
        classes = _integers(argument, labels)
        counted = None if ignore_class is None else ops.not_equal(classes, ignore_class)
        return Labels(classes, None, counted, num_classes)
    return _from_known(known.reshape(-1), num_classes, ignore_class)


def read_label_signal(labels, x, *, num_classes, ignore_class, continuous):
    """The `Labels` of a signal; some options exclude each other."""
    if continuous and (num_classes, ignore_class) != (None, None):
        raise ValueError(
            "Argument `continuous` excludes options of classes. Expected neither `num_classes` nor "
            f"`ignore_class` with continuous=True. Received: num_classes={num_classes}, "
            f"ignore_class={ignore_class}. Drop them."
        )
    return read_labels(
        labels, x, num_classes=num_classes, ignore_class=ignore_class, continuous=continuous
    )


def labels_of_pairs(pairs, labels, x, **options):
    """The `Labels` that ``pairs="intra"`` and ``"inter"`` need, or raise; see `read_labels`."""
    if labels is None:
        raise ValueError(
            "Argument `labels` is missing. Expected the class labels of the batch, since "
            f"pairs={pairs!r} keeps edges by class. Received: labels=None. "
            "Pass labels=..., or pairs='all'."
        )
    return read_labels(labels, x, **options)


def check_known(
    known,
    *,
    argument="labels",
    num_classes=None,
    ignore_class=None,
    continuous=False,
    any_number=False,
):
    """Raise if the values of a NumPy array cannot be labels; see `read_labels`."""
    _check_shape(argument, known.shape, continuous)
    known = known.astype("float32") if known.dtype.name.startswith("bfloat") else known
    if not np.isfinite(known).all():
        raise invalid(argument, "finite values", "NaN or infinite values")
    if continuous:
        return
    if not are_class_indices(known):
        _check_width(num_classes, known.shape[1])
        if known.min() < 0 or known.max() > 1 + 1e-3:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected one-hot, soft or multi-hot "
                f"labels in [0, 1]. Received: {argument} from {known.min()} to {known.max()}. "
                "For a continuous target there is `continuous=True` in label_smoothness and "
                "SmoothnessVariation."
            )
        return
    known = known.reshape(-1)
    _check_whole(argument, known)
    if any_number:
        return
    _check_range(
        argument,
        known if ignore_class is None else known[known != ignore_class],
        num_classes,
        ignore_class,
    )


def are_class_indices(labels):
    """Whether labels are class numbers, ``(n,)`` or ``(n, 1)``, and not rows ``(n, c)``."""
    shape = tuple(labels.shape)
    return len(shape) == 1 or shape[1] == 1


def label_signal(labels, *, dtype="float32"):
    """`Labels` as a signal Y on the graph, where ``(Y @ Y.T)_ij`` is the similarity of two samples.

    Returns:
        Tensor ``(n, c)``, one column per class; ``(n, n)`` if the number of classes is unknown, or
        larger than n. Samples without a label have rows of 0; a class number beyond
        ``num_classes``, which only a compiled function can meet, has a row of NaN.
    """
    if labels.rows is not None:
        return labels.where_counted(ops.cast(labels.rows, dtype))
    if labels.num_classes is None or _is_wide(labels):
        same = ops.cast(label_kernel(labels), dtype)
        # Each class of m samples fills m equal columns of weight 1 / sqrt(m).
        signal = same / ops.sqrt(ops.maximum(ops.sum(same, axis=1, keepdims=True), 1.0))
    else:
        inside = ops.where(_in_range(labels), labels.classes, ops.zeros_like(labels.classes))
        signal = ops.one_hot(ops.cast(inside, "int32"), labels.num_classes, dtype=dtype)
    if labels.num_classes is not None:
        # A label out of range, where nothing can raise, must not be taken for "no class".
        signal = ops.where(as_column(_in_range(labels)), signal, float("nan"))
    return labels.where_counted(signal)


def label_kernel(labels):
    """Boolean (n, n) from class numbers: true for two samples of one class."""
    same = ops.equal(as_column(labels.classes), as_row(labels.classes))
    if labels.counted is None:
        return same
    both = ops.logical_and(as_column(labels.counted), as_row(labels.counted))
    return ops.logical_and(same, both)


def memberships(labels, dtype="float32"):
    """The classes of each sample, 0 or 1 in each column, from rows.

    The largest entry counts, with all that tie with it: in a multi-hot label, each class.
    """
    rows = ops.cast(labels.rows, dtype)
    largest = ops.max(rows, axis=1, keepdims=True)
    chosen = ops.logical_and(ops.equal(rows, largest), rows > 0)
    return labels.where_counted(ops.cast(chosen, dtype))


def class_indices(labels):
    """Class number of each sample, ``(n,)``; of rows, the position of the largest entry."""
    return ops.argmax(labels.rows, axis=1) if labels.classes is None else labels.classes


def classes_on_host(labels, like=None, *, argument="labels", of="x"):
    """Class number of each sample as a NumPy array ``(n,)``, for computations on the host."""
    labels = given_array(argument, labels, FORMS)
    known = known_values(labels)
    if known is None:
        raise invalid(argument, "values", "a tensor inside a compiled function")
    check_known(known, argument=argument, any_number=True)
    if like is not None:
        check_same_length(**{argument: known, of: like})
    return known.reshape(-1).astype("int64") if are_class_indices(known) else known.argmax(axis=1)


def named_classes(classes, names):
    """The class of each sample, numbered from 0 among those present, and their names.

    Args:
        classes: Class numbers ``(n,)``, an array.
        names: Name of each class, indexed by its number; ``None`` uses the number itself.
    """
    present, indices = np.unique(classes, return_inverse=True)
    if names is None:
        return indices, [str(label) for label in present]
    if isinstance(names, str) or not 0 <= present[0] <= present[-1] < len(names):
        expected = f"a name of each class, for the labels from {present[0]} to {present[-1]}"
        raise invalid("classes", expected, repr(names))
    return indices, [str(names[label]) for label in present]


def comparable(classes, block):
    """Class numbers ``(n,)`` as a `PairMatrix` compares them; in blocks, it needs floats."""
    if block is None:
        return classes
    # Ranks are below n, and so exact where the class numbers themselves would not be. To search for
    # them would be simpler, but TensorFlow's search compares all pairs under XLA.
    order = ops.argsort(classes)
    ordered = ops.take(classes, order)
    is_new = ops.cast(ops.not_equal(ordered[1:], ordered[:-1]), "float32")
    ranks = ops.pad(ops.cumsum(is_new), [[1, 0]])
    return ops.take(ranks, ops.argsort(order))


def known_values(x):
    """The values of a tensor as a NumPy array, or None where this process cannot read them.

    It cannot inside a function that is being traced, nor those of a JAX array of several processes.
    """
    if isinstance(x, np.ndarray):
        return x
    x = ops.convert_to_tensor(x)
    if keras.backend.backend() == "tensorflow" and not hasattr(x, "numpy"):
        return None
    if getattr(x, "is_meta", False):
        return None
    try:
        return ops.convert_to_numpy(x) if getattr(x, "is_fully_addressable", True) else None
    except TypeError:  # of a JAX tracer
        return None


def _check_shape(argument, shape, continuous):
    expected = "continuous targets of shape (n,) or (n, m)" if continuous else FORMS
    if len(shape) not in (1, 2):
        raise invalid(argument, expected, f"shape {tuple(shape)}")
    check_not_empty(argument, shape, expected)


def _check_width(num_classes, width):
    if num_classes not in (None, width):
        raise invalid("num_classes", f"{width}, the width of the labels, or None", num_classes)


def _check_whole(argument, known):
    if known.dtype.kind != "f":
        return
    if not np.array_equal(known, np.floor(known)):
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected whole numbers, the class indices. "
            f"Received: {argument}={known[:5]}. For a continuous target there is `continuous=True` "
            "in label_smoothness and SmoothnessVariation."
        )
    limit = EXACT_BELOW.get(known.dtype.name, 2**24)
    if known.size and np.abs(known).max() >= limit:
        raise invalid(
            argument,
            f"class numbers as integers from {limit} on, which {known.dtype} does not tell apart",
            f"numbers up to {np.abs(known).max()} in {known.dtype}",
        )


def _check_range(argument, known, num_classes, ignore_class):
    if known.size == 0 or (known.min() >= 0 and (num_classes is None or known.max() < num_classes)):
        return
    if num_classes is None:
        expected = "class numbers of at least 0"
    else:
        expected = f"class indices in [0, {num_classes}), by num_classes={num_classes}"
    ignored = "" if ignore_class is None else f", but for ignore_class={ignore_class}"
    raise ValueError(
        f"Invalid value for argument `{argument}`. Expected {expected}{ignored}. Received: "
        f"{argument}=labels from {known.min()} to {known.max()}. If one of these numbers says "
        "that a sample has no label, pass it as `ignore_class`."
    )


def _from_known(known, num_classes, ignore_class):
    counted = None
    if ignore_class is not None and (known == ignore_class).any():
        counted = ops.convert_to_tensor(known != ignore_class)
    if known.size and (known.min() < -(2**31) or known.max() >= 2**31):
        # Only equality counts, and JAX would cut off what is above 32 bits.
        known = np.unique(known, return_inverse=True)[1].reshape(-1)
    classes = ops.convert_to_tensor(known.astype("int32"))
    return Labels(classes, None, counted, num_classes)


def _integers(argument, labels):
    """Class numbers whose values are not known here, as integers ``(n,)``."""
    dtype = keras.backend.standardize_dtype(labels.dtype)
    labels = ops.reshape(labels, (-1,))
    if keras.src.backend.common.symbolic_scope.in_symbolic_scope():
        # Keras infers shapes, with labels of any dtype (under a strategy, with their mean).
        return ops.cast(labels, "int32")
    if not dtype.startswith(("int", "uint", "bool")):
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected class numbers as integers inside "
            f"a compiled function, where floats cannot be checked to be whole. Received: "
            f"{argument} of {dtype}. Pass {argument}.astype('int32') if they are whole; an input "
            "of a model has its own dtype, keras.Input(..., dtype='int32')."
        )
    small = dtype in ("bool", "int8", "uint8", "int16", "uint16")
    return ops.cast(labels, "int32") if small else labels


def _from_rows(labels, ignore_class):
    """`Labels` from rows, none of them longer than 1."""
    rows = ops.convert_to_tensor(labels)
    dtype = keras.backend.standardize_dtype(rows.dtype)
    rows = rows if dtype == "float64" else ops.cast(rows, "float32")
    width = rows.shape[1]
    squares = ops.sum(ops.square(rows), axis=1, keepdims=True)
    scaled = rows / ops.sqrt(ops.maximum(squares, 1.0))
    counted = None
    if ignore_class is not None:
        counted = ops.any(rows > 0, axis=1)
        if width is not None and 0 <= ignore_class < width:
            counted = ops.logical_and(counted, rows[:, ignore_class] < ops.max(rows, axis=1))
    return Labels(None, scaled, counted, width)


def _is_wide(labels):
    """Whether there are far too many classes for one column each."""
    n = labels.classes.shape[0]
    return labels.num_classes > 2**16 and (n is None or labels.num_classes > n)


def _in_range(labels):
    # A count beyond the dtype of the class numbers does not bound them.
    largest = min(labels.num_classes, 2**31) - 1
    return ops.logical_and(labels.classes >= 0, labels.classes <= largest)
