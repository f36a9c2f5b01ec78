import keras
import numpy as np
import pytest
import reference
from autodiff import BACKEND, COMPILED, differentiable, precision, value, value_and_grads
from backends import DTYPES_AND_MODES, FLOAT64
from cases import LABELS, LOSSES, batch
from keras import ops

import keras_lgg as lgg
from keras_lgg import losses
from keras_lgg.training.penalties import loss_on_layers

KINDS = ["non-negative", "signed"]

# The rows of each function of two arrays, ours and the reference's.
ROWS = {
    "gkd": (losses.graph_distillation, reference.graph_distillation, {}),
    "gkd-knn": (losses.graph_distillation, reference.graph_distillation, {"k": 3, "power": 2}),
    "gkd-intra": (
        losses.graph_distillation,
        reference.graph_distillation,
        {"pairs": "intra", "labels": LABELS, "power": 3},
    ),
    "gkd-inter": (
        losses.graph_distillation,
        reference.graph_distillation,
        {"pairs": "inter", "labels": LABELS, "k": 2},
    ),
    "rkd-distance": (losses.relational_distance, reference.relational_distance, {}),
    "rkd-angle": (losses.relational_angle, reference.relational_angle, {}),
    "rkd-angle-arms": (losses.relational_angle, reference.relational_angle, {"arms": 4}),
    "spkd": (losses.similarity_preserving, reference.similarity_preserving, {}),
    "pkt": (losses.probabilistic_transfer, reference.probabilistic_transfer, {}),
    "cckd": (losses.correlation_congruence, reference.correlation_congruence, {}),
    "cckd-order": (
        losses.correlation_congruence,
        reference.correlation_congruence,
        {"gamma": 1.5, "order": 4},
    ),
    "cckd-cosines": (losses.correlation_congruence, reference.correlation_congruence, {"order": 1}),
}


def assert_close(found, expected, dtype):
    rtol = 1e-4 if dtype == "float32" else 1e-8
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize(("dtype", "mode"), DTYPES_AND_MODES)
@pytest.mark.parametrize("kind", KINDS)
class TestAgainstReference:
    @pytest.mark.parametrize("name", ROWS)
    def test_teacher_and_student(self, name, kind, dtype, mode):
        ours, slow, options = ROWS[name]
        teacher, student = batch(kind, dtype, 1, (10, 7)), batch(kind, dtype)
        found = value(lambda t, s: ours(t, s, **options), [teacher, student], mode)
        assert found.shape == (10,)
        assert found.dtype == dtype
        assert_close(found, slow(teacher, student, **options), dtype)

    @pytest.mark.parametrize("k", [None, 3])
    def test_graph_smoothness(self, k, kind, dtype, mode):
        z = batch(kind, dtype)
        found = value(lambda z: losses.graph_smoothness(LABELS, z, alpha=0.6, k=k), [z], mode)
        assert found.dtype == dtype
        assert_close(found, reference.graph_smoothness(LABELS, z, 0.6, k), dtype)

    @pytest.mark.parametrize("metric", ["cosine", "rbf", "exponential"])
    def test_target_graph(self, metric, kind, dtype, mode):
        z = batch(kind, dtype)
        affinity = np.array([[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0.2], [0, 0, 0.2, 1]])
        wanted = affinity[np.ix_(LABELS, LABELS)]
        expected = reference.target_graph(wanted, z, metric, 0.6)
        options = {"metric": metric, "alpha": 0.6}
        one_hot = np.eye(4, dtype=dtype)[LABELS]
        for target, extra in [
            (LABELS, {"affinity": affinity}),
            (one_hot, {"affinity": affinity}),
            (wanted.astype(dtype), {"form": "graph"}),
        ]:
            found = value(
                lambda z, target=target, extra=extra: losses.target_graph(
                    target, z, **extra, **options
                ),
                [z],
                mode,
            )
            assert_close(found, expected, dtype)

    def test_variations(self, kind, dtype, mode):
        layers = [batch(kind, dtype, 1, (10, 7)), batch(kind, dtype), batch(kind, dtype, 2)]
        for options in [{"power": 1}, {"power": 2, "k": 3}, {"power": 3, "relative": True}]:
            found = value(
                lambda *layers, options=options: losses.smoothness_variation(
                    list(layers), LABELS, **options
                ),
                layers,
                mode,
            )
            assert_close(found, reference.smoothness_variation(layers, LABELS, **options), dtype)
        for k in (None, 2):
            found = value(
                lambda *layers, k=k: losses.graph_variation(list(layers), k=k), layers, mode
            )
            assert_close(found, reference.graph_variation(layers, k), dtype)


