"""Loss and gradient: against the dense form, and against the bare products that the form needs."""

import numpy as np
from keras import ops

from benchmarks import dense
from benchmarks.timing import compiled, exponent, medians, tensors, value_and_gradient
from keras_lgg import graphs, losses

LINEAR = ("label smoothness, p = 2", "GKD")
SIZES = (1024, 2048, 4096, 8192, 16_384)  # of the exponents
# Ours and the dense form, as scalars of (x, teacher, labels).
LOSSES = {
    "label smoothness, p = 2": (
        lambda x, t, y: graphs.label_smoothness(x, y, power=2, num_classes=10),
        lambda x, t, y: dense.label_smoothness(x, y, power=2),
    ),
    "GKD": (
        lambda x, t, y: ops.sum(losses.graph_distillation(t, x)),
        lambda x, t, y: dense.graph_distillation(x, t),
    ),
    "GKD, k = 16": (
        lambda x, t, y: ops.sum(losses.graph_distillation(t, x, k=16)),
        lambda x, t, y: dense.graph_distillation(x, t, k=16),
    ),
    "RKD-D": (
        lambda x, t, y: ops.mean(losses.relational_distance(t, x)),
        lambda x, t, y: dense.relational_distance(x, t),
    ),
    "GSL": (
        lambda x, t, y: ops.sum(losses.graph_smoothness(y, x)),
        lambda x, t, y: dense.graph_smoothness(x, y),
    ),
    "graph variation, k = 16": (
        lambda x, t, y: losses.graph_variation([t, x], k=16),
        lambda x, t, y: dense.graph_variation(t, x, k=16),
    ),
    "target graph": (
        lambda x, t, y: ops.sum(losses.target_graph(y, x)),
        lambda x, t, y: dense.target_graph(x, y),
    ),
}


def batch(n, d):
    """A student's and a teacher's non-negative representations that have much in common."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, n).astype("int32")
    x = rng.normal(size=(n, d)).astype("float32")
    teacher = np.maximum(x + rng.normal(size=(10, d)).astype("float32")[labels], 0)
    student = np.maximum(teacher + 0.5 * rng.normal(size=(n, d)).astype("float32"), 0)
    return tensors(student, teacher, labels)


def largest_dense(name):
    """The batch up to which the dense form is measured: beyond, it takes minutes, or all memory."""
    return 2048 if "k = " in name else 8192


def ratios(sizes, widths, *, jit, seconds):
    """Rows: loss, d, n, milliseconds, dense over ours."""
    for name, forms in LOSSES.items():
        for d in widths:
            for n in sizes:
                arrays = batch(n, d)
                names = ("ours", "dense")[: 2 if n <= largest_dense(name) else 1]
                candidates = {
                    name: (compiled(value_and_gradient(form), jit=jit), *arrays)
                    for name, form in zip(names, forms, strict=False)
                }
                times = medians(candidates, seconds=seconds, least=3)
                dense = f"{times['dense'] / times['ours']:.3g}" if "dense" in times else "-"
                yield {
                    "loss": name,
                    "d": d,
                    "n": n,
                    "ms": f"{1e3 * times['ours']:.3g}",
                    "dense / ours": dense,
                }


def _bare_gram(student, teacher, weights):
    """What a comparison of two whole graphs multiplies: two Gram matrices, and one gradient."""
    return [
        ops.matmul(teacher, ops.transpose(teacher)),
        ops.matmul(student, ops.transpose(student)),
        ops.matmul(weights, student),
    ]


def _bare_factors(student, teacher, core):
    """What it multiplies in factors: three pairs, twice forward, and two of them twice backward."""
    pairs = [(student, student), (student, teacher), (teacher, teacher)]
    return [
        *(ops.matmul(ops.transpose(a), b) for a, b in pairs),
        *(ops.matmul(a, core) for a, _ in pairs),
        *(ops.matmul(ops.transpose(a + 1.0), b) for a, b in pairs[:2]),
        *(ops.matmul(a + 1.0, core) for _, a in pairs[:2]),
    ]


def _bare_linear(x, signal):
    """What the linear smoothness multiplies: twice forward, twice and a sum backward."""
    sums = ops.matmul(ops.transpose(signal), x)
    image = ops.matmul(x, ops.transpose(sums))
    back = ops.matmul(ops.transpose(image), x)
    left = ops.concatenate([signal, image], axis=1)
    return [
        ops.matmul(x, ops.transpose(back)),
        ops.matmul(left, ops.concatenate([back, sums], axis=0)),
    ]


SHAPES = ((128, 1024), (128, 16_384), (512, 128), (2048, 128), (8192, 128))


def against_products(shapes=SHAPES, *, jit, seconds):
    """Rows: loss, n, d, ours over the bare products."""
    rng = np.random.default_rng(1)
    for n, d in shapes:
        student, teacher, labels = batch(n, d)
        pairs, core, signal = tensors(
            *(rng.normal(size=shape).astype("float32") for shape in ((n, n), (d, d), (n, 11)))
        )
        whole = n <= d
        for name, bare, arguments in (
            ("GKD", _bare_gram, (student, teacher, pairs))
            if whole
            else ("GKD", _bare_factors, (student, teacher, core)),
            ("label smoothness, p = 2", _bare_linear, (student, signal)),
        ):
            ours = compiled(value_and_gradient(LOSSES[name][0]), jit=jit)
            products = compiled(bare, jit=jit)
            times = medians(
                {"ours": (ours, student, teacher, labels), "bare": (products, *arguments)},
                seconds=seconds,
            )
            yield {
                "loss": name,
                "n": n,
                "d": d,
                "ms": f"{1e3 * times['ours']:.3g}",
                "ours / bare products": f"{times['ours'] / times['bare']:.2f}",
            }


def at_scale(shapes, *, start, jit):
    """Rows: loss, n, seconds, and what the time at `start` samples foretells by its growth.

    Args:
        shapes: Pairs of a loss and a batch size.
        start: Batch size of which the time is measured, too.
        jit: As in `keras.Model.compile`.
    """
    d = 128
    for name, n in shapes:
        function = compiled(value_and_gradient(LOSSES[name][0]), jit=jit)
        few, many = (
            medians({"": (function, *batch(size, d))}, seconds=1.0, least=1)[""]
            for size in (start, n)
        )
        growth = n / start if name in LINEAR else (n / start) ** 2
        yield {
            "loss": name,
            "d": d,
            "n": n,
            "s": f"{many:.3g}",
            f"foretold by n = {start}, s": f"{few * growth:.3g}",
        }


def exponents(*, jit, seconds, sizes=SIZES):
    """Rows: loss, d, the fitted exponent of the time in n."""
    for name, d in (("label smoothness, p = 2", 512), ("GKD", 64), ("GKD", 128), ("GSL", 128)):
        largest = sizes if name != "GSL" else [n for n in sizes if n <= 8192]
        function = compiled(value_and_gradient(LOSSES[name][0]), jit=jit)
        seconds_of = [
            medians({"ours": (function, *batch(n, d))}, seconds=seconds, least=3)["ours"]
            for n in largest
        ]
        yield {
            "loss": name,
            "d": d,
            "n": f"{largest[0]} to {largest[-1]}",
            "exponent": f"{exponent(largest, seconds_of):.2f}",
        }
