import itertools

import numpy as np
import pytest
import reference
from autodiff import ALL_MODES, BACKEND, MODES, marked, value, value_and_grads, values
from backends import FLOAT64
from keras import ops

from keras_lgg import relative
from keras_lgg.relative import projection

SIMILARITIES, NORMALIZATIONS = projection.SIMILARITIES, projection.NORMALIZATIONS
WIDTH = 6
FEW, MANY = 4, 9  # anchors, against the width
COUNTS = pytest.mark.parametrize("count", [FEW, MANY])
WIDEST = "float32" if BACKEND == "torch" else "float64"


def spaces(count=MANY, dtype="float32", samples=3, seed=0):
    """Samples and anchors of several axes, away from 0."""
    rng = np.random.default_rng(seed)
    x, anchors = (rng.normal(size=(n, 3, 2)) + 0.4 for n in (samples, count))
    return x.astype(dtype), anchors.astype(dtype)


def assert_close(found, expected, tolerance):
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def codes(x, anchors, mode="eager", **options):
    return value(lambda x, a: relative.relative_projection(x, a, **options), [x, anchors], mode)


def every_code(x, anchors, mode="eager", similarities=SIMILARITIES, **options):
    """Codes by similarity, from one program."""

    def project(x, anchors):
        return [
            relative.relative_projection(x, anchors, similarity=name, **options)
            for name in similarities
        ]

    return dict(zip(similarities, values(project, [x, anchors], mode), strict=True))


def exact(count, normalization, dtype):
    """The similarities that a dtype has digits for."""
    if normalization == "whiten" and count == FEW and dtype == "float32":
        # What is off the span of the anchors counts a thousandfold in samples, and so does the
        # rounding in anchors: their products are mostly that.
        return ("euclidean", "l1", "lp")
    return SIMILARITIES


