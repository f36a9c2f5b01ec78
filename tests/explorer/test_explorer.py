"""What the explorer computes, against loops; what its page holds; what it refuses."""

import base64
import html.parser
import io
import itertools
import json
import re

import keras
import numpy as np
import pytest
from autodiff import BACKEND

import keras_lgg as lgg
from keras_lgg.callbacks import GraphSnapshot
from keras_lgg.callbacks.probes import condensed
from keras_lgg.explorer import geometry, networks, placement, samples

pytest.importorskip("bokeh", reason="needs the extra explorer")

RNG = np.random.default_rng(0)
CLASSES = 4
LABELS = np.arange(60) % CLASSES
CENTRES = np.abs(RNG.normal(size=(CLASSES, 12)))
X = (CENTRES[LABELS] + 0.3 * RNG.random((60, 12))).astype("float32")
PICTURES = RNG.integers(0, 256, (60, 6, 5, 3)).astype("uint8")


def network(width=8, name="plain", last=CLASSES):
    return keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(width, "relu", name="h1"),
            keras.layers.Dropout(0.5, name="dropped"),
            keras.layers.Dense(width, "relu", name="h2"),
            keras.layers.Dense(last, "softmax", name="scores"),
        ],
        name=name,
    )


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return 0.0 if lengths == 0 else float(a @ b / lengths)


def reference_neighbours(rows, k):
    """By a loop over pairs: the nearest first, and their cosines."""
    found, cosines = [], []
    for i, row in enumerate(rows):
        near = {j: cosine(row, other) for j, other in enumerate(rows) if j != i}
        found.append(sorted(near, key=near.get, reverse=True)[:k])
        cosines.append([near[j] for j in found[-1]])
    return np.array(found), np.array(cosines)


def reference_vote(classes):
    """The class of most of some neighbours; of several, that which comes first among them."""
    counts = {each: classes.count(each) for each in classes}
    return next(each for each in classes if counts[each] == max(counts.values()))


def reference_smoothness(rows, labels):
    """trace(Y^T L Y) / n with the normalised Laplacian of the cosine graph."""
    n = len(rows)
    weights = np.array(
        [[0.0 if i == j else cosine(rows[i], rows[j]) for j in range(n)] for i in range(n)]
    )
    degrees = weights.sum(axis=1)
    laplacian = np.eye(n) - weights / np.sqrt(np.outer(degrees, degrees))
    signal = (labels[:, None] == np.unique(labels)).astype(float)
    return np.trace(signal.T @ laplacian @ signal) / n


