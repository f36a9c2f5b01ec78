"""What makes a network fragile, and does smooth geometry help it then?

Trains PreActResNet18 in a base setting, and in others that change one thing: its width, the number
of epochs or of images, augmentation, weight decay, the end of the learning rate, the normalisation.
In each, the plain network is compared with two weights of the paper's smoothness variation and with
the default of the relative form, under noise, dropped units, coarse weights and PGD.

    python examples/fragility.py --quick                                    # digits, two settings
    python examples/fragility.py --data cifar10 --few 10000 --resume FOLDER
    python examples/fragility.py --data cifar10 --few 50000 --epochs 12 --settings base

--resume keeps the trainings, so that a run may be stopped and goes on. All numbers are of the
validation split, since which settings are fragile is a choice. Needs the extra ``examples`` and,
for data other than digits, ``datasets``; TensorFlow alone. Prints its tables and writes the figure
into --output.
"""

import argparse
from typing import NamedTuple

import common
import keras
import networks
import numpy as np
from robustness import RATES, accuracies, levels

import keras_lgg as lgg
from keras_lgg import losses, robustness

PLAIN = "plain"
TAPS = networks.BLOCK_RELUS
UNITS = [f"{block}_sum" for block in networks.BLOCKS]
BITS = (5, 4, 3)
GROUPS = 2  # of a GroupNormalization
BASE = "base"
SLOPE, DISTANCE = "margin: slope of the margin", "margin: distance to the next class"


class Setting(NamedTuple):
    """What is changed against the base; the first three multiply what the options say."""

    width: int = 1
    epochs: float = 1.0
    images: float = 1.0
    augment: tuple[str, ...] = ()
    weight_decay: float = 5e-3
    rate_ends_at: float = 0.0  # share of the highest learning rate
    normalization: str = "batch"


SETTINGS = {
    BASE: Setting(),
    "twice as wide": Setting(width=2),
    "four times as wide": Setting(width=4),
    "a third of the epochs": Setting(epochs=1 / 3),
    "thrice the epochs": Setting(epochs=3),
    "a fifth of the images": Setting(images=0.2, epochs=5),
    "crop and flip": Setting(augment=("crop", "flip")),
    "no weight decay": Setting(weight_decay=0.0),
    "a high rate to the end": Setting(rate_ends_at=0.3),
    "GroupNormalization": Setting(normalization="group"),
}
METHODS = {
    PLAIN: None,
    "smooth, 3e-5": (losses.SmoothnessVariation, {"power": 2}, 3e-5),
    "smooth, 1e-4": (losses.SmoothnessVariation, {"power": 2}, 1e-4),
    "relative": (losses.SmoothnessVariation, {"power": 2, "relative": True}, None),
}


@keras.saving.register_keras_serializable("fragility")
class GroupNormalization(keras.layers.GroupNormalization):
    """Called as a BatchNormalization is."""

    def call(self, inputs, training=None, mask=None):
        del training, mask
        return super().call(inputs)


def options_of(args, setting):
    """The options of a training, which --resume knows it by."""
    own = dict(vars(args), augment=list(setting.augment), setting=setting)
    own["epochs"] = max(1, round(args.epochs * setting.epochs))
    own["few"] = round(args.few * setting.images)
    own["width"] = args.width * setting.width
    return argparse.Namespace(**own)


def build(args, data):
    network = networks.preact_resnet18(data.shape, data.classes, width=args.width)
    if args.setting.normalization == "batch":
        return network

    def clone(layer):
        if isinstance(layer, keras.layers.BatchNormalization):
            return GroupNormalization(GROUPS, name=layer.name)
        return type(layer).from_config(layer.get_config())

    return keras.models.clone_model(network, clone_function=clone)


