import keras
import numpy as np
import pytest
import reference
from autodiff import ALL_MODES, BACKEND, MODES, to_numpy, value, value_and_grads, values
from backends import FLOAT64
from cases import LABELS, batch
from keras import layers

import keras_lgg as lgg
from keras_lgg import relative

csgraph = pytest.importorskip("scipy.sparse.csgraph", reason="needs scipy")
LOSS = relative.densification_loss


def edges(x):
    """Lengths of the minimum spanning tree."""
    distances = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    # SciPy takes 0 for no edge; another length of all changes no tree.
    return csgraph.minimum_spanning_tree(distances + 1.0).data - 1.0


def expected_loss(x, labels=None, beta=8.0):
    x = reference.rows(x)
    labels = np.zeros(len(x)) if labels is None else np.asarray(labels)
    return sum(np.abs(edges(x[labels == c]) - beta).sum() for c in np.unique(labels))


class TestAgainstReference:
    @pytest.mark.parametrize("mode", ALL_MODES)
    def test_one_class_and_several(self, mode):
        x = batch("signed")
        options = [(None, 0.5), (None, 8.0), (LABELS, 1.5)]
        found = values(lambda x: [LOSS(x, labels=y, beta=b) for y, b in options], [x], mode)
        for total, (labels, beta) in zip(found, options, strict=True):
            assert total.dtype == "float32"
            np.testing.assert_allclose(total, expected_loss(x, labels, beta), rtol=1e-5)

    @pytest.mark.parametrize("seed", range(2))
    def test_larger_batches(self, seed):
        rng = np.random.default_rng(seed)
        x, labels = rng.normal(size=(60, 3)).astype("float32"), rng.integers(0, 4, 60)
        found = value(lambda x: LOSS(x, labels=labels, beta=0.4), [x])
        np.testing.assert_allclose(found, expected_loss(x, labels, 0.4), rtol=1e-4)

    @pytest.mark.parametrize(
        "labels",
        [
            LABELS[:, None],
            LABELS.astype("float32"),
            np.eye(4, dtype="float32")[LABELS],
            100 * LABELS - 7,
        ],
        ids=["(n, 1)", "float", "one-hot", "any integers"],
    )
    def test_forms_of_labels(self, labels):
        x = batch("signed")
        expected = expected_loss(x, LABELS)
        np.testing.assert_allclose(
            value(lambda x: LOSS(x, labels=labels), [x]), expected, rtol=1e-5
        )

    def test_at_an_offset(self):
        x = batch("signed") + np.float32(300.0)
        np.testing.assert_allclose(value(LOSS, [x]), expected_loss(x), rtol=1e-4)


def on_a_line(*positions):
    return np.array([[p, 0.0] for p in positions], "float32")


class TestByHand:
    def test_a_line(self):
        """0, 1, 3 and 7 are joined by 1, 2 and 4."""
        assert value(lambda x: LOSS(x, beta=2.0), [on_a_line(3, 0, 7, 1)]) == 1 + 0 + 2

    def test_another_class_in_between_joins_nothing(self):
        x = on_a_line(0, 4, 10, 6)
        found = value(lambda x: LOSS(x, labels=np.array([0, 1, 0, 1]), beta=3.0), [x])
        assert found == (10 - 3) + (3 - 2)

    def test_gradient_pulls_edges_to_one_length(self):
        x = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 5.0], [1.0, 7.0]], "float32")
        _, (gradient,) = value_and_grads(lambda x: LOSS(x, beta=2.0), [x])
        # The first edge is too short, the second too long, and the third has that length.
        np.testing.assert_allclose(gradient[:2], [[1, 0], [-1, -1]], atol=1e-6)

    def test_no_loss_on_edges_of_that_length(self):
        square = 3.0 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")
        assert value(lambda x: LOSS(x, beta=3.0), [square]) == 0.0


