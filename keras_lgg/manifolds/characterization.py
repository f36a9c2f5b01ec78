"""The protocol that characterises the latent manifolds of autoencoders."""

import contextlib
import dataclasses
import numbers
import random
import typing
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import keras
import numpy as np

from keras_lgg import checks
from keras_lgg.manifolds import hilbert
from keras_lgg.manifolds.distances import curve_lengths
from keras_lgg.manifolds.report import LatentManifold, Level, ManifoldReport
from keras_lgg.manifolds.strata import MODES, mode_factors, ranks_at
from keras_lgg.training.rebuilding import is_graph
from keras_lgg.types import ArrayLike

SIGMAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
LATENTS = ("sample", "mean", "fresh_eps")
COARSE = 1e-3  # the tolerance of the second count of ranks
HALVES = 10  # splits of the clean latents whose angles are averaged
COORDINATES = 50  # axes that are kept, for figures
SHOWN = 8  # images that are kept and reconstructed, and steps between two of them

# A model with an encoder and a decoder, the pair of these, or an encoder alone.
Autoencoder: TypeAlias = keras.Model | tuple[keras.Model, keras.Model]


def characterize(
    autoencoder: Autoencoder | Mapping[str, Autoencoder],
    x: ArrayLike,
    *,
    sigmas: Sequence[float] = SIGMAS,
    latent: str = "sample",
    controls: bool = True,
    energy: float = 0.8,
    kernel: str = "distance",
    weights: str | Sequence[float] = "median",
    kappa: float = 1.0,
    rtol: float | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = True,
) -> ManifoldReport:
    r"""How the latents of autoencoders change as noise of growing strength disturbs their inputs.

    Each image x is disturbed by one Gaussian noise :math:`\eta`, the same for all levels
    :math:`\sigma` and all models:

    .. math::

        x_\sigma = \operatorname{clip}_{[0, 1]}(x + \sigma \eta), \qquad
        \text{PSNR} = 10 \log_{10} \frac{1}{\text{MSE}}

    The latents of a level are described three ways: by the ranks of their covariances, which say in
    which stratum they lie (`mode_ranks`); by the subspace that they span in a Hilbert space, and
    its angles to the subspace of the clean latents
    (`product_distances`, `hilbert_map`, `subspace`); and by the decoder, as the PSNR of its output,
    whose mean squared error (MSE) is against the clean image.

    Controls are run, too: the mean code of a variational encoder, its samples with noise drawn anew
    at each level, and an untrained copy of each encoder on the clean images. The caveats that
    follow from them are part of the report.

    Args:
        autoencoder: A Keras model with parts named ``encoder`` and ``decoder`` (nested models, or
            attributes), such as `build_cae` returns; a pair ``(encoder, decoder)``; an encoder
            alone, which has no PSNR; or a dict of these by name, which share the noise. An
            encoder returns latents ``(n, H, W, C)``, channels last; a variational one returns
            their mean and the logarithm of their variance (a third output, such as a sample, is
            ignored).
        x: Images ``(n, height, width, channels)``, uint8 in [0, 255] or floats in [0, 1], with n at
            least 4 and n times the number of levels at most 3000.
        sigmas: Standard deviations :math:`\sigma` of the noise, in ascending order from 0.
        latent: For a variational encoder: ``"sample"`` with one noise for all levels, ``"mean"``,
            or ``"fresh_eps"``, a sample with noise drawn anew at each level. The other two are
            controls.
        controls: Whether to run them.
        energy: Share of the spread, in (0, 1], that the subspace of a level must hold.
        kernel: Kernel of the Hilbert space: ``"distance"``, which keeps distances, or
            ``"gaussian"``, whose gamma is 1 over the median squared distance of clean pairs.
        weights: Weights of the three modes in the distance: ``"median"``, 1 over the median squared
            distance of each mode over clean pairs, or three numbers of at least 0.
        kappa: Factor of the logarithms against the subspaces in `embedded_distance`, at least 0.
        rtol: A number in (0, 1): singular values of an unfolding above ``rtol`` times the largest
            count towards the rank; by default as in `mode_ranks`.
        seed: Integer of at least 0, for all noise and the untrained copies.
        batch_size: Number of images at a time.
        progress: Whether to show a progress bar.

    Returns:
        `ManifoldReport`.

    Raises:
        ValueError: If an argument is not as above, a latent is not a finite float32 or float64
            tensor ``(H, W, C)``, or a decoder does not return images of the shape of ``x``.
        ImportError: If scipy or threadpoolctl is missing; the extra ``manifolds`` brings them.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> model = manifolds.build_cae((8, 8, 1))
        >>> x = np.random.default_rng(0).random((20, 8, 8, 1), "float32")
        >>> report = manifolds.characterize({"CAE": model}, x, sigmas=(0, 0.1, 0.5), progress=False)
        >>> [level.sigma for level in report.manifolds[0].levels]
        [0.0, 0.1, 0.5]

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, https://arxiv.org/abs/2412.04755
    """
    threads = checks.require("threadpoolctl", "manifolds")
    images = _checked_images(x)
    sigmas = _checked_sigmas(sigmas)
    hilbert.check_points(len(images) * len(sigmas))
    checks.check_choice("latent", latent, LATENTS)
    checks.check_choice("kernel", kernel, hilbert.KERNELS)
    checks.check_positive_integer("batch_size", batch_size)
    checks.check_seed(seed)
    networks = _networks(autoencoder, batch_size)
    noise = np.random.default_rng([seed, 0]).normal(size=images.shape).astype("float32")
    disturbed = [np.clip(images + np.float32(sigma) * noise, 0, 1) for sigma in sigmas]
    geometry = _Geometry(energy, kernel, weights, kappa, rtol, seed)

    runs = [
        run
        for network in networks
        for run in _runs(network, _is_variational(network, images[:1]), latent, controls)
    ]
    bar = keras.utils.Progbar(len(runs), unit_name="latent") if progress else None
    manifolds: list[LatentManifold] = []
    others: list[LatentManifold] = []
    not_cloned: dict[str, str] = {}
    for run in runs:
        levels = slice(1 if run.untrained else None)
        try:
            each = _untrained(run, seed) if run.untrained else run
        except _NOT_CLONED as error:
            not_cloned[run.network.name] = str(error)
        else:
            # With thousands of small matrices, threads would spend their time waiting.
            with threads.threadpool_limits(1, user_api="blas"):
                found = _manifold(each, disturbed[levels], sigmas[levels], geometry)
            (others if run.control else manifolds).append(found)
        if bar:
            bar.add(1)
    return ManifoldReport(
        config={
            "models": [network.name for network in networks],
            "images": len(images),
            "image_shape": list(images.shape[1:]),
            "sigmas": list(sigmas),
            "latent": latent,
            "energy": float(energy),
            "kernel": kernel,
            "weights": weights if isinstance(weights, str) else list(map(float, weights)),
            "kappa": float(kappa),
            "rtol": rtol if rtol is None else float(rtol),
            "coarse_rtol": COARSE,
            "seed": int(seed),
        },
        manifolds=tuple(manifolds),
        controls=tuple(others),
        images=np.stack([level[:SHOWN] for level in disturbed]),
        not_cloned=not_cloned,
    )


