import numpy as np
import pytest
import reference
from autodiff import BACKEND, MODES, marked, value, value_and_grads, values
from backends import DTYPES_AND_MODES
from cases import LABELS, batch
from keras import ops

from keras_lgg import graphs
from keras_lgg.graphs import functions
from keras_lgg.graphs.numerics import safe_sqrt

TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-5}, "float64": {"rtol": 1e-9, "atol": 1e-9}}
KINDS = ["non-negative", "signed"]


def assert_close(found, expected, dtype="float32"):
    scale = max(1.0, np.abs(expected).max())
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(
        found, expected, rtol=tolerance["rtol"], atol=tolerance["atol"] * scale
    )


@pytest.mark.parametrize(("dtype", "mode"), DTYPES_AND_MODES)
@pytest.mark.parametrize("kind", KINDS)
class TestAgainstReference:
    @pytest.mark.parametrize("metric", functions.METRICS)
    def test_similarity(self, metric, kind, dtype, mode):
        x = batch(kind, dtype)
        found = value(lambda x: graphs.similarity(x, metric=metric, alpha=0.7), [x], mode)
        assert found.dtype == dtype
        assert_close(found, reference.similarity(x, metric, 0.7), dtype)

    def test_pairwise_distances(self, kind, dtype, mode):
        x = batch(kind, dtype)
        rows = reference.rows(x)
        expected = [[np.linalg.norm(a - b) for b in rows] for a in rows]
        assert_close(value(graphs.pairwise_distances, [x], mode), np.array(expected), dtype)

    @pytest.mark.parametrize("k", [1, 3, 8, 9, 50])
    def test_knn_mask(self, k, kind, dtype, mode):
        x = batch(kind, dtype)
        adjacency = reference.similarity(x).astype(dtype)  # its diagonal of ones must not count
        found = value(lambda a: graphs.knn_mask(a, k=k), [adjacency], mode)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, reference.knn_mask(adjacency, k))

    def test_normalize_degrees(self, kind, dtype, mode):
        adjacency = reference.similarity(batch(kind, dtype)).astype(dtype)
        found = value(graphs.normalize_degrees, [adjacency], mode)
        assert_close(found, reference.normalize_degrees(adjacency.astype("float64")), dtype)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"normalize": False},
            {"k": 2},
            {"pairs": "intra", "k": 2},
            {"pairs": "inter", "normalize": False},
            {"metric": "rbf", "alpha": 0.2, "k": 3},
            {"metric": "exponential", "pairs": "intra"},
        ],
        ids=str,
    )
    def test_latent_geometry_graph(self, options, kind, dtype, mode):
        x = batch(kind, dtype)
        found = value(
            lambda x: graphs.latent_geometry_graph(x, labels=LABELS, **options), [x], mode
        )
        assert_close(found, reference.graph(x, labels=LABELS, **options), dtype)

    @pytest.mark.parametrize("normalized", [False, True])
    def test_laplacian(self, normalized, kind, dtype, mode):
        adjacency = reference.graph(batch(kind, dtype), normalize=False).astype(dtype)
        found = value(lambda a: graphs.laplacian(a, normalized=normalized), [adjacency], mode)
        assert_close(found, reference.laplacian(adjacency.astype("float64"), normalized), dtype)

    def test_smoothness(self, kind, dtype, mode):
        adjacency = reference.graph(batch(kind, dtype), normalize=False).astype(dtype)
        signal = np.random.default_rng(1).normal(size=(10, 4)).astype(dtype)
        forms = [(power, normalized) for power in (1, 2, 3, 4) for normalized in (False, True)]

        def all_forms(a, s):
            return [graphs.smoothness(a, s, power=p, normalized=normed) for p, normed in forms]

        found = values(all_forms, [adjacency, signal], mode)
        for value_found, form in zip(found, forms, strict=True):
            expected = reference.smoothness(adjacency.astype("float64"), signal, *form)
            assert_close(value_found, expected, dtype)

    @pytest.mark.parametrize(
        ("k", "num_classes"), [(None, 4), (None, None), (3, None), (3, 4)], ids=str
    )
    def test_label_smoothness(self, k, num_classes, kind, dtype, mode):
        x = batch(kind, dtype)
        forms = [(power, relative) for power in (1, 2, 3) for relative in (False, True)]

        def all_forms(x):
            return [
                graphs.label_smoothness(
                    x, LABELS, power=power, k=k, num_classes=num_classes, relative=relative
                )
                for power, relative in forms
            ]

        found = values(all_forms, [x], mode)
        for value_found, (power, relative) in zip(found, forms, strict=True):
            assert value_found.dtype == dtype
            expected = reference.label_smoothness(x, LABELS, power, k, relative)
            assert_close(value_found, expected, dtype)


