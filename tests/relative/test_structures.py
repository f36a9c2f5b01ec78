"""Encoders that take several inputs, texts or large ids: anchors, files, clones, errors."""

import keras
import numpy as np
import pytest
import reference
from autodiff import BACKEND, to_numpy
from backends import needs
from keras import layers, ops

from keras_lgg import relative
from keras_lgg.layers import RelativeRepresentation, with_fixed_anchors
from keras_lgg.relative import stored, structures

RNG = np.random.default_rng(0)
WORDS, N, K = 11, 9, 4
IDS = RNG.integers(0, WORDS, (N, 5)).astype("int32")
LENGTHS = RNG.normal(size=(N, 2)).astype("float32")
TEXTS = np.array(
    ["a dog", "the cat sat", "zwölf Boxkämpfer", "", "a", "dog cat dog", "sat the", "a cat", "dog"]
)
TEXT = needs("texts as inputs of an encoder")


def several(kind=dict):
    """An encoder of ids and of lengths."""
    ids, lengths = keras.Input((5,), dtype="int32", name="ids"), keras.Input((2,), name="lengths")
    of_ids = layers.GlobalAveragePooling1D()(layers.Embedding(WORDS, 3, name="words")(ids))
    out = layers.Concatenate()([of_ids, lengths])
    inputs = {"ids": ids, "lengths": lengths} if kind is dict else [ids, lengths]
    return keras.Model(inputs, out, name="several")


def given(rows=slice(None), kind=dict):
    return (
        {"ids": IDS[rows], "lengths": LENGTHS[rows]} if kind is dict else [IDS[rows], LENGTHS[rows]]
    )


def expected_several(encoder):
    table = to_numpy(encoder.get_layer("words").weights[0])
    z = np.hstack([table[IDS].mean(axis=1), LENGTHS])
    return reference.relative_codes(z, z[:K])


def model_of(layer, x):
    """A Functional model of a layer that takes inputs like these."""

    def symbol(a, name=None):
        return keras.Input(
            a.shape[1:], dtype="string" if a.dtype.kind == "U" else a.dtype, name=name
        )

    if isinstance(x, dict):
        symbols = {name: symbol(a, name) for name, a in x.items()}
    else:
        symbols = keras.tree.map_structure(symbol, x)
    return keras.Model(symbols, layer(symbols))


def restored(model, path):
    model.save(path)
    return keras.saving.load_model(path)


