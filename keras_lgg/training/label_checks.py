"""Checks of the labels before training is compiled, since a compiled step could not refuse them."""

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lgg.checks import invalid
from keras_lgg.graphs.labels import are_class_indices, known_values
from keras_lgg.losses.base import GeometryLoss
from keras_lgg.training import internals
from keras_lgg.training.plans import Plan, labels_of
from keras_lgg.training.remarks import one_class, warn


class ChecksLabels:
    """The checks that `PenalizedModel` makes of its data first, if a penalty reads class labels.

    Arrays are checked as a whole; of datasets and generators, the first batch is checked as it
    comes: no batch is taken out of order, and the others pass unchecked.
    """

    _plan: Plan
    _labels_are_whole = False

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        given = internals.bound(keras.Model.fit, self, args, kwargs)
        with self._checked(given, remark=self._remark_on_one_class(given)) as held:
            validation = given.get("validation_data")
            if validation is not None:
                given["validation_data"] = self._checked_data(validation, None, held)
            return super().fit(**given)  # type: ignore[misc]

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        given = internals.bound(keras.Model.evaluate, self, args, kwargs)
        if given.get("kwargs"):  # called by `fit` with data that it has checked
            return super().evaluate(*args, **kwargs)  # type: ignore[misc]
        with self._checked(given):
            return super().evaluate(**given)  # type: ignore[misc]

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        with self._checked(internals.bound(keras.Model.train_on_batch, self, args, kwargs)):
            return super().train_on_batch(*args, **kwargs)  # type: ignore[misc]

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        with self._checked(internals.bound(keras.Model.test_on_batch, self, args, kwargs)):
            return super().test_on_batch(*args, **kwargs)  # type: ignore[misc]

    @contextlib.contextmanager
    def _checked(
        self, given: dict[str, Any], remark: Callable[..., None] | None = None
    ) -> Iterator[list[ValueError]]:
        """Check the data among the arguments; an error found later is raised as it was."""
        held: list[ValueError] = []
        given["x"] = self._checked_data(given.get("x"), given.get("y"), held, remark)
        self._labels_are_whole = given.get("y") is not None
        try:
            yield held
        except Exception:
            if held:  # tf.data pipelines turn errors into their own
                raise held[0] from None
            raise
        finally:
            self._labels_are_whole = False

    @staticmethod
    def _remark_on_one_class(given):
        """A function that warns if labels, of all data or of a batch, have a single class."""
        in_order = given.get("shuffle", True) is False
        first = (given.get("batch_size") or 32) if in_order else None

        def remark(penalty, labels, *, is_whole):
            labels = labels.reshape(-1)[: first if is_whole else None]
            batch = "all of the data" if is_whole and first is None else "the first batch"
            warn(one_class(penalty, labels, batch))

        return remark

    def _checked_data(self, x, y, held, remark=None):
        readers = [p for p in self._plan.penalties if _reads_classes(p.loss)]
        if not readers:
            return x
        if isinstance(x, tuple | list) and y is None and 2 <= len(x) <= 3:  # validation data
            _check_labels(readers, x[1], is_whole=True)
        elif y is not None:
            _check_labels(readers, y, is_whole=True, remark=remark)
        else:
            look = functools.partial(_check_labels, readers, is_whole=False, remark=remark)
            return _with_a_look(x, look, held)
        return x

    def _class_numbers(self, y):
        """Targets for the penalties: class numbers in floats, if known to be whole, as integers."""
        losses = [p.loss for p in self._plan.penalties if getattr(p.loss, "needs_labels", True)]
        all_classes = all(map(_reads_classes, losses))
        if not self._labels_are_whole or not all_classes or any(map(_is_continuous, losses)):
            return y

        def as_integers(target):
            is_float = "float" in keras.backend.standardize_dtype(target.dtype)
            whole = is_float and len(target.shape) in (1, 2) and are_class_indices(target)
            return ops.cast(target, "int32") if whole else target

        return keras.tree.map_structure(as_integers, y)