class TestKnnMask:
    def test_either_direction_is_enough(self):
        # 0 and 1 choose each other; 2 chooses 0, which does not choose it back.
        a = np.array([[0, 9, 5], [9, 0, 1], [5, 1, 0]], "float32")
        found = value(lambda a: graphs.knn_mask(a, k=1), [a])
        np.testing.assert_array_equal(found, [[0, 1, 1], [1, 0, 0], [1, 0, 0]])

    def test_ties_are_all_kept(self):
        found = value(lambda a: graphs.knn_mask(a, k=1), [np.ones((3, 3), "float32")])
        np.testing.assert_array_equal(found, ~np.eye(3, dtype=bool))

    def test_carries_no_gradient(self):
        a = reference.similarity(batch("signed")).astype("float32")
        _, (gradient,) = value_and_grads(
            lambda a: ops.cast(graphs.knn_mask(a, k=2), "float32"), [a]
        )
        np.testing.assert_array_equal(gradient, np.zeros_like(a))

    def test_kept_weights_stay_as_they_are(self):
        x = batch("non-negative")
        full = value(graphs.latent_geometry_graph, [x])
        sparse = value(lambda x: graphs.latent_geometry_graph(x, k=2), [x])
        assert 0 < np.count_nonzero(sparse) < np.count_nonzero(full)
        np.testing.assert_array_equal(sparse[sparse != 0], full[sparse != 0])