class TestAgainstReference:
    @pytest.mark.parametrize("normalization", NORMALIZATIONS)
    @pytest.mark.parametrize(
        ("count", "dtype"),
        [
            (MANY, "float32"),
            pytest.param(FEW, "float64", marks=FLOAT64),
            # JAX would compile each operation once more.
            pytest.param(FEW, "float32", marks=pytest.mark.skipif(BACKEND == "jax", reason="slow")),
            pytest.param(
                MANY,
                "float64",
                marks=[FLOAT64, pytest.mark.skipif(BACKEND == "jax", reason="slow")],
            ),
        ],
    )
    def test_values(self, count, normalization, dtype):
        x, anchors = spaces(count, dtype)
        found = every_code(x, anchors, normalization=normalization, p=3.0)
        assert {v.dtype for v in found.values()} == {np.dtype(dtype)}
        for name in SIMILARITIES:
            expected = reference.relative_codes(x, anchors, name, normalization, p=3.0)
            tolerance = {"float32": 1e-5, "float64": 1e-9}[dtype]
            if name not in exact(count, normalization, dtype):
                tolerance = 0.2
            assert_close(found[name], expected, tolerance)

    @pytest.mark.parametrize("normalization", NORMALIZATIONS)
    def test_statistics_given_are_those_computed(self, normalization):
        x, anchors = spaces()
        options = {"similarity": list(SIMILARITIES), "normalization": normalization}
        stats = relative.anchor_statistics(anchors, **options)
        expected = codes(x, anchors, **options)
        np.testing.assert_array_equal(codes(x, anchors, stats=stats, **options), expected)

    @pytest.mark.parametrize("pool", projection.POOLS)
    def test_a_product_of_spaces(self, pool):
        x, anchors = spaces()
        names = ["cosine", "l1", "euclidean"]
        single = [codes(x, anchors, similarity=name) for name in names]
        expected = {
            "concat": lambda: np.concatenate(single, axis=1),
            "stack": lambda: np.stack(single, axis=1),
            "sum": lambda: sum(single),
            "mean": lambda: sum(single) / 3,
        }[pool]()
        found = codes(x, anchors, similarity=tuple(names), pool=pool)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        shape = projection.pooled_shape(len(x), MANY, len(names), pool)
        assert found.shape == shape

    def test_a_list_of_one_similarity_is_pooled(self):
        x, anchors = spaces()
        assert codes(x, anchors, similarity=["cosine"], pool="stack").shape == (3, 1, MANY)

    @pytest.mark.parametrize("eps", [1.0, 1e-3, 1e-12, 1e-15, 1e-20, 1e-40])
    def test_short_rows_in_a_cosine(self, eps):
        x, anchors = spaces()
        x = x * np.array([0.3, 1e-14, 0.0], "float32")[:, None, None]
        expected = reference.relative_codes(x, anchors, eps=eps)
        np.testing.assert_allclose(codes(x, anchors, eps=eps), expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 50.0])
    def test_exponents(self, p):
        x, anchors = spaces()
        expected = reference.relative_codes(x, anchors, "lp", p=p)
        np.testing.assert_allclose(codes(x, anchors, similarity="lp", p=p), expected, rtol=1e-4)

    @FLOAT64
    def test_two_dtypes_meet_in_the_wider(self):
        x, anchors = spaces(dtype="float64")
        narrow = anchors.astype("float32")
        options = {"normalization": "standardize"}
        stats = relative.anchor_statistics(narrow, **options)
        for given in (None, stats):
            found = value(
                lambda x, s=given: relative.relative_projection(x, narrow, stats=s, **options), [x]
            )
            assert found.dtype == "float64"
            np.testing.assert_allclose(found, codes(x, anchors, **options), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("dtype", ["float16", "int32", "uint8"])
    def test_narrow_dtypes_are_computed_in_float32(self, dtype):
        x, anchors = (np.abs(10 * v).astype(dtype) for v in spaces())
        found = codes(x, anchors)
        assert found.dtype == "float32"
        expected = reference.relative_codes(x, anchors)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def weighted(x, anchors, weights, **options):
    return ops.sum(relative.relative_projection(x, anchors, **options) * ops.cast(weights, x.dtype))


class TestGradients:
    """Those of the statistics are written by hand."""

    @pytest.mark.parametrize("normalization", NORMALIZATIONS)
    @COUNTS
    def test_against_differences(self, count, normalization):
        if len(exact(count, normalization, WIDEST)) < len(SIMILARITIES):
            pytest.skip("float32 has not the digits")
        x, anchors = spaces(count, WIDEST)
        weights = np.random.default_rng(1).normal(size=(3, count))
        # The ridge of too few anchors leaves the reference few digits for a smaller step.
        step = 1e-4 if (normalization, count) == ("whiten", FEW) else 1e-6
        for name in SIMILARITIES:
            options = {"similarity": name, "normalization": normalization, "p": 3.0}

            def total(x, anchors, options=options):
                return np.sum(weights * reference.relative_codes(x, anchors, **options))

            expected = [
                reference.numerical_gradient(lambda v, f=total: f(v, anchors), x, step),
                reference.numerical_gradient(lambda v, f=total: f(x, v), anchors, step),
            ]
            _, found = value_and_grads(
                lambda x, a, o=options: weighted(x, a, weights, **o), [x, anchors]
            )
            for mine, theirs in zip(found, expected, strict=True):
                assert np.abs(theirs).max() > 1e-4
                # Differences are themselves off by some 1e-5 on whitened spaces.
                assert_close(mine, theirs, 2e-5 if WIDEST == "float64" else 1e-4)

    @pytest.mark.parametrize("mode", ALL_MODES)
    @pytest.mark.parametrize(
        ("normalization", "count", "names"),
        [
            ("none", FEW, ("cosine", "angular", "euclidean", "lp", "basis_change")),
            ("whiten", MANY, ("inner", "basis_change")),
        ],
        ids=["none", "whiten"],
    )
    def test_compiled(self, normalization, count, names, mode):
        """Values, too; also where the numbers of samples and anchors are open."""
        x, anchors = spaces(count)
        weights = np.random.default_rng(1).normal(size=(3, count * len(names)))
        options = {"normalization": normalization, "p": 3.0}
        expected = [reference.relative_codes(x, anchors, name, **options) for name in names]
        (_, eager), (total, compiled) = (
            value_and_grads(
                lambda x, a: weighted(x, a, weights, similarity=names, **options), [x, anchors], m
            )
            for m in ("eager", mode)
        )
        np.testing.assert_allclose(total, np.sum(weights * np.hstack(expected)), rtol=1e-4)
        for mine, theirs in zip(compiled, eager, strict=True):
            assert_close(mine, theirs, 1e-4)

    def test_statistics_given_are_constants(self):
        x, anchors = spaces()
        stats = relative.anchor_statistics(anchors, similarity="basis_change")
        _, (_, gradient) = value_and_grads(
            lambda x, a: relative.relative_projection(x, a, similarity="basis_change", stats=stats),
            [x, anchors],
        )
        np.testing.assert_array_equal(gradient, np.zeros_like(anchors))


class TestDegenerate:
    @pytest.mark.parametrize("normalization", NORMALIZATIONS)
    @COUNTS
    def test_zero_rows_duplicates_and_samples_that_are_anchors(self, count, normalization):
        x, anchors = spaces(count)
        x[0], anchors[0] = 0.0, 0.0
        anchors[2] = anchors[1]
        x[1] = anchors[1]
        for name in SIMILARITIES:
            for points in (anchors, np.zeros_like(anchors), np.ones_like(anchors)):
                total, gradients = value_and_grads(
                    lambda x, a, name=name: relative.relative_projection(
                        x, a, similarity=name, normalization=normalization, p=1.5
                    ),
                    [x, points],
                )
                assert np.isfinite(total), name
                assert all(np.isfinite(g).all() for g in gradients), name

    @pytest.mark.parametrize("mode", ALL_MODES)
    def test_compiled(self, mode):
        x, anchors = spaces()
        x[0], anchors[0] = 0.0, 0.0
        anchors[2] = anchors[1]
        x[1] = anchors[1]
        names = ["cosine", "angular", "euclidean", "l1", "lp"]
        _, gradients = value_and_grads(
            lambda x, a: relative.relative_projection(x, a, similarity=names, p=1.5),
            [x, anchors],
            mode,
        )
        assert all(np.isfinite(g).all() for g in gradients)

    def test_a_sample_that_is_an_anchor(self):
        _, anchors = spaces()
        found = every_code(anchors, anchors)
        np.testing.assert_allclose(np.diag(found["cosine"]), 1.0, rtol=0, atol=1e-6)
        for name in ("euclidean", "l1", "lp"):
            np.testing.assert_array_equal(np.diag(found[name]), 0.0)
        # The angle of two directions that agree to all digits but the last.
        np.testing.assert_allclose(np.diag(found["angular"]), 0.0, atol=3e-4)

    def test_zero_rows_have_zero_codes(self):
        x, anchors = spaces()
        x[1] = 0.0
        anchors[3] = 0.0
        found = codes(x, anchors)
        np.testing.assert_array_equal(found[1], 0.0)
        np.testing.assert_array_equal(found[:, 3], 0.0)
        np.testing.assert_allclose(codes(x, anchors, similarity="angular")[1], 0.5, rtol=1e-6)

    @pytest.mark.parametrize("similarity", ["angular", "euclidean", "l1", "lp"])
    def test_coincidence_has_no_direction(self, similarity):
        _, anchors = spaces()
        _, (gradient, _) = value_and_grads(
            lambda x, a: ops.diagonal(
                relative.relative_projection(x, a, similarity=similarity, p=1.0)
            ),
            [anchors[:3], anchors],
        )
        np.testing.assert_allclose(gradient, np.zeros_like(gradient), atol=2e-3)

    def test_opposite_directions(self):
        x, anchors = spaces()
        anchors[:3], anchors[3:6] = x, -2 * x
        found = codes(x, anchors, similarity="angular")
        np.testing.assert_allclose(np.diag(found), 0.0, atol=3e-4)
        np.testing.assert_allclose(np.diag(found[:, 3:]), 1.0, atol=3e-4)

    @pytest.mark.parametrize("offset", [0.0, 0.1, 1e4 / 3, 1e8 / 3])
    def test_an_axis_on_which_anchors_agree(self, offset):
        """It keeps its scale, and rounding of its mean does not count."""
        x, anchors = spaces(count=101)
        x, anchors = (v.reshape(len(v), WIDTH) for v in (x, anchors))
        plain = codes(x, anchors, normalization="standardize")
        x[:, 2] = anchors[:, 2] = offset
        expected = reference.relative_codes(x, anchors, normalization="standardize")
        found = codes(x, anchors, normalization="standardize")
        np.testing.assert_allclose(found, expected, atol=2e-5)
        assert np.abs(found - plain).max() > 1e-2

    @pytest.mark.parametrize("scale", [1e15, 1e-15])
    @pytest.mark.parametrize("similarity", ["cosine", "angular", "euclidean"])
    def test_scales(self, similarity, scale):
        x, anchors = spaces()
        options = {"similarity": similarity, "eps": 1e-16}
        x, anchors = np.float32(scale) * x, np.float32(scale) * anchors
        expected = reference.relative_codes(x, anchors, **options)
        np.testing.assert_allclose(codes(x, anchors, **options), expected, rtol=1e-4)
        _, gradients = value_and_grads(
            lambda x, a: relative.relative_projection(x, a, **options), [x, anchors]
        )
        assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)

    def test_each_sample_has_a_scale_of_its_own(self):
        x, anchors = spaces()
        far = np.concatenate([x, np.full_like(x[:1], 1e18)])
        found = codes(far, anchors, similarity="euclidean")
        np.testing.assert_allclose(found[:-1], codes(x, anchors, similarity="euclidean"), rtol=1e-6)
        np.testing.assert_allclose(found[-1], np.full(MANY, 1e18 * np.sqrt(6)), rtol=1e-5)

    def test_distances_at_a_common_offset(self):
        x, anchors = (v + np.float32(1e3) for v in spaces())
        found = codes(x, anchors, similarity="euclidean")
        expected = reference.relative_codes(x, anchors, "euclidean")
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    @pytest.mark.parametrize("mode", marked(m for m in MODES if m != "graph"))
    def test_anchors_that_do_not_span_are_whitened_on_their_axes(self, mode):
        x, anchors = spaces(dtype=WIDEST)
        x, anchors = (v.reshape(len(v), WIDTH).copy() for v in (x, anchors))
        anchors[:, 4] = anchors[:, 3]  # what the samples do across is not seen
        moved = x + 7.0 * np.array([0, 0, 0, -1, 1, 0], x.dtype)
        options = {"similarity": ["inner", "basis_change"], "normalization": "whiten"}
        found = codes(np.concatenate([x, moved]), anchors, mode, **options)
        expected = np.hstack(
            [
                reference.relative_codes(x, anchors, name, "whiten")
                for name in ("inner", "basis_change")
            ]
        )
        assert_close(found, np.concatenate([expected, expected]), 2e-5)


