import keras
import numpy as np
import pytest
import reference
from autodiff import to_numpy
from keras import layers

from keras_lgg import relative
from keras_lgg.layers import RelativeRepresentation
from keras_lgg.relative import metrics, stitching

RNG = np.random.default_rng(0)
X = RNG.normal(size=(14, 6)).astype("float32")
INDICES = [1, 4, 5, 8, 11]
ROTATION, _ = np.linalg.qr(RNG.normal(size=(6, 6)))
# Two spaces that differ by a rotation and a scale, and one that does by more.
KERNELS = [W := RNG.normal(size=(6, 6)), 3 * W @ ROTATION, RNG.normal(size=(6, 6))]
READOUTS = RNG.normal(size=(3, 5, 6))  # from codes back to samples


def linear(kernel, **options):
    """A network of one matrix."""
    kernel = np.asarray(kernel, "float32")
    model = keras.Sequential(
        [
            keras.Input(kernel.shape[:1]),
            layers.Dense(kernel.shape[1], use_bias=False, name="map"),
        ],
        **options,
    )
    model.set_weights([kernel])
    return model


def encoder(kernel, anchors=X[INDICES], **options):
    """A network that ends in relative codes, and encodes its anchors itself."""
    layer = RelativeRepresentation(anchors, encoder=linear(kernel), **options)
    return keras.Sequential([keras.Input((6,)), layer])


def holding(kernel, anchors=X[INDICES], **options):
    """The same, with the representations of its anchors."""
    layer = RelativeRepresentation(anchors @ np.asarray(kernel, "float32"), **options)
    return keras.Sequential([linear(kernel), layer])


def pairs(count=2, make=encoder, **options):
    return [(make(KERNELS[i], **options), linear(READOUTS[i])) for i in range(count)]


def codes_of(kernel):
    return reference.relative_codes(X @ kernel, X[INDICES] @ kernel)


def errors(codes, readouts):
    """By loops: each readout of each space's codes, against the samples."""
    return np.array([[np.mean((c @ r - X) ** 2) for r in readouts] for c in codes])


class TestStitch:
    def test_decodes_codes_of_another_encoder(self):
        first, second = encoder(KERNELS[0]), linear(READOUTS[1], name="decoder")
        model = relative.stitch(first, second)
        np.testing.assert_allclose(
            model.predict(X, verbose=0), codes_of(KERNELS[0]) @ READOUTS[1], rtol=1e-4, atol=1e-5
        )
        assert model.get_layer("decoder") is second
        assert first in model.layers

    def test_several_inputs(self):
        a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
        codes = RelativeRepresentation(X[:5])(layers.Add()([a, b]))
        model = relative.stitch(keras.Model({"a": a, "b": b}, codes), linear(READOUTS[0]))
        expected = reference.relative_codes(2 * X, X[:5]) @ READOUTS[0]
        found = to_numpy(model({"a": X, "b": X}))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    def test_through_a_translator(self):
        class Translator:
            def layer(self):
                return linear(np.linalg.inv(KERNELS[0]) @ KERNELS[1][:, :4])

        first, second = linear(KERNELS[0]), linear(RNG.normal(size=(4, 2)))
        model = relative.stitch(first, second, translator=Translator())
        expected = X @ KERNELS[1][:, :4] @ to_numpy(second.weights[0])
        np.testing.assert_allclose(to_numpy(model(X)), expected, rtol=1e-3, atol=1e-3)
        with pytest.raises(ValueError, match="does not take these stitched codes"):
            relative.stitch(first, second)

    def test_a_fitted_translator(self):
        translator = relative.LeastSquares().fit(X @ KERNELS[0], X @ KERNELS[1])
        model = relative.stitch(linear(KERNELS[0]), linear(KERNELS[2]), translator=translator)
        expected = X @ KERNELS[1] @ KERNELS[2]
        np.testing.assert_allclose(to_numpy(model(X)), expected, rtol=1e-3, atol=1e-3)

    def test_halves_of_one_name(self):
        """Two programs may both have called theirs "model"."""
        first = keras.Sequential(encoder(KERNELS[0]).layers, name="model")
        first.build((None, 6))
        model = relative.stitch(first, linear(READOUTS[1], name="model"))
        expected = codes_of(KERNELS[0]) @ READOUTS[1]
        np.testing.assert_allclose(to_numpy(model(X)), expected, rtol=1e-4, atol=1e-5)

    def test_trains_no_copy(self):
        first, second = encoder(KERNELS[0]), linear(READOUTS[1])
        model = relative.stitch(first, second)
        first.trainable_variables[0].assign(np.float32(KERNELS[2]))
        expected = codes_of(KERNELS[2]) @ READOUTS[1]
        np.testing.assert_allclose(to_numpy(model(X)), expected, rtol=1e-3, atol=1e-4)


