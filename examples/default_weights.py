"""Does a penalty without a weight train well? Each loss, on four tasks.

Every loss is compared with the same loss under a search, which tries multiples of its default
weight: 0, and one per decade from a hundredth to a hundredfold. Only the default itself is reached
over the first steps of a training. The search takes the weight of the best score on the validation
split, for each task, batch size and seed; this weight and the default are compared on the test
split.

    python examples/default_weights.py --quick                          # digits, batches of 128
    python examples/default_weights.py --tasks digits mnist regression
    python examples/default_weights.py --text-dir FOLDER                # TREC, too

The tasks: digits of scikit-learn, MNIST (6,000 images of it, and 2,000 to test with), the coarse
classes of TREC by TF-IDF, and Friedman's regression. The networks are dense and train for a fixed
number of steps by Adam. In a fifth task, digits moved by parts of a pixel, they are convolutional,
with no normalisation, and train by SGD at a rate at which it takes little to ruin them. Prints the
tables and writes the figure into --output. Needs the extra ``examples``, for MNIST ``datasets`` and
for TREC ``text``; what TREC is, and where to get it, is in ``text_data.py``.
"""

import contextlib
import types

import common
import dense_networks
import keras
import numpy as np
import pandas as pd
import text_data
import text_encoders
from dense_networks import BLOCKS
from scipy.ndimage import shift
from sklearn.datasets import make_friedman1

import keras_lgg as lgg
from keras_lgg import losses

TEACHER_WIDTH, STUDENT_WIDTH, WIDTH = 128, 16, 64
MULTIPLES = [0.0, 1e-2, 0.1, 1.0, 10.0, 100.0]  # of the default weight, from the first step
DEFAULT = -1.0  # as a weight of a penalty: the default, which is reached over the first steps
MOVED = "moved digits"
IMAGES = ("digits", "mnist", MOVED)
TRAINED, TESTED = 6000, 2000  # images at most, and at most so many to validate or to test with
TASKS = [*IMAGES, "trec", "regression"]
VARIATION = ["smoothness variation, p = 1", "smoothness variation, p = 2", "the same, relative"]
ON_LAYERS = [*VARIATION, "graph variation"]
ON_EMBEDDINGS = ["graph smoothness", "target graph"]
DISTILLING = ["GKD", "RKD-D", "RKD-A", "SPKD", "PKT", "CCKD"]


def run_seed(args, seed):
    """Every task, loss, batch size and weight: rows for `common.run`, scores in %."""
    rows = []
    for task in args.tasks:
        data, classes = load(args, task, seed)
        keras.utils.set_random_seed(seed)
        teacher = network(data, classes, TEACHER_WIDTH, task)
        train(args, teacher, data, classes, 128, seed, task, "teacher")
        for name in args.losses:
            if name in ON_EMBEDDINGS and (task == MOVED or not classes):
                continue
            for batch in args.batches:
                found = scores(args, task, name, data, classes, teacher, batch, seed)
                rows += [{"variant": name, "task": task, "batch": batch, **each} for each in found]
    return rows


def load(args, task, seed):
    """The splits of a task, and how many classes it has; 0 for a regression."""
    if task == "regression":
        return friedman(seed), 0
    if task == "trec":
        data = questions(args, seed)
    else:
        source = types.SimpleNamespace(data=task.split()[-1], data_dir=args.data_dir)
        arrays = common.few(common.load(source), TRAINED, seed)
        data = dense_networks.prepared(
            arrays._replace(
                validation=tuple(each[:TESTED] for each in arrays.validation),
                test=tuple(each[:TESTED] for each in arrays.test),
            )
        )
    if task == MOVED:
        rng = np.random.default_rng(seed)
        data = {split: (moved(x, rng), y) for split, (x, y) in data.items()}
    return data, dense_networks.class_count(data)


def moved(flat, rng):
    """Digits of 8 x 8 pixels, each moved by up to 1.5 of them; (n, 64)."""
    images = flat.reshape(-1, 8, 8)
    found = [shift(image, rng.uniform(-1.5, 1.5, 2), order=1) for image in images]
    return np.stack(found).reshape(flat.shape)


