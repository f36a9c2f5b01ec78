"""Translators: what each recovers and what it does not, against slow forms, and as layers."""

import warnings

import keras
import numpy as np
import pytest

from keras_lgg.relative.translation import Affine, InverseRelative, LeastSquares, Procrustes

ALL = {
    "procrustes": Procrustes,
    "procrustes-feature": lambda: Procrustes(scale="feature"),
    "least-squares": LeastSquares,
    "orthogonal": lambda: LeastSquares(orthogonal=True),
    "affine": Affine,
    "relative": InverseRelative,
    "relative-centred": lambda: InverseRelative(center=True),
    "relative-scaled": lambda: InverseRelative(scale=True),
    "relative-both": lambda: InverseRelative(center=True, scale=True),
}
EVERY = pytest.mark.parametrize("name", ALL)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rotation(d, seed=3):
    return np.linalg.qr(normal(d, d, seed=seed))[0]


def isometry(p, q, seed=3):
    """A matrix (p, q) of orthonormal rows."""
    return rotation(q, seed)[:p]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def mean_cosine(a, b):
    return np.mean(np.sum(unit(a) * unit(b), axis=1))


def apart(found, expected):
    """The largest difference."""
    return np.max(np.abs(found - expected))


class TestEveryTranslator:
    @pytest.mark.parametrize("name", [name for name in ALL if name != "procrustes-feature"])
    def test_recovers_the_directions_of_a_rotated_and_scaled_copy(self, name):
        x, q = normal(200, 6), 3 * rotation(6)
        translate = ALL[name]().fit(x[:50], x[:50] @ q)
        found = translate(x)
        assert (found.shape, found.dtype) == ((200, 6), np.float64)
        if name.startswith("relative-") and name != "relative-scaled":
            # Centred, what is kept is the direction from the mean of the anchors.
            mean = x[:50].mean(axis=0) @ q
            assert mean_cosine(found - mean, x @ q - mean) > 1 - 1e-8
        else:
            assert mean_cosine(found, x @ q) > 1 - 1e-8

    @EVERY
    def test_is_the_same_for_any_order_of_the_anchors(self, name):
        x, y, order = normal(30, 4), normal(30, 5, seed=1), np.random.default_rng(2).permutation(30)
        expected = ALL[name]().fit(x, y)(x)
        np.testing.assert_allclose(ALL[name]().fit(x[order], y[order])(x), expected, atol=1e-10)

    @EVERY
    @pytest.mark.parametrize(("p", "q"), [(4, 4), (4, 7), (7, 4)])
    def test_works_row_by_row(self, name, p, q):
        x, y = normal(30, p), normal(30, q, seed=1)
        translate = ALL[name]()
        assert translate.fit(x, y) is translate
        new = normal(9, p, seed=2)
        found = translate(new)
        assert found.shape == (9, q)
        for i in range(9):
            np.testing.assert_allclose(translate(new[i : i + 1])[0], found[i], atol=1e-12)
        assert translate(new[:0]).shape == (0, q)

    @EVERY
    def test_flattens(self, name):
        x, y, new = normal(30, 2, 3), normal(30, 4, 1, seed=1), normal(5, 3, 2, seed=2)
        found = ALL[name]().fit(x, y)(new)
        flat = ALL[name]().fit(x.reshape(30, 6), y.reshape(30, 4))(new.reshape(5, 6))
        np.testing.assert_array_equal(found, flat)

    @EVERY
    def test_works_in_float64_and_leaves_its_inputs_alone(self, name):
        x, y = (normal(30, 4, seed=i).astype("float32") for i in range(2))
        copies = x.copy(), y.copy()
        found = ALL[name]().fit(x, y)(x)
        np.testing.assert_array_equal((x, y), copies)
        wide = x.astype("float64"), y.astype("float64")
        np.testing.assert_array_equal(found, ALL[name]().fit(*wide)(wide[0]))
        integers = ALL[name]().fit(np.round(9 * x).astype("int32"), y)
        np.testing.assert_array_equal(integers.kernel, ALL[name]().fit(np.round(9 * x), y).kernel)

    @EVERY
    def test_can_be_fitted_anew(self, name):
        translate = ALL[name]().fit(normal(30, 4), normal(30, 5, seed=1))
        translate.fit(normal(20, 3), normal(20, 2, seed=1))
        expected = ALL[name]().fit(normal(20, 3), normal(20, 2, seed=1))
        new = normal(5, 3, seed=2)
        np.testing.assert_array_equal(translate(new), expected(new))


