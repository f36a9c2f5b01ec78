"""Variation along the depth: how the smoothness of the labels, or the graph itself, changes."""

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
from keras_lgg.graphs.functions import smoothness_of_labels
from keras_lgg.graphs.labels import label_signal, read_label_signal
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
    r"""How much the smoothness of the labels changes from layer to layer.

    .. math::

        \mathcal{L} = \frac{1}{m - 1} \sum_{l=1}^{m-1} \bigl|\sigma^{(l+1)} - \sigma^{(l)}\bigr|,
        \qquad \sigma^{(l)} = \operatorname{tr}\bigl(Y^\top (L^{(l)})^p \, Y\bigr)

    :math:`\sigma^{(l)}` is the smoothness of the label signal :math:`Y` on the cosine graph of
    layer l out of m (see `graphs.label_smoothness`), :math:`L^{(l)}` the Laplacian of that graph
    without degree normalisation, and :math:`p` is ``power``. The value grows like :math:`n^{p+1}`,
    so its weight depends on the batch size; with ``relative=True`` one weight serves any batch.

    Args:
        representations: List of at least two representations of one batch, ``(n, ...)`` each, in
            their order along the depth.
        labels: Integers ``(n,)`` or ``(n, 1)``, or one-hot, soft or multi-hot ``(n, c)``; a
            multi-hot row is scaled to length 1.
        power: Positive integer p, the power of the Laplacian.
        k: Number of nearest neighbours to keep, or ``None`` for the full graphs.
        num_classes: Number of classes of integer labels. If given, and ``k`` is ``None``, large
            batches take time and memory linear in n.
        ignore_class: Class number that marks samples without a label, such as -1; the value is
            that of the batch without them. ``None``: every sample has a label.
        continuous: ``True`` if the labels are a continuous target ``(n,)`` or ``(n, m)``, which is
            then the signal itself. The value grows with its square: scale it to a variance of 1.
        relative: ``True`` takes the normalised Laplacian and divides by the number of labelled
            samples.
        block_size: Number of rows of the similarities that are in memory at a time, where pairs
            are compared; ``None`` takes all rows up to n = 2048, and 4 million entries at a time
            beyond.

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

    Reference: Lassance, Gripon, Ortega, "Laplacian networks: bounding indicator function smoothness
    for neural network robustness", 2018, https://arxiv.org/abs/1805.10133; by the same authors,
    "Representing Deep Neural Networks Latent Space Geometries with Graphs", Algorithms 14(2):39,
    2021.
    """
    layers = _checked_depth(representations)
    labels = read_label_signal(
        labels, layers[0], num_classes=num_classes, ignore_class=ignore_class, continuous=continuous
    )
    return _variation_of_smoothness(
        layers, labels, power=power, k=k, relative=relative, block_size=block_size
    )


def _variation_of_smoothness(layers, labels, **options):
    # Once for all layers, so that a step with many taps is traced faster.
    signals = {dtype: label_signal(labels, dtype=dtype) for dtype in {x.dtype for x in layers}}
    values = [smoothness_of_labels(x, labels, signals[x.dtype], **options) for x in layers]
    return mean([ops.abs(b - a) for a, b in itertools.pairwise(in_one_dtype(*values))])


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(smoothness_variation, GeometryLoss)
class SmoothnessVariation(GeometryLoss):
    r"""Variation of the label smoothness, as a Keras loss: ``loss(labels, representations)``.

    .. math::

        \mathcal{L} = \frac{1}{m - 1} \sum_{l=1}^{m-1} \bigl|\sigma^{(l+1)} - \sigma^{(l)}\bigr|,
        \qquad \sigma^{(l)} = \operatorname{tr}\bigl(Y^\top (L^{(l)})^p \, Y\bigr)

    :math:`Y` is the label signal, :math:`L^{(l)}` the Laplacian of the cosine graph of layer l out
    of m, :math:`p` is ``power``; `smoothness_variation` is the same as a function. ``y_pred`` is
    the list of the tapped representations, in their order along the depth. The published setting
    is ``power=2`` with the weight 1e-4 at n = 100.

    Args:

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> layers = [np.ones((4, 2)), np.ones((4, 3))]
        >>> value = lgg.losses.SmoothnessVariation(power=2)(np.array([0, 0, 1, 1]), layers)
        >>> round(float(value), 6)
        0.0

    Reference: Lassance, Gripon, Ortega, "Laplacian networks: bounding indicator function smoothness
    for neural network robustness", 2018, https://arxiv.org/abs/1805.10133; by the same authors,
    "Representing Deep Neural Networks Latent Space Geometries with Graphs", Algorithms 14(2):39,
    2021.
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
        degree = as_float(n) if self.k is None else float(self.k)  # the largest possible
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
        return n is None or classes + 1 < n  # one column per class, and one of ones

    def _call_by_sums(self, y_true, y_pred, *, total):
        layers = _checked_depth(y_pred)
        options = {o: self._options[o] for o in ("power", "k", "relative", "block_size")}
        labels = self._read(layers, y_true)
        return _variation_of_smoothness(layers, labels, total=total, **options)


def graph_variation(
    representations: Sequence[Tensor], *, k: int | None = None, block_size: int | None = None
) -> Tensor:
    r"""How much the graph itself changes from layer to layer; needs no labels.

    .. math::

        \mathcal{L} = \frac{1}{m - 1} \sum_{l=1}^{m-1} \lVert A^{(l+1)} - A^{(l)} \rVert_F^2

    :math:`A^{(l)}` is the degree-normalised cosine graph of layer l out of m (see
    `graphs.latent_geometry_graph`). As in `graph_distillation`, large batches are compared through
    low-rank factors, in time and memory linear in n, unless too much cancels there.

    Args:
        representations: List of at least two representations of one batch, ``(n, ...)`` each, in
            their order along the depth.
        k: Number of nearest neighbours to keep in each graph, or ``None`` for the full graphs.
        block_size: Number of rows of the matrices over pairs that are in memory at a time;
            ``None`` takes all rows up to n = 2048, and 4 million entries at a time beyond.

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

    Reference: the label-free form of Lassance, Gripon, Ortega, "Representing Deep Neural Networks
    Latent Space Geometries with Graphs", Algorithms 14(2):39, 2021.
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
    r"""Variation of the graph along the depth, as a loss object: ``loss(representations)``.

    .. math::

        \mathcal{L} = \frac{1}{m - 1} \sum_{l=1}^{m-1} \lVert A^{(l+1)} - A^{(l)} \rVert_F^2

    :math:`A^{(l)}` is the degree-normalised cosine graph of layer l out of m; `graph_variation` is
    the same as a function. The loss compares the layers of one network with each other, so it takes
    no ``y_true``.

    Args:

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> float(lgg.losses.GraphVariation()([np.eye(3), np.eye(3)]))
        0.0

    Reference: the label-free form of Lassance, Gripon, Ortega, "Representing Deep Neural Networks
    Latent Space Geometries with Graphs", Algorithms 14(2):39, 2021.
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

    # There is no `y_true`, and samples have no weights.
    def __call__(self, representations: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        return super().__call__(representations)

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