class TestInBlocks:
    """Differences of every pair, of some anchors at a time."""

    @pytest.mark.parametrize("mode", marked(m for m in MODES if m != "graph"))
    @pytest.mark.parametrize("similarity", ["l1", "lp"])
    def test_as_at_once(self, similarity, mode, monkeypatch):
        x, anchors = spaces()

        def loss(x, a):
            return relative.relative_projection(x, a, similarity=similarity, p=3.0) ** 2

        def run():
            return codes(x, anchors, similarity=similarity, p=3.0), *value_and_grads(
                loss, [x, anchors], mode
            )

        whole, total, gradients = run()
        # Entries of two anchors, then of less than one: 9 anchors are not a multiple of 2.
        for entries in (2 * 3 * WIDTH + 1, 7) if mode == "eager" else (2 * 3 * WIDTH + 1,):
            monkeypatch.setattr(projection, "ENTRIES", entries)
            found, found_total, found_gradients = run()
            np.testing.assert_allclose(found, whole, rtol=1e-6)
            np.testing.assert_allclose(found_total, total, rtol=1e-5)
            for mine, theirs in zip(found_gradients, gradients, strict=True):
                assert np.abs(theirs).max() > 0.1
                np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


# Invariances: what happens to the space, to samples and anchors alike.


def transforms(width):
    rng = np.random.default_rng(3)
    rotation, _ = np.linalg.qr(rng.normal(size=(width, width)))
    shift = rng.normal(size=width) + 1.0
    axes = rng.uniform(0.5, 2.0, width) * np.where(np.arange(width) % 2, 1, -1)
    linear = rng.normal(size=(width, width)) + 2 * np.eye(width)
    order = np.roll(np.arange(width), 1)
    return {
        "rotation": lambda x: x @ rotation,
        "scale": lambda x: 7.3 * x,
        "shift": lambda x: x + shift,
        "permutation": lambda x: x[:, order],
        "axes": lambda x: x * axes,
        "linear": lambda x: x @ linear,
    }


