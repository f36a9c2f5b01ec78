"""Matrices in factors, against the matrices themselves."""

import functools

import numpy as np
import pytest
import reference
from autodiff import (
    ALL_MODES,
    BACKEND,
    MODES,
    differentiable,
    precision,
    value,
    value_and_grads,
)
from backends import FLOAT64
from keras import ops

from keras_lgg import losses
from keras_lgg.graphs import differences
from keras_lgg.graphs.labels import read_labels
from keras_lgg.graphs.low_rank import LowRank, add, power_difference, product, row_squares, subtract
from keras_lgg.graphs.products import cosine_product, gram

N = 12
# Of a function that many batches run through: eager JAX compiles each operation alone.
QUICK_MODE = "jit" if BACKEND == "jax" else "eager"
LABELS = np.random.default_rng(5).integers(0, 3, 400)


def dense(matrix):
    left, right, diagonal = (np.asarray(ops.convert_to_numpy(part)) for part in matrix[:3])
    return left @ right.T + np.diag(diagonal)


def symmetric(rng, rank):
    factor = rng.normal(size=(N, rank))
    core = rng.normal(size=(rank, rank))
    parts = factor, factor @ (core + core.T), rng.normal(size=N)
    return LowRank(*(ops.convert_to_tensor(part) for part in parts))


@pytest.fixture
def matrices(rng):
    with precision("float64"):
        yield symmetric(rng, 3), symmetric(rng, 4)


@FLOAT64
class TestArithmetic:
    def test_sum_product_and_multiplication(self, matrices, rng):
        a, b = matrices
        z = rng.normal(size=(N, 2))
        np.testing.assert_allclose(dense(add(a, b)), dense(a) + dense(b), atol=1e-10)
        np.testing.assert_allclose(dense(product(a, b)), dense(a) @ dense(b), atol=1e-9)
        ab = product(a, b)
        np.testing.assert_allclose(ab.multiply(z), dense(ab) @ z, atol=1e-8)
        np.testing.assert_allclose(ab.multiply_transposed(z), dense(ab).T @ z, atol=1e-8)

    @pytest.mark.parametrize("classes", [None, np.arange(N) % 3])
    def test_row_squares_of_a_sum_and_of_its_terms(self, matrices, classes):
        one_hot = None if classes is None else ops.convert_to_tensor(np.eye(3)[classes])
        same = 1 if classes is None else classes[:, None] == classes[None, :]
        a, b = matrices
        terms = [a, b, product(a, b)]
        found, of_terms = row_squares(terms, one_hot)
        whole = sum(dense(term) for term in terms)
        np.testing.assert_allclose(found, (same * whole**2).sum(axis=1), rtol=1e-10)
        for row, term in zip(of_terms, terms, strict=True):
            np.testing.assert_allclose(row, (same * dense(term) ** 2).sum(axis=1), rtol=1e-10)

    @pytest.mark.parametrize("along", ["random", "zero"])
    @pytest.mark.parametrize("shared", [False, True])
    def test_difference_along_any_direction(self, matrices, rng, along, shared):
        a, b = matrices
        if shared:  # one factor on both sides, as a cosine graph has it
            a, b = (m._replace(right=m.left) for m in matrices)
        direction = rng.normal(size=N) * (along == "random")
        terms = subtract(a, b, along=ops.convert_to_tensor(direction))
        found = sum(dense(term) for term in terms)
        np.testing.assert_allclose(found, dense(a) - dense(b), atol=1e-9)
        if along == "random":
            for term in terms[:2]:
                assert np.abs(direction @ dense(term)).max() < 1e-9

    @pytest.mark.parametrize("power", [1, 2, 3, 4])
    def test_difference_of_powers(self, matrices, power):
        a, b = matrices
        difference = functools.reduce(add, subtract(a, b, along=ops.ones((N,), "float64")))
        expected = np.linalg.matrix_power(dense(a), power) - np.linalg.matrix_power(dense(b), power)
        found = power_difference(a, b, difference, power)
        np.testing.assert_allclose(dense(found), expected, atol=1e-8 * np.abs(expected).max())

    @pytest.mark.parametrize("power", [1, 2, 3])
    def test_rank_is_the_width_of_the_factors(self, power, rng):
        x, y = rng.random((30, 3)), rng.random((30, 5))
        with precision("float64"):
            a, b = (differences.cosine_factors(ops.convert_to_tensor(part))[0] for part in (x, y))
            difference = functools.reduce(add, subtract(a, b, along=ops.ones((30,), "float64")))
            found = power_difference(a, b, difference, power)
        assert found.left.shape[1] == differences.factored_rank(3, 5, power)


