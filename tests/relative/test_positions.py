"""Relative codes of what has positions: pooled, masked, padded to any length."""

import keras
import numpy as np
import pytest
import reference
from autodiff import ALL_MODES, BACKEND, to_numpy, value, value_and_grads
from backends import FLOAT64
from keras import layers, ops

from keras_lgg.layers import RelativeRepresentation, with_fixed_anchors

RNG = np.random.default_rng(0)
WORDS, WIDTH = 11, 3
TABLE = RNG.normal(size=(WORDS, WIDTH)).astype("float32")
POOLS = [None, "mean", "max", "first", "last"]


def sentences(lengths):
    return [RNG.integers(1, WORDS, length) for length in lengths]


def padded(sentences, length):
    """Ids ``(n, length)``, 0 after the ends."""
    return np.array([np.pad(s, (0, length - len(s))) for s in sentences]).astype("int32")


SAMPLES = sentences([4, 1, 6, 3, 2, 6, 5])
ANCHORS = sentences([5, 2, 3, 1, 4])
N, K, LONGEST = len(SAMPLES), len(ANCHORS), 6


def vectors(sentences, pool, length=LONGEST):
    """One vector a sentence, by a loop over sentences as they are."""
    found = []
    for sentence in sentences:
        rows = TABLE[sentence]
        found.append(
            {
                None: lambda r: np.pad(r, ((0, length - len(r)), (0, 0))).ravel(),
                "mean": lambda r: sum(r) / len(r),
                "max": lambda r: np.array([max(column) for column in r.T]),
                "first": lambda r: r[0],
                "last": lambda r: r[-1],
            }[pool](rows)
        )
    return np.array(found, "float64")


def expected_codes(pool, **options):
    return reference.relative_codes(vectors(SAMPLES, pool), vectors(ANCHORS, pool), **options)


def embedding(**options):
    layer = layers.Embedding(WORDS, WIDTH, **options)
    layer.build((None, None))
    layer.set_weights([TABLE])
    return layer


def masked_encoder():
    """Its output has Keras's own mask."""
    return keras.Sequential([keras.Input((None,), dtype="int32"), embedding(mask_zero=True)])


def named_encoder(kind=dict, mask="padding_mask"):
    """Its mask is an input, and its output has none."""
    ids, given = keras.Input((None,), dtype="int32", name="ids"), keras.Input((None,), name=mask)
    # Of padding, it makes something that must not count.
    vectors = layers.Add()([embedding()(ids), 7.0 * (1.0 - given[:, :, None])])
    inputs = {"ids": ids, mask: given} if kind is dict else [ids, given]
    return keras.Model(inputs, vectors, name="named")


def named_inputs(ids, kind=dict, mask="padding_mask"):
    given = (ids > 0).astype("float32")
    return {"ids": ids, mask: given} if kind is dict else [ids, given]


def held(ids, **options):
    return RelativeRepresentation(TABLE[ids], anchor_mask=ids > 0, **options)


def codes_of(route, anchors, samples, **options):
    """Codes of ids, by one of the ways that anchors and masks come to a layer."""
    if route == "Keras's mask":
        layer = RelativeRepresentation(anchors, encoder=masked_encoder(), **options)
        return to_numpy(layer(samples))
    if route.startswith("an input"):
        kind, mask = {"d": (dict, "padding_mask"), "l": (list, "attention_mask")}[route[-1]]
        layer = RelativeRepresentation(
            named_inputs(anchors, kind, mask), encoder=named_encoder(kind, mask), **options
        )
        return to_numpy(layer(named_inputs(samples, kind, mask)))
    x, mask = TABLE[samples], ops.convert_to_tensor(samples > 0)
    if route == "arrays":
        return to_numpy(held(anchors, **options)(x, mask=mask))
    layer = RelativeRepresentation(**options)
    return to_numpy(layer(x, anchors=TABLE[anchors], mask=mask, anchor_mask=anchors > 0))


