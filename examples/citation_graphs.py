"""Relative representations of the nodes of a graph: stitching GCN and GIN, and a grid of runs.

Stitching: trains two GCNs and two GINs per seed to classify nodes from few labels: relative to the
same anchors, end to end; absolute; and absolute with a head trained afterwards on relative codes.
Then puts every head on every encoder. The absolute GCN with its own head is the published network,
except for its width (--width 16).

Grid: trains networks that differ in kind, depth, width, activation, dropout and optimiser, drawn
from all combinations. Every 10 steps, the test nodes are described by the cosines of their
representations to those of the same anchors; the reference is the best step, on validation, of the
best run. How closely does the mean cosine of these codes to the reference's follow the accuracy?
It is compared with the same from centred representations, with linear CKA, and with the unchanged
representations, if their widths agree.

    python examples/citation_graphs.py --quick                              # a minute
    python examples/citation_graphs.py                                      # digits, as a graph
    python examples/citation_graphs.py --data cora --data-dir FOLDER        # or citeseer

What these graphs are, and where the files come from, is in ``graph_data.py``; the networks are in
``graph_networks.py``. The protocol is that of Moschella et al., "Relative representations enable
zero-shot latent space communication", ICLR 2023, section 4.2 and table 2. Steps and references are
chosen by the validation nodes; no anchor is a validation or test node. Each seed is one grid. Every
step sees all training nodes. Needs the extras ``examples`` and
``relative``. Prints its tables and writes the figure into --output.
"""

import itertools
from typing import NamedTuple

import common
import compare_spaces
import graph_data
import graph_networks
import keras
import numpy as np
from compare_spaces import CENTRED, CKA, LEARNT, SIMILARITIES, in_words
from matplotlib.lines import Line2D
from stitching_classifiers import ABSOLUTE, PERMUTED, POST_HOC, RELATIVE, head

import keras_lgg as lgg

TEST = "test accuracy"
NETWORKS = {"GCN": graph_networks.gcn, "GIN": graph_networks.gin}
COLORS = {"GCN": common.BLUE, "GIN": common.ORANGE}
SPACES = (RELATIVE, POST_HOC, ABSOLUTE, PERMUTED)
# What correlations are over: the steps of each run, or the runs; of all runs, or of those that are
# of the network, or also have the activation, of the reference.
OVER_STEPS = "steps of a run"
OVER_RUNS, SAME_NETWORK = "runs", "runs, same network"
ALIKE = "runs, same network and activation"
DEPTHS, ACTIVATIONS, DROPOUTS = (2, 3, 4), ("relu", "tanh"), (0.0, 0.5)
# From what suits to what is too slow: some runs have to be poor.
TRAININGS = {
    "Adam 0.01": (keras.optimizers.Adam, 0.01, "o"),
    "Adam 0.001": (keras.optimizers.Adam, 0.001, "s"),
    "SGD 0.3": (keras.optimizers.SGD, 0.3, "^"),
}
EVERY = 10  # steps between two looks at a network


class Run(NamedTuple):
    network: str
    depth: int
    width: int
    activation: str
    dropout: float
    training: str

    def __str__(self):
        shape = f"{self.network} {self.depth} x {self.width}"
        return f"{shape}, {self.activation}, dropout {self.dropout:g}, {self.training}"


class Snapshot(NamedTuple):
    """What is known of a network after a step: its accuracies, and its spaces."""

    accuracy: float
    test: float
    anchors: np.ndarray
    samples: np.ndarray


def combinations(args):
    options = NETWORKS, DEPTHS, args.widths, ACTIVATIONS, DROPOUTS, TRAININGS
    return [Run(*values) for values in itertools.product(*options)]


def grid(args, seed):
    """As many runs as are asked for, of all combinations."""
    runs = combinations(args)
    order = np.random.default_rng(seed).permutation(len(runs))
    return [runs[i] for i in order[: args.runs]]


