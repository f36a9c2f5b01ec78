"""Which penalty on the geometry makes a network robust, beside what one would otherwise take?

Trains the same network with each method and tests it under noise and faults: the paper's smoothness
variation, others of this package, and candidates for it; noise on the inputs, label smoothing,
mixup, dropout, Parseval and SAM.

    python examples/regularizers.py --quick               # digits, a few of the methods
    python examples/regularizers.py --select              # settings, on the validation split
    python examples/regularizers.py --few 6000            # MNIST, a small CNN
    python examples/regularizers.py --data cifar10 --few 10000 --width 16 --epochs 20
    python examples/regularizers.py --data trec --data-dir FOLDER --epochs 15 --batch-size 128

--select tries as many settings of every method on validation data, over seeds that are not reported
later, and takes the best mean under noise and faults at a cost of at most one point of clean
accuracy. Images are tested under Gaussian noise, dropped units and PGD, texts with missing words
and swapped letters. SAM and the noisy twin take two passes a step; the others one. Needs the extras
``examples`` and, for data other than digits, ``datasets`` or ``text``; SAM needs TensorFlow. Prints
one table and writes the figure into --output.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import common
import keras
import networks
import numpy as np
import text_classifiers
import text_training
from keras import ops
from robustness import RATES, accuracies, levels

import keras_lgg as lgg
from keras_lgg import graphs, losses, robustness

TEXTS = ("halves", "trec")
DEPTH = 3  # blocks of the transformer
NEIGHBOURS = 10  # of graphs of nearest neighbours


# ---- candidates ---------------------------------------------------------------------------------


class EvenSmoothness(losses.GeometryLoss):
    """Label smoothness should fall evenly along the depth, from the first tap's value to 0."""

    needs_labels = True
    across_layers = True
    is_scalar = True

    def __init__(self, num_classes):
        super().__init__(name="even_smoothness")
        self.num_classes = num_classes

    def call(self, y_true, y_pred):
        found = [
            graphs.label_smoothness(x, y_true, power=2, num_classes=self.num_classes, relative=True)
            for x in y_pred
        ]
        first, last = ops.stop_gradient(found[0]), len(found) - 1
        apart = [ops.abs(value - first * (1 - i / last)) for i, value in enumerate(found)]
        return sum(apart[1:]) / last


class TwinGraphs(losses.GeometryLoss):
    """The graph of a batch should be that of its noisy twin, which is the second half."""

    is_scalar = True

    def call(self, y_true, y_pred):
        del y_true
        half = ops.shape(y_pred)[0] // 2
        return losses.graph_variation([y_pred[:half], y_pred[half:]])


class GraphVariationBeyond(losses.GeometryLoss):
    """Graph variation, of which a margin from layer to layer is free."""

    across_layers = True
    is_scalar = True

    def __init__(self, margin):
        super().__init__(name="graph_variation_beyond")
        self.margin = margin

    def call(self, y_true, y_pred):
        del y_true
        steps = [losses.graph_variation(pair) for pair in itertools.pairwise(y_pred)]
        return sum(ops.relu(step - self.margin) for step in steps) / len(steps)


# ---- what others do -----------------------------------------------------------------------------


@keras.saving.register_keras_serializable("regularizers")
class SAM(keras.Model):
    """Sharpness-aware minimisation (Foret et al., ICLR 2021): steps by the gradient uphill of here.

    Made of the inputs and outputs of a network; ``rho`` says how far uphill.
    """

    rho = 0.0

    def train_step(self, data):
        import tensorflow as tf

        x, y = data[:2]
        variables = self.trainable_variables
        gradients, *_ = self._gradients(x, y, variables)
        scale = self.rho / (tf.linalg.global_norm(gradients) + 1e-12)
        steps = [scale * gradient for gradient in gradients]
        for variable, step in zip(variables, steps, strict=True):
            variable.assign_add(step)
        gradients, loss, outputs = self._gradients(x, y, variables)
        for variable, step in zip(variables, steps, strict=True):
            variable.assign_sub(step)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self._loss_tracker.update_state(loss)
        return self.compute_metrics(x, y, outputs)

    def _gradients(self, x, y, variables):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            outputs = self(x, training=True)
            loss = self.compute_loss(x, y, outputs)
        gradients = tape.gradient(loss, variables)
        return [tf.convert_to_tensor(gradient) for gradient in gradients], loss, outputs