class TestSeveralInputs:
    @pytest.mark.parametrize("kind", [dict, list])
    def test_codes_files_and_fixed_anchors(self, kind, tmp_path):
        encoder = several(kind)
        layer = RelativeRepresentation(
            given(slice(K), kind), encoder=encoder, name="codes", indices=range(K)
        )
        expected = expected_several(encoder)
        x = given(kind=kind)
        np.testing.assert_allclose(to_numpy(layer(x)), expected, rtol=1e-4, atol=1e-5)
        assert [v.shape for v in layer.non_trainable_variables] == [(K, 5), (K, 2)]
        model = model_of(layer, x)
        assert model.output_shape == (None, K)
        found = model.predict(x, verbose=0)
        again = restored(model, tmp_path / "model.keras")
        np.testing.assert_array_equal(again.predict(x, verbose=0), found)
        config = again.get_layer("codes").get_config()
        assert config["anchors"] == layer.get_config()["anchors"]
        fixed = with_fixed_anchors(again)
        np.testing.assert_allclose(fixed.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-5)
        assert (K, 2) not in [v.shape for v in fixed.variables]
        np.testing.assert_allclose(to_numpy(layer.fixed().anchors), to_numpy(layer.anchors))

    def test_training_in_which_anchors_are_kept(self):
        encoder = several()
        layer = RelativeRepresentation(given(slice(K)), encoder=encoder, refresh_every=2)
        model = model_of(layer, given())
        model.compile("sgd", "mse")
        before = to_numpy(encoder.trainable_variables[0]).copy()
        losses = model.fit(given(), np.eye(N, K), epochs=3, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        assert np.abs(to_numpy(encoder.trainable_variables[0]) - before).max() > 0
        expected = expected_several(encoder)
        np.testing.assert_allclose(model.predict(given(), verbose=0), expected, atol=1e-5)

    def test_a_subclassed_encoder(self):
        class Own(keras.layers.Layer):
            def call(self, x):
                return ops.concatenate([x["a"], 2.0 * x["b"][0]], axis=1)

        x = {"a": LENGTHS, "b": (LENGTHS[::-1],)}
        layer = RelativeRepresentation(keras.tree.map_structure(lambda a: a[:K], x), encoder=Own())
        z = np.hstack([LENGTHS, 2 * LENGTHS[::-1]])
        expected = reference.relative_codes(z, z[:K])
        np.testing.assert_allclose(to_numpy(layer(x)), expected, rtol=1e-4, atol=1e-5)

    @needs("`export` to SavedModel and ONNX")
    @pytest.mark.ci
    def test_export(self, tmp_path):
        import tensorflow as tf

        layer = RelativeRepresentation(given(slice(K)), encoder=several())
        model = model_of(layer, given())
        expected = model.predict(given(), verbose=0)
        with_fixed_anchors(model).export(tmp_path / "fixed", verbose=False)
        loaded = tf.saved_model.load(tmp_path / "fixed")
        found = loaded.serve(given())
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class TestLargeIds:
    def test_ids_of_64_bits(self, tmp_path):
        """Rows of a table by the remainder, which 32 bits would change."""

        @keras.saving.register_keras_serializable("tests")
        class Remainder(keras.layers.Layer):
            def call(self, ids):
                rows = ops.one_hot(ops.cast(ops.mod(ids, 7), "int32"), 7)
                return ops.reshape(rows, (-1, 7)) + 0.1

        ids = np.arange(N).reshape(-1, 1) * (10**10 + 3)
        if BACKEND == "jax":
            with pytest.raises(ValueError, match=r"`anchors`.*below 2\*\*31, as JAX keeps them"):
                RelativeRepresentation(ids[:K], encoder=Remainder())
            ids = (ids % 2**31).astype("int32")
        layer = RelativeRepresentation(ids[:K], encoder=Remainder())
        z = np.eye(7)[ids[:, 0] % 7] + 0.1
        expected = reference.relative_codes(z, z[:K])
        np.testing.assert_allclose(to_numpy(layer(ids)), expected, rtol=1e-4, atol=1e-5)
        again = restored(model_of(layer, ids), tmp_path / "model.keras")
        np.testing.assert_allclose(again.predict(ids, verbose=0), expected, rtol=1e-4, atol=1e-5)


def tokenizer():
    vocabulary = ["a", "dog", "the", "cat", "sat", "zwölf", "boxkämpfer"]
    return layers.TextVectorization(
        output_sequence_length=4, vocabulary=vocabulary, name="tokenizer"
    )


def of_texts(**options):
    return keras.Sequential(
        [
            keras.Input((), dtype="string"),
            tokenizer(),
            layers.Embedding(9, 3, mask_zero=True, name="words", **options),
        ]
    )


class TestTexts:
    @TEXT
    def test_codes_files_fixed_anchors_and_export(self, tmp_path):
        import tensorflow as tf

        # Anchors of other lengths than the texts, one with letters of two bytes.
        anchors = np.array(["a dog", "zwölf", "the cat sat", "boxkämpfer a a"])
        encoder = of_texts()
        layer = RelativeRepresentation(
            anchors, encoder=encoder, pool_positions="mean", name="codes", refresh_every=2
        )
        table = to_numpy(encoder.get_layer("words").weights[0])

        def vectors(texts):
            words = to_numpy(encoder.get_layer("tokenizer")(texts))
            means = [table[w[w > 0]].mean(axis=0) if (w > 0).any() else 0 * table[0] for w in words]
            return np.array(means)

        expected = reference.relative_codes(vectors(TEXTS), vectors(anchors))
        np.testing.assert_allclose(to_numpy(layer(TEXTS)), expected, rtol=1e-4, atol=1e-5)
        model = model_of(layer, TEXTS)
        x = tf.constant(TEXTS)
        again = restored(model, tmp_path / "model.keras")
        fixed = with_fixed_anchors(again)
        for m in (model, again, fixed, restored(fixed, tmp_path / "fixed.keras")):
            np.testing.assert_allclose(m.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-5)
        again.export(tmp_path / "exported", verbose=False)
        loaded = tf.saved_model.load(tmp_path / "exported")
        found = loaded.serve(x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    @TEXT
    def test_an_adapted_tokenizer_is_loaded_with_the_file(self, tmp_path):
        encoder = keras.Sequential(
            [
                keras.Input((), dtype="string"),
                layers.TextVectorization(output_sequence_length=3, max_tokens=9),
                layers.Embedding(9, 3),
                layers.Flatten(),
            ]
        )
        encoder.layers[0].adapt(TEXTS)
        model = model_of(RelativeRepresentation(TEXTS[:K], encoder=encoder), TEXTS)
        x = TEXTS.astype(object)
        again = restored(model, tmp_path / "model.keras")
        np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))

    @TEXT
    def test_bytes_and_back(self):
        texts = np.array([["", "zwölf", "日本"], ["a b", " ", "x" * 300]])
        codes = stored.bytes_of(texts)
        assert codes.shape == (2, 3, 300)
        found = to_numpy(stored.text_of(ops.convert_to_tensor(codes)))
        assert [[s.decode() for s in row] for row in found] == texts.tolist()
        with pytest.raises(ValueError, match=r"`anchors`.*character of code 0"):
            stored.bytes_of(np.array(["a\0b"]))

    @TEXT
    def test_kept_anchors_need_a_width(self):
        encoder = keras.Sequential(
            [
                keras.Input((), dtype="string"),
                layers.TextVectorization(vocabulary=["a"]),
                layers.Embedding(3, 2),
            ]
        )
        with pytest.raises(ValueError, match=r"`encoder`.*known width.*pool_positions"):
            RelativeRepresentation(TEXTS[:K], encoder=encoder, refresh_every=2)

    @pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has strings")
    def test_other_backends_say_what_to_do(self):
        with pytest.raises(ValueError, match=r"(?s)TensorFlow alone.*TextVectorization.*the ids"):
            RelativeRepresentation(TEXTS[:K], encoder=layers.Dense(2))


