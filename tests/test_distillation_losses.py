"""What the examples compare distillation with: published definitions, in NumPy."""

import numpy as np
import pytest

pytest.importorskip("pandas", reason="the examples need the extra examples")

import distillation_losses
from autodiff import value_and_grads
from keras import ops
from scipy.special import log_softmax, softmax
from scipy.stats import pearsonr

RNG = np.random.default_rng(0)
TEACHER, STUDENT = RNG.normal(size=(2, 6, 4)).astype("float32") * 3
LABELS = np.array([0, 1, 2, 3, 0, 1])


def test_attention_transfer():
    teacher, student = (RNG.normal(size=(5, 3, 2, c)).astype("float32") for c in (7, 4))

    def attention(x):
        energy = (x**2).mean(axis=-1).reshape(len(x), -1)
        return energy / np.linalg.norm(energy, axis=1, keepdims=True)

    expected = np.mean((attention(teacher) - attention(student)) ** 2)
    found = float(distillation_losses.AttentionTransfer()(teacher, student))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist(temperature):
    t, s = (softmax(x / temperature, axis=1) for x in (TEACHER, STUDENT))
    between = 1 - np.mean([pearsonr(a, b)[0] for a, b in zip(t, s, strict=True)])
    within = 1 - np.mean([pearsonr(a, b)[0] for a, b in zip(t.T, s.T, strict=True)])
    found = float(distillation_losses.Dist(temperature)(TEACHER, STUDENT))
    np.testing.assert_allclose(found, temperature**2 * (between + within), rtol=1e-4)


def test_decoupled_distillation():
    temperature = 4.0
    t, s = (softmax(x / temperature, axis=1).astype("float64") for x in (TEACHER, STUDENT))
    total = 0
    for row, label in enumerate(LABELS):
        a, b = t[row, label], s[row, label]
        total += a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
        others = np.arange(4) != label
        p, q = t[row, others] / (1 - a), s[row, others] / (1 - b)
        total += 8 * np.sum(p * np.log(p / q))
    found = float(distillation_losses.DecoupledDistillation()((TEACHER, LABELS), STUDENT))
    np.testing.assert_allclose(found, temperature**2 * total / len(LABELS), rtol=1e-4)


def test_decoupled_distillation_is_all_of_the_divergence_where_beta_is_what_others_have():
    """KL = TCKD + (1 - p of the right class) NCKD (eq. 6), for samples of equal p."""
    teacher = np.tile(TEACHER[:1], (6, 1))
    labels = np.zeros(6, int)
    beta = 1 - softmax(teacher[0])[0]
    loss = distillation_losses.DecoupledDistillation(beta=beta, temperature=1.0)
    t, s = log_softmax(teacher, axis=1), log_softmax(STUDENT, axis=1)
    expected = np.mean(np.sum(np.exp(t) * (t - s), axis=1))
    np.testing.assert_allclose(float(loss((teacher, labels), STUDENT)), expected, rtol=1e-4)


def attention_transfer(student):
    loss = distillation_losses.AttentionTransfer()
    return loss(*(ops.reshape(x, (6, 2, 2, 1)) for x in (TEACHER, student)))


LOSSES = {
    "DIST": lambda student: distillation_losses.Dist()(TEACHER, student),
    "DKD": lambda student: distillation_losses.DecoupledDistillation()((TEACHER, LABELS), student),
    "attention transfer": attention_transfer,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_student_like_its_teacher_has_nothing_to_learn(name):
    value, (gradient,) = value_and_grads(LOSSES[name], [TEACHER])
    np.testing.assert_allclose(value, 0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)
    assert value_and_grads(LOSSES[name], [STUDENT])[0] > 1e-3