def batch(n, noise, dtype="float32", seed=0):
    """Teacher and student, which differ the less the smaller the noise."""
    rng = np.random.default_rng(seed)
    teacher = np.maximum(rng.normal(size=(n, 8)) + 0.5, 0)
    student = np.maximum(teacher[:, :6] + noise * rng.normal(size=(n, 6)), 0)
    teacher = teacher[:, :6] if noise < 1 else teacher
    return teacher.astype(dtype), student.astype(dtype)


FORMS = {
    "all": {},
    "power 2": {"power": 2},
    "power 3": {"power": 3},
    "intra": {"pairs": "intra", "labels": LABELS, "num_classes": 3},
    "inter": {"pairs": "inter", "labels": np.eye(3, dtype="float32")[LABELS]},
}


class Spy:
    """Counts how often the pairs are compared."""

    def __init__(self, monkeypatch):
        self.calls = 0
        compare = losses.graph_distillation.__globals__["compare_pairs"]

        def counted(*args, **kwargs):
            self.calls += 1
            return compare(*args, **kwargs)

        monkeypatch.setitem(losses.graph_distillation.__globals__, "compare_pairs", counted)


def reference_rows(teacher, student, options):
    with precision("float64"):
        wide = [ops.convert_to_tensor(x.astype("float64")) for x in (teacher, student)]
        classes = options.get("labels")
        if classes is not None and classes.ndim == 2:
            classes = classes.argmax(axis=1)
        rows = differences.compare_pairs(
            *wide,
            k=None,
            power=options.get("power", 1),
            pairs=options.get("pairs", "all"),
            labels=None if classes is None else read_labels(classes),
            block=None,
        )
        return ops.convert_to_numpy(rows)


@pytest.mark.parametrize("form", FORMS)
class TestGraphDistillationInFactors:
    def test_exact_on_both_sides_of_the_rule_of_cancellation(self, form, monkeypatch):
        spy = Spy(monkeypatch)
        rows = differentiable(
            lambda t, s: losses.graph_distillation(t, s, **FORMS[form]),
            batch(400, 0.0),
            QUICK_MODE,
        )
        for noise in (1.0, 0.3, 0.1, 0.03, 0.01, 0.001, 0.0):
            teacher, student = batch(400, noise)
            spy.calls = 0
            found, _ = rows(teacher, student)
            calls = spy.calls
            expected = reference_rows(teacher, student, FORMS[form])
            np.testing.assert_allclose(found, expected.sum(), rtol=1e-4, atol=1e-10)
            if BACKEND != "jax":  # which traces both sides
                assert bool(calls) == (noise <= 0.01) or 0.01 < noise < 0.3

    @FLOAT64
    @pytest.mark.parametrize("mode", ALL_MODES)
    def test_value_and_gradient_are_those_of_the_pairs(self, form, mode):
        teacher, student = batch(400, 1.0, "float64")
        options = {**FORMS[form]}
        _, accurate = differences.compare_factors(
            *(ops.convert_to_tensor(x.astype("float32")) for x in (student, teacher)),
            power=options.get("power", 1),
        )
        assert bool(accurate)
        found, (gradient,) = value_and_grads(
            lambda s: losses.graph_distillation(teacher, s, **options), [student], mode
        )
        # A size of block alone does not change the form; k = n - 1 keeps all, by pairs.
        expected, (expected_gradient,) = value_and_grads(
            lambda s: losses.graph_distillation(teacher, s, **options, k=399), [student]
        )
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        np.testing.assert_allclose(
            gradient, expected_gradient, atol=1e-9 * np.abs(expected_gradient).max()
        )

    def test_degenerate_batches(self, form):
        run = differentiable(
            lambda s, t: losses.graph_distillation(t, s, **FORMS[form]),
            batch(400, 1.0)[::-1],
            QUICK_MODE,
            wrt=1,
        )
        for make in (
            lambda x: np.where(np.arange(400)[:, None] % 7 == 0, 0, x),
            lambda x: 0 * x,
            lambda x: 0 * x + x[0],
            lambda x: x - x.mean(axis=0),  # signed: some nodes are isolated
        ):
            teacher, student = (make(x).astype("float32") for x in batch(400, 1.0))
            found, (gradient,) = run(student, teacher)
            expected = reference_rows(teacher, student, FORMS[form]).sum()
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
            assert np.isfinite(gradient).all()


@FLOAT64
@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("noise", [1.0, 1e-7])
@pytest.mark.parametrize("form", ["all", "inter"])
def test_pairs_in_blocks_stand_in_for_factors(form, noise, mode):
    teacher, student = batch(400, noise, "float64")
    found, (gradient,) = value_and_grads(
        lambda s: losses.graph_distillation(teacher, s, **FORMS[form], block_size=150),
        [student],
        mode,
    )
    expected, (wanted,) = value_and_grads(
        lambda s: losses.graph_distillation(teacher, s, **FORMS[form], k=399), [student]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, wanted, atol=1e-6 * np.abs(wanted).max())