EVERYTHING = frozenset(transforms(2))
LINEAR = EVERYTHING - {"shift"}
OWN = {
    "cosine": {"rotation", "permutation", "scale"},
    "inner": {"rotation", "permutation"},
    "angular": {"rotation", "permutation", "scale"},
    "euclidean": {"rotation", "permutation", "shift"},
    "l1": {"permutation", "shift"},
    "lp": {"permutation", "shift"},
    "basis_change": LINEAR,  # with anchors that span
}


def kept(similarity, normalization):
    """What leaves the codes unchanged, with more anchors than axes."""
    own = OWN[similarity]
    if normalization == "none":
        return own
    if normalization == "center":
        return own | {"shift"}
    if similarity == "basis_change":
        return EVERYTHING
    if normalization == "standardize":
        return {"shift", "scale", "axes", "permutation"}
    if similarity in ("l1", "lp"):  # whitened spaces still differ by a rotation
        return {"shift", "scale", "permutation"}
    return EVERYTHING


def changes(x, anchors, transform, similarities=SIMILARITIES, **options):
    """By similarity, how much a transform of the space changes the codes."""
    moved = [transform(v.astype("float64")).astype(v.dtype) for v in (x, anchors)]
    before, after = (
        every_code(*v, similarities=similarities, **options) for v in ((x, anchors), moved)
    )
    return {name: np.abs(after[name] - before[name]).max() for name in similarities}


