"""The keys nearest to each query, exactly, in blocks of queries."""

import concurrent.futures
import os

import numpy as np

from keras_lgg.checks import check_choice, check_positive_integer, invalid
from keras_lgg.graphs.arrays import check_not_empty, host_array
from keras_lgg.relative.comparison import unit_rows
from keras_lgg.types import ArrayLike

METRICS = ("cosine", "euclidean", "inner")
# Similarities that are in memory at a time, for each thread.
ENTRIES = 2**23


def neighbours(
    queries: ArrayLike,
    keys: ArrayLike | None = None,
    *,
    k: int = 10,
    metric: str = "cosine",
) -> tuple[np.ndarray, np.ndarray]:
    """The k keys that are nearest to each query, the nearest first.

    Exact, in float32: each query is compared with each key. Of keys at the same distance, the one
    of the smaller index comes first; a matrix product may round equal keys differently.

    Args:
        queries: Embeddings ``(n, ...)``, flattened.
        keys: Embeddings ``(m, ...)`` of the same width; ``None`` searches among the queries
            themselves, of which each leaves out its own row.
        k: How many; all keys, where there are fewer.
        metric: ``"cosine"``, ``"euclidean"`` or ``"inner"`` (the largest inner product).

    Returns:
        Indices ``(n, k)``, int64, and what they were ranked by, ``(n, k)``, float32: cosines,
        distances or inner products.

    Raises:
        ValueError: If an option is invalid, the widths differ, or a number is not finite.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import retrieval
        >>> found, cosines = retrieval.neighbours(np.array([[1.0, 0], [1, 1], [0, 1]]), k=1)
        >>> found.tolist()
        [[1], [0], [1]]
    """
    check_positive_integer("k", k)
    search = Search(queries, keys, metric)
    k = min(k, search.candidates)
    indices = np.empty((search.count, k), "int64")
    values = np.empty((search.count, k), "float32")

    def keep(i, similarities):
        indices[i] = best = largest(similarities, k)
        values[i] = similarities[best]

    search.each(keep)
    return indices, search.as_given(values)


class Search:
    """Queries and keys, ready to be compared.

    Args:
        queries: See `neighbours`.
        keys: See `neighbours`.
        metric: See `neighbours`.
    """

    def __init__(self, queries, keys, metric):
        check_choice("metric", metric, METRICS)
        queries = _rows("queries", queries)
        self.among_themselves = keys is None
        keys = queries if keys is None else _rows("keys", keys)
        if queries.shape[1] != keys.shape[1]:
            raise invalid("keys", f"the width of the queries, {queries.shape[1]}", keys.shape[1])
        self._metric, self._squares = metric, None
        if metric == "cosine":
            queries, keys = unit_rows(queries), unit_rows(keys)
        elif metric == "euclidean":  # far from 0, squares would lose what sets points apart
            centre = keys.mean(axis=0)
            queries, keys = queries - centre, keys - centre
            self._squares = np.sum(keys**2, axis=1)
            self._own_squares = np.sum(queries**2, axis=1)
        self._queries, self._keys = queries, keys

    @property
    def count(self):
        """How many queries there are."""
        return len(self._queries)

    @property
    def key_count(self):
        """How many keys there are, the query's own row among them."""
        return len(self._keys)

    @property
    def candidates(self):
        """How many keys a query can find."""
        return len(self._keys) - self.among_themselves

    def each(self, function):
        """Call ``function(i, similarities)`` for each query i, with those to all keys, float32."""
        size = max(1, ENTRIES // len(self._keys))
        blocks = [slice(i, i + size) for i in range(0, self.count, size)]

        def on_block(rows):
            for i, similarities in enumerate(self._similarities(rows), start=rows.start):
                function(i, similarities)

        # NumPy lets other threads run while it sorts.
        with concurrent.futures.ThreadPoolExecutor(_cores()) as threads:
            for done in [threads.submit(on_block, rows) for rows in blocks]:
                done.result()

    def _similarities(self, rows):
        found = self._queries[rows] @ self._keys.T
        if self._squares is not None:
            found *= 2
            found -= self._squares
        if self.among_themselves:
            own = np.arange(len(found))
            found[own, own + rows.start] = -np.inf
        return found

    def as_given(self, values):
        """Similarities ``(n, k)`` of all queries as the metric has them."""
        if self._squares is None:
            return values
        return np.sqrt(np.maximum(self._own_squares[:, None] - values, 0))


def largest(similarities, k):
    """Indices of the k largest of a row, the largest first, of equal ones the smaller index."""
    if k < len(similarities):
        least = np.partition(similarities, len(similarities) - k)[len(similarities) - k]
        found = np.flatnonzero(similarities >= least)
    else:
        found = np.arange(len(similarities))
    return found[_order(similarities[found])[:k]]


def _order(values):
    """Where the values stand, the largest first, of equal ones the first; float32.

    As a stable sort does, in a fifth of the time: each value and its place make one integer.
    """
    bits = (values + np.float32(0)).view("int32")  # a negative zero equals the other
    falling = ~(bits ^ ((bits >> 31) & 0x7FFFFFFF))
    keys = (falling.astype("int64") << 32) | np.arange(len(values))
    keys.sort()
    return keys & 0xFFFFFFFF


def _rows(argument, given):
    rows = host_array(argument, given, "embeddings of shape (n, ...)")
    check_not_empty(argument, rows.shape, "embeddings of shape (n, ...)")
    rows = rows.reshape(len(rows), -1).astype("float32")
    if not np.isfinite(rows).all():
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected finite numbers, which alone can be "
            f"ranked. Received: {np.count_nonzero(~np.isfinite(rows).all(axis=1))} rows with a NaN "
            "or an infinity."
        )
    return rows


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