class TestOrderOfSteps:
    def test_degrees_are_normalised_before_pairs_and_neighbours(self):
        x = batch("non-negative")
        normalized = reference.graph(x)
        same = LABELS[:, None] == LABELS[None, :]
        expected = np.where(same, normalized, 0)
        expected = expected * reference.knn_mask(expected, 1)
        found = value(
            lambda x: graphs.latent_geometry_graph(x, k=1, pairs="intra", labels=LABELS), [x]
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_no_self_loops_in_the_degrees(self):
        x = np.array([[1.0, 1.0], [1.0, 0.0]], "float32")
        # With one neighbour each, the normalised weight is 1; a self loop would make it smaller.
        np.testing.assert_allclose(
            value(graphs.latent_geometry_graph, [x]), [[0, 1], [1, 0]], atol=1e-6
        )

    def test_mask_of_another_graph(self):
        x, y = batch("non-negative"), batch("non-negative", seed=1)

        def on_the_edges_of_y(x, y):
            mask = graphs.knn_mask(graphs.latent_geometry_graph(y), k=2)
            return graphs.latent_geometry_graph(x, mask=mask)

        expected = reference.graph(x) * reference.knn_mask(reference.graph(y), 2)
        np.testing.assert_allclose(value(on_the_edges_of_y, [x, y]), expected, atol=1e-6)


class TestDegrees:
    def test_a_node_of_negative_degree_is_isolated(self):
        a = np.array([[0, 1, -3], [1, 0, 2], [-3, 2, 0]], "float32")  # degrees -2, 3, -1
        np.testing.assert_array_equal(value(graphs.normalize_degrees, [a]), np.zeros((3, 3)))

    def test_a_degree_that_cancels_to_rounding_is_isolated(self):
        # 0.6 + 0.1 - 0.7 is 6e-8 in float32: the weights would be divided by its root.
        a = np.array([[0, 0.6, 0.1, -0.7], *[[0] * 4] * 3], "float32")
        assert a[0].sum() > 0
        a = a + a.T
        found, (gradient,) = value_and_grads(graphs.normalize_degrees, [a])
        assert abs(found) < 10
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(value(graphs.normalize_degrees, [a])[0], np.zeros(4))

    @pytest.mark.parametrize("normalized", [False, True])
    def test_laplacian_kernel(self, normalized):
        adjacency = reference.graph(batch("non-negative"), normalize=False)
        found = value(
            lambda a: graphs.laplacian(a, normalized=normalized), [adjacency.astype("float32")]
        )
        kernel = np.sqrt(adjacency.sum(axis=1)) if normalized else np.ones(10)
        np.testing.assert_allclose(found @ kernel, np.zeros(10), atol=1e-5)
        assert np.linalg.eigvalsh(found).min() > -1e-5


class TestSmoothness:
    def test_power_one_counts_the_weights_between_classes_twice(self):
        x = batch("non-negative")
        adjacency = reference.graph(x, normalize=False)
        between = sum(
            adjacency[i, j] for i in range(10) for j in range(i) if LABELS[i] != LABELS[j]
        )
        found = value(lambda x: graphs.label_smoothness(x, LABELS, num_classes=4), [x])
        np.testing.assert_allclose(found, 2 * between, rtol=1e-5)

    @pytest.mark.parametrize("power", [1, 2, 3])
    def test_relative_is_bounded(self, power):
        for seed in range(20):
            x = batch("non-negative", seed=seed)
            labels = np.random.default_rng(seed).integers(0, 4, 10)
            found = value(
                lambda x, labels=labels: graphs.label_smoothness(
                    x, labels, power=power, num_classes=4, relative=True
                ),
                [x],
            )
            assert 0 <= found <= 2**power

    @pytest.mark.parametrize("relative", [False, True])
    def test_label_forms_agree(self, relative):
        x = batch("non-negative")
        found = [
            float(graphs.label_smoothness(x, labels, power=2, relative=relative, **options))
            for labels, options in [
                (LABELS, {}),
                (LABELS, {"num_classes": 4}),
                (LABELS, {"num_classes": 7}),
                (LABELS[:, None], {"num_classes": 4}),
                (LABELS.astype("float32"), {"num_classes": 4}),
                (list(LABELS), {}),
                (np.eye(4, dtype="float32")[LABELS], {}),
                (np.eye(4, dtype="float32")[LABELS], {"num_classes": 4}),
            ]
        ]
        np.testing.assert_allclose(found, found[0], rtol=1e-5)

    def test_soft_labels_are_the_signal(self):
        x = batch("non-negative")
        soft = np.random.default_rng(0).dirichlet(np.ones(4), 10)
        expected = reference.smoothness(reference.graph(x, normalize=False), soft, 3)
        found = graphs.label_smoothness(x, soft.astype("float32"), power=3)
        np.testing.assert_allclose(float(found), expected, rtol=1e-5)

    def test_linear_form_has_no_square_matrix(self):
        n = 20_000  # a dense graph would take 1.6 GB
        x = np.random.default_rng(0).random((n, 4)).astype("float32")
        labels = np.arange(n) % 3
        found = value(lambda x: graphs.label_smoothness(x, labels, num_classes=3), [x])
        u = x / np.linalg.norm(x.astype("float64"), axis=1, keepdims=True)
        sums = np.array([u[labels == c].sum(axis=0) for c in range(3)])
        np.testing.assert_allclose(
            found, (sums.sum(axis=0) ** 2).sum() - (sums**2).sum(), rtol=1e-4
        )


INVARIANT = [graphs.similarity, graphs.latent_geometry_graph]


class TestInvariances:
    @pytest.mark.parametrize("function", INVARIANT)
    @pytest.mark.parametrize("kind", KINDS)
    def test_rotation_scale_and_padding(self, function, kind, rng):
        x = batch(kind).reshape(10, 6)
        rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
        expected = value(function, [x])
        for same in [
            x @ rotation.astype("float32"),
            x * 7.3,
            x * rng.uniform(0.1, 9, (10, 1)).astype("float32"),  # even a scale for each sample
            np.pad(x, ((0, 0), (0, 5))),
        ]:
            assert_close(value(function, [same.astype("float32")]), expected)

    @pytest.mark.parametrize("function", INVARIANT)
    def test_shift_changes_cosines(self, function):
        x = batch("non-negative")
        assert np.abs(value(function, [x + 1]) - value(function, [x])).max() > 1e-2

    @pytest.mark.parametrize("metric", ["rbf", "exponential"])
    def test_distances_ignore_rigid_motions_and_see_scale(self, metric, rng):
        x = batch("signed").reshape(10, 6)
        rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))

        def function(x):
            return graphs.similarity(x, metric=metric)

        expected = value(function, [x])
        moved = (x @ rotation + 3).astype("float32")
        np.testing.assert_allclose(value(function, [moved]), expected, atol=1e-5)
        assert np.abs(value(function, [2 * x]) - expected).max() > 1e-2

    @pytest.mark.parametrize("options", [{}, {"k": 2}, {"pairs": "inter"}, {"metric": "rbf"}])
    def test_permutation(self, options, rng):
        x, order = batch("non-negative"), rng.permutation(10)

        def function(x, labels):
            return graphs.latent_geometry_graph(x, labels=labels, **options)

        expected = value(function, [x, LABELS])[np.ix_(order, order)]
        np.testing.assert_allclose(value(function, [x[order], LABELS[order]]), expected, atol=1e-6)


