"""The networks on graphs of the examples.

    gcn     Kipf and Welling, "Semi-supervised classification with graph convolutional networks",
            ICLR 2017
    gin     Xu et al., "How powerful are graph neural networks?", ICLR 2019

Both are encoders from node numbers ``(n,)`` to representations ``(n, width)``. The graph is part of
them, and each call computes all of it, whichever nodes are asked for. So batches, anchors and heads
work as with networks on images.
"""

import keras
import numpy as np
from graph_data import Sparse
from keras import layers, ops

DECAY = keras.regularizers.L2(5e-4)  # of the first layer alone, as by Kipf and Welling


def gcn(graph, width, *, depth=2, activation="relu", dropout=0.5):
    """``depth`` steps along the edges, the last of which is the end.

    With a head that is one Dense layer this is the published network, for the product with the
    adjacency and that with a kernel may be taken in either order.
    """
    nodes = keras.Input((), dtype="int32")
    step = Product(adjacency(graph, normalize=True))
    x = step(Words(graph.words, width, dropout)(nodes))
    for _ in range(depth - 2):
        x = layers.Dropout(dropout)(layers.Activation(activation)(x))
        x = step(layers.Dense(width, use_bias=False)(x))
    x = step(layers.Dropout(dropout)(layers.Activation(activation)(x)))
    return keras.Model(nodes, ops.take(x, nodes, axis=0))


def gin(graph, width, *, depth=2, activation="relu", dropout=0.5):
    """``depth`` steps along the edges, a perceptron of two layers after each."""
    nodes = keras.Input((), dtype="int32")
    step = Product(adjacency(graph, normalize=False))
    x = step(Words(graph.words, width, dropout)(nodes))
    for i in range(depth):
        if i > 0:
            x = layers.Dropout(dropout)(x)
            x = step(layers.Dense(width, use_bias=False)(x))
        x = layers.Activation(activation)(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.Dense(width, activation=activation)(x)
    return keras.Model(nodes, ops.take(x, nodes, axis=0))


def adjacency(graph, *, normalize):
    """The edges, both ways, and one of each node to itself; over the roots of both degrees or 1."""
    nodes = len(graph.labels)
    pairs = np.unique(np.sort(graph.edges, axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    loops = np.repeat(np.arange(nodes, dtype=pairs.dtype)[:, None], 2, axis=1)
    pairs = np.concatenate([pairs, pairs[:, ::-1], loops])
    rows, columns = pairs[np.lexsort(pairs.T[::-1])].T
    degrees = np.bincount(rows) if normalize else np.ones(nodes)
    values = 1 / np.sqrt(degrees[rows] * degrees[columns])
    return Sparse(rows, columns, values.astype("float32"), (nodes, nodes))


@keras.saving.register_keras_serializable("examples")
class Product(layers.Layer):
    """A sparse matrix ``(n, m)`` times ``x`` ``(m, d)``: of the sums over edges, for instance."""

    def __init__(self, matrix, **kwargs):
        super().__init__(**kwargs)
        rows, columns, values, shape = matrix
        rows, columns = (np.asarray(places, "int32") for places in (rows, columns))
        self.matrix = Sparse(rows, columns, np.asarray(values, "float32"), tuple(shape))

    def call(self, x):
        return self.of(x, self.matrix.values)

    def of(self, x, values):
        rows, columns, _, (count, _) = self.matrix
        terms = ops.take(x, ops.convert_to_tensor(columns), axis=0)
        terms = terms * ops.convert_to_tensor(values)[:, None]
        return ops.segment_sum(terms, ops.convert_to_tensor(rows), num_segments=count)

    def compute_output_shape(self, input_shape):
        return (self.matrix.shape[0], *input_shape[1:])

    def get_config(self):
        matrix = [np.asarray(part).tolist() for part in self.matrix]
        return {**super().get_config(), "matrix": matrix}


@keras.saving.register_keras_serializable("examples")
class Words(Product):
    """The words of all nodes, of which some are dropped, times a kernel."""

    def __init__(self, matrix, units, dropout, **kwargs):
        super().__init__(matrix, **kwargs)
        self.units, self.dropout = units, dropout
        self._drop = layers.Dropout(dropout)

    def build(self, input_shape):
        shape = (self.matrix.shape[1], self.units)
        self.kernel = self.add_weight(shape, "glorot_uniform", regularizer=DECAY, name="kernel")

    def call(self, nodes, training=False):
        values = ops.convert_to_tensor(self.matrix.values)
        return self.of(self.kernel, self._drop(values, training=training))

    def compute_output_shape(self, input_shape):
        return (self.matrix.shape[0], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "dropout": self.dropout}
