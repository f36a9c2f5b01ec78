"""What happens to an autoencoder's latents as its input is disturbed?

Trains a convolutional, a denoising and a variational autoencoder, and follows the latents of test
images under growing noise: the ranks of their covariances (strata), the subspaces that they span,
and what the decoder makes of them.

    python examples/latent_manifolds.py --quick           # digits, enlarged to 28 x 28
    python examples/latent_manifolds.py                   # MNIST
    python examples/latent_manifolds.py --data cifar10 --samples 15000
    python examples/latent_manifolds.py --beta 0.01       # beta of the VAE

Prints the report of the first seed, with its controls and caveats, and one table over the seeds;
writes the figures, the report (Markdown and JSON) and the models of the first seed into --output.
Networks and protocol are those of Shrivastava, Rameshan, Agnihotri, arXiv 2412.04755, as this
project reads them. Needs the extras ``examples``, ``manifolds``, ``plots`` and, for data other than
digits, ``datasets``.
"""

import pathlib

import common
import keras
import numpy as np

from keras_lgg import manifolds
from keras_lgg.files import beside

BUILDERS = {
    "CAE": manifolds.build_cae,
    "DAE": manifolds.build_dae,
    "VAE": manifolds.build_vae,
}
FIGURES = (
    "disturbance",
    "ranks",
    "spectra",
    "embedding",
    "reconstructions",
    "interpolations",
)
SIDE = 28
# The tables.
STRATA, ALL = "Strata of clean images", "Strata of all levels"
PSNR, DIMENSION, ANGLE = "Reconstruction", "Dimension of the subspace", "Angle to the clean one"
# Of the figure: colour, marker, line.
CURVES = {
    "CAE": (common.BLUE, "o", "-"),
    "DAE": (common.ORANGE, "s", "-"),
    "VAE": (common.GREEN, "D", "-"),
    "VAE, mean": (common.GREEN, "v", "--"),
    "VAE, fresh noise": (common.GREEN, "^", ":"),
}


def train(args, images, kind, seed):
    keras.utils.set_random_seed(seed)
    options = {"beta": args.beta, "seed": seed} if kind == "VAE" else {}
    options |= {"seed": seed} if kind == "DAE" else {}
    model = BUILDERS[kind](images.shape[1:], **options)
    # On CPU, convolutions run fastest under TensorFlow without XLA.
    model.compile(model.optimizer, model.loss, jit_compile=keras.backend.backend() == "jax")
    model.fit(
        images,
        images,
        batch_size=args.batch_size,
        epochs=args.epochs,
        verbose=0,
        callbacks=[args.progress.training(kind), keras.callbacks.TerminateOnNaN()],
    )
    return model


def run_seed(args, seed):
    """Train the three, and follow their latents: rows for `common.run_seeds`."""
    data = common.few(common.load(args), args.samples, seed)
    images, test = (prepared(part[0]) for part in (data.train, data.test))
    models = {kind: train(args, images, kind, seed) for kind in BUILDERS}
    args.progress.say("latents under noise")
    chosen = np.random.default_rng(seed).permutation(len(test))[: args.images]
    report = manifolds.characterize(models, test[chosen], seed=seed, progress=False)
    if seed == args.seed:
        keep(args, report)
        for kind, model in models.items():
            common.save(model, args, kind)
    return [row for each in (*report.manifolds, *report.controls) for row in measured(each)]


def prepared(images):
    """Pixels in [0, 1]; small images, such as digits, made as large as MNIST's, in a frame."""
    images = images.astype("float32") / 255
    factor = SIDE // images.shape[1]
    if factor < 2:
        return images
    large = images.repeat(factor, axis=1).repeat(factor, axis=2)
    before = (SIDE - large.shape[1]) // 2
    after = SIDE - large.shape[1] - before
    return np.pad(large, ((0, 0), (before, after), (before, after), (0, 0)))


def keep(args, report):
    """Print a report and write it with its figures."""
    args.progress.clear()
    print(f"\n{report}\n", flush=True)
    stem = pathlib.Path(args.output) / common.slug(args)
    for suffix, text in (("md", report.to_markdown()), ("json", report.to_json())):
        with beside(f"{stem}_report.{suffix}") as unfinished:
            unfinished.write_text(text)
    for name in FIGURES:
        common.save_figure(getattr(report, f"plot_{name}")(), f"{stem}_{name}.png")