def questions(args, seed):
    """The principal axes of TF-IDF."""
    source = types.SimpleNamespace(data="trec", data_dir=args.text_dir, width=128)
    texts, train, test = text_data.with_classes(source)
    language = text_data.languages("trec")[0]
    own = np.array(texts.train[language], object)
    encode = text_encoders.tfidf(list(own), source, seed)
    kept, out = text_data.held_out(train.coarse, seed)
    splits = {
        "train": (own[kept], train.coarse[kept]),
        "validation": (own[out], train.coarse[out]),
        "test": (texts.test[language], test.coarse),
    }
    # Of the scale of pixels.
    return {k: (10 * encode(list(x)).astype("float32"), y) for k, (x, y) in splits.items()}


def friedman(seed):
    """Friedman's first function of ten features, with noise, standardised."""
    x, y = make_friedman1(6000, noise=1.0, random_state=seed)
    y = ((y - y.mean()) / y.std()).astype("float32")[:, None]
    places = {"train": slice(0, 4000), "validation": slice(4000, 5000), "test": slice(5000, None)}
    return {split: (x[i].astype("float32"), y[i]) for split, i in places.items()}


def network(data, classes, width, task):
    layers = convolutions(width) if task == MOVED else dense_networks.blocks(data, width)
    return keras.Sequential([*layers, keras.layers.Dense(classes or 1)])