@dataclasses.dataclass(frozen=True)
class _Network:
    """An encoder, and its decoder if there is one, from NumPy to NumPy."""

    name: str
    encoder: keras.Model
    decoder: keras.Model | None
    batch_size: int

    def encode(self, images):
        """The outputs of the encoder, one array or two."""
        outputs = self._run(self.encoder, images)[:2]
        for output in outputs:
            self._check_latent(output)
        return outputs

    def decode(self, latents, shape):
        """Images of a shape ``(height, width, channels)``."""
        outputs = self._run(self.decoder, latents)[0]
        if outputs.shape[1:] != shape or not np.isfinite(outputs).all():
            received = "NaN or infinite pixels" if outputs.shape[1:] == shape else outputs.shape
            raise ValueError(
                f"The decoder of '{self.name}' does not return images like those that went in. "
                f"Expected finite ones of shape {(len(latents), *shape)}. Received: {received}."
            )
        return outputs

    def _run(self, model, x):
        """The outputs of a model in inference, as a list."""
        # Not `predict`, which would compile each model again for a handful of batches.
        batches = [
            [keras.ops.convert_to_numpy(part) for part in self._outputs(model, batch)]
            for batch in np.split(x, range(self.batch_size, len(x), self.batch_size))
        ]
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def _outputs(self, model, batch):
        if is_graph(model) and not isinstance(model, keras.Sequential):
            batch = keras.tree.map_structure(lambda _: batch, model.input)  # which may be a list
        outputs = model(batch, training=False)
        if isinstance(outputs, dict) and len(outputs) > 1:
            raise ValueError(
                f"The outputs of an encoder of '{self.name}' have no order. Expected one latent, "
                f"or a list [mean, log_variance]. Received: a dict of {sorted(outputs)}. Make a "
                "model that returns a list of them."
            )
        return keras.tree.flatten(outputs)

    def _check_latent(self, latent):
        if latent.ndim != 4 or 0 in latent.shape:
            raise ValueError(
                f"The latent of '{self.name}' is not a tensor of rows, columns and channels. "
                "Expected an encoder that returns (n, H, W, C), or the mean and log-variance of "
                f"one. Received: shape {latent.shape}. Cut the encoder before it flattens or "
                "pools: keras.Model(encoder.input, encoder.get_layer(name).output)."
            )


