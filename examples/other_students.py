"""Students that are not small copies: do they learn from a teacher's geometry, with few labels?

A small CNN teaches, by its logits, its features or its graph, students that have ten labels of each
class, and as many images without one as there are. Four cases:

    other classes   the teacher knows half of the classes, the student is to learn the other half
    profiles        the student sees of an image the mean of each row and of each column alone
    pruned          a copy of the teacher, without all but a few of its weights
    quantised       a copy of the teacher, whose convolutions have three levels a channel

    python examples/other_students.py --quick                 # digits, two cases
    python examples/other_students.py --data digits --epochs 20
    python examples/other_students.py                         # MNIST, 6,000 images
    python examples/other_students.py --data cifar10 --few 10000 --epochs 15
    python examples/other_students.py --select ...            # weights, on the validation split

Needs the extra ``examples`` and, for data other than digits, ``datasets``. --select tries as many
weights of every method on validation data, over seeds that are not reported later. Prints a table
for each case and writes the figure into --output.
"""

from collections.abc import Callable
from typing import NamedTuple

import common
import imperfect_labels
import keras
import networks
import numpy as np
from distillation_losses import AttentionTransfer, divergence
from keras import layers, ops

import keras_lgg as lgg
from keras_lgg import losses

TEACHER, ALONE = "teacher", "student alone"
TAPS = networks.STAGES
TEACHER_WIDTH, STUDENT_WIDTH = 16, 4
KEPT = 0.05  # of the weights of a pruned convolution
TEMPERATURE = 4.0


# ---- students -----------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("other_students")
class Profiles(layers.Layer):
    """The means of rows and of columns, of images ``(n, h, w, c)``: ``(n, (h + w) c)``."""

    def call(self, images):
        profiles = [layers.Flatten()(ops.mean(images, axis=axis)) for axis in (1, 2)]
        return ops.concatenate(profiles, axis=1)