ROUTES = ["Keras's mask", "an input in a d", "an input in a l", "arrays", "call"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("pool", POOLS)
def test_a_code_is_that_of_the_sentences_however_far_they_are_padded(route, pool):
    expected = expected_codes(pool)
    for of_anchors, of_samples in ((12, 6), (6, 12)):
        found = codes_of(
            route, padded(ANCHORS, of_anchors), padded(SAMPLES, of_samples), pool_positions=pool
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


OPTIONS = [
    {"similarity": "inner"},
    {"similarity": "euclidean", "normalization": "center"},
    {"similarity": ["l1", "inner", "cosine"], "normalization": "standardize"},
    {"similarity": ["cosine", "basis_change"], "pool": "mean"},
    {"similarity": "euclidean", "normalization": "whiten"},
    {"similarity": "basis_change", "normalization": "center"},
]


class TestPositionByPosition:
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_every_similarity_sees_zeros_without_end(self, options):
        names = options["similarity"]
        names, kind = ([names], "concat") if isinstance(names, str) else (names, "concat")
        kind = options.get("pool", kind)
        own = vectors(ANCHORS, None, 5)  # whose statistics do not depend on the batch
        normalization = options.get("normalization", "none")
        each = []
        for name in names:
            beyond = name not in ("inner", "basis_change") and normalization != "whiten"
            x = vectors(SAMPLES, None, 6)
            x, a = (x, vectors(ANCHORS, None, 6)) if beyond else (x[:, : own.shape[1]], own)
            each.append(reference.relative_codes(x, a, name, normalization))
        expected = np.mean(each, axis=0) if kind == "mean" else np.hstack(each)
        for of_samples in (6, 7, 12):
            found = codes_of("arrays", padded(ANCHORS, 5), padded(SAMPLES, of_samples), **options)
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)

    def test_batches_that_are_shorter_than_the_anchors(self):
        few = SAMPLES[3:5]
        for options in OPTIONS:
            found = codes_of("Keras's mask", padded(ANCHORS, 5), padded(few, 3), **options)
            longer = codes_of("Keras's mask", padded(ANCHORS, 5), padded(few, 9), **options)
            np.testing.assert_allclose(found, longer, rtol=1e-4, atol=1e-4)

    def test_without_a_mask_lengths_must_agree(self):
        layer = RelativeRepresentation(TABLE[padded(ANCHORS, 5)])
        with pytest.raises(ValueError, match=r"different spaces.*width 18.*width 15"):
            layer(TABLE[padded(SAMPLES, 6)])

    @pytest.mark.parametrize("mode", ALL_MODES)
    def test_open_lengths(self, mode):
        layer = held(padded(ANCHORS, 5), similarity=["cosine", "inner", "l1"])

        def run(ids):
            return layer(ops.take(TABLE, ids, axis=0), mask=ops.not_equal(ids, 0))

        if mode == "graph":
            import tensorflow as tf

            run = tf.function(run, input_signature=[tf.TensorSpec((None, None), "int32")])
        found = [
            value(run, [padded(SAMPLES, length)], "eager" if mode == "graph" else mode)
            for length in (6, 8)
        ]
        assert found[0].shape == (N, 3 * K)
        np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-5)


