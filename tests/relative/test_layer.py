import keras
import numpy as np
import pytest
from autodiff import BACKEND, MODES, to_numpy, value, value_and_grads
from backends import FLOAT64
from keras import layers, ops

import keras_lgg as lgg
from keras_lgg import relative
from keras_lgg.layers import RelativeRepresentation, with_fixed_anchors

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype("float32")
Y = np.arange(12) % 3
ANCHORS = RNG.normal(size=(5, 4)).astype("float32")
Z = RNG.normal(size=(12, 4)).astype("float32")
INPUTS = X[:5]  # anchors of an encoder
# What `fit` compiles with: on JAX, operation by operation takes longest.
JIT = {"tensorflow": [False, True], "jax": [True], "torch": [False]}[BACKEND]


def dense(width=4, **options):
    return keras.Sequential([keras.Input((6,)), layers.Dense(width, **options)], name="encoder")


def classifier(layer, **options):
    """A network behind the codes, ready to fit."""
    model = keras.Sequential([keras.Input(X.shape[1:]), layer, layers.Dense(3, name="head")])
    return ready(model, **options)


def ready(model, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, **{"jit_compile": JIT[0], **options})
    return model


def projected(x, anchors, **options):
    return to_numpy(relative.relative_projection(to_numpy(x), to_numpy(anchors), **options))


def assert_same_weights(a, b, tolerance=1e-6):
    assert len(a.variables) == len(b.variables) > 0
    for v, w in zip(a.variables, b.variables, strict=True):
        np.testing.assert_allclose(to_numpy(v), to_numpy(w), rtol=tolerance, atol=tolerance)


class TestFixedAnchors:
    @pytest.mark.parametrize(
        "options",
        [
            {"similarity": "lp", "p": 3.0, "normalization": "standardize"},
            {"similarity": "basis_change", "normalization": "whiten"},
            {"similarity": ["cosine", "l1"], "pool": "mean", "normalization": "center"},
            {"similarity": ["cosine", "l1", "inner"], "pool": "stack"},
        ],
        ids=str,
    )
    def test_are_those_of_the_function(self, options):
        layer = RelativeRepresentation(ANCHORS, **options)
        found = layer(Z)
        np.testing.assert_array_equal(to_numpy(found), projected(Z, ANCHORS, **options))
        assert layer(keras.Input((4,))).shape == (None, *found.shape[1:])
        assert layer.trainable_variables == []
        np.testing.assert_array_equal(to_numpy(layer.anchors), ANCHORS)

    @pytest.mark.parametrize("pool", ["concat", "sum", "stack"])
    def test_steps_and_classes_of_each_similarity(self, pool):
        labels, names = [1, 0, 0, 2, 1], ["cosine", "euclidean"]
        options = {"bin_size": 0.25, "quantization": "smooth_steps", "anchor_labels": labels}
        layer = RelativeRepresentation(ANCHORS, similarity=names, pool=pool, **options)
        each = []
        for name in names:
            codes = relative.relative_projection(Z, ANCHORS, similarity=name)
            codes = relative.quantize(codes, bin_size=0.25, method="smooth_steps")
            each.append(to_numpy(relative.class_codes(codes, labels)))
        expected = {"concat": np.hstack, "sum": sum, "stack": lambda c: np.stack(c, axis=1)}[pool]
        np.testing.assert_allclose(to_numpy(layer(Z)), expected(each), rtol=1e-6, atol=1e-6)
        assert layer(keras.Input((4,))).shape[1:] == expected(each).shape[1:]

    def test_rounded_codes(self):
        found = RelativeRepresentation(ANCHORS, bin_size=0.5)(Z)
        np.testing.assert_array_equal(np.unique(found), [-1.0, -0.5, 0.0, 0.5, 1.0])

    def test_representations_of_any_rank(self):
        maps, anchors = Z.reshape(12, 2, 1, 2), ANCHORS.reshape(5, 2, 1, 2)
        expected = projected(Z, ANCHORS)
        np.testing.assert_array_equal(to_numpy(RelativeRepresentation(anchors)(maps)), expected)
        symbolic = RelativeRepresentation(anchors)(keras.Input((2, 1, 2)))
        assert symbolic.shape == (None, 5)

    @FLOAT64
    @pytest.mark.skipif(BACKEND == "jax", reason="JAX has float64 where it is switched on")
    def test_representations_of_another_dtype(self):
        layer = RelativeRepresentation(ANCHORS.astype("float64"), normalization="center")
        expected = projected(Z, ANCHORS, normalization="center")
        found = layer(Z.astype("float64"))
        assert ops.dtype(found) == "float32"
        np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-5, atol=1e-6)

    @FLOAT64
    @pytest.mark.skipif(BACKEND == "jax", reason="JAX has float64 where it is switched on")
    def test_a_layer_of_float64(self):
        anchors, z = ANCHORS.astype("float64"), Z.astype("float64")
        found = RelativeRepresentation(anchors, normalization="whiten", dtype="float64")(z)
        np.testing.assert_array_equal(found, projected(z, anchors, normalization="whiten"))

    def test_a_list_of_numbers(self):
        assert RelativeRepresentation([[1, 2], [3, 4]])(Z[:, :2]).shape == (12, 2)


