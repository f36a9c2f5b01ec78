"""The keys nearest to each query, exactly, in blocks of queries."""

import concurrent.futures
import contextlib
import importlib
import importlib.util
import math
import os
from typing import Any

import numpy as np

from keras_lgg.checks import check_choice, check_positive_integer, invalid, require
from keras_lgg.graphs.arrays import check_not_empty
from keras_lgg.relative.comparison import finite_rows, unit_rows
from keras_lgg.retrieval.selection import largest
from keras_lgg.types import ArrayLike

METRICS = ("cosine", "euclidean", "inner")
ENGINES = ("numpy", "faiss")
# Similarities in a block: as many as a cache may hold, fewer if many threads have blocks, and
# enough to be worth a thread.
ENTRIES, ALL_ENTRIES, FEW_ENTRIES = 2**23, 2**26, 2**20


def neighbours(
    queries: ArrayLike,
    keys: ArrayLike | None = None,
    *,
    k: int = 10,
    metric: str = "cosine",
    engine: str = "numpy",
) -> tuple[np.ndarray, np.ndarray]:
    r"""The k keys that are nearest to each query, the nearest first.

    By ``metric``, near keys are those with a large :math:`s(q, x)`, for a query q and a key x:

    .. math::

        \text{cosine: } \frac{q^\top x}{\|q\| \, \|x\|}, \qquad
        \text{euclidean: } -\|q - x\|_2, \qquad
        \text{inner: } q^\top x

    The search is exact, in float32: each query is compared with each key. Equally near keys come in
    the order of their indices; a matrix product may, however, round equal keys differently.

    Args:
        queries: Embeddings ``(n, ...)``, flattened.
        keys: Embeddings ``(m, ...)`` of the same width; ``None`` searches among the queries, each
            of which leaves out its own row.
        k: Number of keys to find; if there are fewer, all of them.
        metric: ``"cosine"``, ``"euclidean"`` or ``"inner"`` (the largest inner product).
        engine: ``"numpy"``, or ``"faiss"`` for faiss's exact search, of the extra ``faiss``: the
            same results up to rounding. Among equally near keys, any may come first and, if there
            are more of them than places, be left out. On CPUs it took 4 times as long.

    Returns:
        Indices ``(n, k)``, int64, and what they were ranked by, ``(n, k)``, float32: cosines,
        distances or inner products.

    Raises:
        ValueError: If an option is invalid, the widths differ, or a number is not finite.
        ImportError: If faiss is asked for and missing.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import retrieval
        >>> found, cosines = retrieval.neighbours(np.array([[1.0, 0], [1, 1], [0, 1]]), k=1)
        >>> found.tolist()
        [[1], [0], [1]]

    Reference: this is brute-force k-nearest-neighbour search; the faiss engine: Douze et al., "The
    Faiss library", https://arxiv.org/abs/2401.08281
    """
    check_positive_integer("k", k)
    search = Search(queries, keys, metric, engine)
    k = min(k, search.candidates)
    indices = np.empty((search.count, k), "int64")
    values = np.empty((search.count, k), "float32")

    def keep(block):
        indices[block.rows], values[block.rows] = block.nearest, block.values

    search.each(keep, np.arange(search.count), np.full(search.count, k))
    return indices, values


