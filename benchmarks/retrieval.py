"""What retrieval takes, against the bare products of all queries with all keys."""

import tracemalloc

import numpy as np

from benchmarks import timing
from keras_lgg import retrieval

WIDTH = 128
BLOCK = 512  # queries of a bare product


def against_products(n, *, seconds):
    """Rows: what is asked of n embeddings, relevant keys of a query, s, ratio, peak in MiB."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, WIDTH)).astype("float32")
    few, many, pairs = np.arange(n) % (n // 10), np.arange(n) % 10, rng.permutation(n)
    calls = {
        f"evaluate, {n // 10} classes": (9, lambda: retrieval.evaluate(x, labels=few)),
        "evaluate, 10 classes": (n // 10 - 1, lambda: retrieval.evaluate(x, labels=many)),
        "evaluate, pairs": (1, lambda: retrieval.evaluate(x, x, pairs=pairs)),
        "neighbours, k = 10": ("", lambda: retrieval.neighbours(x)),
    }
    for name, (relevant, call) in calls.items():
        times = timing.medians({"ours": (call,), "bare": (products, x)}, seconds=seconds, least=3)
        yield {
            "what": name,
            "n": n,
            "relevant": relevant,
            "s": f"{times['ours']:.2f}",
            "ours / bare products": f"{times['ours'] / times['bare']:.2f}",
            "peak, MiB": f"{peak(call):.0f}",
        }


def products(x):
    """Inner products of all rows with all, in blocks, of which nothing is kept."""
    for start in range(0, len(x), BLOCK):
        x[start : start + BLOCK] @ x.T


def peak(call):
    """MiB that a call has at its peak above what was there."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