def cosine_change(x, anchors, transform, **options):
    return changes(x, anchors, transform, ["cosine"], **options)["cosine"]


def points(count, width=WIDTH, dtype=WIDEST):
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(n, width)) + 0.5).astype(dtype) for n in (3, count)]


class TestInvariances:
    @pytest.mark.parametrize("normalization", NORMALIZATIONS)
    def test_the_table(self, normalization):
        x, anchors = points(MANY)
        for transform, apply in transforms(WIDTH).items():
            found = changes(x, anchors, apply, normalization=normalization, p=3.0)
            for name, change in found.items():
                if transform in kept(name, normalization):
                    assert change < (1e-10 if WIDEST == "float64" else 5e-4), (name, transform)
                else:
                    assert change > 1e-2, (name, transform)

    def test_too_few_anchors_to_span(self):
        x, anchors = points(FEW)
        for transform, apply in transforms(WIDTH).items():
            change = changes(x, anchors, apply)["basis_change"]
            if transform in ("rotation", "permutation", "scale"):
                assert change < (1e-10 if WIDEST == "float64" else 1e-5)
            else:
                assert change > 1e-2

    def test_too_few_anchors_to_whiten(self):
        x, anchors = points(FEW)
        for transform, apply in transforms(WIDTH).items():
            change = changes(x, anchors, apply, normalization="whiten")["euclidean"]
            if transform in ("rotation", "permutation", "scale", "shift"):
                assert change < (1e-6 if WIDEST == "float64" else 1e-2)
            else:
                assert change > 10.0

    @pytest.mark.parametrize(
        ("dtype", "bound"), [pytest.param("float64", 1e-10, marks=FLOAT64), ("float32", 5e-6)]
    )
    def test_rotation_scale_and_shift(self, dtype, bound):
        x, anchors = points(MANY, dtype=dtype)
        each = transforms(WIDTH)

        def similar(x):
            return 7.3 * each["rotation"](x)

        assert cosine_change(x, anchors, similar) < bound

        def shifted(x):
            return each["shift"](similar(x))

        assert cosine_change(x, anchors, shifted, normalization="center") < bound
        assert cosine_change(x, anchors, shifted) > 1e-2

    @FLOAT64
    def test_signed_scales_of_the_axes(self):
        x, anchors = points(MANY)
        each = transforms(WIDTH)

        def rescaled(x):
            return each["shift"](each["permutation"](each["axes"](x)))

        options = {"normalization": "standardize"}
        assert cosine_change(x, anchors, rescaled, **options) < 1e-10
        assert cosine_change(x, anchors, each["rotation"], **options) > 1e-2

    @FLOAT64
    def test_affine_maps(self):
        x, anchors = points(150, 64)
        each = transforms(64)

        def affine(x):
            return each["shift"](each["linear"](x))

        assert cosine_change(x, anchors, affine, normalization="whiten") < 1e-8
        assert cosine_change(x, anchors, affine) > 1e-2


