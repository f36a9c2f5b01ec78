"""What `keras_lgg.manifolds.characterize` found, as tables, dicts and figures."""

import collections
import dataclasses
import json
import math
from typing import Any

import numpy as np

from keras_lgg.manifolds import plots
from keras_lgg.manifolds.strata import largest_ranks, strata
from keras_lgg.manifolds.summaries import mean_or_nan, median_spectrum
from keras_lgg.types import Figure

SATURATED = 0.8  # share of the largest dimension above which a subspace says little
STRATIFIED = 0.01  # share of the latents outside the most common stratum


@dataclasses.dataclass(frozen=True)
class Level:
    """The latents of n images at one strength of the noise, as `characterize` found them.

    Args:
        sigma: Standard deviation of the noise.
        ranks: Integer array ``(n, 3)``, the ranks of the covariances of each latent by
            `mode_ranks`.
        coarse_ranks: The same at a tolerance of 1e-3.
        spectra: For each mode, the singular values of the centred unfoldings, ``(n, min(d, m))``.
        dimension: Dimension of the subspace that holds the given share of the spread.
        angles: Angles to the subspace of the clean latents, in degrees, the largest first.
        displacement: Mean distance of a latent to the clean one, in the Hilbert space.
        curve_lengths: `bonnabel_sepulchre_distance` from the clean covariance of each image and
            mode, ``(n, 3)``; NaN if the ranks differ.
        psnr: Peak signal-to-noise ratio of each image ``(n,)``, in dB, against the clean one;
            ``None`` without a decoder.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> model = manifolds.build_cae((8, 8, 1))
        >>> x = np.random.default_rng(0).random((9, 8, 8, 1), "float32")
        >>> report = manifolds.characterize({"CAE": model}, x, sigmas=(0, 0.5), progress=False)
        >>> noisy = report["CAE"].levels[1]
        >>> noisy.strata, noisy.psnr.shape
        (Counter({(2, 2, 3): 9}), (9,))

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, https://arxiv.org/abs/2412.04755
    """

    sigma: float
    ranks: np.ndarray
    coarse_ranks: np.ndarray
    spectra: tuple[np.ndarray, ...]
    dimension: int
    angles: np.ndarray
    displacement: float
    curve_lengths: np.ndarray
    psnr: np.ndarray | None

    @property
    def saturation(self) -> float:
        """Dimension of the subspace divided by the largest possible one, n - 1."""
        return self.dimension / (len(self.ranks) - 1)

    @property
    def strata(self) -> collections.Counter[tuple[int, ...]]:
        """Counter from a triple of ranks to the number of latents."""
        return strata(self.ranks)

    def to_dict(self) -> dict[str, Any]:
        """Numbers and lists; ``None`` stands for what is not finite."""
        lengths = self.curve_lengths
        comparable = np.isfinite(lengths)
        sums = np.where(comparable, lengths, 0).sum(axis=0)
        return {
            "sigma": self.sigma,
            "ranks": [_rank_summary(self.ranks[:, k]) for k in range(3)],
            "ranks_coarse": [_rank_summary(self.coarse_ranks[:, k]) for k in range(3)],
            "strata": {str(triple): count for triple, count in self.strata.items()},
            "dimension": self.dimension,
            "saturation": self.saturation,
            "angles": _numbers(self.angles),
            "mean_angle": _number(mean_or_nan(self.angles)),
            "max_angle": _number(np.max(self.angles, initial=-np.inf)),
            "min_angle": _number(np.min(self.angles, initial=np.inf)),
            "displacement": self.displacement,
            "curve_lengths": [
                _number(total / count) if count else None
                for total, count in zip(sums, comparable.sum(axis=0), strict=True)
            ],
            "curve_share": _numbers(comparable.mean(axis=0)),
            "psnr": None if self.psnr is None else _number(np.mean(self.psnr)),
            "psnr_std": None if self.psnr is None else _number(_spread(self.psnr)),
            "median_spectra": [_numbers(median_spectrum(values)) for values in self.spectra],
        }


