"""Distillation of similarities: published definitions, the linear form, what does not matter."""

import math

import numpy as np
import pytest
from autodiff import ALL_MODES, value, value_and_grads
from keras import ops

from keras_lgg import losses

LARGE = 700  # samples, for which SPKD takes its linear form


def batches(n=20, widths=(7, 5), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, d)).astype("float32") + 0.2 for d in widths]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


class TestOfTorchdistill:
    """Its formulas, in NumPy: ours are theirs, but for what the docstrings say."""

    T, S = batches()

    def test_similarity_preserving(self):
        def graph(x):
            products = x @ x.T
            return products / np.linalg.norm(products, ord=2, axis=1, keepdims=True)  # theirs: 1

        expected = np.linalg.norm(graph(self.T) - graph(self.S)) ** 2 / len(self.T) ** 2
        found = float(losses.SimilarityPreserving()(self.T, self.S))
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_probabilistic_transfer(self):
        def choices(x):
            kernel = (unit(x) @ unit(x).T + 1) / 2
            return kernel / kernel.sum(axis=1, keepdims=True)

        t, s = choices(self.T.astype("float64")), choices(self.S.astype("float64"))
        expected = np.mean(t * np.log((t + 1e-7) / (s + 1e-7)))
        found = float(losses.ProbabilisticTransfer()(self.T, self.S))
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_correlation_congruence(self):
        def series(x):
            kernel = 1 + sum((0.8**p) / math.factorial(p) * (x @ x.T) ** p for p in (1, 2))
            return math.exp(-0.8) * kernel

        n = len(self.T)
        theirs = np.linalg.norm(series(unit(self.S)) - series(unit(self.T))) / n**2
        found = float(losses.CorrelationCongruence()(self.T, self.S))
        np.testing.assert_allclose(found, (theirs * n) ** 2, rtol=1e-4)


def test_by_hand():
    """Two samples: alike to the teacher, at right angles to the student."""
    teacher, student = np.ones((2, 2), "float32"), np.eye(2, dtype="float32")
    # Profiles (1, 1) / sqrt(2) and (1, 0): the squares are (1 - sqrt(1/2))**2 and 1/2.
    expected = ((1 - math.sqrt(0.5)) ** 2 + 0.5) / 2
    np.testing.assert_allclose(losses.similarity_preserving(teacher, student), expected, rtol=1e-5)
    # The teacher's samples choose both alike, the student's themselves twice as often.
    expected = (0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))) / 2
    np.testing.assert_allclose(losses.probabilistic_transfer(teacher, student), expected, rtol=1e-4)
    # Off the diagonal, kernels of exp(-1) * (1 + 1 + 1/2) and exp(-1).
    expected = (1.5 * math.exp(-1)) ** 2 / 2
    found = losses.correlation_congruence(teacher, student, gamma=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


FUNCTIONS = {
    "spkd": losses.similarity_preserving,
    "pkt": losses.probabilistic_transfer,
    "cckd": losses.correlation_congruence,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rotations_and_a_scale_do_not_matter(name):
    teacher, student = batches()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    turned = (7 * student @ rotation).astype("float32")
    function = FUNCTIONS[name]
    expected = np.asarray(function(teacher, student))
    assert expected.min() > 0
    np.testing.assert_allclose(function(100 * teacher, turned), expected, rtol=1e-3)
    np.testing.assert_allclose(function(student, turned), 0 * expected, atol=1e-6)


@pytest.mark.parametrize("name", ["pkt", "cckd"])
def test_the_length_of_a_sample_does_not_matter_to_cosines(name):
    teacher, student = batches()
    lengths = np.linspace(0.1, 5, len(student)).astype("float32")[:, None]
    expected = np.asarray(FUNCTIONS[name](teacher, student))
    np.testing.assert_allclose(FUNCTIONS[name](teacher, lengths * student), expected, rtol=1e-3)
    spkd = FUNCTIONS["spkd"]
    assert not np.allclose(spkd(teacher, lengths * student), spkd(teacher, student), rtol=0.1)


def profiles(x):
    products = x.astype("float64") @ x.astype("float64").T
    norms = np.linalg.norm(products, axis=1, keepdims=True)
    return products / np.where(norms > 0, norms, 1)


class TestLinearForm:
    """Of SPKD, in batches larger than the widths."""

    @pytest.mark.parametrize("apart", [1.0, 0.1, 1e-3, 1e-6])
    def test_is_exact_however_much_cancels(self, apart):
        rng = np.random.default_rng(2)
        teacher = rng.random((LARGE, 12)).astype("float32")
        student = (teacher + apart * rng.normal(size=teacher.shape)).astype("float32")
        expected = np.mean(np.square(profiles(student) - profiles(teacher)))
        found = np.mean(np.asarray(losses.similarity_preserving(teacher, student)))
        # Of a millionth, float32 itself keeps one digit.
        np.testing.assert_allclose(found, expected, rtol=2e-4 if apart > 1e-5 else 0.1)

    def test_zero_rows(self):
        teacher, student = batches(LARGE)
        teacher[:3], student[2:5] = 0, 0
        expected = np.mean(np.square(profiles(student) - profiles(teacher)), axis=1)
        found = losses.similarity_preserving(teacher, student)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-9)
        assert expected[2] == 0

    def test_has_the_gradient_of_the_definition(self):
        teacher, student = batches(LARGE)
        student[0] = 0
        _, (found,) = value_and_grads(
            lambda x: ops.sum(losses.similarity_preserving(teacher, x)), [student]
        )
        _, (expected,) = value_and_grads(lambda x: ops.sum(defined(teacher, x)), [student])
        assert np.abs(expected[1:]).max() > 0
        np.testing.assert_allclose(found[1:], expected[1:], atol=1e-3 * np.abs(expected[1:]).max())


def defined(teacher, student):
    """SPKD as it is written."""
    teacher = ops.convert_to_tensor(teacher)
    graphs = [ops.matmul(x, ops.transpose(x)) for x in (student, teacher)]
    rows = [ops.sum(ops.square(graph), axis=1, keepdims=True) for graph in graphs]
    s, t = (g / ops.sqrt(ops.maximum(r, 1e-24)) for g, r in zip(graphs, rows, strict=True))
    return ops.mean(ops.square(s - t), axis=1)


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled(name, mode):
    teacher, student = batches(LARGE)
    found = value(FUNCTIONS[name], [teacher, student], mode)
    expected = np.asarray(FUNCTIONS[name](teacher, student))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