def permutation(d, seed=3):
    return np.eye(d)[np.random.default_rng(seed).permutation(d)]


class TestProcrustesByFeature:
    def test_recovers_axes_that_were_permuted_scaled_and_shifted_one_by_one(self):
        d = 6
        x = normal(40, d) * np.geomspace(0.1, 10, d) + 7
        kernel = permutation(d) * np.array([0.01, -3, 1, 20, -0.5, 100])
        shift = normal(d, seed=4)
        translate = Procrustes(scale="feature").fit(x, x @ kernel + shift)
        new = normal(9, d, seed=5)
        np.testing.assert_allclose(translate(new), new @ kernel + shift, rtol=1e-8, atol=1e-8)
        # One scale for all features cannot do that.
        assert mean_cosine(Procrustes().fit(x, x @ kernel)(new), new @ kernel) < 0.99

    def test_does_not_recover_a_rotation(self):
        x, q = normal(60, 5) * np.linspace(0.2, 3, 5), rotation(5)
        assert apart(Procrustes().fit(x, x @ q)(x), x @ q) < 1e-8
        assert apart(Procrustes(scale="feature").fit(x, x @ q)(x), x @ q) > 0.1

    @pytest.mark.parametrize(("p", "q"), [(5, 5), (3, 6), (6, 3)])
    def test_against_padding(self, p, q):
        """The form of [1]: standardised features, the narrower space filled up with zeros."""
        x, y = normal(30, p) + 1, normal(30, q, seed=1) - 2
        y[:, :3] += x[:, :3]
        d, new = max(p, q), normal(7, p, seed=2)

        def standard(z, by):
            z = (z - by.mean(axis=0)) / np.sqrt(np.mean((by - by.mean(axis=0)) ** 2, axis=0))
            return np.pad(z, ((0, 0), (0, d - z.shape[1])))

        u, _, v = np.linalg.svd(standard(x, x).T @ standard(y, y))
        expected = (standard(new, x) @ u @ v)[:, :q] * y.std(axis=0) + y.mean(axis=0)
        found = Procrustes(scale="feature").fit(x, y)(new)
        np.testing.assert_allclose(found, expected, atol=1e-10)

    def test_features_on_which_the_anchors_agree_keep_their_scale(self):
        x, y = normal(30, 3), normal(30, 3, seed=1)
        x[:, 1], y[:, 2] = 1e6 / 3, 0.1
        translate = Procrustes(scale="feature").fit(x, y)
        assert np.isfinite(translate.kernel).all()
        np.testing.assert_allclose(translate(x)[:, 2], 0.1, atol=1e-9)
        assert np.abs(translate.kernel).max() < 3  # and not the inverse of a rounding

    def test_unknown_scales(self):
        with pytest.raises(ValueError, match=r"`scale`.*'space', 'feature'.*'features'"):
            Procrustes(scale="features")