def reference_rank(rows):
    values = np.linalg.svd(rows.astype("float64"), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return np.exp(-np.sum(shares * np.log(shares)))


@pytest.fixture(scope="module")
def found():
    keras.utils.set_random_seed(0)
    return lgg.explore(network(), X, LABELS, k=4)


@pytest.fixture(scope="module")
def rows():
    keras.utils.set_random_seed(0)
    layers = lgg.plots.representations(network(), X, ["h1", "h2", "scores"])
    return [np.asarray(each, "float64") for each in layers.values()]


class TestNumbers:
    def test_of_all_layers_but_those_that_change_nothing(self, found):
        assert found.layers == {"plain": ("h1", "h2", "scores")}
        assert found.epochs == {"plain": (None,)}

    def test_neighbours(self, found, rows):
        for layer, each in zip(found.layers["plain"], rows, strict=True):
            near = found.neighbours(layer=layer)
            _, expected = reference_neighbours(each, 4)
            cosines = [[cosine(each[i], each[j]) for j in near[i]] for i in range(60)]
            np.testing.assert_allclose(cosines, expected, rtol=1e-5)  # some are all but equal
            assert all(i not in near[i] and len(set(near[i])) == 4 for i in range(60))

    def test_measures(self, found, rows):
        measures = found.measures()
        assert {name: values.shape for name, values in measures.items()} == {
            "label_smoothness": (1, 3), "effective_rank": (1, 3), "knn_accuracy": (1, 3),
        }  # fmt: skip
        for i, each in enumerate(rows):
            near = found.neighbours(layer=found.layers["plain"][i])
            votes = [reference_vote(LABELS[each].tolist()) for each in near]
            expected = {
                "label_smoothness": reference_smoothness(each, LABELS),
                "effective_rank": reference_rank(each),
                "knn_accuracy": np.mean(votes == LABELS),
            }
            for name, value in expected.items():
                np.testing.assert_allclose(measures[name][0, i], value, rtol=1e-4, err_msg=name)

    def test_suspects(self, found):
        near = LABELS[found.neighbours(layer="h2")]
        against = (near != LABELS[:, None]).sum(axis=1)
        expected = [i for i in range(60) if reference_vote(near[i].tolist()) != LABELS[i]]
        suspects = found.suspects(layer="h2")
        assert sorted(suspects.tolist()) == expected
        assert (np.diff(against[suspects]) <= 0).all()

    def test_planted_wrong_labels_come_first(self):
        wrong = [5, 17, 40]
        labels = LABELS.copy()
        labels[wrong] = (labels[wrong] + 1) % CLASSES
        found = lgg.explore(network(), X, labels)
        assert sorted(found.suspects(layer="h1")[:3].tolist()) == wrong

    @pytest.mark.parametrize(
        ("near", "vote"),
        [([0, 1, 0, 1], 0), ([1, 0, 1, 0], 1), ([2, 1, 1, 0], 1), ([3, 3, 3, 3], 3)],
    )
    def test_a_tie_goes_to_the_nearest(self, near, vote):
        classes = np.array([0, 1, 2, 3, 2])  # the first four vote on the last
        nearest = np.array([[1, 2, 3, 1]] * 4 + [near])
        votes, against, _ = geometry.ballot(nearest, classes)
        assert votes[-1] == vote
        assert against[-1] == sum(classes[i] != 2 for i in near)

    def test_the_most_suspect_come_first(self):
        rng = np.random.default_rng(0)
        classes, nearest = rng.integers(0, 3, 200), rng.integers(0, 200, (200, 7))
        votes, against, suspects = geometry.ballot(nearest, classes)
        clear = (classes[nearest] == votes[:, None]).sum(axis=1)
        keys = [(-against[i], -clear[i], i) for i in range(200) if votes[i] != classes[i]]
        assert suspects.tolist() == [i for _, _, i in sorted(keys)]

    def test_class_numbers_of_any_kind(self):
        one_hot = np.eye(CLASSES)[LABELS]
        names = ["a", "b", "c", "d"]
        keras.utils.set_random_seed(1)
        model = network()
        expected = lgg.explore(model, X, LABELS, classes=names)
        for labels in (one_hot, LABELS[:, None], LABELS.tolist()):
            found = lgg.explore(model, X, labels, classes=names)
            assert found.class_names == names
            assert found.suspects().tolist() == expected.suspects().tolist()
        gaps = lgg.explore(model, X, 10 * LABELS)
        assert gaps.class_names == ["0", "10", "20", "30"]
        assert gaps.suspects().tolist() == expected.suspects().tolist()

    def test_without_labels(self):
        found = lgg.explore(network(), X)
        assert list(found.measures()) == ["effective_rank"]
        assert found.neighbours().shape == (60, 5)
        with pytest.raises(ValueError, match=r"`y`.*Expected labels"):
            found.suspects()

    @pytest.mark.parametrize("n", [2, 3, 7])
    def test_few_samples(self, n, tmp_path):
        found = lgg.explore(network(), X[:n], LABELS[:n])
        assert found.neighbours().shape == (n, min(5, n - 1))
        found.save(tmp_path / "page.html")

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_a_layer_that_is_the_same_for_all(self, value, tmp_path):
        model = keras.Sequential(
            [keras.Input((12,)), keras.layers.Dense(3, kernel_initializer="zeros",
             bias_initializer=keras.initializers.Constant(value), name="dead")]
        )  # fmt: skip
        found = lgg.explore(model, X, LABELS)
        assert np.isfinite(list(found.measures().values())).all()
        assert all(np.isfinite(frame.places).all() for frame in found.frames["sequential"][0])
        found.save(tmp_path / "page.html")

    def test_one_class(self):
        found = lgg.explore(network(), X, np.zeros(60, int))
        assert found.suspects().tolist() == []
        np.testing.assert_allclose(found.measures()["label_smoothness"], 0, atol=1e-3)


@pytest.mark.once
class TestPlaces:
    def test_neighbours_lie_near(self, rows):
        unit = rows[0] / np.linalg.norm(rows[0], axis=1, keepdims=True)
        cosines = (unit @ unit.T).astype("float32")
        places = placement.placed(cosines, placement.start_of(cosines))
        distances = np.linalg.norm(places[:, None] - places, axis=2)
        near = np.take_along_axis(distances, reference_neighbours(rows[0], 4)[0], axis=1)
        assert near.mean() < 0.3 * distances.mean()

    def test_nodes_keep_their_places(self, found):
        frames = found.frames["plain"][0]
        fresh = [placement.placed(f.geometry.cosines, placement.start_of(f.geometry.cosines))
                 for f in frames]  # fmt: skip

        def movement(places):
            moves = [np.linalg.norm(b - a, axis=1).mean() for a, b in itertools.pairwise(places)]
            return np.mean(moves) / np.std(places)

        kept = movement([frame.places for frame in frames])
        assert kept < 0.5 * movement(fresh)

    def test_the_same_again(self, found):
        keras.utils.set_random_seed(0)
        again = lgg.explore(network(), X, LABELS, k=4)
        for a, b in zip(found.frames["plain"][0], again.frames["plain"][0], strict=True):
            np.testing.assert_array_equal(a.places, b.places)


class TestNetworks:
    def test_side_by_side(self):
        found = lgg.explore({"wide": network(16), "narrow": network(4)}, X, LABELS, layers=["h1"])
        assert found.layers == {"wide": ("h1",), "narrow": ("h1",)}
        assert found.measures("narrow")["effective_rank"].shape == (1, 1)
        several = lgg.explore([network(name="a"), network(name="b")], X, layers="h1")
        assert list(several.layers) == ["a", "b"]
        assert list(lgg.explore([network(), network()], X, layers="h1").layers) == [
            "plain 1", "plain 2",
        ]  # fmt: skip

    def test_layers_of_each(self):
        layers = {"wide": ["h*"], "narrow": "scores"}
        found = lgg.explore({"wide": network(16), "narrow": network(4)}, X, layers=layers)
        assert found.layers == {"wide": ("h1", "h2"), "narrow": ("scores",)}

    def test_a_geometry_model_stands_for_its_base(self):
        base = network()
        penalty = lgg.Penalty(lgg.losses.GraphVariation(), taps=["h1", "h2"], weight=0.1)
        found = lgg.explore(lgg.GeometryModel(base, [penalty]), X, LABELS)
        expected = lgg.explore(base, X, LABELS)
        assert [*found.layers.values()] == [*expected.layers.values()]
        np.testing.assert_array_equal(found.neighbours(), expected.neighbours())

    def test_a_distiller_is_teacher_and_student(self):
        teacher, student = network(16), network(4)
        penalty = lgg.Penalty(lgg.losses.GraphDistillation(), [("h1", "h1")], weight=1.0)

        def doubled(x):
            return 2 * x

        distiller = lgg.Distiller(teacher, student, [penalty], teacher_inputs=doubled)
        found = lgg.explore(distiller, X, LABELS)
        assert list(found.layers) == ["teacher", "student"]
        expected = lgg.explore({"teacher": teacher}, 2 * X, LABELS)
        for layer in found.layers["teacher"]:
            np.testing.assert_array_equal(
                found.neighbours("teacher", layer), expected.neighbours("teacher", layer)
            )

    def test_nested_and_long_models(self):
        inner = keras.Sequential(
            [keras.Input((12,)), *(keras.layers.Dense(5, name=f"d{i}") for i in range(20))],
            name="backbone",
        )
        model = keras.Sequential([keras.Input((12,)), inner, keras.layers.Dense(2, name="head")])
        layers = networks.default_layers(model)
        assert len(layers) == 8
        assert layers[0] == "backbone/d0"
        assert layers[-1] == "head"
        assert "backbone/d19" not in layers  # which is the backbone's own output
        blocks = [keras.Sequential([keras.layers.Dense(5)], name=f"block{i}") for i in range(5)]
        model = keras.Sequential([keras.Input((12,)), *blocks])
        assert networks.default_layers(model) == [f"block{i}" for i in range(5)]

    def test_a_subclassed_model(self):
        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.first, self.second = keras.layers.Dense(4), keras.layers.Dense(2)

            def call(self, x):
                return self.second(keras.ops.relu(self.first(x)))

        model = Own()
        model(X[:1])
        assert len(lgg.explore(model, X).layers["own"]) == 2

    def test_positions_are_pooled(self):
        model = keras.Sequential(
            [keras.Input((7,)), keras.layers.Embedding(9, 4, name="words"),
             keras.layers.GlobalAveragePooling1D(name="mean")]
        )  # fmt: skip
        x = RNG.integers(0, 9, (20, 7))
        found = lgg.explore(model, x, pool="mean")
        np.testing.assert_array_equal(
            found.neighbours(layer="words"), found.neighbours(layer="mean")
        )


def trained(snapshot, epochs=4):
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, LABELS, epochs=epochs, verbose=0, callbacks=[snapshot])
    return model