class TestMatrix:
    def test_against_loops(self):
        models = pairs(3)
        # A space of its own for each: only the first and the last are as wide.
        widths = [KERNELS[0], KERNELS[1][:, :4], KERNELS[2]]
        decoders = [0.5 * np.linalg.pinv(kernel) for kernel in widths]
        absolute = [(linear(w), linear(d)) for w, d in zip(widths, decoders, strict=True)]
        report = relative.stitching_matrix(
            models, (X, X), "mse", absolute=absolute, batch_size=5, seed=3
        )
        assert report.metric == "mse"
        codes = [codes_of(kernel) for kernel in KERNELS]
        order = stitching._derangement(5, 3)
        np.testing.assert_allclose(report.relative, errors(codes, READOUTS), rtol=1e-4)
        permuted = [c[:, order] for c in codes]
        np.testing.assert_allclose(report.permuted, errors(permuted, READOUTS), rtol=1e-4)
        for i, j in np.ndindex(3, 3):
            if widths[i].shape == widths[j].shape:
                expected = np.mean((X @ widths[i] @ decoders[j] - X) ** 2)
                np.testing.assert_allclose(report.absolute[i, j], expected, rtol=1e-3)
            else:
                assert np.isnan(report.absolute[i, j])

    def test_a_rotated_space(self):
        """Relative codes are the same, absolute ones are not, nor are those in another order."""
        decoder = np.linalg.pinv(codes_of(KERNELS[0])) @ X
        models = [(encoder(kernel), linear(decoder)) for kernel in KERNELS[:2]]
        absolute = [(linear(k), linear(0.9 * np.linalg.inv(k))) for k in KERNELS[:2]]
        summary = relative.stitching_matrix(models, (X, X), "mse", absolute=absolute).summary()
        np.testing.assert_allclose(summary["relative"]["ratio"], 1.0, rtol=1e-5)
        assert summary["absolute"]["ratio"] > 10
        assert summary["permuted anchors"]["self"] > 2 * summary["relative"]["self"]
        assert summary["permuted anchors"]["stitched"] > 2 * summary["relative"]["stitched"]

    def test_a_translator(self):
        """Between spaces of any widths; a space of its own is left as it is."""
        kernels = [KERNELS[0], KERNELS[1], KERNELS[2][:, :4]]
        decoders = [np.linalg.pinv(kernel) for kernel in kernels]
        absolute = [(linear(w), linear(d)) for w, d in zip(kernels, decoders, strict=True)]
        given = {"absolute": absolute, "translator": lambda: relative.Procrustes(scale="feature")}
        report = relative.stitching_matrix(pairs(3), (X, X), "mse", anchors=X[:9], **given)
        for i, j in np.ndindex(3, 3):
            codes = X @ kernels[i]
            if i != j:
                fitted = relative.Procrustes(scale="feature").fit(
                    X[:9] @ kernels[i], X[:9] @ kernels[j]
                )
                codes = fitted(codes)
            expected = np.mean((codes @ decoders[j] - X) ** 2)
            np.testing.assert_allclose(report.translated[i, j], expected, rtol=1e-3, atol=1e-9)
        assert report.translated[0, 1] < 0.1 * report.absolute[0, 1]

    def test_several_metrics(self):
        """Each as it is by itself, translated and all."""
        given = {
            "absolute": [(linear(k), linear(np.linalg.pinv(k))) for k in KERNELS],
            "translator": relative.Procrustes,
            "anchors": X[:9],
        }

        def largest(y, outputs):
            return np.abs(y - outputs).max()

        found = relative.stitching_matrix(pairs(3), (X, X), ["mse", largest], **given)
        assert list(found) == ["mse", "largest"]
        for name, metric in {"mse": "mse", "largest": largest}.items():
            expected = relative.stitching_matrix(pairs(3), (X, X), metric, **given)
            assert found[name].metric == expected.metric == name
            for part in ("relative", "permuted", "absolute", "translated"):
                np.testing.assert_allclose(getattr(found[name], part), getattr(expected, part))
        assert found["mse"].relative[0, 1] != found["largest"].relative[0, 1]

    def test_a_function_as_metric(self):
        def largest(y, outputs):
            return np.abs(y["x"] - outputs).max()

        report = relative.stitching_matrix(pairs(make=holding), (X, {"x": X}), largest)
        assert report.metric == "largest"
        expected = np.abs(codes_of(KERNELS[0]) @ READOUTS[1] - X).max()
        np.testing.assert_allclose(report.relative[0, 1], expected, rtol=1e-4)
        assert report.absolute is None
        assert list(report.summary()) == ["relative", "permuted anchors"]

    def test_classes(self):
        y = RNG.integers(0, 6, 14)
        report = relative.stitching_matrix(pairs(make=holding), (X, y.tolist()), "accuracy")
        guesses = np.argmax(codes_of(KERNELS[1]) @ READOUTS[0], axis=1)
        assert report.relative[1, 0] == np.mean([a == b for a, b in zip(guesses, y, strict=True)])

    def test_runs_in_inference_mode_and_changes_nothing(self):
        def noisy(kernel):
            network = keras.Sequential([keras.Input((6,)), layers.Dropout(0.5), linear(kernel)])
            layer = RelativeRepresentation(X[INDICES], encoder=network)
            return keras.Sequential([keras.Input((6,)), layer])

        models = [(noisy(KERNELS[i]), linear(READOUTS[i])) for i in range(2)]
        before = [v.copy() for m in models for part in m for v in part.get_weights()]
        report = relative.stitching_matrix(models, (X, X), "mse")
        codes = [codes_of(kernel) for kernel in KERNELS[:2]]
        np.testing.assert_allclose(report.relative, errors(codes, READOUTS[:2]), rtol=1e-4)
        after = [v for m in models for part in m for v in part.get_weights()]
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)
        assert models[0][0].layers[-1].encoder is not None

    def test_the_other_order(self):
        for count in (2, 3, 10):
            for seed in range(5):
                order = stitching._derangement(count, seed)
                assert sorted(order) == list(range(count))
                assert (order != np.arange(count)).all()
                np.testing.assert_array_equal(order, stitching._derangement(count, seed))
        orders = {tuple(stitching._derangement(10, seed)) for seed in range(5)}
        assert len(orders) == 5


