"""Does the head of one classifier work on the encoder of another, of another architecture?

Trains classifiers, each architecture from two initial weights per seed, in three ways: relative to
the same anchors, end to end; absolute; and absolute with a head trained afterwards on relative
codes of the frozen encoder ("post hoc"). Then puts every head on every encoder, without further
training.

    python examples/stitching_classifiers.py --quick            # digits, under a minute
    python examples/stitching_classifiers.py                    # MNIST
    python examples/stitching_classifiers.py --data cifar10 --epochs 10
    python examples/stitching_classifiers.py --networks CNN ResNet ViT

Controls: the anchors of one network in another order ("permuted anchors"), and absolute latents
of the same width in all networks. The protocol is that of Moschella et al., ICLR 2023; nothing was
chosen by these results. Prints its tables and writes, into --output, the accuracy matrices as heat
maps. Needs the extras ``examples``, ``relative`` and, for data other than digits, ``datasets``.
"""

import common
import keras
import networks
import numpy as np
from keras import layers

import keras_lgg as lgg

RELATIVE, POST_HOC, ABSOLUTE = "relative", "relative, post hoc", "absolute"
PERMUTED = "permuted anchors"
NETWORKS = {
    "CNN": networks.small_cnn,
    "ResNet": lambda shape, outputs: networks.wide_resnet(shape, outputs, depth=10, width=0.5),
    "ViT": networks.vision_transformer,
}


def names(args):
    return [f"{name} {i}" for name in args.networks for i in (1, 2)]


def encoder(args, data, name):
    network = NETWORKS[name](data.shape, args.width)
    squash = [layers.BatchNormalization(momentum=0.9), layers.Activation("tanh")]
    return keras.Sequential([keras.Input(data.shape), network, *squash])


def head(codes, classes):
    """Its normalisation of the codes is its own, and goes with it."""
    return keras.Sequential(
        [keras.Input((codes,)), layers.LayerNormalization(epsilon=1e-5), layers.Dense(classes)]
    )


def with_codes(data, network, anchors, indices):
    layer = lgg.layers.RelativeRepresentation(anchors, encoder=network, indices=indices)
    return keras.Sequential([keras.Input(data.shape), layer])


def train(args, arrays, seed, label, halves_of):
    data = common.pipelines(arrays, args, seed)
    keras.utils.set_random_seed(seed)
    first, second = halves_of(data)
    model = keras.Sequential([first, second])
    common.fit(model, common.cross_entropy(), data, args, seed=seed, label=label)
    return first, second


def post_hoc(args, data, labels, pixels, absolute, anchors, indices, label):
    """A head on relative codes of an encoder that was trained without them."""
    first = lgg.layers.with_fixed_anchors(with_codes(data, absolute, anchors, indices))
    codes = common.outputs(first, pixels)
    second = head(args.anchors, data.classes)
    second.compile(
        keras.optimizers.Adam(1e-2),
        common.cross_entropy(),
        jit_compile=keras.backend.backend() == "jax",
    )
    options = {"batch_size": args.batch_size, "epochs": args.epochs, "verbose": 0}
    second.fit(codes, labels, callbacks=[args.progress.training(label)], **options)
    return first, second


def run_seed(args, seed):
    """Train all networks, and stitch: rows for `common.run_seeds`."""
    arrays = common.few(common.load(args), args.samples, seed)
    images, labels = arrays.train
    indices = lgg.relative.select_anchors(
        images, args.anchors, method="stratified", labels=labels, seed=seed
    )
    data = common.pipelines(arrays, args, seed)
    pixels, test = (
        keras.ops.convert_to_numpy(data.normalization(part[0].astype("float32") / 255))
        for part in (arrays.train, arrays.test)
    )
    anchors = pixels[indices]
    models = {RELATIVE: [], ABSOLUTE: [], POST_HOC: []}
    for i, label in enumerate(names(args)):
        name = label.split()[0]
        own_seed = len(names(args)) * seed + i

        def relative(data, name=name):
            first = with_codes(data, encoder(args, data, name), anchors, indices)
            return first, head(args.anchors, data.classes)

        def absolute(data, name=name):
            return encoder(args, data, name), head(args.width, data.classes)

        for space, halves_of in ((RELATIVE, relative), (ABSOLUTE, absolute)):
            models[space].append(train(args, arrays, own_seed, f"{label}, {space}", halves_of))
        first = models[ABSOLUTE][-1][0]
        given = data, labels, pixels, first, anchors, indices
        models[POST_HOC].append(post_hoc(args, *given, f"{label}, {POST_HOC}"))
    return stitched(args, models, (test, arrays.test[1]))


