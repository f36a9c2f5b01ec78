"""What all losses share: where they act, precision, reduction, batches split over replicas."""

import functools
import inspect
import numbers
import reprlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lgg import checks
from keras_lgg.graphs.arrays import REPRESENTATIONS, as_tensor, given_array
from keras_lgg.graphs.functions import METRICS, PAIRS
from keras_lgg.graphs.labels import FORMS, check_known
from keras_lgg.graphs.numerics import alone, flatten_representation, in_one_dtype
from keras_lgg.graphs.pooling import without_mask
from keras_lgg.losses import replicas
from keras_lgg.types import DType, Tensor

# The values that options may take, by the name that they have in all losses.
CHOICES = {"pairs": PAIRS, "metric": METRICS, "form": ("labels", "graph")}


class GeometryLoss(keras.losses.Loss):
    """Base class for the losses of this package, and for your own.

    It is an ordinary Keras loss that also says where it can act. A subclass implements
    ``call(y_true, y_pred)``, which returns one value per sample or one for the batch, and sets:

    * ``needs_teacher``: ``y_true`` is the teacher's representation (for `Distiller`);
    * ``needs_labels``: ``y_true`` holds the class labels. With both, it is a pair
      ``(teacher, labels)``; with neither, the loss is called as ``loss(y_pred)``, and ``y_true`` is
      the same as ``y_pred``;
    * ``across_layers``: ``y_pred`` is the list of all tapped representations, not a single one;
    * ``is_scalar``: the loss is a single value for the whole batch, so nothing is reduced;
    * ``grows``: a larger scale of the representation is enough to make the loss small.

    Args:
        reduction: How the values ``(n,)`` become the loss: ``"sum"``, ``"sum_over_batch_size"``
            (their mean), ``"mean_with_sample_weight"``, or ``None`` to keep them, as in
            `keras.losses.Loss`. Each loss defaults to its published scale.
        name: Name of the loss, and of its metric.
        dtype: Dtype of the computation; by default float32, or float64 where the representations
            are float64 (on PyTorch always float32, to which Keras rounds there).
        global_graph: Only matters where several replicas share a batch. ``True``: one graph spans
            the whole batch, as on one device. ``False``: each replica builds the graph of its own
            part.

    Example:
        >>> import keras
        >>> from keras_lgg import losses
        >>> class CosineToTeacher(losses.GeometryLoss):
        ...     needs_teacher = True
        ...
        ...     def call(self, teacher, student):
        ...         return 1 + keras.losses.cosine_similarity(teacher, student)
        >>> float(CosineToTeacher()([[1.0, 0.0]], [[0.0, 1.0]]))
        1.0
    """

    needs_teacher = False
    needs_labels = False
    across_layers = False
    is_scalar = False
    grows = False

    def __init__(
        self,
        *,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        self._given_dtype = dtype
        default = "float64" if keras.config.floatx() == "float64" else "float32"
        super().__init__(name=name, reduction=reduction, dtype=dtype or default)
        self.global_graph = bool(global_graph)
        self._options: dict[str, Any] = {}

    def _keep(self, **options: Any) -> None:
        """Keep the options of the loss's function, as attributes and for saving."""
        check_options(**options)
        self._options = options
        self.__dict__.update(options)

    def __call__(
        self, y_true: Tensor, y_pred: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        if y_pred is None and not (self.needs_teacher or self.needs_labels):
            y_pred = y_true
        y_true, y_pred = self._given(y_true, y_pred)
        if sample_weight is not None:
            sample_weight = _checked_weights(sample_weight, y_pred)
        # A Keras loss would multiply the mask into the values, but there is one per sample.
        y_true, y_pred = keras.tree.map_structure(without_mask, (y_true, y_pred))
        # A Keras loss casts everything to one dtype. Float64 representations are not rounded here.
        if self._given_dtype is None and self.dtype != "float64" and _has_float64(y_pred):
            wide = type(self).from_config({**self.get_config(), "dtype": "float64"})
            return GeometryLoss.__call__(wide, y_true, y_pred, sample_weight)
        replica_count = replicas.local_count()
        if replica_count > 1:
            return self._share(replica_count, y_true, y_pred, sample_weight)
        parts = 1 if self.global_graph else replicas.split_count()
        loss = self if parts == 1 else self._on_parts(parts)
        return loss._keras_call(y_true, y_pred, sample_weight)

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        """The weight of a penalty that was given none, for graphs of n samples.

        It is 1 unless the loss overrides it. The defaults of the losses in this package were
        measured, see :doc:`/which_loss`.

        Args:
            n: Number of samples in a graph, including those in the memory of a `CrossBatch`.
        """
        del n
        return 1.0

    def check_labels(self, labels: np.ndarray) -> None:
        """Raise if the loss cannot read these labels; called before training is compiled.

        Args:
            labels: Class labels of a batch, or of the whole data set.
        """
        if "ignore_class" in self._options:
            names = ("num_classes", "ignore_class", "continuous")
            check_known(labels, **{n: v for n, v in self._options.items() if n in names})

    def _for_a_sum(self, weight, n):
        """The weight that, with this reduction, acts like ``weight`` on the sum over samples."""
        return weight if self.reduction in ("sum", None, "none") else weight * as_float(n)

    def _given(self, y_true, y_pred):
        """The inputs, checked: representations as tensors, labels as they are."""
        y_pred = _representations("y_pred", y_pred, self.across_layers)
        if not self.needs_labels:
            return _representations("y_true", y_true, self.across_layers), y_pred
        if not self.needs_teacher:
            return given_array("labels", y_true, FORMS), y_pred
        if not isinstance(y_true, list | tuple) or len(y_true) != 2:
            raise checks.invalid("y_true", "the pair (teacher, labels)", type(y_true).__name__)
        teacher, labels = y_true
        return (as_tensor("teacher", teacher, REPRESENTATIONS), labels), y_pred

    def _keras_call(self, y_true, y_pred, sample_weight):
        """Call as a Keras loss, which would round class numbers from 2**24 on to its dtype."""
        exact = _copied(self)
        exact.call = functools.partial(_call_on, self.call, self._cast(y_true))
        return keras.losses.Loss.__call__(exact, y_pred, y_pred, sample_weight)

    def _cast(self, y_true):
        """``y_true`` in the dtype of the loss, except for labels, which stay as they are."""
        if self.needs_labels and not self.needs_teacher:
            return y_true
        if self.needs_labels:
            return ops.cast(y_true[0], self.dtype), y_true[1]
        return keras.tree.map_structure(lambda x: ops.cast(x, self.dtype), y_true)

    def _share(self, replica_count, y_true, y_pred, sample_weight):
        """This replica's share of the value; the shares add up to the loss of the batch."""
        unreduced = _copied(self)
        unreduced.reduction = None
        by_sums = False
        if self.global_graph:
            n = replicas.known_samples(keras.tree.flatten(y_pred)[0].shape[0])
            by_sums = self._sums_suffice(y_true, y_pred, n)
        if by_sums:
            unreduced.call = functools.partial(self._call_by_sums, total=replicas.total)
        elif self.global_graph:
            y_true, y_pred, sample_weight = replicas.gather((y_true, y_pred, sample_weight))
        values = unreduced._keras_call(y_true, y_pred, sample_weight)
        if len(values.shape) == 0:
            return values / replica_count
        if by_sums:  # the values of its own rows
            return _reduced(values, sample_weight, self.reduction, replicas.total)
        if not self.global_graph and self.reduction == "sum":
            return ops.sum(values)
        return _reduced(values, sample_weight, self.reduction) / replica_count

    def _sums_suffice(self, y_true, y_pred, n):
        """Whether replicas need only sums over each other's samples, and these are less to send.

        A loss that says yes to some inputs implements ``_call_by_sums`` for them: `call` on the
        rows of one replica; for ``total`` see `alone`.

        Args:
            y_true: The targets of one replica.
            y_pred: Its representations.
            n: Size of the whole batch, or ``None`` if it is only known at run time.
        """
        del y_true, y_pred, n
        return False

    def _on_parts(self, parts):
        """The loss with a separate graph for each part of the batch."""
        split = _copied(self)

        def call(y_true, y_pred):
            values = replicas.on_each_part(lambda both: self.call(*both), parts, (y_true, y_pred))
            return ops.mean(values) if len(values.shape) == 1 else ops.reshape(values, (-1,))

        split.call = call
        return split

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        given = [
            f"{name}={reprlib.repr(value)}"
            for name, value in self._options.items()
            if value != getattr(parameters.get(name), "default", None)
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            "dtype": self._given_dtype,
            "global_graph": self.global_graph,
            **self._options,
        }
        if self.is_scalar:
            del config["reduction"]
        return config


def as_float(n):
    """A number of samples as a float: its powers may be too large for an integer tensor."""
    return float(n) if isinstance(n, int) else ops.cast(n, "float32")


def _representations(argument, given, several):
    """Representations as tensors: one, or those of several layers."""
    if not several:
        return as_tensor(argument, given, REPRESENTATIONS)
    if not isinstance(given, list | tuple):
        raise checks.invalid(argument, "a list of representations", repr(type(given).__name__))
    return [as_tensor(argument, x, REPRESENTATIONS) for x in given]


def _checked_weights(sample_weight, y_pred):
    """Sample weights as a tensor, checked."""
    weights = as_tensor("sample_weight", sample_weight, "weights of shape (n,) or (n, 1)")
    shape = tuple(weights.shape)
    if len(shape) > 2 or shape[1:] not in ((), (1,)):
        raise checks.invalid("sample_weight", "weights of shape (n,) or (n, 1)", f"shape {shape}")
    scored = keras.tree.flatten(y_pred)[0]
    if shape not in ((), (1,)) and len(scored.shape) > 0:
        checks.check_same_length(sample_weight=weights, y_pred=scored)
    return weights


def _copied(loss):
    """A shallow copy; `copy.copy` would rebuild the loss from its config."""
    copied = object.__new__(type(loss))
    copied.__dict__.update(loss.__dict__)
    return copied


def _call_on(call, y_true, _, y_pred):
    return call(y_true, y_pred)


def both_flattened(teacher, student):
    """Two representations ``(n, d)`` of one batch, in one dtype."""
    teacher = flatten_representation(teacher, "teacher")
    student = flatten_representation(student, "student")
    checks.check_same_length(teacher=teacher, student=student)
    return in_one_dtype(teacher, student)


def mean(values):
    """Mean of a list of tensors."""
    return sum(values) / len(values)


def row_sums(values: Tensor, *_: Any) -> Tensor:
    """Sum of each row, as a function for `PairMatrix.map_rows`."""
    return ops.sum(values, axis=1)


def check_options(**options: Any) -> None:
    """Raise if an option is not valid; it has the same name in all losses."""
    for name, value in options.items():
        CHECKS[name](name, value)


def _check_count(name, value):
    if value is not None:
        checks.check_positive_integer(name, value)


def _check_arms(name, value):
    checks.check_positive_integer(name, value)
    if value < 2:
        raise checks.invalid(name, "an integer of at least 2, the two arms of an angle", value)


def _check_class(name, value):
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if value is not None and not is_integer:
        raise checks.invalid(
            name, "an integer, the class number that means no label, or None", repr(value)
        )


def _check_choice(name, value):
    checks.check_choice(name, value, CHOICES[name])


def _pass(name, value):
    """Do nothing: the option is checked where it is read."""


CHECKS = {
    "affinity": _pass,
    "alpha": checks.check_positive,
    "arms": _check_arms,
    "beta": checks.check_positive,
    "block_size": _check_count,
    "continuous": _pass,
    "form": _check_choice,
    "gamma": checks.check_positive,
    "ignore_class": _check_class,
    "k": _check_count,
    "metric": _check_choice,
    "num_classes": _check_count,
    "order": checks.check_positive_integer,
    "pairs": _check_choice,
    "power": checks.check_positive_integer,
    "relative": _pass,
}


def _reduced(values, sample_weight, reduction, whole=alone):
    """Already weighted values, reduced as `keras.losses.Loss` does on one device.

    With a ``whole`` other than `alone`, they are the values of one part of the batch.
    """
    if len(values.shape) == 0 or reduction in (None, "none"):
        return values
    total = ops.sum(values)
    if reduction == "sum":
        return total
    if reduction == "mean_with_sample_weight" and sample_weight is not None:
        return ops.divide_no_nan(total, whole(ops.sum(ops.cast(sample_weight, total.dtype))))
    return total / whole(ops.cast(ops.size(values), total.dtype))


def _has_float64(tensors):
    return any(
        keras.backend.standardize_dtype(x.dtype) == "float64"
        for x in keras.tree.flatten(tensors)
        if ops.is_tensor(x)
    )