def steps(model, optimizer, args, graph, inputs, label):
    """Trains on all training nodes at once; comes back every so many steps."""
    model.compile(optimizer, common.cross_entropy(), jit_compile=keras.backend.backend() == "jax")
    callbacks = [args.progress.training(label)]
    progress = keras.callbacks.CallbackList(callbacks, model=model, epochs=args.epochs)
    progress.on_train_begin()
    for step in range(args.epochs):
        loss = model.train_on_batch(inputs[graph.train], graph.labels[graph.train])
        progress.on_epoch_end(step, {"loss": float(loss)})
        if (step + 1) % EVERY == 0:
            yield step + 1
    progress.on_train_end()


def outputs(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs, training=False))


def accuracy(logits, graph, nodes):
    return float(np.mean(logits[nodes].argmax(axis=1) == graph.labels[nodes]))


def all_nodes(graph):
    return np.arange(len(graph.labels), dtype="int32")


def classifier(graph, width):
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(graph.classes)])


# The grid.


def train(args, graph, anchors, run, seed):
    """The `Snapshot` at every look at a run."""
    keras.utils.set_random_seed(seed)
    options = {"depth": run.depth, "activation": run.activation, "dropout": run.dropout}
    encoder = NETWORKS[run.network](graph, run.width, **options)
    last = classifier(graph, run.width)
    optimizer, rate, _ = TRAININGS[run.training]
    nodes, seen = all_nodes(graph), []
    model = keras.Sequential([encoder, last])
    for _ in steps(model, optimizer(rate), args, graph, nodes, str(run)):
        space = outputs(encoder, nodes)
        logits = outputs(last, space)
        accuracies = (accuracy(logits, graph, part) for part in (graph.validation, graph.test))
        seen.append(Snapshot(*accuracies, space[anchors], space[graph.test]))
    return seen


def compared(args, graph, anchors, seed):
    """Train a grid: a row for each number of each step, and the correlations."""
    runs, seen = grid(args, seed), {}
    for i, run in enumerate(runs):
        seen[run] = train(args, graph, anchors, run, 1000 * seed + i)
    reference = max(itertools.chain(*seen.values()), key=lambda snapshot: snapshot.accuracy)
    rows = [
        {"variant": str(run), "metric": metric, "value": value, "epoch": EVERY * (i + 1)}
        for run in runs
        for i, snapshot in enumerate(seen[run])
        for metric, value in {
            TEST: snapshot.test,
            **compare_spaces.measure(snapshot, reference),
        }.items()
    ]
    return rows + correlations(rows)


def correlations(rows):
    """Rows of Pearson's r between similarity and test accuracy, without the reference's run."""
    table, reference = compare_spaces.by_epoch(rows)
    others = table.drop(reference, level="variant")
    best = compare_spaces.best_epochs(others)
    kinds = common.pd.DataFrame([kind(name) for name, _ in best.index], index=best.index)
    network, activation = kind(reference)
    same = kinds[0] == network
    found = {
        OVER_STEPS: over_steps(others),
        OVER_RUNS: r(best),
        SAME_NETWORK: r(best[same]),
        ALIKE: r(best[same & (kinds[1] == activation)]),
    }
    return compare_spaces.rows_of(found)


def r(table):
    return table.corr(min_periods=3)[TEST]


def over_steps(table):
    return compare_spaces.over_epochs(table, TEST)


def kind(variant):
    """The network and the activation of a run, by its name."""
    shape, activation, *_ = variant.split(", ")
    return shape.split()[0], activation


# Stitching.


def trained(model, args, graph, inputs, label):
    """The same model at its best step on the validation nodes."""
    best, weights = -1.0, None
    for _ in steps(model, keras.optimizers.Adam(args.rate), args, graph, inputs, label):
        reached = accuracy(outputs(model, inputs), graph, graph.validation)
        if reached > best:
            best, weights = reached, model.get_weights()
    model.set_weights(weights)
    return model


