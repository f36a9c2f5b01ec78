"""What is drawn, through the artists of the figures; and that nothing covers anything else."""

import io
import itertools
import pickle
import sys

import keras
import numpy as np
import pytest

import keras_lgg as lgg
from keras_lgg.plots import layouts, style

matplotlib = pytest.importorskip("matplotlib", reason="needs the extra plots")

from matplotlib.collections import LineCollection, PathCollection  # noqa: E402
from matplotlib.colors import to_hex, to_rgba  # noqa: E402

pytestmark = pytest.mark.once  # matplotlib draws arrays

plots = lgg.plots
RNG = np.random.default_rng(0)
BLOCKS = ["block1", "block2", "block3"]


def clusters(n=40, classes=4, width=12, seed=0):
    """Representations at or above 0, and the labels that they are clustered by."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    return np.abs(
        rng.normal(size=(classes, width))[labels] + 0.4 * rng.normal(size=(n, width))
    ), labels


X, Y = clusters()


def cosines(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T


def weights_of(x):
    found = np.maximum(cosines(x), 0)
    np.fill_diagonal(found, 0)
    return found


def reference_eigenmaps(weights):
    """The solutions of L y = λ D y, from the random walk's matrix, which is not symmetric."""
    degree = weights.sum(axis=1)
    values, vectors = np.linalg.eig(np.eye(len(weights)) - weights / degree[:, None])
    vectors = vectors.real[:, np.argsort(values.real)[1:3]]
    vectors = vectors / np.sqrt((degree[:, None] * vectors**2).sum(axis=0))
    vectors = vectors - vectors.mean(axis=0)
    return vectors / np.sqrt((vectors**2).sum(axis=1).mean())


def assert_equal_up_to_signs(found, expected, atol=1e-5):
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=atol)


def nodes(axis):
    return [each for each in axis.collections if isinstance(each, PathCollection)]


def positions(axis, labels):
    """Of the samples, in their order."""
    found = np.full((len(labels), 2), np.nan)
    for label, dots in zip(np.unique(labels), nodes(axis), strict=True):
        found[labels == label] = dots.get_offsets()
    return found


def edges(axis):
    """The segments (e, 2, 2) and their opacities."""
    drawn = [each for each in axis.collections if isinstance(each, LineCollection)]
    if not drawn:
        return np.zeros((0, 2, 2)), np.zeros(0)
    return np.array(drawn[0].get_segments()), drawn[0].get_colors()[:, 3]


def names(legend):
    return [text.get_text() for text in legend.get_texts()]


def bands(axis):
    """Of each band, x -> (low, high)."""
    found = []
    for each in axis.collections:
        if not isinstance(each, PathCollection | LineCollection):
            corners = each.get_paths()[0].vertices
            found.append(
                {
                    float(x): (
                        corners[corners[:, 0] == x, 1].min(),
                        corners[corners[:, 0] == x, 1].max(),
                    )
                    for x in np.unique(corners[:, 0])
                }
            )
    return found


def curves(axis):
    """Lines with a name, by name; those with several parts in the order drawn."""
    found = {}
    for line in axis.lines:
        if not line.get_label().startswith("_"):
            found.setdefault(line.get_label(), []).append(line)
    return found


# Layouts.


class TestSpectral:
    def test_against_the_random_walk(self):
        weights = RNG.random((9, 9)) ** 3
        weights = np.triu(weights, 1) + np.triu(weights, 1).T
        found = layouts.spectral(weights)
        assert_equal_up_to_signs(found, reference_eigenmaps(weights), atol=1e-8)
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose((found**2).sum(axis=1).mean(), 1)

    def test_the_largest_entry_is_positive(self):
        weights = weights_of(X)
        found = layouts.spectral(weights)
        for axis in found.T:
            assert axis[np.abs(axis).argmax()] > 0

    def test_parts_without_edges_between_them(self):
        """Each part is one point, and no two are the same."""
        parts = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2])
        weights = (parts[:, None] == parts) * (1.0 - np.eye(9))
        found = layouts.spectral(weights)
        points = np.array([found[parts == i] for i in range(3)], dtype=object)
        for point in points:
            np.testing.assert_allclose(point, point[:1].repeat(len(point), 0), atol=1e-9)
        for a, b in itertools.combinations(points, 2):
            assert np.linalg.norm(a[0] - b[0]) > 0.1

    def test_a_node_without_edges_takes_no_axis(self):
        weights = weights_of(X[:10])
        more = np.zeros((11, 11))
        more[:10, :10] = weights
        found = layouts.spectral(more)
        np.testing.assert_allclose(found[10], 0)
        np.testing.assert_allclose(
            found[:10] * np.sqrt(10 / 11), layouts.spectral(weights), atol=1e-9
        )

    def test_few_nodes(self):
        pair = layouts.spectral(np.array([[0.0, 1], [1, 0]]))
        np.testing.assert_allclose(np.abs(pair), [[1, 0], [1, 0]], atol=1e-12)
        assert pair[0, 0] == -pair[1, 0]
        np.testing.assert_array_equal(layouts.spectral(np.zeros((3, 3))), 0)


class TestOtherLayouts:
    def test_principal(self):
        x = RNG.normal(size=(30, 4)) * [1, 5, 0.1, 3]
        vectors = np.linalg.eigh(np.cov(x.T))[1]
        expected = (x - x.mean(axis=0)) @ vectors[:, [3, 2]]
        expected /= np.sqrt((expected**2).sum(axis=1).mean())
        assert_equal_up_to_signs(layouts.principal(x), expected, atol=1e-9)

    def test_principal_of_one_feature(self):
        found = layouts.principal(np.array([[0.0], [1.0], [5.0]]))
        np.testing.assert_array_equal(found[:, 1], 0)
        np.testing.assert_array_equal(layouts.principal(np.ones((4, 3))), 0)

    def test_tsne(self):
        pytest.importorskip("sklearn", reason="needs the extra manifolds")
        x, y = clusters(n=24, classes=2, seed=3)
        x[y == 1] += 50
        found = layouts.tsne(x, 0)
        np.testing.assert_array_equal(layouts.tsne(x, 0), found)
        assert np.any(layouts.tsne(x, 1) != found)
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose((found**2).sum(axis=1).mean(), 1)
        distances = np.linalg.norm(found[:, None] - found, axis=-1)
        np.fill_diagonal(distances, np.inf)
        assert (y[distances.argmin(axis=1)] == y).all()
        assert np.isfinite(layouts.tsne(x[:2, :1], 0)).all()

    @pytest.mark.parametrize("mirror", [1, -1])
    def test_turned(self, mirror):
        target = RNG.normal(size=(7, 2))
        turn = np.array([[0.6, -0.8], [0.8, 0.6]]) @ np.diag([1, mirror])
        np.testing.assert_allclose(layouts.turned(target @ turn, target), target, atol=1e-12)
        larger = layouts.turned(3 * target @ turn, target)  # it turns, and does nothing else
        np.testing.assert_allclose(larger, 3 * target, atol=1e-12)


