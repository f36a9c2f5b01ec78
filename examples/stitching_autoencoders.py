"""Do separately trained autoencoders understand each other?

Trains two autoencoders per seed, from different weights and on batches in different order, once
with absolute latents and once relative to the same anchors, end to end. Then decodes the codes of
each with the decoder of the other, without further training.

    python examples/stitching_autoencoders.py --quick           # digits, under a minute
    python examples/stitching_autoencoders.py                   # MNIST
    python examples/stitching_autoencoders.py --kinds VAE       # only variational ones
    python examples/stitching_autoencoders.py --data cifar10 --epochs 20

Controls: the anchors of one network in another order ("permuted anchors"), and the absolute latents
translated by a rotation fitted on the anchors ("Procrustes"). A linear classifier trained on the
codes of one network reads those of the other ("head"). Encoder and loss are those of Moschella et
al., ICLR 2023; the decoder was chosen among four by the training loss of one network, seed 0.
Prints one table and writes the figure, into --output. Needs the extras ``examples``, ``relative``
and, for data other than digits, ``datasets``.
"""

import pathlib

import common
import keras
import numpy as np
from keras import layers, ops
from sklearn.linear_model import LogisticRegression

import keras_lgg as lgg
from keras_lgg.files import beside

RELATIVE, ABSOLUTE = "relative", "absolute"
PERMUTED, TRANSLATED = "permuted anchors", "absolute, Procrustes"
CHANNELS = (32, 64, 128, 256)
HEAD_SAMPLES = 5000  # of the training split, for the linear classifier
COMPARED = 2000  # test samples whose neighbours are compared


@keras.saving.register_keras_serializable("stitching_autoencoders")
class LogMeanSquare(keras.losses.Loss):
    """Half the logarithm of the mean squared error of a batch.

    It is, by the value, the Gaussian likelihood of the batch at its best variance.
    """

    def call(self, y_true, y_pred):
        return 0.5 * ops.log(ops.mean(ops.square(y_true - y_pred)))


@keras.saving.register_keras_serializable("stitching_autoencoders")
class Sampling(layers.Layer):
    """A sample of the posterior in training, its mean otherwise; adds the KL divergence."""

    def __init__(self, *, outputs, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.outputs, self.seed = outputs, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, mean, log_variance, training=False):
        divergence = 0.5 * ops.sum(
            ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance, axis=1
        )
        self.add_loss(ops.mean(divergence) / self.outputs)  # per pixel, as the other loss
        if not training:
            return mean
        noise = keras.random.normal(ops.shape(mean), seed=self.generator)
        return mean + ops.exp(0.5 * log_variance) * noise

    def get_config(self):
        return {**super().get_config(), "outputs": self.outputs, "seed": self.seed}


def encoder(shape, latent=None):
    """Strided convolutions; a Dense latent on top, or the flat features as they are."""
    inputs = x = keras.Input(shape)
    for i, channels in enumerate(CHANNELS):
        x = layers.Conv2D(channels, 3, 2, padding="same")(x)
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        if latent or i < len(CHANNELS) - 1:
            x = layers.Activation("gelu")(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(latent, "gelu")(x) if latent else x)


def decoder(shape, codes, *, variational, seed):
    """From codes to images; the normalisation of the codes is its own."""
    inputs = x = keras.Input((codes,))
    x = layers.LayerNormalization(epsilon=1e-5)(x)
    if variational:
        x = Sampling(outputs=int(np.prod(shape)), seed=seed)(
            layers.Dense(codes)(x), layers.Dense(codes)(x)
        )
    height, width, channels = shape[0] // 4, shape[1] // 4, 128
    x = layers.Dense(height * width * channels, "gelu")(x)
    x = layers.Reshape((height, width, channels))(x)
    x = layers.Conv2DTranspose(channels // 2, 3, 2, padding="same")(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    x = layers.Activation("gelu")(x)
    x = layers.Conv2DTranspose(shape[-1], 3, 2, padding="same", activation="sigmoid")(x)
    return keras.Model(inputs, x)


def halves(args, images, indices, kind, space, seed):
    """The encoder and the decoder of one network."""
    shape = images.shape[1:]
    keras.utils.set_random_seed(seed)
    if space == ABSOLUTE:
        first = encoder(shape, args.anchors)
    else:
        layer = lgg.layers.RelativeRepresentation(
            images[indices], encoder=encoder(shape), indices=indices
        )
        first = keras.Sequential([keras.Input(shape), layer])
    return first, decoder(shape, args.anchors, variational=kind == "VAE", seed=seed)


def train(args, images, indices, kind, space, seed):
    first, second = halves(args, images, indices, kind, space, seed)
    model = keras.Sequential([first, second])
    optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=10.0)
    model.compile(optimizer, LogMeanSquare(), jit_compile=keras.backend.backend() == "jax")
    model.fit(
        images,
        images,
        batch_size=args.batch_size,
        epochs=args.epochs,
        verbose=0,
        callbacks=[args.progress.training(f"{kind}, {space}"), keras.callbacks.TerminateOnNaN()],
    )
    return first, second


def run_seed(args, seed):
    """Train both networks of each kind, and stitch: rows for `common.run_seeds`."""
    data = common.few(common.load(args), args.samples, seed)
    images, test = (part[0].astype("float32") / 255 for part in (data.train, data.test))
    labels, test_labels = data.train[1], data.test[1]
    indices = lgg.relative.select_anchors(images, args.anchors, seed=seed)
    rows = []
    for kind in args.kinds:
        models = {
            space: [train(args, images, indices, kind, space, 2 * seed + i) for i in range(2)]
            for space in (RELATIVE, ABSOLUTE)
        }
        rows += stitched(models, images[indices], test, kind)
        rows += understood(models, (images, labels), (test, test_labels), kind)
        if seed == args.seed:
            save_pictures(args, models, test[:10], kind)
    return rows


