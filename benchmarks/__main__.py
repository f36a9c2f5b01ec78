"""Measure what the geometry costs and write docs/performance.md.

python -m benchmarks                          # TensorFlow, without and with XLA
KERAS_BACKEND=jax python -m benchmarks        # JAX; each backend has its section of the page
python -m benchmarks relative                 # one part: see --help
KERAS_BACKEND=jax python -m benchmarks gpu    # one GPU, with no TensorFlow, in 8 minutes
python -m benchmarks --quick                  # a minute, nothing written
"""

import argparse
import os
import pathlib
import platform

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from benchmarks import compilation, gpu, latents, losses, memory, projections, replicas, steps
from benchmarks import micro_batches as parts
from benchmarks import retrieval as searches
from keras_lgg.files import beside

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "performance.md"
NAMES = {"tensorflow": "TensorFlow", "jax": "JAX"}


def geometry(args, jit):
    """Caption and rows of each table on the losses."""
    sizes = (128, 512) if args.quick else (128, 512, 2048, 8192)
    widths = (64,) if args.quick else (64, 128, 512)
    common = {"jit": jit, "seconds": args.seconds}
    yield "Loss and gradient, against the dense form", losses.ratios(sizes, widths, **common)
    yield (
        "Loss and gradient, against the bare matrix products",
        losses.against_products(losses.SHAPES[:1] if args.quick else losses.SHAPES, **common),
    )
    yield (
        "Growth of the time with the batch",
        losses.exponents(sizes=(512, 1024) if args.quick else losses.SIZES, **common),
    )
    yield (
        "Peak memory above the inputs, in MiB (dense form in brackets)",
        memory.peaks((512,) if args.quick else (2048, 8192, 32_768), d=128, jit=jit),
    )


def training_steps(args, jit):
    """Caption and rows of each table on steps of `fit`."""
    common = {"jit": jit, "seconds": args.seconds}

    def networks(cases):
        return list(cases)[: 1 if args.quick else None]

    yield (
        "Training steps with a smoothness penalty",
        steps.geometry_steps(networks(steps.PENALIZED), **common),
    )
    yield (
        "Training steps of distillation, relative to a student's step and a teacher's forward pass",
        steps.distillation_steps(networks(steps.DISTILLED), **common),
    )


def compiling(args, jit):
    """Caption and rows of the table on the first step."""
    networks = compilation.NETWORKS
    if args.quick:
        networks = {"an MLP": networks["ResNet50"]._replace(build=steps.mlp, taps=2, pairs=2)}
    for name, network in networks.items():
        yield (
            f"From `fit` to the first step of {name}",
            compilation.first_steps(network, builds=1 if args.quick else 3, jit=jit),
        )


def micro_batches(args, jit):
    """Caption and rows of the table on batches in parts."""
    samples, part = (64, 16) if args.quick else (1024, 32)
    names = ("MLP",) if args.quick else ("MLP", "ResNet")
    yield (
        "Training steps in parts of a batch, against whole ones",
        parts.against_whole(names, samples, part, jit=jit, seconds=args.seconds),
    )


def scale(args, jit):
    """Caption and rows of the table on batches as large as the memory."""
    shapes = [("label smoothness, p = 2", 2**20), ("GKD", 2**20), ("GSL", 2**15)]
    if args.quick:
        shapes = [(name, 1024) for name, _ in shapes]
    yield (
        "Loss and gradient of large batches",
        losses.at_scale(shapes, start=512 if args.quick else 8192, jit=jit),
    )


def large_steps(args, jit):
    """Caption and rows of the table on steps that would not fit whole."""
    del jit  # what XLA on a CPU lacks is in the table before
    sizes = ("MLP", 256, 64, 128) if args.quick else ("PreActResNet18", 8192, 64, 128)
    yield (
        "Steps for which the memory of a machine of 24 GiB is too small",
        parts.large_steps(*sizes),
    )


def traffic(args, jit):
    """Caption and rows of the table on replicas, whose sums no compiler changes."""
    del jit
    yield (
        "What one of two replicas sends for a loss and its gradients",
        replicas.traffic(1) if args.quick else replicas.traffic(),
    )


def on_gpu(args, jit):
    """Caption and rows of the tables on one GPU."""
    del jit
    yield from gpu.tables(args.minutes, small=args.quick)