def flag_embedding():
    return keras.Sequential([keras.Input((5,), dtype="int32"), layers.Embedding(WORDS, 3)])


class TestWithoutWeights:
    """A layer made from its config has no anchors until its weights are set."""

    CASES = {  # noqa: RUF012
        "ids": (flag_embedding, IDS),
        "pixels": (lambda: layers.Rescaling(1 / 255), RNG.integers(0, 256, (N, 6)).astype("uint8")),
        "ids and lengths": (several, {"ids": IDS, "lengths": LENGTHS}),
        "floats": (lambda: layers.Dense(3, "relu"), LENGTHS),
    }
    if BACKEND == "tensorflow":
        CASES["texts"] = (of_texts, TEXTS)

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("options", [{}, {"normalization": "center", "refresh_every": 2}])
    def test_codes_are_missing(self, case, options):
        make, x = self.CASES[case]
        anchors = structures.rows_of(x, slice(K))
        layer = RelativeRepresentation(anchors, encoder=make(), **options)
        expected = to_numpy(layer(x))
        assert np.isfinite(expected).all()
        copy = RelativeRepresentation.from_config(layer.get_config())
        copy.encoder.set_weights(layer.encoder.get_weights())
        assert np.isnan(to_numpy(copy(x))).all()
        assert np.isnan(to_numpy(copy(x, training=True))).all()
        with pytest.raises(ValueError, match="finite"):
            copy.fixed()
        copy.set_weights(layer.get_weights())
        np.testing.assert_allclose(to_numpy(copy(x)), expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.ci
    def test_in_a_compiled_clone(self):
        model = model_of(RelativeRepresentation(IDS[:K], encoder=flag_embedding()), IDS)
        clone = keras.models.clone_model(model)
        assert np.isnan(clone.predict(IDS, verbose=0)).all()
        clone.set_weights(model.get_weights())
        np.testing.assert_allclose(
            clone.predict(IDS, verbose=0), model.predict(IDS, verbose=0), atol=1e-6
        )


class TestGraphNetworks:
    """The nodes of one graph are the batch, and some of them the anchors."""

    ADJACENCY = RNG.random((N, N)).astype("float32")
    ANCHORS = (7, 0, 3, 5)

    def network(self):
        x, adjacency = keras.Input((2,), name="x"), keras.Input((N,), name="adjacency")
        z = ops.matmul(adjacency, layers.Dense(3, name="convolution")(x))
        anchors = ops.take(z, list(self.ANCHORS), axis=0)
        codes = RelativeRepresentation(indices=self.ANCHORS)(z, anchors=anchors)
        return keras.Model([x, adjacency], codes)

    def test_codes_of_nodes(self, tmp_path):
        model, x = self.network(), [LENGTHS, self.ADJACENCY]
        assert model.output_shape == (None, K)
        kernel, bias = map(to_numpy, model.get_layer("convolution").weights)
        z = self.ADJACENCY @ (LENGTHS @ kernel + bias)
        expected = reference.relative_codes(z, z[list(self.ANCHORS)])
        for m in (model, restored(model, tmp_path / "model.keras")):
            found = m.predict(x, batch_size=N, verbose=0)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)

    def test_stitching(self):
        models = []
        for scale in (1.0, -3.0):
            encoder, decoder = (
                self.network(),
                keras.Sequential([keras.Input((K,)), layers.Dense(2)]),
            )
            models.append((encoder, decoder))
            kernel = models[0][0].get_layer("convolution").get_weights()[0]
            encoder.get_layer("convolution").set_weights([scale * kernel, np.zeros(3)])
        data = [LENGTHS, self.ADJACENCY], LENGTHS
        report = relative.stitching_matrix(models, data, "mse", batch_size=N)
        # The second space is the first one, turned round and scaled: its codes are the same.
        np.testing.assert_allclose(report.relative[0], report.relative[1], rtol=1e-4)


