"""Does a student learn from its teacher's geometry? Alone, logits, RKD-D, GKD, GKD + logits.

Trains a teacher, then smaller students that start from the same weights and see the same batches:
alone, or distilled at three taps. Teacher and student are WideResNets unless you choose others; as
graphs are compared, the layers may differ in shape.

    python examples/distillation.py --quick             # digits, about a minute
    python examples/distillation.py                     # MNIST
    python examples/distillation.py --data cifar10 --depth 28 --epochs 200 --augment crop flip
    python examples/distillation.py --teacher vision_transformer --student small_cnn --pooled
    python examples/distillation.py --methods all       # beside what others distil by
    python examples/distillation.py --select ...        # how the weights are chosen

--select chooses the weights of the penalties on the validation split; the table is of the test
split. Needs the extras ``examples`` and, for data other than digits, ``datasets``. Prints one
table and writes, into --output, the figure and each network of the first seed as a plain Keras
model of pixels in [0, 1].
"""

import common
import keras
import networks
import numpy as np
from distillation_losses import AttentionTransfer, DecoupledDistillation, Dist

import keras_lgg as lgg

TEACHER, ALONE = "teacher", "student alone"
POOLED = "GKD, pooled"  # the mean of all positions in place of each of them
COLORS = {
    ALONE: common.VERMILION,
    "logits": common.ORANGE,
    "RKD-D": common.GREEN,
    "GKD": common.BLUE,
    POOLED: common.SKY,
    "GKD + logits": common.PURPLE,
    "SPKD": common.YELLOW,
    "PKT": "#999999",
    "CCKD": "#8C564B",
    "attention transfer": "#882255",
    "DIST": "#AA4499",
    "DKD": "#661100",
}
# By name: how to build it, its taps, and its width as a teacher and as a student.
NETWORKS = {
    "wide_resnet": (networks.wide_resnet, networks.GROUPS, 1, 0.5),
    "small_cnn": (networks.small_cnn, networks.STAGES, 32, 4),
    "vision_transformer": (networks.vision_transformer, networks.ENCODERS, 64, 16),
}
# With the paper's code, CIFAR-10: WideResNet28-1 to WideResNet28-0.5, 200 epochs. Mean and range
# of ten students, tested on the JPEG copy of CIFAR-10 that they were not trained on.
PUBLISHED = {TEACHER: "18.0", "RKD-D": "20.6 (19.4 to 21.2)", "GKD": "20.0 (19.2 to 21.1)"}
PUBLISHED_WEIGHTS = {
    "logits": 0.5,
    "RKD-D": 25.0,
    "GKD": 25.0,
    POOLED: 25.0,
    "SPKD": 3000.0,
    "attention transfer": 1000.0,
    "DIST": 2.0,
    "DKD": 1.0,
    # Of ours, whose scale is another: the default for batches of 128, and a tenth of it.
    "PKT": 2560.0,
    "CCKD": 2.0,
}
# By set, teacher and student: the weights that --select prints, recorded in
# docs/results/records/distillation.md.
CHOSEN = {
    ("mnist", "wide_resnet", "wide_resnet"): {"logits": 2.0, "RKD-D": 5.0, "GKD": 25.0},
    ("mnist", "vision_transformer", "small_cnn"): {
        "logits": 0.1,
        "RKD-D": 5.0,
        "GKD": 5.0,
        POOLED: 5.0,
    },
    ("mnist", "small_cnn", "vision_transformer"): {
        "logits": 2.0,
        "RKD-D": 25.0,
        "GKD": 5.0,
        POOLED: 5.0,
    },
}
GRID = {
    "logits": (0.1, 0.5, 2.0),
    "RKD-D": (5.0, 25.0, 125.0),
    "GKD": (5.0, 25.0, 125.0, 625.0),
    POOLED: (5.0, 25.0, 125.0, 625.0),
    "SPKD": (30.0, 300.0, 3000.0, 30000.0),
    "PKT": (25.0, 250.0, 2500.0, 25000.0),
    "CCKD": (2.0, 20.0, 200.0, 2000.0),
    "attention transfer": (10.0, 100.0, 1000.0, 10000.0),
    "DIST": (0.1, 0.5, 2.0),
    "DKD": (0.1, 0.5, 2.0),
}
MAIN = ["logits", "RKD-D", "GKD"]
ON_LOGITS = {"DIST": Dist, "DKD": DecoupledDistillation}
ON_LAYERS = {
    "RKD-D": lgg.losses.RelationalDistance,
    "SPKD": lgg.losses.SimilarityPreserving,
    "PKT": lgg.losses.ProbabilisticTransfer,
    "CCKD": lgg.losses.CorrelationCongruence,
    "attention transfer": AttentionTransfer,
}