class Search:
    """Queries and keys, ready to be compared.

    Args:
        queries: See `neighbours`.
        keys: See `neighbours`.
        metric: See `neighbours`.
        engine: See `neighbours`.
    """

    def __init__(self, queries: Any, keys: Any, metric: str, engine: str) -> None:
        check_choice("metric", metric, METRICS)
        check_choice("engine", engine, ENGINES)
        self.among_themselves = keys is None
        queries = _rows("queries", queries)
        keys = queries if self.among_themselves else _rows("keys", keys)
        if queries.shape[1] != keys.shape[1]:
            raise invalid("keys", f"the width of the queries, {queries.shape[1]}", keys.shape[1])
        self._prepare(queries, keys, metric)
        self._index = None
        if engine == "faiss":
            faiss = require("faiss", "faiss")
            kind = faiss.IndexFlatIP if self._squares is None else faiss.IndexFlatL2
            self._index = kind(self._keys.shape[1])
            self._index.add(self._keys)

    def _prepare(self, queries, keys, metric):
        """Rows whose inner product is the similarity, except for the squares of distances."""
        self._scale, self._squares = 0, None
        if metric == "cosine":
            queries, keys = unit_rows(queries), unit_rows(keys)
        else:  # scaled to near 1, or squares would over- or underflow
            scales = [_exponent(queries), _exponent(keys)]
            if metric == "euclidean":
                scales = 2 * [max(scales)]
            queries, keys = np.ldexp(queries, -scales[0]), np.ldexp(keys, -scales[1])
            self._scale = scales[0] if metric == "euclidean" else sum(scales)
        if metric == "euclidean":  # far from 0, squares would lose what distinguishes points
            centre = keys.mean(axis=0, dtype="float64")
            queries, keys = queries - centre, keys - centre
        self._queries, self._keys = (x.astype("float32", copy=False) for x in (queries, keys))
        if metric == "euclidean":
            self._squares = np.sum(self._keys**2, axis=1)
            self._own_squares = np.sum(self._queries**2, axis=1)

    @property
    def count(self):
        """The number of queries."""
        return len(self._queries)

    @property
    def key_count(self):
        """The number of keys, including the query's own row."""
        return len(self._keys)

    @property
    def candidates(self):
        """The number of keys that a query can find."""
        return len(self._keys) - self.among_themselves

    def each(self, function, rows, ks):
        """Call ``function(block)`` with each `Block` of some queries.

        Args:
            function: What is done with a block; several run side by side.
            rows: Indices ``(n,)`` of the queries.
            ks: How many keys each of them must find at least; if there are fewer, all.
        """
        ks = np.minimum(ks, self.candidates)
        order = np.argsort(ks, kind="stable")  # so that those of a block find about equally many
        kind, threads = (Block, _cores()) if self._index is None else (FaissBlock, 1)
        least, most = (
            max(1, entries // len(self._keys))
            for entries in (FEW_ENTRIES, min(ENTRIES, ALL_ENTRIES // threads))
        )
        size = min(most, max(least, math.ceil(len(order) / threads)))
        parts = [order[i : i + size] for i in range(0, len(order), size)]

        def on_block(part):
            function(kind(self, rows[part], int(ks[part[-1]])))

        threads = min(threads, len(parts))
        # NumPy releases other threads while it multiplies and sorts.
        with _one_thread_each(threads), concurrent.futures.ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(on_block, part) for part in parts]:
                done.result()

    def similarities(self, rows):
        """Similarities of some queries to all keys, ``(b, m)``: the larger, the nearer."""
        queries = self._queries[rows]
        if self._squares is None:
            found = queries @ self._keys.T
        else:
            found = (2 * queries) @ self._keys.T
            found -= self._squares
        if self.among_themselves:
            found[np.arange(len(found)), rows] = -np.inf
        return found

    def as_given(self, rows, similarities):
        """Similarities ``(b, k)`` of some queries, in terms of the metric."""
        if self._squares is not None:
            squares = self._own_squares[rows][:, None] - similarities
            similarities = np.sqrt(np.maximum(squares, 0))
        return np.ldexp(similarities, self._scale)

    def by_faiss(self, rows, k):
        """Indices of the nearest keys and how near they are, ``(b, k)``, in terms of the metric."""
        values, keys = self._index.search(self._queries[rows], k + self.among_themselves)
        if self.among_themselves:
            others = keys != rows[:, None]
            others[others.all(axis=1), -1] = False  # if enough others are as near as itself
            values, keys = (x[others].reshape(len(rows), k) for x in (values, keys))
        if self._squares is not None:
            values = np.sqrt(np.maximum(values, 0))
        return keys, np.ldexp(values, self._scale)


class Block:
    """Some queries, and the keys that are nearest to each of them.

    Args:
        search: The `Search`.
        rows: Indices ``(b,)`` of the queries.
        k: How many keys each of them finds.

    Attributes:
        nearest: Indices ``(b, k)`` of the keys, the nearest first.
    """

    def __init__(self, search, rows, k):
        self._search, self.rows = search, rows
        self._similarities = search.similarities(rows)
        self.nearest = largest(self._similarities, k)

    @property
    def values(self):
        """How near these keys are, ``(b, k)``, in terms of the metric."""
        found = np.take_along_axis(self._similarities, self.nearest, axis=1)
        return self._search.as_given(self.rows, found)

    def similarities(self, places):
        """Similarities to all keys, for the queries at some places of the block, one by one."""
        return (self._similarities[i] for i in places)


class FaissBlock(Block):
    """The same by faiss, which keeps no similarities."""

    def __init__(self, search, rows, k):
        self._search, self.rows = search, rows
        self.nearest, self._values = search.by_faiss(rows, k)

    @property
    def values(self):
        return self._values

    def similarities(self, places):
        return iter(self._search.similarities(self.rows[places]))


def _rows(argument, given):
    rows = finite_rows(argument, given)
    check_not_empty(argument, rows.shape, "embeddings of shape (n, ...)")
    return rows


def _exponent(x):
    """The exponent of the power of 2 above the largest entry."""
    return int(np.frexp(np.max(np.abs(x)))[1])


def _one_thread_each(threads):
    """A context in which products do not use several threads, if several run side by side.

    This takes a quarter of the time. It needs threadpoolctl, which scikit-learn brings.
    """
    if threads == 1 or not importlib.util.find_spec("threadpoolctl"):
        return contextlib.nullcontext()
    return importlib.import_module("threadpoolctl").threadpool_limits(1, user_api="blas")


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
