"""Distances of semi-definite matrices: by hand, against scipy and pyriemann, their invariances."""

import itertools
import math

import numpy as np
import pytest
from manifold_reference import curve_squared, embedded_squared, polar

from keras_lgg.manifolds import distances
from keras_lgg.manifolds.distances import bonnabel_sepulchre_distance, embedded_distance
from keras_lgg.manifolds.strata import mode_covariance, mode_factors

pytestmark = pytest.mark.once
linalg = pytest.importorskip("scipy.linalg", reason="needs the extra manifolds")

BOTH = [embedded_distance, bonnabel_sepulchre_distance]
RAW = {"normalize": False}
PYRIEMANN = pytest.mark.skipif(not hasattr(np.ndarray, "mT"), reason="pyriemann needs NumPy 2")
EPSILON = 2.0**-23  # of float32
SIZES = [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (7, 6), (4, 4), (7, 7)]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rotation(d, seed=3):
    return np.linalg.qr(normal(d, d, seed=seed))[0]


def symmetric(matrix):
    return (matrix + matrix.T) / 2


def psd(d, r, seed=0):
    """Of rank r, with eigenvalues from 0.1 to 10."""
    u = np.linalg.qr(normal(d, d, seed=seed))[0][:, :r]
    values = np.exp(np.random.default_rng(seed).uniform(np.log(0.1), np.log(10), size=r))
    return symmetric(u @ np.diag(values) @ u.T)


def turned(a, q):
    return symmetric(q @ a @ q.T)


def in_planes(angles, values):
    """Of rank k in 2k axes: the i-th eigenvector at an angle in the plane of axes i and k + i."""
    u = np.concatenate([np.diag(np.cos(angles)), np.diag(np.sin(angles))])
    return symmetric(u @ np.diag(np.asarray(values, "float64")) @ u.T)


def seen_rank(matrix, **options):
    """The rank that the distance sees: 0.5 |P|², twice, beside a matrix of zeros."""
    return 2 * embedded_distance(matrix, np.zeros_like(matrix), kappa=0, **options) ** 2