def network(args, data, name, width):
    wide = name == "wide_resnet"  # of which a fraction is a width
    options = {"width": width, "depth": args.depth} if wide else {"width": int(width)}
    return NETWORKS[name][0](data.shape, data.classes, **options)


def penalty(args, kind, weight):
    taps = list(zip(NETWORKS[args.teacher][1], NETWORKS[args.student][1], strict=True))
    if kind == "logits":
        loss, taps = keras.distillation.LogitsDistillation(temperature=args.temperature), None
    elif kind in ON_LOGITS:
        loss, taps = ON_LOGITS[kind](temperature=args.temperature), None
    elif kind in ON_LAYERS:
        loss = ON_LAYERS[kind]()
    else:
        loss = lgg.losses.GraphDistillation(k=args.k, power=args.power, pairs=args.pairs)
    return lgg.Penalty(loss, taps=taps, weight=weight, pool="mean" if kind == POOLED else None)


def train(args, arrays, seed, label, *, name, width, teacher=None, weights=None):
    """A trained network, distilled from the teacher with these weights where it has one."""
    data = common.pipelines(arrays, args, seed)
    keras.utils.set_random_seed(seed)
    model = student = network(args, data, name, width)
    if weights:
        penalties = [penalty(args, kind, weight) for kind, weight in weights.items()]
        model = lgg.Distiller(teacher, student, penalties)
    common.fit(model, common.cross_entropy(), data, args, seed=seed, label=label)
    return student, data


def students(args):
    """The variants by name, with the weights of their penalties."""
    chosen = CHOSEN.get((args.data, args.teacher, args.student), {})
    weights = PUBLISHED_WEIGHTS | chosen
    single = {kind: {kind: weights[kind]} for kind in kinds(args)}
    return {ALONE: None, **single, "GKD + logits": {k: weights[k] for k in ("GKD", "logits")}}


def kinds(args):
    asked = list(GRID) if args.methods == ["all"] else args.methods
    return [kind for kind in GRID if (args.pooled if kind == POOLED else kind in asked)]


def candidates(args):
    return {ALONE: None} | {
        f"{kind}, weight {weight:g}": {kind: weight}
        for kind in kinds(args)
        for weight in GRID[kind]
    }


def run_seed(args, seed):
    """Train teacher and students: rows for `common.run_seeds`."""
    arrays = common.load(args)
    teacher, data = train(args, arrays, seed, TEACHER, name=args.teacher, width=args.teacher_width)
    trained = {TEACHER: teacher}
    options = {"name": args.student, "width": args.student_width, "teacher": teacher}
    for variant, weights in (candidates(args) if args.select else students(args)).items():
        trained[variant], _ = train(args, arrays, seed, variant, weights=weights, **options)
    held_out = data.validation if args.select else data.test
    images, labels = map(np.concatenate, zip(*held_out.as_numpy_iterator(), strict=True))
    classes = {v: common.outputs(model, images).argmax(axis=-1) for v, model in trained.items()}
    rows = []
    for variant, model in trained.items():
        measured = {
            "error (%)": 100 * np.mean(classes[variant] != labels),
            "agrees with the teacher (%)": 100 * np.mean(classes[variant] == classes[TEACHER]),
            "parameters (thousands)": model.count_params() / 1000,
        }
        rows += [{"variant": variant, "metric": m, "value": v} for m, v in measured.items()]
        if seed == args.seed and not args.select:
            common.save(common.deployable(data, model), args, variant)
    return rows