class TestGradients:
    @FLOAT64
    @pytest.mark.skipif(BACKEND == "jax", reason="JAX has float64 where it is switched on")
    @pytest.mark.parametrize("pool", POOLS)
    def test_by_differences(self, pool):
        """Of every position, those that are masked among them: they have none."""
        ids, anchors = padded(SAMPLES, 6)[[0, 3]], padded(ANCHORS, 5)
        x, mask = TABLE[ids].astype("float64"), ops.convert_to_tensor(ids > 0)
        layer = RelativeRepresentation(
            TABLE[anchors].astype("float64"),
            anchor_mask=anchors > 0,
            pool_positions=pool,
            dtype="float64",
        )
        weights = RNG.normal(size=(2, K))

        def total(x):
            return ops.multiply(weights, layer(x, mask=mask))

        _, (found,) = value_and_grads(total, [x])
        expected = reference.numerical_gradient(lambda x: np.sum(to_numpy(total(x))), x)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert (found[ids == 0] == 0).all()
        assert np.abs(found[ids > 0]).max() > 0.05

    def test_values_at_masked_positions_change_nothing(self):
        ids = padded(SAMPLES, 8)
        x, mask = TABLE[ids], ops.convert_to_tensor(ids > 0)
        for pool in POOLS:
            layer = held(padded(ANCHORS, 5), pool_positions=pool)
            expected = to_numpy(layer(x, mask=mask))
            other = np.where((ids > 0)[:, :, None], x, np.float32(np.nan))
            np.testing.assert_array_equal(to_numpy(layer(other, mask=mask)), expected)
            _, (gradient,) = value_and_grads(lambda x, layer=layer: layer(x, mask=mask), [other])
            assert np.isfinite(gradient).all()
            assert (gradient[ids == 0] == 0).all()