def _reads_classes(loss):
    """Whether a loss says what labels it reads, as those of this package do."""
    return isinstance(loss, GeometryLoss) and loss.needs_labels and "ignore_class" in loss._options


def _is_continuous(loss):
    return bool(loss._options.get("continuous"))


def _check_labels(penalties, y, *, is_whole, remark=None):
    """Raise if targets, whose values are all known, are not labels for these penalties.

    Args:
        penalties: List of `Penalty` that read classes.
        y: Targets of the whole data, or of the first batch.
        is_whole: Whether they are those of the whole data.
        remark: Function of a penalty and class numbers that may warn, or ``None``.
    """
    for penalty in penalties:
        labels = labels_of(penalty, y)
        known = known_values(labels if ops.is_tensor(labels) else np.asarray(labels))
        if known is None:  # spread over several processes
            continue
        if known.dtype.kind == "f":  # Keras's own cast, which is not exact
            known = known.astype(keras.config.floatx())
        penalty.loss.check_labels(known)
        if _is_continuous(penalty.loss) or known.ndim > 2 or not are_class_indices(known):
            continue
        if known.dtype.kind == "f" and not is_whole:
            raise invalid(
                "labels",
                "class numbers as integers from a dataset or a generator, of which one batch "
                "cannot tell whether all floats are whole",
                f"labels of {known.dtype}; map them to int32",
            )
        _check_bits(known)
        if remark is not None:
            remark(penalty, known, is_whole=is_whole)


def _check_bits(known):
    """Raise if JAX would cut class numbers to 32 bits, and so confuse some of them."""
    if keras.backend.backend() != "jax" or known.dtype.itemsize < 8 or known.dtype.kind == "f":
        return
    import jax

    if not jax.config.jax_enable_x64 and (known.max() >= 2**31 or known.min() < -(2**31)):
        raise invalid(
            "labels",
            "class numbers of 32 bits, to which JAX cuts others; number the classes from 0, by "
            "numpy.unique(labels, return_inverse=True)[1], or set jax_enable_x64",
            f"labels from {known.min()} to {known.max()}",
        )


def _with_a_look(x, look, held):
    """The same data, with a look at the first batch as it passes."""
    if isinstance(x, types.GeneratorType):
        return _generator(x, look)
    if isinstance(x, keras.utils.PyDataset):
        look(_targets(x[0]))
    elif type(x).__module__.startswith("tensorflow.") and hasattr(x, "element_spec"):
        return _dataset(x, look, held)
    return x  # for other kinds, such as a PyTorch loader, the step sees the values, or their dtype


def _targets(batch):
    return keras.utils.unpack_x_y_sample_weight(batch)[1]


def _generator(batches, look):
    for index, batch in enumerate(batches):
        if index == 0:
            look(_targets(batch))
        yield batch


def _dataset(dataset, look, held):
    """A `tf.data.Dataset` with a look at its first element, which is read only once."""
    import tensorflow as tf

    spec = dataset.element_spec
    if not hasattr(dataset, "enumerate") or not isinstance(spec, tuple) or len(spec) < 2:
        return dataset

    def look_at(*targets):
        try:
            look(tf.nest.pack_sequence_as(spec[1], [np.asarray(t) for t in targets]))
        except ValueError as error:
            held.append(error)
            raise
        return np.int64(0)

    def on_first(index, batch):
        targets = tf.nest.flatten(batch[1])
        first = tf.cond(
            index == 0,
            lambda: tf.numpy_function(look_at, targets, tf.int64),
            lambda: tf.constant(0, tf.int64),
        )
        with tf.control_dependencies([first]):
            targets = [tf.identity(target) for target in targets]
        return batch[0], tf.nest.pack_sequence_as(batch[1], targets), *batch[2:]

    return dataset.enumerate().map(on_first)