def conclude(frame):
    """Of each kind of penalty, the weight of the smallest error."""
    best = common.best_of_kinds(frame, "error (%)", GRID, least=True)
    return f"Chosen by the smallest mean error: {best}."


def draw(args, frame):
    colors = {variant: COLORS[variant] for variant in students(args)}
    return common.draw_students(frame, colors, ["error (%)", "agrees with the teacher (%)"])


def parse(argv):
    options = common.parser(__doc__, "distillation", epochs=5, batch_size=128)
    add = options.add_argument
    add("--teacher", choices=NETWORKS, default="wide_resnet")
    add("--student", choices=NETWORKS, default="wide_resnet")
    add("--depth", type=int, default=10, help="of WideResNets: 6 n + 4; 28 in the paper")
    add("--teacher-width", type=float, help="by default 1, 32 or 64, by network")
    add("--student-width", type=float, help="by default 0.5, 4 or 16, by network")
    add("--pooled", action="store_true", help="distil means over all positions, too")
    add("--k", type=int, help="nearest neighbours in the graphs; by default all")
    add("--power", type=int, default=1, help="power of the graphs")
    add("--pairs", choices=["all", "intra", "inter"], default="all")
    add("--temperature", type=float, default=4.0, help="temperature of the logits")
    known = ["all", *(kind for kind in GRID if kind != POOLED)]
    add("--methods", nargs="+", choices=known, default=MAIN, metavar="M", help=", ".join(known))
    add("--select", action="store_true", help="compare weights on the validation split instead")
    args = common.arguments(options, argv, quick={"epochs": 6})
    own = args.teacher, args.student
    if own != ("wide_resnet", "wide_resnet"):
        args.subject.append(f"{args.teacher}_to_{args.student}")
    elif args.quick:
        args.student_width = args.student_width or 0.25
    args.teacher_width = args.teacher_width or NETWORKS[args.teacher][2]
    args.student_width = args.student_width or NETWORKS[args.student][3]
    return args


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``."""
    args = parse(argv)
    if args.select:
        return common.select(args, run_seed, "Validation split", conclude)
    return common.run(args, run_seed, tables, draw, explain, verdict=verdict)


def verdict(args, frame):
    students = frame[frame["variant"] != TEACHER]
    return common.effects(students, ALONE, {"error (%)": "min"})


def tables(args, frame):
    table = common.summary(frame, "variant", "metric")
    if is_published(args):
        table["published error (%)"] = [PUBLISHED.get(variant, "") for variant in table.index]
    return {"Test split": table}


def is_published(args):
    return args.data == "cifar10" and args.teacher == args.student == "wide_resnet"


def explain(args):
    chosen = students(args)
    weights = ", ".join(f"{kind} {chosen[kind][kind]:g}" for kind in kinds(args))
    text = (
        f"{named(args, args.teacher, args.teacher_width)} to "
        f"{named(args, args.student, args.student_width)}, {args.epochs} epochs, batches of "
        f"{args.batch_size}; GKD with k {args.k or 'all'}, power {args.power}, {args.pairs} pairs; "
        f"weights: {weights}. Error and agreement are of the test split."
    )
    if args.pooled:
        text += (
            " GKD compares samples position by position, pooled GKD by the mean over all positions."
        )
    if is_published(args):
        text += (
            " Published: the authors' released WideResNet28-1 and its WideResNet28-0.5 students "
            "after 200 epochs, tested on the JPEG copy, which they never saw in training (mean "
            "and range of ten)."
        )
    return text


def named(args, name, width):
    if name == "wide_resnet":
        return f"WideResNet{args.depth}-{width:g}"
    return f"{name} of width {width:g}"


if __name__ == "__main__":
    main()