def with_codes(encoder, anchors):
    layer = lgg.layers.RelativeRepresentation(
        anchors, encoder=encoder, indices=anchors, anchor_training=False
    )
    return keras.Sequential([keras.Input((), dtype="int32"), layer])


def names(args):
    return [f"{name} {i + 1}" for name in NETWORKS for i in range(args.copies)]


def halves(args, graph, anchors, name, seed):
    """Encoder and head of a network in each of the spaces."""
    nodes, codes = all_nodes(graph), len(anchors)

    def network():
        keras.utils.set_random_seed(seed)
        return NETWORKS[name](graph, args.width)

    def end_to_end(first, second, space):
        model = keras.Sequential([first, second])
        trained(model, args, graph, nodes, f"{name}, {space}")
        return first, second

    absolute = end_to_end(network(), classifier(graph, args.width), ABSOLUTE)
    relative = end_to_end(with_codes(network(), anchors), head(codes, graph.classes), RELATIVE)
    first = lgg.layers.with_fixed_anchors(with_codes(absolute[0], anchors))
    given = outputs(first, nodes)
    second = trained(head(codes, graph.classes), args, graph, given, f"{name}, {POST_HOC}")
    return {RELATIVE: relative, POST_HOC: (first, second), ABSOLUTE: absolute}


def stitched(args, graph, anchors, seed):
    """Train all networks, and stitch: a row for each pair, and the means over them."""
    models = {RELATIVE: [], POST_HOC: [], ABSOLUTE: []}
    for i, name in enumerate(names(args)):
        found = halves(args, graph, anchors, name.split()[0], len(names(args)) * seed + i)
        for space, pair in found.items():
            models[space].append(pair)
    test = graph.test, graph.labels[graph.test]
    options = {"batch_size": len(graph.test)}  # each batch costs the whole graph
    matrix = lgg.relative.stitching_matrix
    first = matrix(models[RELATIVE], test, "accuracy", absolute=models[ABSOLUTE], **options)
    second = matrix(models[POST_HOC], test, "accuracy", **options)
    matrices = first.relative, second.relative, first.absolute, first.permuted
    return [
        row
        for space, accuracies in zip(SPACES, matrices, strict=True)
        for row in stitching_rows(names(args), space, 100 * accuracies)
    ]


def stitching_rows(names, space, percent):
    kinds = np.array([name.split()[0] for name in names])
    own, same = np.eye(len(names), dtype=bool), kinds[:, None] == kinds
    values = {f"{name}, own head": percent[i, i] for i, name in enumerate(names)}
    if (same & ~own).any():
        values["other seed"] = percent[same & ~own].mean()
    for a, b in itertools.permutations(NETWORKS, 2):
        values[f"{a} → {b}"] = percent[np.ix_(kinds == a, kinds == b)].mean()
    pairs = itertools.product(enumerate(names), repeat=2)
    values |= {f"pair: {a} → {b}": percent[i, j] for (i, a), (j, b) in pairs}
    return [{"variant": space, "metric": m, "value": float(v)} for m, v in values.items()]


def run_seed(args, seed):
    """Train all networks of a seed: rows for `common.run_seeds`, those of a step with it."""
    graph = graph_data.load(args)
    places = graph.others[:, None].astype("float32")
    anchors = graph.others[lgg.relative.select_anchors(places, args.anchors, seed=seed)]
    return stitched(args, graph, anchors, seed) + compared(args, graph, anchors, seed)


# What is shown.


def verdict(args, frame):
    """What exchanged heads reach, and what similarities tell."""
    pairs = [f"{a} → {b}" for a, b in itertools.permutations(NETWORKS, 2)]
    stitching = common.effects(frame, ABSOLUTE, dict.fromkeys(pairs, "max"))
    return f"{stitching}\n{in_words(frame, TEST, (OVER_STEPS, OVER_RUNS))}"