# Graphs.


class TestRepresentations:
    def model(self):
        inner = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(2, name="deep")], name="inner"
        )
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(3, name="first"),
                keras.layers.Dropout(0.9, name="drop"),
                inner,
            ]
        )

    def test_values(self):
        model = self.model()
        x = RNG.normal(size=(5, 4)).astype("float32")
        kernel, bias, deeper, deep_bias = (np.array(w) for w in model.get_weights())
        found = plots.representations(model, x, ["inner/deep", "drop"], batch_size=2)
        assert list(found) == ["inner/deep", "drop"]
        first = x @ kernel + bias
        np.testing.assert_allclose(found["drop"], first, atol=1e-5)
        np.testing.assert_allclose(found["inner/deep"], first @ deeper + deep_bias, atol=1e-5)
        assert all(isinstance(each, np.ndarray) for each in found.values())
        assert list(plots.representations(model, x, "first")) == ["first"]

    def test_errors(self):
        x = np.zeros((2, 4))
        with pytest.raises(ValueError, match=r"`taps`\. Expected at least one path"):
            plots.representations(self.model(), x, [])
        with pytest.raises(ValueError, match=r"Unknown tap 'deep'.*Did you mean 'inner/deep'"):
            plots.representations(self.model(), x, ["deep"])
        with pytest.raises(ValueError, match="`batch_size`"):
            plots.representations(self.model(), x, ["drop"], batch_size=0)


