"""A balanced weight against a tuned one, in each of the three applications.

* Robustness: smoothness variation on three blocks; the accuracy over five levels of noise.
* Distillation: graphs of a teacher; the accuracy of a student an eighth as wide.
* Embeddings: cross-entropy, with graph smoothness on the embeddings; the accuracy of 10-NN.

For each seed, the tuned weight is the one that scores best on the validation split, out of a grid
that includes 0. This takes a training for each weight; a balanced weight takes one training.

    python examples/balanced_weights.py --quick
    python examples/balanced_weights.py

Everything is tested once on the test split. Prints the tables and writes the figure into --output.
Needs the extra ``examples`` and, for data other than digits, ``datasets``.
"""

import math

import common
import dense_networks
import keras
from dense_networks import (
    BLOCKS,
    SIGMAS,
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
GRIDS = {
    "robustness": [0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3],
    "distillation": [0, 0.01, 0.1, 1, 10, 100],
    "embeddings": [0, 1e-4, 1e-3, 0.01, 0.1, 1],
}
NONE, TUNED = "weight 0", "tuned weight"
SCORE, WEIGHT = "test accuracy (%)", "log10 of the weight"


def run_seed(args, seed):
    """Train with every weight of the grids, and with balanced ones: rows for `run_seeds`."""
    data = prepared(common.few(common.load(args), args.samples, seed))
    keras.utils.set_random_seed(seed)
    teacher = classifier(data, TEACHER_WIDTH)
    fit(args, teacher, data, seed, label="teacher")
    rows = []
    for task in GRIDS:

        def measure(task=task, **options):
            return measured(args, data, task, teacher, seed, options)

        tried = [measure(weight=weight) for weight in args.grid[task]]
        # The tuner's choice looks at the validation split alone.
        shown = {NONE: tried[0], TUNED: max(tried, key=lambda found: found[0]["validation"])}
        for fraction in args.fractions:
            shown[f"balanced, {fraction:g}"] = measure(weight="balanced", fraction=fraction)
        for variant, (scores, weight) in shown.items():
            rows.append(row(variant, f"{SCORE}: {task}", scores["test"]))
            if weight > 0:
                rows.append(row(variant, f"{WEIGHT}: {task}", math.log10(weight)))
    return rows


def row(variant, metric, value):
    return {"variant": variant, "metric": metric, "value": value}


def measured(args, data, task, teacher, seed, options):
    """The scores by split, and the weight at the end."""
    keras.utils.set_random_seed(seed)
    build, score = TASKS[task]
    model, network = build(data, teacher, options)
    label = ", ".join([task, *(f"{name} {value}" for name, value in options.items())])
    fit(args, model, data, seed, label=label)
    scores = {split: score(network, data, split) for split in ("validation", "test")}
    return scores, float(model.penalties[0].weight)


def robust(data, teacher, options):
    network = classifier(data, TEACHER_WIDTH)
    loss = lgg.losses.SmoothnessVariation(power=2, num_classes=class_count(data))
    return lgg.GeometryModel(network, [lgg.Penalty(loss, BLOCKS, **options)]), network


def distilled(data, teacher, options):
    student = classifier(data, STUDENT_WIDTH)
    pairs = [(name, name) for name in BLOCKS]
    penalty = lgg.Penalty(lgg.losses.GraphDistillation(), pairs, **options)
    return lgg.Distiller(teacher, student, [penalty]), student


def embedded(data, teacher, options):
    network = embedder(data, TEACHER_WIDTH, EMBEDDING_WIDTH)
    model = keras.Sequential(
        [keras.Input(network.input_shape[1:]), network, keras.layers.Dense(class_count(data))]
    )
    penalty = lgg.Penalty(lgg.losses.GraphSmoothness(), "embedder", **options)
    return lgg.GeometryModel(model, [penalty]), network


def fit(args, model, data, seed, *, label):
    dense_networks.fit(
        model,
        data,
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        loss=common.cross_entropy(),
        batch_size=args.batch_size,
        epochs=args.epochs,
        seed=seed,
        progress=args.progress.training(label),
    )


TASKS = {
    "robustness": (robust, under_noise),
    "distillation": (distilled, accuracy),
    "embeddings": (embedded, neighbors),
}


def verdict(args, frame):
    """By application what a tuned weight brings, and balanced ones, which take one training."""
    scores = frame.assign(metric=frame["metric"].str.removeprefix(f"{SCORE}: "))
    return common.effects(scores, NONE, dict.fromkeys(GRIDS, "max"))


def tables(args, frame):
    return common.summaries(frame, (SCORE, WEIGHT))


def draw(args, frame):
    """Each application's accuracy, by variant."""
    figure, axes = common.figure(1, 3, (9, 3.2))
    variants = list(dict.fromkeys(frame["variant"]))
    for axis, task in zip(axes[0], GRIDS, strict=True):
        rows = frame[frame["metric"] == f"{SCORE}: {task}"]
        for place, (variant, color) in enumerate(zip(variants, common.PALETTE, strict=False)):
            values = rows.loc[rows["variant"] == variant, "value"].to_numpy()
            common.draw_point(axis, place, values, color)
        axis.set_xticks(range(len(variants)), variants, rotation=40, ha="right")
        axis.set(title=task, xlim=(-0.6, len(variants) - 0.4))
        common.widen(axis, 4)
    axes[0][0].set_ylabel(SCORE)
    return figure


def parse(argv):
    options = common.parser(__doc__, "balanced_weights", epochs=25, batch_size=100)
    options.set_defaults(data="digits")
    add = options.add_argument
    add("--samples", type=int, default=10_000, help="training samples at most")
    add("--fractions", type=float, nargs="*", default=[0.03, 0.1, 0.3], help="of balanced weights")
    args = common.arguments(options, argv, quick={"epochs": 5, "fractions": [0.1]})
    args.grid = {task: grid[:: 2 if args.quick else 1] for task, grid in GRIDS.items()}
    return args


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``."""
    return common.run(parse(argv), run_seed, tables, draw, explain, verdict=verdict)


def explain(args):
    grids = "; ".join(f"{task}: {', '.join(f'{w:g}' for w in g)}" for task, g in args.grid.items())
    return (
        f"Networks of three dense blocks, {TEACHER_WIDTH} wide (the student {STUDENT_WIDTH}), "
        f"{args.epochs} epochs, batches of {args.batch_size}. Tuned: the weight of the grid with "
        f"the best validation accuracy, for each seed ({grids}). Balanced: with the fraction "
        "behind the name. Robustness is the mean accuracy over noise of standard deviation "
        f"{', '.join(map(str, SIGMAS))}; distillation that of the student; embeddings that of "
        "10-NN. The weight is that at the end of training, over the seeds where it is not 0."
    )


if __name__ == "__main__":
    main()