def measured(manifold):
    """Rows for the tables, of one latent; some metrics have a column for each sigma."""
    clean, levels = manifold.levels[0], manifold.levels
    values = {(STRATA, "number"): len(clean.strata)}
    for k in range(3):
        values[STRATA, f"S{k + 1}, least"] = clean.ranks[:, k].min()
        values[STRATA, f"S{k + 1}, largest"] = clean.ranks[:, k].max()
    for level in levels:
        values[DIMENSION, f"{level.sigma:g}"] = level.dimension
        if level.psnr is not None:
            values[PSNR, f"{level.sigma:g}"] = np.mean(level.psnr)
    if len(levels) > 1:
        ranks = np.concatenate([level.ranks for level in levels])
        values[ALL, "number"] = len(manifold.strata)
        values[ALL, "range of S3"] = np.ptp(ranks[:, 2])
        values[ALL, "stratified (1 or 0)"] = manifold.is_stratified
        values |= {(ANGLE, f"{x.sigma:g}"): np.mean(x.angles) for x in levels[1:]}
        values[ANGLE, "halves"] = manifold.null_angle
    return [
        {"variant": manifold.name, "metric": f"{table}: {column}", "value": float(value)}
        for (table, column), value in values.items()
    ]


def verdict(args, frame):
    """From no noise to the strongest: what is lost, and how far the latents turn."""
    said = []
    for name in BUILDERS:
        psnr, angle, dimension = (curve(frame, name, k)[0] for k in (PSNR, ANGLE, DIMENSION))
        said.append(
            f"{name}: PSNR from {psnr.iloc[0]:.1f} to {psnr.iloc[-1]:.1f} dB, dimension of the "
            f"latents from {dimension.iloc[0]:.0f} to {dimension.iloc[-1]:.0f}, their subspace "
            f"turned by {angle.iloc[-1]:.0f}°."
        )
    return f"From no noise to a deviation of {angle.index[-1]:g}:\n" + "\n".join(said)


def tables(args, frame):
    return common.summaries(frame)


def draw(args, frame):
    """PSNR, dimension and angle against the noise: means over the seeds, with their spread."""
    figure, axes = common.figure(1, 3, (11, 3.2))
    labels = {PSNR: "PSNR to the clean image (dB)", DIMENSION: "dimension", ANGLE: "degrees"}
    for axis, (kind, label) in zip(axes[0], labels.items(), strict=True):
        for name, (color, marker, style) in CURVES.items():
            mean, spread = curve(frame, name, kind)
            axis.errorbar(
                mean.index,
                mean,
                spread,
                color=color,
                marker=marker,
                markersize=4,
                linestyle=style,
                linewidth=1.2,
                capsize=2,
                label=name,
            )
        axis.set(title=kind, ylabel=label, xlabel="standard deviation of the noise")
    axes[0][1].set_ylim(bottom=0)
    axes[0][2].set_ylim(0, 90)
    axes[0][1].legend(frameon=False, fontsize=8)
    return figure


def curve(frame, name, kind):
    """Mean and standard deviation over the seeds, by sigma; of one seed, the mean and ``None``."""
    parts = frame["metric"].str.partition(": ")
    sigma = common.pd.to_numeric(parts[2], errors="coerce")
    rows = frame[(frame["variant"] == name) & (parts[0] == kind) & sigma.notna()]
    by_sigma = rows.assign(sigma=sigma).groupby("sigma")["value"]
    return by_sigma.mean(), by_sigma.std() if rows["seed"].nunique() > 1 else None


def parse(argv):
    options = common.parser(__doc__, "latent_manifolds", epochs=6, batch_size=128)
    add = options.add_argument
    add("--samples", type=int, default=20_000, help="number of training samples")
    add("--images", type=int, default=200, help="number of test images")
    add("--beta", type=float, default=1.0, help="of the variational autoencoder")
    quick = {"batch_size": 64, "images": 60}
    return common.arguments(options, argv, quick=quick)


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``."""
    return common.run(
        parse(argv), run_seed, tables, draw, explain, pictures=FIGURES, verdict=verdict
    )


def explain(args):
    return (
        f"{args.samples} training images at most, {args.epochs} epochs, batches of "
        f"{args.batch_size}, Adam at 1e-3; beta {args.beta:g}. {args.images} test images, the "
        'same noise for all. "VAE" alone is sampled with the same noise at all levels; '
        '"mean" takes its mean code, "fresh noise" draws again at each level, "untrained" is the '
        "encoder before training. Columns of numbers are standard deviations of the noise; PSNR "
        "is in dB against the clean image, angles in degrees are means over the principal angles, "
        'and "halves" is the angle between halves of the clean latents. The first figure is over '
        "all seeds, the others show the first."
    )


if __name__ == "__main__":
    main()
