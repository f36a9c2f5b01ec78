"""One NVIDIA GPU with JAX: how close the losses come to it, what steps cost, and how exact it is.

KERAS_BACKEND=jax python -m benchmarks gpu --minutes 8
"""

import functools
import itertools
import time

import keras
import numpy as np

from benchmarks import golden, losses, micro_batches, steps
from benchmarks.timing import medians, tensors, value_and_gradient

WIDTH = 256  # of the representations
SIZES = (1024, 8192, 32_768, 131_072)
# Multiplications and additions that a loss and its gradient cannot do without, of (n, d).
OPERATIONS = {
    "label smoothness, p = 2": lambda n, d: 12 * n * d * 11,
    "GKD": lambda n, d: min(20 * n * d**2, 6 * n**2 * d),
    "target graph": lambda n, d: 4 * n**2 * d,
    "GSL": lambda n, d: 4 * n**2 * d,
    "RKD-D": lambda n, d: 6 * n**2 * d,
}
NEIGHBOURS = ("GKD, k = 16", "graph variation, k = 16")
# How products are taken: the precision that JAX is asked for, and the dtype of the inputs.
MODES = {
    "float32": (None, "float32"),
    "TF32": ("tensorfloat32", "float32"),
    "bf16 inputs": (None, "bfloat16"),
}
# The share of the time that each table may take.
SHARES = {
    "rates": 0.04,
    "losses": 0.34,
    "blocks": 0.06,
    "neighbours": 0.12,
    "parts": 0.12,
    "steps": 0.2,
    "golden": 0.12,
}


def tables(minutes, *, small=False):
    """Caption and rows of each table; a row that the time does not reach is left out, and said so.

    Args:
        minutes: About how long all of them may take.
        small: Sizes of a test.
    """
    sizes = (128, 512) if small else SIZES
    seconds = 0.05 if small else 1.0
    rates = {}
    networks = ("MLP 784-512-512-512-10, 3 taps",) if small else ("PreActResNet18, 5 taps",)
    students = ("MLP, 512 to 128",) if small else ("WideResNet28, width 1 to 0.5",)
    makers = {
        "rates": (
            "Bare matrix products, square",
            lambda: products(256 if small else 8192, rates, seconds),
        ),
        "losses": (
            f"Loss and gradient, d = {WIDTH}: milliseconds, and the share of the products' rate",
            lambda: of_the_rate(sizes, rates, seconds),
        ),
        "blocks": (
            "Graph smoothness in blocks of so many entries, milliseconds",
            lambda: blocks(512 if small else 32_768, seconds, scale=256 if small else 1),
        ),
        "neighbours": (
            f"k-NN graphs, d = {WIDTH}",
            lambda: neighbours(sizes[:2] if small else sizes[:3], seconds),
        ),
        "parts": (
            "Training steps in parts of a batch, against whole ones",
            lambda: micro_batches.against_whole(
                ("MLP",) if small else ("ResNet", "PreActResNet18"),
                64 if small else 4096,
                16 if small else 256,
                jit=True,
                seconds=seconds,
            ),
        ),
        "steps": (
            "Training steps at full width, against plain ones",
            lambda: training(networks, students, seconds, repeat=1 if small else 40),
        ),
        "golden": (
            "Numbers of the papers' authors: the largest relative difference",
            lambda: agreement(list(golden.cases())[:2] if small else golden.cases()),
        ),
    }
    for name, (caption, rows) in makers.items():
        yield caption, within(60 * minutes * SHARES[name], rows())


def within(seconds, rows):
    """Rows as long as the time lasts."""
    end = time.monotonic() + seconds
    for row in rows:
        yield row
        if time.monotonic() > end:
            if next(rows, None) is not None:
                yield {name: "out of time" if i == 0 else "" for i, name in enumerate(row)}
            return


def _asked(precision):
    import jax

    return jax.default_matmul_precision(precision or jax.config.jax_default_matmul_precision)


def products(size, rates, seconds):
    """Rows: how products are taken, and TFLOP/s, which are put into `rates` as FLOP/s."""
    import jax

    rng = np.random.default_rng(0)
    for name, (precision, dtype) in MODES.items():
        square = keras.ops.cast(rng.normal(size=(size, size)).astype("float32"), dtype)
        # What is not asked for is float32 in the geometry, but not in JAX.
        with _asked(precision or ("float32" if dtype == "float32" else None)):
            compiled = jax.jit(lambda a: a @ a)
            time = medians({"": (_waiting(compiled), square)}, seconds=seconds)[""]
        rates[name] = 2 * size**3 / time
        yield {"products": name, "n": size, "TFLOP/s": f"{rates[name] / 1e12:.3g}"}


