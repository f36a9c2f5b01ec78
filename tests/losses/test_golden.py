"""The numbers of the authors: losses to a relative 1e-4, gradients to 1e-4 of the largest."""

import pathlib

import numpy as np
import pytest
from autodiff import ALL_MODES, value_and_grads
from keras import ops

from keras_lgg import graphs, losses
from keras_lgg.graphs import functions

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "geometry.npz")
CASES = sorted({name.split("_")[0] for name in GOLDEN.files})


def arrays(case, name):
    """The arrays ``name0, name1, ...`` of a case."""
    prefix = f"{case}_{name}"
    keys = [key for key in GOLDEN.files if key[: len(prefix)] == prefix and key[-1].isdigit()]
    return [GOLDEN[f"{prefix}{i}"] for i in range(len(keys))]


def assert_agrees(case, found, gradients, gradient_name):
    np.testing.assert_allclose(found, GOLDEN[f"{case}_loss"], rtol=1e-4)
    for ours, theirs in zip(gradients, arrays(case, gradient_name), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_cases_are_all_there():
    assert CASES == ["gkd0", "gkd3", "gkd6", "lap0", "lap1", "lap3", "rkd0"]


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("gkd")])
def test_graph_distillation(case, mode):
    n, k, power, pairs = (int(i) for i in GOLDEN[f"{case}_meta"])
    options = {
        "k": None if k == 128 else k,
        "power": power,
        "pairs": functions.PAIRS[pairs],
        "labels": GOLDEN[f"{case}_y"],
    }
    teachers, students = arrays(case, "t"), arrays(case, "s")
    assert len(students) == 3
    assert len(students[0]) == n

    def loss(*students):
        pairs_of_layers = zip(teachers, students, strict=True)
        return sum(ops.sum(losses.graph_distillation(t, s, **options)) for t, s in pairs_of_layers)

    assert_agrees(case, *value_and_grads(loss, students, mode), "gs")


@pytest.mark.parametrize("mode", ALL_MODES)
def test_relational_distance(mode):
    teachers, students = arrays("rkd0", "t"), arrays("rkd0", "s")

    def loss(*students):
        pairs_of_layers = zip(teachers, students, strict=True)
        return sum(ops.mean(losses.relational_distance(t, s)) for t, s in pairs_of_layers)

    assert_agrees("rkd0", *value_and_grads(loss, students, mode), "gs")


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("num_classes", [10, None], ids=["linear", "dense"])
@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("lap")])
def test_smoothness_variation(case, num_classes, mode):
    _, power, k = (int(i) for i in GOLDEN[f"{case}_meta"])
    labels, layers = GOLDEN[f"{case}_y"], arrays(case, "x")
    options = {"power": power, "k": k - 1 if k else None, "num_classes": num_classes}

    for x, expected in zip(layers, arrays(case, "sm"), strict=True):
        found, _ = value_and_grads(
            lambda x: graphs.label_smoothness(x, labels, **options), [x], mode
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def loss(*layers):
        return losses.smoothness_variation(list(layers), labels, **options)

    assert_agrees(case, *value_and_grads(loss, layers, mode), "g")