def stitched(args, models, test):
    """A row for each pair, and the means over them."""
    end_to_end = lgg.relative.stitching_matrix(
        models[RELATIVE], test, "accuracy", absolute=models[ABSOLUTE]
    )
    afterwards = lgg.relative.stitching_matrix(models[POST_HOC], test, "accuracy")
    matrices = {
        RELATIVE: end_to_end.relative,
        POST_HOC: afterwards.relative,
        ABSOLUTE: end_to_end.absolute,
        PERMUTED: end_to_end.permuted,
    }
    rows, labels = [], names(args)
    for space, matrix in matrices.items():
        percent = 100 * np.asarray(matrix)
        for i, name in enumerate(labels):
            for j, other in enumerate(labels):
                rows.append(
                    {"variant": space, "metric": f"{name} → {other}", "value": percent[i, j]}
                )
        architectures = np.array([name.split()[0] for name in labels])
        same = architectures[:, None] == architectures[None, :]
        own = np.eye(len(labels), dtype=bool)
        measured = {"own head": own, "other seed": same & ~own, "other architecture": ~same}
        rows += [
            {"variant": space, "metric": metric, "value": percent[mask].mean()}
            for metric, mask in measured.items()
        ]
    return rows


def draw(args, frame):
    """The accuracy matrices, means over the seeds."""
    spaces = [RELATIVE, POST_HOC, ABSOLUTE, PERMUTED]
    labels = names(args)
    size = 5 + 1.5 * len(labels), 2.8 + 0.3 * len(labels)
    figure, axes = common.figure(1, len(spaces), size, layout="constrained")
    means = frame.groupby(["variant", "metric"])["value"].mean()
    for axis, space in zip(axes[0], spaces, strict=True):
        matrix = np.array([[means[space, f"{a} → {b}"] for b in labels] for a in labels])
        axis.imshow(matrix, cmap="cividis", vmin=0, vmax=100)
        for (i, j), value in np.ndenumerate(matrix):
            color = "black" if value > 55 else "white"
            axis.text(j, i, f"{value:.0f}", ha="center", va="center", color=color)
        axis.set(
            title=space, xlabel="head of", xticks=range(len(labels)), yticks=range(len(labels))
        )
        axis.set_xticklabels(labels, rotation=45, ha="right")
        axis.set_yticklabels(labels if axis is axes[0][0] else [])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    axes[0][0].set_ylabel("encoder of")
    figure.suptitle("accuracy on the test split, in %")
    return figure


def parse(argv):
    options = common.parser(__doc__, "stitching_classifiers", epochs=3, batch_size=128)
    add = options.add_argument
    usual = ["CNN", "ResNet"]
    add("--networks", nargs="+", choices=NETWORKS, default=usual)
    add("--samples", type=int, default=10_000, help="number of training samples")
    add("--anchors", type=int, default=200)
    add("--width", type=int, default=64, help="width of the latents")
    args = common.arguments(options, argv, quick={"epochs": 5, "anchors": 50})
    args.subject += args.networks if args.networks != usual else []
    return args


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``; accuracies in %."""
    return common.run(parse(argv), run_seed, tables, draw, explain, verdict=verdict)


def verdict(args, frame):
    means = [m for m in dict.fromkeys(frame["metric"]) if "→" not in m]
    return common.effects(frame, ABSOLUTE, dict.fromkeys(means, "max"))


def tables(args, frame):
    means = frame[~frame["metric"].str.contains("→")]
    pairs = frame[frame["metric"].str.contains("→") & (frame["variant"] == RELATIVE)]
    return {
        "Accuracy on the test split, in %": common.summary(means, "variant", "metric"),
        "Relative, each encoder (row) with each head (column)": common.summary(
            pairs.assign(**pairs["metric"].str.extract(r"(?P<encoder>.+) → (?P<head>.+)")),
            "encoder",
            "head",
        ),
    }


def explain(args):
    return (
        f"Networks: {', '.join(args.networks)}, latents of width {args.width}, two of each per "
        f"seed; the ResNet has 10 layers. {args.samples} training images, {args.anchors} anchors, "
        f"{args.epochs} epochs, batches of {args.batch_size}. The spread is that over seeds of the "
        "means over pairs."
    )


if __name__ == "__main__":
    main()
