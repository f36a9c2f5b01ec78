"""Does a network's similarity to a good one tell how good it is? Relative codes against CKA.

Trains a grid of small classifiers, which differ in architecture, width, optimiser, learning rate
and seed; some are poor. After every epoch, samples are described by the cosines of their
penultimate representations to those of the same anchors; the reference is the best epoch of the
best run. How closely does the mean cosine of these codes to the reference's follow the accuracy,
over the epochs of a run and over the runs? It is compared with the same from centred
representations, with linear CKA, which needs no anchors, and with the unchanged representations, if
their widths agree.

    python examples/compare_spaces.py --quick           # digits, half a minute
    python examples/compare_spaces.py                   # MNIST
    python examples/compare_spaces.py --data cifar10 --epochs 20

As in section 4.2 of Moschella et al., "Relative representations enable zero-shot latent space
communication", ICLR 2023, the reference is chosen on the validation split, and similarity, accuracy
and their correlation are measured on the same split: this shows how two measurements go together,
and does not estimate accuracy on new data. The test split is never used. Each seed is a whole grid.
Needs the extras ``examples`` and, for data other than digits, ``datasets``. Prints its tables and
writes the figure into --output.
"""

import itertools
from typing import NamedTuple

import common
import keras
import networks
import numpy as np
from keras import layers
from matplotlib.lines import Line2D

from keras_lgg import relative

RELATIVE, CENTRED, CKA, ABSOLUTE = "relative", "relative, centred", "linear CKA", "absolute"
SIMILARITIES = (RELATIVE, CENTRED, CKA, ABSOLUTE)
ACCURACY = "validation accuracy"
# What correlations are over: the epochs of each run, or the runs; of all runs, or of those that
# have the activation of the reference.
OVER_EPOCHS, ALIKE_EPOCHS = "epochs of a run", "epochs, same activation"
OVER_RUNS, ALIKE_RUNS = "runs", "runs, same activation"
NETWORKS = {
    "MLP": common.BLUE,
    "tanh MLP": common.GREEN,
    "CNN": common.PURPLE,
    "ResNet": common.VERMILION,
    "ViT": common.ORANGE,
}
# From what suits to what is too slow: some runs have to be poor.
TRAININGS = {
    "Adam 0.001": (keras.optimizers.Adam, 1e-3, "o"),
    "SGD 0.1": (keras.optimizers.SGD, 1e-1, "s"),
    "SGD 0.003": (keras.optimizers.SGD, 3e-3, "D"),
    "SGD 0.0005": (keras.optimizers.SGD, 5e-4, "^"),
}
LEARNT = 0.5  # best accuracy above which the epochs of a run count, as in the authors' code


class Run(NamedTuple):
    network: str
    width: int
    training: str

    @property
    def activation(self):
        return "tanh" if self.network.startswith("tanh") else "relu"

    def __str__(self):
        return f"{self.network} {self.width}, {self.training}"


class Epoch(NamedTuple):
    """What is known of a network after an epoch: its accuracy, and its spaces."""

    accuracy: float
    anchors: np.ndarray
    samples: np.ndarray


def grid(args):
    return [Run(*options) for options in itertools.product(args.networks, args.widths, TRAININGS)]


def build(run, data):
    """A classifier, and the same with its penultimate layer as a second output."""
    inputs = keras.Input(data.shape)
    x = hidden(run, data)(inputs)
    penultimate = layers.Dense(run.width, activation=run.activation)(x)
    logits = layers.Dense(data.classes)(penultimate)
    return keras.Model(inputs, logits), keras.Model(inputs, [logits, penultimate])


def hidden(run, data):
    """The layers before the penultimate one."""
    if run.network == "ViT":
        return networks.vision_transformer(data.shape, 64, width=32)
    if run.network == "ResNet":
        return networks.wide_resnet(data.shape, 64, depth=10, width=0.5)
    steps = [
        layers.Conv2D(channels, 3, 2, padding="same", activation=run.activation)
        for channels in (8, 16) * (run.network == "CNN")
    ]
    dense = {"MLP": 1, "tanh MLP": 2, "CNN": 0}[run.network]
    steps += [layers.Flatten(), *(layers.Dense(64, run.activation) for _ in range(dense))]
    return keras.Sequential([keras.Input(data.shape), *steps])