@FLOAT64
class TestOtherLossesInFactors:
    @pytest.mark.parametrize("mode", ALL_MODES)
    def test_target_graph(self, mode):
        z = batch(400, 1.0, "float64")[1] - 0.3
        affinity = np.array([[1, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 1]])
        wanted = affinity[np.ix_(LABELS, LABELS)]
        found, (gradient,) = value_and_grads(
            lambda z: losses.target_graph(LABELS, z, affinity=affinity), [z], mode
        )
        expected, (expected_gradient,) = value_and_grads(
            lambda z: losses.target_graph(wanted, z, form="graph"), [z]
        )
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6, atol=1e-9)
        rows = value(lambda z: losses.target_graph(LABELS, z, num_classes=3), [z], mode)
        np.testing.assert_allclose(rows, reference.target_graph(np.eye(3)[LABELS][:, LABELS], z))

    def test_target_graph_that_is_reached(self):
        z = (np.eye(3)[LABELS] * 2).astype("float32")
        assert float(ops.sum(losses.target_graph(LABELS, z, num_classes=3))) < 1e-6

    def test_graph_variation(self):
        a, b = batch(400, 1.0, "float64")
        expected = np.mean([reference_rows(a, b, {}).sum(), reference_rows(b, a[:, :5], {}).sum()])
        found = value(lambda *x: losses.graph_variation(list(x)), [a, b, a[:, :5]])
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_cheaper_form_is_taken():
    cheap = {"rank": 20, "width": 30}
    forms = {
        "in_factors": lambda: (ops.ones((3,)), ops.convert_to_tensor(True)),
        "by_pairs": lambda: ops.zeros((3,)),
    }

    def taken(n, **cost):
        return float(differences.factors_or_pairs(**forms, n=n, **cost)[0]) == 1.0

    assert taken(1000, **cheap)
    assert taken(256, rank=66, width=192)
    assert not taken(128, rank=66, width=192)  # whose many small steps take longer
    assert not taken(5, **cheap)
    assert not taken(400, rank=400, width=800)
    assert taken(900, rank=400, width=100, power=2)
    assert not taken(ops.convert_to_tensor(1000), **cheap)  # not known when it is traced


@FLOAT64
@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("kind", ["normal", "zero rows", "1e18", "1e-14"])
def test_products_without_pairs(kind, mode, rng):
    x, z = rng.normal(size=(9, 5)), rng.normal(size=(9, 3))
    if kind == "zero rows":
        x[[2, 5]] = 0
    elif kind != "normal":
        x = x * float(kind)

    def unit(x):
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    def expected(x, z):
        return ((unit(x) @ (unit(x).T @ z)) ** 3).sum()

    found, (x_gradient, z_gradient) = value_and_grads(
        lambda x, z: cosine_product(x, z) ** 3, [x, z], mode
    )
    np.testing.assert_allclose(found, expected(x, z), rtol=1e-9)
    wanted = reference.numerical_gradient(lambda z: expected(x, z), z)
    np.testing.assert_allclose(z_gradient, wanted, atol=1e-6 * np.abs(wanted).max())
    if kind in ("normal", "1e18"):
        step = 1e-6 * (float(kind) if kind == "1e18" else 1)
        wanted = reference.numerical_gradient(lambda x: expected(x, z), x, step)
        np.testing.assert_allclose(x_gradient, wanted, atol=1e-5 * np.abs(wanted).max())
    assert np.isfinite(x_gradient).all()


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch derives these products by itself")
def test_second_derivatives(rng):
    """The gradients by hand can be derived again, as a penalty on gradients does."""
    x, z = rng.normal(size=(6, 4)), rng.normal(size=(6, 2))

    def loss(x, by_hand):
        if by_hand:
            return ops.sum(cosine_product(x, z) ** 2) + ops.sum(gram(x) ** 3)
        unit = x / ops.sqrt(ops.sum(ops.square(x), axis=1, keepdims=True))
        products = ops.matmul(unit, ops.matmul(ops.transpose(unit), z))
        return ops.sum(products**2) + ops.sum(ops.matmul(x, ops.transpose(x)) ** 3)

    def gradient_norm(x, by_hand):
        if BACKEND == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(x, by_hand)
            return ops.sum(tape.gradient(value, x) ** 2)
        import jax

        return ops.sum(jax.grad(loss)(x, by_hand) ** 2)

    for mode in MODES:
        found = value_and_grads(lambda x: gradient_norm(x, True), [x], mode)
        expected = value_and_grads(lambda x: gradient_norm(x, False), [x], mode)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
        np.testing.assert_allclose(found[1][0], expected[1][0], rtol=1e-6)
