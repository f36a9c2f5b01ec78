"""What do graphs give where labels are missing, wrong or few?

Trains the same network by cross-entropy, by what others use in its place, and with our losses, as
the only loss or beside cross-entropy. Four cases:

    open classes   three classes are kept out of training; their test images are to find each other
    20 % wrong     of the training labels: replaced by another class
    40 % wrong     likewise
    few labels     ten of each class; they make up half of every batch, images without one the other

    python examples/imperfect_labels.py --quick                 # digits, two cases
    python examples/imperfect_labels.py --data digits --epochs 20
    python examples/imperfect_labels.py                         # MNIST, 6,000 images
    python examples/imperfect_labels.py --data cifar10 --few 10000 --epochs 15
    python examples/imperfect_labels.py --select ...            # settings, on the validation split

--select tries as many settings of every method on validation data, over seeds that are not reported
later. Classes that are kept out are drawn anew for each seed. Needs the extra ``examples`` and, for
data other than digits, ``datasets``. Prints a table for each case and writes the figure into
--output.
"""

from collections.abc import Callable
from typing import NamedTuple

import common
import keras
import networks
import numpy as np
import regularizers
from keras import ops
from sklearn.neighbors import KNeighborsClassifier

import keras_lgg as lgg
from keras_lgg import losses, retrieval

UNKNOWN = -1  # in place of a label
KEPT_OUT = 3  # classes
LABELLED = 10  # images of each class
NAME = "embedder"
PLAIN, PIXELS = "cross-entropy", "pixels"


# ---- losses that others use ---------------------------------------------------------------------


class SupervisedContrastive(losses.GeometryLoss):
    """Every other sample of the class should be near (Khosla et al., NeurIPS 2020, eq. 2)."""

    needs_labels = True

    def __init__(self, temperature):
        super().__init__(name="contrastive")
        self.temperature = temperature

    def call(self, y_true, y_pred):
        labels = ops.reshape(y_true, (-1,))
        n = ops.shape(labels)[0]
        others = 1 - ops.eye(n, dtype=y_pred.dtype)
        logits = ops.matmul(y_pred, ops.transpose(y_pred)) / self.temperature - 1e9 * (1 - others)
        same = ops.equal(labels[:, None], labels[None, :])
        same = ops.cast(ops.logical_and(same, labels[:, None] != UNKNOWN), y_pred.dtype) * others
        count = ops.sum(same, axis=1)
        # Where there is no other sample of a class there is nothing to learn.
        return -ops.sum(same * ops.log_softmax(logits), axis=1) / ops.maximum(count, 1)


# ---- methods ------------------------------------------------------------------------------------


class Setup(NamedTuple):
    """How a method trains: by the loss of embeddings, or else by cross-entropy on top of them."""

    loss: losses.GeometryLoss | None = None
    penalties: tuple[lgg.Penalty, ...] = ()
    unit: bool = False  # embeddings of length 1
    scale: float = 1.0  # of their logits
    smoothing: float = 0.0  # of labels
    twins: float | None = None  # noise of the second half of a batch, which is the first again
    pseudo: float | None = None  # confidence from which on a prediction is taken for a label


class Method(NamedTuple):
    """``setup(classes, setting)`` and the settings that --select tries."""

    setup: Callable[[int, float], Setup]
    settings: tuple[float, ...]
    for_unlabelled: bool = False


def beside(loss, taps=NAME):
    """Cross-entropy with a penalty; the setting multiplies its default weight."""

    def setup(classes, multiple):
        made = loss(classes)
        weight = multiple * made.default_weight(BATCH)
        return Setup(penalties=(lgg.Penalty(made, taps, weight=weight, name="penalty"),))

    return setup


def relative_smoothness(classes):
    return losses.SmoothnessVariation(
        power=2, num_classes=classes, relative=True, ignore_class=UNKNOWN
    )


def twins(_, weight):
    loss = regularizers.TwinGraphs(name="twins")
    return Setup(penalties=(lgg.Penalty(loss, f"classifier/{NAME}", weight=weight),), twins=0.4)


def graph_smoothness(alpha):
    return losses.GraphSmoothness(
        alpha=alpha, ignore_class=UNKNOWN, reduction="sum_over_batch_size"
    )


def target_graph(classes):
    return losses.TargetGraph(num_classes=classes, ignore_class=UNKNOWN)