def relative(args, jit):
    """Caption and rows of the table on relative projections."""
    shapes = projections.SHAPES[1:] if args.quick else projections.SHAPES
    yield (
        "Relative projection, with the statistics of the anchors given",
        projections.ratios(shapes, jit=jit, seconds=args.seconds),
    )


def manifolds(args, jit):
    """Caption and rows of the tables on latent manifolds, which are NumPy's: `jit` is no matter."""
    del jit
    images, runs = (40, 1) if args.quick else (200, 3)
    yield "Characterising autoencoders", latents.times(images, runs=runs)
    yield (
        "Distances of all pairs of latents 7 x 7 x 128 (pair by pair: from 12 of them)",
        latents.against_pairs((100,) if args.quick else (350, 1400), runs=runs),
    )


def retrieval(args, jit):
    """Caption and rows of the table on retrieval, which is NumPy's: `jit` is no matter."""
    del jit
    yield (
        f"Retrieval of embeddings {searches.WIDTH} wide, among themselves",
        searches.against_products(2000 if args.quick else 50_000, seconds=args.seconds),
    )


PARTS = {
    "geometry": geometry,
    "steps": training_steps,
    "compilation": compiling,
    "micro_batches": micro_batches,
    "scale": scale,
    "large_steps": large_steps,
    "replicas": traffic,
    "relative": relative,
    "manifolds": manifolds,
    "retrieval": retrieval,
    "gpu": on_gpu,
}


def table(rows):
    """A Markdown table; prints each row as it comes."""
    lines = []
    for row in rows:
        if not lines:
            lines = ["| " + " | ".join(row) + " |", "| --- " * len(row) + "|"]
            print(*lines, sep="\n", flush=True)
        lines.append("| " + " | ".join(map(str, row.values())) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {list(PARTS)}; all of them")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing written")
    parser.add_argument("--minutes", type=float, default=8.0, help="that the part gpu takes")
    parser.add_argument("--seconds", type=float, help="for each comparison; 3, or 0.2 with --quick")
    args = parser.parse_args()
    args.seconds = args.seconds or (0.2 if args.quick else 3.0)
    backend = keras.backend.backend()
    if backend not in NAMES:
        parser.error(f"KERAS_BACKEND is {backend!r}; expected one of {sorted(NAMES)}.")
    for part in args.parts:
        if part not in PARTS:
            parser.error(f"Unknown part {part!r}; expected some of {list(PARTS)}.")
    if "gpu" in args.parts and backend != "jax":
        parser.error("The part gpu is of JAX. Set KERAS_BACKEND=jax.")
    modes = (True,) if backend == "jax" else (False, True)
    # Of these there is one mode; convolutions in loops take hours with XLA on a CPU.
    fewer = {
        "manifolds": modes[:1],
        "retrieval": modes[:1],
        "replicas": modes[:1],
        "scale": modes[:1],
        "large_steps": [jit for jit in modes if not jit],
    }
    for part in args.parts or [part for part in PARTS if part != "gpu"]:
        for jit in fewer.get(part, modes):
            measure(part, args, jit, NAMES[backend] + (", XLA" if jit and backend != "jax" else ""))


def measure(part, args, jit, program):
    """Print the tables of a part, and write them."""
    title = program if part == "geometry" else f"{program}: {part.replace('_', ' ')}"
    texts = [f"## {title}", machine()]
    for caption, rows in PARTS[part](args, jit):
        print(f"\n{title}: {caption}\n")
        texts += [f"**{caption}**", table(rows)]
    if not args.quick:
        write(title, "\n\n".join(texts))


def machine():
    return (
        f"{accelerator()}{len(os.sched_getaffinity(0))} CPU cores, Python "
        f"{platform.python_version()}, Keras {keras.__version__}. Medians of runs that take turns "
        "in one process."
    )


def accelerator():
    """The name of the GPU that JAX runs on, if it does."""
    if keras.backend.backend() != "jax":
        return ""
    import jax

    device = jax.devices()[0]
    return f"{device.device_kind}, " if device.platform == "gpu" else ""


def write(key, text, page=None):
    """Put a section into the page in place of the one with the same key."""
    begin, end = f"<!-- begin {key} -->", f"<!-- end {key} -->"
    page = page or PAGE
    before, found, rest = page.read_text().partition(begin)
    section = f"{begin}\n\n{text}\n\n{end}"
    after = rest.partition(end)[2] if found else "\n"
    with beside(page) as unfinished:
        unfinished.write_text((before if found else before.rstrip() + "\n\n") + section + after)


if __name__ == "__main__":
    main()
