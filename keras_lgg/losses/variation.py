"""Variation along the depth: how the smoothness of the labels, or the graph itself, changes.

The numbers of the references are those of `keras_lgg.losses`.
"""

import itertools
from collections.abc import Sequence

import keras
from keras import ops

from keras_lgg import checks
from keras_lgg.graphs.construction import nearest_neighbours
from keras_lgg.graphs.differences import (
    compare_by_sums,
    compare_factors,
    factored_rank,
    factors_or_pairs,
    full_graph,
    squared_difference,
    sums_cost_less,
)
from keras_lgg.graphs.functions import read_label_signal, smoothness_of_labels
from keras_lgg.graphs.labels import label_signal
from keras_lgg.graphs.numerics import flatten_representation, in_one_dtype
from keras_lgg.graphs.pairs import rows_of_block
from keras_lgg.losses.base import GeometryLoss, as_float, check_options, mean
from keras_lgg.types import DType, Tensor


def smoothness_variation(
    representations: Sequence[Tensor],
    labels: Tensor,
    *,
    power: int = 1,
    k: int | None = None,
    num_classes: int | None = None,
    ignore_class: int | None = None,
    continuous: bool = False,
    relative: bool = False,
    block_size: int | None = None,
) -> Tensor:
    """How much the smoothness of the labels changes from layer to layer.

    The mean over consecutive layers of ``|sigma_(l+1) - sigma_l|``, where sigma is
    `graphs.label_smoothness`. The raw value grows like ``n**(power + 1)``, so its weight
    depends on the batch size; with ``relative=True`` the same weight serves any batch.

    Args:
        representations: List of at least two representations of one batch, ``(n, ...)`` each.
        labels: See `graphs.label_smoothness`.
        power: Positive integer, the power of the Laplacian.
        k: Number of nearest neighbours to keep, or ``None`` for the full graphs.
        num_classes: Number of classes of integer labels: lets the linear form be taken.
        ignore_class: See `graphs.label_smoothness`.
        continuous: See `graphs.label_smoothness`.
        relative: Whether to take the normalised Laplacian and divide by n.
        block_size: See `graphs.label_smoothness`.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: If there are fewer than two representations, or as `label_smoothness` does.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> layers = [np.ones((4, 2), "float32"), np.repeat(np.eye(2, dtype="float32"), 2, 0)]
        >>> round(float(losses.smoothness_variation(layers, np.array([0, 0, 1, 1]))), 4)
        8.0

    Reference: [1], [4].
    """
    layers = _checked_depth(representations)
    labels = read_label_signal(
        labels, layers[0], num_classes=num_classes, ignore_class=ignore_class, continuous=continuous
    )
    return _variation_of_smoothness(
        layers, labels, power=power, k=k, relative=relative, block_size=block_size
    )


def _variation_of_smoothness(layers, labels, **options):
    # Once for all layers: a step of many taps is traced the sooner.
    signals = {dtype: label_signal(labels, dtype=dtype) for dtype in {x.dtype for x in layers}}
    values = [smoothness_of_labels(x, labels, signals[x.dtype], **options) for x in layers]
    return mean([ops.abs(b - a) for a, b in itertools.pairwise(in_one_dtype(*values))])


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(smoothness_variation, GeometryLoss)
class SmoothnessVariation(GeometryLoss):
    """Keras loss over `smoothness_variation`: ``SmoothnessVariation()(labels, representations)``.

    ``y_pred`` is the list of the tapped representations, in their order along the depth.
    Published setting: ``power=2`` with weight 1e-4 at n = 100.

    Args:

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> layers = [np.ones((4, 2)), np.ones((4, 3))]
        >>> value = lgg.losses.SmoothnessVariation(power=2)(np.array([0, 0, 1, 1]), layers)
        >>> round(float(value), 6)
        0.0

    Reference: [1], [4].
    """

    needs_labels = True
    across_layers = True
    is_scalar = True

    def __init__(
        self,
        *,
        power: int = 1,
        k: int | None = None,
        num_classes: int | None = None,
        ignore_class: int | None = None,
        continuous: bool = False,
        relative: bool = False,
        block_size: int | None = None,
        name: str | None = "smoothness_variation",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, global_graph=global_graph)
        self._keep(
            power=power,
            k=k,
            num_classes=num_classes,
            ignore_class=ignore_class,
            continuous=bool(continuous),
            relative=bool(relative),
            block_size=block_size,
        )

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        if self.relative:
            return 3.0
        degree = as_float(n) if self.k is None else float(self.k)  # as large as it can be
        return 5.0 / (as_float(n) * degree**self.power)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return smoothness_variation(y_pred, y_true, **self._options)

    def _read(self, layers, labels):
        options = ("num_classes", "ignore_class", "continuous")
        return read_label_signal(labels, layers[0], **{o: self._options[o] for o in options})

    def _sums_suffice(self, y_true, y_pred, n):
        labels = self._read(_checked_depth(y_pred), y_true)
        classes = labels.num_classes
        if self.k is not None or classes is None or classes >= 2**16:
            return False
        return n is None or classes + 1 < n  # a column a class, and one of ones

    def _call_by_sums(self, y_true, y_pred, *, total):
        layers = _checked_depth(y_pred)
        options = {o: self._options[o] for o in ("power", "k", "relative", "block_size")}
        labels = self._read(layers, y_true)
        return _variation_of_smoothness(layers, labels, total=total, **options)