@dataclasses.dataclass(frozen=True)
class LatentManifold:
    """The latents of one autoencoder, taken one way, at all levels.

    Args:
        name: Name of the autoencoder, with the way its latent was taken.
        latent: ``"code"``, ``"sample"``, ``"mean"`` or ``"fresh_eps"``.
        shape: Shape of a latent, ``(H, W, C)``.
        levels: Tuple of `Level`, the clean one first.
        weights: Weights of the three modes in the product distance.
        gamma: Gamma of the Gaussian kernel; ``None`` with the other kernel.
        null_angle: Mean angle between the subspaces of two halves of the clean latents, in degrees,
            averaged over ten splits: what the sampling of images alone causes.
        coordinates: Points of the Hilbert space, ``(levels, n, p)``, p at most 50.
        reconstructions: Decoded images ``(levels, k, height, width, channels)``, or ``None``.
        interpolations: Decoded steps from one latent to another, ``(pairs, steps, height, width,
            channels)``, or ``None``.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> model = manifolds.build_cae((8, 8, 1))
        >>> x = np.random.default_rng(0).random((9, 8, 8, 1), "float32")
        >>> report = manifolds.characterize({"CAE": model}, x, sigmas=(0, 0.5), progress=False)
        >>> found = report["CAE"]
        >>> found.largest_ranks, found.is_stratified, found.types
        ((2, 2, 3), False, ('SPD', 'SPD', 'SPSD'))

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, https://arxiv.org/abs/2412.04755
    """

    name: str
    latent: str
    shape: tuple[int, ...]
    levels: tuple[Level, ...]
    weights: tuple[float, ...]
    gamma: float | None
    null_angle: float
    coordinates: np.ndarray
    reconstructions: np.ndarray | None
    interpolations: np.ndarray | None

    @property
    def largest_ranks(self) -> tuple[int, ...]:
        """The largest ranks that latents of this shape can have."""
        return largest_ranks(self.shape)

    @property
    def strata(self) -> collections.Counter[tuple[int, ...]]:
        """Counter from a triple of ranks to the number of latents at all levels."""
        return strata(np.concatenate([level.ranks for level in self.levels]))

    @property
    def is_stratified(self) -> bool:
        """Whether at least 1 % of the latents lie outside the most common stratum."""
        counts = self.strata
        return 1 - max(counts.values()) / sum(counts.values()) >= STRATIFIED

    @property
    def types(self) -> tuple[str, ...]:
        """For each mode, ``"SPD"`` if all covariances have full rank, else ``"SPSD"``."""
        ranks = np.concatenate([level.ranks for level in self.levels])
        full = (ranks == self.shape).all(axis=0)
        return tuple("SPD" if each else "SPSD" for each in full)

    def to_dict(self) -> dict[str, Any]:
        """Numbers and lists, without images and coordinates."""
        return {
            "name": self.name,
            "latent": self.latent,
            "shape": list(self.shape),
            "largest_ranks": list(self.largest_ranks),
            "types": list(self.types),
            "is_stratified": self.is_stratified,
            "strata": {str(triple): count for triple, count in self.strata.items()},
            "weights": list(self.weights),
            "gamma": self.gamma,
            "null_angle": _number(self.null_angle),
            "levels": [level.to_dict() for level in self.levels],
        }