BATCH = 100
MULTIPLES = (0.1, 1.0, 10.0, 100.0)
LAYERS = [f"{NAME}/small_cnn/{stage}" for stage in networks.STAGES]
METHODS = {
    PLAIN: Method(lambda *_: Setup(), (0.0,)),
    "label smoothing": Method(lambda _, share: Setup(smoothing=share), (0.1, 0.2, 0.4, 0.6)),
    "normalised softmax": Method(lambda _, s: Setup(unit=True, scale=s), (4.0, 8.0, 16.0, 32.0)),
    "supervised contrastive": Method(
        lambda _, t: Setup(SupervisedContrastive(t), unit=True), (0.05, 0.1, 0.3, 1.0)
    ),
    "pseudo-labels": Method(
        lambda _, share: Setup(pseudo=share), (0.5, 0.8, 0.95, 0.99), for_unlabelled=True
    ),
    "graph smoothness": Method(
        lambda _, alpha: Setup(graph_smoothness(alpha)), (0.03, 0.1, 0.3, 1.0)
    ),
    "target graph": Method(
        lambda classes, share: Setup(
            losses.TargetGraph(
                affinity=np.where(np.eye(classes), 1, share).astype("float32"),
                ignore_class=UNKNOWN,
                reduction="sum_over_batch_size",
            ),
            unit=True,
        ),
        (0.0, 0.1, 0.3, 0.5),
    ),
    "cross-entropy + graph smoothness": Method(beside(lambda _: graph_smoothness(1.0)), MULTIPLES),
    "cross-entropy + target graph": Method(beside(target_graph), MULTIPLES),
    "cross-entropy + smooth layers": Method(beside(relative_smoothness, LAYERS), MULTIPLES),
    "cross-entropy + noisy twins": Method(twins, (1.0, 3.0, 10.0, 30.0), for_unlabelled=True),
}


# ---- cases --------------------------------------------------------------------------------------


class Case(NamedTuple):
    """``change(arrays, rng)`` gives the arrays to train with; and what is scored."""

    change: Callable
    is_open: bool = False
    has_unlabelled: bool = False


def without_some_classes(arrays, rng):
    """Of the held-out splits, only the classes that are kept out of the training."""
    classes = rng.permutation(arrays.classes)
    hidden, shown = classes[:KEPT_OUT], classes[KEPT_OUT:]
    return arrays._replace(
        train=of_classes(arrays.train, shown),
        validation=of_classes(arrays.validation, hidden),
        test=of_classes(arrays.test, hidden),
    )


def of_classes(split, classes):
    """The images and labels of a split that are of these classes."""
    images, labels = split
    chosen = np.isin(labels, classes)
    return images[chosen], labels[chosen]


def with_wrong_labels(share):
    def change(arrays, rng):
        images, labels = arrays.train
        is_wrong = rng.random(len(labels)) < share
        other = (labels + rng.integers(1, arrays.classes, len(labels))) % arrays.classes
        return arrays._replace(train=(images, np.where(is_wrong, other, labels).astype("int32")))

    return change


def with_few_labels(arrays, rng):
    """The labelled images again and again, so that they are as many as those without a label."""
    images, labels = arrays.train
    known = np.concatenate(
        [rng.permutation(np.flatnonzero(labels == c))[:LABELLED] for c in range(arrays.classes)]
    )
    rest = np.setdiff1d(np.arange(len(labels)), known)
    order = np.concatenate([np.resize(known, len(rest)), rest])
    shown = np.where(np.isin(order, known), labels[order], UNKNOWN).astype("int32")
    return arrays._replace(train=(images[order], shown))


CASES = {
    "open classes": Case(without_some_classes, is_open=True),
    "20 % wrong": Case(with_wrong_labels(0.2)),
    "40 % wrong": Case(with_wrong_labels(0.4)),
    "few labels": Case(with_few_labels, has_unlabelled=True),
}


# ---- the experiment -----------------------------------------------------------------------------