class Observer(keras.callbacks.Callback):
    """Keeps an `Epoch` after each epoch, with the first ``few`` of the images."""

    def __init__(self, tapped, anchors, images, labels, few):
        super().__init__()
        self.epochs, self._tapped = [], tapped
        self._anchors, self._images, self._labels, self._few = anchors, images, labels, few

    def on_epoch_end(self, epoch, logs=None):
        _, anchors = outputs(self._tapped, self._anchors)
        logits, samples = outputs(self._tapped, self._images)
        accuracy = np.mean(logits.argmax(axis=1) == self._labels)
        self.epochs.append(Epoch(float(accuracy), anchors, samples[: self._few].copy()))


def outputs(model, images):
    """Logits and penultimate representations."""
    batches = np.array_split(images, 1 + len(images) // 1000)
    parts = [model(batch, training=False) for batch in batches]
    return [
        np.concatenate([keras.ops.convert_to_numpy(part) for part in output])
        for output in zip(*parts, strict=True)
    ]


def train(args, arrays, anchors, run, seed):
    """The `Epoch` after every epoch of a run."""
    data = common.pipelines(arrays, args, seed)
    keras.utils.set_random_seed(seed)
    model, tapped = build(run, data)
    optimizer, rate, _ = TRAININGS[run.training]
    jit_compile = keras.backend.backend() == "jax"
    model.compile(optimizer(rate), common.cross_entropy(), jit_compile=jit_compile)
    anchors, images = (
        keras.ops.convert_to_numpy(data.normalization(pixels / np.float32(255)))
        for pixels in (arrays.train[0][anchors], arrays.validation[0])
    )
    observer = Observer(tapped, anchors, images, arrays.validation[1], args.few)
    model.fit(
        data.train,
        epochs=args.epochs,
        shuffle=False,  # the pipeline does
        verbose=0,
        callbacks=[observer, args.progress.training(str(run)), keras.callbacks.TerminateOnNaN()],
    )
    return observer.epochs


def run_seed(args, seed):
    """Train a grid: rows for `common.run_seeds`, those of single epochs with the epoch."""
    arrays = common.load(args)
    arrays = arrays._replace(train=tuple(part[: args.samples] for part in arrays.train))
    anchors = relative.select_anchors(arrays.train[0], args.anchors, seed=seed)
    runs, epochs = grid(args), {}
    for i, run in enumerate(runs):
        epochs[run] = train(args, arrays, anchors, run, seed * len(runs) + i)
    reference = max(itertools.chain(*epochs.values()), key=lambda epoch: epoch.accuracy)
    rows = [
        {"variant": str(run), "metric": metric, "value": value, "epoch": number}
        for run in runs
        for number, epoch in enumerate(epochs[run], start=1)
        for metric, value in measure(epoch, reference).items()
    ]
    return rows + correlations(rows)


def measure(epoch, reference):
    """The accuracy, and how similar the space of the samples is to the reference's."""
    found = {ACCURACY: epoch.accuracy}
    if not np.isfinite(epoch.samples).all() or not np.ptp(epoch.samples, axis=0).any():
        return found  # it diverged, or all its units are dead
    for name, normalization in {RELATIVE: "none", CENTRED: "center"}.items():
        found[name] = mean_cosine(*(codes(e, normalization) for e in (epoch, reference)))
    found[CKA] = relative.linear_cka(epoch.samples, reference.samples)
    if epoch.samples.shape == reference.samples.shape:
        found[ABSOLUTE] = mean_cosine(epoch.samples, reference.samples)
    return found


def codes(epoch, normalization):
    return keras.ops.convert_to_numpy(
        relative.relative_projection(epoch.samples, epoch.anchors, normalization=normalization)
    )


def mean_cosine(a, b):
    """Of each row of one array and the same row of the other."""
    return float(np.mean(np.sum(keras.utils.normalize(a) * keras.utils.normalize(b), axis=1)))


def by_epoch(rows):
    """A line for each epoch of each run, in the order of the grid, and a column for each metric."""
    table = common.pd.DataFrame(rows).pivot_table(
        index=["variant", "epoch"], columns="metric", values="value", sort=False
    )
    reference, _ = table[ACCURACY].idxmax()
    return table, reference


def best_epochs(table):
    """The first of the best epochs of each run."""
    return table.loc[table.groupby(level="variant", sort=False)[ACCURACY].idxmax()]


def correlations(rows):
    """Rows of Pearson's r between similarity and accuracy, without the run of the reference."""
    table, reference = by_epoch(rows)
    others = table.drop(reference, level="variant")
    tanh = others.index.get_level_values("variant").str.startswith("tanh")
    alike = others[tanh == reference.startswith("tanh")]
    found = {
        OVER_EPOCHS: over_epochs(others),
        ALIKE_EPOCHS: over_epochs(alike),
        OVER_RUNS: best_epochs(others).corr(min_periods=3)[ACCURACY],
        ALIKE_RUNS: best_epochs(alike).corr(min_periods=3)[ACCURACY],
    }
    return rows_of(found)


def rows_of(found):
    """Rows of what was found for each similarity, where it is defined."""
    return [
        {"variant": name, "metric": metric, "value": values[name]}
        for name in SIMILARITIES
        for metric, values in found.items()
        if np.isfinite(values.get(name, np.nan))
    ]


def over_epochs(table, accuracy=ACCURACY):
    """The mean over the runs that have learnt something; r is undefined where nothing varies."""
    runs = [
        run.corr(min_periods=3)[accuracy]
        for _, run in table.groupby(level="variant", sort=False)
        if run[ACCURACY].max() > LEARNT
    ]
    return common.pd.DataFrame(runs, columns=table.columns).mean()


def accuracies(frame):
    """A table of the best accuracy of each run, by network and training."""
    rows = frame[frame["metric"] == ACCURACY]
    best = rows.groupby(["seed", "variant"], sort=False)["value"].max().reset_index()
    best[["network", "training"]] = best["variant"].str.split(", ", expand=True)
    return common.summary(best.assign(value=100 * best["value"]), "network", "training")


def draw(args, frame):
    """The first seed: every run at its best, and the epochs of three."""
    table, reference = by_epoch(frame[frame["seed"] == frame["seed"].min()].dropna())
    others = table.drop(reference, level="variant")
    figure, axes = common.figure(3, 2, (7, 6.8), height_ratios=[1, 1, 0.3])
    panels = axes[:2].flatten()
    for axis, name in zip(panels, [RELATIVE, CENTRED, CKA], strict=False):
        draw_runs(axis, best_epochs(others), name)
    draw_epochs(panels[3], others)
    draw_legends(args, axes[2], panels[3])
    return figure


def draw_runs(axis, best, name):
    for (variant, _), row in best.iterrows():
        network, training = variant.split(", ")
        color, (*_, marker) = NETWORKS[network.rpartition(" ")[0]], TRAININGS[training]
        axis.scatter(row[name], 100 * row[ACCURACY], s=22, color=color, marker=marker, alpha=0.8)
    known = best[[name, ACCURACY]].dropna()
    x, y = known[name].to_numpy(), 100 * known[ACCURACY].to_numpy()
    ends = np.array([x.min(), x.max()])
    axis.plot(ends, np.polyval(np.polyfit(x, y, 1), ends), color=common.BLACK, linewidth=1)
    axis.set_title(f"{name}: r = {np.corrcoef(x, y)[0, 1]:.2f}")
    axis.set(xlabel="similarity to the reference", ylabel=f"best {ACCURACY} (%)", ylim=(0, 105))


def draw_epochs(axis, others):
    """The best, the median and the worst run."""
    ranked = best_epochs(others)[ACCURACY].sort_values(ascending=False, kind="stable").index
    colors = common.BLACK, common.ORANGE, common.VERMILION
    for place, color in zip((0, len(ranked) // 2, -1), colors, strict=True):
        run = others.xs(ranked[place][0], level="variant")
        style = {"color": color, "marker": ".", "linewidth": 1}
        axis.plot(run.index, run[CENTRED], label=ranked[place][0], **style)
        axis.plot(run.index, run[ACCURACY], linestyle="--", **style)
    axis.set(title="best, median and worst run", xlabel="epoch", ylim=(0, 1.05))
    axis.set_ylabel("similarity (centred), accuracy")
    axis.xaxis.get_major_locator().set_params(integer=True)


def draw_legends(args, axes, runs):
    """In axes of their own, below."""
    points, lines = axes
    style = {"linestyle": "", "markersize": 5}
    networks = [Line2D([], [], marker="o", color=NETWORKS[name], **style) for name in args.networks]
    trainings = [
        Line2D([], [], marker=marker, color=common.BLACK, fillstyle="none", **style)
        for *_, marker in TRAININGS.values()
    ]
    nothing = Line2D([], [], linestyle="")  # so that each kind has its column
    handles = [*networks, nothing, *trainings]
    points.legend(handles, [*args.networks, "", *TRAININGS], loc="center", ncols=2, frameon=False)
    handles, labels = runs.get_legend_handles_labels()
    for label, linestyle in (("similarity", "-"), ("accuracy", "--")):
        handles.append(Line2D([], [], color=common.BLACK, linestyle=linestyle, linewidth=1))
        labels.append(label)
    lines.legend(handles, labels, loc="center", ncols=2, frameon=False)
    for axis in axes:
        axis.set_axis_off()


def parse(argv):
    options = common.parser(__doc__, "compare_spaces", epochs=10, batch_size=64)
    add = options.add_argument
    usual = ["MLP", "tanh MLP", "CNN"]
    add("--networks", nargs="+", choices=NETWORKS, default=usual)
    add("--samples", type=int, default=10_000, help="number of training samples")
    add("--anchors", type=int, default=300, help="number of anchors")
    add("--few", type=int, default=1000, help="samples of the validation split to compare")
    add("--widths", type=int, nargs="+", default=[16, 64], help="widths of the penultimate layer")
    quick = {"epochs": 8, "widths": [32]}
    args = common.arguments(options, argv, quick=quick)
    args.subject += args.networks if args.networks != usual else []
    return args


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, epoch, seed``.

    Rows with an epoch are of a run, as shares; those without one are correlations.
    """
    return common.run(parse(argv), run_seed, tables, draw, explain, verdict=verdict)


def verdict(args, frame):
    return in_words(frame, ACCURACY, (OVER_EPOCHS, OVER_RUNS))


def in_words(frame, accuracy, metrics):
    """In words how closely each similarity follows the accuracy: the means over the seeds."""
    means = frame.groupby(["metric", "variant"])["value"].mean()
    said = [
        ", ".join(f"{means[m, name]:.2f} ({name})" for name in SIMILARITIES if (m, name) in means)
        for m in metrics
    ]
    over = (f"over the {metric} {each}" for metric, each in zip(metrics, said, strict=True))
    return f"Pearson's r of {accuracy} and similarity to the reference: {'; '.join(over)}."


def tables(args, frame):
    correlated = frame[frame["epoch"].isna()]
    caption = "Pearson's r of validation accuracy and similarity to the reference, over the"
    return {
        caption: common.summary(correlated, "variant", "metric", digits=2),
        "Best validation accuracy of a run, in %": accuracies(frame),
    }


def explain(args):
    return (
        f"{len(grid(args))} runs per seed, {args.epochs} epochs, batches of {args.batch_size}, at "
        f"most {args.samples} training images; {args.anchors} anchors, at most {args.few} samples "
        "of the validation split, on which the reference is chosen, too: the best epoch of the "
        "best run, which is itself left out. Over the epochs: the mean of r over the runs whose "
        f"best accuracy is above {100 * LEARNT:g} %; over the runs: each at its best epoch. Same "
        "activation: the runs that have that of the reference. Relative: cosines to the anchors, "
        "as in the paper; centred: minus the mean of the anchors first; absolute: where the width "
        "is that of the reference. The figure shows the first seed."
    )


if __name__ == "__main__":
    main()