@dataclasses.dataclass(frozen=True, repr=False)
class ManifoldReport:
    """The latent manifolds of autoencoders under growing noise; `characterize` returns it.

    ``print(report)`` shows the verdict with its caveats, and the tables.

    Args:
        config: Dict of the settings.
        manifolds: Tuple of `LatentManifold`, one per autoencoder.
        controls: Tuple of `LatentManifold`: other latents of variational encoders, and untrained
            encoders, the latter on the clean images only.
        images: Disturbed images ``(levels, k, height, width, channels)``, for figures.
        not_cloned: Dict from the name of an autoencoder to the reason why there is no untrained
            copy of its encoder.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> model = manifolds.build_cae((8, 8, 1))
        >>> x = np.random.default_rng(0).random((9, 8, 8, 1), "float32")
        >>> report = manifolds.characterize({"CAE": model}, x, sigmas=(0, 0.5), progress=False)
        >>> isinstance(report, manifolds.ManifoldReport), report.to_dict()["config"]["images"]
        (True, 9)
        >>> print(report.to_markdown().splitlines()[0])
        **Verdict**

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, https://arxiv.org/abs/2412.04755
    """

    config: dict[str, Any]
    manifolds: tuple[LatentManifold, ...]
    controls: tuple[LatentManifold, ...]
    images: np.ndarray
    not_cloned: dict[str, str]

    def __str__(self) -> str:
        return self.to_markdown()

    def __getitem__(self, name: str) -> LatentManifold:
        """The `LatentManifold` with a name, among manifolds and controls."""
        named = {each.name: each for each in (*self.manifolds, *self.controls)}
        if name not in named:
            raise KeyError(f"Unknown manifold. Expected one of {list(named)}. Received: {name!r}.")
        return named[name]

    @property
    def caveats(self) -> list[str]:
        """The caveats that belong to the verdict: a list of sentences."""
        return [
            *(text for each in self.manifolds for text in self._sample_caveats(each)),
            *self._untrained_caveats(),
            "Strata depend on the images, too: rows and columns of blank background have no "
            "variance. On CIFAR-10, whose images fill their frame, the autoencoder of build_cae "
            "stays in one stratum, (8, 8, 63), under all noise (docs/results/manifolds.md).",
            *(text for each in self.manifolds for text in _saturation_caveats(each)),
            "Curve lengths are no metric, and are compared between equal ranks alone.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything but images, as numbers, strings, lists and dicts, for `json`."""
        return {
            "config": self.config,
            "manifolds": [each.to_dict() for each in self.manifolds],
            "controls": [each.to_dict() for each in self.controls],
            "caveats": self.caveats,
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text, in which nothing is NaN or infinite."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_markdown(self) -> str:
        """The verdict, its caveats, and tables of the ranks and of the effect of noise."""
        verdict = [f"* {_verdict(each)}" for each in self.manifolds]
        caveats = [f"* {text}" for text in self.caveats]
        everything = (*self.manifolds, *self.controls)
        parts = [
            ["**Verdict**", "", *verdict],
            ["**Caveats**", "", *caveats],
            ["**Ranks** (most frequent in brackets)", "", *_rank_table(everything)],
            ["**Under noise**", "", *_noise_table(everything)],
        ]
        return "\n\n".join("\n".join(part) for part in parts)

    def plot_ranks(self) -> Figure:
        """Figure: ranks of each mode against the noise, their range and the share of each."""
        return plots.plot_ranks(self)

    def plot_spectra(self) -> Figure:
        """Figure: singular values of each mode, clean and under the strongest noise."""
        return plots.plot_spectra(self)

    def plot_disturbance(self) -> Figure:
        """Figure: PSNR, dimension and angles against the noise."""
        return plots.plot_disturbance(self)

    def plot_embedding(self, *, seed: int = 0) -> Figure:
        """Figure: clean latents and those under the strongest noise, by t-SNE.

        It needs scikit-learn, which the extra ``manifolds`` brings.

        Args:
            seed: Integer, the seed of t-SNE.
        """
        return plots.plot_embedding(self, seed=seed)

    def plot_reconstructions(self) -> Figure:
        """Figure: disturbed images, and what the autoencoders make of them."""
        return plots.plot_reconstructions(self)

    def plot_interpolations(self) -> Figure:
        """Figure: decoded steps from one clean latent to another."""
        return plots.plot_interpolations(self)

    def _sample_caveats(self, manifold):
        if manifold.latent not in ("sample", "fresh_eps"):
            return
        text = (
            f"{manifold.name}: nearly every latent that is sampled from a distribution of full "
            "support has full rank, whatever was learnt"
        )
        model = manifold.name.removesuffix(", fresh noise")
        mean = [each for each in self.controls if each.name == f"{model}, mean"]
        for each in mean:
            ranges = _ranges(np.concatenate([level.ranks for level in each.levels]))
            kind = "is stratified" if each.is_stratified else "has one stratum"
            text += f". Its mean code {kind}: {len(each.strata)} strata, ranks {ranges}"
        yield f"{text}."

    def _untrained_caveats(self):
        for each in self.controls:
            trained_name = each.name.removesuffix(", untrained")
            if trained_name == each.name:
                continue
            trained = self[trained_name].levels[0]
            yield (
                f"{trained_name}: on clean images an untrained encoder has ranks "
                f"{_ranges(each.levels[0].ranks)} (strata: {len(each.strata)}), the trained one "
                f"{_ranges(trained.ranks)} (strata: {len(trained.strata)}). What both have comes "
                "from the images and the architecture, not from training."
            )
        for name, reason in self.not_cloned.items():
            first_line = reason.strip().partition("\n")[0]
            yield f"{name}: no untrained copy could be made to compare with ({first_line})."


def rank_range(ranks):
    """Least and largest rank, as in "4–7"."""
    low, high = int(np.min(ranks)), int(np.max(ranks))
    return f"{low}" if low == high else f"{low}–{high}"


def _verdict(manifold):
    clean, last = manifold.levels[0], manifold.levels[-1]
    counts = manifold.strata
    factors = " x ".join(
        f"{kind}({d})" for kind, d in zip(manifold.types, manifold.shape, strict=True)
    )
    if manifold.is_stratified:
        kind = f"**stratified**, {len(clean.strata)} strata on clean images, {len(counts)} in all"
    else:
        kind = f"**one stratum**, {next(iter(counts))}"
    text = f"{manifold.name}: {kind}; {factors}"
    if len(manifold.levels) > 1:
        text += (
            f". At sigma {last.sigma:g} the subspace of its latents stands at a mean angle of "
            f"{mean_or_nan(last.angles):.0f}° to the clean one (halves of the clean latents: "
            f"{manifold.null_angle:.0f}°)"
        )
        if last.psnr is not None:
            text += (
                f", and the PSNR goes from {np.mean(clean.psnr):.1f} to {np.mean(last.psnr):.1f} dB"
            )
    return f"{text}."


def _saturation_caveats(manifold):
    worst = max(manifold.levels, key=lambda level: level.saturation)
    if worst.saturation > SATURATED:
        yield (
            f"{manifold.name}: at sigma {worst.sigma:g} a subspace takes {worst.dimension} of "
            f"{len(worst.ranks) - 1} possible dimensions, so that angles say little. Take more "
            "images, or a smaller energy."
        )


def _rank_table(manifolds):
    yield "| latent | sigma | S1 | S2 | S3 | strata | S1, S2, S3 at 1e-3 |"
    yield "| --- " * 7 + "|"
    for each in manifolds:
        for level in each.levels:
            cells = [_range_and_mode(level.ranks[:, k]) for k in range(3)]
            coarse = ", ".join(rank_range(level.coarse_ranks[:, k]) for k in range(3))
            yield _row(each.name, f"{level.sigma:g}", *cells, len(level.strata), coarse)


def _noise_table(manifolds):
    yield (
        "| latent | sigma | dimension | saturation | angle, mean (°) | min to max (°) "
        "| displacement | curve S1, S2, S3 | PSNR (dB) |"
    )
    yield "| --- " * 9 + "|"
    for each in manifolds:
        for level in each.levels:
            found = level.to_dict()
            angles = "–"
            if len(level.angles):
                angles = f"{found['min_angle']:.0f} to {found['max_angle']:.0f}"
            yield _row(
                each.name,
                f"{level.sigma:g}",
                level.dimension,
                f"{level.saturation:.2f}",
                _text(found["mean_angle"], ".1f"),
                angles,
                f"{level.displacement:.2f}",
                ", ".join(_text(length, ".2f") for length in found["curve_lengths"]),
                "–"
                if level.psnr is None
                else f"{np.mean(level.psnr):.1f} ± {_spread(level.psnr):.1f}",
            )


def _row(*cells):
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"


def _text(value, digits):
    return "–" if value is None else format(value, digits)


def _ranges(ranks):
    return ", ".join(rank_range(ranks[:, k]) for k in range(3))


def _range_and_mode(ranks):
    return f"{rank_range(ranks)} ({_most_frequent(ranks)})"


def _rank_summary(ranks):
    counts = collections.Counter(ranks.tolist())
    return {
        "min": int(np.min(ranks)),
        "max": int(np.max(ranks)),
        "mode": _most_frequent(ranks),
        "histogram": {str(rank): counts[rank] for rank in sorted(counts)},
    }


def _most_frequent(ranks):
    return int(np.argmax(np.bincount(ranks)))


def _spread(values):
    """Standard deviation of a sample."""
    with np.errstate(invalid="ignore"):  # a perfect image has an infinite PSNR
        return float(np.std(values, ddof=1))


def _number(value):
    return float(value) if math.isfinite(value) else None


def _numbers(values):
    return [_number(value) for value in values]