class TestChecks:
    @pytest.mark.parametrize(
        ("x", "n"),
        [
            (IDS, N),
            (IDS.tolist(), N),
            (TEXTS.tolist(), N),
            (list(IDS), N),
            ([IDS, LENGTHS], N),
            ([TEXTS, LENGTHS], N),
            ((TEXTS, TEXTS[::-1]), N),
            ((TEXTS.tolist(), TEXTS.tolist()), N),
            ({"en": TEXTS.tolist(), "ids": IDS}, N),
            ([["a", "b"]] * N, N),
            ({"a": IDS, "b": [LENGTHS, TEXTS]}, N),
        ],
    )
    def test_counts(self, x, n):
        assert structures.sample_count("x", x) == n

    def test_vocabulary(self):
        encoder = several(list)
        structures.check_vocabulary("x", encoder, {"lengths": 100 + LENGTHS, "ids": IDS})
        words, first = (keras.Input((5,), dtype="int32", name=name) for name in ("words", "first"))
        both = [layers.Embedding(WORDS, 3)(words), layers.Embedding(2, 3)(first)]
        in_a_list = keras.Model([words, first], layers.Add()(both))
        structures.check_vocabulary("x", in_a_list, {"first": IDS % 2, "words": IDS})
        with pytest.raises(ValueError, match=r"ids in x\['first'\]"):
            structures.check_vocabulary("x", in_a_list, {"first": IDS, "words": IDS % 2})
        nested = keras.Sequential([keras.Input((5,), dtype="int32"), flag_embedding()])
        for broken in (IDS + 1, IDS - 1):
            for model, x, name in (
                (encoder, {"lengths": LENGTHS, "ids": broken}, r"x\['ids'\]"),
                (encoder, [broken, LENGTHS], r"x\[0\]"),
                (several(), {"ids": broken, "lengths": LENGTHS}, r"x\['ids'\]"),
                (nested, broken, "x"),
                (layers.Embedding(WORDS, 2), broken, "x"),
            ):
                match = rf"(?s)ids in {name} are beyond.*\[0, 11\).*from {broken.min()} to"
                with pytest.raises(ValueError, match=match):
                    structures.check_vocabulary("x", model, x)

    def test_vocabulary_of_networks_of_keras_hub(self):
        hub = pytest.importorskip("keras_hub", reason="KerasHub is in the extra text")
        ids = keras.Input((5,), dtype="int32")
        embedding = hub.layers.TokenAndPositionEmbedding(WORDS, 5, 4)
        encoder = keras.Model(ids, layers.GlobalAveragePooling1D()(embedding(ids)))
        size = {"num_layers": 1, "num_heads": 2, "hidden_dim": 4, "intermediate_dim": 8}
        backbone = hub.models.DistilBertBackbone(WORDS, max_sequence_length=5, **size)
        for model, wrap in (
            (encoder, lambda ids: ids),
            (backbone, lambda ids: {"token_ids": ids, "padding_mask": np.ones_like(ids)}),
        ):
            RelativeRepresentation(wrap(IDS[:K]), encoder=model, pool_positions="mean")
            with pytest.raises(ValueError, match=r"beyond the vocabulary.*\[0, 11\)"):
                RelativeRepresentation(wrap(IDS[:K] + 1), encoder=model, pool_positions="mean")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: RelativeRepresentation(IDS[:K] + 1, encoder=flag_embedding()),
            r"ids in anchors are beyond the vocabulary.*\[0, 11\).*tokenizer",
        ),
        (
            lambda: RelativeRepresentation(
                {"ids": IDS[:K], "lengths": LENGTHS[:3]}, encoder=several()
            ),
            r"different samples.*Received: 4 in anchors\['ids'\] and 3 in anchors\['lengths'\]",
        ),
        (
            lambda: RelativeRepresentation(IDS[:K], encoder=several()),
            "`anchors`.*inputs that the encoder 'several' takes.*raised",
        ),
        (
            lambda: RelativeRepresentation(
                {"ids": IDS[:K], "lengths": LENGTHS[:K] * np.inf}, encoder=several()
            ),
            "`anchors`.*finite",
        ),
        (
            lambda: RelativeRepresentation(
                LENGTHS[:K], encoder=keras.Model(x := keras.Input((2,)), [x, 2 * x])
            ),
            "`encoder`.*one output",
        ),
        (lambda: RelativeRepresentation({"a": LENGTHS}), "`anchors`.*numbers of shape"),
        (lambda: RelativeRepresentation([None] * 3, encoder=several()), "`anchors`.*Expected"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=f"(?s){message}"):
        call()
