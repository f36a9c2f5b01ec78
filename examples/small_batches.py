"""Does a memory of past batches help if batches are small?

Three applications with batches of 16 and 32, which by themselves hold few pairs of a class:

* Embeddings, by graph smoothness alone; the accuracy of 10-NN.
* Distillation, by relational distances beside cross-entropy; the accuracy of the student.
* Robustness, by relative smoothness variation; the accuracy over five levels of noise.

Each runs without a memory and with `CrossBatch` memories of several sizes; the largest holds about
an epoch of digits. If there are two losses, the weight is chosen from one grid on the validation
split, for each seed, batch and memory.

    python examples/small_batches.py --quick
    python examples/small_batches.py

Everything is tested once on the test split. Prints the tables and writes the figure into --output.
Needs the extra ``examples`` and, for data other than digits, ``datasets``.
"""

import common
import dense_networks
import keras
from dense_networks import (
    BLOCKS,
    accuracy,
    class_count,
    classifier,
    embedder,
    neighbors,
    prepared,
    under_noise,
)

import keras_lgg as lgg

TEACHER_WIDTH, STUDENT_WIDTH, EMBEDDING_WIDTH = 128, 16, 16
BATCHES = [16, 32]
GRIDS = {"embeddings": [1.0], "distillation": [1.0, 10.0], "robustness": [0.1, 1.0]}
WARMUP = 50  # steps before a memory is used
SCORE = "test accuracy (%)"


def run_seed(args, seed):
    """Train each application with each batch and memory: rows for `common.run`."""
    data = prepared(common.few(common.load(args), args.samples, seed))
    keras.utils.set_random_seed(seed)
    teacher = classifier(data, TEACHER_WIDTH)
    fit(args, teacher, data, seed, 100, label="teacher")
    return [
        {
            "variant": name_of(size),
            "metric": f"{task}: batches of {batch}",
            "value": best(args, data, teacher, seed, task, batch, size),
        }
        for task in GRIDS
        for batch in args.batches
        for size in args.sizes
    ]


def name_of(size):
    return f"memory of {size}" if size else "no memory"


def best(args, data, teacher, seed, task, batch, size):
    """The test score of the weight with the best validation score."""
    build, score = TASKS[task]
    found = []
    for weight in args.grids[task]:
        keras.utils.set_random_seed(seed)
        model, network = build(data, teacher, weight, lambda loss: remembering(loss, size))
        label = f"{task}, batches of {batch}, {name_of(size)}, weight {weight:g}"
        fit(args, model, data, seed, batch, label=label)
        found.append((score(network, data, "validation"), network))
    return score(max(found, key=lambda each: each[0])[1], data, "test")


def remembering(loss, size):
    return lgg.losses.CrossBatch(loss, size, warmup=WARMUP) if size else loss


def embedded(data, teacher, weight, remember):
    network = embedder(data, TEACHER_WIDTH, EMBEDDING_WIDTH)
    penalty = lgg.Penalty(remember(lgg.losses.GraphSmoothness()), weight=weight)
    return lgg.GeometryModel(network, [penalty]), network


def distilled(data, teacher, weight, remember):
    student = classifier(data, STUDENT_WIDTH)
    pairs = [(name, name) for name in BLOCKS]
    penalty = lgg.Penalty(remember(lgg.losses.RelationalDistance()), pairs, weight)
    return lgg.Distiller(teacher, student, [penalty]), student


def robust(data, teacher, weight, remember):
    network = classifier(data, TEACHER_WIDTH)
    loss = lgg.losses.SmoothnessVariation(power=2, num_classes=class_count(data), relative=True)
    return lgg.GeometryModel(network, [lgg.Penalty(remember(loss), BLOCKS, weight)]), network


TASKS = {
    "embeddings": (embedded, neighbors),
    "distillation": (distilled, accuracy),
    "robustness": (robust, under_noise),
}


def fit(args, model, data, seed, batch, *, label):
    embeds = isinstance(model, lgg.GeometryModel) and model.penalties[0].taps is None
    dense_networks.fit(
        model,
        data,
        optimizer=keras.optimizers.Adam(
            1e-3
        ),  # asks for no scale of a loss, which a memory changes
        loss=None if embeds else common.cross_entropy(),
        batch_size=batch,
        epochs=args.epochs,
        seed=seed,
        progress=args.progress.training(label),
    )


def verdict(args, frame):
    return common.effects(frame, name_of(0), dict.fromkeys(frame["metric"], "max"))


def tables(args, frame):
    return {f"{SCORE}, {task}": table for task, table in common.summaries(frame, GRIDS).items()}


def draw(args, frame):
    """Each application's accuracy against the memory, by batch size."""
    figure, axes = common.figure(1, len(GRIDS), (9, 3.2))
    names = [name_of(size) for size in args.sizes]
    for axis, task in zip(axes[0], GRIDS, strict=True):
        for batch, color in zip(args.batches, common.PALETTE, strict=False):
            rows = frame[frame["metric"] == f"{task}: batches of {batch}"]
            groups = rows.groupby("variant")["value"]
            label = f"batches of {batch}"
            mean = groups.mean()[names]
            spread = groups.std(ddof=1)[names] if args.seeds > 1 else None
            axis.errorbar(names, mean, spread, color=color, marker="o", capsize=3, label=label)
        axis.set_xticks(range(len(names)), [str(size) for size in args.sizes])
        axis.set(title=task, xlabel="samples remembered")
        common.widen(axis, 4)
    axes[0][0].set_ylabel(SCORE)
    axes[0][0].legend(frameon=False)
    return figure


def parse(argv):
    options = common.parser(__doc__, "small_batches", epochs=20, batch_size=100)
    options.set_defaults(data="digits")
    add = options.add_argument
    add("--samples", type=int, default=10_000, help="training samples at most")
    add("--batches", type=int, nargs="+", default=BATCHES, help="samples per batch")
    add("--sizes", type=int, nargs="+", default=[0, 64, 256, 1024], help="samples in a memory")
    quick = {"samples": 600, "epochs": 4, "batches": [16], "sizes": [0, 64]}
    args = common.arguments(options, argv, quick=quick)
    args.grids = {task: grid[-1:] if args.quick else grid for task, grid in GRIDS.items()}
    return args


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``."""
    return common.run(parse(argv), run_seed, tables, draw, explain, verdict=verdict)


def explain(args):
    grids = "; ".join(
        f"{task} {', '.join(f'{w:g}' for w in grid)}" for task, grid in args.grids.items()
    )
    return (
        f"Three dense blocks, {TEACHER_WIDTH} wide (the student {STUDENT_WIDTH}), Adam, "
        f"{args.epochs} epochs; memories are used after {WARMUP} steps. Weights by validation "
        f"accuracy, for each seed, batch and memory: {grids}. Embeddings: graph smoothness alone, "
        "10-NN. Distillation: relational distances and cross-entropy. Robustness: relative "
        "smoothness variation, the mean accuracy over five levels of noise."
    )


if __name__ == "__main__":
    main()