class TestQuantize:
    CODES = np.random.default_rng(0).uniform(-1, 1, (4, 6)).astype("float32")

    @pytest.mark.parametrize("bin_size", [0.1, 0.5, 3])
    def test_rounds_to_the_nearest_step(self, bin_size):
        found = value(lambda c: relative.quantize(c, bin_size=bin_size), [self.CODES])
        expected = [
            [min((bin_size * k for k in range(-12, 13)), key=lambda s: abs(s - c)) for c in row]
            for row in self.CODES
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("mode", ALL_MODES)
    def test_rounding_passes_the_gradient_on(self, mode):
        _, (gradient,) = value_and_grads(
            lambda c: 3 * relative.quantize(c, bin_size=0.3) ** 2, [self.CODES], mode
        )
        expected = 6 * 0.3 * np.round(self.CODES / 0.3)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("bin_size", [0.25, 2.0])
    def test_smooth_steps(self, bin_size):
        def expected(c):
            return c - bin_size * np.sin(2 * np.pi * c / bin_size) / (2 * np.pi)

        def smooth(c):
            return relative.quantize(c, bin_size=bin_size, method="smooth_steps")

        np.testing.assert_allclose(value(smooth, [self.CODES]), expected(self.CODES), atol=1e-6)
        _, (gradient,) = value_and_grads(smooth, [self.CODES])
        slopes = reference.numerical_gradient(lambda c: np.sum(expected(c)), self.CODES)
        np.testing.assert_allclose(gradient, slopes, atol=1e-4)
        steps = (bin_size * np.arange(-3, 4)).astype("float32")
        np.testing.assert_allclose(value(smooth, [steps]), steps, atol=1e-6)
        np.testing.assert_allclose(value_and_grads(smooth, [steps])[1][0], 0.0, atol=1e-6)
        between = steps + np.float32(bin_size / 2)
        np.testing.assert_allclose(value_and_grads(smooth, [between])[1][0], 2.0, atol=1e-5)


class TestClassCodes:
    def test_means_of_each_class(self):
        found_codes = np.random.default_rng(0).normal(size=(2, 3, 7)).astype("float32")
        labels = np.array([2, 0, 1, 0, 2, 2, 1])
        expected = np.zeros((2, 3, 3))
        for i, j, label in itertools.product(range(2), range(3), range(3)):
            own = [found_codes[i, j, k] for k in range(7) if labels[k] == label]
            expected[i, j, label] = sum(own) / len(own)
        found = value(lambda c: relative.class_codes(c, labels), [found_codes])
        assert found.dtype == "float32"
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    def test_codes_in_16_bits(self):
        """Steps too small for them, and means that they would round."""
        narrow = np.array([[0.3, 1e3, 1e3 + 0.5]], "float16")
        stepped = value(lambda c: relative.quantize(c, bin_size=1e-9), [narrow])
        means = value(lambda c: relative.class_codes(c, [0, 1, 1]), [narrow])
        assert stepped.dtype == means.dtype == "float32"
        np.testing.assert_allclose(stepped, narrow, rtol=1e-6)
        np.testing.assert_allclose(means, [[narrow[0, 0], 1e3 + 0.25]], rtol=1e-7)

    @FLOAT64
    def test_keeps_float64(self):
        found = value(lambda c: relative.class_codes(c, [0, 0, 1]), [np.ones((2, 3)) / 3])
        assert found.dtype == "float64"
        np.testing.assert_allclose(found, 1 / 3, rtol=1e-15)


X, ANCHORS = spaces()
PROJECT = relative.relative_projection


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PROJECT(X, ANCHORS, similarity="dot"), "`similarity`.*one of.*Received.*'dot'"),
        (lambda: PROJECT(X, ANCHORS, similarity=[]), r"`similarity`.*or a list.*Received.*\[\]"),
        (lambda: PROJECT(X, ANCHORS, similarity=None), "`similarity`.*or a list.*Received.*None"),
        (lambda: PROJECT(X, ANCHORS, similarity=["l1", "l3"]), "`similarity`.*Received.*'l3'"),
        (lambda: PROJECT(X, ANCHORS, normalization="batch"), "`normalization`.*'whiten'.*'batch'"),
        (lambda: PROJECT(X, ANCHORS, pool="max"), "`pool`.*'stack'.*Received: pool='max'"),
        (lambda: PROJECT(X, ANCHORS, p=0.5), "`p`.*at least 1.*Received: p=0.5"),
        (lambda: PROJECT(X, ANCHORS, p="2"), "`p`.*positive finite.*Received: p='2'"),
        (lambda: PROJECT(X, ANCHORS, eps=0), "`eps`.*positive finite.*Received: eps=0"),
        (lambda: PROJECT(X, ANCHORS[:1]), r"`anchors`.*at least 2.*shape \(1, 6\)"),
        (lambda: PROJECT(X, ANCHORS[:, :2]), "different spaces.*width 6.*width 4.*Encode the"),
        (lambda: PROJECT(np.float32(1.0), ANCHORS), "one row a sample.*Received.*a scalar"),
        (
            lambda: PROJECT(X, ANCHORS, stats={"mean": X[0]}),
            "`stats`.*anchor_statistics.*Received.*mean",
        ),
        (
            lambda: PROJECT(X, ANCHORS, normalization="center", stats={}),
            r"`stats`.*normalization='center'.*\{'mean'\}",
        ),
        (
            lambda: PROJECT(X, np.nan * ANCHORS, similarity="basis_change"),
            "`anchors`.*factorised.*Received.*a NaN",
        ),
        (
            lambda: PROJECT(X, np.inf * ANCHORS, normalization="whiten"),
            "`anchors`.*finite numbers.*an infinity",
        ),
        (lambda: relative.anchor_statistics(ANCHORS, similarity="l0"), "`similarity`.*'l0'"),
        (lambda: relative.anchor_statistics(ANCHORS, normalization="l2"), "`normalization`.*'l2'"),
        (lambda: relative.anchor_statistics(ANCHORS[:1]), "`anchors`.*at least 2"),
        (lambda: relative.quantize(X, bin_size=0.0), "`bin_size`.*positive.*Received"),
        (lambda: relative.quantize(X, bin_size=1, method="floor"), "`method`.*'ste_round'"),
        (
            lambda: relative.class_codes(X[:, :, 0], [0, 1]),
            r"`anchor_labels`.*each of the 3 anchors.*Received.*\(2,\)",
        ),
        (lambda: relative.class_codes(X[:, :, 0], [0.0, 1.0, 1.0]), "`anchor_labels`.*one integer"),
        (
            lambda: relative.class_codes(X[:, :, 0], [0, 2, 2]),
            r"an anchor of every class.*stratified.*labels \[0, 2\]",
        ),
        (lambda: relative.class_codes(X[:, :, 0], [-1, 0, 1]), r"every class.*\[-1, 0, 1\]"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=f"(?s){message}"):
        call()