def _waiting(function):
    import jax

    return lambda *arrays: jax.block_until_ready(function(*arrays))


def _compiled(name, n, mode):
    """A loss with its gradient as a program for a batch, and the batch."""
    import jax

    precision, dtype = MODES[mode]
    x, teacher, labels = losses.batch(n, WIDTH)
    batch = keras.ops.cast(x, dtype), keras.ops.cast(teacher, dtype), labels
    with _asked(precision):
        program = jax.jit(value_and_gradient(losses.LOSSES[name][0]))
        return program.lower(*batch).compile(), batch


def of_the_rate(sizes, rates, seconds):
    """Rows: loss, n; for each mode the time and the share of its rate; memory beside the inputs."""
    for n, name in itertools.product(sizes, OPERATIONS):
        row = {"loss": name, "n": n}
        for mode in MODES:
            program, batch = _compiled(name, n, mode)
            time = medians({"": (_waiting(program), *batch)}, seconds=seconds, least=2)[""]
            share = OPERATIONS[name](n, WIDTH) / time / rates[mode]
            row[mode] = f"{1e3 * time:.3g} ({100 * share:.0f} %)"
            if mode == "float32":
                memory = program.memory_analysis().temp_size_in_bytes / 2**20
        yield {**row, "MiB": f"{memory:.0f}"}


def blocks(n, seconds, *, scale):
    """Rows: n, and the time for each size of a block."""
    import jax

    from keras_lgg.losses import graph_smoothness

    x, _, labels = losses.batch(n, WIDTH)
    row = {"n": n}
    for millions in (4, 16, 64, 256):
        rows = millions * 2**20 // (scale * n)

        def loss(x, labels, rows=rows):
            return keras.ops.sum(graph_smoothness(labels, x, block_size=rows))

        program = jax.jit(value_and_gradient(loss))
        time = medians({"": (_waiting(program), x, labels)}, seconds=seconds, least=2)[""]
        row[f"{millions} million" if scale == 1 else f"{rows} rows"] = f"{1e3 * time:.3g}"
    yield row


def neighbours(sizes, seconds):
    """Rows: loss, n, time and memory of losses on k-NN graphs."""
    for n, name in itertools.product(sizes, NEIGHBOURS):
        program, batch = _compiled(name, n, "float32")
        time = medians({"": (_waiting(program), *batch)}, seconds=seconds, least=2)[""]
        memory = program.memory_analysis().temp_size_in_bytes / 2**20
        yield {"loss": name, "n": n, "ms": f"{1e3 * time:.3g}", "MiB": f"{memory:.0f}"}


def training(networks, students, seconds, *, repeat):
    """Rows: network, policy, and the ratio of a step with the geometry to one without."""
    policy = keras.config.dtype_policy()
    for mixed in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(mixed)
        try:
            yield from _steps(networks, students, seconds, repeat, mixed)
        finally:
            keras.config.set_dtype_policy(policy)


def _steps(networks, students, seconds, repeat, policy):
    for name in networks:
        build, taps, count = steps.PENALIZED[name]
        runs = functools.partial(steps.penalized, build, taps, count * repeat, True)
        yield _step_row(name, policy, "plain", *steps.relative(runs, ["plain"], seconds))
    for name in students:
        *build, taps, count = steps.DISTILLED[name]
        runs = functools.partial(
            steps.distilled, *build, taps, count * repeat, True, with_cache=False
        )
        found = steps.relative(runs, ["student", "teacher"], seconds)
        yield _step_row(name, policy, "student + teacher", *found)


def _step_row(name, policy, base, seconds, ratios):
    return {
        "networks": name,
        "policy": policy,
        "against": f"{base}, {1e3 * seconds:.3g} ms",
        "ratios": "; ".join(f"{model} {ratio}" for model, ratio in ratios.items()),
    }


def agreement(names):
    """Rows: case, and the differences of values and gradients, in float32 and in TF32."""
    for name in names:
        row = {"case": name}
        for mode in ("float32", "TF32"):
            value, gradient = difference(golden.cases()[name], MODES[mode][0])
            row |= {f"value, {mode}": f"{value:.1e}", f"gradient, {mode}": f"{gradient:.1e}"}
        yield row


def difference(case, precision):
    """Of the value, relative; of the gradients, relative to the largest entry of each."""
    import jax

    inputs = tensors(*case.inputs)
    with _asked(precision):
        step = jax.jit(jax.value_and_grad(case.loss, argnums=tuple(range(len(inputs)))))
        value, gradients = step(*inputs)
    apart = [
        np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
        for ours, theirs in zip(gradients, case.gradients, strict=True)
    ]
    return abs(float(value) / float(case.value) - 1), max(apart)
