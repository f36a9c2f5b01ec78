"""Densification: the samples of a class at equal distances along the tree that spans them."""

import keras
from keras import ops

from keras_lgg.checks import described_by
from keras_lgg.graphs.construction import squared_distances
from keras_lgg.graphs.labels import class_indices, read_labels
from keras_lgg.graphs.numerics import as_column, as_row, flatten_representation, safe_sqrt
from keras_lgg.losses.base import GeometryLoss, check_options
from keras_lgg.types import DType, Tensor


def densification_loss(x: Tensor, *, labels: Tensor | None = None, beta: float = 8.0) -> Tensor:
    r"""How far the edges of each class's minimum spanning tree are from a given length.

    The edges of the Euclidean minimum spanning tree of a class tell at which distances the class
    falls apart. Pulling them to one length makes a class fill its region evenly, without holes;
    relative representations of such spaces agree better. With :math:`T_c` the edges of the tree of
    class c and :math:`\beta` the length,

    .. math::

        \mathcal{L} = \sum_c \sum_{(i, j) \in T_c} \bigl|\, \|x_i - x_j\|_2 - \beta \,\bigr|

    Args:
        x: Representations, shape ``(n, ...)``.
        labels: Class of each sample: integers ``(n,)`` or ``(n, 1)``, or one-hot or soft
            ``(n, c)``; ``None`` for a batch of one class.
        beta: The length :math:`\beta` of an edge, a positive number.

    Returns:
        Scalar tensor: the sum over the edges of all trees; a class of one sample has none. No
        gradient flows through the choice of the edges.

    Raises:
        ValueError: If ``beta`` is not positive, or the labels differ from ``x`` in length.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import relative
        >>> x = np.array([[0.0], [10.0], [11.0], [50.0]], "float32")
        >>> float(relative.densification_loss(x, labels=np.array([0, 0, 0, 1])))
        9.0

    Reference: García-Castellanos et al., "Relative representations: topological and geometric
    perspectives", 2024, https://arxiv.org/abs/2409.10967
    """
    check_options(beta=beta)
    x = flatten_representation(x)
    if labels is None:
        classes = ops.zeros((ops.shape(x)[0],), "int32")
    else:
        classes = class_indices(read_labels(labels, x, any_number=True))
    parents = _spanning_tree(ops.stop_gradient(x), classes)
    edges = x - ops.take(x, parents, axis=0)
    lengths = safe_sqrt(ops.sum(ops.square(edges), axis=1))
    inside = ops.equal(classes, ops.take(classes, parents, axis=0))
    counted = ops.logical_and(inside, ops.arange(ops.shape(x)[0]) > 0)  # the first is the root
    return ops.sum(ops.where(counted, ops.abs(lengths - beta), 0.0))


def _spanning_tree(x, classes):
    """The parent of each node of a tree from node 0, (n,), by Prim's algorithm.

    Samples of two classes are put farther apart than any two of one class, so the tree contains the
    shortest tree of each class.
    """
    squares, _ = squared_distances(x, None)
    squares = squares.matrix
    same = ops.equal(as_column(classes), as_row(classes))
    distances = ops.where(same, squares, squares + 2.0 * ops.max(squares) + 1.0)
    n = ops.shape(x)[0]
    index = ops.arange(n, dtype="int32")

    def add_nearest(_, state):
        reached, nearest, parents = state
        new = ops.cast(ops.argmin(ops.where(reached, float("inf"), nearest)), "int32")
        reached = ops.logical_or(reached, ops.equal(index, new))
        row = ops.take(distances, new, axis=0)
        closer = ops.logical_and(row < nearest, ops.logical_not(reached))
        return reached, ops.where(closer, row, nearest), ops.where(closer, new, parents)

    start = (ops.equal(index, 0), distances[0], ops.zeros_like(index))
    return ops.fori_loop(1, n, add_nearest, start)[2]


@keras.saving.register_keras_serializable("keras_lgg")
@described_by(densification_loss, GeometryLoss)
class DensificationLoss(GeometryLoss):
    r"""Keras loss over `densification_loss`: ``DensificationLoss()(labels, representations)``.

    It is the sum, over the edges of each class's minimum spanning tree, of how far the length of an
    edge is from :math:`\beta`:

    .. math::

        \mathcal{L} = \sum_c \sum_{(i, j) \in T_c} \bigl|\, \|x_i - x_j\|_2 - \beta \,\bigr|

    Published setting: ``beta=8`` with weight 0.1, on batches of one class.

    Args:

    Example:
        >>> import numpy as np
        >>> from keras_lgg import relative
        >>> float(relative.DensificationLoss(beta=2.0)(np.array([0, 0]), np.array([[0.0], [5.0]])))
        3.0

    Reference: García-Castellanos et al., "Relative representations: topological and geometric
    perspectives", 2024, https://arxiv.org/abs/2409.10967
    """

    needs_labels = True
    is_scalar = True

    def __init__(
        self,
        *,
        beta: float = 8.0,
        name: str | None = "densification",
        dtype: DType | None = None,
        global_graph: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, global_graph=global_graph)
        self._keep(beta=beta)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return densification_loss(y_pred, labels=y_true, **self._options)