def train(args, arrays, method, seed, label):
    """The trained network, from pixels in [0, 1]."""
    data = common.pipelines(arrays, args, seed)
    keras.utils.set_random_seed(seed)
    model = network = build(args, data)
    if METHODS[method]:
        loss, settings, weight = METHODS[method]
        penalty = lgg.Penalty(loss(num_classes=data.classes, **settings), TAPS, weight=weight)
        model = lgg.GeometryModel(network, [penalty])
    schedule = {"weight_decay": args.setting.weight_decay, "ends_at": args.setting.rate_ends_at}
    loss = common.cross_entropy()
    common.fit(model, loss, data, args, seed=seed, label=label, metrics=[], **schedule)
    return common.deployable(data, network)


def smoothness(model, images, labels, classes):
    """The relative label smoothness of each tapped layer, on a few images."""
    network = model.layers[-1]
    inner = keras.Model(network.input, [network.get_layer(tap).output for tap in TAPS])
    normalized = model.layers[0](images)
    return [
        float(lgg.graphs.label_smoothness(x, labels, num_classes=classes, relative=True))
        for x in inner(normalized, training=False)
    ]


def margins(model, images, labels):
    """Of each image how far its logit is above the next, and the length of its gradient.

    The latter is the Lipschitz constant of the margin near the image; the former divided by it is
    the distance to the next class, to first order.
    """
    import tensorflow as tf

    found = []
    for x, y in zip(np.array_split(images, 10), np.array_split(labels, 10), strict=True):
        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = model(x, training=False)
            own = tf.one_hot(y, logits.shape[-1])
            others = tf.reduce_max(logits - 1e9 * own, axis=1)
            margin = tf.reduce_sum(logits * own, axis=1) - others
        gradient = tf.reshape(tape.gradient(margin, x), (len(y), -1))
        found.append(np.stack([margin, np.linalg.norm(gradient, axis=1)]))
    return np.concatenate(found, axis=1)


def run_seed(args, seed):
    """Every setting and method: rows for `common.run`."""
    whole = common.load(args)
    rows = []
    for name in args.settings:
        own = options_of(args, SETTINGS[name])
        arrays = common.few(whole, own.few, seed)
        trained = {
            method: train(own, arrays, method, seed, f"{name}, {method}") for method in args.methods
        }
        rows += [{**row, "setting": name} for row in test(args, trained, arrays, seed)]
    return rows


def test(args, models, arrays, seed):
    """Accuracies in %, margins, and smoothness along the depth, on the validation split."""
    images, labels = arrays.validation
    strengths = levels(args)
    layer = next(iter(models.values())).layers[-1].name
    faults = [
        robustness.GaussianNoise(snr=strengths["snr"]),
        robustness.DroppedUnits([f"{layer}/{unit}" for unit in UNITS], rates=RATES),
        robustness.QuantizedWeights(bits=BITS),
    ]
    some = images[: args.attacked], labels[: args.attacked]
    attack = [robustness.PGD(norm="linf", epsilons=strengths["epsilons"])]
    tables = [
        robustness.evaluate(models, (images, labels), faults, seed=seed, progress=False),
        robustness.evaluate(models, some, attack, seed=seed, progress=False).query(
            "perturbation != 'clean'"
        ),
    ]
    rows = [row for table in tables for row in accuracies(table)]
    pixels = some[0].astype("float32") / 255
    for method, model in models.items():
        margin, slope = margins(model, pixels, some[1])
        is_right = margin > 0
        values = {
            SLOPE: np.median(slope),
            DISTANCE: np.median((margin / slope)[is_right]),
        }
        along = smoothness(model, pixels[:200], some[1][:200], arrays.classes)
        values |= {f"smoothness: {tap}": value for tap, value in zip(TAPS, along, strict=True)}
        rows += [{"variant": method, "metric": m, "value": v} for m, v in values.items()]
    return rows