class TestLayerGraph:
    def test_spectral_positions(self):
        (axis,) = plots.layer_graph(X, Y).axes
        assert_equal_up_to_signs(positions(axis, Y), reference_eigenmaps(weights_of(X)))

    def test_other_metrics(self):
        (axis,) = plots.layer_graph(X, Y, metric="rbf", alpha=0.05).axes
        squares = ((X[:, None] - X) ** 2).sum(axis=-1)
        weights = np.exp(-0.05 * squares) * (1 - np.eye(len(X)))
        assert_equal_up_to_signs(positions(axis, Y), reference_eigenmaps(weights), atol=1e-4)
        given = plots.layer_graph(weights, Y, metric="precomputed")
        assert_equal_up_to_signs(positions(given.axes[0], Y), reference_eigenmaps(weights))
        assert names(given.legends[0])[-1] == f"weight {edge_weights(weights, 3).max():.3g}"
        assert names(plots.layer_graph(X, Y, metric="rbf").legends[0])[-1].startswith("rbf 0.")

    def test_pca_of_images(self):
        x = X.reshape(-1, 3, 2, 2)
        (axis,) = plots.layer_graph(x, Y, layout="pca").axes
        np.testing.assert_allclose(positions(axis, Y), layouts.principal(X), atol=1e-6)

    def test_tsne(self):
        pytest.importorskip("sklearn", reason="needs the extra manifolds")
        (axis,) = plots.layer_graph(X, Y, layout="tsne", seed=5).axes
        np.testing.assert_allclose(positions(axis, Y), layouts.tsne(X, 5), atol=1e-6)

    @pytest.mark.parametrize("k", [1, 3])
    def test_edges(self, k):
        (axis,) = plots.layer_graph(X, Y, k=k).axes
        segments, alphas = edges(axis)
        expected = edge_weights(weights_of(X), k)
        assert len(segments) == np.count_nonzero(np.triu(expected))
        places = positions(axis, Y)
        ends = np.array(
            [[np.linalg.norm(places - end, axis=1).argmin() for end in pair] for pair in segments]
        )
        assert len({frozenset(pair) for pair in ends.tolist()}) == len(ends)
        strength = expected[ends[:, 0], ends[:, 1]]
        assert (strength > 0).all()
        assert (np.diff(strength) > -1e-6).all()  # the strongest on top
        assert (np.diff(alphas) >= 0).all()
        low, high = strength.min(), strength.max()
        straight = 0.1 + 0.7 * (strength - low) / (high - low)
        np.testing.assert_allclose(alphas, straight, atol=1e-4)
        texts = names(plots.layer_graph(X, Y, k=k).legends[0])
        assert texts[-2:] == [f"cosine {low:.3g}", f"cosine {high:.3g}"]

    def test_all_edges(self):
        every = edges(plots.layer_graph(X, Y, k=None).axes[0])[0]
        assert len(every) == 40 * 39 / 2
        assert len(edges(plots.layer_graph(X, Y, k=1000).axes[0])[0]) == len(every)

    def test_edges_of_negative_similarity_are_none(self):
        x = np.array([[1.0, 0.1], [1, 0.2], [-1, 0.1], [-1, 0.3]])
        (axis,) = plots.layer_graph(x, np.array([0, 0, 1, 1]), k=None).axes
        segments, alphas = edges(axis)
        assert len(segments) == 2
        np.testing.assert_allclose(sorted(alphas), [0.1, 0.8])

    def test_colours_and_markers_by_class(self):
        x, y = clusters(n=60, classes=15)
        figure = plots.layer_graph(x, 3 * y)
        looks = [
            (to_hex(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes())
            for dots in nodes(figure.axes[0])
        ]
        assert len(set(looks)) == 15
        assert {color.upper() for color, _ in looks} == set(style.COLORS)
        assert len({marker for _, marker in looks}) == len(style.MARKERS)
        for label, dots in enumerate(nodes(figure.axes[0])):
            assert len(dots.get_offsets()) == np.sum(y == label)
        assert names(figure.legends[0])[:15] == [str(3 * label) for label in range(15)]

    def test_as_many_looks_as_there_are(self):
        looks = [(color, marker) for color, marker, _ in style.looks(56)]
        assert len(set(looks)) == 56

    def test_forms_of_labels(self):
        expected = positions(plots.layer_graph(X, Y).axes[0], Y)
        one_hot = np.eye(4)[Y]
        for labels in (Y[:, None], Y.astype("float32"), one_hot, 0.6 * one_hot + 0.1, Y.tolist()):
            figure = plots.layer_graph(X, labels, classes=["a", "b", "c", "d"])
            np.testing.assert_allclose(positions(figure.axes[0], Y), expected, atol=1e-6)
            assert names(figure.legends[0])[:4] == ["a", "b", "c", "d"]

    def test_names_of_the_classes_that_are_there(self):
        figure = plots.layer_graph(X, Y + 1, classes=["none", "a", "b", "c", "d", "e"])
        assert names(figure.legends[0])[:4] == ["a", "b", "c", "d"]

    def test_tensors(self):
        x, y = (keras.ops.convert_to_tensor(each) for each in (X.astype("float32"), Y))
        found = positions(plots.layer_graph(x, y).axes[0], Y)
        np.testing.assert_allclose(found, positions(plots.layer_graph(X, Y).axes[0], Y), atol=1e-4)

    @pytest.mark.parametrize(
        "x", [np.zeros((6, 4)), np.ones((6, 4)), np.eye(6), -np.eye(6) + 0.1, np.ones((6, 1))]
    )
    @pytest.mark.parametrize("layout", ["spectral", "pca"])
    def test_degenerate_layers(self, x, layout):
        figure = plots.layer_graph(x, np.array([0, 1, 2, 0, 1, 2]), layout=layout)
        assert np.isfinite(positions(figure.axes[0], np.array([0, 1, 2, 0, 1, 2]))).all()
        figure.savefig(io.BytesIO(), dpi=30)

    def test_two_samples(self):
        figure = plots.layer_graph(np.array([[1.0, 0], [1, 1]]), np.array([0, 1]))
        segments, alphas = edges(figure.axes[0])
        np.testing.assert_allclose(np.abs(segments[0]), [[1, 0], [1, 0]], atol=1e-6)
        np.testing.assert_allclose(alphas, 0.8)
        assert names(figure.legends[0]) == ["0", "1", "cosine 0.707"]

    def test_all_nodes_are_inside(self):
        (axis,) = plots.layer_graph(X, Y).axes
        places = positions(axis, Y)
        for limits, values in ((axis.get_xlim(), places[:, 0]), (axis.get_ylim(), places[:, 1])):
            assert limits[0] < values.min()
            assert values.max() < limits[1]
        assert axis.get_aspect() == 1
        assert axis.get_title() == "Latent geometry graph"

    BAD = (
        ({"x": np.zeros(4)}, r"an array of shape \(n, ...\)"),
        ({"x": np.where(X > 1, np.nan, X)}, "finite values"),
        ({"x": X[:1], "labels": Y[:1]}, "at least 2 samples"),
        ({"labels": Y[:-1]}, "one for each of the 40 samples. Received: labels=39"),
        ({"labels": Y + 0.5}, "whole numbers"),
        ({"labels": np.where(Y, Y, np.nan)}, "finite values"),
        ({"labels": np.where(np.eye(4)[Y], np.nan, 0)}, "finite values"),
        ({"labels": np.array(["a"] * 40)}, "integers of shape .*, or one-hot"),
        ({"labels": np.zeros((40, 2, 2))}, "integers of shape"),
        ({"classes": ["a", "b", "c"]}, "a name of each class, for the labels from 0 to 3"),
        ({"classes": "abcd"}, "a name of each class"),
        ({"layout": "circle"}, r"`layout`. Expected one of \('spectral', 'pca', 'tsne'\)"),
        ({"metric": "euclid"}, "`metric`.*'precomputed'"),
        ({"metric": "precomputed"}, r"a symmetric adjacency \(n, n\)"),
        (
            {"metric": "precomputed", "x": np.arange(1600.0).reshape(40, 40)},
            "a symmetric adjacency",
        ),
        ({"metric": "precomputed", "x": np.eye(40), "layout": "pca"}, "no features"),
        ({"metric": "rbf", "alpha": -1}, "`alpha`"),
        ({"k": 0}, "`k`. Expected a positive integer"),
        ({"k": 2.5}, "`k`"),
        ({"seed": -1}, "`seed`"),
    )

    @pytest.mark.parametrize(("changes", "message"), BAD)
    def test_errors(self, changes, message):
        arguments = {"x": X, "labels": Y, **changes}
        with pytest.raises(ValueError, match=message):
            plots.layer_graph(**arguments)

    def test_too_many_classes(self):
        with pytest.raises(ValueError, match=r"at most 56 classes.*57 classes"):
            plots.layer_graph(np.eye(57), np.arange(57))


def edge_weights(weights, k):
    """Those of the k strongest edges of either end, by brute force."""
    kept = np.zeros(weights.shape, bool)
    for i, row in enumerate(weights):
        for j in np.argsort(-row)[:k]:
            kept[i, j] = kept[j, i] = True
    found = np.where(kept, weights, 0)
    return found if found.any() else weights


class TestLayerGraphs:
    def test_each_layer_is_turned_onto_the_one_before(self):
        turn = np.linalg.qr(RNG.normal(size=(12, 12)))[0]
        other = clusters(seed=1)[0]
        layers = {"a": X, "b": other, "c": other @ turn}
        a, b, c = (positions(axis, Y) for axis in plots.layer_graphs(layers, Y, layout="pca").axes)
        np.testing.assert_allclose(a, layouts.principal(X), atol=1e-6)
        own = layouts.principal(other)
        np.testing.assert_allclose(np.abs(np.linalg.svd(own)[1]), np.linalg.svd(b)[1], atol=1e-6)
        closest = min(
            np.linalg.norm(own @ turned - a)
            for angle in np.linspace(0, 2 * np.pi, 721)
            for turned in (
                np.array([[np.cos(angle), s * np.sin(angle)], [-np.sin(angle), s * np.cos(angle)]])
                for s in (1, -1)
            )
        )
        assert np.linalg.norm(b - a) <= closest + 1e-9
        np.testing.assert_allclose(c, b, atol=1e-6)

    def test_one_scale_of_opacity(self):
        layers = {"strong": X, "weak": X * RNG.choice([0, 1], size=X.shape, p=[0.4, 0.6])}
        figure = plots.layer_graphs(layers, Y)
        weights = [edge_weights(weights_of(x), 3) for x in layers.values()]
        every = np.concatenate([each[each > 0] for each in weights])
        low, high = every.min(), every.max()
        for axis, each in zip(figure.axes, weights, strict=True):
            found = edges(axis)[1]
            each = np.sort(each[np.triu(each) > 0])
            expected = 0.1 + 0.7 * (each - low) / (high - low)
            np.testing.assert_allclose(found, expected, atol=1e-4)
        assert names(figure.legends[0])[-2:] == [f"cosine {low:.3g}", f"cosine {high:.3g}"]
        assert len(figure.legends) == 1

    @pytest.mark.parametrize(
        ("count", "columns", "shape", "width"),
        [
            (1, 3, (1, 1), 3.4),
            (2, 3, (1, 2), 4.5),
            (4, 3, (2, 2), 4.5),
            (5, 3, (2, 3), 6.75),
            (3, 1, (3, 1), 3.4),
        ],
    )
    def test_grid(self, count, columns, shape, width):
        layers = {f"layer{i}": X[:12] for i in range(count)}
        figure = plots.layer_graphs(layers, Y[:12], columns=columns, layout="pca")
        assert [axis.get_title() for axis in figure.axes] == list(layers)
        grid = figure.axes[0].get_subplotspec().get_gridspec()
        assert (grid.nrows, grid.ncols) == shape
        assert figure.get_figwidth() == width

    def test_title(self):
        figure = plots.layer_graphs({"a": X}, Y, title="Epoch 3")
        assert figure.get_suptitle() == "Epoch 3"
        assert plots.layer_graphs({"a": X}, Y).get_suptitle() == ""

    def test_what_the_layout_is(self):
        alone = plots.layer_graphs({"a": X}, Y).legends[0].get_title().get_text()
        assert alone == "spectral layout"
        two = plots.layer_graphs({"a": X, "b": X}, Y, layout="pca").legends[0]
        assert two.get_title().get_text() == "principal components, each turned onto the one before"

    @pytest.mark.parametrize("bad", [{}, [X], X])
    def test_no_dict(self, bad):
        with pytest.raises(ValueError, match=r"`representations`\. Expected a dict"):
            plots.layer_graphs(bad, Y)

    def test_other_samples(self):
        with pytest.raises(ValueError, match="`a` and `b` are of different batches"):
            plots.layer_graphs({"a": X, "b": X[:-1]}, Y)
        with pytest.raises(ValueError, match=r"representations\['b'\].*finite"):
            plots.layer_graphs({"a": X, "b": X * np.inf}, Y)
        with pytest.raises(ValueError, match="`columns`"):
            plots.layer_graphs({"a": X}, Y, columns=0)


class TestSimilarityMatrix:
    def test_sorted_by_class(self):
        figure = plots.similarity_matrix(X, Y, classes=["a", "b", "c", "d"])
        axis, bar = figure.axes
        order = np.concatenate([np.flatnonzero(label == Y) for label in range(4)])
        (image,) = axis.images
        np.testing.assert_allclose(image.get_array(), cosines(X)[np.ix_(order, order)], atol=1e-5)
        assert image.get_clim() == (0, 1)
        assert bar.get_ylabel() == "cosine similarity"
        assert axis.get_title() == "Similarity of the samples"
        ends = [9.5, 19.5, 29.5]
        lines = [line.get_data() for line in axis.lines]
        assert [y[0] for x, y in lines if y[0] == y[1]] == ends
        assert [x[0] for x, y in lines if x[0] == x[1]] == ends
        for ticks, labels in (
            (axis.get_xticks(), axis.get_xticklabels()),
            (axis.get_yticks(), axis.get_yticklabels()),
        ):
            np.testing.assert_allclose(ticks, [4.5, 14.5, 24.5, 34.5])
            assert [label.get_text() for label in labels] == ["a", "b", "c", "d"]

    def test_signed(self):
        figure = plots.similarity_matrix(X - X.mean(axis=0), Y)
        (image,) = figure.axes[0].images
        assert image.get_clim() == (-1, 1)
        assert image.get_cmap().name == "PuOr_r"
        assert plots.similarity_matrix(X, Y).axes[0].images[0].get_cmap().name == "viridis"

    def test_precomputed(self):
        weights = np.array([[0.0, 5, 1], [5, 0, 2], [1, 2, 0]])
        figure = plots.similarity_matrix(weights, np.array([1, 0, 1]), metric="precomputed")
        (image,) = figure.axes[0].images
        assert image.get_array().tolist() == [[0, 5, 2], [5, 0, 1], [2, 1, 0]]
        assert image.get_clim() == (0, 5)
        assert figure.axes[1].get_ylabel() == "weight"
        zeros = plots.similarity_matrix(np.zeros((2, 2)), [0, 1], metric="precomputed")
        zeros.savefig(io.BytesIO(), dpi=30)

    def test_classes_without_room_have_no_name(self):
        y = np.repeat([0, 1, 2, 3], [100, 1, 1, 100])
        axis = plots.similarity_matrix(RNG.random((202, 3)), y).axes[0]
        assert [label.get_text() for label in axis.get_yticklabels()] == ["0", "1", "3"]
        assert len(axis.lines) == 6

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"labels": Y[1:]}, "one for each of the 40"),
            ({"x": X[:1]}, "at least 2"),
            ({"x": X * np.nan}, "finite"),
            ({"metric": "precomputed"}, "symmetric"),
            ({"metric": "l2"}, "`metric`"),
        ],
    )
    def test_errors(self, changes, message):
        with pytest.raises(ValueError, match=message):
            plots.similarity_matrix(**{"x": X, "labels": Y, **changes})


