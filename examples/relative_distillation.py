"""Does a student gain by learning in its teacher's relative space?

A small CNN reads digits through relative codes, and narrow students share its anchors. Codes are as
wide for students as for the teacher, so they can be compared entry by entry (the cosine of the
codes of each sample), as a graph (GKD on the codes), or not at all. For comparison, there are
students with absolute latents, alone and with GKD.

    python examples/relative_distillation.py --quick            # digits, under a minute
    python examples/relative_distillation.py                    # MNIST
    python examples/relative_distillation.py --select ...       # how the weights are chosen

"With the teacher's head" puts the head of the teacher on the student's codes, without training: it
shows whether the student really is in the teacher's space. --select chooses the weights on the
validation split; the table is of the test split. Needs the extras ``examples``, ``relative`` and,
for data other than digits, ``datasets``.
"""

import common
import keras
import networks
import numpy as np
from keras import layers

import keras_lgg as lgg

ALONE, GKD, CODES = "alone", "GKD", "cosine of codes"
SPACES = ("relative", "absolute")
VARIANTS = [("relative", ALONE), ("relative", CODES), ("relative", GKD), ("absolute", ALONE)]
VARIANTS.append(("absolute", GKD))
# By --select, on validation: see docs/results/records/stitching.md.
CHOSEN = {
    ("mnist", "relative", CODES): 100.0,
    ("mnist", "relative", GKD): 25.0,
    ("mnist", "absolute", GKD): 25.0,
}
GRID = {CODES: (1.0, 10.0, 100.0), GKD: (0.2, 1.0, 5.0, 25.0)}
OWN, TEACHERS = "error (%)", "error with the teacher's head (%)"


@keras.saving.register_keras_serializable("relative_distillation")
class CosineOfCodes(lgg.losses.GeometryLoss):
    """One minus the cosine of the teacher's and the student's code of each sample."""

    needs_teacher = True

    def call(self, teacher, student):
        return 1.0 + keras.losses.cosine_similarity(teacher, student)


def network(args, data, anchors, space, width):
    """A classifier with its latents, or their codes, at the layer "latents"."""
    inputs = keras.Input(data.shape)
    cnn = networks.small_cnn(data.shape, args.latents, width=width)
    # Not negative, so that no similarity is: what the degrees of a graph need.
    bounds = [layers.BatchNormalization(momentum=0.9), layers.ReLU()]
    encoder = keras.Sequential([cnn, *bounds], name="latents")
    if space == "relative":
        encoder = lgg.layers.RelativeRepresentation(anchors, encoder=encoder, name="latents")
    x = layers.LayerNormalization(epsilon=1e-5, name="head_norm")(encoder(inputs))
    return keras.Model(inputs, layers.Dense(data.classes, name="head")(x))


def penalty(kind, weight):
    codes = CosineOfCodes(name="cosine_of_codes")
    loss = codes if kind == CODES else lgg.losses.GraphDistillation()
    return lgg.Penalty(loss, taps=[("latents", "latents")], weight=weight)


def with_head_of(teacher, student):
    """The student up to its codes, with the teacher's head."""
    x = student.get_layer("latents").output
    for name in ("head_norm", "head"):
        x = teacher.get_layer(name)(x)
    return keras.Model(student.input, x)


def candidates(args):
    """What is trained: a name, the space, the kind of penalty, its weight."""
    for space, kind in VARIANTS:
        if kind == ALONE:
            weights = [0.0]
        elif args.select:
            weights = GRID[kind]
        else:
            weights = [CHOSEN.get((args.data, space, kind), 1.0)]
        for weight in weights:
            suffix = f", weight {weight:g}" if args.select and weight else ""
            yield f"{space}, {kind}{suffix}", space, kind, weight


