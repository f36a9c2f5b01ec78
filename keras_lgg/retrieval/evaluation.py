"""What an embedding is worth for retrieval."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_lgg.checks import check_positive_integer, invalid
from keras_lgg.retrieval.relevance import relevance
from keras_lgg.retrieval.search import Search
from keras_lgg.types import ArrayLike


def evaluate(
    queries: Any,
    keys: Any = None,
    *,
    labels: ArrayLike | None = None,
    key_labels: ArrayLike | None = None,
    pairs: ArrayLike | None = None,
    k: Sequence[int] = (1, 5, 10),
    metric: str = "cosine",
    engine: str = "numpy",
    model: keras.Model | None = None,
) -> dict[str, float]:
    """How well queries find the keys that are relevant to them.

    Relevant are the keys that share a class with the query, or that are paired with it. All keys
    are ranked by their nearness, exactly (see `neighbours`, also on keys at the same distance);
    queries without a relevant key do not count.

    Args:
        queries: Embeddings ``(n, ...)``; or what ``model`` embeds.
        keys: Embeddings ``(m, ...)``, likewise; ``None`` takes the queries, each of which leaves
            out its own row.
        labels: Classes of the queries: integers ``(n,)`` or ``(n, 1)``, or one-hot or multi-hot
            rows ``(n, c)``, of which two are relevant to each other that share a class.
        key_labels: Those of the keys, where there are keys.
        pairs: In place of labels: the index of the one relevant key of each query, ``(n,)``; or
            rows of a query and a key, ``(m, 2)``, as many as are relevant.
        k: Cut-offs of the recall.
        metric: See `neighbours`.
        engine: See `neighbours`; faiss is slow where many keys are relevant to a query.
        model: Keras model whose outputs are the embeddings, run by ``predict``.

    Returns:
        Dict of floats, means over the queries that count, with R the number of relevant keys of a
        query:

        * ``"recall@k"`` for each k: whether a relevant key is among the k nearest, as metric
          learning calls recall;
        * ``"precision@1"``: whether the nearest is relevant;
        * ``"r_precision"``: the share of relevant keys among the R nearest;
        * ``"map@r"``: the mean over the first R ranks of the precision up to a rank, 0 where the
          key at that rank is not relevant (MAP@R);
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

    Reference: Musgrave et al., "A metric learning reality check", ECCV 2020, for MAP@R and
    R-precision.
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
            f"Received: {search.count} queries without any. Look at the labels."
        )
    search.each(keep, counted, np.maximum(relevant.counts[counted], max(cutoffs)))
    return dict(zip(names, found[counted].mean(axis=0).tolist(), strict=True))


def measure_names(k):
    """The names of what `evaluate` returns, in its order, or raise where a cut-off is invalid."""
    recalls = [f"recall@{cutoff}" for cutoff in _checked_cutoffs(k)]
    return [*recalls, "precision@1", "r_precision", "map@r", "mrr"]


def _of_block(block, relevant, cutoffs):
    """What `evaluate` returns, of each query of a block: an array ``(b, measures)``."""
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
        least = similarities[best]  # of equal keys, those before it are ranked before it
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