def stitched(models, anchors, test, kind):
    """The squared errors of own and other decoders."""
    report = lgg.relative.stitching_matrix(
        models[RELATIVE], (test, test), "mse", absolute=models[ABSOLUTE]
    )
    summaries = report.summary()
    errors = [np.mean(np.square(test - decoded)) for decoded in translated(models, anchors, test)]
    summaries[TRANSLATED] = {**summaries[ABSOLUTE], "stitched": np.mean(errors)}
    rows = []
    for name, row in summaries.items():
        # The permuted codes have no decoder of their own.
        own = summaries[RELATIVE]["self"] if name == PERMUTED else row["self"]
        measured = {
            "own decoder, MSE (1e-3)": 1000 * own,
            "stitched, MSE (1e-3)": 1000 * row["stitched"],
            "stitched / own": row["stitched"] / own,
        }
        rows += [
            {"variant": f"{kind}, {name}", "metric": m, "value": v} for m, v in measured.items()
        ]
    return rows


def translated(models, anchors, test):
    """What each decoder of absolute latents makes of the other's, rotated by the anchors."""
    (first, first_decoder), (second, second_decoder) = models[ABSOLUTE]
    for source, target, decode in [
        (first, second, second_decoder),
        (second, first, first_decoder),
    ]:
        translator = lgg.relative.Procrustes().fit(
            codes_of(source, anchors), codes_of(target, anchors)
        )
        yield common.outputs(lgg.relative.stitch(source, decode, translator=translator), test)


def understood(models, train_data, test_data, kind):
    """How alike the codes of two networks are, and whether a classifier of one reads the other."""
    rows = []
    for space, ((first, _), (second, _)) in models.items():
        a, b = codes_of(first, test_data[0]), codes_of(second, test_data[0])
        compared = lgg.relative.compare_spaces(a[:COMPARED], b[:COMPARED], k=10)
        head = LogisticRegression(max_iter=1000).fit(
            codes_of(first, train_data[0][:HEAD_SAMPLES]), train_data[1][:HEAD_SAMPLES]
        )
        measured = {
            "cosine": compared["cosine"],
            "Jaccard@10": compared["jaccard@10"],
            "MRR": compared["mrr"],
            "head, own": head.score(a, test_data[1]),
            "head, other": head.score(b, test_data[1]),
        }
        rows += [
            {"variant": f"{kind}, {space}", "metric": f"{m} (%)", "value": 100 * v}
            for m, v in measured.items()
        ]
    return rows


def codes_of(first, images):
    # The anchors are encoded once, and not with each batch.
    return common.outputs(lgg.layers.with_fixed_anchors(first), images)


def save_pictures(args, models, images, kind):
    """What the second network's decoder makes of its own codes and of the first one's."""
    own = keras.Sequential(models[RELATIVE][1])
    pictures = {"test images": images, "own decoder": common.outputs(own, images)}
    for space in (ABSOLUTE, RELATIVE):
        (first, _), (_, second_decoder) = models[space]
        model = lgg.relative.stitch(first, second_decoder)
        pictures[f"stitched, {space}"] = common.outputs(model, images)
    with beside(pathlib.Path(args.output) / f"{args.data}_{kind}.npz") as unfinished:
        np.savez(unfinished, **pictures)


def draw(args, frame):
    """Rows of reconstructions, of the first seed."""
    figure, axes = common.figure(1, len(args.kinds), (1.5 + 3.5 * len(args.kinds), 1.9))
    for axis, kind in zip(axes[0], args.kinds, strict=True):
        rows = np.load(pathlib.Path(args.output) / f"{args.data}_{kind}.npz")
        picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows.values()])
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        side = len(picture) // len(rows)
        axis.set(title=kind, xticks=[], yticks=side * (np.arange(len(rows)) + 0.5))
        axis.set_yticklabels(list(rows) if axis is axes[0][0] else [""] * len(rows))
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return figure


def parse(argv):
    options = common.parser(__doc__, "stitching_autoencoders", epochs=6, batch_size=128)
    add = options.add_argument
    add("--kinds", nargs="+", choices=["AE", "VAE"], default=["AE", "VAE"])
    add("--samples", type=int, default=20_000, help="number of training samples")
    add("--anchors", type=int, default=500)
    return common.arguments(options, argv, quick={"epochs": 6, "anchors": 100, "kinds": ["AE"]})


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``."""
    return common.run(parse(argv), run_seed, tables, draw, explain, verdict=verdict)


def verdict(args, frame):
    """How much worse another network's decoder is than the own one."""
    said = []
    for kind in args.kinds:
        rows = frame[frame["variant"].str.startswith(f"{kind}, ")]
        ratio = {"stitched / own": "min"}
        said.append(common.effects(rows, f"{kind}, {TRANSLATED}", ratio, are_shares=False))
    return "\n".join(said)


def tables(args, frame):
    table = common.summary(frame, "variant", "metric")
    return {"Reconstruction and understanding, on the test split": table}


def explain(args):
    return (
        f"Two networks per seed, {args.samples} training images, {args.anchors} anchors, "
        f"{args.epochs} epochs, batches of {args.batch_size}. MSE of pixels in [0, 1]. "
        '"Own decoder" is the mean over both networks, "stitched" over both pairs of the encoder '
        "of one and the decoder of the other. Cosine, Jaccard and MRR compare the codes of the "
        f"same {COMPARED} test samples in both networks. The head is a logistic regression on "
        f"{HEAD_SAMPLES} codes of one network. The figure shows the first seed."
    )


if __name__ == "__main__":
    main()