def convolutions(width):
    """Three blocks that halve the image, from half the width on, and a dense layer."""
    layers = [keras.Input((64,)), keras.layers.Reshape((8, 8, 1))]
    for name, channels in zip(BLOCKS, (width // 2, width, width), strict=True):
        strides = 1 if name == BLOCKS[0] else 2
        convolution = keras.layers.Conv2D(channels, 3, strides, padding="same")
        layers += [convolution, keras.layers.ReLU(name=name)]
    return [*layers, keras.layers.Flatten(), keras.layers.Dense(width, "relu")]


def penalized(task, name, data, classes, teacher):
    """A model with one penalty of the default weight, and the network inside of it."""
    loss = loss_of(name, classes)
    if name in DISTILLING:
        student = network(data, classes, STUDENT_WIDTH, task)
        penalty = lgg.Penalty(loss, [(block, block) for block in BLOCKS])
        return lgg.Distiller(teacher, student, [penalty]), student
    if name in ON_EMBEDDINGS:
        embedder = dense_networks.embedder(data, WIDTH, STUDENT_WIDTH)
        base, taps = keras.Sequential([embedder, keras.layers.Dense(classes)]), embedder
    else:
        base, taps = network(data, classes, WIDTH, task), BLOCKS
    return lgg.GeometryModel(base, [lgg.Penalty(loss, taps)]), base


def loss_of(name, classes):
    of_labels = {"num_classes": classes} if classes else {"continuous": True}
    if name in VARIATION:
        power, relative = VARIATION.index(name) > 0, name == VARIATION[2]
        return losses.SmoothnessVariation(power=1 + power, relative=relative, **of_labels)
    return {
        "graph variation": losses.GraphVariation,
        "graph smoothness": losses.GraphSmoothness,
        "target graph": lambda: losses.TargetGraph(num_classes=classes),
        "GKD": losses.GraphDistillation,
        "RKD-D": losses.RelationalDistance,
        "RKD-A": lambda: losses.RelationalAngle(arms=32),
        "SPKD": losses.SimilarityPreserving,
        "PKT": losses.ProbabilisticTransfer,
        "CCKD": losses.CorrelationCongruence,
    }[name]()


def scores(args, task, name, data, classes, teacher, batch, seed):
    """Of each weight the scores of the network: dicts."""
    keras.utils.set_random_seed(seed)
    model, trained = penalized(task, name, data, classes, teacher)
    weight, steps = model.penalties[0].variables
    default = float(model.penalties[0].loss.default_weight(batch))
    start = trained.get_weights()
    rows = []
    for multiple in (DEFAULT, *args.multiples):
        trained.set_weights(start)
        weight.assign(DEFAULT if multiple == DEFAULT else multiple * default)
        steps.assign(0.0)
        times = "the default" if multiple == DEFAULT else f"{multiple:g} times the default"
        train(args, model, data, classes, batch, seed, task, f"{name}, n = {batch}, {times}")
        kinds = {
            split: score(name, trained, data, classes, split) for split in ("validation", "test")
        }
        if name in ON_LAYERS and task in IMAGES:
            kinds["noise"] = dense_networks.under_noise(trained, data, "test")
        rows += [{"multiple": multiple, "metric": kind, "value": v} for kind, v in kinds.items()]
    return rows


def train(args, model, data, classes, batch, seed, task, label):
    """So many steps; compiled once, and then begun anew."""
    if not model.compiled:
        loss = common.cross_entropy() if classes else "mean_squared_error"
        sgd = task == MOVED
        optimizer = keras.optimizers.SGD(0.1, 0.9) if sgd else keras.optimizers.Adam(2e-3)
        # On CPU, XLA takes longer to compile under TensorFlow than these networks take to train.
        backend = keras.backend.backend()
        # To come back from a step takes as long as the step; Keras refuses more on PyTorch.
        together = 1 if backend == "torch" else 10
        model.compile(optimizer, loss, jit_compile=backend == "jax", steps_per_execution=together)
    if model.optimizer.built:
        for variable in model.optimizer.variables[2:]:
            variable.assign(keras.ops.zeros_like(variable))
        model.optimizer.iterations.assign(0)
    keras.utils.set_random_seed(seed)
    callbacks = [args.progress.training(f"{task}, {label}")]
    # One epoch: to begin another takes as long as thirty steps.
    x, y = in_batches(*data["train"], batch, args.steps, seed)
    with contextlib.suppress(FloatingPointError):  # what a weight ruins is scored as it is
        model.fit(x, y, batch_size=batch, shuffle=False, verbose=0, callbacks=callbacks)


def in_batches(x, y, batch, steps, seed):
    """The samples of so many whole batches, shuffled anew whenever all were seen."""
    rng, whole = np.random.default_rng(seed), len(x) // batch * batch
    rounds = -(-steps * batch // whole)
    order = np.concatenate([rng.permutation(len(x))[:whole] for _ in range(rounds)])
    return x[order[: steps * batch]], y[order[: steps * batch]]


def score(name, trained, data, classes, split):
    """In %: the accuracy, of embeddings that of 10-NN; of a regression R2."""
    if name in ON_EMBEDDINGS:
        return dense_networks.neighbors(trained.layers[0], data, split)
    if classes:
        return dense_networks.accuracy(trained, data, split)
    x, y = data[split]
    return 100 * (1 - np.mean((dense_networks.outputs(trained, x) - y) ** 2) / np.var(y))


def compared(frame):
    """Test scores of each seed: with the default, with its value from the first step, with what the
    search finds, and with weight 0."""
    keys = ["variant", "task", "batch", "seed"]
    rows = []
    for key, group in frame.groupby(keys, sort=False):
        table = group.pivot_table(index="multiple", columns="metric", values="value", sort=False)
        best = table["validation"].drop(DEFAULT).idxmax()
        noise = table["noise"] if "noise" in table else dict.fromkeys(table.index, np.nan)
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "default": table["test"][DEFAULT],
                "search": table["test"][best],
                "at once": table["test"][1.0],
                "none": table["test"][0.0],
                "noise": noise[DEFAULT] - noise[0.0],
            }
        )
    return pd.DataFrame(rows)


def verdict(args, frame):
    """Over all losses, tasks and batch sizes, each a mean over the seeds."""
    keys = ["variant", "task", "batch"]
    means = compared(frame).groupby(keys, sort=False)[["default", "search", "none"]].mean()
    lost, gained = means["search"] - means["default"], means["default"] - means["none"]
    worst = ", ".join(map(str, lost.idxmax()))
    return (
        f"Of {len(means)} settings of loss, task and batch size: the default scores "
        f"{lost.mean():.1f} points less than the weight of the search in the mean, at most "
        f"{lost.max():.1f} ({worst}); and {gained.mean():+.1f} points against weight 0, from "
        f"{gained.min():+.1f} to {gained.max():+.1f}."
    )


def tables(args, frame):
    found = compared(frame)
    found["metric"] = found["task"] + ", " + found["batch"].astype(str)
    gain = "default, less weight 0, points of accuracy under noise on the test split"
    kinds = {
        "default, less the weight of the search, points on the test split": "search",
        "default, less weight 0, points on the test split": "none",
        "default, less the same weight from the first step, points on the test split": "at once",
    }
    made = {
        f"{caption}; columns are task and batch size": differences(found, other)
        for caption, other in kinds.items()
    }
    noisy = found.dropna(subset="noise")
    if len(noisy):
        made[gain] = common.summary(noisy.assign(value=noisy["noise"]), "variant", "metric")
    return made


def differences(found, other):
    return common.summary(found.assign(value=found["default"] - found[other]), "variant", "metric")


def draw(args, frame):
    """Of each loss the test scores against the weight, each less that of weight 0.

    The lines are of weights from the first step, the stars of the default.
    """
    names = list(dict.fromkeys(frame["variant"]))  # some act on classes alone
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    size = (2.5 * columns, 2.2 * rows + 0.5)
    figure, axes = common.figure(rows, columns, size, layout="constrained")
    axes = axes.ravel()
    tested = frame[frame["metric"] == "test"]
    shown = [multiple for multiple in args.multiples if multiple]
    for axis, name in zip(axes, names, strict=False):
        for task, color in zip(args.tasks, common.PALETTE, strict=False):
            for batch, style in zip(args.batches, ("-", "--", ":"), strict=False):
                one = tested[
                    (tested["variant"] == name)
                    & (tested["task"] == task)
                    & (tested["batch"] == batch)
                ]
                if len(one):
                    means = one.groupby("multiple")["value"].mean()
                    gains = (means - means[0.0])[shown]
                    label = f"{task}, n = {batch}"
                    axis.plot(shown, gains, f".{style}", color=color, linewidth=1.2, label=label)
                    axis.plot(1, means[DEFAULT] - means[0.0], "*", color=color, markersize=9)
        axis.axvline(1, color=common.BLACK, linewidth=0.6)
        axis.axhline(0, color=common.BLACK, linewidth=0.6)
        title = name.replace("smoothness variation", "smoothness")
        axis.set(title=title, xscale="log", ylim=(-12, 6), xlabel="times the default")
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis in axes[::columns]:
        axis.set_ylabel("points, less weight 0")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=3, loc="outside lower center", frameon=False)
    return figure