class TestProcrustes:
    @pytest.mark.parametrize("d", [2, 5, 64])
    def test_recovers_a_rotation_with_shift_and_scale(self, d):
        # Features of very different spread, of which no one may be scaled by itself.
        x = normal(3 * d, d) * np.linspace(0.1, 3, d) + 7
        q, shift = rotation(d), normal(d, seed=4)
        translate = Procrustes().fit(x, 2.5 * x @ q + shift)
        assert apart(translate.kernel, 2.5 * q) < 1e-8
        assert apart(translate.bias, shift) < 1e-8
        new = 10 * normal(20, d, seed=5)
        assert apart(translate(new), 2.5 * new @ q + shift) < 1e-8

    def test_recovers_a_reflection(self):
        x = normal(20, 3)
        assert apart(Procrustes().fit(x, -x)(x), -x) < 1e-12

    def test_recovers_a_space_inside_a_wider_one_and_back(self):
        x, q = normal(40, 4), isometry(4, 9)
        y = 3 * x @ q + 1
        assert apart(Procrustes().fit(x, y)(x), y) < 1e-10
        assert apart(Procrustes().fit(y, x)(y), x) < 1e-10

    @pytest.mark.parametrize(("p", "q"), [(5, 5), (3, 6), (6, 3)])
    def test_against_padding(self, p, q):
        """The form of the literature, with the narrower space filled up with zeros."""
        x, y = normal(30, p) + 1, normal(30, q, seed=1) - 2
        y[:, :3] += x[:, :3]
        padded = []
        for z in (x, y):
            z = z - z.mean(axis=0)
            scale = np.sqrt(z.var(axis=0).sum())
            padded.append((np.pad(z, ((0, 0), (0, max(p, q) - z.shape[1]))) / scale, scale))
        (a, _), (b, scale) = padded
        u, _, v = np.linalg.svd(a.T @ b)
        expected = (a @ (u @ v))[:, :q] * scale + y.mean(axis=0)
        assert apart(Procrustes().fit(x, y)(x), expected) < 1e-10

    def test_no_other_rotation_of_the_plane_is_nearer(self):
        x = normal(20, 2)
        y = x @ rotation(2) + 0.5 * normal(20, 2, seed=1)
        translate = Procrustes().fit(x, y)
        scale = np.sqrt(np.linalg.det(translate.kernel @ translate.kernel.T)) ** 0.5
        best = np.sum((translate(x) - y) ** 2)
        a, b = x - x.mean(axis=0), y - y.mean(axis=0)
        for angle in np.linspace(0, 2 * np.pi, 720):
            c, s = scale * np.cos(angle), scale * np.sin(angle)
            for matrix in ([[c, s], [-s, c]], [[c, s], [s, -c]]):
                assert np.sum((a @ np.array(matrix) - b) ** 2) >= best - 1e-12

    def test_does_not_recover_what_is_no_rotation(self):
        x = normal(50, 4)
        for matrix in (np.diag([1.0, 2, 3, 4]), normal(4, 4, seed=1)):
            assert apart(Procrustes().fit(x, x @ matrix)(x), x @ matrix) > 0.1
        kernel = Procrustes().fit(x, normal(50, 4, seed=1)).kernel
        square = kernel @ kernel.T
        np.testing.assert_allclose(square, square[0, 0] * np.eye(4), atol=1e-12)

    def test_fewer_anchors_than_features(self):
        """The anchors are met; other directions are not."""
        x, q = normal(100, 20), rotation(20)
        translate = Procrustes().fit(x[:10], x[:10] @ q)
        assert apart(translate(x[:10]), x[:10] @ q) < 1e-10
        assert apart(translate(x[10:]), x[10:] @ q) > 0.1

    def test_features_that_never_vary(self):
        x = normal(30, 4)
        x[:, 2] = 5.0
        y = 2 * x @ rotation(4)
        found = Procrustes().fit(x, y)(x)
        assert apart(found, y) < 1e-10


class TestLeastSquares:
    def test_recovers_any_matrix(self):
        x, matrix = normal(30, 4), normal(4, 6, seed=1)
        assert apart(LeastSquares().fit(x, x @ matrix).kernel, matrix) < 1e-10

    def test_against_normal_equations(self):
        x, y = normal(30, 4), normal(30, 3, seed=1)
        expected = np.linalg.solve(x.T @ x, x.T @ y)
        translate = LeastSquares().fit(x, y)
        assert apart(translate.kernel, expected) < 1e-12
        assert translate.bias is None

    def test_has_no_shift(self):
        x = normal(30, 4)
        translate = LeastSquares().fit(x, x + 5)
        assert apart(translate(x), x + 5) > 1
        np.testing.assert_array_equal(translate(np.zeros((2, 4))), 0)

    def test_smallest_of_several_matrices(self):
        x, y = normal(5, 20), normal(5, 3, seed=1)
        kernel = LeastSquares().fit(x, y).kernel
        assert apart(x @ kernel, y) < 1e-10
        # Nothing of it is outside of the span of the anchors.
        assert apart(x.T @ np.linalg.solve(x @ x.T, x @ kernel), kernel) < 1e-10

    @pytest.mark.parametrize(("p", "q"), [(4, 4), (3, 6), (6, 3)])
    def test_orthogonal(self, p, q):
        x, y = normal(40, p), normal(40, q, seed=1)
        free = LeastSquares().fit(x, y).kernel
        kernel = LeastSquares(orthogonal=True).fit(x, y).kernel
        inner = kernel @ kernel.T if p <= q else kernel.T @ kernel
        np.testing.assert_allclose(inner, np.eye(min(p, q)), atol=1e-12)
        # The nearest: none of many others is nearer, be it close to it or anywhere.
        distance = np.linalg.norm(kernel - free)
        for seed in range(200):
            near = kernel + (0.01 if seed % 2 else 3) * normal(p, q, seed=seed)
            u, _, v = np.linalg.svd(near, full_matrices=False)
            assert np.linalg.norm(u @ v - free) >= distance

    def test_orthogonal_keeps_lengths(self):
        x = normal(30, 4)
        found = LeastSquares(orthogonal=True).fit(x, 3 * x @ rotation(4))(x)
        assert apart(found, x @ rotation(4)) < 1e-10


