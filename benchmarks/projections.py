"""Relative projections of a whole data set in one call, against the bare matrix product."""

import numpy as np
from keras import ops

from benchmarks.timing import compiled, medians, tensors
from keras_lgg import relative

SHAPES = ((50_000, 500, 512), (10_000, 300, 64))  # samples, anchors, width
KINDS = (
    ("cosine", "none"),
    ("cosine", "standardize"),
    ("cosine", "whiten"),
    ("angular", "none"),
    ("euclidean", "none"),
    ("basis_change", "none"),
)


def ratios(shapes, *, jit, seconds):
    """Rows: similarity, normalisation, shape, milliseconds, ours over the bare product."""
    rng = np.random.default_rng(0)
    for n, count, width in shapes:
        x, anchors = tensors(
            *(rng.normal(size=(rows, width)).astype("float32") for rows in (n, count))
        )
        for similarity, normalization in KINDS:
            options = {"similarity": similarity, "normalization": normalization}
            stats = relative.anchor_statistics(anchors, **options)

            def ours(x, anchors, stats=stats, options=options):
                return relative.relative_projection(x, anchors, stats=stats, **options)

            def bare(x, anchors):
                return ops.matmul(x, ops.transpose(anchors))

            candidates = {
                name: (compiled(function, jit=jit), x, anchors)
                for name, function in {"ours": ours, "bare": bare}.items()
            }
            times = medians(candidates, seconds=seconds)
            yield {
                "similarity": similarity,
                "normalization": normalization,
                "n": n,
                "K": count,
                "d": width,
                "ms": f"{1e3 * times['ours']:.3g}",
                "ours / bare product": f"{times['ours'] / times['bare']:.2f}",
            }