# Losses of `cases.LOSSES` with their reference, for the gradients.
GRADIENTS = {
    "gkd": lambda x, other: reference.graph_distillation(other, x).sum(),
    "gkd-knn": lambda x, other: reference.graph_distillation(other, x, k=3).sum(),
    "gkd-power": lambda x, other: reference.graph_distillation(other, x, power=3).sum(),
    "gkd-intra": lambda x, other: reference.graph_distillation(
        other, x, pairs="intra", labels=LABELS
    ).sum(),
    "rkd-distance": lambda x, other: reference.relational_distance(other, x).mean(),
    "rkd-angle": lambda x, other: reference.relational_angle(other, x).mean(),
    "spkd": lambda x, other: 10 * reference.similarity_preserving(other, x).mean(),
    "pkt": lambda x, other: 1000 * reference.probabilistic_transfer(other, x).mean(),
    "cckd": lambda x, other: 10 * reference.correlation_congruence(other, x).mean(),
    "gsl": lambda x, other: reference.graph_smoothness(LABELS, x, alpha=0.5).sum(),
    "gsl-knn": lambda x, other: reference.graph_smoothness(LABELS, x, k=3).sum(),
    "target-rbf": lambda x, other: reference.target_graph(
        LABELS[:, None] == LABELS[None, :], x, "rbf", 0.3
    ).sum(),
    "smoothness-variation": lambda x, other: reference.smoothness_variation([other, x], LABELS, 1),
    "smoothness-variation-linear": lambda x, other: reference.smoothness_variation(
        [other, x], LABELS, 2
    ),
    "smoothness-variation-relative": lambda x, other: reference.smoothness_variation(
        [other, x], LABELS, 2, relative=True
    ),
    "graph-variation-knn": lambda x, other: reference.graph_variation([other, x], 3),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_is_that_of_the_reference(name, kind):
    x, other = batch(kind, "float64", shape=(10, 3)), batch(kind, "float64", 1, (10, 4))
    _, (found,) = value_and_grads(lambda x: LOSSES[name](x, other, LABELS), [x])
    expected = reference.numerical_gradient(lambda x: GRADIENTS[name](x, other), x)
    assert np.abs(expected).max() > 1e-4
    # On PyTorch, all is float32, in which samples that are nearly opposite have few digits.
    rough = BACKEND == "torch" and name == "pkt"
    rtol = 1e-3 if rough else 1e-5
    np.testing.assert_allclose(found, expected, atol=rtol * np.abs(expected).max())


DISTILLING = ("gkd", "rkd", "spkd", "pkt", "cckd")


@pytest.mark.parametrize("name", [name for name in LOSSES if name.startswith(DISTILLING)])
def test_no_gradient_reaches_the_teacher(name):
    x, teacher = batch("non-negative"), batch("non-negative", seed=1)
    _, (student_gradient, teacher_gradient) = value_and_grads(
        lambda x, teacher: LOSSES[name](x, teacher, LABELS), [x, teacher]
    )
    assert np.abs(student_gradient).max() > 0
    np.testing.assert_array_equal(teacher_gradient, np.zeros_like(teacher))


def duplicates(x):
    x[1:4] = x[0]
    return x


def zero_rows(x):
    x[[0, 3]] = 0
    return x


def opposites(x):
    x[1] = -x[0]
    return x


DEGENERATE = {
    "zero rows": zero_rows,
    "all zero": lambda x: 0 * x,
    "duplicates": duplicates,
    "all the same": lambda x: 0 * x + x[0],
    "opposite vectors": opposites,
    "1e18": lambda x: x * np.float32(1e18),
    "1e-18": lambda x: x * np.float32(1e-18),
    "one constant": lambda x: 0 * x + 3,
    "one-hot rows": lambda x: np.eye(10, 6, dtype="float32").reshape(10, 3, 2),
    "one sample": lambda x: x[:1],
    "two samples": lambda x: x[:2],
    "partial batch": lambda x: x[:3],  # fewer than k + 1
}


@pytest.mark.parametrize("mode", COMPILED)
@pytest.mark.parametrize("name", LOSSES)
def test_degenerate_batches_give_finite_values_and_gradients(name, mode):
    run = differentiable(LOSSES[name], [batch("signed"), batch("signed"), LABELS], mode, wrt=1)
    for kind in KINDS:
        for case, make in DEGENERATE.items():
            x = make(batch(kind))
            n = len(x)
            for other in (make(batch(kind, seed=1)), batch(kind, seed=1)[:n]):
                for labels in (LABELS[:n], 0 * LABELS[:n]):
                    found, (gradient,) = run(x, other, labels)
                    assert np.isfinite(found), (kind, case, labels)
                    assert np.isfinite(gradient).all(), (kind, case, labels)


class TestByHand:
    def test_gkd_of_two_swapped_neighbours(self):
        # Teacher: 0-1 alike, 2 alone. Student: 1-2 alike, 0 alone. Each graph has one edge of
        # weight 1, counted in both directions.
        teacher = np.array([[1, 0], [1, 0], [0, 1]], "float32")
        student = np.array([[0, 1], [1, 0], [1, 0]], "float32")
        np.testing.assert_allclose(
            value(losses.graph_distillation, [teacher, student]), [1, 2, 1], atol=1e-6
        )

    def test_rkd_distance_of_a_line(self):
        # Distances 1, 1, 2 with mean 4/3 against 1, 3, 4 with mean 8/3: 3/4, 3/4, 3/2 and
        # 3/8, 9/8, 3/2. Differences 3/8, 3/8 and 0, each with half its square.
        teacher = np.array([[0], [1], [2]], "float32")
        student = np.array([[0], [1], [4]], "float32")
        half = 0.5 * (3 / 8) ** 2
        np.testing.assert_allclose(
            value(losses.relational_distance, [teacher, student]),
            [half / 2, half, half / 2],
            rtol=1e-5,
        )

    def test_rkd_angle_of_a_right_angle_and_a_line(self):
        # At the middle sample: cosine 0 against -1, Huber 0.5. At the ends of the right angle the
        # cosine is sqrt(1/2) against 1.
        teacher = np.array([[1, 0], [0, 0], [0, 1]], "float32")
        student = np.array([[-1, 0], [0, 0], [1, 0]], "float32")
        end = 0.5 * (1 - np.sqrt(0.5)) ** 2
        np.testing.assert_allclose(
            value(losses.relational_angle, [teacher, student]), [end, 0.5, end], rtol=1e-5
        )

    def test_huber_is_linear_beyond_one(self):
        x = np.array([[0.0], [1.0], [1.001]], "float32")
        y = np.array([[0.0], [0.001], [1.001]], "float32")
        relative = reference.relative_distances(x) - reference.relative_distances(y)
        assert np.abs(relative).max() > 1
        np.testing.assert_allclose(
            value(losses.relational_distance, [y, x]),
            reference.relational_distance(y, x),
            rtol=1e-4,
        )

    def test_gsl_does_not_pull_a_class_together(self):
        z = np.array([[0.0], [5.0], [9.0]], "float32")
        _, (gradient,) = value_and_grads(
            lambda z: losses.graph_smoothness(np.array([0, 0, 0]), z), [z]
        )
        np.testing.assert_array_equal(gradient, np.zeros_like(z))

    def test_gsl_of_soft_labels_counts_half_the_squared_difference(self):
        z = np.zeros((2, 1), "float32")
        soft = np.array([[0.5, 0.5], [1.0, 0.0]], "float32")
        np.testing.assert_allclose(value(losses.graph_smoothness, [soft, z]), [0.25, 0.25])

    def test_best_and_worst_target_graph(self):
        labels = np.array([0, 0, 1, 1])
        best = np.array([[1, 0], [2, 0], [0, 3], [0, 1]], "float32")
        worst = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], "float32")
        np.testing.assert_allclose(
            value(lambda z: losses.target_graph(labels, z), [best]), np.zeros(4), atol=1e-6
        )
        np.testing.assert_allclose(
            value(lambda z: losses.target_graph(labels, z), [worst]), 2 * np.ones(4), atol=1e-6
        )


