"""The numbers of the papers' authors, as losses with the values and gradients that they gave."""

import pathlib
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_lgg import losses
from keras_lgg.graphs.functions import PAIRS

FILE = pathlib.Path(__file__).parents[1] / "tests" / "golden" / "geometry.npz"


class Case(NamedTuple):
    """A loss of some arrays, its value, and its gradients to them."""

    loss: object
    inputs: list
    value: np.ndarray
    gradients: list


def cases():
    """By name, a `Case` for each in the file; of smoothness variation, one for each form."""
    golden = np.load(FILE)
    found = {}
    for name in sorted({key.split("_")[0] for key in golden.files}):
        if name.startswith("lap"):
            found[f"{name}, linear"] = _variation(golden, name, num_classes=10)
            found[f"{name}, dense"] = _variation(golden, name, num_classes=None)
        else:
            found[name] = _distillation(golden, name)
    return found


def arrays(golden, case, name):
    """The arrays ``name0, name1, ...`` of a case."""
    prefix = f"{case}_{name}"
    keys = [key for key in golden.files if key[: len(prefix)] == prefix and key[-1].isdigit()]
    return [golden[f"{prefix}{i}"] for i in range(len(keys))]


def _distillation(golden, name):
    teachers, students = arrays(golden, name, "t"), arrays(golden, name, "s")

    def rkd(teacher, student):
        return ops.mean(losses.relational_distance(teacher, student))

    def gkd(teacher, student):
        _, k, power, pairs = (int(i) for i in golden[f"{name}_meta"])
        options = {"k": None if k == 128 else k, "power": power, "pairs": PAIRS[pairs]}
        labels = golden[f"{name}_y"]
        return ops.sum(losses.graph_distillation(teacher, student, labels=labels, **options))

    one = rkd if name.startswith("rkd") else gkd

    def loss(*students):
        return sum(one(t, s) for t, s in zip(teachers, students, strict=True))

    return Case(loss, students, golden[f"{name}_loss"], arrays(golden, name, "gs"))


def _variation(golden, name, *, num_classes):
    _, power, k = (int(i) for i in golden[f"{name}_meta"])
    options = {"power": power, "k": k - 1 if k else None, "num_classes": num_classes}

    def loss(*layers):
        return losses.smoothness_variation(list(layers), golden[f"{name}_y"], **options)

    layers = arrays(golden, name, "x")
    return Case(loss, layers, golden[f"{name}_loss"], arrays(golden, name, "g"))