class TestAnchorsOfEachCall:
    def test_codes_and_gradients(self):
        layer = RelativeRepresentation(similarity=["cosine", "basis_change"])
        options = {"similarity": ["cosine", "basis_change"]}
        np.testing.assert_array_equal(
            to_numpy(layer(Z, anchors=ANCHORS)), projected(Z, ANCHORS, **options)
        )
        assert layer.variables == []
        assert layer.anchors is None
        _, (to_samples, to_anchors) = value_and_grads(
            lambda z, a: layer(z, anchors=a) ** 2, [Z, ANCHORS]
        )
        np.testing.assert_array_equal(to_anchors, np.zeros_like(ANCHORS))
        stats = relative.anchor_statistics(ANCHORS, **options)
        _, (expected,) = value_and_grads(
            lambda z: relative.relative_projection(z, ANCHORS, stats=stats, **options) ** 2, [Z]
        )
        np.testing.assert_allclose(to_samples, expected, rtol=1e-4, atol=1e-5)

    def test_in_a_subclassed_model(self):
        class Model(keras.Model):
            def __init__(self):
                super().__init__()
                self.encoder = layers.Dense(4)
                self.codes = RelativeRepresentation(normalization="standardize")
                self.head = layers.Dense(3)

            def call(self, x):
                anchors = self.encoder(ops.convert_to_tensor(INPUTS))
                return self.head(self.codes(self.encoder(x), anchors=anchors))

        model = ready(Model())
        losses = model.fit(X, Y, epochs=5, batch_size=12, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        expected = projected(
            model.encoder(X), model.encoder(INPUTS), normalization="standardize"
        ) @ to_numpy(model.head.kernel)
        np.testing.assert_allclose(
            to_numpy(model(X)), expected + to_numpy(model.head.bias), rtol=1e-4, atol=1e-5
        )

    def test_as_an_input_of_a_functional_model(self):
        z, anchors = keras.Input((4,)), keras.Input((4,))
        codes = RelativeRepresentation(normalization="whiten")(z, anchors=anchors)
        assert codes.shape == (None, None)
        model = keras.Model([z, anchors], codes)
        expected = projected(Z, ANCHORS, normalization="whiten")
        np.testing.assert_allclose(to_numpy(model([Z, ANCHORS])), expected, rtol=1e-4, atol=1e-5)


def conv():
    return keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(2, 3, strides=2), layers.BatchNormalization()]
    )


def embedding():
    return keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            layers.Embedding(11, 4, mask_zero=True),
            layers.GlobalAveragePooling1D(),
        ]
    )