class _Run(typing.NamedTuple):
    """One network, with its latents taken one way."""

    network: _Network
    latent: str
    control: bool = False
    untrained: bool = False

    @property
    def name(self):
        kind = {"code": "", "sample": "", "mean": ", mean", "fresh_eps": ", fresh noise"}
        untrained = ", untrained" if self.untrained else ""
        return f"{self.network.name}{kind[self.latent]}{untrained}"


class _Geometry(typing.NamedTuple):
    energy: float
    kernel: str
    weights: object
    kappa: float
    rtol: float | None
    seed: int


def _runs(network, variational, latent, controls):
    """What is looked at for a network: its latents, then the controls."""
    yield _Run(network, latent if variational else "code")
    if controls:
        for other in LATENTS if variational else ():
            if other != latent:
                yield _Run(network, other, control=True)
        # For a variational one, the mean: any sample has full rank.
        yield _Run(network, "mean" if variational else "code", control=True, untrained=True)


def _manifold(run, disturbed, sigmas, geometry):
    """One `LatentManifold`."""
    network, (n, *shape) = run.network, disturbed[0].shape
    latents = list(_latents(run, disturbed, geometry.seed))
    factors = [
        [mode_factors(level, mode=mode, rtol=geometry.rtol) for mode in MODES] for level in latents
    ]
    points, weights, gamma = _points(factors, n, geometry)
    bases = [hilbert.subspace(level, energy=geometry.energy) for level in points]
    decoded = [network.decode(level, tuple(shape)) for level in latents] if network.decoder else []
    levels = [
        Level(
            sigma=sigma,
            ranks=np.stack([mode.ranks for mode in factors[i]], axis=1),
            coarse_ranks=_coarse_ranks(factors[i], latents[i]),
            spectra=tuple(mode.singular_values for mode in factors[i]),
            dimension=bases[i].shape[1],
            angles=hilbert.principal_angles(bases[0], bases[i]),
            displacement=float(np.mean(np.linalg.norm(points[i] - points[0], axis=1))),
            curve_lengths=_curve_lengths(factors[0], factors[i], geometry.kappa),
            psnr=_psnr(decoded[i], disturbed[0]) if decoded else None,
        )
        for i, sigma in enumerate(sigmas)
    ]
    return LatentManifold(
        name=run.name,
        latent=run.latent,
        shape=latents[0].shape[1:],
        levels=tuple(levels),
        weights=weights,
        gamma=gamma,
        null_angle=_null_angle(points[0], geometry.energy, geometry.seed),
        coordinates=points[:, :, :COORDINATES].copy(),
        reconstructions=np.stack([level[:SHOWN] for level in decoded]) if decoded else None,
        interpolations=_interpolations(network, latents[0], tuple(shape)) if decoded else None,
    )


