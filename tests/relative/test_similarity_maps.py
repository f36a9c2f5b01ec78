"""Maps of layers: the measures of what the layers make of the samples, however these are cut."""

import keras
import numpy as np
import pytest
import similarity_reference as reference
from keras import layers

import keras_lgg as lgg
from keras_lgg.relative import similarity_maps

relative = lgg.relative
N = 50
X = np.random.default_rng(0).normal(size=(N, 4)).astype("float32")
MODELS = {}


def mlp(width, name):
    """One of each, shared by the tests; its second layer is in a model of its own."""
    if name not in MODELS:
        keras.utils.set_random_seed(width)
        inner = keras.Sequential(
            [
                keras.Input((width,)),
                layers.Dense(5, "tanh", name="b1"),
                layers.Dropout(0.5, name="b2"),
            ],
            name="inner",
        )
        inputs = keras.Input((4,))
        h = layers.Dense(width, "tanh", name="h1")(inputs)
        outputs = layers.Dense(3, name="scores")(inner(h))
        MODELS[name] = keras.Model(inputs, outputs, name=name)
    return MODELS[name]


def weights(model, *path):
    layer = model
    for name in path:
        layer = layer.get_layer(name)
    return [np.array(w) for w in layer.get_weights()]


def by_hand(model):
    """What the layers make of the samples, from their weights."""
    kernel, bias = weights(model, "h1")
    h1 = np.tanh(X @ kernel + bias)
    kernel, bias = weights(model, "inner", "b1")
    b1 = np.tanh(h1 @ kernel + bias)
    kernel, bias = weights(model, "scores")
    return {"h1": h1, "inner/b1": b1, "inner/b2": b1, "inner": b1, "scores": b1 @ kernel + bias}


def expected_of(measure, first, second, paths_a, paths_b):
    a, b = by_hand(first), by_hand(second)
    return np.array([[measure(a[p], b[q]) for q in paths_b] for p in paths_a])