class TestEncoder:
    @pytest.mark.parametrize("options", [{}, {"refresh_every": 3, "normalization": "whiten"}])
    def test_codes_are_of_encoded_samples_and_anchors(self, options):
        encoder = dense()
        layer = RelativeRepresentation(INPUTS, encoder=encoder, **options)
        options.pop("refresh_every", None)
        expected = projected(encoder(X), encoder(INPUTS), **options)
        np.testing.assert_allclose(to_numpy(layer(X)), expected, rtol=1e-5, atol=1e-6)
        assert layer(keras.Input((6,))).shape == (None, 5)
        np.testing.assert_allclose(to_numpy(layer.anchors), to_numpy(encoder(INPUTS)), rtol=1e-6)
        assert len(layer.trainable_variables) == 2

    @pytest.mark.parametrize(
        ("make", "inputs"),
        [
            (conv, RNG.normal(size=(12, 6, 6, 1)).astype("float32")),
            (embedding, RNG.integers(0, 11, (12, 7)).astype("int32")),
            (lambda: layers.Dense(3), X),
        ],
        ids=["conv", "embedding", "layer"],
    )
    def test_kinds(self, make, inputs, tmp_path):
        encoder = make()
        layer = RelativeRepresentation(inputs[:5], encoder=encoder, name="codes")
        expected = projected(encoder(inputs), encoder(inputs[:5]))
        model = keras.Sequential([keras.Input(inputs.shape[1:], dtype=inputs.dtype.name), layer])
        np.testing.assert_allclose(model.predict(inputs, verbose=0), expected, atol=1e-6)
        model.save(tmp_path / "model.keras")
        restored = keras.saving.load_model(tmp_path / "model.keras")
        found = restored.predict(inputs, verbose=0)
        np.testing.assert_array_equal(found, model.predict(inputs, verbose=0))

    def test_layers_without_a_training_argument(self):
        layer = RelativeRepresentation(INPUTS, encoder=layers.Identity())
        for training in (False, True):
            found = to_numpy(layer(X, training=training))
            np.testing.assert_array_equal(found, projected(X, INPUTS))

    @pytest.mark.parametrize("refresh_every", [1, 2])
    def test_gradient_is_that_with_the_anchors_as_constants(self, refresh_every):
        encoder = dense(use_bias=False)
        options = {"similarity": ["cosine", "basis_change"], "normalization": "center"}
        layer = RelativeRepresentation(
            INPUTS, encoder=encoder, refresh_every=refresh_every, **options
        )
        kernel = to_numpy(encoder.weights[0])
        anchors = INPUTS @ kernel
        stats = relative.anchor_statistics(
            anchors, similarity=options["similarity"], normalization="center"
        )
        layer(X)
        state = [v.value for v in layer.non_trainable_variables]
        weights = RNG.normal(size=(12, 10)).astype("float32")

        def through_the_layer(kernel):
            codes, _ = layer.stateless_call([kernel], state, X, training=True)
            return ops.multiply(weights, codes)

        def with_constants(kernel):
            x = ops.matmul(ops.convert_to_tensor(X), kernel)
            return ops.multiply(
                weights, relative.relative_projection(x, anchors, stats=stats, **options)
            )

        found, expected = (
            value_and_grads(f, [kernel])[1][0] for f in (through_the_layer, with_constants)
        )
        assert np.abs(expected).max() > 0.1
        largest = np.abs(expected).max()  # the rounding of a small entry is that of the large ones
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * largest)

    def test_gradient_through_statistics_is_stopped(self):
        """All ways to the anchors: a step leaves no trace of how they would have moved."""
        encoder = dense(use_bias=False)
        layer = RelativeRepresentation(INPUTS, encoder=encoder, normalization="whiten")
        layer(X)
        state = [v.value for v in layer.non_trainable_variables]
        far = 1e3 * X[:1]  # whose code hardly depends on it, but on the anchors
        _, (gradient,) = value_and_grads(
            lambda k: layer.stateless_call([k], state, far, training=True)[0][:, :1],
            [to_numpy(encoder.weights[0])],
        )
        anchors = INPUTS @ to_numpy(encoder.weights[0])
        stats = relative.anchor_statistics(anchors, normalization="whiten")
        _, (expected,) = value_and_grads(
            lambda k: relative.relative_projection(
                ops.matmul(ops.convert_to_tensor(far), k),
                anchors,
                normalization="whiten",
                stats=stats,
            )[:, :1],
            [to_numpy(encoder.weights[0])],
        )
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("anchor_training", ["inherit", False])
    def test_moving_averages(self, anchor_training):
        encoder = keras.Sequential([keras.Input((6,)), layers.BatchNormalization(momentum=0.9)])
        batch = X + 3.0
        layer = RelativeRepresentation(INPUTS, encoder=encoder, anchor_training=anchor_training)
        codes = layer(batch, training=True)
        of_batch, of_anchors = batch.mean(axis=0), INPUTS.mean(axis=0)
        once = 0.1 * of_batch
        twice = 0.9 * once + 0.1 * of_anchors
        normalization = encoder.layers[0]
        expected = twice if anchor_training == "inherit" else once
        np.testing.assert_allclose(to_numpy(normalization.moving_mean), expected, rtol=1e-4)
        moved = to_numpy(normalization.moving_variance)
        layer(batch)  # at inference, nothing moves
        np.testing.assert_array_equal(to_numpy(normalization.moving_variance), moved)
        normalized = (batch - of_batch) / np.sqrt(batch.var(axis=0) + 1e-3)
        anchors = (INPUTS - of_anchors) / np.sqrt(INPUTS.var(axis=0) + 1e-3)
        if anchor_training is False:
            variance = 0.9 + 0.1 * batch.var(axis=0)
            anchors = (INPUTS - once) / np.sqrt(variance + 1e-3)
        np.testing.assert_allclose(to_numpy(codes), projected(normalized, anchors), atol=1e-5)

    def test_moving_averages_rest_where_anchors_are_kept(self):
        encoder = keras.Sequential([keras.Input((6,)), layers.BatchNormalization(momentum=0.5)])
        layer = RelativeRepresentation(INPUTS, encoder=encoder, refresh_every=2)
        expected = np.zeros(6)
        for step in range(4):
            layer(X + 3.0, training=True)
            expected = 0.5 * expected + 0.5 * (X + 3.0).mean(axis=0)
            if step % 2 == 0:
                expected = 0.5 * expected + 0.5 * INPUTS.mean(axis=0)
        found = to_numpy(encoder.layers[0].moving_mean)
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_dropout_draws_anew_for_the_anchors(self):
        encoder = keras.Sequential([keras.Input((6,)), layers.Dropout(0.5, seed=1)])
        layer = RelativeRepresentation(INPUTS, encoder=encoder, similarity="inner")
        first, second = to_numpy(layer(X, training=True)), to_numpy(layer(X, training=True))
        assert np.abs(first - second).max() > 0.1
        np.testing.assert_allclose(to_numpy(layer(X)), projected(X, INPUTS, similarity="inner"))
        still = RelativeRepresentation(
            INPUTS, encoder=encoder, similarity="inner", anchor_training=False
        )
        # Entries of a sample are 0 or doubled, those of an anchor as they are.
        codes = to_numpy(still(np.eye(6, dtype="float32"), training=True)) * np.sqrt(6)
        ratios = codes / INPUTS.T
        np.testing.assert_allclose(ratios, np.round(ratios / 2) * 2, atol=1e-4)
        assert set(np.round(ratios).ravel()) == {0.0, 2.0}

    def test_losses_of_its_layers_count_once(self):
        encoder = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(4, name="h1", kernel_regularizer=keras.regularizers.L2(0.3)),
                layers.ActivityRegularization(l2=0.1),
            ]
        )
        encoder(X)
        expected = float(sum(encoder.losses))
        assert len(encoder.losses) == 2
        layer = RelativeRepresentation(INPUTS, encoder=encoder)
        model = keras.Sequential([keras.Input((6,)), layer])
        model.compile(keras.optimizers.SGD(0.0), loss=None, jit_compile=JIT[0])
        for loss in (
            model.evaluate(X, batch_size=12, verbose=0),
            model.fit(X, batch_size=12, verbose=0).history["loss"][0],
        ):
            np.testing.assert_allclose(loss, expected, rtol=1e-5)