# Curves.


class TestSmoothness:
    def test_means_and_bands(self):
        given = {"plain": RNG.random((4, 3)), "one": RNG.random(3), "smooth": RNG.random((1, 3))}
        figure = plots.smoothness(given, BLOCKS)
        (axis,) = figure.axes
        drawn = curves(axis)
        assert list(drawn) == list(given)
        for name, values in given.items():
            (line,) = drawn[name]
            np.testing.assert_allclose(line.get_xdata(), [0, 1, 2])
            np.testing.assert_allclose(line.get_ydata(), np.atleast_2d(values).mean(axis=0))
        (band,) = bands(axis)
        plain = given["plain"]
        mean = plain.sum(axis=0) / 4
        std = np.sqrt(((plain - mean) ** 2).sum(axis=0) / 3)
        np.testing.assert_allclose([*band.values()], np.stack([mean - std, mean + std], axis=1))
        looks = [line.get_color() + line.get_marker() for (line,) in drawn.values()]
        assert len(set(looks)) == len({line.get_linestyle() for (line,) in drawn.values()}) == 3
        (legend,) = figure.legends
        assert names(legend) == list(given)
        assert legend.get_title().get_text() == "mean ± standard deviation over 4 seeds"
        assert [label.get_text() for label in axis.get_xticklabels()] == BLOCKS
        assert axis.get_ylabel().startswith("label smoothness")
        assert axis.get_xlabel() == "layer"

    def test_no_band_of_one_seed(self):
        figure = plots.smoothness({"a": [0.3, 0.2]}, BLOCKS[:2], ylabel="rank", title="Ranks")
        (axis,) = figure.axes
        assert len(axis.collections) == 0
        assert figure.legends[0].get_title().get_text() == ""
        assert (axis.get_ylabel(), axis.get_title()) == ("rank", "Ranks")
        assert axis.get_ylim() == pytest.approx((0, 1.05 * 0.3))

    def test_zeros(self):
        (axis,) = plots.smoothness({"a": [0.0, 0.0]}, BLOCKS[:2]).axes
        assert axis.get_ylim()[0] == 0 < axis.get_ylim()[1]

    def test_seeds_that_differ_in_number(self):
        figure = plots.smoothness({"a": RNG.random((3, 1)), "b": RNG.random((5, 1))}, ["x"])
        title = figure.legends[0].get_title().get_text()
        assert title == "mean ± standard deviation over 3 to 5 seeds"
        bars = [each.get_segments()[0] for each in figure.axes[0].collections]
        assert len(bars) == 2  # in place of bands, which would have no width

    def test_negative_values(self):
        (axis,) = plots.smoothness({"a": [-0.3, 0.2]}, BLOCKS[:2]).axes
        assert axis.get_ylim()[0] < -0.3

    @pytest.mark.parametrize(
        ("values", "layers", "message"),
        [
            ({}, BLOCKS, r"`values`. Expected a dict.*\(layers,\) or \(seeds, layers\)"),
            ([0.1, 0.2], BLOCKS, "`values`. Expected a dict"),
            ({"a": [0.1, 0.2]}, BLOCKS, r"values\['a'\].*\(3,\) or \(seeds, 3\).*shape \(2,\)"),
            ({"a": np.zeros((3, 2))}, BLOCKS, r"Received: values\['a'\]=shape \(3, 2\)"),
            ({"a": np.zeros((0, 3))}, BLOCKS, r"shape \(0, 3\)"),
            ({"a": np.zeros((1, 1, 3))}, BLOCKS, r"shape \(1, 1, 3\)"),
            ({"a": [0.1, np.nan, 0.3]}, BLOCKS, r"values\['a'\].*finite numbers"),
            ({"a": ["x", "y", "z"]}, BLOCKS, "finite numbers"),
            ({"a": []}, [], "`layers`. Expected at least one name"),
        ],
    )
    def test_errors(self, values, layers, message):
        with pytest.raises(ValueError, match=message):
            plots.smoothness(values, layers)