class TestEmbeddedDistance:
    @pytest.mark.parametrize("normalize", [True, False])
    @pytest.mark.parametrize(("d", "r", "s"), [(3, 1, 3), (4, 2, 2), (5, 3, 2), (6, 6, 6)])
    def test_against_the_definition(self, d, r, s, normalize):
        a, b = psd(d, r), psd(d, s, seed=1)
        for kappa in (0, 0.3, 1, 10):
            found = embedded_distance(a, b, kappa=kappa, normalize=normalize)
            pair = polar(a, r, normalize), polar(b, s, normalize)
            assert found == pytest.approx(math.sqrt(embedded_squared(*pair, kappa)), rel=1e-10)
            assert type(found) is float

    def test_by_hand(self):
        e = math.e
        # A right angle, whatever the scale and kappa: the logarithms are 0.
        for kappa in (0, 1, 100):
            found = embedded_distance(np.diag([5, 0]), np.diag([0, 1]), kappa=kappa)
            assert found == pytest.approx(1)
        # No angle: logarithms of 3/4 and 1/4 change places.
        a, b = np.diag([3, 1]), np.diag([1, 3])
        assert embedded_distance(a, b) == pytest.approx(math.sqrt(2) * math.log(3))
        assert embedded_distance(a, b, kappa=4) == pytest.approx(math.sqrt(8) * math.log(3))
        assert embedded_distance(a, b, kappa=0) == pytest.approx(0, abs=1e-15)
        # Of unequal ranks: P differs in one entry of the diagonal, L by e^1 in it.
        a, b = np.diag([e, e, 0]), np.diag([e, 0, 0])
        assert embedded_distance(a, b, kappa=2, **RAW) == pytest.approx(math.sqrt(0.5 + 2))
        # P = (1, 1, 0) and (1, 0, 1), L = (1, 0, 0) and (0, 0, 2).
        a, b = np.diag([e, 1, 0]), np.diag([1, 0, e**2])
        assert embedded_distance(a, b, kappa=3, **RAW) == pytest.approx(math.sqrt(1 + 3 * 5))

    def test_by_hand_off_the_diagonal(self):
        # Each plane: 0.5 |P - P'|² = sin², |L - L'|² = x² + y² - 2 x y cos².
        angles, a, b = np.array([0.4, 1.1]), np.array([2, 0.5]), np.array([3, 5])
        x, y = np.log(a), np.log(b)
        expected = np.sin(angles) ** 2 + 0.7 * (x**2 + y**2 - 2 * x * y * np.cos(angles) ** 2)
        found = embedded_distance(in_planes([0, 0], a), in_planes(angles, b), kappa=0.7, **RAW)
        assert found == pytest.approx(math.sqrt(expected.sum()), rel=1e-12)

    @pytest.mark.parametrize(("d", "r"), [(3, 1), (4, 2), (7, 4), (8, 5)])
    def test_first_term_is_the_sum_of_squared_sines(self, d, r):
        a, b = psd(d, r), psd(d, r, seed=1)
        angles = linalg.subspace_angles(polar(a, r)[0], polar(b, r)[0])
        assert embedded_distance(a, b, kappa=0) ** 2 == pytest.approx(
            np.sum(np.sin(angles) ** 2), abs=1e-10
        )

    @PYRIEMANN
    @pytest.mark.parametrize("d", [1, 2, 5, 7])
    def test_of_full_rank_is_log_euclidean(self, d):
        oracle = pytest.importorskip("pyriemann.geometry.distance", reason="an oracle")
        a, b = psd(d, d), psd(d, d, seed=1)
        expected = oracle.distance_logeuclid(a, b)
        assert embedded_distance(a, b, **RAW) == pytest.approx(expected, rel=1e-8)
        assert embedded_distance(a, b, kappa=9, **RAW) == pytest.approx(3 * expected, rel=1e-8)
        a, b = a / np.trace(a), b / np.trace(b)
        expected = oracle.distance_logeuclid(a, b)
        assert embedded_distance(5 * a, b / 7) == pytest.approx(expected, abs=1e-8)

    @pytest.mark.parametrize("normalize", [True, False])
    def test_is_a_metric_across_ranks(self, normalize):
        rng = np.random.default_rng(0)
        for seed in range(40):
            ranks = rng.integers(0, 5, size=3)
            x, y, z = (psd(4, r, seed=3 * seed + i) for i, r in enumerate(ranks))
            d = lambda a, b: embedded_distance(a, b, normalize=normalize)  # noqa: E731
            for a, b, c in itertools.permutations([x, y, z]):
                assert d(a, c) <= d(a, b) + d(b, c) + 1e-12
            for a, b in itertools.permutations([x, y, z], 2):
                assert d(a, b) == pytest.approx(d(b, a), rel=1e-14)
                assert d(a, b) > 1e-3 or not (a.any() or b.any())
                assert d(a, a.copy()) == pytest.approx(0, abs=1e-12)

    def test_of_ranks_that_differ_is_at_least_the_root_of_half(self):
        # Each direction that one lacks counts a half: sin² would be blind to contained subspaces.
        a = psd(5, 4)
        u, values = polar(a, 4, normalize=False)
        b = symmetric(u[:, 1:] @ np.diag(values[1:]) @ u[:, 1:].T)
        assert embedded_distance(a, b, kappa=0) == pytest.approx(math.sqrt(0.5))
        assert seen_rank(a) == pytest.approx(4)
        assert embedded_distance(np.zeros((3, 3)), np.zeros((3, 3))) == 0


