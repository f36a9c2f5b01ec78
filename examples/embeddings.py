"""Embeddings by their graph: cross-entropy, graph smoothness, a target graph with a hierarchy.

Trains the same network three ways, classifies its embeddings by 1-NN, 10-NN and a linear SVM, and
retrieves images of the same class within the test split. The target graph asks for similarity 1
within a class, less within a super-class, and 0 otherwise.

    python examples/embeddings.py --quick               # digits, half a minute
    python examples/embeddings.py                       # MNIST
    python examples/embeddings.py --data cifar10 --network wide_resnet --epochs 10
    python examples/embeddings.py --network vision_transformer
    python examples/embeddings.py --select ...          # how the settings are chosen

--select chooses the settings on the validation split; the table is of the test split. Needs
the extras ``examples`` and, for data other than digits, ``datasets``. Prints one table and writes,
into --output, the figure and each embedder of the first seed as a plain Keras model of pixels in
[0, 1].
"""

import common
import keras
import networks
import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import keras_lgg as lgg
from keras_lgg import retrieval

CROSS_ENTROPY, SMOOTHNESS, TARGET = "cross-entropy", "graph smoothness", "target graph"
NETWORKS = {
    "small_cnn": networks.small_cnn,
    "wide_resnet": networks.wide_resnet,
    "vision_transformer": networks.vision_transformer,
}
SIBLINGS = 0.5  # target similarity of two classes of one super-class
# Super-classes: of digits by their shape (with a loop, of straight lines, of open curves).
DIGITS = [(0, 6, 8, 9), (1, 4, 7), (2, 3, 5)]
HIERARCHIES = {
    "digits": DIGITS,
    "mnist": DIGITS,
    "cifar10": [(0, 1, 8, 9), (2, 3, 4, 5, 6, 7)],  # vehicles, animals
}
CLASS_NAMES = {
    "cifar10": ("airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
}
# By --select: see docs/results/records/embeddings.md.
CHOSEN = {
    ("mnist", "small_cnn"): 0.3,
    ("mnist", "vision_transformer"): 0.03,
    ("cifar10", "small_cnn"): 0.03,
}
ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0)  # of --select


def super_classes(args, classes):
    """The super-class of each class; without a hierarchy, each class is its own."""
    groups = HIERARCHIES.get(args.data, [(c,) for c in range(classes)])
    return np.array([next(i for i, g in enumerate(groups) if c in g) for c in range(classes)])


def affinity(args, classes):
    """Similarity that the target graph asks for, class by class."""
    group = super_classes(args, classes)
    related = SIBLINGS * (group[:, None] == group[None, :])
    return np.where(np.eye(classes, dtype=bool), 1.0, related)


def embedder(args, data, variant):
    """A network whose embeddings have a bounded scale, which graph smoothness needs."""
    network = NETWORKS[args.network](data.shape, args.width)
    bounds = [keras.layers.BatchNormalization(momentum=0.9, scale=False, center=False)]
    if variant == TARGET:  # a graph of cosines: lengths mean nothing
        bounds.append(keras.layers.UnitNormalization())
    return keras.Sequential([network, *bounds])


def train(args, arrays, seed, label, *, variant, alpha):
    data = common.pipelines(arrays, args, seed)
    keras.utils.set_random_seed(seed)
    network = embedder(args, data, variant)
    options = {"seed": seed, "label": label}
    if variant == CROSS_ENTROPY:
        model = keras.Sequential([network, keras.layers.Dense(data.classes)])
        common.fit(model, common.cross_entropy(), data, args, **options)
        return network, data
    # The mean over the batch, in place of the sum, keeps the steps of SGD small.
    if variant == SMOOTHNESS:
        loss = lgg.losses.GraphSmoothness(alpha=alpha, reduction="sum_over_batch_size")
    else:
        similarities = affinity(args, data.classes)
        loss = lgg.losses.TargetGraph(affinity=similarities, reduction="sum_over_batch_size")
    common.fit(network, loss, data, args, metrics=[], **options)
    return network, data


def candidates(args):
    """What is trained: a name, the kind of loss, alpha."""
    if args.select:
        smoothness = {f"{SMOOTHNESS}, alpha {a:g}": (SMOOTHNESS, a) for a in ALPHAS}
    else:
        smoothness = {SMOOTHNESS: (SMOOTHNESS, args.alpha)}
    return {CROSS_ENTROPY: (CROSS_ENTROPY, None), **smoothness, TARGET: (TARGET, None)}


def run_seed(args, seed):
    """Train and classify: rows for `common.run_seeds`."""
    arrays = common.load(args)
    rows = []
    for label, (variant, alpha) in candidates(args).items():
        network, data = train(args, arrays, seed, label, variant=variant, alpha=alpha)
        model = common.deployable(data, network)
        held_out = arrays.validation if args.select else arrays.test
        errors = classify(
            (embed(model, arrays.train[0]), arrays.train[1]),
            (embed(model, held_out[0]), held_out[1]),
            super_classes(args, data.classes),
        )
        if not args.select:
            errors |= retrieve(embed(model, held_out[0]), held_out[1])
        rows += [{"variant": label, "metric": m, "value": v} for m, v in errors.items()]
        if seed == args.seed and not args.select:
            common.save(model, args, label)
    return rows


