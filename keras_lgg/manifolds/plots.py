"""The figures of a `keras_lgg.manifolds.ManifoldReport`, with matplotlib; none is shown."""

import itertools

import numpy as np

from keras_lgg import checks
from keras_lgg.manifolds.summaries import mean_or_nan, median_spectrum
from keras_lgg.plots.style import COLORS, GRAY, MARKERS, empty_figure, styled

COLUMN, ROW = 2.9, 2.5  # inches, of a plot
CELL = 0.45  # inches, of an image
SIGMA = "standard deviation of the noise"


@styled
def plot_ranks(report):
    """Range of the ranks, and the share of the latents at each rank, by autoencoder and mode."""
    shown = report.manifolds
    figure, axes = _figure(len(shown), 3)
    for row, each in zip(axes, shown, strict=True):
        for k, axis in enumerate(row):
            _draw_ranks(axis, each, k)
            axis.set_ylabel(f"{each.name}\nrank of S{k + 1}" if k == 0 else f"rank of S{k + 1}")
        row[1].set_title(f"{each.name}, latent {' x '.join(map(str, each.shape))}")
    for axis in axes[-1]:
        axis.set_xlabel(SIGMA)
    return figure


@styled
def plot_spectra(report):
    """Median singular values, relative to the largest, clean and under the strongest noise."""
    figure, axes = _figure(1, 3)
    for k, axis in enumerate(axes[0]):
        for each, color in zip(report.manifolds, itertools.cycle(COLORS), strict=False):
            for level, style in {0: "-", -1: "--"}.items():
                spectrum = median_spectrum(each.levels[level].spectra[k])
                sigma = each.levels[level].sigma
                axis.plot(
                    np.arange(1, len(spectrum) + 1),
                    np.where(spectrum > 0, spectrum, np.nan),
                    style,
                    color=color,
                    marker="." if len(spectrum) < 20 else None,
                    label=f"{each.name}, {'clean' if sigma == 0 else f'noise {sigma:g}'}",
                )
        axis.set(
            title=f"S{k + 1}", xlabel="index of the singular value", yscale="log", ylim=(1e-5, 2)
        )
    axes[0][0].set_ylabel("median, relative to the largest")
    axes[0][0].legend()
    return figure


@styled
def plot_disturbance(report):
    """PSNR, dimension of the subspace, and its angles to the clean one."""
    figure, axes = _figure(1, 3)
    psnr, dimension, angle = axes[0]
    for each, color, marker in zip(
        report.manifolds, itertools.cycle(COLORS), itertools.cycle(MARKERS), strict=False
    ):
        sigmas = [level.sigma for level in each.levels]
        style = {"color": color, "marker": marker, "markersize": 4}
        if each.levels[0].psnr is not None:
            values = np.array([level.psnr for level in each.levels])
            values[~np.isfinite(values)] = np.nan  # perfect images are not drawn
            mean, spread = values.mean(axis=1), values.std(axis=1, ddof=1)
            psnr.plot(sigmas, mean, **style)
            psnr.fill_between(
                sigmas, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0
            )
        dimension.plot(sigmas, [level.dimension for level in each.levels], label=each.name, **style)
        angle.plot(sigmas, [mean_or_nan(level.angles) for level in each.levels], **style)
        largest = [max(level.angles, default=np.nan) for level in each.levels]
        angle.plot(sigmas, largest, color=color, linestyle=":", linewidth=1)
        angle.axhline(each.null_angle, color=color, linestyle="--", linewidth=1)
    psnr.set(title="Reconstruction", ylabel="PSNR to the clean image (dB)")
    dimension.set(title="Subspace of the latents", ylabel="dimension", ylim=(0, None))
    angle.set(title="Angle to the clean subspace", ylabel="degrees", ylim=(-2, 92))
    for axis in axes[0]:
        axis.set_xlabel(SIGMA)
    figure.legend(loc="outside lower left", ncols=len(report.manifolds))
    lines = {"-": "mean", ":": "largest", "--": "halves of the clean latents"}
    handles = [angle.plot([], [], style, color=GRAY)[0] for style in lines]
    figure.legend(handles, lines.values(), loc="outside lower right", ncols=3)
    return figure