class TestGradients:
    def test_against_differences(self):
        x = batch("signed", "float32" if BACKEND == "torch" else "float64")
        for labels in (None, LABELS):
            total, (found,) = value_and_grads(lambda x, y=labels: LOSS(x, labels=y, beta=1.5), [x])
            assert total.dtype == x.dtype
            tolerance = 1e-12 if x.dtype == "float64" else 1e-5
            np.testing.assert_allclose(total, expected_loss(x, labels, 1.5), rtol=tolerance)
            expected = reference.numerical_gradient(lambda x, y=labels: expected_loss(x, y, 1.5), x)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("mode", MODES[1:])
    def test_compiled(self, mode):
        x = batch("signed")
        (_, (found,)), (_, (expected,)) = (
            value_and_grads(lambda x: LOSS(x, labels=LABELS), [x], m) for m in (mode, "eager")
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


class TestDegenerate:
    def test_duplicates(self):
        x = batch("signed")
        x[[2, 5, 7]] = x[1]
        total, (gradient,) = value_and_grads(lambda x: LOSS(x, beta=0.7), [x])
        np.testing.assert_allclose(total, expected_loss(x, beta=0.7), rtol=1e-5)
        assert np.isfinite(gradient).all()

    def test_all_samples_alike(self):
        total, (gradient,) = value_and_grads(LOSS, [np.ones((4, 2), "float32")])
        assert total == 3 * 8
        np.testing.assert_array_equal(gradient, 0.0)

    @pytest.mark.parametrize("labels", [None, [3]])
    def test_a_single_sample(self, labels):
        total, (gradient,) = value_and_grads(
            lambda x: LOSS(x, labels=None if labels is None else np.array(labels)),
            [batch("signed")[:1]],
        )
        assert total == 0.0
        np.testing.assert_array_equal(gradient, 0.0)

    def test_a_class_for_each_sample(self):
        total, (gradient,) = value_and_grads(
            lambda x: LOSS(x, labels=np.arange(10)), [batch("signed")]
        )
        assert total == 0.0
        np.testing.assert_array_equal(gradient, 0.0)

    @pytest.mark.parametrize("scale", [1e-15, 1e15])
    def test_scales(self, scale):
        x = batch("signed")
        total, (gradient,) = value_and_grads(
            lambda x: LOSS(x, beta=1.5 * scale), [np.float32(scale) * x]
        )
        np.testing.assert_allclose(total, scale * expected_loss(x, beta=1.5), rtol=1e-4)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0.1


def network():
    return keras.Sequential([keras.Input((6,)), layers.Dense(4, use_bias=False, name="z")])


class TestLoss:
    X = batch("signed", shape=(10, 6))

    def test_is_the_function(self):
        loss = relative.DensificationLoss(beta=1.5)
        found = loss(LABELS[:, None], self.X)
        np.testing.assert_allclose(to_numpy(found), expected_loss(self.X, LABELS, 1.5), rtol=1e-5)
        assert loss.get_config() == {
            "name": "densification",
            "dtype": None,
            "global_graph": True,
            "beta": 1.5,
        }

    @FLOAT64
    def test_keeps_float64(self):
        x = self.X.astype("float64")
        found = value(lambda x: relative.DensificationLoss()(LABELS, x), [x])
        np.testing.assert_allclose(found, expected_loss(x, LABELS), rtol=1e-12)

    def test_as_a_penalty(self, tmp_path):
        penalty = lgg.Penalty(relative.DensificationLoss(beta=1.5), "z", 0.1)
        base = network()
        model = lgg.GeometryModel(base, [penalty])
        model.compile(keras.optimizers.SGD(0.01), jit_compile=BACKEND == "jax")
        expected = expected_loss(to_numpy(base.layers[0](self.X)), LABELS, 1.5)
        history = model.fit(self.X, LABELS, batch_size=10, epochs=5, verbose=0).history
        np.testing.assert_allclose(history["densification"][0], expected, rtol=1e-4)
        np.testing.assert_allclose(history["loss"][0], 0.1 * expected, rtol=1e-4)
        assert history["densification"][-1] < expected
        model.save(tmp_path / "model.keras")
        restored = keras.saving.load_model(tmp_path / "model.keras")
        logs = [
            m.evaluate(self.X, LABELS, batch_size=10, verbose=0, return_dict=True)
            for m in (model, restored)
        ]
        assert logs[0] == pytest.approx(logs[1], rel=1e-6)

    def test_in_a_layer(self):
        layer = lgg.layers.GeometryPenalty(relative.DensificationLoss(), weight=2.0)
        layer(self.X, labels=LABELS)
        np.testing.assert_allclose(
            float(layer.losses[0]), 2 * expected_loss(self.X, LABELS), rtol=1e-5
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LOSS(batch("signed"), beta=0), "`beta`.*positive finite.*Received: beta=0"),
        (lambda: LOSS(batch("signed"), beta=np.inf), "`beta`.*positive finite.*inf"),
        (lambda: relative.DensificationLoss(beta=-1), "`beta`.*positive finite.*-1"),
        (
            lambda: LOSS(batch("signed"), labels=LABELS[:4]),
            "`labels` and `x`.*same number.*Received: 4 in `labels` and 10 in `x`",
        ),
        (lambda: LOSS(batch("signed"), labels=LABELS + 0.5), "`labels`.*whole numbers.*Received"),
        (
            lambda: LOSS(batch("signed"), labels=LABELS[:, None, None]),
            r"`labels`.*shape \(10, 1, 1\)",
        ),
        (lambda: LOSS(np.float32(1.0)), "one row a sample.*a scalar"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()