class TestAffine:
    def test_recovers_any_affine_map(self):
        x, matrix, shift = normal(30, 4) + 3, normal(4, 6, seed=1), normal(6, seed=2)
        translate = Affine().fit(x, x @ matrix + shift)
        assert apart(translate.kernel, matrix) < 1e-10
        assert apart(translate.bias, shift) < 1e-10

    def test_against_a_feature_of_ones(self):
        x, y = normal(30, 4) + 3, normal(30, 3, seed=1)
        ones = np.ones((30, 1))
        matrix = np.concatenate([x, ones], axis=1)
        expected = np.linalg.solve(matrix.T @ matrix, matrix.T @ y)
        translate = Affine().fit(x, y)
        assert apart(translate.kernel, expected[:-1]) < 1e-10
        assert apart(translate.bias, expected[-1]) < 1e-10

    def test_needs_more_anchors_than_features(self):
        x, y = normal(4, 4), normal(4, 3, seed=1)
        with pytest.warns(UserWarning, match="centred source anchors"):
            translate = Affine().fit(x, y)
        assert apart(translate(x), y) < 1e-10
        assert np.abs(translate.kernel).max() < 100  # the direction without anchors is left out


class TestInverseRelative:
    @pytest.mark.parametrize("k", [16, 17, 50])
    def test_reproduces_directions(self, k):
        anchors, x = normal(k, 16), normal(100, 16, seed=1)
        assert apart(InverseRelative().fit(anchors, anchors)(x), unit(x)) < 1e-8

    @pytest.mark.parametrize("k", [64, 200])
    def test_translates_a_rotated_and_scaled_space(self, k):
        x = normal(300, 64)
        y = 7.3 * x @ rotation(64)
        found = InverseRelative().fit(x[:k], y[:k])(x)
        assert np.min(np.sum(found * unit(y), axis=1)) > 1 - 1e-8
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-8)

    def test_projects_on_the_span_of_few_anchors(self):
        anchors, x = normal(5, 16), normal(100, 16, seed=1)
        basis = np.linalg.qr(anchors.T)[0]
        expected = unit(x) @ basis @ basis.T
        assert apart(InverseRelative().fit(anchors, anchors)(x), expected) < 1e-8

    @pytest.mark.parametrize(("k", "p", "q"), [(30, 4, 6), (30, 6, 4), (4, 6, 8)])
    def test_against_relative_codes(self, k, p, q):
        """The nearest row of the target to the codes of each sample, one by one."""
        source, target, x = normal(k, p), normal(k, q, seed=1), normal(9, p, seed=2)
        found = InverseRelative().fit(source, target)(x)
        for i in range(9):
            codes = [x[i] @ a / np.linalg.norm(x[i]) / np.linalg.norm(a) for a in source]
            expected = np.linalg.lstsq(unit(target), np.array(codes), rcond=None)[0]
            assert apart(found[i], expected) < 1e-10

    def test_a_shift_needs_centring(self):
        x = normal(200, 6)
        y = 3 * x @ rotation(6) + 20
        plain = InverseRelative().fit(x[:50], y[:50])(x)
        assert mean_cosine(plain, y) < 0.9
        for scale in (False, True):
            found = InverseRelative(center=True, scale=scale).fit(x[:50], y[:50])(x)
            means = x[:50].mean(axis=0), y[:50].mean(axis=0)
            length = np.linalg.norm(y[:50] - means[1], axis=1).mean() if scale else 1
            expected = unit(x - means[0]) @ rotation(6) * length + means[1]
            assert apart(found, expected) < 1e-8

    def test_scale_is_the_mean_length_of_the_target_anchors(self):
        x, y = normal(30, 4), 5 * normal(30, 6, seed=1) + 1
        lengths = np.linalg.norm(y, axis=1)
        plain, scaled = (InverseRelative(scale=s).fit(x, y)(x) for s in (False, True))
        np.testing.assert_allclose(scaled, lengths.mean() * plain)

    @pytest.mark.parametrize("scale", [False, True])
    def test_lengths_of_samples_and_of_anchors_are_lost(self, scale):
        x, y, new = normal(30, 4), normal(30, 5, seed=1), normal(9, 4, seed=2)
        lengths = np.random.default_rng(3).uniform(0.1, 9, size=(30, 1))
        expected = InverseRelative(scale=scale).fit(x, y)(new)
        assert apart(InverseRelative(scale=scale).fit(lengths * x, y)(7 * new), expected) < 1e-10
        found = InverseRelative(scale=scale).fit(x, lengths * y)(new)
        assert (apart(found, expected) < 1e-10) == (not scale)

    def test_rows_of_zeros(self):
        x, y = normal(30, 4), normal(30, 5, seed=1)
        x[3] = y[7] = 0
        for scale in (False, True):
            translate = InverseRelative(scale=scale).fit(x, y)
            found = translate(x)
            assert np.isfinite(found).all()
            np.testing.assert_array_equal(found[3], 0)
        centred = InverseRelative(center=True).fit(x, y)
        np.testing.assert_allclose(centred(centred.shift[None]), y.mean(axis=0)[None])

    def test_centred_with_few_anchors_stays_bounded(self):
        x, y = normal(6, 8), normal(6, 9, seed=1)
        with pytest.warns(UserWarning, match="target anchors, of unit length"):
            translate = InverseRelative(center=True).fit(x, y)
        assert np.abs(translate.kernel).max() < 100