def table(rows, **columns):
    """What `evaluate` gives: rows of perturbation, severity, accuracy."""
    pandas = pytest.importorskip("pandas", reason="needs the extra robustness")
    found = pandas.DataFrame(rows, columns=["perturbation", "severity", "accuracy"])
    return found.assign(**columns)


NAN = float("nan")
ROWS = [
    ("clean", NAN, 0.9),
    ("Gaussian noise", 20.0, 0.8),
    ("Gaussian noise", 10.0, 0.6),
    ("Gaussian noise", 5.0, 0.5),
    ("FGSM", 0.1, 0.7),
    ("FGSM", 0.3, 0.4),
]


def less(rows, by):
    return [(name, severity, accuracy - by) for name, severity, accuracy in rows]


class TestRobustness:
    def test_arrays(self):
        results = {"plain": RNG.random((3, 4)), "smooth": RNG.random(4)}
        severities = [0.1, 0.0, 0.4, 0.2]
        figure = plots.robustness(results, severities=severities, xlabel="noise", title="Mine")
        (axis,) = figure.axes
        order = [1, 0, 3, 2]
        drawn = curves(axis)
        assert list(drawn) == ["plain", "smooth"]
        (line,) = drawn["plain"]
        np.testing.assert_allclose(line.get_xdata(), [0, 0.1, 0.2, 0.4])
        mean = 100 * results["plain"].mean(axis=0)[order]
        spread = 100 * results["plain"].std(axis=0, ddof=1)[order]
        np.testing.assert_allclose(line.get_ydata(), mean)
        np.testing.assert_allclose(
            [*bands(axis)[0].values()], np.stack([mean - spread, mean + spread], axis=1)
        )
        np.testing.assert_allclose(drawn["smooth"][0].get_ydata(), 100 * results["smooth"][order])
        assert axis.get_ylabel() == "accuracy (%)"
        assert axis.get_xlabel() == "noise"
        assert axis.get_title() == "Mine"
        assert axis.get_xlim()[0] < axis.get_xlim()[1]
        default = plots.robustness(results, severities=severities).axes[0]
        assert (default.get_title(), default.get_xlabel()) == ("Robustness", "severity")

    def test_falling_severities(self):
        (axis,) = plots.robustness({"a": [0.9, 0.8, 0.5]}, severities=[30, 20, 10]).axes
        np.testing.assert_allclose(axis.lines[0].get_ydata(), [90, 80, 50])
        np.testing.assert_allclose(axis.lines[0].get_xdata(), [30, 20, 10])
        assert axis.get_xlim()[0] > 30 > 10 > axis.get_xlim()[1]

    def test_table(self):
        figure = plots.robustness(table(ROWS))
        noise, attack = figure.axes
        assert [noise.get_title(), attack.get_title()] == ["Gaussian noise", "FGSM"]
        assert noise.get_xlabel() == "signal-to-noise ratio (dB)"
        assert attack.get_xlabel() == "epsilon"
        assert noise.get_ylabel() == "accuracy (%)"
        for axis, severities, accuracies in (
            (noise, [20, 10, 5], [80, 60, 50]),
            (attack, [0.1, 0.3], [70, 40]),
        ):
            curve, clean = curves(axis)["model"]
            np.testing.assert_allclose(curve.get_xdata(), severities)
            np.testing.assert_allclose(curve.get_ydata(), accuracies)
            np.testing.assert_allclose(clean.get_ydata(), [90])
            # Left of all, and as many ticks as places.
            left, right = axis.transData.transform([(clean.get_xdata()[0], 0), (severities[0], 0)])
            assert axis.bbox.x0 < left[0] < right[0] - 10
            labels = [label.get_text() for label in axis.get_xticklabels()]
            assert labels == ["clean", *(f"{severity:g}" for severity in severities)]
            np.testing.assert_allclose(axis.get_xticks(), [*clean.get_xdata(), *severities])
            # The mark of the break lies between them.
            marks = [line for line in axis.lines if line.get_label() == "_"]
            assert marks
            for mark in marks:
                places = axis.transData.transform([(x, 0) for x in mark.get_xdata()])[:, 0]
                assert ((left[0] < places) & (places < right[0])).all()
        assert names(figure.legends[0]) == ["model"]

    def test_table_of_models_and_seeds(self):
        pandas = pytest.importorskip("pandas", reason="needs the extra robustness")
        tables = [table(less(ROWS, 0.1 * s), model="plain") for s in (0, 1, 2)]
        tables += [table(less(ROWS, 0.3), model="smooth", accuracy=0.25)]
        figure = plots.robustness(pandas.concat(tables), xlabel="how much", columns=1)
        for axis in figure.axes:
            drawn = curves(axis)
            assert list(drawn) == ["plain", "smooth"]
            np.testing.assert_allclose(drawn["smooth"][0].get_ydata(), 25)
            assert axis.get_xlabel() == "how much"
            assert drawn["plain"][1].get_color() == drawn["plain"][0].get_color()
        plain, clean = curves(figure.axes[0])["plain"]
        np.testing.assert_allclose(plain.get_ydata(), [70, 50, 40])
        np.testing.assert_allclose(clean.get_ydata(), [80])
        (band,) = bands(figure.axes[0])
        np.testing.assert_allclose(band[20.0], (60, 80))  # 0.1 is the standard deviation
        title = figure.legends[0].get_title().get_text()
        assert title == "mean ± standard deviation over 3 seeds"
        assert len({axis.get_position().x0 for axis in figure.axes}) == 1

    def test_table_with_a_baseline(self):
        figure = plots.robustness(table(ROWS, baseline=0.5))
        drawn = curves(figure.axes[1])
        assert set(drawn) == {"baseline", "model"}
        np.testing.assert_allclose(drawn["baseline"][0].get_ydata(), 50)
        np.testing.assert_allclose(drawn["model"][0].get_ydata(), [70, 40])
        named = plots.robustness(table(ROWS, baseline=0.5, model="m"))
        assert set(curves(named.axes[0])) == {"m"}

    def test_perturbations_without_severity(self):
        """One plot has them all, beside those of the others."""
        rows = [*ROWS[:2], ("fog", NAN, 0.3), ("snow", NAN, 0.2)]
        noise, rest = plots.robustness(table(rows)).axes
        assert noise.get_title() == "Gaussian noise"
        labels = [label.get_text() for label in rest.get_xticklabels()]
        assert labels == ["clean", "fog", "snow"]
        points, clean = curves(rest)["model"]
        np.testing.assert_allclose(points.get_ydata(), [30, 20])
        assert points.get_linestyle() == "None"
        np.testing.assert_allclose(rest.get_xticks(), [*clean.get_xdata(), *points.get_xdata()])
        assert rest.get_xlabel() == "perturbation"

    def test_without_clean_rows(self):
        (axis,) = plots.robustness(table(ROWS[1:4])).axes
        assert len(axis.lines) == 1
        assert [label.get_text() for label in axis.get_xticklabels()] == ["20", "10", "5"]

    def test_of_evaluate(self):
        pytest.importorskip("pandas", reason="needs the extra robustness")
        images = RNG.random((20, 4, 4, 1))
        model = keras.Sequential(
            [keras.Input((4, 4, 1)), keras.layers.Flatten(name="flat"), keras.layers.Dense(3)]
        )
        perturbations = [
            lgg.robustness.GaussianNoise(snr=(5,)),
            lgg.robustness.DroppedUnits(["flat"], rates=(0.1, 0.9)),
            lgg.robustness.QuantizedWeights(bits=(2,)),
        ]
        found = lgg.robustness.evaluate(
            {"a": model}, (images, np.arange(20) % 3), perturbations, progress=False
        )
        figure = plots.robustness(found)
        units = ["signal-to-noise ratio (dB)", "share of dropped units", "bits"]
        assert [axis.get_xlabel() for axis in figure.axes] == units
        accuracies = found.set_index("perturbation")["accuracy"]
        for axis in figure.axes:
            curve, clean = curves(axis)["a"]
            np.testing.assert_allclose(
                curve.get_ydata(), 100 * np.atleast_1d(accuracies[axis.get_title()])
            )
            np.testing.assert_allclose(clean.get_ydata(), 100 * accuracies["clean"])

    def test_units_are_of_perturbations_that_exist(self):
        from keras_lgg.plots.curves import SEVERITIES

        attacks = [
            lgg.robustness.FGSM(epsilons=(0.1,)),
            lgg.robustness.FGSM(snr=(20,)),
            lgg.robustness.PGD(epsilons=(0.1,)),
            lgg.robustness.PGD(epsilons=(0.1,), norm="l2"),
            lgg.robustness.GaussianNoise(),
            lgg.robustness.DroppedUnits(["a"]),
            lgg.robustness.QuantizedWeights(),
        ]
        assert {each.name for each in attacks} == set(SEVERITIES)

    @pytest.mark.parametrize(
        ("results", "options", "message"),
        [
            ({"a": [0.1, 0.2]}, {}, "`severities`. Expected their numbers"),
            ({"a": [0.1, 0.2]}, {"severities": [1]}, r"results\['a'\].*shape \(2,\)"),
            ({"a": [0.1, 0.2]}, {"severities": [1, 1]}, "that differ"),
            ({"a": [0.1, 0.2]}, {"severities": [1, NAN]}, "finite numbers"),
            ({"a": [0.1, 0.2]}, {"severities": [[1, 2]]}, "finite numbers"),
            ({"a": [90, 80]}, {"severities": [1, 2]}, r"accuracies in \[0, 1\].*from 80 to 90"),
            ({"a": [-0.1, 0]}, {"severities": [1, 2]}, r"accuracies in \[0, 1\]"),
            ({"a": [0.1, NAN]}, {"severities": [1, 2]}, "finite numbers"),
            ({}, {"severities": [1]}, "Expected a dict"),
            ({"a": [0.1]}, {"severities": [1], "columns": 0}, "`columns`"),
        ],
    )
    def test_errors_of_arrays(self, results, options, message):
        with pytest.raises(ValueError, match=message):
            plots.robustness(results, **options)

    def test_errors_of_tables(self):
        pandas = pytest.importorskip("pandas", reason="needs the extra robustness")
        found = table(ROWS)
        with pytest.raises(ValueError, match=r"a table without \['severity'\]"):
            plots.robustness(found.drop(columns="severity"))
        with pytest.raises(ValueError, match="None with a table"):
            plots.robustness(found, severities=[1])
        with pytest.raises(ValueError, match="clean rows only"):
            plots.robustness(found[:1])
        with pytest.raises(ValueError, match=r"1 of 'model' at \('FGSM', 0.3\) and 2"):
            plots.robustness(pandas.concat([found, found[:-1]]))
        both = pandas.concat([found.assign(model="a"), found[:-1].assign(model="b")])
        with pytest.raises(ValueError, match="0 of 'b' at"):
            plots.robustness(both)
        with pytest.raises(ValueError, match=r"results\['model'\].*accuracies in \[0, 1\]"):
            plots.robustness(found.assign(accuracy=50.0))


