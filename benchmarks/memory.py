"""Peak memory of a loss and its gradient against the batch size."""

import json
import pathlib
import re
import subprocess
import sys

import keras

from benchmarks.losses import LOSSES, batch, largest_dense
from benchmarks.timing import compiled, value_and_gradient

PROCESS = pathlib.Path("/proc/self")  # of Linux


def peaks(sizes, *, d, jit):
    """Rows: loss, then MiB above the inputs for each batch size, the dense form's in brackets."""
    for name in LOSSES:
        row = {"loss": name, "d": d}
        for n in sizes:
            ours, dense = (_peak(name, n, d, form, jit) for form in (0, 1))
            row[f"n = {n}"] = f"{ours:.0f}" + (f" ({dense:.0f})" if dense is not None else "")
        yield row


def _peak(name, n, d, form, jit):
    """MiB above the inputs: what the compiled program says, or else what a process came to hold."""
    if form == 1 and n > largest_dense(name):
        return None
    if keras.backend.backend() == "jax":
        return _program_peak(name, n, d, form)
    command = [sys.executable, "-m", "benchmarks.memory", name, str(n), str(d), str(form), str(jit)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def _program_peak(name, n, d, form):
    import jax

    shapes = [((n, d), "float32"), ((n, d), "float32"), ((n,), "int32")]
    program = jax.jit(value_and_gradient(LOSSES[name][form])).lower(
        *[jax.ShapeDtypeStruct(*shape) for shape in shapes]
    )
    return program.compile().memory_analysis().temp_size_in_bytes / 2**20


def _process_peak(name, n, d, form, jit):
    """Growth of the largest resident size over a small batch, which has everything loaded."""

    def run(n):
        compiled(value_and_gradient(LOSSES[name][form]), jit=jit)(*batch(n, d))

    run(64)
    arrays = batch(n, d)
    PROCESS.joinpath("clear_refs").write_text("5")  # the peak so far is forgotten: see proc(5)
    before = kibibytes("VmRSS")
    compiled(value_and_gradient(LOSSES[name][form]), jit=jit)(*arrays)
    return (kibibytes("VmHWM") - before) / 2**10


def kibibytes(field):
    return int(re.search(rf"{field}:\s*(\d+) kB", PROCESS.joinpath("status").read_text())[1])


if __name__ == "__main__":
    name, n, d, form, jit = sys.argv[1:]
    print(json.dumps(_process_peak(name, int(n), int(d), int(form), jit == "True")))