class TestWarnings:
    def ill(self, condition, k=30, d=4):
        """Matrix of k rows with a given condition number."""
        values = np.geomspace(condition, 1, d)
        return isometry(d, k).T * values @ rotation(d)

    @pytest.mark.parametrize(
        ("name", "bad", "words"),
        [
            ("least-squares", "source", "The source anchors have"),
            ("orthogonal", "source", "The source anchors have"),
            ("affine", "source", "The centred source anchors have"),
            ("relative", "target", "The target anchors, of unit length, have"),
            ("relative-centred", "target", "The target anchors, of unit length, have"),
        ],
    )
    def test_of_ill_conditioned_anchors(self, name, bad, words):
        good, ill = normal(30, 4), normal(30, 4, seed=1) @ self.ill(1e6, k=4)
        pair = (ill, good) if bad == "source" else (good, ill)
        message = rf"{words} a condition number of \S+e\+\S+ Expected at most 1000.*more anchors"
        with pytest.warns(UserWarning, match=message) as record:
            ALL[name]().fit(*pair)
        assert record[0].filename == __file__  # it points to the call of fit
        ALL[name]().fit(*pair[::-1])  # warnings are errors in this suite

    def test_above_a_thousand(self):
        y = normal(30, 3)
        LeastSquares().fit(self.ill(999), y)
        with pytest.warns(UserWarning, match="1e\\+03"):
            LeastSquares().fit(self.ill(1001), y)
        x = self.ill(1e5)
        with pytest.warns(UserWarning, match=r"of 1e\+05"):
            LeastSquares().fit(x, y)

    def test_few_anchors_alone_are_well_conditioned(self):
        LeastSquares().fit(normal(5, 20), normal(5, 20, seed=1))
        InverseRelative().fit(normal(5, 20), normal(5, 20, seed=1))

    def test_of_rank_deficient_anchors(self):
        x = np.concatenate([normal(30, 3), np.zeros((30, 1))], axis=1)
        with pytest.warns(UserWarning, match="condition number of inf"):
            translate = LeastSquares().fit(x, x)
        assert apart(translate(x), x) < 1e-10

    @pytest.mark.parametrize("factor", [1e-200, 1e-20, 1e20])
    def test_the_unit_of_a_space_is_no_matter(self, factor):
        x, y = normal(30, 4), normal(30, 4, seed=1)
        for translator in ALL.values():
            expected = translator().fit(x, y)(x)
            found = translator().fit(factor * x, y)(factor * x)
            if translator is not ALL["orthogonal"]:  # which keeps lengths
                assert apart(found, expected) < 1e-10