def trials(*pairs):
    return [
        {
            "weights": {"graph": weight, "other": 9.0},
            "metrics": {"acc": value, "loss": 1.0},
            "id": i,
        }
        for i, (weight, value) in enumerate(pairs)
    ]


class TestTradeOff:
    PAIRS = ((0, 0.9), (1e-3, 0.95), (0.0, 0.8), (0.1, 0.7), (3e-5, 0.91))

    def draw(self, *pairs, **options):
        figure = plots.trade_off(trials(*pairs), penalty="graph", metric="acc", **options)
        return figure, figure.axes[0]

    def test_places(self):
        figure, axis = self.draw(*self.PAIRS)
        points, star = nodes(axis)
        places = points.get_offsets()
        np.testing.assert_allclose(places[:, 1], [0.9, 0.95, 0.8, 0.7, 0.91])
        np.testing.assert_allclose(places[[1, 3, 4], 0], [1e-3, 0.1, 3e-5])
        assert axis.get_xscale() == "log"
        # Weight 0 has one place, which its tick names; left of the break, and that of the rest.
        zero = places[0, 0]
        assert places[2, 0] == zero
        ticks = dict(
            zip([t.get_text() for t in axis.get_xticklabels()], axis.get_xticks(), strict=True)
        )
        assert ticks["0"] == zero
        marks = [line.get_xdata() for line in axis.lines if line.get_label() == "_"]
        assert axis.get_xlim()[0] < zero < np.min(marks) < np.max(marks) < 1e-5
        assert list(ticks) == ["0", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹"]
        np.testing.assert_allclose(list(ticks.values())[1:], [1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
        assert min(axis.get_xticks(minor=True)) >= 1e-5
        np.testing.assert_allclose(star.get_offsets(), [[1e-3, 0.95]])
        (mean,) = [line for line in axis.lines if line.get_label() != "_"]
        np.testing.assert_allclose(mean.get_ydata(), 0.85)
        texts = ["trial", "mean at weight 0", "best: weight 0.001, acc 0.95"]
        assert names(figure.legends[0]) == texts
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("weight of graph", "acc")
        assert axis.get_title() == "Trade-off"

    def test_the_best(self):
        star = nodes(self.draw(*self.PAIRS, mode="min")[1])[1]
        np.testing.assert_allclose(star.get_offsets(), [[0.1, 0.7]])
        figure, axis = self.draw((0, 0.9), (1, 0.5))
        points, star = nodes(axis)
        np.testing.assert_allclose(star.get_offsets()[0], points.get_offsets()[0])
        assert names(figure.legends[0])[-1] == "best: weight 0, acc 0.9"

    def test_no_weight_of_zero(self):
        figure, axis = self.draw((2e-3, 0.5), (5e-3, 0.4), title="Mine")
        assert len(axis.lines) == 0
        assert names(figure.legends[0]) == ["trial", "best: weight 0.002, acc 0.5"]
        assert [t.get_text() for t in axis.get_xticklabels()] == ["10⁻³", "10⁻²"]
        assert axis.get_title() == "Mine"

    def test_zeros_only(self):
        _, axis = self.draw((0, 0.5), (0, 0.4))
        assert axis.get_xscale() == "linear"
        assert [t.get_text() for t in axis.get_xticklabels()] == ["0"]
        np.testing.assert_allclose(nodes(axis)[0].get_offsets()[:, 0], axis.get_xticks()[0])

    @pytest.mark.parametrize("weight", [1e-3, 0.02, 1.0, 30.0])
    def test_one_weight(self, weight):
        _, axis = self.draw((weight, 0.5))
        assert axis.get_xlim()[0] < weight < axis.get_xlim()[1]
        assert len(axis.get_xticks()) >= 2

    def test_many_decades(self):
        _, axis = self.draw((0, 0.5), (1e-12, 0.4), (1e3, 0.3))
        assert 4 <= len(axis.get_xticks()) <= 9

    @pytest.mark.parametrize(
        ("found", "options", "message"),
        [
            ([], {}, "at least one trial"),
            (
                trials((0, 1)),
                {"penalty": "g"},
                r"trials\[0\].*a dict with 'g' in its dict 'weights'",
            ),
            (trials((0, 1)), {"metric": "f1"}, "a dict with 'f1' in its dict 'metrics'"),
            ([{"weights": {"graph": 1}}], {}, "in its dict 'metrics'"),
            ([3], {}, "in its dict 'weights'"),
            (trials((0, 1), (-1, 1)), {}, "weights of at least 0"),
            (trials((0, 1), (np.inf, 1)), {}, "finite numbers of 'graph'"),
            (trials((0, 1), (1, NAN)), {}, "finite numbers of 'acc'. Leave out the trials"),
            (trials((0, None)), {}, "finite numbers of 'acc'"),
            (trials((0, 1)), {"mode": "auto"}, r"`mode`. Expected one of \('max', 'min'\)"),
        ],
    )
    def test_errors(self, found, options, message):
        with pytest.raises(ValueError, match=message):
            plots.trade_off(found, **{"penalty": "graph", "metric": "acc", **options})


# All figures.

LONG = [f"backbone/stage_{i}/block_1{i}_expand_project_relu" for i in range(6)]


def many_classes():
    x, y = clusters(n=60, classes=15)
    classes = [f"a class of some name, number {i}" for i in range(15)]
    return x, y, classes


def figure_of(name):
    x, y, classes = many_classes()
    runs = RNG.random((3, 6))
    return {
        "graph": lambda: plots.layer_graph(X, Y),
        "graph, 2 classes": lambda: plots.layer_graph(X, Y % 2),
        "graph, 15 classes": lambda: plots.layer_graph(x, y, classes=classes),
        "graphs": lambda: plots.layer_graphs(dict.fromkeys(BLOCKS, X), Y),
        "graphs, long": lambda: plots.layer_graphs(
            dict.fromkeys(LONG, x), y, classes=classes, layout="pca", title="A title, " * 15
        ),
        "matrix": lambda: plots.similarity_matrix(X, Y),
        "matrix, long": lambda: plots.similarity_matrix(x, y, classes=classes),
        "matrix, 2 classes": lambda: plots.similarity_matrix(X, Y % 2, classes=classes),
        "smoothness": lambda: plots.smoothness(
            {"a": runs, "b": runs[0]}, [f"b{i}" for i in range(6)]
        ),
        "smoothness, long": lambda: plots.smoothness(
            {f"a model of some name, number {i}": runs for i in range(8)},
            LONG,
            title="A title, " * 9,
        ),
        "smoothness, wide names": lambda: plots.smoothness(
            {"a": runs[:, :3]}, ["_expand_project_relu"] * 3, ylabel="a number of a layer, " * 3
        ),
        "smoothness, deep": lambda: plots.smoothness(
            {"a": RNG.random(60)}, [f"layer{i}" for i in range(60)]
        ),
        "robustness": lambda: plots.robustness({"a": runs, "b": runs[0]}, severities=range(6)),
        "robustness, fine": lambda: plots.robustness(
            {"a": RNG.random(40)}, severities=np.linspace(0, 1, 40)
        ),
        "robustness, table": lambda: plots.robustness(
            table([*ROWS, *[(n, NAN, 0.5) for n in LONG]]), title="Mine"
        ),
        "trade-off": lambda: plots.trade_off(
            trials(*TestTradeOff.PAIRS), penalty="graph", metric="acc"
        ),
        "trade-off, long": lambda: plots.trade_off(
            [{"weights": {LONG[0] * 2: w}, "metrics": {LONG[1] * 2: w}} for w in (0, 1e-12, 1e3)],
            penalty=LONG[0] * 2,
            metric=LONG[1] * 2,
            title="A title, " * 9,
        ),
    }[name]()


SHORT = ("graph", "graphs", "matrix", "smoothness", "robustness", "trade-off")
HARD = (
    "graph, 2 classes",
    "graph, 15 classes",
    "graphs, long",
    "matrix, long",
    "matrix, 2 classes",
    "smoothness, long",
    "smoothness, wide names",
    "smoothness, deep",
    "robustness, fine",
    "robustness, table",
    "trade-off, long",
)


def texts_of(figure):
    """The texts that are drawn."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    return [
        text
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


@pytest.mark.parametrize("name", [*SHORT, *HARD])
def test_nothing_covers_anything(name):
    figure = figure_of(name)
    figure.draw_without_rendering()
    texts = texts_of(figure)
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    for text in texts:
        assert text.get_fontsize() >= 7
    for (a, one), (b, two) in itertools.combinations(boxes, 2):
        common = matplotlib.transforms.Bbox.intersection(one, two)
        assert common is None or min(common.width, common.height) < 0.5, (a, b)
    for text, box in boxes:
        outside = max(-box.x0, -box.y0, box.x1 - figure.bbox.x1, box.y1 - figure.bbox.y1)
        assert outside < 0.5, text
    for legend in figure.legends:
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.bbox)
    for axes in figure.axes:
        if axes.get_label() != "<colorbar>":
            assert min(axes.bbox.width, axes.bbox.height) > 0.9 * figure.dpi


@pytest.mark.parametrize("name", SHORT)
def test_figures(name, monkeypatch):
    """They show nothing, leave the user's settings alone, do not depend on them, can be saved."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    monkeypatch.setattr(plt, "show", None)
    monkeypatch.setattr(Figure, "show", None)
    windows = plt.get_fignums()
    with matplotlib.style.context("dark_background"), matplotlib.rc_context({"font.size": 20}):
        own = dict(matplotlib.rcParams)
        figure = figure_of(name)
        assert dict(matplotlib.rcParams) == own
        figure.draw_without_rendering()
    assert type(figure) is Figure
    assert plt.get_fignums() == windows
    assert to_rgba(figure.get_facecolor()) == (1, 1, 1, 1)
    assert max(text.get_fontsize() for text in texts_of(figure)) <= 8
    for axes in figure.axes:
        assert axes.title.get_color() == "black"
        assert axes.get_title() or axes.get_label() == "<colorbar>"
    assert figure.get_figwidth() == (6.75 if name == "graphs" else 3.4)
    for kind in ("png", "pdf"):
        figure.savefig(file := io.BytesIO(), format=kind, dpi=40)
        assert file.getvalue()
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows
    assert pickle.loads(pickle.dumps(figure))._repr_png_() == figure._repr_png_()


def test_a_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"matplotlib.*keras_lgg\[plots\]"):
        plots.layer_graph(X, Y)


def test_wrapped():
    def width(text):
        return style.text_width(text, 8)

    assert style.wrapped("short", 2, 8) == "short"
    assert style.wrapped("", 2, 8) == ""
    assert style.wrapped("one two", 1.05 * width("one "), 8) == "one\ntwo"
    assert style.wrapped("one/two_three", 1.05 * width("one/two_"), 8) == "one/two_\nthree"
    for room in (0.2, 0.5, 1.3):
        found = style.wrapped(LONG[0] + " and more", room, 8)
        assert "".join(found.split()) == "".join((LONG[0] + " and more").split())
        assert width(found) <= room
    assert width("a\nlonger") == width("longer") > width("long")
    np.testing.assert_allclose(style.text_width("word", 16), 2 * width("word"), rtol=0.1)


def test_apart():
    assert style.apart([0, 1, 1.5, 2, 5], 1) == [0, 1, 3, 4]
    assert style.apart([5, 2, 0], 3) == [2, 0]