class TestMasks:
    def test_codes_have_none(self):
        """Keras would multiply it into losses."""
        layer = RelativeRepresentation(padded(ANCHORS, 5), encoder=masked_encoder())
        ids = padded(SAMPLES, 7)  # as many positions as samples
        assert keras.src.backend.get_keras_mask(layer(ids)) is None
        symbolic = keras.Input((7,), dtype="int32")
        assert keras.src.backend.get_keras_mask(layer(symbolic)) is None
        codes = RelativeRepresentation(padded(ANCHORS, 5), encoder=masked_encoder())
        model = keras.Sequential([keras.Input((7,), dtype="int32"), codes])
        model.compile(loss="mse")
        loss = model.evaluate(ids, np.zeros((N, K)), verbose=0)
        np.testing.assert_allclose(loss, np.mean(expected_codes(None) ** 2), rtol=1e-4)

    def test_masks_from_before_the_layer(self, tmp_path):
        """Samples come with a mask, and so anchors are given theirs."""
        ids, anchors = padded(SAMPLES, 6), padded(ANCHORS, 8)
        masked = embedding(mask_zero=True)
        x = keras.Input((None,), dtype="int32")
        layer = RelativeRepresentation(
            TABLE[anchors],
            encoder=layers.Activation("linear"),
            anchor_mask=anchors > 0,
            pool_positions="mean",
        )
        model = keras.Model(x, layer(masked(x)))
        expected = expected_codes("mean")
        found = layer(TABLE[ids], mask=ops.convert_to_tensor(ids > 0))
        np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.predict(ids, verbose=0), expected, rtol=1e-4, atol=1e-5)
        model.save(tmp_path / "model.keras")
        restored = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(
            restored.predict(ids, verbose=0), model.predict(ids, verbose=0)
        )
        fixed = with_fixed_anchors(model)
        np.testing.assert_allclose(fixed.predict(ids, verbose=0), expected, rtol=1e-4, atol=1e-5)

    def test_masks_of_both_in_a_functional_model(self):
        x, a = keras.Input((None,), dtype="int32"), keras.Input(batch_shape=(K, 5), dtype="int32")
        masked = embedding(mask_zero=True)
        codes = RelativeRepresentation(pool_positions="last")(masked(x), anchors=masked(a))
        model = keras.Model([x, a], codes)
        found = to_numpy(model([padded(SAMPLES, 9), padded(ANCHORS, 5)]))
        np.testing.assert_allclose(found, expected_codes("last"), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("pool", [None, "mean"])
    def test_fixed_anchors_and_files_keep_the_mask_that_is_an_input(self, pool, tmp_path):
        anchors = padded(ANCHORS, 5)
        inputs = {
            "ids": keras.Input((None,), dtype="int32", name="ids"),
            "padding_mask": keras.Input((None,), name="padding_mask"),
        }
        layer = RelativeRepresentation(
            named_inputs(anchors), encoder=named_encoder(), pool_positions=pool, name="codes"
        )
        model = keras.Model(inputs, layer(inputs))
        fixed = with_fixed_anchors(model)
        assert fixed.get_layer("codes").encoder is None
        for name, each in {"model": model, "fixed": fixed}.items():
            each.save(tmp_path / f"{name}.keras")
            restored = keras.saving.load_model(tmp_path / f"{name}.keras")
            for length in (6, 12):
                given = named_inputs(padded(SAMPLES, length))
                for m in (each, restored):
                    found = m.predict(given, verbose=0)
                    np.testing.assert_allclose(found, expected_codes(pool), rtol=1e-4, atol=1e-5)

    def test_kept_anchors_are_pooled(self):
        layer = RelativeRepresentation(
            padded(ANCHORS, 5), encoder=masked_encoder(), pool_positions="max", refresh_every=3
        )
        for _ in range(2):
            found = to_numpy(layer(padded(SAMPLES, 6), training=True))
            np.testing.assert_allclose(found, expected_codes("max"), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.anchors, vectors(ANCHORS, "max"), rtol=1e-5)

    def test_images_are_pooled(self):
        maps = RNG.normal(size=(4, 3, 5, 2)).astype("float32")
        layer = RelativeRepresentation(maps[:3], pool_positions="mean")
        expected = reference.relative_codes(maps.mean((1, 2)), maps[:3].mean((1, 2)))
        np.testing.assert_allclose(to_numpy(layer(maps)), expected, rtol=1e-4, atol=1e-5)
        assert layer(keras.Input((None, None, 2))).shape == (None, 3)


MASK = np.ones((N, 6), bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: RelativeRepresentation(TABLE[padded(ANCHORS, 5)])(
                TABLE[padded(SAMPLES, 6)], mask=MASK
            ),
            r"anchors have positions, and no mask.*np.ones\(\(K, T\), bool\)",
        ),
        (
            lambda: RelativeRepresentation()(
                TABLE[padded(SAMPLES, 6)], anchors=TABLE[padded(ANCHORS, 5)], mask=MASK
            ),
            "anchors have positions, and no mask",
        ),
        (
            lambda: RelativeRepresentation(
                TABLE[padded(ANCHORS, 5)], encoder=layers.Activation("relu")
            )(embedding(mask_zero=True)(padded(SAMPLES, 6))),
            "anchors have positions, and no mask",
        ),
        (
            lambda: RelativeRepresentation(TABLE[padded(ANCHORS, 5)], anchor_mask=MASK),
            r"`anchor_mask`.*\(K, T\).*shape \(7, 6\)",
        ),
        (
            lambda: RelativeRepresentation(TABLE[:5], anchor_mask=MASK[:5]),
            r"`anchor_mask`.*anchors \(K, T, ...\)",
        ),
        (lambda: RelativeRepresentation(anchor_mask=MASK), "`anchors`.*`anchor_mask` is of"),
        (
            lambda: held(padded(ANCHORS, 5))(
                TABLE[padded(SAMPLES, 6)], mask=MASK, anchor_mask=MASK[:5]
            ),
            "`anchor_mask`.*None in a call without anchors",
        ),
        (
            lambda: RelativeRepresentation(
                named_inputs(padded(ANCHORS, 5)), encoder=named_encoder()
            )(named_inputs(padded(SAMPLES, 6)), mask=MASK),
            r"`mask`.*its mask is one of them.*shape \(7, 6\)",
        ),
        (lambda: held(padded(ANCHORS, 5))(TABLE[padded(SAMPLES, 6)], mask=MASK[:, :4]), "`mask`"),
        (
            lambda: RelativeRepresentation(TABLE[:5], pool_positions="sum"),
            "`pool_positions`.*'mean'.*'sum'",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()