@keras.saving.register_keras_serializable("other_students")
class FirstHead(layers.Layer):
    """The first half of the features."""

    def call(self, x):
        return x[:, : x.shape[-1] // 2]


@keras.saving.register_keras_serializable("other_students")
class ThreeLevels(layers.Conv2D):
    """Weights of -s, 0 or s in each channel, s being their largest; gradients pass through."""

    def convolution_op(self, inputs, kernel):
        scale = ops.max(ops.abs(kernel), axis=(0, 1, 2), keepdims=True) + 1e-12
        rounded = ops.stop_gradient(scale * ops.round(kernel / scale) - kernel)
        return super().convolution_op(inputs, kernel + rounded)


class Kept(keras.constraints.Constraint):
    """Weights that are 0 stay 0."""

    def __init__(self, kernel, share):
        size = np.abs(ops.convert_to_numpy(kernel))
        self.mask = (size >= np.quantile(size, 1 - share)).astype("float32")

    def __call__(self, w):
        return w * self.mask


def two_heads(args, data, teacher):
    """The second head is for what the teacher knows, where a method asks for that."""
    del teacher
    network = networks.small_cnn(data.shape, 2 * data.classes, width=STUDENT_WIDTH)
    return keras.Model(network.input, FirstHead()(network.output))


def of_profiles(args, data, teacher):
    del teacher
    inputs = x = keras.Input(data.shape)
    x = Profiles()(x)
    for name in TAPS:
        x = networks.normalized_relu(layers.Dense(64)(x), name)
    return keras.Model(inputs, layers.Dense(data.classes)(x))


def pruned(args, data, teacher):
    student = copied(teacher)
    for layer in student.layers:
        if isinstance(layer, layers.Conv2D):
            layer.kernel.constraint = Kept(layer.kernel, KEPT)
            layer.kernel.assign(layer.kernel.constraint(layer.kernel))
    return student


def quantised(args, data, teacher):
    def clone(layer):
        kind = ThreeLevels if isinstance(layer, layers.Conv2D) else type(layer)
        return kind.from_config(layer.get_config())

    return copied(teacher, clone_function=clone)


def copied(network, **options):
    uncompiled = keras.Model(network.input, network.output)
    copy = keras.models.clone_model(uncompiled, **options)
    copy.set_weights(network.get_weights())
    return copy


class Case(NamedTuple):
    """How the student is built, and which methods it cannot take."""

    student: Callable
    cannot: tuple[str, ...]
    is_split: bool = False  # teacher and student have other classes


LOGITS, SECOND, FEATURES = "logits", "logits, second head", "features"
CASES = {
    "other classes": Case(two_heads, (LOGITS, FEATURES, "GKD + logits"), is_split=True),
    "profiles": Case(of_profiles, (SECOND, FEATURES, "attention transfer")),
    "pruned": Case(pruned, (SECOND,)),
    "quantised": Case(quantised, (SECOND,)),
}


# ---- methods ------------------------------------------------------------------------------------


class OfSecondHead(losses.GeometryLoss):
    """Hinton's divergence between the teacher's logits and the last of the student's."""

    needs_teacher = True

    def call(self, y_true, y_pred):
        given = y_pred[:, -y_true.shape[-1] :]
        wanted, given = (ops.log_softmax(x / TEMPERATURE) for x in (y_true, given))
        return TEMPERATURE**2 * divergence(wanted, given)


def on_layers(loss):
    return lambda teacher, student, weight: lgg.Penalty(
        loss(), [(tap, tap) for tap in TAPS], weight=weight
    )


def on_logits(teacher, student, weight):
    loss = keras.distillation.LogitsDistillation(temperature=TEMPERATURE)
    return lgg.Penalty(loss, weight=weight)


def on_second_head(teacher, student, weight):
    logits, heads = teacher.layers[-1].name, student.layers[-2].name
    return lgg.Penalty(OfSecondHead(), [(logits, heads)], weight=weight)


def on_features(teacher, student, weight):
    loss = keras.distillation.FeatureDistillation("mse", TAPS[-1], TAPS[-1])
    return lgg.Penalty(loss, weight=weight)


# How a penalty is made, and the weights that --select tries.
METHODS = {
    LOGITS: (on_logits, (0.1, 0.5, 2.0, 8.0)),
    SECOND: (on_second_head, (0.1, 0.5, 2.0, 8.0)),
    FEATURES: (on_features, (0.1, 1.0, 10.0, 100.0)),
    "attention transfer": (on_layers(AttentionTransfer), (10.0, 100.0, 1e3, 1e4)),
    "SPKD": (on_layers(losses.SimilarityPreserving), (20.0, 200.0, 2e3, 2e4)),
    "RKD-D": (on_layers(losses.RelationalDistance), (1.0, 5.0, 25.0, 125.0)),
    "GKD": (on_layers(losses.GraphDistillation), (1.0, 5.0, 25.0, 125.0)),
}
PAIR = "GKD + logits"


# ---- the experiment -----------------------------------------------------------------------------


def train(args, arrays, student, seed, label, *, teacher=None, penalties=()):
    """The network, trained; from the teacher with these penalties where there are some."""
    data = common.pipelines(arrays, args, seed)
    model = lgg.Distiller(teacher, student, penalties) if penalties else student
    loss = imperfect_labels.SmoothedCrossEntropy(arrays.classes, 0.0)
    common.fit(model, loss, data, args, seed=seed, label=label, metrics=[])
    return student


def run_seed(args, seed):
    """Every case and method: rows for `common.run`, in %."""
    arrays = common.few(common.load(args), args.few, seed)
    split = "validation" if args.select else "test"
    rows, teachers = [], {}
    for name in args.cases:
        case = CASES[name]
        own, others = halves(arrays, seed) if case.is_split else (arrays, arrays)
        if case.is_split not in teachers:
            keras.utils.set_random_seed(seed)
            network = networks.small_cnn(arrays.shape, arrays.classes, width=TEACHER_WIDTH)
            teachers[case.is_split] = train(args, others, network, seed, f"{name}, {TEACHER}")
        teacher = teachers[case.is_split]
        given = imperfect_labels.with_few_labels(own, np.random.default_rng(seed))
        data = common.pipelines(given, args, seed)
        held_out = getattr(own, split)
        if not case.is_split:
            rows.append(row(name, TEACHER, accuracy(data, teacher, *held_out)))
        for label, weights in candidates(args, name).items():
            keras.utils.set_random_seed(seed)
            student = case.student(args, data, teacher)
            penalties = [METHODS[method][0](teacher, student, w) for method, w in weights.items()]
            options = {"teacher": teacher, "penalties": penalties}
            train(args, given, student, seed, f"{name}, {label}", **options)
            rows.append(row(name, label, accuracy(data, student, *held_out)))
    return rows


def halves(arrays, seed):
    """The same, of the classes of the student; and of those of the teacher."""
    classes = np.random.default_rng(seed).permutation(arrays.classes)
    middle, splits = arrays.classes // 2, ("train", "validation", "test")
    return [
        arrays._replace(**{s: imperfect_labels.of_classes(getattr(arrays, s), own) for s in splits})
        for own in (classes[:middle], classes[middle:])
    ]


def accuracy(data, network, images, labels):
    found = common.outputs(common.deployable(data, network), images / np.float32(255))
    return np.mean(found.argmax(axis=1) == labels)


def row(case, variant, value):
    return {"variant": variant, "metric": f"{case}: accuracy", "value": 100 * value}


def candidates(args, case):
    """What is trained: a name, and the weights by method."""
    possible = {name: found for name, found in METHODS.items() if name not in CASES[case].cannot}
    if args.select:
        return {ALONE: {}} | {
            f"{name}, weight {weight:g}": {name: weight}
            for name, (_, weights) in possible.items()
            for weight in weights
        }
    chosen = CHOSEN.get(args.data, {}).get(case, {})
    weights = {name: chosen.get(name, grid[1]) for name, (_, grid) in possible.items()}
    found = {ALONE: {}} | {name: {name: weight} for name, weight in weights.items()}
    if PAIR not in CASES[case].cannot:
        found[PAIR] = {name: weights[name] for name in ("GKD", LOGITS)}
    return found


def conclude(frame):
    """Of each case and method the weight of the best mean."""
    lines = []
    for metric, own in frame.groupby("metric", sort=False):
        best = common.best_of_kinds(own, metric, METHODS, least=False)
        lines.append(f"{metric.partition(': ')[0]}: {best}")
    return f"Chosen by the largest mean accuracy. {'. '.join(lines)}."


def tables(args, frame):
    frame = frame.assign(metric=frame["metric"].str.partition(": ")[0])
    return {"Accuracy on the test split, in %": common.summary(frame, "variant", "metric")}


def verdict(args, frame):
    students = frame[frame["variant"] != TEACHER]
    cases = students["metric"].str.partition(": ")[0]
    groups = students.assign(metric="accuracy").groupby(cases, sort=False)
    return common.effects_by_case(groups, ALONE, {"accuracy": "max"})


def draw(args, frame):
    names = [name for name in dict.fromkeys(frame["variant"]) if name != TEACHER]
    colors = {name: common.BLUE if name in OURS else common.VERMILION for name in names}
    panels = {f"{case}: accuracy": f"{case},\naccuracy in %" for case in args.cases}
    return common.draw_methods(frame, panels, colors)


OURS = ("SPKD", "RKD-D", "GKD", PAIR)
# By --select, recorded in docs/results/records/distillation.md; else the second of the weights.
CHOSEN: dict[str, dict[str, dict[str, float]]] = {}


def parse(argv):
    options = common.parser(__doc__, "other_students", epochs=10, batch_size=100)
    add = options.add_argument
    add("--few", type=int, default=6000, help="training images at most")
    add("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    add("--select", action="store_true", help="choose the weights on validation data instead")
    quick = {"cases": ["other classes", "pruned"]}
    args = common.arguments(options, argv, quick=quick)
    return common.apart_from_reported(args)


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``; values in %."""
    args = parse(argv)
    if args.select:
        return common.select(args, run_seed, "Accuracy on validation, in %", conclude)
    return common.run(args, run_seed, tables, draw, explain, verdict=verdict)


def explain(args):
    chosen = []
    for case in args.cases:
        weights = candidates(args, case)
        of = [f"{name} {weights[name][name]:g}" for name in METHODS if name in weights]
        chosen.append(f"{case}: {', '.join(of)}")
    return (
        f"Small CNNs; {args.few} training images at most, {args.epochs} epochs, batches of "
        f"{args.batch_size}, half of them of the {imperfect_labels.LABELLED} images of each class "
        f"that have a label. The teacher saw all labels. The student is a quarter as wide in the "
        f"first case; the pruned one has {KEPT:.0%} of the weights of each convolution. "
        f"Weights: {'; '.join(chosen)}."
    )


if __name__ == "__main__":
    main()