class TestEpochs:
    def test_of_a_snapshot(self, tmp_path):
        snapshot = GraphSnapshot(X, None, taps=["h1", "scores"], keep=True, every=2)
        model = trained(snapshot)
        found = lgg.explore(snapshot, X, LABELS)
        assert found.layers == {"plain": ("h1", "scores")}
        assert found.epochs == {"plain": (0, 2, 4)}
        assert found.measures()["knn_accuracy"].shape == (3, 2)
        now = lgg.explore(model, X, LABELS, layers=["h1", "scores"])
        for name, values in now.measures().items():
            np.testing.assert_allclose(found.measures()[name][-1], values[0], rtol=1e-4)
        np.testing.assert_array_equal(found.neighbours(), now.neighbours())
        both = lgg.explore({"run": snapshot, "now": model}, X, LABELS, layers=["h1"])
        both.save(tmp_path / "page.html")
        assert both.epochs == {"run": (0, 2, 4), "now": (None,)}

    def test_figures_and_layers(self, tmp_path):
        pytest.importorskip("matplotlib")
        snapshot = GraphSnapshot(X, LABELS, taps=["h1"], folder=tmp_path, keep=True)
        trained(snapshot, epochs=1)
        assert len(list(tmp_path.iterdir())) == 2
        assert list(snapshot.kept) == [0, 1]

    def test_of_many_epochs_some(self):
        assert networks.spread(range(100), 5) == [0, 25, 50, 74, 99]
        snapshot = GraphSnapshot(X, None, taps=["h1"], keep=True)
        layer = RNG.random((60, 3)).astype("float32")
        snapshot.kept = {epoch: {"h1": layer} for epoch in range(50)}
        probe = lgg.callbacks.probes.Probe(X)
        (kept,) = networks.networks_of({"run": snapshot}, probe, None, None, 6)
        assert kept.epochs == (0, 10, 20, 29, 39, 49)

    @pytest.mark.parametrize("different", [20, 7])
    def test_what_is_kept_has_the_same_geometry(self, different):
        rows = RNG.random((20, 10_000)).astype("float32")[np.arange(20) % different]
        kept = condensed(rows)
        assert kept.shape == (20, 20)
        np.testing.assert_allclose(kept @ kept.T, rows @ rows.T, rtol=1e-5)
        np.testing.assert_allclose(reference_rank(kept), reference_rank(rows), rtol=1e-3)

    def test_what_it_refuses(self):
        with pytest.raises(ValueError, match=r"keep=True.*Received: none of them"):
            GraphSnapshot(X, LABELS)
        idle = GraphSnapshot(X, LABELS, keep=True)
        with pytest.raises(ValueError, match=r"has kept nothing.*Expected.*Received: keep=True"):
            lgg.explore({"run": idle}, X)
        snapshot = GraphSnapshot(X, None, taps=["h1"], keep=True)
        trained(snapshot, epochs=1)
        with pytest.raises(ValueError, match=r"other samples.*Expected the same `x`"):
            lgg.explore(snapshot, X + 1)
        with pytest.raises(ValueError, match=r"`layers`.*\['h1'\].*Received: layers='h2'"):
            lgg.explore(snapshot, X, layers="h2")
        with pytest.raises(ValueError, match=r"`pool`.*Expected None"):
            lgg.explore(snapshot, X, pool="mean")

    def test_a_layer_that_is_not_finite(self):
        model = network()
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.layers[0].bias.assign(np.full(8, np.nan))
        snapshot = GraphSnapshot(X, None, taps=["h1"], keep=True)
        with pytest.raises(ValueError, match=r"layer h1.*finite"):
            model.fit(X, LABELS, verbose=0, callbacks=[snapshot])
        with pytest.raises(ValueError, match=r"plain, layer h1.*finite"):
            lgg.explore(model, X)


