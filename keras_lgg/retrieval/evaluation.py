"""Measures of an embedding by retrieval."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_lgg.checks import check_positive_integer, invalid
from keras_lgg.retrieval.relevance import relevance
from keras_lgg.retrieval.search import Search
from keras_lgg.types import ArrayLike, Samples


def evaluate(
    queries: Samples,
    keys: Samples | None = None,
    *,
    labels: ArrayLike | None = None,
    key_labels: ArrayLike | None = None,
    pairs: ArrayLike | None = None,
    k: Sequence[int] = (1, 5, 10),
    metric: str = "cosine",
    engine: str = "numpy",
    model: keras.Model | None = None,
) -> dict[str, float]:
    r"""How well queries find the keys that are relevant to them.

    Keys are relevant if they share a class with the query, or are paired with it. All keys are
    ranked by their nearness, exactly; equally near ones in the order of their indices. Queries
    without a relevant key do not count. For a query with R relevant keys, let :math:`\text{rel}(i)`
    be 1 if the key at rank i is relevant, else 0, and :math:`P(i)` the share of relevant keys among
    the i nearest. Then

    .. math::

        \text{R-precision} = P(R), \qquad
        \text{MAP@R} = \frac{1}{R} \sum_{i=1}^{R} P(i) \, \text{rel}(i), \qquad
        \text{MRR} = \frac{1}{\min \{ i : \text{rel}(i) = 1 \}} ,

    each averaged over the queries.

    Args:
        queries: Embeddings ``(n, ...)``; with a ``model``, what it embeds.
        keys: Embeddings ``(m, ...)``, likewise; ``None`` searches among the queries, each of which
            leaves out its own row.
        labels: Classes of the queries: integers ``(n,)`` or ``(n, 1)``, or one-hot or multi-hot
            rows ``(n, c)``, where two samples are relevant to each other if they share a class.
        key_labels: Classes of the keys, likewise, if there are keys.
        pairs: Instead of labels: the index of the one relevant key of each query, ``(n,)``; or rows
            ``(m, 2)`` of a query and a relevant key, in any number.
        k: Cut-offs of the recall, a sequence of positive integers.
        metric: What makes a key near: ``"cosine"``, ``"euclidean"`` or ``"inner"`` (the largest
            inner product).
        engine: ``"numpy"``, or ``"faiss"`` for faiss's exact search, of the extra ``faiss``; faiss
            is slow if many keys are relevant to a query.
        model: Keras model whose outputs are the embeddings, run by ``predict``.

    Returns:
        Dict of floats, means over the queries that count:

        * ``"recall@k"`` for each k: 1 if a relevant key is among the k nearest, else 0, which is
          what metric learning calls recall;
        * ``"precision@1"``: :math:`P(1)`, 1 if the nearest key is relevant;
        * ``"r_precision"``: the share of relevant keys among the R nearest;
        * ``"map@r"``: MAP@R, the precision averaged over the first R ranks, where ranks of keys
          that are not relevant count as 0;
        * ``"mrr"``: 1 over the rank of the first relevant key.

    Raises:
        ValueError: If no query has a relevant key, sizes do not fit, or an option is invalid.
        ImportError: If faiss is asked for and missing.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import retrieval
        >>> embeddings = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [0.2, 0.9]])
        >>> retrieval.evaluate(embeddings, labels=[0, 0, 1, 1], k=[1])["recall@1"]
        1.0
        >>> retrieval.evaluate(embeddings, embeddings[::-1], pairs=[3, 2, 1, 0])["mrr"]
        1.0

    Reference: MAP@R and R-precision: Musgrave et al., "A metric learning reality check", ECCV 2020,
    https://arxiv.org/abs/2003.08505
    """
    cutoffs = _checked_cutoffs(k)
    if model is not None:
        queries, keys = (x if x is None else _embedded(model, x) for x in (queries, keys))
    search = Search(queries, keys, metric, engine)
    relevant = relevance(search, labels, key_labels, pairs)
    names = measure_names(k)
    found = np.full((search.count, len(names)), np.nan)

    def keep(block):
        found[block.rows] = _of_block(block, relevant, cutoffs)

    counted = np.flatnonzero(relevant.counts)
    if not len(counted):
        raise ValueError(
            "No query has a relevant key. Expected two samples of some class, or a pair. "
            f"Received: {search.count} queries without any. Check the labels."
        )
    search.each(keep, counted, np.maximum(relevant.counts[counted], max(cutoffs)))
    return dict(zip(names, found[counted].mean(axis=0).tolist(), strict=True))


def measure_names(k):
    """The names of what `evaluate` returns, in order; raises if a cut-off is invalid."""
    recalls = [f"recall@{cutoff}" for cutoff in _checked_cutoffs(k)]
    return [*recalls, "precision@1", "r_precision", "map@r", "mrr"]


def _of_block(block, relevant, cutoffs):
    """What `evaluate` returns, for each query of a block: an array ``(b, measures)``."""
    hits = relevant.among(block.rows, block.nearest)
    measures = [hits[:, :cutoff].any(axis=1) for cutoff in cutoffs]
    measures.append(hits[:, 0])
    ranks = _first_ranks(block, relevant, hits)
    counts, places = relevant.counts[block.rows], np.arange(1.0, hits.shape[1] + 1)
    hits &= places <= counts[:, None]
    so_far = np.cumsum(hits, axis=1, dtype="int32")
    measures.append(so_far[:, -1] / counts)
    so_far *= hits
    measures.append(np.sum(so_far / places, axis=1) / counts)
    return np.stack([*measures, 1 / ranks], axis=1)


def _first_ranks(block, relevant, hits):
    """The rank of the first relevant key of each query, ``(b,)``, from 1."""
    ranks = 1 + hits.argmax(axis=1)
    far = np.flatnonzero(~hits.any(axis=1))
    for place, similarities in zip(far, block.similarities(far), strict=True):
        keys = relevant.of(block.rows[place])
        best = keys[np.argmax(similarities[keys])]
        least = similarities[best]  # equal keys rank before it if they come before it
        ranks[place] = 1 + np.count_nonzero(similarities[:best] >= least)
        ranks[place] += np.count_nonzero(similarities[best:] > least)
    return ranks


def _checked_cutoffs(k):
    cutoffs = list(k) if isinstance(k, Sequence | np.ndarray) else [k]
    if not cutoffs:
        raise invalid("k", "cut-offs such as (1, 5, 10)", repr(k))
    for cutoff in cutoffs:
        check_positive_integer("k", cutoff)
    return cutoffs


def _embedded(model, x):
    outputs = model.predict(x, verbose=0)
    if not isinstance(outputs, np.ndarray):
        raise invalid("model", "a model of one output, the embedding", f"{len(outputs)} outputs")
    return outputs