def _points(factors, n, geometry):
    """Points (levels, n, p) of the Hilbert space for all levels, the weights, and gamma."""
    joined = [_joined(levels) for levels in zip(*factors, strict=True)]
    squared, weights = hilbert.weighted_distances(
        joined, weights=geometry.weights, clean=n, kappa=geometry.kappa
    )
    if geometry.kernel == "gaussian":
        gamma = hilbert.median_weight(squared[:n, :n])
        kernel = hilbert.product_kernel(squared, kernel="gaussian", gamma=gamma)
    else:
        gamma, kernel = None, hilbert.product_kernel(squared, kernel=geometry.kernel)
    return hilbert.hilbert_map(kernel).reshape(len(factors), n, -1), weights, gamma


def _joined(levels):
    """The factors of one mode at all levels, as if of one batch."""
    return type(levels[0])(*(np.concatenate(parts) for parts in zip(*levels, strict=True)))


def _coarse_ranks(factors, latents):
    ranks = (
        ranks_at(each, latents, mode=mode, rtol=COARSE)
        for mode, each in zip(MODES, factors, strict=True)
    )
    return np.stack(list(ranks), axis=1)


def _latents(run, disturbed, seed):
    """The latents of each level."""
    for i, images in enumerate(disturbed):
        outputs = run.network.encode(images)
        if run.latent in ("code", "mean"):
            yield outputs[0]
            continue
        mean, log_variance = outputs
        key = [seed, 1] if run.latent == "sample" else [seed, 2, i]
        eps = np.random.default_rng(key).normal(size=mean.shape).astype(mean.dtype)
        yield mean + np.exp(0.5 * log_variance) * eps


def _curve_lengths(clean, factors, kappa):
    """For each image and mode, the length of the curve from the clean covariance: (n, 3)."""
    lengths = np.full((len(clean[0].ranks), len(MODES)), np.nan)
    for mode, (first, second) in enumerate(zip(clean, factors, strict=True)):
        for rank in np.unique(first.ranks):
            same = (first.ranks == rank) & (second.ranks == rank)
            lengths[same, mode] = curve_lengths(
                first.vectors[same, :, :rank],
                first.variances[same, :rank],
                second.vectors[same, :, :rank],
                second.variances[same, :rank],
                kappa=kappa,
            )
    return lengths


def _psnr(decoded, images):
    """PSNR of each image, in dB."""
    errors = np.mean(
        np.square(decoded - images, dtype="float64"), axis=tuple(range(1, images.ndim))
    )
    with np.errstate(divide="ignore"):  # a perfect image has an infinite PSNR
        return -10 * np.log10(errors)


