"""Do geometry penalties smooth the latent manifold of an autoencoder?

Trains the same convolutional autoencoder without a penalty, and with one on the three layers of its
encoder (graph variation or smoothness variation) at several weights; for comparison, also a
denoising one. Then follows the latents of test images under growing noise, as in
``latent_manifolds.py``.

    python examples/smooth_manifolds.py --quick           # digits, enlarged to 28 x 28
    python examples/smooth_manifolds.py                   # MNIST

All trained weights are shown; none is chosen. Prints the tables and writes the figure into
--output. Needs the extras ``examples``, ``manifolds`` and, for data other than digits,
``datasets``.
"""

import common
import keras
import latent_manifolds
import numpy as np
from latent_manifolds import ANGLE, DIMENSION, PSNR, STRATA

import keras_lgg as lgg
from keras_lgg import manifolds

TAPS = ("conv1", "conv2", "latent")
PLAIN, DENOISING = "plain", "denoising"
PENALTIES = {
    "graph variation": lgg.losses.GraphVariation,
    "smoothness variation": lgg.losses.SmoothnessVariation,
}
MOVED = "Distance from the clean latents"
SHOWN = (PSNR, ANGLE, DIMENSION, MOVED, STRATA)
COLORS = {"graph variation": common.BLUE, "smoothness variation": common.VERMILION}


def run_seed(args, seed):
    """Train every variant, and follow its latents: rows for `common.run_seeds`."""
    data = common.few(common.load(args), args.samples, seed)
    images, test = (latent_manifolds.prepared(part[0]) for part in (data.train, data.test))
    chosen = np.random.default_rng(seed).permutation(len(test))[: args.images]
    rows = []
    for variant in variants(args):
        parts = train(args, (images, data.train[1]), variant, seed)
        report = manifolds.characterize(
            {label(variant): parts}, test[chosen], controls=False, seed=seed, progress=False
        )
        rows += measured(report.manifolds[0])
    return rows


def variants(args):
    """Pairs of a name and a weight."""
    weights = {"graph variation": args.graph_weights, "smoothness variation": args.smooth_weights}
    return [
        (PLAIN, None),
        *((name, weight) for name, several in weights.items() for weight in several),
        (DENOISING, None),
    ]


def label(variant):
    name, weight = variant
    return name if weight is None else f"{name}, {weight:g}"


def train(args, data, variant, seed):
    """Encoder and decoder, trained together."""
    name, weight = variant
    images, labels = data
    keras.utils.set_random_seed(seed)
    build = manifolds.build_dae if name == DENOISING else manifolds.build_cae
    options = {"seed": seed} if name == DENOISING else {}
    model = build(images.shape[1:], **options)
    encoder, decoder = model.get_layer("encoder"), model.get_layer("decoder")
    inputs = images
    if name in PENALTIES:
        model = penalized(encoder, decoder, penalty(name, labels, weight))
        inputs = [images, labels]
    model.compile(
        keras.optimizers.Adam(1e-3),
        "binary_crossentropy",
        jit_compile=keras.backend.backend() == "jax",
    )
    model.fit(
        inputs,
        images,
        batch_size=args.batch_size,
        epochs=args.epochs,
        verbose=0,
        callbacks=[args.progress.training(label(variant)), keras.callbacks.TerminateOnNaN()],
    )
    return encoder, decoder


def penalty(name, labels, weight):
    options = {}
    if name == "smoothness variation":
        options = {"power": 2, "num_classes": int(labels.max()) + 1}
    return lgg.layers.GeometryPenalty(PENALTIES[name](**options), weight=weight)


def penalized(encoder, decoder, penalty):
    """The autoencoder with a penalty on its encoder's layers; labels are an input of it."""
    taps = keras.Model(encoder.input, [encoder.get_layer(name).output for name in TAPS])
    images, labels = keras.Input(encoder.input_shape[1:]), keras.Input((), dtype="int32")
    return keras.Model([images, labels], decoder(penalty(taps(images), labels=labels)))


def measured(manifold):
    """The rows of the other example, and how far the latents move."""
    moved = {f"{level.sigma:g}": level.displacement for level in manifold.levels[1:]}
    return latent_manifolds.measured(manifold) + [
        {"variant": manifold.name, "metric": f"{MOVED}: {sigma}", "value": value}
        for sigma, value in moved.items()
    ]


def verdict(args, frame):
    """What becomes of images under the strongest noise."""
    levels, _ = latent_manifolds.curve(frame, PLAIN, PSNR)
    strongest = f"{PSNR}: {levels.index[-1]:g}"
    named = {strongest: "PSNR (dB) under the strongest noise"}
    rows = frame[frame["metric"] == strongest].replace({"metric": named})
    return common.effects(rows, PLAIN, dict.fromkeys(named.values(), "max"), are_shares=False)


def tables(args, frame):
    return common.summaries(frame, SHOWN)


def draw(args, frame):
    """PSNR and angle at each level, by variant, the darker the stronger the penalty."""
    figure, axes = common.figure(2, 2, (9, 6.2))
    kinds = {PSNR: "PSNR to the clean image (dB)", ANGLE: "degrees"}
    for row, (penalty, color) in zip(axes, COLORS.items(), strict=True):
        for axis, (kind, text) in zip(row, kinds.items(), strict=True):
            shown = [v for v in variants(args) if v[0] in (PLAIN, penalty, DENOISING)]
            strengths = np.linspace(1, 0.35, max(1, len(shown) - 2))[::-1]
            for i, variant in enumerate(shown):
                mean, spread = latent_manifolds.curve(frame, label(variant), kind)
                style = {"color": color, "alpha": strengths[min(i, len(strengths)) - 1]}
                if variant[0] != penalty:
                    dashed = "--" if variant[0] == DENOISING else "-"
                    style = {"color": common.BLACK, "linestyle": dashed}
                axis.errorbar(
                    mean.index,
                    mean,
                    spread,
                    marker="o",
                    markersize=3,
                    capsize=2,
                    label=label(variant),
                    **style,
                )
            axis.set(
                title=f"{kind}: {penalty}", ylabel=text, xlabel="standard deviation of the noise"
            )
        row[0].legend(frameon=False, fontsize=7)
    return figure


def parse(argv):
    options = common.parser(__doc__, "smooth_manifolds", epochs=6, batch_size=128)
    add = options.add_argument
    add("--samples", type=int, default=20_000, help="number of training samples")
    add("--images", type=int, default=200, help="number of test images")
    add("--graph-weights", type=float, nargs="*", default=[1.0, 10.0, 100.0])
    add("--smooth-weights", type=float, nargs="*", default=[1e-8, 1e-7, 1e-6])
    quick = {"epochs": 4, "batch_size": 64, "samples": 600, "images": 40}
    quick |= {"graph_weights": [10.0], "smooth_weights": [1e-6]}
    return common.arguments(options, argv, quick=quick)


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``."""
    return common.run(parse(argv), run_seed, tables, draw, explain, verdict=verdict)


def explain(args):
    return (
        f"The convolutional autoencoder of latent_manifolds.py: {args.samples} training images at "
        f"most, {args.epochs} epochs, batches of {args.batch_size}; a penalty on its encoder's "
        "three layers, with the weight behind its name (smoothness variation with p = 2); "
        f"denoising is the DAE. {args.images} test images, the same noise for all. Columns of "
        "numbers are standard deviations of the noise. The distance is the mean over the images, "
        "in the Hilbert space of each network, whose unit is its own: the median of the clean "
        'distances in each mode. "Halves" is the angle between halves of the clean latents.'
    )


if __name__ == "__main__":
    main()
