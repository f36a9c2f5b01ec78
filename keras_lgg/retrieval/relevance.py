"""Which keys are relevant to a query: those that share a class with it, or are paired with it."""

import numpy as np

from keras_lgg.checks import invalid
from keras_lgg.graphs.arrays import host_array
from keras_lgg.graphs.labels import are_class_indices, check_known

PAIRS = "indices of keys (n,), one per query, or pairs (m, 2) of a query and a key"


class Relevance:
    """Which keys are relevant to each query.

    Args:
        key_count: The number of keys.

    Attributes:
        counts: The number of keys that are relevant to each query, ``(n,)``.
    """

    counts: np.ndarray

    def __init__(self, key_count):
        self._key_count = key_count

    def of(self, i):
        """The keys that are relevant to query i, each once, without its own row."""
        raise NotImplementedError

    def among(self, rows, keys):
        """Which of some keys ``(b, k)``, none its own row, are relevant to queries ``(b,)``."""
        known = np.zeros((len(rows), self._key_count), bool)
        for row, i in zip(known, rows, strict=True):
            row[self.of(i)] = True
        return np.take_along_axis(known, keys, axis=1)


class Classes(Relevance):
    """The keys of the query's class are relevant.

    Args:
        queries: Class numbers ``(n,)``.
        keys: Class numbers of the keys.
        among_themselves: Whether the keys are the queries, none of which is relevant to itself.
    """

    def __init__(self, queries, keys, among_themselves):
        super().__init__(len(keys))
        self._queries, self._keys = _codes(queries, keys)
        self._own = among_themselves
        self._order = np.argsort(self._keys, kind="stable")
        of_class = self._keys[self._order]
        self._begins = np.searchsorted(of_class, self._queries, "left")
        self._ends = np.searchsorted(of_class, self._queries, "right")
        self.counts = self._ends - self._begins - among_themselves

    def of(self, i):
        found = self._order[self._begins[i] : self._ends[i]]
        return found[found != i] if self._own else found

    def among(self, rows, keys):
        return self._keys.take(keys) == self._queries[rows][:, None]


class SharedClasses(Relevance):
    """Like `Classes`, for rows ``(n, c)`` whose nonzero entries are the classes."""

    def __init__(self, queries, keys, among_themselves):
        super().__init__(len(keys))
        self._queries, self._own = queries != 0, among_themselves
        self._with_class = [np.flatnonzero(column) for column in keys.T]
        self.counts = np.array([len(self.of(i)) for i in range(len(queries))])

    def of(self, i):
        shared = np.zeros(self._key_count, bool)
        for c in np.flatnonzero(self._queries[i]):
            shared[self._with_class[c]] = True
        if self._own:
            shared[i] = False
        return np.flatnonzero(shared)


class Paired(Relevance):
    """The keys that are paired with the query are relevant.

    Args:
        pairs: Rows of a query and a key, ``(m, 2)``.
        count: The number of queries.
        key_count: The number of keys.
    """

    def __init__(self, pairs, count, key_count):
        super().__init__(key_count)
        pairs = np.unique(pairs, axis=0)
        self._keys = pairs[:, 1]
        self._bounds = np.searchsorted(pairs[:, 0], np.arange(count + 1))
        self.counts = np.diff(self._bounds)

    def of(self, i):
        return self._keys[self._bounds[i] : self._bounds[i + 1]]


def _codes(*labels):
    """Class numbers ``(n,)`` of any dtype, as int32 from 0 on, the same numbering for both."""
    if len({x.dtype for x in labels}) > 1:  # NumPy would compare them in floats
        labels = [np.array([int(number) for number in x.tolist()], object) for x in labels]
    _, codes = np.unique(np.concatenate(labels), return_inverse=True)
    return np.split(codes.astype("int32"), [len(labels[0])])


def relevance(search, labels, key_labels, pairs):
    """The relevant keys as `evaluate` was told them, read and checked."""
    if (labels is None) == (pairs is None):
        raise ValueError(
            "Labels or pairs say which keys are relevant to a query. Expected one of `labels` and "
            f"`pairs`. Received: {'neither' if labels is None else 'both'}."
        )
    if pairs is not None:
        return Paired(_read_pairs(search, pairs), search.count, search.key_count)
    if (key_labels is None) != search.among_themselves:
        raise ValueError(
            "Each query and each key has a label. Expected `key_labels` with `keys`, and neither "
            f"without the other. Received: key_labels={'None' if key_labels is None else '...'}, "
            f"keys={'None' if search.among_themselves else '...'}."
        )
    of_queries = _read_labels("labels", labels, search.count)
    of_keys = of_queries
    if key_labels is not None:
        of_keys = _read_labels("key_labels", key_labels, search.key_count)
    if of_queries.ndim != of_keys.ndim or of_queries.shape[1:] != of_keys.shape[1:]:
        raise invalid(
            "key_labels", f"labels as of the queries, {of_queries.shape}", f"shape {of_keys.shape}"
        )
    kind = Classes if of_queries.ndim == 1 else SharedClasses
    return kind(of_queries, of_keys, search.among_themselves)


def _read_labels(argument, given, count):
    labels = host_array(argument, given, "class numbers (n,), or multi-hot labels (n, c)")
    check_known(labels, argument=argument, any_number=True)
    if len(labels) != count:
        raise invalid(argument, f"a label for each of the {count} embeddings", f"{len(labels)}")
    return labels.reshape(-1) if are_class_indices(labels) else labels


def _read_pairs(search, given):
    pairs = host_array("pairs", given, PAIRS)
    if (
        pairs.dtype.kind not in "iu"
        or pairs.ndim not in (1, 2)
        or pairs.shape[1:] not in ((), (2,))
    ):
        raise invalid("pairs", PAIRS, f"{pairs.dtype} of shape {pairs.shape}")
    if pairs.ndim == 1:
        if len(pairs) != search.count:
            raise invalid("pairs", f"a key for each of the {search.count} queries", f"{len(pairs)}")
        pairs = np.stack([np.arange(len(pairs)), pairs], axis=1)
    for column, count, name in ((0, search.count, "queries"), (1, search.key_count, "keys")):
        of_one = pairs[:, column]
        if of_one.size and not 0 <= of_one.min() <= of_one.max() < count:
            raise invalid(
                "pairs", f"{name} from 0 to {count - 1}", f"{of_one.min()} to {of_one.max()}"
            )
    if search.among_themselves and (pairs[:, 0] == pairs[:, 1]).any():
        raise invalid("pairs", "no query paired with itself, which it cannot find", "such a pair")
    return pairs