def parse(argv):
    options = common.parser(__doc__, "default_weights", epochs=None, batch_size=None)
    add = options.add_argument
    add("--tasks", nargs="+", choices=TASKS, default=TASKS)
    add("--losses", nargs="+", default=[*ON_LAYERS, *ON_EMBEDDINGS, *DISTILLING])
    add("--batches", type=int, nargs="+", default=[32, 128, 512])
    add("--multiples", type=float, nargs="+", default=MULTIPLES)
    add("--steps", type=int, default=400)
    add("--text-dir", help="folder that contains the folder trec")
    quick = {
        "tasks": ["digits"],
        "batches": [128],
        "multiples": [0.0, 1.0, 1000.0],
        "steps": 60,
        "losses": ["smoothness variation, p = 2", "graph smoothness", "RKD-D"],
    }
    args = common.arguments(options, argv, quick=quick)
    args.subject = args.tasks
    return args


def main(argv=None):
    """Returns the scores: ``variant, task, batch, multiple, metric, value, seed``."""
    return common.run(parse(argv), run_seed, tables, draw, explain, verdict=verdict)


def explain(args):
    return (
        f"Tasks: {', '.join(args.tasks)}; batches of {', '.join(map(str, args.batches))}; "
        f"{args.steps} steps of Adam, or of SGD on moved digits. The search tries the default "
        f"times {', '.join(f'{multiple:g}' for multiple in args.multiples)}, from the first step "
        "on, and takes the best validation score of each seed. "
        "Scores: accuracy; of graph smoothness and target graph, which are penalties on a layer of "
        "width 16 here, the accuracy of 10-NN in that layer; of the regression, R2 in %. The "
        "last six distil a network eight times as wide. Noise: the mean over five "
        "levels of Gaussian noise on the pixels."
    )


if __name__ == "__main__":
    main()