@styled
def plot_embedding(report, *, seed):
    """Clean latents and those under the strongest noise, by t-SNE."""
    tsne = checks.require("sklearn.manifold", "manifolds").TSNE
    figure, axes = _figure(1, len(report.manifolds))
    for axis, each in zip(axes[0], report.manifolds, strict=True):
        clean, noisy = each.coordinates[0], each.coordinates[-1]
        n = len(clean)
        points = np.concatenate([clean, noisy])
        # A random start: PCA would refuse fewer than two axes.
        found = tsne(
            perplexity=min(30, (2 * n - 1) / 3), init="random", random_state=seed
        ).fit_transform(points.astype("float32"))
        for i, (label, color, marker) in enumerate(
            [
                ("clean", COLORS[0], "o"),
                (f"noise {each.levels[-1].sigma:g}", COLORS[3], "^"),
            ]
        ):
            part = found[i * n : (i + 1) * n]
            axis.scatter(*part.T, s=9, color=color, marker=marker, alpha=0.6, label=label)
        axis.set(title=each.name, xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    axes[0][0].legend()
    return figure


@styled
def plot_reconstructions(report):
    """For each strength of the noise, a row of images and then one for each autoencoder."""
    shown = [each for each in report.manifolds if each.reconstructions is not None]
    _check_decoded(shown)
    levels = sorted({0, len(report.images) // 2, len(report.images) - 1})
    size = (CELL * len(report.images[0]) + 0.8, len(levels) * (CELL * (1 + len(shown)) + 0.3))
    figure, axes = _figure(len(levels), 1, size=size)
    for (axis,), level in zip(axes, levels, strict=True):
        rows = [report.images[level], *(each.reconstructions[level] for each in shown)]
        sigma = report.config["sigmas"][level]
        _draw_rows(axis, rows, ["input", *(each.name for each in shown)])
        axis.set_title(f"noise {sigma:g}" if sigma else "clean", loc="left")
    return figure


@styled
def plot_interpolations(report):
    """For each autoencoder, steps between pairs of clean latents."""
    shown = [each for each in report.manifolds if each.interpolations is not None]
    _check_decoded(shown)
    pairs = len(shown[0].interpolations)
    figure, axes = _figure(1, len(shown), size=(3 * len(shown), 0.4 * pairs + 0.4))
    for axis, each in zip(axes[0], shown, strict=True):
        _draw_rows(axis, each.interpolations, [""] * pairs)
        axis.set_title(each.name)
    return figure


def _draw_ranks(axis, manifold, k):
    sigmas = [level.sigma for level in manifold.levels]
    ranks = [level.ranks[:, k] for level in manifold.levels]
    axis.fill_between(
        sigmas,
        [each.min() for each in ranks],
        [each.max() for each in ranks],
        color=COLORS[5],
        alpha=0.25,
        linewidth=0,
    )
    for sigma, each in zip(sigmas, ranks, strict=True):
        values, counts = np.unique(each, return_counts=True)
        shares = counts / len(each)
        axis.scatter(np.full(len(values), sigma), values, s=2 + 40 * shares, color=COLORS[0])
    largest = manifold.largest_ranks[k]
    axis.axhline(largest, color=GRAY, linestyle="--", linewidth=1)
    axis.set_ylim(min(largest - 1, min(each.min() for each in ranks)) - 0.5, largest * 1.02 + 0.5)
    axis.yaxis.get_major_locator().set_params(integer=True)


def _draw_rows(axis, rows, labels):
    """Images ``(k, height, width, channels)`` side by side, a row of them for each label."""
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    is_gray = picture.shape[-1] != 3
    axis.imshow(np.clip(picture[..., 0] if is_gray else picture, 0, 1), cmap="gray", vmin=0, vmax=1)
    height = len(picture) // len(labels)
    axis.set(xticks=[], yticks=height * (np.arange(len(labels)) + 0.5), yticklabels=labels)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _figure(rows, columns, *, size=None):
    return empty_figure(rows, columns, size or (COLUMN * columns, ROW * rows))


def _check_decoded(shown):
    if not shown:
        raise ValueError(
            "There is nothing decoded to show. Expected an autoencoder with a decoder. Received: "
            "encoders alone. Pass pairs (encoder, decoder) to characterize."
        )