class WithTwins(keras.layers.Layer):
    """In training, the batch and behind it the same once more with noise."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def call(self, x, training=False):
        return ops.concatenate([x, self.noise(x, training=True)]) if training else x


class WithoutTwins(keras.layers.Layer):
    """In training, the first half of the batch."""

    def call(self, x, training=False):
        return x[: ops.shape(x)[0] // 2] if training else x


class UnknownWords(keras.layers.Layer):
    """In training, replaces a share of the words by the unknown one."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, ids, training=False):
        if not training:
            return ids
        draws = keras.random.uniform(ops.shape(ids), seed=self.seed_generator)
        hidden = ops.logical_and(draws < self.rate, ids != text_classifiers.PADDING)
        return ops.where(hidden, text_classifiers.UNKNOWN, ids)


def one_hot(batches, classes, mixing):
    """Batches of a `tf.data.Dataset` with one-hot classes, and with samples that are mixed in pairs
    where asked (Zhang et al., ICLR 2018)."""
    import tensorflow as tf

    def prepared(x, y):
        y = tf.one_hot(y, classes)
        if mixing is None:
            return x, y
        a, b = (tf.random.gamma((), mixing) for _ in range(2))
        share, order = a / (a + b), tf.random.shuffle(tf.range(tf.shape(x)[0]))
        return tuple(share * z + (1 - share) * tf.gather(z, order) for z in (x, y))

    return batches.map(prepared)


# ---- methods ------------------------------------------------------------------------------------


class Setup(NamedTuple):
    """What a method changes in plain training."""

    penalties: Sequence[lgg.Penalty] = ()
    around: Callable[[keras.Model], keras.Model] | None = None  # the network, in training
    loss: keras.losses.Loss | None = None  # of classes as one-hot vectors
    mixing: float | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    constraint: keras.constraints.Constraint | None = None
    dropout: float = 0.0  # before the logits


class Method(NamedTuple):
    """``setup(task, setting)`` and the settings that --select tries."""

    setup: Callable[[Any, float], Setup]
    settings: Sequence[float]
    on_texts: bool = True


def penalized(loss, *, prefix="", callbacks=()):
    """A method with one penalty, whose weight is the setting."""

    def setup(task, weight):
        taps = [prefix + tap for tap in task.taps]
        penalty = lgg.Penalty(loss(task), taps, weight=weight, name="penalty", pool=task.pool)
        return Setup([penalty], callbacks=[callback(task, weight) for callback in callbacks])

    return setup


def papers(task):
    return losses.SmoothnessVariation(power=2, num_classes=task.classes)


def relative(task, **options):
    return losses.SmoothnessVariation(power=2, num_classes=task.classes, relative=True, **options)


def late(task, weight):
    """From half of the training on."""
    return lgg.callbacks.PenaltyWeightSchedule(weight, delay=task.steps // 2)


def with_floor(task, fraction):
    """A balanced weight beside a tenth of the default, below which their sum never falls."""
    floor = papers(task).default_weight(task.batch_size) / 10
    return Setup(
        [
            lgg.Penalty(papers(task), task.taps, name=name, pool=task.pool, **options)
            for name, options in {
                "balanced": {"weight": "balanced", "fraction": fraction},
                "floor": {"weight": floor},
            }.items()
        ]
    )


def twins(task, weight):
    """The noise is the middle one of those that noise on the inputs may have."""
    noise = task.noise(NOISE[1])
    found = [
        lgg.Penalty(TwinGraphs(name=tap), f"{task.name}/{tap}", weight=weight, pool=task.pool)
        for tap in task.taps
    ]
    return Setup(found, around=lambda network: with_twins(network, noise))


def with_twins(network, noise):
    """A network that sees each batch twice in training, and whose outputs are of the first."""
    inputs = network.input
    return keras.Model(inputs, WithoutTwins()(network(WithTwins(noise)(inputs))))


def noisy(task, scale):
    def around(network):
        return keras.Model(network.input, network(task.noise(scale)(network.input)))

    return Setup(around=around)


def smooth_labels(task, share):
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=share)
    return Setup(loss=loss)


