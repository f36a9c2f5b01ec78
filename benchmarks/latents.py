"""How long it takes to characterise latent manifolds."""

import time

import numpy as np

from keras_lgg import manifolds

BUILDERS = (manifolds.build_cae, manifolds.build_dae, manifolds.build_vae)


def times(images, *, runs):
    """Rows: what, how many latents in all, seconds, and those a thousand latents."""
    rng = np.random.default_rng(0)
    x = rng.random((images, 28, 28, 1), "float32")
    models = {build.__name__: build(x.shape[1:]) for build in BUILDERS}
    levels = 7
    for controls in (False, True):
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            report = manifolds.characterize(models, x, controls=controls, progress=False)
            seconds.append(time.perf_counter() - start)
        everything = (*report.manifolds, *report.controls)
        latents = images * sum(len(each.levels) for each in everything)
        with_controls = ", with controls" if controls else ""
        yield {
            "what": f"characterize, {images} images, {levels} levels, 3 models{with_controls}",
            "latents": latents,
            "s": f"{np.median(seconds):.1f}",
        }


def against_pairs(sizes, *, runs):
    """Rows: number of latents, seconds, and pair by pair over all pairs at once."""
    for n in sizes:
        latents = np.random.default_rng(0).normal(size=(n, 7, 7, 128))
        few = latents[:12]
        ours, pairwise = [], []
        for _ in range(runs):
            start = time.perf_counter()
            manifolds.product_distances(latents)
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            pair_by_pair(few)
            pairwise.append((time.perf_counter() - start) * (n * (n - 1)) / (12 * 11))
        yield {
            "latents": n,
            "s": f"{np.median(ours):.2f}",
            "pair by pair / ours": f"{np.median(pairwise) / np.median(ours):.0f}",
        }


def pair_by_pair(latents):
    """The same distances, without weights, by the function for two matrices."""
    total = 0.0
    for mode in (1, 2, 3):
        covariances = manifolds.mode_covariance(latents, mode=mode)
        for i, first in enumerate(covariances):
            for second in covariances[:i]:
                total += manifolds.embedded_distance(first, second) ** 2
    return total