def run_seed(args, seed):
    """Train teachers and students: rows for `common.run_seeds`."""
    arrays = common.few(common.load(args), args.samples, seed)
    images, labels = arrays.train
    data = common.pipelines(arrays, args, seed)
    indices = lgg.relative.select_anchors(
        images, args.anchors, method="stratified", labels=labels, seed=seed
    )
    anchors = keras.ops.convert_to_numpy(
        data.normalization(images[indices].astype("float32") / 255)
    )
    held_out = data.validation if args.select else data.test
    rows, teachers = [], {}
    for space in SPACES:
        keras.utils.set_random_seed(seed)
        teachers[space] = network(args, data, anchors, space, args.teacher_width)
        label = f"{space} teacher"
        common.fit(teachers[space], common.cross_entropy(), data, args, seed=seed, label=label)
        rows.append({"variant": label, "metric": OWN, "value": error(teachers[space], held_out)})
    for label, space, kind, weight in candidates(args):
        data = common.pipelines(arrays, args, seed)
        keras.utils.set_random_seed(seed + 1000)
        model = student = network(args, data, anchors, space, args.student_width)
        if kind != ALONE:
            model = lgg.Distiller(teachers[space], student, [penalty(kind, weight)])
        common.fit(model, common.cross_entropy(), data, args, seed=seed, label=label)
        rows.append({"variant": label, "metric": OWN, "value": error(student, held_out)})
        stitched = error(with_head_of(teachers[space], student), held_out)
        rows.append({"variant": label, "metric": TEACHERS, "value": stitched})
    return rows


def error(model, pipeline):
    images, labels = map(np.concatenate, zip(*pipeline.as_numpy_iterator(), strict=True))
    return 100 * np.mean(common.outputs(model, images).argmax(axis=-1) != labels)


def conclude(frame):
    """Of each kind of penalty in each space, the weight of the smallest error."""
    kinds = sorted(f"{space}, {kind}" for space, kind in VARIANTS if kind != ALONE)
    best = common.best_of_kinds(frame, OWN, kinds, least=True)
    return f"Chosen by the smallest mean error: {best}."


def draw(args, frame):
    """Errors by variant, with each seed."""
    metrics = [OWN, TEACHERS]
    figure, axes = common.figure(1, 2, (9, 3))
    for axis, metric in zip(axes[0], metrics, strict=True):
        rows = frame[frame["metric"] == metric]
        names = list(dict.fromkeys(rows["variant"]))
        for place, name in enumerate(names):
            color = common.BLUE if name.startswith("relative") else common.VERMILION
            common.draw_point(axis, place, rows[rows["variant"] == name]["value"], color)
        axis.set(title=metric, xticks=range(len(names)), ylim=(0, None))
        axis.set_xticklabels(names, rotation=30, ha="right")
    return figure


def parse(argv):
    options = common.parser(__doc__, "relative_distillation", epochs=5, batch_size=128)
    add = options.add_argument
    add("--samples", type=int, default=10_000, help="number of training samples")
    add("--anchors", type=int, default=100)
    add("--latents", type=int, default=32, help="width of the latents")
    add("--teacher-width", type=int, default=16)
    add("--student-width", type=int, default=2)
    add("--select", action="store_true", help="compare weights on the validation split instead")
    return common.arguments(options, argv, quick={"epochs": 7, "anchors": 50})


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``; errors in %."""
    args = parse(argv)
    if args.select:
        return common.select(args, run_seed, "Errors on validation, in %", conclude)
    return common.run(args, run_seed, tables, draw, explain, verdict=verdict)


def verdict(args, frame):
    """What the penalties bring in each space."""
    errors = dict.fromkeys([OWN, TEACHERS], "min")
    students = [frame[frame["variant"].str.startswith(f"{space}, ")] for space in SPACES]
    return "\n".join(
        common.effects(rows, f"{space}, {ALONE}", errors)
        for space, rows in zip(SPACES, students, strict=True)
    )


def tables(args, frame):
    return {"Errors on the test split, in %": common.summary(frame, "variant", "metric")}


def explain(args):
    return (
        f"Small CNNs of {args.teacher_width} and {args.student_width} channels, latents of width "
        f"{args.latents}, {args.anchors} anchors, {args.samples} training images, {args.epochs} "
        f"epochs, batches of {args.batch_size}."
    )


if __name__ == "__main__":
    main()
