"""Training steps in parts of a batch, against whole ones: their time, and their peak of memory.

python -m benchmarks.micro_batches NETWORK POOL SAMPLES MICRO_BATCH JIT LOSS    # one peak
"""

import functools
import json
import os
import subprocess
import sys
import time

import keras
import numpy as np

import keras_lgg as lgg
from benchmarks import steps
from benchmarks.memory import PROCESS, kibibytes
from benchmarks.timing import medians
from examples import networks

CLASSES = 10
TAPS = ["stem", "block1", "block2", "block3"]
# By name: how it is built, the shape of a sample, its taps.
NETWORKS = {
    "ResNet": (steps.three_block_resnet, steps.IMAGE, TAPS),
    "MLP": (steps.mlp, (784,), steps.HIDDEN),
    "PreActResNet18": (steps.resnet18, steps.IMAGE, networks.BLOCKS[1::2]),
}
LOSSES = {
    "smoothness variation": lgg.losses.SmoothnessVariation(power=2, num_classes=CLASSES),
    "graph smoothness": lgg.losses.GraphSmoothness(),
    "GKD": lgg.losses.GraphDistillation(),
}
# Freed memory goes back at once, so that what a process holds is what it needs.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


def against_whole(names, samples, part, *, jit, seconds):
    """Rows: network, time of a step in parts over a whole one, and peaks of memory."""
    for name in names:
        whole, parts = (_step(name, "mean", samples, size, jit) for size in (None, part))
        times = medians({"whole": (whole,), "parts": (parts,)}, seconds=seconds, least=3)
        for pool in ("mean", "None") if len(NETWORKS[name][1]) > 1 else ("None",):
            peak = functools.partial(_peak, name, pool, jit=jit)
            yield {
                "network": name,
                "n": samples,
                "parts of": part,
                "penalty on": "means" if pool == "mean" else "all positions",
                "step, to a whole one": f"{times['parts'] / times['whole']:.2f}",
                "peak, MiB": f"{peak(samples, part):.0f}",
                "whole, MiB": f"{peak(samples, None):.0f}",
                f"whole at n = {part}, MiB": f"{peak(part, None):.0f}",
                "representations, MiB": f"{_representations(name, pool, samples):.1f}",
            }


def large_steps(name, samples, part, small):
    """Rows: loss, and the time and the peak of a step that would not fit whole."""
    for loss in LOSSES:
        step = functools.partial(_peak, name, "mean", loss=loss, jit=False)
        peak, seconds = step(samples, part, timed=True)
        whole = step(small, None) * samples / small / 2**10
        yield {
            "loss": loss,
            "network": name,
            "n": samples,
            "parts of": part,
            "step, s": f"{seconds:.0f}",
            "peak, GiB": f"{peak / 2**10:.1f}",
            f"whole, GiB, by one at n = {small}": f"{whole:.0f}",
        }


def _model(name, pool, part, loss="smoothness variation"):
    build, _, taps = NETWORKS[name]
    options = {"weight": 1e-5, "pool": None if pool == "None" else pool}
    if loss == "GKD":
        penalty = lgg.Penalty(LOSSES[loss], [(tap, tap) for tap in taps], **options)
        return lgg.Distiller(build(), build(), [penalty], micro_batch=part)
    penalty = lgg.Penalty(LOSSES[loss], taps, **options)
    return lgg.GeometryModel(build(), [penalty], micro_batch=part)


def _step(name, pool, samples, part, jit, loss="smoothness variation"):
    """A function that takes one step, with data that are tensors already."""
    model = _model(name, pool, part, loss)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss, jit_compile=jit)
    return functools.partial(model.train_on_batch, *_data(name, samples))


def _data(name, samples):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, *NETWORKS[name][1])).astype("float32")
    labels = rng.integers(0, CLASSES, samples).astype("int32")
    return keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(labels)


def _representations(name, pool, samples):
    """MiB of what the penalty reads."""
    build, _, taps = NETWORKS[name]
    base = build()
    shapes = [base.get_layer(tap).output.shape[1:] for tap in taps]
    sizes = [shape[-1] if pool == "mean" else np.prod(shape) for shape in shapes]
    return 4 * samples * sum(sizes) / 2**20


def _peak(name, pool, samples, part, *, jit, loss="smoothness variation", timed=False):
    """MiB that a step needs: what the compiled program says, or else what a process comes to.

    Where it is ``timed``, also its seconds.
    """
    if keras.backend.backend() == "jax":
        return _program_peak(name, pool, samples, part)
    arguments = [name, pool, str(samples), str(part or 0), str(jit), loss]
    command = [sys.executable, "-m", "benchmarks.micro_batches", *arguments]
    found = subprocess.run(command, capture_output=True, check=True, env={**os.environ, **MALLOC})
    peak, seconds = json.loads(found.stdout)
    return (peak, seconds) if timed else peak


def _program_peak(name, pool, samples, part):
    import jax

    model = _model(name, pool, part)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss)
    model.train_on_batch(*_data(name, 2))
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([variable.value for variable in group] for group in groups)
    program = jax.jit(model.train_step).lower(state, _data(name, samples)).compile()
    return program.memory_analysis().temp_size_in_bytes / 2**20


def _process_peak(name, pool, samples, part, jit, loss):
    """Growth of the largest resident size in a second step, which has everything loaded.

    Returns it in MiB, and the seconds of that step.
    """
    step = _step(name, pool, samples, part, jit, loss)
    step()
    PROCESS.joinpath("clear_refs").write_text("5")  # the peak so far is forgotten: see proc(5)
    before = kibibytes("VmRSS")
    begin = time.perf_counter()
    step()
    return (kibibytes("VmHWM") - before) / 2**10, time.perf_counter() - begin


if __name__ == "__main__":
    name, pool, samples, part, jit, loss = sys.argv[1:]
    arguments = name, pool, int(samples), int(part) or None, jit == "True", loss
    print(json.dumps(_process_peak(*arguments)))
