"""How well a trained classifier withstands noise, corruptions, attacks, faults and typos.

`evaluate` takes a model, data and a list of perturbations, and returns a table of accuracies::

    from keras_lgg import robustness

    table = robustness.evaluate(
        model,
        (images, labels),
        [robustness.GaussianNoise(snr=(30, 20, 10)), robustness.FGSM(epsilons=(4 / 255,))],
    )

Needs the extra ``robustness``.
"""

from keras_lgg.robustness.attacks import FGSM, PGD, ArtAttack
from keras_lgg.robustness.classifiers import input_gradient
from keras_lgg.robustness.corruptions import (
    CommonCorruption,
    GaussianNoise,
    ReadyMadeCorruption,
    common_corruptions,
    ready_made_corruptions,
)
from keras_lgg.robustness.evaluation import evaluate, mean_corruption_error
from keras_lgg.robustness.faults import DroppedUnits, QuantizedWeights
from keras_lgg.robustness.perturbations import DataPerturbation, ModelPerturbation
from keras_lgg.robustness.texts import DroppedTokens, Typos

__all__ = [
    "FGSM",
    "PGD",
    "ArtAttack",
    "CommonCorruption",
    "DataPerturbation",
    "DroppedTokens",
    "DroppedUnits",
    "GaussianNoise",
    "ModelPerturbation",
    "QuantizedWeights",
    "ReadyMadeCorruption",
    "Typos",
    "common_corruptions",
    "evaluate",
    "input_gradient",
    "mean_corruption_error",
    "ready_made_corruptions",
]


def __dir__():
    return __all__