def train(args, arrays, method, setting, seed, label):
    """The trained embedder, and the classifier that ends in its logits where there is one."""
    data = common.pipelines(arrays, args, seed)
    keras.utils.set_random_seed(seed)
    setup = METHODS[method].setup(data.classes, setting)
    embedder = network(args, data.shape, setup.unit)
    if setup.loss:
        common.fit(embedder, setup.loss, data, args, seed=seed, label=label, metrics=[])
        return common.deployable(data, embedder), None
    model = classifier = with_logits(embedder, data.classes, setup)
    if setup.twins:
        model = regularizers.with_twins(classifier, keras.layers.GaussianNoise(setup.twins))
    if setup.penalties:
        model = lgg.GeometryModel(model, setup.penalties)
    loss = SmoothedCrossEntropy(data.classes, setup.smoothing)
    common.fit(model, loss, data, args, seed=seed, label=label, metrics=[])
    trained = tuple(common.deployable(data, each) for each in (embedder, classifier))
    if setup.pseudo:
        labelled = with_pseudo_labels(arrays, trained[1], setup.pseudo)
        return train(args, labelled, PLAIN, 0.0, seed, f"{label}, again")
    return trained


def network(args, shape, unit):
    bounds = [keras.layers.BatchNormalization(momentum=0.9, scale=False, center=False)]
    if unit:
        bounds.append(keras.layers.UnitNormalization())
    layers = [networks.small_cnn(shape, args.width), *bounds]
    return keras.Sequential(layers, name=NAME)


def with_logits(embedder, classes, setup):
    """With a layer of logits; of unit embeddings, the scaled cosines to a vector of each class."""
    options = {"use_bias": False, "kernel_constraint": keras.constraints.UnitNorm(axis=0)}
    dense = keras.layers.Dense(classes, **(options if setup.unit else {}))
    inputs = embedder.inputs[0]
    logits = dense(keras.layers.Rescaling(setup.scale)(embedder(inputs)))
    return keras.Model(inputs, logits, name="classifier")


def with_pseudo_labels(arrays, classifier, confidence):
    """Images without a label have the most probable one, if that is sure (Lee, 2013)."""
    images, labels = arrays.train
    probabilities = ops.convert_to_numpy(ops.softmax(outputs(classifier, images)))
    is_sure = (labels == UNKNOWN) & (probabilities.max(axis=1) >= confidence)
    guessed = np.where(is_sure, probabilities.argmax(axis=1), labels).astype("int32")
    return arrays._replace(train=(images, guessed))


class SmoothedCrossEntropy(keras.losses.Loss):
    """Of logits and labels, of which some may be unknown; with a share of every other class."""

    def __init__(self, classes, smoothing):
        super().__init__(name="cross_entropy")
        self.classes, self.smoothing = classes, smoothing

    def call(self, y_true, y_pred):
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        is_known = ops.cast(labels != UNKNOWN, y_pred.dtype)
        wanted = ops.one_hot(labels, self.classes, dtype=y_pred.dtype)
        wanted = (1 - self.smoothing) * wanted + self.smoothing / self.classes
        values = keras.losses.categorical_crossentropy(wanted, y_pred, from_logits=True)
        known = ops.maximum(ops.sum(is_known), 1)
        return values * is_known * ops.cast(ops.shape(labels)[0], y_pred.dtype) / known


def run_seed(args, seed):
    """Every case and method: rows for `common.run`, in %."""
    arrays = common.few(common.load(args), args.few, seed)
    split = "validation" if args.select else "test"
    rows = []
    for name in args.cases:
        case = CASES[name]
        changed = case.change(arrays, np.random.default_rng(seed))
        if case.is_open:
            rows += found(name, PIXELS, scores(case, changed, split, None, None))
        for method, settings in methods(args, name).items():
            for setting in settings:
                label = f"{method}, {setting:g}" if args.select else method
                trained = train(args, changed, method, setting, seed, f"{name}, {label}")
                rows += found(name, label, scores(case, changed, split, *trained))
    return rows