class TestDifferentInputs:
    """Two languages: the samples of one are an unknown linear map of those of the other."""

    TRANSLATION = RNG.normal(size=(6, 4)).astype("float32")

    def other_language(self, x):
        return x @ self.TRANSLATION

    def models(self, first=None, second=None, decoders=READOUTS):
        """Encoders that map both languages to one space, up to a rotation and a scale."""
        first, second = first or {"indices": INDICES}, second or {"indices": INDICES}
        kernel = self.TRANSLATION.astype("float64") @ RNG.normal(size=(4, 6))
        kernels = [kernel, 3 * np.linalg.lstsq(self.TRANSLATION, kernel, rcond=None)[0] @ ROTATION]
        anchors = [X[INDICES], self.other_language(X)[INDICES]]
        encoders = []
        for kernel, own, options in zip(kernels, anchors, (first, second), strict=True):
            layer = RelativeRepresentation(**{"anchors": own, **options}, encoder=linear(kernel))
            encoders.append(keras.Sequential([keras.Input(kernel.shape[:1]), layer]))
        self.kernels = kernels
        return [(e, linear(r)) for e, r in zip(encoders, decoders, strict=False)]

    def test_decoders_read_the_codes_of_the_other_language(self):
        models, inputs = self.models(), [X, self.other_language(X)]
        absolute = [(linear(k), linear(np.eye(6))) for k in self.kernels]
        report = relative.stitching_matrix(
            models, (None, X), "mse", inputs=inputs, absolute=absolute, batch_size=5
        )
        codes = codes_of(self.kernels[0])
        np.testing.assert_allclose(report.relative, errors([codes, codes], READOUTS[:2]), rtol=1e-3)
        spaces = [x @ k for x, k in zip(inputs, self.kernels, strict=True)]
        expected = [[np.mean((z - X) ** 2)] * 2 for z in spaces]
        np.testing.assert_allclose(report.absolute, expected, rtol=1e-3)

    def test_a_translator_between_the_languages(self):
        """A rotation and a scale part these spaces: Procrustes finds both from the anchors."""
        models, inputs = self.models(), [X, self.other_language(X)]
        readouts = RNG.normal(size=(2, 6, 6))
        absolute = [(linear(k), linear(r)) for k, r in zip(self.kernels, readouts, strict=True)]
        report = relative.stitching_matrix(
            models,
            (None, X),
            "mse",
            inputs=inputs,
            absolute=absolute,
            translator=relative.Procrustes,
            anchors=[each[:8] for each in inputs],
        )
        spaces = [x @ k for x, k in zip(inputs, self.kernels, strict=True)]
        own = [np.mean((z @ r - X) ** 2) for z, r in zip(spaces, readouts, strict=True)]
        np.testing.assert_allclose(report.translated, [own, own], rtol=1e-3)
        np.testing.assert_allclose(np.diag(report.absolute), own, rtol=1e-3)
        assert abs(report.absolute / report.translated - 1)[~np.eye(2, dtype=bool)].min() > 0.1
        assert report.summary()["translated"]["ratio"] == pytest.approx(1, abs=1e-3)

    def test_inputs_that_are_the_same_need_no_indices(self):
        models = pairs()
        expected = relative.stitching_matrix(models, (X, X), "mse").relative
        found = relative.stitching_matrix(models, (None, X), "mse", inputs=[X, X]).relative
        np.testing.assert_array_equal(found, expected)

    def test_several_inputs_of_one_encoder(self):
        """One takes two arrays by name, the other one array."""
        a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
        network = keras.Model({"a": a, "b": b}, linear(KERNELS[0])(layers.Add()([a, b])))
        anchors = {"a": 2 * X[INDICES], "b": -X[INDICES]}
        layer = RelativeRepresentation(anchors, encoder=network, indices=INDICES)
        symbols = {name: keras.Input((6,), name=name) for name in "ab"}
        first = keras.Model(symbols, layer(symbols))
        second = encoder(KERNELS[1], indices=INDICES)
        models = [(first, linear(READOUTS[0])), (second, linear(READOUTS[1]))]
        x = {"a": 2 * X, "b": -X}
        report = relative.stitching_matrix(models, (None, X), "mse", inputs=[x, X])
        expected = errors([codes_of(k) for k in KERNELS[:2]], READOUTS[:2])
        np.testing.assert_allclose(report.relative, expected, rtol=1e-3)
        stitched = relative.stitch(first, models[1][1])
        found = stitched.predict(x, verbose=0)
        np.testing.assert_allclose(found, codes_of(KERNELS[0]) @ READOUTS[1], rtol=1e-3, atol=1e-4)

    def paired(self, first=None, second=None, inputs=None, data=(None, X)):
        inputs = [X, self.other_language(X)] if inputs is None else inputs
        return relative.stitching_matrix(self.models(first, second), data, "mse", inputs=inputs)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"inputs": [X, X[:9, :4]]},
                r"do not pair.*sentence and its translation.*'inputs\[0\]': 14, 'inputs\[1\]': 9",
            ),
            ({"inputs": [X[:9], X[:9, :4]]}, "`inputs` and `y`.*9 in `inputs` and 14 in `y`"),
            ({"inputs": [X]}, "`inputs`.*each of the 2 encoders.*1 of them"),
            ({"inputs": X}, "`inputs`.*each of the 2 encoders.*ndarray"),
            ({"data": (X, X)}, r"`data`.*\(None, y\) where `inputs`.*an x, too"),
            (
                {"second": {"indices": [INDICES[i] for i in (0, 2, 1, 3, 4)]}},
                "different anchors.*indices that differ.*in another order",
            ),
            (
                {"second": {"indices": [0, 4, 5, 8, 11]}},
                r"different anchors.*indices that differ \(others\)",
            ),
            (
                {"first": {"name": "a"}, "second": {"name": "b"}},
                r"Nobody can tell whether the anchors.*layers without indices.*select_anchors",
            ),
        ],
    )
    def test_what_does_not_pair(self, options, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            self.paired(**options)

    def test_codes_that_are_not_finite(self):
        models = pairs(make=holding)
        broken = linear(np.full((6, 5), np.inf))
        with pytest.raises(ValueError, match=r"(?s)codes of the encoder.*not finite.*tokenizer"):
            relative.stitching_matrix([models[0], (broken, models[1][1])], (X, X), "mse")

    def test_ids_beyond_the_vocabulary(self):
        def of_ids():
            words = [keras.Input((3,), dtype="int32"), layers.Embedding(7, 2), layers.Flatten()]
            ids = np.arange(15).reshape(5, 3) % 7
            codes = RelativeRepresentation(ids, encoder=keras.Sequential(words))
            return keras.Sequential([keras.Input((3,), dtype="int32"), codes]), linear(READOUTS[0])

        with pytest.raises(ValueError, match=r"(?s)ids in x are beyond.*\[0, 7\).*from 0 to 7"):
            relative.stitching_matrix(
                [of_ids(), of_ids()], (np.arange(8).repeat(3).reshape(8, 3), X[:8]), "mse"
            )


class TestReport:
    RELATIVE = np.array([[1.0, 5.0, 6.0], [7.0, 2.0, 8.0], [9.0, 13.0, 6.0]])

    def test_numbers_by_hand(self):
        report = relative.StitchingReport("mse", self.RELATIVE, 2 * self.RELATIVE, None)
        found = report.summary()["relative"]
        # Off the diagonal: 5, 6, 7, 8, 9, 13, of mean 8 and squared differences of 40 in sum.
        assert found["self"] == 3.0
        assert found["stitched"] == 8.0
        np.testing.assert_allclose(found["spread"], np.sqrt(40 / 5))
        np.testing.assert_allclose(found["ratio"], 8 / 3)
        assert report.summary()["permuted anchors"]["self"] == 6.0

    def test_a_baseline_of_several_widths(self):
        absolute = np.array([[1.0, np.nan], [np.nan, 3.0]])
        report = relative.StitchingReport("mse", self.RELATIVE, self.RELATIVE, absolute)
        found = report.summary()["absolute"]
        assert found["self"] == 2.0
        assert np.isnan([found["stitched"], found["spread"], found["ratio"]]).all()
        assert report.to_markdown().splitlines()[-1] == "| absolute | 2 | nan ± nan | nan |"

    @pytest.mark.parametrize("value", [0.0, np.inf])
    def test_perfect_models(self, value):
        matrix = np.full((2, 2), value)
        found = relative.StitchingReport("psnr", matrix, matrix, None).summary()["relative"]
        assert found["self"] == found["stitched"] == value
        assert np.isnan(found["ratio"])


IMAGES = RNG.random((4, 9, 8, 3)).astype("float32")
FOUND = np.clip(IMAGES + 0.2 * RNG.normal(size=IMAGES.shape), 0, 1).astype("float32")


def score(metric, y, outputs):
    return metrics.scorers_of([metric], y)[metric](outputs)


class TestMetrics:
    def test_mse(self):
        total = sum((a - b) ** 2 for a, b in zip(IMAGES.ravel(), FOUND.ravel(), strict=True))
        np.testing.assert_allclose(score("mse", IMAGES, FOUND), total / IMAGES.size, rtol=1e-4)

    def test_psnr_is_a_mean_over_images(self):
        each = [
            10 * np.log10(1 / np.mean((a - b) ** 2)) for a, b in zip(IMAGES, FOUND, strict=True)
        ]
        np.testing.assert_allclose(score("psnr", IMAGES, FOUND), np.mean(each), rtol=1e-5)
        assert score("psnr", IMAGES, IMAGES) == np.inf

    def test_ssim_is_a_mean_over_images_channels_and_windows(self):
        pytest.importorskip("skimage", reason="needs the extra relative")
        values = []
        for a, b in zip(IMAGES.astype("float64"), FOUND.astype("float64"), strict=True):
            for row, column, channel in np.ndindex(3, 2, 3):
                u, v = (i[row : row + 7, column : column + 7, channel].ravel() for i in (a, b))
                c1, c2 = 0.01**2, 0.03**2
                covariance = np.cov(u, v)
                luminance = (2 * u.mean() * v.mean() + c1) / (u.mean() ** 2 + v.mean() ** 2 + c1)
                contrast = (2 * covariance[0, 1] + c2) / (np.trace(covariance) + c2)
                values.append(luminance * contrast)
        np.testing.assert_allclose(score("ssim", IMAGES, FOUND), np.mean(values), rtol=1e-4)
        np.testing.assert_allclose(score("ssim", IMAGES, IMAGES), 1.0)

    def test_of_classes(self):
        y, guesses = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 1])
        scores = np.eye(3)[guesses] + 0.1
        assert score("accuracy", y, scores) == 3 / 6
        pytest.importorskip("sklearn", reason="needs the extra relative")
        # Of precision and recall 2/3 and 2/3, 1/3 and 1/2, 0 and 0; weighted by 3, 2 and 1.
        expected = (3 * (2 / 3) + 2 * 0.4 + 0) / 6
        np.testing.assert_allclose(score("f1", y, scores), expected)

    def test_outputs_that_there_are_not(self):
        assert np.isnan(score("mse", IMAGES, None))

    @pytest.mark.parametrize(("metric", "module"), [("ssim", "skimage"), ("f1", "sklearn")])
    def test_a_missing_extra(self, metric, module, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, f"{module}.metrics", None)
        y = IMAGES if metric == "ssim" else np.arange(4)
        with pytest.raises(ImportError, match=rf"{module}.metrics.*keras_lgg\[relative\]"):
            score(metric, y, y)