class TestLayers:
    @EVERY
    @pytest.mark.parametrize(("p", "q"), [(5, 5), (4, 7)])
    def test_compute_the_same(self, name, p, q, tmp_path):
        x, y = normal(30, p) + 0.5, 2 * normal(30, q, seed=1) - 0.5
        translate = ALL[name]().fit(x, y)
        new = normal(9, p, seed=2)
        new[0] = 0
        layer = translate.layer()
        assert layer.built
        found = keras.ops.convert_to_numpy(layer(keras.ops.convert_to_tensor(new, "float32")))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, translate(new), atol=1e-5)

        model = keras.Sequential([keras.Input((p,)), layer, keras.layers.ReLU()])
        expected = np.maximum(translate(new), 0)
        np.testing.assert_allclose(model.predict(new, verbose=0), expected, atol=1e-5)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(loaded.predict(new, verbose=0), expected, atol=1e-5)

    @EVERY
    def test_are_of_keras_alone_and_trainable(self, name):
        layer = ALL[name]().fit(normal(30, 4), normal(30, 5, seed=1)).layer()
        parts = layer.layers if isinstance(layer, keras.Sequential) else [layer]
        assert all(type(part).__module__.startswith("keras.") for part in parts)
        assert isinstance(parts[-1], keras.layers.Dense)
        has_shift = name.startswith(("procrustes", "affine", "relative-centred", "relative-both"))
        assert len(layer.trainable_variables) == (2 if has_shift else 1)

    @EVERY
    def test_are_in_float32_whatever_the_policy(self, name):
        translate = ALL[name]().fit(normal(30, 4), normal(30, 5, seed=1))
        x = normal(9, 4, seed=2)
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            found = keras.ops.convert_to_numpy(translate.layer()(x.astype("float32")))
        finally:
            keras.config.set_dtype_policy("float32")
        np.testing.assert_allclose(found, translate(x), atol=1e-5)

    def test_are_new_each_time(self):
        translate = Affine().fit(normal(30, 4), normal(30, 5, seed=1))
        first, second = translate.layer(), translate.layer()
        first.set_weights([np.zeros((4, 5)), np.zeros(5)])
        np.testing.assert_allclose(second.get_weights()[0], translate.kernel, atol=1e-6)


class TestErrors:
    X = normal(20, 4)

    @EVERY
    @pytest.mark.parametrize(
        ("source", "target", "message"),
        [
            (X, X[1:], "do not pair.*20 in source and 19 in target.*Leave out"),
            (X[:1], X[:1], "`source`.*at least 2 anchors.*1 of them"),
            (X[:0], X[:0], "`source`.*at least 2 anchors.*0 of them"),
            (X[:, 0], X, r"`source`.*\(n, ...\).*shape \(20,\)"),
            (X, X[0, 0], r"`target`.*\(n, ...\).*shape \(\)"),
            (X * np.nan, X, "`source`.*finite"),
            (X, X * np.inf, "`target`.*finite"),
            (X.astype(str), X, "`source`.*real numbers"),
        ],
    )
    def test_of_fit(self, name, source, target, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            ALL[name]().fit(source, target)

    @EVERY
    def test_of_calls(self, name):
        translate = ALL[name]()
        for call in (translate, lambda x: translate.layer()):
            with pytest.raises(ValueError, match=r"not fitted.*call of fit first.*\(\)\.fit\("):
                call(self.X)
        translate.fit(self.X, normal(20, 6, seed=1))
        with pytest.raises(ValueError, match=r"`x`.*4 features, as of the source.*3 features"):
            translate(self.X[:, :3])
        with pytest.raises(ValueError, match=r"`x`.*\(n, ...\)"):
            translate(self.X[0])
        with pytest.raises(ValueError, match=r"`x`.*finite"):
            translate(np.full((1, 4), np.nan))

    @pytest.mark.parametrize("argument", ["source", "target"])
    def test_of_equal_anchors(self, argument):
        pair = {"source": self.X, "target": self.X, argument: np.full((20, 4), 0.1)}
        for scale in ("space", "feature"):
            message = rf"`{argument}`.*anchors that differ.*20 equal rows"
            with pytest.raises(ValueError, match=message):
                Procrustes(scale=scale).fit(**pair)

    def test_options_are_keyword_only(self):
        for call in (lambda: LeastSquares(True), lambda: InverseRelative(True)):
            with pytest.raises(TypeError):
                call()


def test_no_other_warning_comes_from_degenerate_anchors():
    """Of equal anchors, or of zeros, each is an error or the one warning, and never NaN."""
    for name, translator in ALL.items():
        for anchors in (np.zeros((5, 3)), np.ones((5, 3))):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*condition number of", UserWarning)
                if name.startswith("procrustes"):  # see test_of_equal_anchors
                    continue
                found = translator().fit(anchors, anchors)(normal(4, 3))
            assert np.isfinite(found).all()
