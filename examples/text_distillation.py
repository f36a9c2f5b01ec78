"""Does a small reader of questions learn from a large one's geometry? Logits, GKD, and both.

Trains a transformer of three blocks to tell the fine classes of texts, then small ones of a single
block, which start from the same weights and see the same batches: alone, or distilled by the
logits, by the graph of the last block's output, averaged over the words of a text, or by both.

    python examples/text_distillation.py --quick
    python examples/text_distillation.py                               # halves of documentation
    python examples/text_distillation.py --data trec --data-dir FOLDER
    python examples/text_distillation.py --select ...                  # how the weights are chosen

What these texts are, and where to get them, is in ``text_data.py``; the networks are in
``text_classifiers.py``. --select chooses the weights of the penalties on a tenth of the training
texts; the table is of the test texts. Prints its table and writes the figure into --output.
Needs the extras ``examples`` and ``text``.
"""

import common
import keras
import numpy as np
import text_classifiers
import text_training

import keras_lgg as lgg

TEACHER, ALONE, BOTH = "teacher", "student alone", "GKD + logits"
TEACHER_SIZE, STUDENT_SIZE = {"width": 128, "depth": 3}, {"width": 16, "depth": 1}
ACCURACY, AGREES = "accuracy", "agrees with the teacher"
GRID = {"logits": (0.1, 0.5, 2.0), "GKD": (1.0, 5.0, 25.0, 125.0)}
# By set, the weights that --select prints; recorded in docs/results/records/distillation.md.
CHOSEN = {"trec": {"logits": 0.1, "GKD": 1.0}}
PUBLISHED = {"logits": 0.5, "GKD": 25.0}  # weights for images
TEMPERATURE = 4.0


def penalty(kind, weight):
    if kind == "logits":
        return lgg.Penalty(keras.distillation.LogitsDistillation(TEMPERATURE), weight=weight)
    last = [text_classifiers.taps(size["depth"])[-1] for size in (TEACHER_SIZE, STUDENT_SIZE)]
    loss = lgg.losses.GraphDistillation()
    return lgg.Penalty(loss, taps=[tuple(last)], weight=weight, pool="mean")


def candidates(args):
    """What is trained: a name, and the weights of its penalties."""
    if args.select:
        weights = {f"{k}, weight {w:g}": {k: w} for k, grid in GRID.items() for w in grid}
        return {ALONE: {}, **weights}
    weights = chosen(args)
    return {ALONE: {}, **{kind: {kind: w} for kind, w in weights.items()}, BOTH: weights}


def chosen(args):
    return CHOSEN.get(args.data, PUBLISHED)


def train(args, data, seed, label, sizes, *, teacher=None, weights=None):
    """A trained network, distilled from the teacher with these weights where it has some."""
    keras.utils.set_random_seed(seed)
    model = student = text_classifiers.classifier(*data.counts, **sizes)
    if weights:
        penalties = [penalty(kind, weight) for kind, weight in weights.items()]
        model = lgg.Distiller(teacher, student, penalties)
    text_training.fit(model, data, args, seed, label)
    return student


def run_seed(args, seed):
    """Train teacher and students: rows for `common.run`."""
    data = text_training.prepare(args, seed)
    teacher = train(args, data, seed, TEACHER, TEACHER_SIZE)
    trained = {TEACHER: teacher}
    for variant, weights in candidates(args).items():
        options = {"teacher": teacher, "weights": weights}
        trained[variant] = train(args, data, seed, variant, STUDENT_SIZE, **options)
    ids = data.ids_of(data.scored)
    found = {v: common.outputs(m, ids).argmax(axis=1) for v, m in trained.items()}
    return [
        {"variant": variant, "metric": metric, "value": value}
        for variant, classes in found.items()
        for metric, value in (
            (f"{ACCURACY} (%)", 100 * np.mean(classes == data.scored_labels)),
            (f"{AGREES} (%)", 100 * np.mean(classes == found[TEACHER])),
            ("parameters (thousands)", trained[variant].count_params() / 1000),
        )
    ]


def conclude(frame):
    """Of each kind of penalty, the weight of the largest accuracy."""
    best = common.best_of_kinds(frame, f"{ACCURACY} (%)", GRID, least=False)
    return f"Chosen by the largest mean accuracy: {best}."


def tables(args, frame):
    return {"Test texts": common.summary(frame, "variant", "metric")}


def draw(args, frame):
    colors = dict(zip(candidates(args), common.PALETTE, strict=False))
    return common.draw_students(frame, colors, [f"{ACCURACY} (%)", f"{AGREES} (%)"])


def parse(argv):
    options = common.parser(__doc__, "text_distillation", epochs=10, batch_size=128)
    return text_training.arguments(options, argv, quick={"epochs": 5, "few": 800})


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``."""
    args = parse(argv)
    if args.select:
        return common.select(args, run_seed, "Held-out training texts", conclude)
    return common.run(args, run_seed, tables, draw, explain, verdict=verdict)


def verdict(args, frame):
    students = frame[frame["variant"] != TEACHER]
    return common.effects(students, ALONE, {f"{ACCURACY} (%)": "max"})


def explain(args):
    weights = ", ".join(f"{kind} {weight:g}" for kind, weight in chosen(args).items())
    sizes = TEACHER_SIZE, STUDENT_SIZE
    teacher, student = (f"{size['depth']} of width {size['width']}" for size in sizes)
    return (
        f"{args.language}, fine classes. Blocks of a transformer: teacher {teacher}, student "
        f"{student}; {args.epochs} epochs, batches of {args.batch_size}. Weights: {weights}; "
        f"logits at temperature {TEMPERATURE:g}. GKD compares the texts of a batch by the mean "
        "over the words of what follows the ReLU of the last block."
    )


if __name__ == "__main__":
    main()
