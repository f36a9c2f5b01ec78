"""Graphs of the examples: nodes with words, edges and classes, and their split.

    digits      comes with scikit-learn, and is not a citation graph: the nodes are the 1,797
                scanned digits, the words of a node are its dark pixels, and its edges lead to the
                4 nearest digits by grey levels. So words and edges have the same source.
    cora, citeseer
                papers that cite one another (Sen et al., "Collective classification in network
                data", 2008), in the split of Yang et al., "Revisiting semi-supervised learning with
                graph embeddings", 2016, as at https://github.com/kimiyoung/planetoid

The latter are read from ``cora.npz`` and ``citeseer.npz`` in the folder ``--data-dir``, or
``TFDS_DATA_DIR``. Each file has these NumPy arrays:

    feature_rows, feature_columns, feature_values
                the entries of the matrix of words that are not 0: node, word, value
    shape       (nodes, words)
    edges       (m, 2): nodes, from 0; each edge once, in either direction
    labels      (nodes,): integers from 0, or -1 if the class is unknown
    train, validation, test
                the nodes of each part of the split

With PyTorch Geometric, which downloads them, such a file is written by::

    graph = torch_geometric.datasets.Planetoid("planetoid", "Cora")[0]
    x, (a, b) = graph.x.numpy(), graph.edge_index.numpy()
    rows, columns = x.nonzero()
    parts = {"train": graph.train_mask, "validation": graph.val_mask, "test": graph.test_mask}
    numpy.savez(
        "cora.npz",
        feature_rows=rows,
        feature_columns=columns,
        feature_values=x[rows, columns],
        shape=x.shape,
        edges=numpy.stack([a, b], axis=1)[a < b],
        labels=graph.y.numpy(),
        **{name: mask.numpy().nonzero()[0] for name, mask in parts.items()},
    )
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from keras_lgg.checks import check_choice, invalid, require

NAMES = ("digits", "cora", "citeseer")
PARTS = ("train", "validation", "test")
NEIGHBOURS = 4  # of each of the digits
FEW = 5  # of each class of the digits that are for training


class Sparse(NamedTuple):
    """A matrix by its numbers that are not 0."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]


class Graph(NamedTuple):
    words: Sparse
    edges: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def classes(self):
        return int(self.labels.max()) + 1

    @property
    def others(self):
        """The nodes that are in neither the validation nor the test part."""
        return np.setdiff1d(np.arange(len(self.labels)), [*self.validation, *self.test])


def load(args):
    """The graph ``--data``, the words of each node scaled to a sum of 1."""
    check_choice("data", args.data, NAMES)
    graph = digits() if args.data == "digits" else read(args.data, args.data_dir)
    rows, columns, values, shape = graph.words
    sums = np.bincount(rows, values, minlength=shape[0])
    values = (values / sums[rows]).astype("float32")
    return graph._replace(words=Sparse(rows, columns, values, shape))


def read(name, data_dir=None):
    """The graph in a file of the form above."""
    folder = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR", "."))
    path = folder / f"{name}.npz"
    if not path.is_file():
        expected = f"a folder that holds {name}.npz (examples/graph_data.py says where it is from)"
        raise invalid("data_dir", expected, repr(str(folder)))
    needed = ["feature_rows", "feature_columns", "feature_values", "shape", "edges", "labels"]
    with np.load(path) as arrays:
        missing = {*needed, *PARTS} - {*arrays}
        if missing:
            raise invalid("data_dir", f"all arrays in {path}", f"a file without {sorted(missing)}")
        rows, columns, values, shape, edges, labels = (arrays[key] for key in needed)
        parts = [arrays[part] for part in PARTS]
    words = Sparse(rows, columns, values, tuple(int(size) for size in shape))
    return checked(Graph(words, edges, labels, *parts))


def digits():
    """The digits that come with scikit-learn, as a graph."""
    images, labels = require("sklearn.datasets", "examples").load_digits(return_X_y=True)
    neighbours = require("sklearn.neighbors", "examples").kneighbors_graph(images, NEIGHBOURS)
    edges = np.unique(np.sort(np.stack(neighbours.nonzero(), axis=1), axis=1), axis=0)
    rows, columns = np.nonzero(images > images.max() / 2)
    words = Sparse(rows, columns, np.ones(len(rows)), images.shape)
    order = np.random.default_rng(0).permutation(len(images))
    train = np.concatenate([order[labels[order] == c][:FEW] for c in range(10)])
    rest = order[~np.isin(order, train)]
    return checked(Graph(words, edges, labels, train, rest[:300], rest[-1000:]))


def checked(graph):
    """The same graph, of the kinds that networks take; raises where it is none."""
    words, labels = graph.words, np.asarray(graph.labels)
    if len(words.shape) != 2:
        raise invalid("shape", "(nodes, words)", repr(words.shape))
    nodes, count = words.shape
    if labels.shape != (nodes,) or labels.dtype.kind not in "iu":
        expected = f"an integer class of each of the {nodes} nodes, or -1 where it is not known"
        raise invalid("labels", expected, f"{labels.dtype} {labels.shape}")
    if not len(words.rows) == len(words.columns) == len(words.values):
        lengths = f"{len(words.rows)}, {len(words.columns)} and {len(words.values)} of them"
        raise invalid("words", "a row, a column and a value of each number", lengths)
    if not np.isfinite(words.values).all() or np.min(words.values) <= 0:
        raise invalid("words", "finite values above 0", "others")
    edges = np.asarray(graph.edges)
    if edges.ndim != 2 or edges.shape[1] != 2:
        raise invalid("edges", "pairs of nodes (m, 2)", f"an array of shape {edges.shape}")
    rows = checked_indices("words", words.rows, nodes, "node")
    columns = checked_indices("words", words.columns, count, "word")
    edges = checked_indices("edges", edges, nodes, "node")
    parts = {part: checked_indices(part, getattr(graph, part), nodes, "node") for part in PARTS}
    for part, indices in parts.items():
        if (labels[indices] < 0).any():
            raise invalid(part, "nodes whose class is known", "a node with the label -1")
    union = np.concatenate(list(parts.values()))
    if len(np.unique(union)) < len(union):
        raise invalid("train", "no node twice in train, validation and test", "one that is")
    words = Sparse(rows, columns, np.asarray(words.values), words.shape)
    return Graph(words, edges, labels.astype("int32"), **parts)


def checked_indices(argument, indices, count, kind):
    indices = np.asarray(indices)
    if indices.dtype.kind not in "iu" or not indices.size:
        raise invalid(argument, "integers", f"{indices.dtype} {indices.shape}")
    wrong = indices[(indices < 0) | (indices >= count)]
    if len(wrong):
        expected = (
            f"{kind}s from 0 to {count - 1}, as there are {count}. Number them from 0, or leave "
            "out what belongs to others"
        )
        raise invalid(argument, expected, f"the {kind} {wrong[0]}")
    return indices.astype("int32")