class TestInvariances:
    """What a student may do for free, and what it may not."""

    def rotated(self, x, rng):
        rotation, _ = np.linalg.qr(rng.normal(size=(x.shape[1], x.shape[1])))
        return (x @ rotation).astype("float32")

    @pytest.mark.parametrize(
        "loss", [losses.graph_distillation, losses.relational_distance, losses.relational_angle]
    )
    def test_rotation_scale_and_padding_are_free(self, loss, rng):
        t, s = batch("non-negative", shape=(10, 6)), batch("non-negative", seed=1, shape=(10, 5))
        expected = value(loss, [t, s])
        for same in [self.rotated(s, rng), 4.2 * s, np.pad(s, ((0, 0), (0, 3)))]:
            np.testing.assert_allclose(
                value(loss, [t, same.astype("float32")]), expected, rtol=1e-3, atol=1e-6
            )

    def test_shift_is_free_for_distances_and_not_for_cosines(self):
        t, s = batch("non-negative", shape=(10, 6)), batch("non-negative", seed=1, shape=(10, 5))
        for loss in (losses.relational_distance, losses.relational_angle):
            np.testing.assert_allclose(
                value(loss, [t, s + 1]), value(loss, [t, s]), rtol=1e-3, atol=1e-6
            )
        moved = value(losses.graph_distillation, [t, s + 1])
        assert np.abs(moved - value(losses.graph_distillation, [t, s])).max() > 1e-3

    def test_a_scale_for_each_sample_is_free_for_cosines_and_not_for_distances(self, rng):
        t, s = batch("non-negative", shape=(10, 6)), batch("non-negative", seed=1, shape=(10, 5))
        scaled = (s * rng.uniform(0.2, 5, (10, 1))).astype("float32")
        np.testing.assert_allclose(
            value(losses.graph_distillation, [t, scaled]),
            value(losses.graph_distillation, [t, s]),
            rtol=1e-3,
        )
        moved = value(losses.relational_distance, [t, scaled])
        assert np.abs(moved - value(losses.relational_distance, [t, s])).max() > 1e-3

    @pytest.mark.parametrize("name", LOSSES)
    def test_order_of_the_batch(self, name, rng):
        if name == "rkd-angle-arms":
            pytest.skip("samples its arms from the head of the batch")
        x, other, order = batch("non-negative"), batch("non-negative", seed=1), rng.permutation(10)
        found, (gradient,) = value_and_grads(
            lambda x: LOSSES[name](x, other[order], LABELS[order]), [x[order]]
        )
        expected, (expected_gradient,) = value_and_grads(
            lambda x: LOSSES[name](x, other, LABELS), [x]
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        np.testing.assert_allclose(
            gradient, expected_gradient[order], atol=1e-4 * np.abs(expected_gradient).max()
        )

    def test_relative_smoothness_variation_does_not_grow_with_the_batch(self):
        a, b = batch("non-negative", shape=(40, 6)), batch("non-negative", seed=1, shape=(40, 5))
        labels = np.arange(40) % 4

        def ratio(**options):
            once = losses.smoothness_variation([a, b], labels, power=2, **options)
            twice = losses.smoothness_variation(
                [np.tile(a, (2, 1)), np.tile(b, (2, 1))], np.tile(labels, 2), power=2, **options
            )
            return float(twice) / float(once)

        assert 6 < ratio() < 10  # n**3
        assert 0.8 < ratio(relative=True) < 1.2


class TestClasses:
    """The Keras losses: the functions with the published reduction, in a config and back."""

    T, S = batch("non-negative", shape=(10, 6)), batch("non-negative", seed=1)
    Z = batch("signed", shape=(10, 4))
    CASES = (
        (losses.GraphDistillation(), T, S, lambda t, s: losses.graph_distillation(t, s)),
        (
            losses.GraphDistillation(k=3, power=2),
            T,
            S,
            lambda t, s: losses.graph_distillation(t, s, k=3, power=2),
        ),
        (
            losses.GraphDistillation(pairs="intra"),
            (T, LABELS),
            S,
            lambda t, s: losses.graph_distillation(t[0], s, pairs="intra", labels=t[1]),
        ),
        (losses.RelationalDistance(), T, S, losses.relational_distance),
        (losses.RelationalAngle(arms=4), T, S, lambda t, s: losses.relational_angle(t, s, arms=4)),
        (losses.SimilarityPreserving(), T, S, losses.similarity_preserving),
        (losses.ProbabilisticTransfer(), T, S, losses.probabilistic_transfer),
        (
            losses.CorrelationCongruence(gamma=1.0, order=3),
            T,
            S,
            lambda t, s: losses.correlation_congruence(t, s, gamma=1.0, order=3),
        ),
        (
            losses.GraphSmoothness(alpha=0.5, k=3),
            LABELS,
            Z,
            lambda y, z: losses.graph_smoothness(y, z, alpha=0.5, k=3),
        ),
        (
            losses.TargetGraph(affinity=np.eye(4) + 0.1, metric="rbf", alpha=2.0),
            LABELS,
            Z,
            lambda y, z: losses.target_graph(
                y, z, affinity=np.eye(4) + 0.1, metric="rbf", alpha=2.0
            ),
        ),
        (
            losses.TargetGraph(form="graph"),
            np.eye(10),
            Z,
            lambda y, z: losses.target_graph(y, z, form="graph"),
        ),
        (
            losses.SmoothnessVariation(power=2, num_classes=4),
            LABELS,
            [T, S],
            lambda y, layers: losses.smoothness_variation(layers, y, power=2),
        ),
        (
            losses.SmoothnessVariation(k=3, relative=True),
            LABELS[:, None],
            [T, S],
            lambda y, layers: losses.smoothness_variation(layers, y, k=3, relative=True),
        ),
    )
    MEANS = (
        losses.RelationalDistance,
        losses.RelationalAngle,
        losses.SimilarityPreserving,
        losses.ProbabilisticTransfer,
        losses.CorrelationCongruence,
    )

    @pytest.mark.parametrize(("loss", "y_true", "y_pred", "function"), CASES)
    def test_published_scale_by_default(self, loss, y_true, y_pred, function):
        rows = np.asarray(function(y_true, y_pred))
        expected = rows.mean() if isinstance(loss, self.MEANS) else rows.sum()
        np.testing.assert_allclose(float(loss(y_true, y_pred)), expected, rtol=1e-5)

    @pytest.mark.parametrize(("loss", "y_true", "y_pred", "function"), CASES)
    def test_config(self, loss, y_true, y_pred, function):
        config = keras.saving.serialize_keras_object(loss)
        assert config["registered_name"] == f"keras_lgg>{type(loss).__name__}"
        restored = keras.saving.deserialize_keras_object(config)
        assert restored.get_config() == loss.get_config()
        assert float(restored(y_true, y_pred)) == float(loss(y_true, y_pred))

    def test_graph_variation(self):
        loss = losses.GraphVariation(k=3)
        expected = float(losses.graph_variation([self.T, self.S], k=3))
        np.testing.assert_allclose(float(loss([self.T, self.S])), expected, rtol=1e-6)
        restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
        assert float(restored([self.T, self.S])) == float(loss([self.T, self.S]))

    def test_sample_weights_act_on_rows(self):
        weights = np.arange(10.0)
        rows = np.asarray(losses.graph_smoothness(LABELS, self.Z))
        found = losses.GraphSmoothness()(LABELS, self.Z, sample_weight=weights)
        np.testing.assert_allclose(float(found), (rows * weights).sum(), rtol=1e-5)

    @FLOAT64
    def test_float64_on_demand(self):
        loss = losses.GraphDistillation(dtype="float64")
        with precision("float64"):
            found = float(loss(self.T.astype("float64"), self.S.astype("float64")))
        expected = reference.graph_distillation(self.T, self.S).sum()
        np.testing.assert_allclose(found, expected, rtol=1e-10)

    @FLOAT64
    def test_float64_representations_are_not_rounded(self):
        loss = losses.GraphDistillation()
        with precision("float64"):
            t, s = (ops.convert_to_tensor(x.astype("float64")) for x in (self.T, self.S))
            found = float(loss(t, s))
        expected = reference.graph_distillation(self.T, self.S).sum()
        np.testing.assert_allclose(found, expected, rtol=1e-10)

    def test_never_narrower_than_float32(self):
        keras.config.set_floatx("float16")
        try:
            loss = losses.GraphSmoothness()
        finally:
            keras.config.set_floatx("float32")
        assert loss.dtype == "float32"

    def test_in_compile(self):
        embedder = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(3), keras.layers.UnitNormalization()]
        )
        embedder.compile("adam", lgg.losses.GraphSmoothness())
        y = np.arange(20) % 3
        x = np.random.default_rng(0).normal(size=(20, 4)) + y[:, None]
        before = embedder.evaluate(x, y, batch_size=20, verbose=0)
        embedder.fit(x, y, batch_size=20, epochs=20, verbose=0)
        assert embedder.evaluate(x, y, batch_size=20, verbose=0) < before