class TestNumerics:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32"])
    def test_arithmetic_is_float32_at_least(self, dtype):
        x = ops.cast(np.arange(20).reshape(5, 4), dtype)
        found = graphs.latent_geometry_graph(x)
        assert ops.dtype(found) == "float32"
        np.testing.assert_allclose(found, reference.graph(np.arange(20.0).reshape(5, 4)), atol=1e-6)

    @pytest.mark.parametrize("metric", ["rbf", "exponential"])
    def test_duplicates_are_at_distance_zero(self, metric):
        x = np.random.default_rng(0).normal(size=(1, 700)).astype("float32").repeat(6, axis=0)
        found = value(lambda x: graphs.similarity(x, metric=metric), [x])
        np.testing.assert_array_equal(found, np.ones((6, 6)))

    def test_square_root_at_zero(self):
        _, (gradient,) = value_and_grads(safe_sqrt, [np.array([0.0, 4.0], "float32")])
        np.testing.assert_allclose(gradient, [0.0, 0.25])

    def test_an_offset_costs_distances_no_digits(self):
        x = batch("signed").reshape(10, 6)
        expected = value(graphs.pairwise_distances, [x.astype("float64")])
        found = value(graphs.pairwise_distances, [x + np.float32(1000)])
        np.testing.assert_allclose(found, expected, rtol=2e-3)

    def test_a_scale_of_1e18_is_no_other_cosine(self):
        x = batch("signed")
        np.testing.assert_allclose(
            value(graphs.similarity, [x * np.float32(1e18)]), reference.similarity(x), atol=1e-6
        )

    @pytest.mark.parametrize("options", [{}, {"k": 2}, {"metric": "exponential", "k": 1}])
    def test_nan_stays_visible(self, options):
        x = batch("signed")
        x[3, 0, 0] = np.nan
        found = value(lambda x: graphs.latent_geometry_graph(x, **options), [x])
        assert np.isnan(found).any()

    @pytest.mark.parametrize("mode", marked(m for m in MODES if m != "eager"))
    def test_a_label_out_of_range_is_not_silent_when_compiled(self, mode):
        found = value(
            lambda x, labels: graphs.label_smoothness(x, labels, num_classes=3),
            [batch("non-negative"), LABELS],  # holds a class 3
            mode,
        )
        assert np.isnan(found)


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda x: graphs.similarity(x, metric="cosin"), "`metric`.*cosine.*'cosin'"),
            (lambda x: graphs.similarity(x, alpha=0), "`alpha`.*positive.*alpha=0"),
            (lambda x: graphs.similarity(x, alpha=np.nan), "`alpha`.*positive.*nan"),
            (lambda x: graphs.similarity(np.float32(3)), r"`x`.*\(n, ...\).*scalar"),
            (lambda x: graphs.latent_geometry_graph(x, k=0), "`k`.*positive integer.*k=0"),
            (lambda x: graphs.latent_geometry_graph(x, k=2.5), "`k`.*positive integer.*2.5"),
            (lambda x: graphs.latent_geometry_graph(x, k=True), "`k`.*positive integer.*True"),
            (lambda x: graphs.latent_geometry_graph(x, pairs="both"), "`pairs`.*'both'"),
            (lambda x: graphs.latent_geometry_graph(x, pairs="intra"), "`labels` is missing"),
            (
                lambda x: graphs.latent_geometry_graph(x, pairs="intra", labels=[0, 1]),
                "different batches.*2 in `labels` and 10 in `x`",
            ),
            (lambda x: graphs.latent_geometry_graph(x, k=1, mask=x), "`k` and `mask` exclude"),
            (lambda x: graphs.knn_mask(np.ones((2, 3), "float32"), k=1), r"square.*\(2, 3\)"),
            (lambda x: graphs.laplacian(np.ones(4, "float32")), r"square.*\(4,\)"),
            (lambda x: graphs.label_smoothness(x, LABELS, power=0), "`power`.*power=0"),
            (lambda x: graphs.label_smoothness(x, LABELS, power=1.5), "`power`.*power=1.5"),
            (lambda x: graphs.label_smoothness(x, LABELS, num_classes=3), r"\[0, 3\).*0 to 3"),
            (lambda x: graphs.label_smoothness(x, -LABELS, num_classes=4), "-3 to 0"),
            (lambda x: graphs.label_smoothness(x, LABELS + 0.5), "whole numbers.*0.5"),
            (lambda x: graphs.label_smoothness(x, LABELS[:4]), "4 in `labels` and 10 in `x`"),
            (lambda x: graphs.label_smoothness(x, np.ones((10, 2, 2))), r"\(n, c\).*\(10, 2, 2\)"),
            (
                lambda x: graphs.label_smoothness(x, np.eye(4)[LABELS], num_classes=5),
                "`num_classes`.*4, the width.*num_classes=5",
            ),
            (
                lambda x: graphs.smoothness(np.eye(10), np.ones((9, 2))),
                "9 in `signal` and 10 in `adjacency`",
            ),
            (lambda x: graphs.smoothness(np.eye(10), np.ones(10)), r"`signal`.*\(n, c\)"),
        ],
    )
    def test_say_what_was_wrong(self, call, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            call(batch("signed"))


def test_runs_on_the_backend_that_was_asked_for():
    import os

    assert os.environ.get("KERAS_BACKEND", "tensorflow") == BACKEND