class TestRefresh:
    def kernels(self, count):
        return RNG.normal(size=(count, 6, 4)).astype("float32")

    @pytest.mark.parametrize("refresh_every", [1, 2, 3])
    def test_anchors_are_kept_in_between(self, refresh_every):
        encoder = dense(use_bias=False)
        layer = RelativeRepresentation(INPUTS, encoder=encoder, refresh_every=refresh_every)
        kernels = self.kernels(7)
        for step, kernel in enumerate(kernels):
            encoder.weights[0].assign(kernel)
            latest = kernels[step - step % refresh_every]
            found = to_numpy(layer(X, training=True))
            np.testing.assert_allclose(found, projected(X @ kernel, INPUTS @ latest), atol=1e-5)
            # At inference the anchors are those of the encoder as it is, and nothing is kept.
            found = to_numpy(layer(X))
            np.testing.assert_allclose(found, projected(X @ kernel, INPUTS @ kernel), atol=1e-5)

    def test_statistics_are_kept_with_them(self):
        encoder = dense(use_bias=False)
        options = {"similarity": ["cosine", "basis_change"], "normalization": "standardize"}
        layer = RelativeRepresentation(INPUTS, encoder=encoder, refresh_every=2, **options)
        first, second = self.kernels(2)
        for kernel in (first, second):
            encoder.weights[0].assign(kernel)
            found = to_numpy(layer(X, training=True))
        expected = projected(X @ second, INPUTS @ first, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.skipif("graph" not in MODES, reason="TensorFlow compares dtypes of two branches")
    def test_an_encoder_of_another_dtype(self):
        encoder = keras.Sequential([keras.Input((6,)), layers.Dense(4, dtype="float64")])
        layer = RelativeRepresentation(INPUTS, encoder=encoder, refresh_every=2)
        found = value(lambda x: layer(x, training=True), [X], "graph")
        np.testing.assert_allclose(found, projected(encoder(X), encoder(INPUTS)), atol=1e-6)

    @pytest.mark.ci
    def test_compiled_as_eagerly(self):
        def trained(**options):
            keras.utils.set_random_seed(1)
            encoder = keras.Sequential(
                [keras.Input((6,)), layers.Dense(4), layers.BatchNormalization(), layers.ReLU()]
            )
            layer = RelativeRepresentation(INPUTS, encoder=encoder, refresh_every=2)
            model = classifier(layer, **options)
            model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
            return model

        assert_same_weights(
            trained(jit_compile=JIT[-1]), trained(run_eagerly=True, jit_compile=False), 1e-4
        )


class TestTraining:
    @pytest.mark.ci
    @pytest.mark.parametrize("jit", JIT)
    def test_end_to_end(self, jit):
        encoder = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(8, "tanh"),
                layers.BatchNormalization(),
                layers.Dense(8),
            ]
        )
        layer = RelativeRepresentation(INPUTS, encoder=encoder, name="codes")
        model = classifier(layer, jit_compile=jit)
        before = to_numpy(encoder.trainable_variables[0]).copy()
        losses = model.fit(X, Y, epochs=10, batch_size=12, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        assert np.abs(to_numpy(encoder.trainable_variables[0]) - before).max() > 1e-3
        codes = projected(encoder(X), encoder(INPUTS))
        np.testing.assert_allclose(
            to_numpy(model(X)), to_numpy(model.layers[-1](codes)), rtol=1e-4, atol=1e-5
        )

    def test_under_a_geometry_model(self):
        x = keras.Input((6,))
        codes = RelativeRepresentation(INPUTS, encoder=dense(), name="codes")(x)
        base = keras.Model(x, layers.Dense(3, name="head")(codes))
        penalty = lgg.Penalty(lgg.losses.GraphSmoothness(), "codes", 0.5)
        model = ready(lgg.GeometryModel(base, [penalty]))
        codes = keras.Model(base.input, base.get_layer("codes").output)(X)
        expected = np.sum(to_numpy(lgg.losses.graph_smoothness(Y, codes)))
        logs = model.evaluate(X, Y, batch_size=12, verbose=0, return_dict=True)
        np.testing.assert_allclose(logs["graph_smoothness"], expected, rtol=1e-4)
        first = model.fit(X, Y, batch_size=12, epochs=10, verbose=0).history["graph_smoothness"]
        np.testing.assert_allclose(first[0], expected, rtol=1e-4)
        assert first[-1] < first[0]

    def test_a_frozen_layer(self):
        layer = RelativeRepresentation(INPUTS, encoder=dense(), name="codes")
        layer.trainable = False
        model = classifier(layer)
        before = [to_numpy(v).copy() for v in layer.variables]
        model.fit(X, Y, verbose=0)
        for old, new in zip(before, layer.variables, strict=True):
            np.testing.assert_array_equal(old, to_numpy(new))


def functional(layer):
    x = keras.Input((6,), name="x")
    return ready(keras.Model(x, layers.Dense(3, name="head")(layer(x))))


OPTIONS = {
    "similarity": ["cosine", "lp"],
    "p": 3.0,
    "pool": "mean",
    "normalization": "standardize",
    "bin_size": 0.1,
    "quantization": "smooth_steps",
    "anchor_labels": np.array([0, 1, 1, 0, 2]),
    "indices": (3, 1, 4, 5, 9),
    "name": "codes",
}


class TestSaving:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: RelativeRepresentation(RNG.normal(size=(5, 6)), **OPTIONS),
            lambda: RelativeRepresentation(
                INPUTS, encoder=dense(), refresh_every=2, anchor_training=False, **OPTIONS
            ),
        ],
        ids=["fixed", "encoder"],
    )
    def test_codes_are_identical_and_training_goes_on(self, make, tmp_path):
        model = functional(make())
        model.fit(X, Y, verbose=0)
        model.save(tmp_path / "model.keras")
        restored = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
        np.testing.assert_array_equal(to_numpy(restored(X)), to_numpy(model(X)))
        layer = restored.get_layer("codes")
        assert layer.indices == [3, 1, 4, 5, 9]
        assert layer.anchor_labels == [0, 1, 1, 0, 2]
        configs = [m.get_layer("codes").get_config() for m in (model, restored)]
        for config in configs:
            config.pop("encoder")
        assert configs[0] == configs[1]
        for m in (model, restored):
            m.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        assert_same_weights(model, restored)

    @pytest.mark.parametrize("encoder", [False, True])
    def test_weights_alone(self, encoder, tmp_path):
        def make(anchors):
            if encoder:
                return functional(RelativeRepresentation(anchors, encoder=dense()))
            return functional(RelativeRepresentation(anchors, normalization="center"))

        model, other = make(INPUTS), make(X[5:10])
        model.save_weights(tmp_path / "model.weights.h5")
        before, expected = to_numpy(other(X)), to_numpy(model(X))
        other.load_weights(tmp_path / "model.weights.h5")
        assert np.abs(before - expected).max() > 1e-2
        np.testing.assert_array_equal(to_numpy(other(X)), expected)

    @pytest.mark.parametrize("encoder", [False, True])
    def test_without_its_weights_codes_are_missing(self, encoder):
        layer = RelativeRepresentation(INPUTS, encoder=dense() if encoder else None)
        copy = RelativeRepresentation.from_config(layer.get_config())
        assert np.isnan(to_numpy(copy(X))).all()
        copy.set_weights(layer.get_weights())
        np.testing.assert_array_equal(to_numpy(copy(X)), to_numpy(layer(X)))

    def test_anchors_of_each_call(self, tmp_path):
        z, anchors = keras.Input((4,)), keras.Input(batch_shape=(5, 4))
        layer = RelativeRepresentation(anchor_labels=[0, 0, 1, 1, 1], indices=range(5))
        model = keras.Model([z, anchors], layer(z, anchors=anchors))
        assert model.output_shape == (None, 2)
        model.save(tmp_path / "model.keras")
        restored = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(
            to_numpy(restored([Z, ANCHORS])), to_numpy(model([Z, ANCHORS]))
        )

    def test_an_encoder_that_the_model_uses_elsewhere(self, tmp_path):
        encoder, x = dense(), keras.Input((6,))
        codes = RelativeRepresentation(INPUTS, encoder=encoder)(x)
        model = keras.Model(x, [layers.Dense(2)(encoder(x)), codes])
        model.save(tmp_path / "model.keras")
        restored = keras.saving.load_model(tmp_path / "model.keras")
        assert len(restored.trainable_variables) == len(model.trainable_variables) == 4


