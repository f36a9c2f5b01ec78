"""How many anchors, chosen how? What two classifiers agree on, by number and choice of anchors.

Trains two classifiers of different architectures on the same training split, and describes samples
in each by the cosines of their penultimate representations to those of the same anchors. For every
number of anchors and every way to choose them: how alike are the codes of the two spaces, and does
a linear classifier trained on codes of the first work on codes of the second?

    python examples/anchors.py --quick                  # digits, half a minute
    python examples/anchors.py                          # MNIST
    python examples/anchors.py --data cifar10 --epochs 10

Anchors are training samples. Farthest points, k-means and the top n by confidence are chosen by
the first classifier alone, the best aligned by both. The codes are compared with the unchanged
representations ("absolute"), which have the same width in both. Nothing is chosen by the results
shown, which are on the test split. The method is that of Moschella et al., "Relative
representations enable zero-shot latent space communication", ICLR 2023. Needs the extras
``examples`` and, for data other than digits, ``datasets``. Prints its tables and writes, into
--output, the figure and both classifiers of the first seed as plain Keras models of pixels in
[0, 1].
"""

from typing import NamedTuple

import common
import keras
import networks
import numpy as np
from keras import layers
from sklearn.linear_model import LogisticRegression

from keras_lgg import relative

FIRST, SECOND = "CNN", "MLP"
PENULTIMATE = "penultimate"
ABSOLUTE = "absolute"
# By name: the method of `relative.select_anchors`, and how it is drawn.
METHODS = {
    "uniform": ("uniform", common.BLUE, "o"),
    "stratified": ("stratified", common.SKY, "s"),
    "farthest points": ("fps", common.GREEN, "D"),
    "k-means": ("kmeans", common.ORANGE, "^"),
    "top n by confidence": ("top_n", common.PURPLE, "v"),
    "best aligned": ("best_aligned", common.VERMILION, "P"),
}
COUNTS = (2, 5, 10, 20, 50, 100, 200, 500)
TABLED = (10, 100, 500)  # of them
NORMALIZATIONS = ("none", "center", "standardize", "whiten")
AGREEMENT = {"Jaccard@10": "jaccard@10", "MRR": "mrr", "cosine": "cosine"}
SWAPPED, OWN = "swapped head", "own head"


class Space(NamedTuple):
    """Representations by one classifier, of training samples and of the test split."""

    train: np.ndarray
    test: np.ndarray


class Pair(NamedTuple):
    """Both spaces, and what else is known of their samples."""

    first: Space
    second: Space
    labels: Space
    surest: np.ndarray  # training samples, from the largest margin of the first classifier down


def build(name, data, width):
    """A classifier whose penultimate layer has this width."""
    inputs = keras.Input(data.shape)
    if name == FIRST:
        x = networks.small_cnn(data.shape, width)(inputs)
    else:
        hidden = layers.Dense(4 * width, use_bias=False)(layers.Flatten()(inputs))
        x = layers.Dense(width, use_bias=False)(networks.normalized_relu(hidden))
    x = networks.normalized_relu(x, PENULTIMATE)
    return keras.Model(inputs, layers.Dense(data.classes)(x), name=name.lower())


def train(args, arrays, seed, name):
    data = common.pipelines(arrays, args, seed)
    keras.utils.set_random_seed(seed)
    model = build(name, data, args.width)
    common.fit(model, common.cross_entropy(), data, args, seed=seed, label=name)
    return model, data