def methods(args, case):
    """The settings to train with, by method."""
    chosen = CHOSEN.get(args.data, {}).get(case, {})
    named = {name: METHODS[name] for name in args.methods}
    return {
        name: method.settings
        if args.select
        else [chosen.get(name, method.settings[len(method.settings) // 2])]
        for name, method in named.items()
        if CASES[case].has_unlabelled or not method.for_unlabelled
    }


def found(case, variant, values):
    return [
        {"variant": variant, "metric": f"{case}: {metric}", "value": 100 * value}
        for metric, value in values.items()
    ]


def scores(case, arrays, split, embedder, classifier):
    """Of the embeddings; without an embedder, of pixels."""
    images, labels = getattr(arrays, split)
    if case.is_open:
        embedded = outputs(embedder, images)
        values = retrieval.evaluate(embedded, labels=labels, k=[1], metric="euclidean")
        return {"recall@1": values["recall@1"], "MAP@R": values["map@r"]}
    shown, given = (part[arrays.train[1] != UNKNOWN] for part in arrays.train)
    neighbours = KNeighborsClassifier(10).fit(outputs(embedder, shown), given)
    values = {"10-NN": neighbours.score(outputs(embedder, images), labels)}
    if classifier:
        guessed = outputs(classifier, images).argmax(axis=1)
        values["its own layer"] = np.mean(guessed == labels)
    return values


def outputs(model, images):
    """Of pixels; they themselves without a model."""
    if model is None:
        return images.reshape(len(images), -1).astype("float32")
    return common.outputs(model, images / np.float32(255))


def conclude(frame):
    """Of each case and method the setting of the best mean of what is scored."""
    frame = frame[frame["variant"] != PIXELS]
    means = (
        frame.assign(
            case=frame["metric"].str.partition(": ")[0],
            method=frame["variant"].str.rpartition(", ")[0],
            setting=frame["variant"].str.rpartition(", ")[2],
        )
        .groupby(["case", "method", "setting"], sort=False)["value"]
        .mean()
    )
    best = means.groupby(["case", "method"], sort=False).idxmax()
    lines = {}
    for case, method, setting in best:
        lines.setdefault(case, []).append(f"{method} {setting}")
    chosen = "; ".join(f"{case}: {', '.join(settings)}" for case, settings in lines.items())
    return f"Chosen by the best mean of what is scored. {chosen}."


def tables(args, frame):
    where = "the test split, in %"
    return {f"{case}, {where}": table for case, table in common.summaries(frame).items()}


def verdict(args, frame):
    """Of what all methods have, which is not a layer of their own."""
    parts = frame["metric"].str.partition(": ")
    groups = frame.assign(metric=parts[2]).groupby(parts[0], sort=False)
    return "\n".join(
        common.effects_by_case([group], PLAIN, dict.fromkeys(measures(group[0]), "max"))
        for group in groups
    )


def measures(case):
    return ["recall@1", "MAP@R"] if CASES[case].is_open else ["10-NN"]


def draw(args, frame):
    names = dict.fromkeys(frame["variant"])
    colors = {name: common.VERMILION if name in OTHERS else common.BLUE for name in names}
    panels = {}
    for case in args.cases:
        metric = measures(case)[-1]
        panels[f"{case}: {metric}"] = f"{case},\n{metric} in %"
    return common.draw_methods(frame, panels, colors)


OTHERS = (
    PIXELS,
    PLAIN,
    "label smoothing",
    "normalised softmax",
    "supervised contrastive",
    "pseudo-labels",
)
# By --select, recorded in docs/results/records/embeddings.md; else the third of the settings.
CHOSEN: dict[str, dict[str, dict[str, float]]] = {}


def parse(argv):
    options = common.parser(__doc__, "imperfect_labels", epochs=10, batch_size=BATCH)
    add = options.add_argument
    add("--few", type=int, default=6000, help="training images at most")
    add("--width", type=int, default=16, help="width of the embedding")
    add("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    add("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    add("--select", action="store_true", help="choose the settings on validation data instead")
    quick = {
        "cases": ["open classes", "40 % wrong"],
        "methods": [PLAIN, "supervised contrastive", "graph smoothness"],
    }
    args = common.arguments(options, argv, quick=quick)
    return common.apart_from_reported(args)


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``; values in %."""
    args = parse(argv)
    if args.select:
        return common.select(args, run_seed, "Scores on validation, in %", conclude)
    return common.run(args, run_seed, tables, draw, explain, verdict=verdict)


def explain(args):
    chosen = [
        f"{case}: "
        + ", ".join(f"{name} {found[0]:g}" for name, found in methods(args, case).items())
        for case in args.cases
    ]
    return (
        f"A small CNN, embeddings of width {args.width}; {args.few} training images at most, "
        f"{args.epochs} epochs, batches of {args.batch_size}. Open classes: {KEPT_OUT} classes, "
        "drawn for each seed, are no part of the training; their test images are to find each "
        "other. Else: accuracy on test images by the 10 nearest training images that have a label, "
        f"and by the layer that was trained. Few labels: {LABELLED} of each class. Settings, for "
        f"penalties in multiples of their default weight: {'; '.join(chosen)}."
    )


if __name__ == "__main__":
    main()
