"""Strata of latents: against slow loops, and on tensors whose ranks are known."""

import collections

import numpy as np
import pytest
from manifold_reference import centred, rank
from manifold_reference import covariance as slow_covariance
from manifold_reference import unfold as slow_unfold

from keras_lgg.manifolds.strata import (
    largest_ranks,
    mode_covariance,
    mode_factors,
    mode_ranks,
    ranks_at,
    strata,
    unfold,
)

pytestmark = pytest.mark.once
EPSILON = 2.0**-23  # of float32
SHAPES = [(7, 7, 16), (2, 3, 5), (5, 4, 3), (1, 2, 3), (2, 2, 1)]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rotation(d, seed=3):
    return np.linalg.qr(normal(d, d, seed=seed))[0]


def with_repeated_row():
    z = normal(7, 7, 128)
    z[6] = z[0]
    return z


def with_singular_values(values, mode=1, shape=(4, 5, 12), seed=0):
    """A tensor whose unfolding has rows of mean 0 and these singular values, then zeros."""
    values = np.asarray(values, "float64")
    d = shape[mode - 1]
    m = int(np.prod(shape)) // d
    left = np.linalg.qr(normal(d, len(values), seed=seed))[0]
    right = normal(m, len(values), seed=seed + 1)
    right = np.linalg.qr(right - right.mean(axis=0))[0]
    unfolded = left @ np.diag(values) @ right.T
    rest = [n for k, n in enumerate(shape) if k != mode - 1]
    return np.moveaxis(unfolded.reshape(d, *rest), 0, mode - 1)


def rank_of_mode(latents, mode, rtol=None):
    return int(mode_ranks(latents, rtol=rtol)[..., mode - 1])