class Own(keras.Model):
    def call(self, x):
        return x


def matrix(models, data=(X, X), metric="mse", **options):
    return relative.stitching_matrix(models, data, metric, **options)


def of_two(first, second):
    """The matrix of two models, whose encoders are given these options."""
    makes = [encoder if "anchors" in o else holding for o in (first, second)]
    return matrix(
        [
            (make(KERNELS[0], **o), linear(READOUTS[0]))
            for make, o in zip(makes, (first, second), strict=True)
        ]
    )


OTHER_ORDER = [INDICES[i] for i in (0, 2, 1, 3, 4)]
OTHERS = [0, 4, 5, 8, 11]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: relative.stitch(encoder(KERNELS[0]), linear(KERNELS[0], name="dec")),
            r"'dec' does not take these stitched codes.*\(None, 6\).*Received: \(None, 5\).*transl",
        ),
        (
            lambda: relative.stitch(Own(), linear(READOUTS[0])),
            "`encoder`.*knows its input shape.*Received: encoder=a Own",
        ),
        (
            lambda: relative.stitch(encoder(KERNELS[0]), keras.Sequential([layers.Dense(3)])),
            "`decoder`.*knows its input shape.*Received: decoder=a Sequential",
        ),
        (
            lambda: relative.stitch(
                keras.Model(x := keras.Input((6,)), [x, 2 * x]), linear(READOUTS[0])
            ),
            "`encoder`.*of one output.*Received: encoder=a Functional of 2 outputs",
        ),
        (lambda: matrix(pairs(1)), r"`models`.*at least 2 pairs \(encoder, decoder\).*Received"),
        (lambda: matrix([encoder(KERNELS[0])] * 2), "`models`.*at least 2 pairs"),
        (lambda: matrix([(Own(), linear(READOUTS[0]))] * 2), "`encoder`.*Received: encoder=a Own"),
        (
            lambda: matrix(pairs(), absolute=pairs(1)),
            "`absolute`.*at least 2 pairs",
        ),
        (
            lambda: matrix(pairs(), translator=relative.Procrustes, anchors=X[:5]),
            "`translator`.*`absolute`.*`anchors`.*without these",
        ),
        (
            lambda: matrix(pairs(), absolute=pairs(), translator=relative.Procrustes),
            "`translator`.*`absolute`.*`anchors`.*without these",
        ),
        (lambda: matrix(pairs(), batch_size=0), "`batch_size`.*positive integer.*0"),
        (lambda: matrix(pairs(), metric=[]), "`metric`.*at least one"),
        (lambda: matrix(pairs(), metric=["mse", "mse"]), "`metric`.*different names.*'mse' twice"),
        (lambda: matrix(pairs(), metric="mae"), "`metric`.*'mse'.*or a function.*'mae'"),
        (lambda: matrix(pairs(), metric="psnr"), r"`data`.*\[0, 1\].*targets from -\d"),
        (lambda: matrix(pairs(), metric="ssim"), r"`data`.*\[0, 1\].*targets from -\d"),
        (
            lambda: matrix(pairs(), (X, np.abs(X) / 9), "ssim"),
            r"`data`.*images \(n, height, width, channels\).*shape \(14, 6\)",
        ),
        (
            lambda: matrix(pairs(), (X, np.zeros((14, 9, 6, 1))), "ssim"),
            r"`data`.*at least 7 pixels.*\(14, 9, 6, 1\)",
        ),
        (lambda: matrix(pairs(), metric="accuracy"), r"`data`.*integer classes.*\(14, 6\)"),
        (
            lambda: matrix(pairs(), (X, np.arange(14) + 0.5), "f1"),
            r"`data`.*integer classes.*\(14,\)",
        ),
        (
            lambda: matrix(pairs(), (X, X[:, :2])),
            r"do not give what they are measured against.*\(14, 2\).*Received: \(14, 6\)",
        ),
        (
            lambda: matrix(pairs(), (X, X[:9])),
            "`x` and `y`.*same number.*Received: 14 in `x` and 9 in `y`",
        ),
        (
            lambda: matrix(
                [(encoder(k), linear(READOUTS[0][:, :1])) for k in KERNELS[:2]],
                (X, np.arange(14) % 2),
                "accuracy",
            ),
            r"do not give class scores.*at least 2 classes.*Received: \(14, 1\)",
        ),
        (
            lambda: of_two({"indices": INDICES}, {"indices": OTHER_ORDER}),
            "models 0 and 1 have different anchors.*indices that differ.*in another order",
        ),
        (
            lambda: of_two({"indices": INDICES}, {"indices": OTHERS}),
            r"different anchors.*indices that differ \(others\).*Select them once",
        ),
        (
            lambda: of_two({"indices": INDICES}, {"indices": [*INDICES, 2], "anchors": X[:6]}),
            r"different anchors.*indices that differ \(5 and 6 of them\)",
        ),
        (
            lambda: of_two({"anchors": X[INDICES]}, {"anchors": X[OTHER_ORDER]}),
            r"different anchors.*inputs that differ \(in another order\)",
        ),
        (
            lambda: of_two({"anchors": X[INDICES]}, {"anchors": X[OTHERS]}),
            r"different anchors.*inputs that differ \(others\)",
        ),
        (
            lambda: of_two({"anchors": X[INDICES]}, {"anchors": X[:4]}),
            r"different anchors.*inputs that differ \(5 and 4 of them\)",
        ),
        (
            lambda: matrix([(holding(KERNELS[0], X[:n]), linear(READOUTS[0][:n])) for n in (5, 4)]),
            r"does not take these relative codes.*\(None, 4\).*Received: \(None, 5\).*one order",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()