class TestOfTwoNetworks:
    def test_in_batches(self):
        """All layers of both, by the slow definition: 3 batches, whose sizes differ."""
        first, second = mlp(6, "first"), mlp(9, "second")
        found = relative.similarity_map(first, second, X, batch_size=16)
        assert isinstance(found, relative.SimilarityMap)
        assert found.layers_a == found.layers_b == tuple(by_hand(first))
        assert found.measure == "minibatch_cka"
        parts = np.split(np.arange(N), [17, 33])
        expected = expected_of(
            lambda a, b: reference.minibatch_cka(a, b, parts),
            first,
            second,
            found.layers_a,
            found.layers_b,
        )
        np.testing.assert_allclose(found.matrix, expected, atol=1e-5)
        assert np.ptp(found.matrix) > 0.1

    @pytest.mark.once
    @pytest.mark.parametrize("name", similarity_maps.MEASURES)
    def test_measures(self, name):
        """All of them on whole layers, but for the one above."""
        first, second = mlp(6, "first"), mlp(9, "second")
        found = relative.similarity_map(
            first, second, X, layers_a=["h1", "scores"], layers_b="inner*", measure=name
        )
        assert found.layers_a == ("h1", "scores")
        assert found.layers_b == ("inner/b1", "inner/b2", "inner")
        assert found.measure == name
        expected = expected_of(
            getattr(relative, name), first, second, found.layers_a, found.layers_b
        )
        np.testing.assert_allclose(found.matrix, expected, atol=1e-4)

    @pytest.mark.once
    def test_all_measures_are_there(self):
        others = {"compare_spaces", "similarity_map"}
        functions = {n for n in relative.__all__ if n.endswith(("cka", "cca", "jaccard"))}
        assert set(similarity_maps.MEASURES) == functions | {"rsa", "procrustes_distance"}
        assert not others & set(similarity_maps.MEASURES)

    def test_a_function(self):
        model = mlp(6, "first")

        def first_sample(a, b):
            return a[0, 0] * b[0, 0]

        h1 = model.get_layer("h1")
        found = relative.similarity_map(
            model, model, X, layers_a=h1, layers_b=[h1, "scores", "h1"], measure=first_sample
        )
        assert (found.layers_a, found.layers_b) == (("h1",), ("h1", "scores"))
        assert found.measure == "first_sample"
        values = by_hand(model)
        expected = [[values["h1"][0, 0] * values[p][0, 0] for p in ("h1", "scores")]]
        np.testing.assert_allclose(found.matrix, expected, atol=1e-5)

    @pytest.mark.once
    def test_a_network_with_itself(self):
        model = mlp(6, "first")
        matrix = relative.similarity_map(model, model, X, batch_size=25).matrix
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-7)
        np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-7)
        assert model.trainable_weights == mlp(6, "first").trainable_weights

    @pytest.mark.once
    def test_samples_that_the_networks_see_differently(self):
        """Doubled for one, whose first layer has half the weights."""
        first = mlp(6, "first")
        halved = keras.models.clone_model(first)
        halved.set_weights(first.get_weights())
        kernel, bias = weights(halved, "h1")
        halved.get_layer("h1").set_weights([kernel / 2, bias])
        found = relative.similarity_map(first, halved, X, x_b=2 * X)
        np.testing.assert_allclose(np.diag(found.matrix), 1, atol=1e-6)
        other = relative.similarity_map(first, halved, X)
        assert np.diag(other.matrix).min() < 1 - 1e-3

    def test_ids_of_another_tokenizer(self):
        words = [keras.Input((3,), dtype="int32"), layers.Embedding(7, 2), layers.Flatten()]
        model, ids = keras.Sequential(words), np.arange(60).reshape(20, 3) % 7
        with pytest.raises(ValueError, match=r"(?s)ids in x_b are beyond.*\[0, 7\).*from 1 to 7"):
            relative.similarity_map(model, model, ids, x_b=ids + 1)

    @pytest.mark.once
    def test_no_layer_is_held_whole(self, monkeypatch):
        """With the batches, the number of samples seen at a time stays."""
        seen = []
        products = similarity_maps.kernels.products
        monkeypatch.setattr(
            similarity_maps.kernels,
            "products",
            lambda a, b: seen.append(len(a[0])) or products(a, b),
        )
        model = mlp(6, "first")
        relative.similarity_map(model, model, np.tile(X, (4, 1)), batch_size=25, layers_a="h1")
        assert seen == [25] * 8


class TestOfSequences:
    """A layer of tokens, two of four samples padded."""

    TOKENS = np.random.default_rng(0).integers(1, 9, size=(24, 5)) * (
        np.arange(5) < np.where(np.arange(24) % 2, 5, 3)[:, None]
    )

    @staticmethod
    def reader():
        if "reader" not in MODELS:
            tokens = keras.Input((None,), dtype="int32")
            h = layers.Embedding(9, 4, mask_zero=True, name="embedding")(tokens)
            states, last = layers.GRU(3, return_sequences=True, return_state=True, name="gru")(h)
            h = layers.GlobalAveragePooling1D(name="pooled")(states)
            both = layers.Concatenate(name="both")([h, last])
            MODELS["reader"] = keras.Model(tokens, both, name="reader")
        return MODELS["reader"]

    @pytest.mark.parametrize("pool", ["mean", None])
    def test_masked_positions_do_not_count(self, pool):
        model = self.reader()
        paths = ["embedding", "gru:1"]
        found = relative.similarity_map(
            model, model, self.TOKENS, layers_a=paths, layers_b=paths, pool=pool, batch_size=24
        )
        table = np.array(model.get_layer("embedding").get_weights()[0])
        mask = (self.TOKENS != 0)[:, :, None]
        vectors = table[self.TOKENS] * mask
        vectors = vectors.sum(axis=1) / mask.sum(axis=1) if pool else vectors.reshape(24, -1)
        last = keras.ops.convert_to_numpy(model(self.TOKENS))[:, 3:]
        expected = relative.debiased_cka(vectors, last)
        assert found.matrix[0, 1] == pytest.approx(expected, abs=1e-4)

    @pytest.mark.once
    def test_the_length_of_the_padding_does_not_count(self):
        model = self.reader()
        options = {"layers_a": ["embedding", "gru:0"], "layers_b": "pooled", "pool": "mean"}
        found = relative.similarity_map(model, model, self.TOKENS, **options)
        padded = np.pad(self.TOKENS, ((0, 0), (0, 4)))
        again = relative.similarity_map(model, model, padded, **options)
        np.testing.assert_allclose(again.matrix, found.matrix, atol=1e-5)