class TestErrors:
    X = batch("signed")

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda x: losses.graph_distillation(x, x[:4]), "10 in `teacher` and 4 in `student`"),
            (lambda x: losses.graph_distillation(x, x, power=0), "`power`.*positive integer"),
            (lambda x: losses.graph_distillation(x, x, k=-1), "`k`.*positive integer.*-1"),
            (lambda x: losses.graph_distillation(x, x, pairs="inter"), "`labels` is missing"),
            (lambda x: losses.relational_distance(x[:3], x), "3 in `teacher` and 10 in `student`"),
            (lambda x: losses.relational_angle(x, x, arms=1), "`arms`.*at least 2.*arms=1"),
            (lambda x: losses.graph_smoothness(LABELS[:2], x), "2 in `labels` and 10 in `embed"),
            (lambda x: losses.graph_smoothness(LABELS, x, alpha=-1.0), "`alpha`.*positive"),
            (lambda x: losses.target_graph(LABELS, x, form="matrix"), "`form`.*'matrix'"),
            (
                lambda x: losses.target_graph(np.full((10, 10), 0.5), x),
                "does not look like labels.*form='graph'",
            ),
            (
                lambda x: losses.target_graph(np.eye(10), x, form="graph", affinity=np.eye(10)),
                "`affinity` has no meaning",
            ),
            (
                lambda x: losses.target_graph(LABELS, x, affinity=[[1, 2], [0, 1]]),
                "`affinity`.*symmetric",
            ),
            (lambda x: losses.target_graph(LABELS, x, affinity=np.eye(3)), r"\[0, 3\)"),
            (lambda x: losses.smoothness_variation([x], LABELS), "at least two.*1 of them"),
            (lambda x: losses.smoothness_variation(x, LABELS), "list of at least two"),
            (lambda x: losses.graph_variation([x, x[:3]]), "10 in .* and 3"),
            (lambda x: lgg.losses.GraphDistillation(k=0), "`k`.*positive integer.*k=0"),
            (lambda x: lgg.losses.GraphDistillation(pairs="x"), "`pairs`.*'x'"),
            (lambda x: lgg.losses.GraphSmoothness(alpha=0), "`alpha`.*positive"),
            (lambda x: lgg.losses.SmoothnessVariation(power=0.5), "`power`.*positive integer"),
            (lambda x: lgg.losses.SmoothnessVariation(num_classes=0), "`num_classes`"),
            (lambda x: lgg.losses.TargetGraph(metric="dot"), "`metric`.*'dot'"),
            (lambda x: lgg.losses.GraphVariation(k="all"), "`k`.*'all'"),
        ],
    )
    def test_say_what_was_wrong(self, call, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            call(self.X)


def test_a_plain_keras_loss_and_ours_share_one_interface():
    x = batch("signed", shape=(10, 4))
    one_hot = np.eye(4, dtype="float32")[LABELS]
    found = loss_on_layers(keras.losses.MeanSquaredError(), [x, 2 * x], one_hot)
    expected = (np.mean((x - one_hot) ** 2) + np.mean((2 * x - one_hot) ** 2)) / 2
    np.testing.assert_allclose(float(ops.convert_to_numpy(found)), expected, rtol=1e-5)