def with_encoder(**options):
    return RelativeRepresentation(INPUTS, encoder=dense(), name="codes", **options)


class TestWithFixedAnchors:
    def test_same_codes_by_the_same_layers(self, tmp_path):
        options = {k: v for k, v in OPTIONS.items() if k != "name"}
        model = functional(with_encoder(refresh_every=3, **options))
        model.fit(X, Y, batch_size=4, verbose=0)
        fixed = with_fixed_anchors(model)
        assert [layer.name for layer in fixed.layers] == ["x", "encoder", "codes", "head"]
        assert fixed.get_layer("head") is model.get_layer("head")
        assert fixed.get_layer("encoder") is model.get_layer("codes").encoder
        layer = fixed.get_layer("codes")
        assert layer.encoder is None
        assert layer.indices == [3, 1, 4, 5, 9]
        expected = to_numpy(model(X))
        np.testing.assert_allclose(fixed.predict(X, verbose=0), expected, rtol=1e-5, atol=1e-6)
        fixed.save(tmp_path / "fixed.keras")
        restored = keras.saving.load_model(tmp_path / "fixed.keras")
        np.testing.assert_allclose(to_numpy(restored(X)), expected, rtol=1e-5, atol=1e-6)
        assert (5, 6) not in [v.shape for v in restored.variables]  # the inputs of the encoder

    def test_leaves_the_model_as_it_was(self):
        model = functional(with_encoder())
        with_fixed_anchors(model)
        assert model.get_layer("codes").encoder is not None
        model.fit(X, Y, verbose=0)
        encoder = model.get_layer("codes").encoder
        codes = projected(encoder(X), encoder(INPUTS))
        expected = to_numpy(model.get_layer("head")(codes))
        np.testing.assert_allclose(to_numpy(model(X)), expected, rtol=1e-4, atol=1e-5)

    def test_nested_models(self):
        inner = keras.Sequential([keras.Input((6,)), with_encoder()], name="inner")
        x, other = keras.Input((6,)), keras.Input((6,))
        model = keras.Model([x, other], layers.Subtract()([inner(x), inner(other)]))
        fixed = with_fixed_anchors(model)
        expected = to_numpy(model([X, X[::-1]]))
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(to_numpy(fixed([X, X[::-1]])), expected, atol=1e-6)
        assert not [v for v in fixed.variables if v.shape == (5, 6)]

    def test_a_layer_that_is_called_twice(self):
        codes, x, other = with_encoder(), keras.Input((6,)), keras.Input((6,))
        model = keras.Model([x, other], layers.Subtract()([codes(x), codes(other, training=False)]))
        fixed = with_fixed_anchors(model)
        expected = to_numpy(model([X, X[::-1]]))
        np.testing.assert_allclose(to_numpy(fixed([X, X[::-1]])), expected, atol=1e-6)

    def test_an_encoder_with_relative_layers_inside(self):
        encoder = keras.Sequential([keras.Input((6,)), with_encoder(), layers.Dense(4)])
        outer = RelativeRepresentation(INPUTS, encoder=encoder, name="outer")
        model = keras.Sequential([keras.Input((6,)), outer])
        fixed = with_fixed_anchors(model)
        np.testing.assert_allclose(to_numpy(fixed(X)), to_numpy(model(X)), atol=1e-6)
        assert not [v for v in fixed.variables if v.shape == (5, 6)]

    def test_layers_of_fixed_anchors_stay(self):
        layer = RelativeRepresentation(INPUTS, name="codes")
        assert with_fixed_anchors(functional(layer)).get_layer("codes") is layer

    def test_an_encoder_that_cannot_be_saved(self):
        class Encoder(keras.Model):
            def __init__(self, body):  # Keras writes no configuration of such an argument
                super().__init__(name="own")
                self.body = body

            def call(self, x):
                return self.body(x)

        model = functional(RelativeRepresentation(INPUTS, encoder=Encoder(dense()), name="codes"))
        fixed = with_fixed_anchors(model)
        np.testing.assert_allclose(to_numpy(fixed(X)), to_numpy(model(X)), atol=1e-6)

    def test_a_layer_without_its_weights(self):
        copy = RelativeRepresentation.from_config(with_encoder().get_config())
        with pytest.raises(ValueError, match=r"`anchors`.*finite numbers.*Received.*a NaN"):
            with_fixed_anchors(functional(copy))

    def test_a_model_that_is_no_graph(self):
        class Own(keras.Model):
            def call(self, x):
                return x

        with pytest.raises(ValueError, match=r"anchors of 'own' cannot be reached.*Received: a"):
            with_fixed_anchors(Own(name="own"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RelativeRepresentation(ANCHORS, similarity="dot"), "`similarity`.*'dot'"),
        (lambda: RelativeRepresentation(ANCHORS, normalization="l2"), "`normalization`.*'l2'"),
        (lambda: RelativeRepresentation(ANCHORS, pool="max"), "`pool`.*'max'"),
        (lambda: RelativeRepresentation(ANCHORS, p=0), "`p`.*positive.*p=0"),
        (lambda: RelativeRepresentation(ANCHORS, bin_size=-1), "`bin_size`.*positive.*-1"),
        (lambda: RelativeRepresentation(ANCHORS, quantization="x"), "`quantization`.*'smooth_st"),
        (
            lambda: RelativeRepresentation(ANCHORS, refresh_every=2),
            "`encoder`.*encodes anchors anew.*Received: encoder=None",
        ),
        (
            lambda: RelativeRepresentation(ANCHORS, anchor_training=False),
            "`encoder`.*encodes anchors anew",
        ),
        (lambda: with_encoder(refresh_every=0), "`refresh_every`.*positive integer.*0"),
        (lambda: with_encoder(anchor_training=True), r"`anchor_training`.*'inherit', False"),
        (
            lambda: RelativeRepresentation(ANCHORS, encoder=lambda x: x),
            "`encoder`.*a Keras model or layer.*Received: encoder=function",
        ),
        (
            lambda: RelativeRepresentation(
                INPUTS, encoder=layers.Identity(), anchor_training=False
            ),
            r"`encoder`.*call\(\) takes `training`.*Received: encoder=Identity",
        ),
        (
            lambda: RelativeRepresentation(encoder=dense()),
            "`anchors`.*inputs of the encoder that are anchors.*None",
        ),
        (lambda: RelativeRepresentation(ANCHORS[:1]), "`anchors`.*at least 2.*1 of them"),
        (
            lambda: RelativeRepresentation(X[:1], encoder=dense()),
            "`anchors`.*at least 2.*1 of them",
        ),
        (lambda: RelativeRepresentation(np.nan * ANCHORS), "`anchors`.*finite.*a NaN"),
        (
            lambda: RelativeRepresentation(np.inf * INPUTS, encoder=dense()),
            "`anchors`.*finite.*an infinity",
        ),
        (
            lambda: RelativeRepresentation(ANCHORS, anchor_labels=[0, 1]),
            r"`anchor_labels`.*each of the 5 anchors.*\(2,\)",
        ),
        (
            lambda: RelativeRepresentation(ANCHORS, anchor_labels=[0, 2, 2, 0, 0]),
            "`anchor_labels`.*anchor of every class",
        ),
        (
            lambda: RelativeRepresentation(ANCHORS, anchor_labels=[0.5] * 5),
            r"`anchor_labels`.*list of integers.*float64 \(5,\)",
        ),
        (
            lambda: RelativeRepresentation(ANCHORS, indices=[[1, 2, 3, 4, 5]]),
            r"`indices`.*list of integers.*\(1, 5\)",
        ),
        (
            lambda: RelativeRepresentation(ANCHORS, indices=[1, 2]),
            r"`indices`.*each of the 5 anchors.*\[1, 2\]",
        ),
        (
            lambda: RelativeRepresentation(indices=[1, 2])(Z, anchors=ANCHORS),
            r"`indices`.*each of the 5 anchors.*\[1, 2\]",
        ),
        (
            lambda: RelativeRepresentation(anchor_labels=[0, 1])(
                keras.Input((4,)), anchors=keras.Input(batch_shape=(5, 4))
            ),
            "`anchor_labels`.*each of the 5 anchors",
        ),
        (
            lambda: RelativeRepresentation(name="r")(Z),
            r"'r' needs its anchors.*Received: neither.*\(x, anchors=a\)",
        ),
        (
            lambda: RelativeRepresentation(name="r")(keras.Input((4,))),
            "'r' needs its anchors.*Received: neither",
        ),
        (
            lambda: RelativeRepresentation(ANCHORS)(Z, anchors=ANCHORS),
            "needs its anchors from one place.*Received: both",
        ),
        (lambda: with_encoder()(X, anchors=ANCHORS), "from one place.*Received: both"),
        (
            lambda: RelativeRepresentation(ANCHORS)(X),
            "different spaces.*width 6.*width 4.*Encode the anchors",
        ),
        (
            lambda: RelativeRepresentation(ANCHORS)(keras.Input((6,))),
            "different spaces.*width 6.*width 4",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=f"(?s){message}"):
        call()