class Positions(layers.Layer):
    """The same vectors for all samples, and, where asked to, a table for none of them."""

    def __init__(self, with_table=False, **kwargs):
        super().__init__(**kwargs)
        self.with_table = with_table

    def call(self, x):
        table = keras.ops.reshape(keras.ops.arange(6, dtype="float32"), (2, 3))
        same = keras.ops.zeros_like(x) + 0.1
        return (same, table) if self.with_table else same


class TestEdges:
    @pytest.mark.once
    @pytest.mark.parametrize("measure", ["minibatch_cka", "linear_cka", "svcca"])
    def test_a_layer_that_is_the_same_for_all_samples(self, measure):
        inputs = keras.Input((4,))
        same = Positions(name="same")(inputs)
        outputs = layers.Dense(3, name="out")(layers.Add(name="sum")([inputs, same]))
        model = keras.Model(inputs, outputs)
        found = relative.similarity_map(model, model, X, measure=measure)
        is_same = np.array([path == "same" for path in found.layers_a])
        expected = is_same[:, None] | is_same
        assert (np.isnan(found.matrix) == expected).all()

    @pytest.mark.once
    def test_what_is_not_of_the_samples_is_left_out(self):
        inputs = keras.Input((4,))
        same, _ = Positions(with_table=True, name="two")(inputs)
        model = keras.Model(inputs, layers.Dense(3, name="out")(same + inputs))
        found = relative.similarity_map(model, model, X)
        assert "two:0" in found.layers_a
        assert "two:1" not in found.layers_a
        with pytest.raises(ValueError, match=r"(?s)'two:1'.*one row for each of the 50.*\(2, 3\)"):
            relative.similarity_map(model, model, X, layers_a="two:1")

    @pytest.mark.once
    def test_fewest_samples(self):
        model = mlp(6, "first")
        found = relative.similarity_map(model, model, X[:4], layers_a="h1", layers_b="h1")
        assert found.matrix == pytest.approx(1)

    @pytest.mark.once
    def test_table(self):
        found = relative.SimilarityMap(np.array([[0.5, np.nan]]), ("h",), ("g", "f"), "rsa")
        lines = ["| rsa | g | f |", "| --- | --- | --- |", "| h | 0.50 | nan |"]
        assert found.to_markdown() == "\n".join(lines)


@pytest.mark.once
class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"measure": "ckka"}, "`measure`.*linear_cka.*'ckka'"),
            ({"measure": 3}, "`measure`.*a function.*3"),
            ({"layers_a": []}, "`layers_a`.*at least one layer"),
            ({"layers_b": ["h7"]}, "h7.*h1"),
            ({"layers_b": "z*"}, "z.*matches no layer"),
            ({"batch_size": 3}, "`batch_size`.*at least 4.*3"),
            ({"pool": "sum"}, "`pool`.*'sum'"),
            ({"x": X[:3]}, "`x`.*at least 4 samples.*3, 4"),
            ({"x": None}, "`x`.*at least 4 samples"),
            ({"x_b": X[:-1]}, "`x_b`.*one length.*50, 4.*49, 4"),
            ({"x": X * np.nan}, "h1 of first.*finite"),
            ({"measure": "pwcca", "x": X[:5]}, "'h1' of 'first'.*'h1' of 'first'"),
        ],
    )
    def test_of_arguments(self, options, message):
        model = mlp(6, "first")
        with pytest.raises(ValueError, match=f"(?s){message}"):
            relative.similarity_map(model, model, **{"x": X, **options})