class TestBonnabelSepulchreDistance:
    @pytest.mark.parametrize("normalize", [True, False])
    @pytest.mark.parametrize(("d", "r"), SIZES)
    def test_against_the_definition(self, d, r, normalize):
        a, b = psd(d, r), psd(d, r, seed=1)
        for kappa in (0, 0.3, 1, 10):
            found = bonnabel_sepulchre_distance(a, b, kappa=kappa, normalize=normalize)
            pair = polar(a, r, normalize), polar(b, r, normalize)
            expected = math.sqrt(curve_squared(*pair, kappa))
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-7)
            assert type(found) is float

    def test_by_hand(self):
        angles, a, b = np.array([0.4, 1.1]), np.array([2, 0.5]), np.array([3, 5])
        for kappa in (0, 0.7, 1):
            expected = np.sum(angles**2) + kappa * np.sum(np.log(b / a) ** 2)
            found = bonnabel_sepulchre_distance(
                in_planes([0, 0], a), in_planes(angles, b), kappa=kappa, **RAW
            )
            assert found == pytest.approx(math.sqrt(expected), rel=1e-12)
        # Divided by the traces, 2.5 and 8.
        expected = np.sum(angles**2) + np.sum(np.log(b / 8 / (a / 2.5)) ** 2)
        found = bonnabel_sepulchre_distance(in_planes([0, 0], a), in_planes(angles, b))
        assert found == pytest.approx(math.sqrt(expected), rel=1e-12)

    def test_of_rank_1_by_hand(self):
        line = lambda angle, value: in_planes([angle], [value])  # noqa: E731
        for angle in (0.3, 1.5, math.pi / 2):  # the last is a right angle, of one axis
            found = bonnabel_sepulchre_distance(line(0, 2), line(angle, 6), **RAW)
            assert found == pytest.approx(math.hypot(angle, math.log(3)))
            found = bonnabel_sepulchre_distance(line(0, 2), line(angle, 6))
            assert found == pytest.approx(angle)
        # An angle of subspaces is at most a right one.
        assert bonnabel_sepulchre_distance(line(0, 1), line(2, 1)) == pytest.approx(math.pi - 2)

    @pytest.mark.parametrize("d", [1, 2, 3, 5, 7])
    def test_of_full_rank_is_affine_invariant(self, d):
        a, b = psd(d, d), psd(d, d, seed=1)
        ratios = linalg.eigh(b, a, eigvals_only=True)
        found = bonnabel_sepulchre_distance(a, b, **RAW)
        assert found**2 == pytest.approx(np.sum(np.log(ratios) ** 2), abs=1e-10)
        g = normal(d, d, seed=5)
        found_of_congruent = bonnabel_sepulchre_distance(turned(a, g), turned(b, g), **RAW)
        assert found_of_congruent == pytest.approx(found, abs=1e-8)

    @PYRIEMANN
    @pytest.mark.parametrize("d", [1, 2, 5, 7])
    def test_of_full_rank_agrees_with_pyriemann(self, d):
        oracle = pytest.importorskip("pyriemann.geometry.distance", reason="an oracle")
        a, b = psd(d, d), psd(d, d, seed=1)
        expected = oracle.distance_riemann(a, b)
        found = bonnabel_sepulchre_distance(a, b, **RAW)
        assert found == pytest.approx(expected, rel=1e-8)
        found = bonnabel_sepulchre_distance(a, b, kappa=9, **RAW)
        assert found == pytest.approx(3 * expected, rel=1e-8)

    @pytest.mark.parametrize("r", [2, 3])
    def test_invariant_under_common_scaling_and_pseudo_inversion(self, r):
        a, b = psd(5, r), psd(5, r, seed=1)
        expected = bonnabel_sepulchre_distance(a, b, **RAW) ** 2
        for scale in (1e-3, 40):
            found = bonnabel_sepulchre_distance(scale * a, scale * b, **RAW) ** 2
            assert found == pytest.approx(expected, abs=1e-10)
        inverse = [symmetric(np.linalg.pinv(x, rcond=1e-8)) for x in (a, b)]
        found = bonnabel_sepulchre_distance(*inverse, **RAW) ** 2
        assert found == pytest.approx(expected, abs=1e-10)
        # Not of one alone.
        assert abs(bonnabel_sepulchre_distance(3 * a, b, **RAW) ** 2 - expected) > 0.01
        assert abs(bonnabel_sepulchre_distance(inverse[0], b, **RAW) ** 2 - expected) > 0.01

    @pytest.mark.parametrize(("d", "r"), SIZES)
    def test_symmetric_and_0_of_one_matrix(self, d, r):
        a, b = psd(d, r), psd(d, r, seed=1)
        expected = bonnabel_sepulchre_distance(a, b)
        assert bonnabel_sepulchre_distance(b, a) == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert bonnabel_sepulchre_distance(a, a.copy()) == pytest.approx(0, abs=1e-12)

    def test_breaks_the_triangle_inequality(self):
        """A curve length, not a metric. Found by search: of 300 triples, this one."""
        rng = np.random.default_rng(150)
        a, b, c = (g @ g.T for g in (rng.normal(size=(3, 2)) for _ in range(3)))
        d = bonnabel_sepulchre_distance
        assert d(a, c) > d(a, b) + d(b, c) + 0.15
        # The lengths are those of the definition.
        for x, y in ((a, b), (b, c), (a, c)):
            expected = math.sqrt(curve_squared(polar(x, 2), polar(y, 2)))
            assert d(x, y) == pytest.approx(expected, rel=1e-9)
        assert embedded_distance(a, c) <= embedded_distance(a, b) + embedded_distance(b, c)

    @pytest.mark.parametrize(("r", "s"), [(1, 2), (3, 2), (0, 1), (4, 3)])
    def test_nan_of_unequal_ranks(self, r, s):
        assert math.isnan(bonnabel_sepulchre_distance(psd(4, r), psd(4, s, seed=1)))

    def test_nan_where_several_curves_are_the_shortest(self):
        a = in_planes([0, 0], [3, 1])
        for angles in ([math.pi / 2, 0.3], [0.3, math.pi / 2], [math.pi / 2, math.pi / 2]):
            assert math.isnan(bonnabel_sepulchre_distance(a, in_planes(angles, [3, 1])))
        # Almost a right angle has one.
        found = bonnabel_sepulchre_distance(a, in_planes([math.pi / 2 - 1e-6, 0.3], [3, 1]))
        assert found == pytest.approx(math.hypot(math.pi / 2, 0.3), abs=1e-5)

    def test_of_zeros(self):
        assert bonnabel_sepulchre_distance(np.zeros((3, 3)), np.zeros((3, 3))) == 0

    def test_many_pairs_at_once(self):
        z = normal(8, 4, 5, 12)
        z[:, 3] = z[:, 0]
        factors = mode_factors(z, mode=1, rtol=1e-4)
        u, values = factors.vectors[..., :3], factors.variances[..., :3]
        found = distances.curve_lengths(u[:4], values[:4], u[4:], values[4:], kappa=0.5)
        covariances = mode_covariance(z, mode=1)
        expected = [
            bonnabel_sepulchre_distance(a, b, kappa=0.5)
            for a, b in zip(covariances[:4], covariances[4:], strict=True)
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        empty, none = np.zeros((2, 3, 0)), np.zeros((2, 0))
        lengths = distances.curve_lengths(empty, none, empty, none, kappa=1.0)
        assert lengths.tolist() == [0, 0]


@pytest.mark.parametrize("distance", BOTH)
class TestBoth:
    @pytest.mark.parametrize("normalize", [True, False])
    @pytest.mark.parametrize(("d", "r"), SIZES)
    def test_invariant_under_rotations(self, d, r, normalize, distance):
        a, b, q = psd(d, r), psd(d, r, seed=1), rotation(d)
        expected = distance(a, b, normalize=normalize) ** 2
        found = distance(turned(a, q), turned(b, q), normalize=normalize) ** 2
        assert found == pytest.approx(expected, abs=1e-10)
        if d > 1:
            assert abs(distance(turned(a, q), b, normalize=normalize) ** 2 - expected) > 1e-3

    def test_scale_does_not_count_by_default(self, distance):
        a, b = psd(5, 3), psd(5, 3, seed=1)
        expected = distance(a, b)
        for x, y in ((1e-200, 1), (3, 1e200), (7, 0.1)):
            assert distance(x * a, y * b) == pytest.approx(expected, rel=1e-10)
        assert abs(distance(7 * a, 0.1 * b, **RAW) - expected) > 1
        assert distance(a / np.trace(a), b / np.trace(b), **RAW) == pytest.approx(expected)

    def test_kappa_is_1_by_default_and_weighs_the_second_term(self, distance):
        a, b = psd(5, 3), psd(5, 3, seed=1)
        assert distance(a, b) == distance(a, b, kappa=1)
        none, one, four = (distance(a, b, kappa=kappa) ** 2 for kappa in (0, 1, 4))
        assert four - none == pytest.approx(4 * (one - none))
        assert distance(a, b, kappa=np.float32(0.5)) == distance(a, b, kappa=0.5)

    @pytest.mark.parametrize("angle", [1e-3, 1e-6, 1e-9])
    def test_small_angles_are_accurate(self, angle, distance):
        a, b = in_planes([0, 0], [3, 1]), in_planes([angle, 0], [3, 1])
        assert distance(a, b, kappa=0) == pytest.approx(angle, rel=1e-6)

    def test_small_ratios_are_accurate(self, distance):
        a, b = np.diag([3.0, 1.0, 0]), np.diag([3.0, 1 + 1e-9, 0])
        assert distance(a, b, **RAW) == pytest.approx(1e-9, rel=1e-5)

    def test_of_other_numbers(self, distance):
        expected = distance(np.diag([3.0, 1.0]), np.diag([1.0, 2.0]))
        for dtype in ("int64", "float32", "float16"):
            found = distance(np.diag([3, 1]).astype(dtype), np.diag([1, 2]).astype(dtype))
            assert found == expected
        assert distance([[3, 0], [0, 1]], [[1, 0], [0, 2]]) == expected

    def test_rounding_of_symmetry_and_of_definiteness_is_accepted(self, distance):
        a, b = psd(4, 2), psd(4, 2, seed=1)
        expected = distance(a, b)
        skew = 1e-12 * np.triu(normal(4, 4), 1)
        assert distance(a + skew, b) == pytest.approx(expected, abs=1e-9)
        assert distance(a - 1e-12 * np.eye(4), b, rtol=1e-8) == pytest.approx(expected, abs=1e-9)


class TestRanks:
    def test_rtol_counts_eigenvalues_above_it(self):
        a = np.diag([1, 0.5, 1.01e-3, 0.99e-3, 0])
        for scale in (1, 1e30, 1e-30):
            assert seen_rank(scale * a, rtol=1e-3) == pytest.approx(3)
            assert seen_rank(scale * a, rtol=0.4) == pytest.approx(2)
            assert seen_rank(scale * a) == pytest.approx(4)
        assert seen_rank(np.diag([1, 0.25]), rtol=0.25) == pytest.approx(1)
        assert seen_rank(np.zeros((3, 3)), rtol=0.25) == 0

    @pytest.mark.parametrize("d", [2, 3, 7])
    def test_default_rtol_is_that_of_float32(self, d):
        rtol = (d * EPSILON) ** 2
        assert seen_rank(np.diag([1] * (d - 1) + [1.1 * rtol])) == pytest.approx(d)
        assert seen_rank(np.diag([1] * (d - 1) + [0.9 * rtol])) == pytest.approx(d - 1)

    def test_rtol_is_of_both(self):
        a, b = np.diag([1, 1e-2, 0]), np.diag([1, 0, 0])
        for x, y in ((a, b), (b, a)):
            assert embedded_distance(x, y, rtol=0.1) == pytest.approx(0, abs=1e-15)
            assert bonnabel_sepulchre_distance(x, y, rtol=0.1) == pytest.approx(0, abs=1e-15)
            assert embedded_distance(x, y, rtol=1e-3) > 1
            assert math.isnan(bonnabel_sepulchre_distance(x, y, rtol=1e-3))

    def test_the_trace_is_of_what_counts(self):
        a, b = np.diag([0.6, 0.3, 0.1]), np.diag([0.5, 0.5, 0])
        found = embedded_distance(a, b, rtol=0.2)
        assert found == pytest.approx(math.hypot(math.log(4 / 3), math.log(2 / 3)))


@pytest.mark.parametrize("distance", BOTH)
class TestErrors:
    A = psd(3, 2)

    @pytest.mark.parametrize(
        ("matrix", "message"),
        [
            (normal(3, 2), r"a square matrix.*shape \(3, 2\)"),
            (np.ones(3), r"a square matrix.*shape \(3,\)"),
            (1.0, r"a square matrix.*shape \(\)"),
            (np.zeros((0, 0)), r"a square matrix.*shape \(0, 0\)"),
            (np.ones((3, 3, 3)), r"a square matrix.*shape \(3, 3, 3\)"),
            (A * np.nan, "finite values.*NaN or infinite"),
            (np.diag([1, np.inf, 0]), "finite values.*NaN or infinite"),
            (A + np.triu(np.ones((3, 3))), "a symmetric matrix.*differs from its transpose"),
            (A + 1e-8 * np.triu(np.ones((3, 3)), 1), "a symmetric matrix"),
            (np.diag([1, 1, -1e-8]), "positive semi-definite.*eigenvalue of -1e-08"),
            (1e-20 * np.diag([1, 1, -1e-8]), "positive semi-definite.*eigenvalue of -1e-28"),
            (-np.eye(3), "positive semi-definite.*eigenvalue of -1"),
        ],
    )
    def test_of_matrices(self, matrix, message, distance):
        with pytest.raises(ValueError, match=f"(?s)`a`.*{message}"):
            distance(matrix, self.A)
        with pytest.raises(ValueError, match=f"(?s)`b`.*{message}"):
            distance(self.A, matrix)

    def test_of_two_shapes(self, distance):
        with pytest.raises(ValueError, match=r"`b`.*shape of `a`, \(3, 3\).*shape \(4, 4\)"):
            distance(self.A, np.eye(4))

    @pytest.mark.parametrize("kappa", [-1, -1e-9, np.nan, np.inf, "1", None, True])
    def test_of_kappa(self, kappa, distance):
        with pytest.raises(ValueError, match=r"`kappa`.*finite number of at least 0.*kappa="):
            distance(self.A, self.A, kappa=kappa)
        with pytest.raises(ValueError, match="`kappa`"):  # of unequal ranks, too
            distance(self.A, np.eye(3), kappa=kappa)

    @pytest.mark.parametrize("rtol", [0, 1, 1.5, -0.1, np.nan, np.inf])
    def test_of_rtol(self, rtol, distance):
        with pytest.raises(ValueError, match=r"`rtol`.*a number in \(0, 1\).*rtol="):
            distance(self.A, self.A, rtol=rtol)
