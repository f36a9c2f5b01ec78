"""The numbers of the authors: losses to a relative 1e-4, gradients to 1e-4 of the largest."""

import numpy as np
import pytest
from autodiff import ALL_MODES, value_and_grads

from benchmarks import golden
from keras_lgg import graphs

NUMBERS = np.load(golden.FILE)
CASES = golden.cases()


def test_cases_are_all_there():
    forms = [f"lap{i}, {form}" for i in (0, 1, 3) for form in ("linear", "dense")]
    assert [*CASES] == ["gkd0", "gkd3", "gkd6", *forms, "rkd0"]
    assert all(len(case.gradients) == len(case.inputs) > 1 for case in CASES.values())


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients(name, mode):
    case = CASES[name]
    found, gradients = value_and_grads(case.loss, case.inputs, mode)
    np.testing.assert_allclose(found, case.value, rtol=1e-4)
    for ours, theirs in zip(gradients, case.gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("num_classes", [10, None], ids=["linear", "dense"])
@pytest.mark.parametrize("name", ["lap0", "lap1", "lap3"])
def test_smoothness_of_each_layer(name, num_classes, mode):
    _, power, k = (int(i) for i in NUMBERS[f"{name}_meta"])
    labels = NUMBERS[f"{name}_y"]
    options = {"power": power, "k": k - 1 if k else None, "num_classes": num_classes}
    layers = golden.arrays(NUMBERS, name, "x")
    for x, expected in zip(layers, golden.arrays(NUMBERS, name, "sm"), strict=True):
        found, _ = value_and_grads(
            lambda x: graphs.label_smoothness(x, labels, **options), [x], mode
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4)