def tables(args, frame):
    plain = frame[frame["epoch"].isna()]
    likeness = plain["metric"].isin([OVER_STEPS, OVER_RUNS, SAME_NETWORK, ALIKE])
    heads = plain[~likeness & ~plain["metric"].str.startswith("pair: ")]
    # Both networks of a kind are samples of it.
    metric = heads["metric"].str.replace(r" \d, own", ", own", regex=True)
    caption = f"Pearson's r of {TEST} and similarity to the reference, over the"
    return {
        "Stitching: accuracy on the test nodes, in %": common.summary(
            heads.assign(metric=metric), "variant", "metric"
        ),
        caption: common.summary(plain[likeness], "variant", "metric", digits=2),
        "The same over the runs, by seed, and the run of each reference": references(frame),
        f"Grid: {TEST} of a run at its best step on validation, in %": accuracies(frame),
    }


def references(frame):
    """A line for each seed."""
    found = {}
    for seed, rows in frame.groupby("seed"):
        _, reference = compare_spaces.by_epoch(rows.dropna())
        over = rows[rows["metric"] == OVER_RUNS].set_index("variant")["value"]
        texts = [f"{over[name]:.2f}" if name in over else "" for name in SIMILARITIES]
        found[f"seed {seed}"] = [reference, *texts]
    columns = ["reference", *SIMILARITIES]
    return common.pd.DataFrame.from_dict(found, orient="index", columns=columns)


def best_of_runs(frame):
    """A line for each run of each seed, at its best step on validation; references are left out."""
    tables = []
    for _, rows in frame.dropna().groupby("seed"):
        table, reference = compare_spaces.by_epoch(rows)
        tables.append(compare_spaces.best_epochs(table.drop(reference, level="variant")))
    return common.pd.concat(tables)


def accuracies(frame):
    best = best_of_runs(frame)
    names = best.index.get_level_values("variant")
    groups = [f"{kind(name)[0]}, {name.split(', ')[-1]}" for name in names]
    found = {}
    for group, values in (100 * best[TEST]).groupby(groups):
        texts = common.describe(values.to_numpy()), f"{values.min():.1f}", f"{values.max():.1f}"
        found[group] = [str(len(values)), *texts]
    columns = ["runs", "mean", "least", "largest"]
    return common.pd.DataFrame.from_dict(found, orient="index", columns=columns)


def draw(args, frame):
    """The runs of all seeds, and who reads whom."""
    figure, axes = common.figure(3, 3, (9, 6.8), height_ratios=[1, 0.12, 1])
    best = best_of_runs(frame)
    for axis, name in zip(axes[0], (compare_spaces.RELATIVE, CENTRED, CKA), strict=True):
        mean = frame[(frame["variant"] == name) & (frame["metric"] == OVER_RUNS)]["value"].mean()
        draw_runs(axis, best, name)
        axis.set_title(f"{name}: r = {mean:.2f}")
    axes[0][0].set_ylabel(f"{TEST} (%)")
    draw_legends(axes[1])
    means = frame.groupby(["variant", "metric"])["value"].mean()
    for axis, space in zip(axes[2], (RELATIVE, ABSOLUTE, PERMUTED), strict=True):
        shown = names(args)
        matrix = np.array([[means[space, f"pair: {a} → {b}"] for b in shown] for a in shown])
        draw_matrix(axis, matrix, shown)
        axis.set_title(f"{space} (%)")
    axes[2][0].set_ylabel("encoder of")
    return figure


def draw_runs(axis, best, name):
    for (variant, _), row in best.iterrows():
        color, (*_, marker) = COLORS[kind(variant)[0]], TRAININGS[variant.split(", ")[-1]]
        filled = color if kind(variant)[1] == "relu" else "none"
        style = {"edgecolors": color, "facecolors": filled, "marker": marker, "alpha": 0.7}
        axis.scatter(row[name], 100 * row[TEST], s=18, **style)
    axis.set(xlabel="similarity to the reference", ylim=(0, 100))