def embed(model, images):
    batches = np.array_split(images, 1 + len(images) // 1000)
    return np.concatenate(
        [keras.ops.convert_to_numpy(model(b / np.float32(255), training=False)) for b in batches]
    )


def classify(train, test, group):
    """Errors in % on the test embeddings of classifiers fitted to the training ones."""
    (x, y), (x_test, y_test) = train, test
    errors = {}
    for k in (1, 10):
        predicted = KNeighborsClassifier(k).fit(x, y).predict(x_test)
        errors[f"{k}-NN error"] = 100 * np.mean(predicted != y_test)
    errors["10-NN super-class error"] = 100 * np.mean(group[predicted] != group[y_test])
    svm = make_pipeline(StandardScaler(), LinearSVC(dual=False)).fit(x, y)
    errors["linear SVM error"] = 100 * (1 - svm.score(x_test, y_test))
    return errors


def retrieve(x, y):
    """In %, of each sample among all others: is the nearest of its class, and those after it?"""
    found = retrieval.evaluate(x, labels=y, k=[1], metric="euclidean")
    return {"recall@1": 100 * found["recall@1"], "MAP@R": 100 * found["map@r"]}


def conclude(frame):
    """The alpha of the smallest mean error of all classifiers."""
    rows = frame[frame["variant"].str.startswith(SMOOTHNESS)]
    best = rows.groupby("variant", sort=False)["value"].mean().idxmin()
    return f"Chosen by the smallest mean of the four errors: {best}."


def draw(args, frame):
    """The test embeddings of the first seed on their two principal axes."""
    variants = [CROSS_ENTROPY, SMOOTHNESS, TARGET]
    figure, axes = common.figure(1, len(variants), (12, 4.3), layout="constrained")
    (images, labels), classes = (a := common.load(args)).test, a.classes
    images, labels = images[:2000], labels[:2000]
    names = CLASS_NAMES.get(args.data, range(classes))
    groups = super_classes(args, classes)
    for axis, variant in zip(axes[0], variants, strict=True):
        points = PCA(2).fit_transform(embed(common.saved(args, variant), images))
        for c in range(classes):
            own = points[labels == c]
            color, marker = common.PALETTE[c % 10], "o^sDv"[groups[c] % 5]
            style = {"color": color, "marker": marker, "alpha": 0.6, "linewidth": 0}
            axis.scatter(*own.T, s=7, label=str(names[c]), **style)
        axis.set(title=variant, xlabel="first principal axis", xticks=[], yticks=[])
    axes[0][0].set_ylabel("second principal axis")
    entries = axes[0][0].get_legend_handles_labels()
    style = {"ncols": classes, "markerscale": 2, "frameon": False}
    figure.legend(*entries, loc="outside lower center", **style)
    return figure


def parse(argv):
    options = common.parser(__doc__, "embeddings", epochs=5, batch_size=100)
    add = options.add_argument
    add("--network", choices=list(NETWORKS), default="small_cnn")
    add("--width", type=int, default=16, help="width of the embedding")
    add("--alpha", type=float, help="of graph smoothness; by default the chosen one, or 1")
    add("--select", action="store_true", help="compare alphas on the validation split instead")
    args = common.arguments(options, argv, quick={"epochs": 10})
    args.alpha = args.alpha or CHOSEN.get((args.data, args.network), 1.0)
    if args.network != options.get_default("network"):
        args.subject.append(args.network)
    return args


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``; values in %."""
    args = parse(argv)
    if args.select:
        return common.select(args, run_seed, "Errors on validation, in %", conclude)
    return common.run(args, run_seed, tables, draw, explain, verdict=verdict)


def verdict(args, frame):
    return common.effects(frame, CROSS_ENTROPY, {"10-NN error": "min", "MAP@R": "max"})


def tables(args, frame):
    are_errors = frame["metric"].str.endswith(" error")
    return {
        caption: common.summary(frame[chosen], "variant", "metric")
        for caption, chosen in (
            ("Errors on the test split, in %", are_errors),
            ("Retrieval within the test split, by distance, in %", ~are_errors),
        )
    }


def explain(args):
    text = (
        f"{args.network}, embeddings of width {args.width}, {args.epochs} epochs, batches of "
        f"{args.batch_size}, alpha {args.alpha:g}. Cross-entropy trains a linear layer on top of "
        "the same embeddings. Recall@1: the share of test images whose nearest other one is of "
        "their class. MAP@R counts the R nearest, as many as there are of the class, and weighs "
        "early ones more. The figure shows the first seed."
    )
    if args.data in HIERARCHIES:
        text += f" Super-classes: {HIERARCHIES[args.data]}."
    return text


if __name__ == "__main__":
    main()