def outputs(model, data, images):
    """Logits and penultimate representations of pixels."""
    tapped = keras.Model(model.input, [model.output, model.get_layer(PENULTIMATE).output])
    parts = [
        tapped(data.normalization(batch / np.float32(255)), training=False)
        for batch in np.array_split(images, 1 + len(images) // 1000)
    ]
    return [
        np.concatenate([keras.ops.convert_to_numpy(part) for part in output])
        for output in zip(*parts, strict=True)
    ]


def train_pair(args, seed):
    arrays = common.load(args)
    arrays = arrays._replace(train=tuple(part[: args.samples] for part in arrays.train))
    images, labels = (part[: args.pool] for part in arrays.train)
    spaces, logits = [], []
    for i, name in enumerate((FIRST, SECOND)):
        model, data = train(args, arrays, 2 * seed + i, name)
        scores, space = outputs(model, data, images)
        spaces.append(Space(space, outputs(model, data, arrays.test[0])[1]))
        logits.append(scores)
        if seed == args.seed:
            common.save(common.deployable(data, model), args, name)
    second, first = np.sort(logits[0], axis=1)[:, -2:].T
    surest = np.argsort(second - first, kind="stable")
    return Pair(*spaces, Space(labels, arrays.test[1]), surest)


def run_seed(args, seed):
    """Train both classifiers, and compare: rows for `common.run_seeds`, with the count."""
    pair = train_pair(args, seed)
    rows = to_rows(ABSOLUTE, np.nan, compare(args, pair.first, pair.second, pair.labels))
    for name, (method, *_) in METHODS.items():
        args.progress.say(f"anchors: {name}")
        for count in args.counts:
            anchors = choose(method, count, pair, seed)
            rows += to_rows(name, count, compare_codes(args, pair, anchors, args.normalization))
    anchors = choose("uniform", args.at, pair, seed)
    for normalization in NORMALIZATIONS:
        measured = compare_codes(args, pair, anchors, normalization)
        rows += to_rows(f"uniform, {normalization}", args.at, measured)
    return rows


def to_rows(variant, count, measured):
    return [
        {"variant": variant, "metric": metric, "value": 100 * value, "count": count}
        for metric, value in measured.items()
    ]


def choose(method, count, pair, seed):
    """Indices of training samples."""
    if method == "top_n":
        first = min(2 * count, len(pair.surest))
        chosen = relative.select_anchors(pair.surest, count, method=method, first=first, seed=seed)
        return pair.surest[chosen]
    options = {
        "stratified": {"labels": pair.labels.train},
        "best_aligned": {"other": pair.second.train},
    }.get(method, {})
    return relative.select_anchors(pair.first.train, count, method=method, seed=seed, **options)


def compare_codes(args, pair, anchors, normalization):
    def codes(x, space):
        tensor = relative.relative_projection(x, space.train[anchors], normalization=normalization)
        return keras.ops.convert_to_numpy(tensor)

    spaces = [Space(*(codes(x, space) for x in space)) for space in (pair.first, pair.second)]
    return compare(args, *spaces, pair.labels)


def compare(args, first, second, labels):
    """How alike two spaces are, and the accuracy of a head that is trained on the first."""
    found = relative.compare_spaces(first.test[: args.few], second.test[: args.few], k=10)
    head = LogisticRegression(max_iter=1000).fit(first.train, labels.train)
    return {
        **{name: found[key] for name, key in AGREEMENT.items()},
        SWAPPED: head.score(second.test, labels.test),
        OWN: head.score(first.test, labels.test),
    }


def draw(args, frame):
    """A metric a panel, with the standard deviation over the seeds; the legends below."""
    figure, axes = common.figure(3, 2, (7, 6.4), height_ratios=[1, 1, 0.3])
    panels = axes[:2].flatten()
    statistics = frame.groupby(["variant", "metric", "count"], dropna=False)["value"]
    means, spreads = statistics.mean(), statistics.std().fillna(0)
    for axis, metric in zip(panels, [*AGREEMENT, SWAPPED], strict=True):
        for name, (_, color, marker) in METHODS.items():
            mean, std = (values[name, metric].loc[args.counts] for values in (means, spreads))
            axis.plot(mean, color=color, marker=marker, markersize=4, linewidth=1, label=name)
            axis.fill_between(mean.index, mean - std, mean + std, color=color, alpha=0.15, lw=0)
        level = means[ABSOLUTE, metric].mean()
        axis.axhline(level, color=common.BLACK, linestyle=":", linewidth=1.5, label=ABSOLUTE)
        axis.set(xscale="log", xlabel="anchors", ylim=(0, None))
        axis.set_xticks(args.counts, args.counts)
        axis.minorticks_off()
        axis.set_ylabel(f"{metric} (%)" if metric in AGREEMENT else f"accuracy of {metric} (%)")
    own = means["uniform", OWN].loc[args.counts]
    panels[3].plot(own, color=common.BLUE, linestyle="--", linewidth=1, label=f"uniform, {OWN}")
    draw_legends(axes[2], *panels[3].get_legend_handles_labels())
    return figure


def draw_legends(axes, handles, labels):
    """The methods on the left, what they compare with on the right."""
    count = len(METHODS)
    for axis, part, columns in zip(axes, (slice(count), slice(count, None)), (2, 1), strict=True):
        axis.legend(handles[part], labels[part], loc="center", ncols=columns, frameon=False)
        axis.set_axis_off()


def parse(argv):
    options = common.parser(__doc__, "anchors", epochs=8, batch_size=128)
    add = options.add_argument
    add("--samples", type=int, default=20_000, help="number of training samples")
    add("--counts", type=int, nargs="+", default=list(COUNTS), help="numbers of anchors")
    add("--at", type=int, default=100, help="number of anchors at which to compare normalisations")
    add("--normalization", choices=NORMALIZATIONS, default="none", help="for all other comparisons")
    add("--pool", type=int, default=5000, help="samples for anchors and heads")
    add("--few", type=int, default=2000, help="test samples whose neighbours are compared")
    add("--width", type=int, default=64, help="width of the penultimate layers")
    quick = {"epochs": 6, "counts": [2, 10, 100, 500]}
    return common.arguments(options, argv, quick=quick)


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, count, seed``; values in %."""
    return common.run(parse(argv), run_seed, tables, draw, explain, verdict=verdict)


def verdict(args, frame):
    """With the most anchors, each way to choose them; the spaces as they are, beside."""
    counts, variants = frame["count"], frame["variant"]
    shown = frame[(variants == ABSOLUTE) | variants.isin(METHODS) & (counts == max(args.counts))]
    said = common.effects(shown, ABSOLUTE, {SWAPPED: "max", "MRR": "max"})
    return f"With {max(args.counts)} anchors:\n{said}"


def tables(args, frame):
    """Some of the counts, and the normalisations."""
    counts, variants = frame["count"], frame["variant"]
    baseline, methods = variants == ABSOLUTE, variants.isin(METHODS)
    parts = {
        f"{count} anchors, test split, in %": baseline | methods & (counts == count)
        for count in TABLED
        if count in args.counts
    }
    parts[f"{args.at} uniform anchors by normalization, test split, in %"] = ~baseline & ~methods
    return {
        caption: common.summary(frame[rows], "variant", "metric") for caption, rows in parts.items()
    }


def explain(args):
    return (
        f"{FIRST} and {SECOND}, penultimate layers of width {args.width}, trained on at most "
        f"{args.samples} samples for {args.epochs} epochs in batches of {args.batch_size}; "
        f"normalization of the representations: {args.normalization}. Anchors are chosen among, "
        f"and heads (logistic regression) trained on, at most {args.pool} of these samples. A head "
        f"is trained on codes of the {FIRST} and tested on its own or on those of the {SECOND} "
        "(swapped), of the whole test split. Jaccard index, MRR and cosine are of at most "
        f"{args.few} test samples. No unit is negative, so that codes have large cosines whatever "
        "they encode, unless they are centred."
    )


if __name__ == "__main__":
    main()