class TestUnfold:
    @pytest.mark.parametrize("mode", [1, 2, 3])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_against_loops(self, shape, mode):
        z = normal(*shape)
        found = unfold(z, mode=mode)
        d = shape[mode - 1]
        assert found.shape == (d, np.prod(shape) // d)
        np.testing.assert_array_equal(found, slow_unfold(z, mode))

    @pytest.mark.parametrize("mode", [1, 2, 3])
    def test_of_batches(self, mode):
        z = normal(2, 3, 4, 5, 6)
        found = unfold(z, mode=mode)
        assert found.shape[:2] == (2, 3)
        for i in range(2):
            for j in range(3):
                np.testing.assert_array_equal(found[i, j], slow_unfold(z[i, j], mode))

    def test_by_hand(self):
        z = [[[1, 2, 3], [4, 5, 6]]]  # one row, two columns, three channels
        assert unfold(z, mode=1).tolist() == [[1, 2, 3, 4, 5, 6]]
        assert unfold(z, mode=2).tolist() == [[1, 2, 3], [4, 5, 6]]
        assert unfold(z, mode=3).tolist() == [[1, 4], [2, 5], [3, 6]]

    @pytest.mark.parametrize("dtype", ["float16", "float32", "int64"])
    def test_keeps_the_dtype(self, dtype):
        assert unfold(np.ones((2, 3, 4), dtype), mode=3).dtype == dtype

    @pytest.mark.parametrize("mode", [0, 4, -1, "1", None])
    def test_of_another_mode(self, mode):
        with pytest.raises(ValueError, match=rf"`mode`.*one of \(1, 2, 3\).*mode={mode!r}"):
            unfold(normal(2, 3, 4), mode=mode)

    @pytest.mark.parametrize("shape", [(), (3,), (3, 4)])
    def test_of_too_few_axes(self, shape):
        with pytest.raises(ValueError, match=r"`latents`.*\(\.\.\., H, W, C\).*shape \("):
            unfold(np.zeros(shape), mode=1)


class TestModeCovariance:
    @pytest.mark.parametrize("mode", [1, 2, 3])
    @pytest.mark.parametrize("shape", [(7, 7, 16), (2, 3, 5), (5, 4, 3)])
    def test_against_numpy(self, shape, mode):
        z = normal(*shape) + 3
        expected = np.cov(slow_unfold(z, mode))
        np.testing.assert_allclose(mode_covariance(z, mode=mode), expected, atol=1e-13)

    @pytest.mark.parametrize("mode", [1, 2, 3])
    def test_of_batches(self, mode):
        z = normal(2, 3, 4, 5, 6)
        found = mode_covariance(z, mode=mode)
        for i in range(2):
            for j in range(3):
                np.testing.assert_allclose(found[i, j], slow_covariance(z[i, j], mode), atol=1e-13)

    def test_by_hand(self):
        # Rows (1, 3) and (5, 5): off their means (-1, 1) and (0, 0), over two columns less one.
        z = np.array([[[1.0, 3.0]], [[5.0, 5.0]]])
        assert mode_covariance(z, mode=1).tolist() == [[2, 0], [0, 0]]
        # Channels (1, 5) and (3, 5): off their means (-2, 2) and (-1, 1).
        assert mode_covariance(z, mode=3).tolist() == [[8, 4], [4, 2]]

    @pytest.mark.parametrize("mode", [1, 2, 3])
    @pytest.mark.parametrize("z", [normal(7, 7, 128), with_repeated_row(), 1e20 * normal(2, 2, 9)])
    def test_is_positive_semi_definite_with_the_trace_of_the_singular_values(self, z, mode):
        found = mode_covariance(z, mode=mode)
        np.testing.assert_array_equal(found, found.T)
        values = np.linalg.eigvalsh(found)
        assert values[0] >= -1e-12 * values[-1]
        x = centred(z, mode)
        expected = np.sum(np.linalg.svd(x, compute_uv=False) ** 2) / (x.shape[1] - 1)
        assert np.trace(found) == pytest.approx(expected, rel=1e-12)

    def test_is_computed_in_float64(self):
        # A large mean, the squares of which float32 could not take away.
        z = (normal(4, 5, 6) + 1e4).astype("float32")
        found = mode_covariance(z, mode=2)
        assert found.dtype == "float64"
        np.testing.assert_allclose(found, slow_covariance(z, 2), rtol=1e-9)


class TestModeRanks:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_of_known_tensors(self, dtype):
        assert mode_ranks(normal(7, 7, 128).astype(dtype)).tolist() == [7, 7, 48]
        assert mode_ranks(normal(8, 8, 128).astype(dtype)).tolist() == [8, 8, 63]
        assert mode_ranks(with_repeated_row().astype(dtype)).tolist() == [6, 7, 41]
        assert mode_ranks(np.zeros((7, 7, 128), dtype)).tolist() == [0, 0, 0]

    @pytest.mark.parametrize("shape", SHAPES)
    def test_of_gaussian_tensors_is_the_largest(self, shape):
        assert tuple(mode_ranks(normal(*shape))) == largest_ranks(shape)

    def test_of_repeated_columns_and_channels(self):
        z = normal(7, 7, 128)
        z[:, 6] = z[:, 0]
        assert mode_ranks(z).tolist() == [7, 6, 41]
        z = normal(4, 4, 6)
        z[..., 3:] = z[..., :1]
        assert mode_ranks(z).tolist() == [4, 4, 3]

    def test_a_constant_row_has_no_covariance(self):
        # Blank rows: one is a zero row of the first mode, and of channels 7 equal columns.
        z = normal(7, 7, 128)
        z[0] = 5
        assert mode_ranks(z).tolist() == [6, 7, 42]

    @pytest.mark.parametrize("scale", [1e-7, EPSILON / 2])
    @pytest.mark.parametrize("z", [normal(7, 7, 128), with_repeated_row(), 100 + normal(7, 7, 128)])
    def test_jitter_of_float32_adds_no_rank(self, z, scale):
        expected = mode_ranks(z)
        jittered = z * (1 + scale * normal(7, 7, 128, seed=5))
        np.testing.assert_array_equal(mode_ranks(jittered), expected)
        np.testing.assert_array_equal(mode_ranks(jittered.astype("float32")), expected)

    def test_larger_jitter_adds_rank(self):
        z = with_repeated_row()
        assert mode_ranks(z * (1 + 1e-2 * normal(7, 7, 128, seed=5))).tolist() == [7, 7, 48]

    @pytest.mark.parametrize("value", [1.0, -0.1, 1e20, 1 / 3])
    def test_a_constant_tensor_has_rank_0(self, value):
        z = np.full((7, 7, 128), value)
        assert mode_ranks(z).tolist() == [0, 0, 0]
        assert mode_ranks(z.astype("float32")).tolist() == [0, 0, 0]
        # Each value rounded up or down by one digit of float32.
        jittered = z * (1 + EPSILON / 2 * np.sign(normal(7, 7, 128)))
        assert mode_ranks(jittered).tolist() == [0, 0, 0]
        assert mode_ranks(jittered.astype("float32")).tolist() == [0, 0, 0]
        assert mode_ranks(z * (1 + 1e-3 * normal(7, 7, 128))).tolist() == [7, 7, 48]

    def test_of_batches(self):
        z = np.stack([normal(7, 7, 128), with_repeated_row(), np.zeros((7, 7, 128))])
        found = mode_ranks(z)
        assert np.issubdtype(found.dtype, np.integer)
        assert found.tolist() == [[7, 7, 48], [6, 7, 41], [0, 0, 0]]
        assert mode_ranks(z.reshape(3, 1, 7, 7, 128)).shape == (3, 1, 3)

    @pytest.mark.parametrize("rtol", [None, 1e-3, 0.1, 0.5])
    def test_against_loops(self, rtol):
        z = normal(6, 5, 4, 9) * np.geomspace(1, 1e-4, 9)
        expected = [[rank(x, mode, rtol) for mode in (1, 2, 3)] for x in z]
        np.testing.assert_array_equal(mode_ranks(z, rtol=rtol), expected)

    @pytest.mark.parametrize("z", [with_repeated_row(), normal(4, 4, 9) * np.geomspace(1, 1e-5, 9)])
    def test_invariances(self, z):
        expected = mode_ranks(z, rtol=1e-3).tolist()
        for scale in (1e-20, 1e-3, 7, 1e20):
            assert mode_ranks(scale * z).tolist() == mode_ranks(z).tolist()
            assert mode_ranks(scale * z, rtol=1e-3).tolist() == expected
            scaled = (scale * z).astype("float32")  # squares are out of range in float32
            assert mode_ranks(scaled, rtol=1e-3).tolist() == expected
        channels = z.shape[-1]
        for changed in (
            -z,
            z[..., np.random.default_rng(1).permutation(channels)],
            z @ rotation(channels),
            z[::-1, ::-1],
        ):
            assert mode_ranks(changed, rtol=1e-3).tolist() == expected
        # To each channel its own constant: of the third mode, that is centred off.
        shifted = z + 0.1 * normal(channels, seed=2)
        assert rank_of_mode(shifted, 3, rtol=1e-3) == expected[2]

    def test_the_modes_of_a_transposed_tensor_are_swapped(self):
        z = with_repeated_row()
        assert mode_ranks(z.transpose(1, 0, 2)).tolist() == [7, 6, 41]

    @pytest.mark.parametrize("mode", [1, 2, 3])
    def test_rtol_counts_singular_values_above_it(self, mode):
        z = with_singular_values([1, 0.5, 1.01e-3, 0.99e-3], mode)
        assert rank_of_mode(z, mode, rtol=1e-3) == 3
        assert rank_of_mode(z, mode, rtol=2e-3) == 2
        assert rank_of_mode(z, mode, rtol=0.51) == 1
        assert rank_of_mode(5e8 * z, mode, rtol=1e-3) == 3  # relative to the largest
        assert rank_of_mode(z, mode) == 4

    @pytest.mark.parametrize(
        ("shape", "mode", "larger_side"),
        [((4, 5, 12), 1, 60), ((4, 5, 12), 2, 48), ((4, 5, 12), 3, 20), ((2, 2, 30), 3, 30)],
    )
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_default_rtol_is_that_of_float32_times_the_larger_side(
        self, shape, mode, larger_side, dtype
    ):
        rtol = larger_side * EPSILON
        z = with_singular_values([1, 1.1 * rtol, 0.9 * rtol], mode, shape).astype(dtype)
        assert rank_of_mode(z, mode) == 2

    def test_no_rtol_counts_the_rounding_of_float32(self):
        z = with_singular_values([1, 1.1 * EPSILON, 0.9 * EPSILON])  # of norm 1
        assert rank_of_mode(z, 1, rtol=1e-12) == 2
        assert rank_of_mode(z, 1, rtol=EPSILON) == 2  # the larger of the two, not their sum
        # The norm before centring: a mean of 10 times the spread is rounded more coarsely.
        z = with_singular_values([1, 11 * EPSILON, 10 * EPSILON])
        z += np.sqrt((10.5**2 - 1) / z.size)
        assert np.linalg.norm(z) == pytest.approx(10.5)
        assert rank_of_mode(z, 1, rtol=1e-12) == 2

    @pytest.mark.parametrize("rtol", [0, 0.0, 1, 1.0, -1e-3, 2, np.nan, np.inf])
    def test_of_rtol_out_of_range(self, rtol):
        for call in (mode_ranks, lambda z, rtol: mode_factors(z, mode=1, rtol=rtol)):
            with pytest.raises(ValueError, match=r"`rtol`.*\(0, 1\).*rtol="):
                call(normal(2, 3, 4, 5), rtol=rtol)


class TestErrorsOfLatents:
    CALLS = (
        mode_ranks,
        lambda z: mode_covariance(z, mode=1),
        lambda z: mode_factors(z, mode=1),
    )

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize(
        ("latents", "message"),
        [
            (np.ones((2, 3, 4), "float16"), "float32 or float64.*float32'.*array of float16"),
            (np.ones((2, 3, 4), "int64"), "float32 or float64.*array of int64"),
            (np.ones((2, 3, 4), "uint8"), "float32 or float64.*array of uint8"),
            (np.ones((2, 3, 4), "bool"), "float32 or float64.*array of bool"),
            (np.ones((2, 3, 4), "complex128"), "float32 or float64.*array of complex128"),
            (np.full((2, 3, 4), np.nan), "finite values.*NaN or infinite"),
            (np.full((2, 3, 4), -np.inf), "finite values.*NaN or infinite"),
            (np.full((2, 3, 4), 1e200), "finite values"),  # whose squares are not
            (np.where(np.arange(24).reshape(2, 3, 4) == 13, np.inf, 1.0), "finite values"),
            (np.ones((3, 4)), r"\(\.\.\., H, W, C\).*shape \(3, 4\)"),
            (np.ones(5), r"\(\.\.\., H, W, C\).*shape \(5,\)"),
            (np.ones((0, 3, 4, 5)), r"\(\.\.\., H, W, C\).*shape \(0, 3, 4, 5\)"),
            (np.ones((3, 0, 5)), r"\(\.\.\., H, W, C\).*shape \(3, 0, 5\)"),
            (np.ones((1, 1, 8)), r"at least two columns in each unfolding.*shape \(1, 1, 8\)"),
            (np.ones((9, 1, 7, 1)), r"at least two columns in each unfolding.*shape \(1, 7, 1\)"),
            (np.ones((6, 1, 1)), "at least two columns"),
        ],
    )
    def test_of_latents(self, latents, message, call):
        with pytest.raises(ValueError, match=f"(?s)`latents`.*{message}"):
            call(latents)

    def test_of_bfloat16(self):
        ml_dtypes = pytest.importorskip("ml_dtypes")
        with pytest.raises(ValueError, match=r"`latents`.*float32 or float64.*array of bfloat16"):
            mode_ranks(np.ones((2, 3, 4), ml_dtypes.bfloat16))

    @pytest.mark.parametrize("mode", [0, 4, "1"])
    def test_of_another_mode(self, mode):
        for call in (mode_covariance, mode_factors):
            with pytest.raises(ValueError, match=rf"`mode`.*\(1, 2, 3\).*mode={mode!r}"):
                call(normal(2, 3, 4), mode=mode)

    def test_two_columns_suffice(self):
        # Off their mean, two columns are one direction.
        assert mode_ranks(normal(1, 2, 3)).tolist() == [1, 2, 1]


class TestLargestRanks:
    def test_by_hand(self):
        assert largest_ranks((7, 7, 128)) == (7, 7, 48)
        assert largest_ranks((8, 8, 128)) == (8, 8, 63)
        assert largest_ranks((7, 7, 48)) == (7, 7, 48)
        assert largest_ranks((7, 7, 10)) == (7, 7, 10)
        assert largest_ranks((40, 2, 3)) == (5, 2, 3)
        assert largest_ranks((2, 40, 3)) == (2, 5, 3)
        assert all(type(r) is int for r in largest_ranks((7, 7, 128)))


class TestStrata:
    def test_counts_and_order(self):
        ranks = [[7, 6, 40], [7, 7, 48], [5, 7, 30], [7, 7, 48], [7, 6, 40], [7, 7, 48]]
        found = strata(ranks)
        assert type(found) is collections.Counter
        # The largest first, which dict order keeps and which equality does not see.
        assert list(found.items()) == [((7, 7, 48), 3), ((7, 6, 40), 2), ((5, 7, 30), 1)]
        assert all(type(r) is int for triple in found for r in triple)

    def test_of_arrays_of_any_shape(self):
        ranks = mode_ranks(np.stack([[with_repeated_row(), normal(7, 7, 128)]] * 3))
        assert strata(ranks) == {(6, 7, 41): 3, (7, 7, 48): 3}
        assert strata(ranks[0, 0]) == {(6, 7, 41): 1}

    def test_of_none(self):
        assert strata(np.zeros((0, 3), int)) == collections.Counter()


class TestModeFactors:
    Z = np.stack(
        [normal(4, 5, 12), normal(4, 5, 12, seed=1), np.zeros((4, 5, 12)), normal(4, 5, 12, seed=2)]
    )
    Z[1, 3] = Z[1, 0]  # a row twice
    Z[3, :, :, 1:] = Z[3, :, :, :1]  # one channel, many times

    @pytest.mark.parametrize("mode", [1, 2, 3])
    def test_reconstruct_the_covariance_over_its_trace(self, mode):
        factors = mode_factors(self.Z, mode=mode)
        d = self.Z.shape[mode]
        width = largest_ranks((4, 5, 12))[mode - 1]
        assert factors.vectors.shape == (4, d, width)
        assert factors.variances.shape == (4, width)
        np.testing.assert_array_equal(factors.ranks, mode_ranks(self.Z)[:, mode - 1])
        assert len(set(factors.ranks)) > 2
        for z, u, variances in zip(self.Z, factors.vectors, factors.variances, strict=True):
            expected = slow_covariance(z, mode)
            expected /= max(np.trace(expected), 1e-300)
            np.testing.assert_allclose(u @ np.diag(variances) @ u.T, expected, atol=1e-14)

    @pytest.mark.parametrize("mode", [1, 2, 3])
    def test_orthonormal_up_to_the_rank_and_zeros_beyond(self, mode):
        factors = mode_factors(self.Z, mode=mode)
        for u, variances, r in zip(factors.vectors, factors.variances, factors.ranks, strict=True):
            np.testing.assert_allclose(u[:, :r].T @ u[:, :r], np.eye(r), atol=1e-13)
            assert not u[:, r:].any()
            assert (variances[:r] > 0).all()
            assert not variances[r:].any()
            assert (np.diff(variances) <= 0).all()
            assert variances.sum() == pytest.approx(1 if r else 0, abs=1e-14)

    @pytest.mark.parametrize("mode", [1, 2, 3])
    def test_singular_values_of_all_directions(self, mode):
        factors = mode_factors(self.Z, mode=mode)
        for z, found in zip(self.Z, factors.singular_values, strict=True):
            expected = np.linalg.svd(centred(z, mode), compute_uv=False)
            np.testing.assert_allclose(found, expected, atol=1e-12)

    def test_only_kept_variances_count(self):
        z = with_singular_values([2, 1, 1e-2])[None]
        factors = mode_factors(z, mode=1, rtol=0.1)
        assert factors.ranks.tolist() == [2]
        # The third neither is among them nor in their sum.
        np.testing.assert_allclose(factors.variances, [[0.8, 0.2, 0, 0]], atol=1e-14)
        assert not factors.vectors[0, :, 2:].any()
        np.testing.assert_allclose(factors.singular_values, [[2, 1, 1e-2, 0]], atol=1e-14)

    @pytest.mark.parametrize("scale", [1e-90, 1e90])
    def test_scale_does_not_count(self, scale):
        for found, expected in zip(
            mode_factors(scale * self.Z, mode=3)[:2], mode_factors(self.Z, mode=3)[:2], strict=True
        ):
            np.testing.assert_allclose(abs(found), abs(expected), atol=1e-9)

    @pytest.mark.parametrize("mode", [1, 2, 3])
    @pytest.mark.parametrize("rtol", [None, 1e-3, 0.3, 0.9])
    def test_ranks_at_another_tolerance(self, rtol, mode):
        factors = mode_factors(self.Z, mode=mode, rtol=1e-5)
        found = ranks_at(factors, self.Z, mode=mode, rtol=rtol)
        np.testing.assert_array_equal(found, mode_ranks(self.Z, rtol=rtol)[:, mode - 1])

    def test_ranks_at_checks_the_tolerance(self):
        factors = mode_factors(self.Z, mode=1)
        with pytest.raises(ValueError, match=r"`rtol`.*\(0, 1\).*rtol=1"):
            ranks_at(factors, self.Z, mode=1, rtol=1)