def _null_angle(clean, energy, seed):
    """Mean angle between the subspaces of two halves of the clean points, in degrees."""
    rng, n, means = np.random.default_rng([seed, 3]), len(clean), []
    for _ in range(HALVES):
        order = rng.permutation(n)
        halves = clean[order[: n // 2]], clean[order[n // 2 :]]
        angles = hilbert.principal_angles(
            *(hilbert.subspace(half, energy=energy) for half in halves)
        )
        means.append(np.mean(angles) if len(angles) else np.nan)
    return float(np.mean(means))


def _interpolations(network, latents, shape):
    """Decoded steps from one latent to the next: (pairs, steps, height, width, channels)."""
    pairs = min(len(latents), SHOWN) // 2
    first, second = latents[: 2 * pairs : 2, None], latents[1 : 2 * pairs : 2, None]
    steps = np.linspace(0, 1, SHOWN, dtype="float32")[:, None, None, None]
    between = (1 - steps) * first + steps * second
    decoded = network.decode(between.reshape(-1, *latents.shape[1:]), shape)
    return decoded.reshape(pairs, SHOWN, *shape)


# Reading the arguments.


def _networks(autoencoder, batch_size):
    named = autoencoder if isinstance(autoencoder, dict) else {None: autoencoder}
    if not named:
        raise checks.invalid("autoencoder", "at least one model", "an empty dict")
    networks = []
    for name, model in named.items():
        encoder, decoder = _parts(model)
        default = "autoencoder" if isinstance(model, tuple | list) else model.name
        networks.append(_Network(name or default, encoder, decoder, batch_size))
    return networks


def _parts(model):
    """Encoder and decoder, the latter ``None`` if there is none."""
    if isinstance(model, tuple | list) and len(model) == 2:
        parts = tuple(model)
    elif isinstance(model, keras.Model):
        parts = tuple(_part(model, name) for name in ("encoder", "decoder"))
        if None in parts:
            parts = (model,)
    else:
        parts = (model,)
    if not all(isinstance(part, keras.Model) for part in parts):
        received = [type(part).__name__ for part in parts]
        expected = "a Keras model, a pair (encoder, decoder) of them, or a dict of these"
        raise checks.invalid("autoencoder", expected, received)
    for part in parts:
        if is_graph(part) and len(part.inputs) != 1:
            expected = "encoders and decoders of one input"
            raise checks.invalid("autoencoder", expected, f"one of {len(part.inputs)}")
    return parts if len(parts) == 2 else (*parts, None)


def _part(model, name):
    found = getattr(model, name, None)
    if found is None:
        found = next((layer for layer in model.layers if layer.name == name), None)
    return found


def _is_variational(network, images):
    """Whether the encoder returns mean and log-variance; raises if it returns anything else."""
    outputs = network.encode(images)
    if network.decoder is None and outputs[0].shape == images.shape:
        raise ValueError(
            f"'{network.name}' returns tensors of the shape of its images. Expected an encoder, "
            "or a model with parts named 'encoder' and 'decoder'. Received: what looks like a "
            "whole autoencoder. Pass the pair (encoder, decoder); for a GeometryModel, its `base`."
        )
    if len(outputs) == 2 and outputs[0].shape != outputs[1].shape:
        shapes = [output.shape for output in outputs]
        raise ValueError(
            f"The encoder of '{network.name}' has two outputs that are not mean and log-variance. "
            f"Expected one latent, or two tensors of one shape. Received: {shapes}."
        )
    return len(outputs) == 2


_NOT_CLONED = (NotImplementedError, TypeError, ValueError)


def _untrained(run, seed):
    """The same run with a copy of the encoder that has new weights, and no decoder."""
    with _python_seeded(seed):  # from which Keras draws the seeds of initializers without one
        encoder = keras.models.clone_model(run.network.encoder)
    return run._replace(network=dataclasses.replace(run.network, encoder=encoder, decoder=None))


@contextlib.contextmanager
def _python_seeded(seed):
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _checked_images(x):
    images = np.asarray(x)
    if images.ndim != 4 or len(images) < 4:
        expected = "at least 4 images (n, height, width, channels)"
        raise checks.invalid("x", expected, f"an array of shape {images.shape}")
    return checks.unit_pixels("x", images)


def _checked_sigmas(sigmas):
    found = tuple(sigmas) if np.iterable(sigmas) else ()
    are_numbers = all(isinstance(s, numbers.Real) and 0 <= s < np.inf for s in found)
    if not found or not are_numbers or found[0] != 0 or list(found) != sorted(set(found)):
        raise checks.invalid("sigmas", "growing numbers from 0 on", repr(sigmas))
    return tuple(float(s) for s in found)