class Page(html.parser.HTMLParser):
    """What a page loads, what its scripts and styles say, and the data inside."""

    def __init__(self, path):
        super().__init__()
        self.loaded, self.styles, self.data, self.inside = [], [], "", None
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        self.data = json.loads(self.data)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.loaded += [attrs[name] for name in ("src", "href", "data", "srcset") if name in attrs]
        self.inside = "data" if attrs.get("id") == "data" else tag
        self.styles.append(attrs.get("style") or "")

    def handle_data(self, data):
        if self.inside == "data":
            self.data += data
        elif self.inside == "style":
            self.styles.append(data)

    def handle_endtag(self, tag):
        self.inside = None


def decoded(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


@pytest.fixture
def saved(tmp_path):
    def save(*args, **kwargs):
        lgg.explore(*args, **kwargs).save(tmp_path / "page.html")
        return Page(tmp_path / "page.html")

    return save


@pytest.mark.once
class TestPage:
    def test_nothing_comes_from_afar(self, saved):
        page = saved(network(), X, LABELS, images=PICTURES)
        assert page.loaded == []
        addresses = [url for style in page.styles for url in re.findall(r"url\((.{12})", style)]
        assert addresses == ["data:image/p"]
        assert not any("@import" in style for style in page.styles)
        assert "cdn.bokeh.org" not in re.sub(r"/\*.*?\*/", "", page.text.partition("</head>")[2])

    def test_it_holds_the_numbers(self, saved, found):
        keras.utils.set_random_seed(0)
        data = saved(network(), X, LABELS, k=4).data
        (ours,) = data["networks"]
        order = np.array(data["order"])
        assert (np.diff(LABELS[order]) >= 0).all()
        for i, layer in enumerate(ours["layers"]):
            frame, expected = ours["frames"][0][i], found.frames["plain"][0][i]
            near = decoded(frame["neighbours"], "<u2").reshape(60, 4)
            np.testing.assert_array_equal(near, found.neighbours(layer=layer))
            cosines = expected.geometry.cosines[np.ix_(order, order)]
            levels = decoded(frame["levels"], "u1") / 255
            upper = cosines[np.triu_indices(60, 1)]
            low = -1 if data["signed"] else 0
            np.testing.assert_allclose(low + levels * (1 - low), upper, atol=1 / 255)
            suspects = decoded(frame["suspects"], "<u2")
            np.testing.assert_array_equal(suspects, found.suspects(layer=layer))
            places = decoded(frame["places"], "<f4").reshape(60, 2)
            np.testing.assert_array_equal(places, expected.places)

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="no backend takes part")
    def test_its_size(self, saved):
        """At the limit: 500 samples with pictures that no file format makes small, 8 layers."""
        layers = [keras.layers.Dense(16, "relu", name=f"h{i}") for i in range(8)]
        model = keras.Sequential([keras.Input((12,)), *layers])
        x = RNG.random((500, 12))
        pictures = RNG.integers(0, 256, (500, 32, 32, 3)).astype("uint8")
        page = saved(model, x, np.arange(500) % 10, images=pictures)
        assert len(page.data["networks"][0]["layers"]) == 8
        assert len(page.text.encode()) < 6e6

    def test_texts_cannot_break_out(self, saved):
        evil = "</script><script>alert('x')</script>"
        page = saved(
            {f"{evil}": network()}, X, LABELS, texts=[f"{evil} {i}" for i in range(60)],
            classes=[evil, "b", "c", "d"],
        )  # fmt: skip
        assert page.data["captions"][3] == f"{evil} 3"
        assert evil not in page.text

    def test_a_notebook_shows_it_in_a_frame(self):
        shown = lgg.explore(network(), X, LABELS)._repr_html_()
        assert shown.startswith("<iframe ")
        frame = html.parser.HTMLParser()
        frame.handle_starttag = lambda tag, attrs: setattr(frame, tag, dict(attrs))
        frame.feed(shown)
        assert frame.iframe["srcdoc"].startswith("<!DOCTYPE html>")

    def test_a_file_that_is_there_is_replaced_whole(self, tmp_path, monkeypatch):
        path = tmp_path / "folder" / "page.html"
        lgg.explore(network(), X).save(path)
        before = path.read_text()
        found = lgg.explore(network(), X)
        monkeypatch.setattr("pathlib.Path.write_text", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            found.save(path)
        assert path.read_text() == before

    def test_bokeh_is_named_where_it_is_missing(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "bokeh.embed", None)
        with pytest.raises(ImportError, match=r'pip install "keras_lgg\[explorer\]"'):
            lgg.explore(network(), X).save(tmp_path / "page.html")


def sheet_of(shown):
    image = pytest.importorskip("PIL.Image")
    _, _, coded = shown.sheet.partition("base64,")
    return np.asarray(image.open(io.BytesIO(base64.b64decode(coded))))


def tile(shown, index):
    (width, height), columns = shown.size, shown.columns
    top, left = index // columns * height, index % columns * width
    return sheet_of(shown)[top : top + height, left : left + width]


@pytest.mark.once
class TestSamples:
    def test_pictures_as_they_are(self):
        shown = samples.samples_of(X, PICTURES)
        assert shown.size == (5, 6)
        for i in (0, 31, 59):
            np.testing.assert_array_equal(tile(shown, i), PICTURES[i])

    def test_pictures_of_any_scale(self):
        gray = PICTURES[..., 0]
        for given in (gray, gray[..., None], gray / 255, 255.0 * (gray / 255)):
            np.testing.assert_array_equal(tile(samples.samples_of(X, given), 7), gray[7])
        centred = (gray - 100.0) / 50
        np.testing.assert_allclose(
            tile(samples.samples_of(X, centred), 7).astype(int), gray[7], atol=2
        )

    def test_large_pictures_are_made_small(self):
        large = RNG.integers(0, 256, (10, 300, 150, 3)).astype("uint8")
        shown = samples.samples_of(X[:10], large)
        assert shown.size == (32, 64)
        assert sheet_of(shown).shape == (64 * 3, 32 * 4, 3)

    def test_what_x_shows_by_itself(self):
        assert samples.samples_of(PICTURES).size == (5, 6)
        assert samples.samples_of({"a": PICTURES[..., 0], "b": X}).size == (5, 6)
        words = np.array(["a cat", "two dogs"])
        assert samples.samples_of(words).captions == ["a cat", "two dogs"]
        assert samples.samples_of(words.astype(object)[:, None]).captions == ["a cat", "two dogs"]
        assert samples.samples_of(words.astype("S")).captions == ["a cat", "two dogs"]
        rows = samples.samples_of(np.array([[0.5, 2.0], [1 / 3, 0.0]]))
        assert rows.captions == ["0.5, 2", "0.333, 0"]
        assert samples.samples_of(X).captions[0].endswith("… (12)")

    def test_pictures_and_texts(self):
        shown = samples.samples_of(X, PICTURES, [str(i) for i in range(60)])
        assert shown.captions[4] == "4"
        assert shown.size == (5, 6)

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="strings are TensorFlow's")
    def test_a_model_of_texts(self, saved):
        texts = np.array([f"word{i % 3} word{i % 5}" for i in range(30)])
        words = keras.layers.TextVectorization(output_sequence_length=2)
        words.adapt(texts)
        model = keras.Sequential(
            [keras.Input((), dtype="string"), words, keras.layers.Embedding(20, 4, name="words"),
             keras.layers.GlobalAveragePooling1D(name="mean")]
        )  # fmt: skip
        data = saved(model, texts, np.arange(30) % 3, pool="mean").data
        assert data["captions"] == texts.tolist()
        assert data["networks"][0]["layers"] == ["words", "mean"]