def mixup(task, alpha):
    return Setup(loss=keras.losses.CategoricalCrossentropy(from_logits=True), mixing=alpha)


def sharpness_aware(task, rho):
    def around(network):
        model = SAM(network.input, network(network.input))
        model.rho = rho
        return model

    return Setup(around=around)


NOISE = (0.1, 0.2, 0.4, 0.8)  # of the standard deviation of pixels; the share of the words
METHODS = {
    "plain": Method(lambda task, _: Setup(), (0.0,)),
    "noise on the inputs": Method(noisy, NOISE),
    "label smoothing": Method(smooth_labels, (0.05, 0.1, 0.2, 0.4)),
    "mixup": Method(mixup, (0.1, 0.2, 0.4, 1.0), on_texts=False),
    "dropout": Method(lambda task, rate: Setup(dropout=rate), (0.1, 0.2, 0.3, 0.5)),
    "Parseval": Method(
        lambda task, beta: Setup(constraint=lgg.constraints.Parseval(beta=beta)),
        (3e-4, 1e-3, 3e-3, 1e-2),
        on_texts=False,
    ),
    "SAM": Method(sharpness_aware, (0.02, 0.05, 0.1, 0.2)),
    "smoothness variation": Method(penalized(papers), (1e-6, 1e-5, 3e-5, 1e-4)),
    "the same, late": Method(penalized(papers, callbacks=[late]), (1e-6, 1e-5, 3e-5, 1e-4)),
    "the same, balanced": Method(with_floor, (0.1, 1.0, 3.0, 10.0)),
    "relative": Method(penalized(relative), (1.0, 3.0, 10.0, 30.0)),
    "relative, k-NN": Method(
        penalized(lambda task: relative(task, k=NEIGHBOURS)), (1.0, 3.0, 10.0, 30.0)
    ),
    "even smoothness": Method(
        penalized(lambda task: EvenSmoothness(task.classes)), (0.3, 1.0, 3.0, 10.0)
    ),
    "graph variation": Method(penalized(lambda _: losses.GraphVariation()), (1.0, 3.0, 10.0, 30.0)),
    "graph variation, margin": Method(
        penalized(lambda _: GraphVariationBeyond(0.05)), (1.0, 3.0, 10.0, 30.0)
    ),
    "noisy twins": Method(twins, (1.0, 3.0, 10.0, 30.0)),
}


# ---- tasks --------------------------------------------------------------------------------------


class Images:
    """A small CNN on images of 8 x 8 pixels or more."""

    name, taps, pool = "small_cnn", networks.STAGES, None

    def __init__(self, args, seed):
        self.args = args
        self.arrays = common.few(common.load(args), args.few, seed)
        self.data = common.pipelines(self.arrays, args, seed)
        self.classes, self.batch_size = self.data.classes, args.batch_size
        self.steps = args.epochs * len(self.data.train)

    def build(self, constraint=None, dropout=0.0):
        network = networks.small_cnn(
            self.data.shape, self.classes, width=self.args.width, constraint=constraint
        )
        return with_dropout(network, dropout)

    def noise(self, scale):
        return keras.layers.GaussianNoise(scale)

    def fit(self, model, setup, seed, label):
        data = self.data
        if setup.loss:
            data = data._replace(train=one_hot(data.train, self.classes, setup.mixing))
        loss = setup.loss or common.cross_entropy()
        common.fit(model, loss, data, self.args, seed=seed, label=label, callbacks=setup.callbacks)

    def test(self, networks_of, split, seed):
        models = {v: common.deployable(self.data, network) for v, network in networks_of.items()}
        first = next(iter(models.values()))
        units = [f"{first.layers[-1].name}/{stage}" for stage in self.taps]
        strengths = levels(self.args)
        faults = [
            robustness.GaussianNoise(snr=strengths["snr"]),
            robustness.DroppedUnits(units, rates=RATES),
        ]
        images, labels = getattr(self.arrays, split)
        tables = [robustness.evaluate(models, (images, labels), faults, seed=seed, progress=False)]
        if split == "test":
            attack = [robustness.PGD(norm="linf", epsilons=strengths["epsilons"])]
            few = images[: self.args.attacked], labels[: self.args.attacked]
            found = robustness.evaluate(models, few, attack, seed=seed, progress=False)
            tables.append(found.query("perturbation != 'clean'"))
        return [row for table in tables for row in accuracies(table)]


