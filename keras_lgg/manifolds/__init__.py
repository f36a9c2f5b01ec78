"""The latent manifolds of autoencoders under growing noise: ranks, strata, and a Hilbert space.

An encoder whose latents are tensors ``(H, W, C)`` gives each image three covariances, and so a
point of a product of manifolds of positive semi-definite matrices::

    from keras_lgg import manifolds

    model = manifolds.build_cae((28, 28, 1))
    model.fit(x_train, x_train, batch_size=128, epochs=6)
    report = manifolds.characterize({"CAE": model}, x_test[:200])
    print(report)
    report.plot_disturbance().savefig("disturbance.png")

Needs the extra ``manifolds``, and ``plots`` for figures.
"""

from keras_lgg.manifolds.autoencoders import (
    Corruption,
    Sampling,
    SummedCrossentropy,
    build_cae,
    build_dae,
    build_vae,
)
from keras_lgg.manifolds.characterization import characterize
from keras_lgg.manifolds.distances import bonnabel_sepulchre_distance, embedded_distance
from keras_lgg.manifolds.hilbert import (
    hilbert_map,
    principal_angles,
    product_distances,
    product_kernel,
    subspace,
)
from keras_lgg.manifolds.report import LatentManifold, Level, ManifoldReport
from keras_lgg.manifolds.strata import largest_ranks, mode_covariance, mode_ranks, strata, unfold

__all__ = [
    "Corruption",
    "LatentManifold",
    "Level",
    "ManifoldReport",
    "Sampling",
    "SummedCrossentropy",
    "bonnabel_sepulchre_distance",
    "build_cae",
    "build_dae",
    "build_vae",
    "characterize",
    "embedded_distance",
    "hilbert_map",
    "largest_ranks",
    "mode_covariance",
    "mode_ranks",
    "principal_angles",
    "product_distances",
    "product_kernel",
    "strata",
    "subspace",
    "unfold",
]


def __dir__():
    return __all__