REFUSED = {
    "too many samples": (
        {"x": np.zeros((501, 12), "float32"), "y": None},
        r"`x`.*Expected at most 500.*Received: 501.*x\[:500\]",
    ),
    "one sample": ({"x": X[:1], "y": None}, r"`x`.*at least 2 samples"),
    "labels of another length": ({"y": LABELS[:9]}, r"`y` and `x`.*Received: 9 in `y` and 60"),
    "targets": ({"y": RNG.normal(size=60)}, r"`y`.*Expected"),
    "an unknown layer": ({"layers": ["h9"]}, r"Unknown tap 'h9'.*Received: 'h9'"),
    "a pattern of nothing": ({"layers": "z*"}, r"matches no layer"),
    "no layers": ({"layers": []}, r"`layers`.*at least one"),
    "layers of another model": ({"layers": {"b": "h1"}}, r"`layers`.*\['plain'\].*\['b'\]"),
    "pictures of another length": (
        {"images": PICTURES[:5]}, r"`images`.*each of the 60 samples.*Received: images=5"
    ),
    "pictures that are none": ({"images": X}, r"`images`.*\(n, h, w\).*shape \(60, 12\)"),
    "pictures with NaN": ({"images": np.full((60, 2, 2), np.nan)}, r"`images`.*finite"),
    "texts of another length": ({"texts": ["a"]}, r"`texts`.*each of the 60 samples"),
    "texts that are none": ({"texts": LABELS}, r"`texts`.*a string for each"),
    "names too few": ({"classes": ["a"]}, r"`classes`.*labels from 0 to 3"),
    "names without labels": ({"y": None, "classes": ["a"]}, r"`classes`.*None without `y`"),
    "k": ({"k": 0}, r"`k`.*positive integer"),
    "pool": ({"pool": "median"}, r"`pool`.*one of"),
    "no model": ({"model": "plain"}, r"`model`.*Expected a Keras model.*a str"),
    "no models": ({"model": []}, r"`model`.*from 1 to 4"),
    "five models": ({"model": {i: network() for i in range(5)}}, r"from 1 to 4.*5 of them"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_it_refuses(arguments, message):
    given = {"model": network(), "x": X, "y": LABELS, **arguments}
    with pytest.raises(ValueError, match=message) as error:
        lgg.explore(given.pop("model"), given.pop("x"), given.pop("y"), **given)
    assert "Expected" in str(error.value)
    assert "Received" in str(error.value)


def test_names_of_networks_and_layers(found):
    with pytest.raises(ValueError, match=r"`network`.*\['plain'\]"):
        found.measures("smooth")
    with pytest.raises(ValueError, match=r"`layer`.*'h1', 'h2', 'scores'"):
        found.neighbours(layer="h3")