def tables(args, frame):
    """Of each setting what plain training reaches, and what each penalty changes."""
    is_accuracy = ~frame["metric"].str.contains(": ")
    keys = ["setting", "metric", "seed"]
    accuracy = common.by_kind(frame[is_accuracy], "setting").set_index(keys)
    plain = accuracy.loc[accuracy["variant"] == PLAIN, "value"]
    found = {"Plain training, accuracy in %": common.summary(plain.reset_index(), *keys[:2])}
    for method in args.methods[1:]:
        own = accuracy.loc[accuracy["variant"] == method, "value"]
        gains = (own - plain[own.index]).reset_index()
        found[f"{method}, less plain training, points"] = common.summary(gains, *keys[:2])
    for metric in (SLOPE, DISTANCE):
        own = frame[frame["metric"] == metric]
        caption = metric.partition(": ")[2]
        found[caption.capitalize()] = common.summary(own, "setting", "variant", digits=3)
    return found


def verdict(args, frame):
    settings = common.by_kind(frame, "setting").groupby("setting", sort=False)
    return common.effects_by_case(settings, PLAIN, {"clean": "max", "Gaussian noise": "max"})


def draw(args, frame):
    """What each penalty gains under noise in each setting; smoothness along the depth."""
    size = (7.5, 0.32 * len(args.settings) + 2.2)
    figure, axes = common.figure(1, 2, size, layout="constrained")
    left, right = axes[0]
    noise = common.by_kind(frame, "setting").query("metric == 'Gaussian noise'")
    noise = noise.groupby(["setting", "variant"], sort=False)["value"].mean().unstack()
    means = frame.groupby(["metric", "setting", "variant"])["value"].mean()
    for method, color in zip(args.methods, common.PALETTE, strict=False):
        if method != PLAIN:
            gains = (noise[method] - noise[PLAIN])[args.settings]
            left.plot(gains, range(len(gains)), "o", color=color, alpha=0.8)
        along = [means[f"smoothness: {tap}", args.settings[0], method] for tap in TAPS]
        right.plot(range(1, len(TAPS) + 1), along, ".-", color=color, label=method)
    left.axvline(0, color=common.BLACK, linewidth=0.6)
    left.grid(axis="y", linewidth=0.3)
    reached = [f"{name} ({noise.loc[name, PLAIN]:.0f} %)" for name in args.settings]
    left.set_yticks(range(len(reached)), reached)
    left.invert_yaxis()
    left.set(xlabel="gain under noise (points)", title="setting (plain, under noise)")
    right.set(xlabel="tapped layer", ylabel="label smoothness", title=args.settings[0])
    right.set_ylim(bottom=0)
    right.legend(frameon=False, loc="lower left")
    return figure


def parse(argv):
    options = common.parser(__doc__, "fragility", epochs=24, batch_size=100)
    common.add_resume(options)
    add = options.add_argument
    add("--few", type=int, default=10_000, help="training images at most")
    add("--width", type=int, default=8, help="channels of the first convolution")
    add("--attacked", type=int, default=500, help="images for attacks and margins")
    add("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="SETTING")
    add("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    quick = {
        "epochs": 3,
        "width": 4,
        "attacked": 100,
        "settings": [BASE, "crop and flip"],
        "methods": [PLAIN, "relative"],
    }
    return common.arguments(options, argv, quick=quick)


def main(argv=None):
    """Returns the results: ``variant, setting, metric, value, seed``."""
    return common.run(parse(argv), run_seed, tables, draw, explain, verdict=verdict)


def explain(args):
    return (
        f"PreActResNet18 of width {args.width}; {args.few} images of the training split at most, "
        f"{args.epochs} epochs, batches of {args.batch_size}, no augmentation, a decay of weights "
        "of 5e-3 beside a learning rate that ends at 0; each other setting changes one of these. "
        "Accuracies are means over all severities of a kind; PGD and margins on "
        f"{args.attacked} images. The slope of the margin, the logit of the class less the next, "
        "is its local Lipschitz constant; the distance to the next class is that of images that "
        "are classified rightly, to first order. Both are medians."
    )


if __name__ == "__main__":
    main()