def draw_legends(axes):
    style = {"linestyle": "", "markersize": 5, "color": common.BLACK}
    handles = [
        [Line2D([], [], **{**style, "color": c}, marker="o", label=k) for k, c in COLORS.items()],
        [
            Line2D([], [], **style, marker=marker, label=name)
            for name, (*_, marker) in TRAININGS.items()
        ],
        [
            Line2D([], [], **style, marker="o", fillstyle=fill, label=name)
            for name, fill in zip(ACTIVATIONS, ("full", "none"), strict=True)
        ],
    ]
    for axis, kinds in zip(axes, handles, strict=True):
        axis.legend(handles=kinds, loc="center", ncols=len(kinds), frameon=False, fontsize=8)
        axis.set_axis_off()


def draw_matrix(axis, matrix, names):
    axis.imshow(matrix, cmap="cividis", vmin=0, vmax=100)
    for (i, j), value in np.ndenumerate(matrix):
        color = "black" if value > 55 else "white"
        axis.text(j, i, f"{value:.0f}", ha="center", va="center", color=color)
    places = range(len(names))
    axis.set(xlabel="head of", xticks=places, yticks=places)
    axis.set_xticklabels(names, fontsize=8)
    axis.set_yticklabels(names, fontsize=8)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def parse(argv):
    options = common.parser(__doc__, "citation_graphs", epochs=200, batch_size=None)
    options.set_defaults(data="digits", seeds=5)
    add = options.add_argument
    add("--anchors", type=int, default=300, help="number of anchors")
    add("--copies", type=int, default=2, help="stitched networks of each kind")
    add("--width", type=int, default=32, help="width of the stitched networks")
    add("--rate", type=float, default=0.01, help="learning rate of the stitched networks")
    add("--runs", type=int, default=48, help="runs of the grid, drawn from all combinations")
    add("--widths", type=int, nargs="+", default=[8, 16], help="widths of the networks in the grid")
    # The first runs of this seed are of both networks and all trainings.
    quick = {"epochs": 30, "rate": 0.03, "anchors": 100, "copies": 1, "runs": 6, "seed": 53}
    args = common.arguments(options, argv, quick=quick)
    if args.augment or args.batch_size:
        options.error("a graph is seen whole: no --augment, no --batch-size")
    if args.epochs < EVERY:
        options.error(f"--epochs is at least {EVERY}, after which the networks are looked at")
    return args


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, epoch, seed``.

    Rows with an epoch, which here is a step, are of a run of the grid, as shares; those without one
    are accuracies of stitched networks, in %, or correlations.
    """
    return common.run(parse(argv), run_seed, tables, draw, explain, verdict=verdict)


def explain(args):
    graph = graph_data.load(args)
    return (
        f"{len(graph.labels)} nodes, {len(graph.edges)} edges, {graph.classes} classes; "
        f"{len(graph.train)} training nodes, {len(graph.validation)} for validation, "
        f"{len(graph.test)} for test; {args.anchors} anchors among those in neither of "
        f"the latter; {args.epochs} steps, each on all training nodes; evaluated every {EVERY} "
        f"steps, of which the best on validation counts. Stitching: networks of depth 2 and width "
        f"{args.width}, {args.copies} of each kind per seed, Adam at {args.rate:g}; own heads with "
        f"the spread over all of them, the others over the seeds. Grid: {args.runs} runs per seed, "
        f"of {len(combinations(args))} combinations; the run of the reference is itself left "
        "out. Over the steps: the mean of r over the runs whose best validation accuracy is above "
        f"{100 * LEARNT:g} %. Same network, same activation: as the reference's. Relative: cosines "
        "to the anchors, as in the paper; centred: minus the mean of the anchors first; absolute: "
        "where the width is that of the reference. In the figure each seed has its own reference."
    )


if __name__ == "__main__":
    main()