def graph_variation(
    representations: Sequence[Tensor], *, k: int | None = None, block_size: int | None = None
) -> Tensor:
    """How much the graph itself changes from layer to layer; needs no labels.

    The mean over consecutive layers of ``||A_(l+1) - A_l||_F**2``, with degree-normalised
    cosine graphs. They are compared in factors or by pairs, as `graph_distillation` says.

    Args:
        representations: List of at least two representations of one batch, ``(n, ...)`` each.
        k: Number of nearest neighbours to keep in each graph, or ``None`` for all.
        block_size: Rows of the matrices over pairs that are in memory at a time; ``None`` takes
            all up to n = 2048, and 4 million entries beyond.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: If there are fewer than two representations, or ``k`` is invalid.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import losses
        >>> x = np.random.default_rng(0).random((4, 3)).astype("float32")
        >>> bool(losses.graph_variation([x, 2 * x]) < 1e-9)
        True

    Reference: the label-free form of [1]
    """
    check_options(k=k)
    layers = in_one_dtype(*_checked_depth(representations))
    n = ops.shape(layers[0])[0]

    block = rows_of_block(n, block_size)

    def by_pairs(*layers):
        adjacencies = [full_graph(x, block) for x in layers]
        if k is not None:
            adjacencies = [nearest_neighbours(a, k) for a in adjacencies]
        return mean([squared_difference(b, a) for a, b in itertools.pairwise(adjacencies)])

    def change(a, b):
        return factors_or_pairs(
            lambda: compare_factors(a, b),
            by_pairs,
            a,
            b,
            n=n,
            rank=factored_rank(a.shape[1], b.shape[1], 1),
            width=3 * (a.shape[1] + b.shape[1]),
        )

    if k is not None or not isinstance(n, int) or None in [x.shape[1] for x in layers]:
        return ops.sum(by_pairs(*layers))
    return mean([ops.sum(change(a, b)) for a, b in itertools.pairwise(layers)])


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(graph_variation, GeometryLoss)
class GraphVariation(GeometryLoss):
    """Loss object over `graph_variation`: ``GraphVariation()(representations)``.

    It compares the layers of one network among themselves, so it has no ``y_true``.

    Args:

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> float(lgg.losses.GraphVariation()([np.eye(3), np.eye(3)]))
        0.0

    Reference: the label-free form of [1]
    """

    across_layers = True
    is_scalar = True

    def __init__(
        self,
        *,
        k: int | None = None,
        block_size: int | None = None,
        name: str | None = "graph_variation",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, global_graph=global_graph)
        self._keep(k=k, block_size=block_size)

    # There is no `y_true`, and no sample has a weight.
    def __call__(self, representations: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        return super().__call__(representations, representations)

    def default_weight(self, n: int | Tensor) -> float | Tensor:
        del n  # degrees are normalised
        return 10.0

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        del y_true
        return graph_variation(y_pred, **self._options)

    def _sums_suffice(self, y_true, y_pred, n):
        pairs = itertools.pairwise(_checked_depth(y_pred))
        return self.k is None and all(sums_cost_less(n, a.shape[1], b.shape[1]) for a, b in pairs)

    def _call_by_sums(self, y_true, y_pred, *, total):
        del y_true
        pairs = itertools.pairwise(_checked_depth(y_pred))
        return mean([total(ops.sum(compare_by_sums(a, b, total))) for a, b in pairs])


def _checked_depth(representations):
    """Representations ``(n, d)`` of consecutive layers."""
    if not isinstance(representations, list | tuple) or len(representations) < 2:
        received = (
            f"{len(representations)} of them"
            if isinstance(representations, list | tuple)
            else type(representations).__name__
        )
        raise checks.invalid(
            "representations",
            "a list of at least two representations, of consecutive layers",
            received,
        )
    layers = [
        flatten_representation(x, f"representations[{i}]") for i, x in enumerate(representations)
    ]
    for x in layers[1:]:
        checks.check_same_length(**{"representations[0]": layers[0], "another": x})
    return layers