class Texts:
    """A transformer of three blocks on questions."""

    taps, pool = text_classifiers.taps(DEPTH), "mean"

    def __init__(self, args, seed):
        self.args = args
        self.data = text_training.prepare(args, seed)
        self.classes, self.batch_size = self.data.classes, args.batch_size
        self.steps = args.epochs * -(-len(self.data.texts) // args.batch_size)

    def build(self, constraint=None, dropout=0.0):
        del constraint  # none of the methods on texts has one
        return with_dropout(
            text_classifiers.classifier(*self.data.counts, width=64, depth=DEPTH), dropout
        )

    def noise(self, scale):
        return UnknownWords(scale)

    def fit(self, model, setup, seed, label):
        data = self.data
        if setup.loss:
            data = data._replace(labels=np.eye(self.classes, dtype="float32")[data.labels])
        text_training.fit(
            model, data, self.args, seed, label, loss=setup.loss, callbacks=setup.callbacks
        )

    def test(self, networks_of, split, seed):
        del split  # decided by --select, when the texts were read
        rates = (0.1, 0.2, 0.3, 0.5)
        faults = [robustness.DroppedTokens(rates=rates), robustness.Typos(rates=rates)]
        table = robustness.evaluate(
            networks_of,
            (self.data.scored, self.data.scored_labels),
            faults,
            tokenizer=self.data.ids_of,
            seed=seed,
            progress=False,
        )
        return accuracies(table)


def with_dropout(network, rate):
    """The network, with dropout before its logits."""
    if not rate:
        return network
    logits = network.layers[-1]
    dropped = keras.layers.Dropout(rate)(logits.input)
    return keras.Model(network.input, logits(dropped), name=network.name)


# ---- the experiment -----------------------------------------------------------------------------


def train(task, method, setting, seed, label):
    """The trained network, plain."""
    keras.utils.set_random_seed(seed)
    setup = METHODS[method].setup(task, setting)
    model = network = task.build(setup.constraint, setup.dropout)
    if setup.around:
        model = setup.around(network)
    if setup.penalties:
        model = lgg.GeometryModel(model, setup.penalties)
    task.fit(model, setup, seed, label)
    plain = task.build()
    plain.set_weights(network.get_weights())
    return plain


def methods(args):
    """The settings to train with, by method."""
    on_texts = args.data in TEXTS
    chosen = CHOSEN.get(args.data, {})
    found = {}
    for name in args.methods:
        method = METHODS[name]
        if on_texts and not method.on_texts:
            continue
        middle = method.settings[len(method.settings) // 2]
        found[name] = method.settings if args.select else [chosen.get(name, middle)]
    return found


def run_seed(args, seed):
    """Train with each method and test: rows for `common.run`, of accuracy in %."""
    task = (Texts if args.data in TEXTS else Images)(args, seed)
    trained = {}
    for name, settings in methods(args).items():
        for setting in settings:
            label = f"{name}, {setting:g}" if args.select else name
            trained[label] = train(task, name, setting, seed, label)
    return task.test(trained, "validation" if args.select else "test", seed)


def conclude(frame):
    """The rule by which settings are chosen, and what it gives."""
    means = frame.pivot_table(index="variant", columns="metric", values="value", sort=False)
    method = means.index.str.rpartition(", ").get_level_values(0)
    chosen, dear = {}, []
    for name, of in means.groupby(method, sort=False):
        score = common.robustness(of, means.iloc[0])
        if score.empty:
            dear.append(name)
            score = of["clean"]
        chosen[name] = score.idxmax().rpartition(", ")[2]
    settings = "; ".join(f"{name} {setting}" for name, setting in chosen.items())
    text = (
        "Chosen by the best mean under all perturbations at a cost of at most one point of clean "
        f"accuracy: {settings}."
    )
    return text + (f" By clean accuracy, since all cost more: {', '.join(dear)}." if dear else "")


def tables(args, frame):
    where = "the test texts" if args.data in TEXTS else "the test split"
    kinds = common.by_kind(frame)
    return {
        f"Accuracy on {where}, in %": common.summary(kinds, "variant", "metric"),
        f"Accuracy on {where}, in %, by severity": common.summary(frame, "variant", "metric"),
    }


def verdict(args, frame):
    kinds = common.by_kind(frame)
    return common.effects(kinds, "plain", dict.fromkeys(kinds["metric"].unique(), "max"))


def draw(args, frame):
    """Of each kind of perturbation what each method gains, seed by seed, against plain training."""
    kinds = common.by_kind(frame)
    metrics = list(dict.fromkeys(kinds["metric"]))
    table = kinds.pivot_table(
        index="variant", columns=["metric", "seed"], values="value", sort=False
    )
    names = [name for name in table.index if name != "plain"]
    figure, axes = common.figure(
        1, len(metrics), (2.2 * len(metrics) + 1.8, 0.3 * len(names) + 1.2)
    )
    for axis, metric in zip(axes[0], metrics, strict=True):
        gains = table[metric] - table[metric].loc["plain"]
        for place, name in enumerate(names):
            values = gains.loc[name].to_numpy()
            color = common.BLUE if METHODS[name].setup in OURS else common.VERMILION
            axis.plot([values.min(), values.max()], [place, place], color=color)
            axis.plot(values.mean(), place, "o", color=color, markersize=5)
        axis.axvline(0, color=common.BLACK, linewidth=0.6)
        axis.set(title=metric, xlabel="points, less plain", ylim=(len(names) - 0.5, -0.5))
        axis.set_yticks(range(len(names)), names if axis is axes[0][0] else [])
    return figure


OTHERS = ("noise on the inputs", "label smoothing", "mixup", "dropout", "Parseval", "SAM")
OURS = [method.setup for name, method in METHODS.items() if name not in OTHERS]
# By --select, recorded in docs/results/records/robustness.md; else the third of the settings.
CHOSEN: dict[str, dict[str, float]] = {
    "digits": {
        "noise on the inputs": 0.4,
        "label smoothing": 0.05,
        "mixup": 0.2,
        "dropout": 0.5,
        "Parseval": 3e-3,
        "SAM": 0.2,
        "smoothness variation": 1e-6,
        "the same, late": 3e-5,
        "the same, balanced": 0.1,
        "relative": 3.0,
        "relative, k-NN": 1.0,
        "even smoothness": 3.0,
        "graph variation": 1.0,
        "graph variation, margin": 1.0,
        "noisy twins": 1.0,
    },
}


def parse(argv):
    options = common.parser(__doc__, "regularizers", epochs=8, batch_size=100)
    add = options.add_argument
    add("--few", type=int, default=6000, help="training samples at most")
    add("--width", type=int, default=8, help="channels of the first convolution")
    add("--attacked", type=int, default=500, help="test images for attacks, which cost much")
    add("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    add("--language", default="English", help="of the texts")
    common.add_resume(options)
    add("--select", action="store_true", help="choose the settings on validation data instead")
    quick = {
        "epochs": 10,
        "attacked": 100,
        "methods": ["plain", "noise on the inputs", "relative", "noisy twins"],
    }
    args = common.arguments(options, argv, quick=quick)
    return common.apart_from_reported(args)


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``; accuracies in %."""
    args = parse(argv)
    if args.select:
        return common.select(args, run_seed, "Accuracy on validation, in %", conclude)
    return common.run(args, run_seed, tables, draw, explain, verdict=verdict)


def explain(args):
    network = f"A small CNN, width {args.width}"
    if args.data in TEXTS:
        network = f"A transformer of {DEPTH} blocks"
    chosen = "; ".join(f"{name} {values[0]:g}" for name, values in methods(args).items())
    return (
        f"{network}; {args.few} training samples at most, {args.epochs} epochs, batches of "
        f"{args.batch_size}. Settings: {chosen}. The mean over all severities of a kind; PGD on "
        f"{args.attacked} images."
    )


if __name__ == "__main__":
    main()
