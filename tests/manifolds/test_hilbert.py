"""Product distances, kernels, the Hilbert map and subspaces: against loops, and by hand."""

import itertools
import sys

import numpy as np
import pytest
from manifold_reference import (
    distance_kernel,
    median,
    median_weight,
    mode_distances,
    pairwise_squares,
    rank,
)
from manifold_reference import product_distances as slow

from keras_lgg.manifolds import hilbert
from keras_lgg.manifolds.distances import bonnabel_sepulchre_distance, embedded_distance
from keras_lgg.manifolds.hilbert import (
    hilbert_map,
    principal_angles,
    product_distances,
    product_kernel,
    subspace,
)
from keras_lgg.manifolds.strata import MODES, mode_covariance, mode_factors, mode_ranks

pytestmark = pytest.mark.once
linalg = pytest.importorskip("scipy.linalg", reason="needs the extra manifolds")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rotation(d, seed=3):
    return np.linalg.qr(normal(d, d, seed=seed))[0]


def mixed(n, shape=(4, 5, 12), seed=0):
    """Latents of many strata: with repeated rows, columns and channels, and blank corners."""
    z = normal(n, *shape, seed=seed)
    z[1::6, -1] = z[1::6, 0]
    z[2::6, :, -1] = z[2::6, :, 0]
    z[3::6, :, :, 4:] = z[3::6, :, :, :1]
    z[4::6, :2, :3] = 0
    z[5::6, 1:] = z[5::6, :1]
    return z


def squares(n, p=3, seed=0):
    """Squared distances of points of a plane or a space."""
    return pairwise_squares(normal(n, p, seed=seed))


def with_eigenvalues(values, seed=0):
    """A kernel of these eigenvalues and 0, that of the vector of ones."""
    n = len(values) + 1
    basis = np.linalg.qr(np.concatenate([np.ones((n, 1)), normal(n, n - 1, seed=seed)], 1))[0]
    kernel = basis[:, 1:] @ np.diag(np.asarray(values, "float64")) @ basis[:, 1:].T
    return (kernel + kernel.T) / 2


def pairs_of(matrix):
    return [matrix[i, j] for i in range(len(matrix)) for j in range(i)]


def curve_squares(n, d, r):
    """l² of random matrices of one rank."""
    matrices = [g @ g.T for g in normal(n, d, r)]
    squared = np.zeros((n, n))
    for i, j in itertools.combinations(range(n), 2):
        length = bonnabel_sepulchre_distance(matrices[i], matrices[j])
        squared[i, j] = squared[j, i] = length**2
    return squared


class TestProductDistances:
    Z = mixed(13)

    def test_the_latents_are_of_many_strata(self):
        assert len({tuple(ranks) for ranks in mode_ranks(self.Z).tolist()}) > 4

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"clean": 5},
            {"clean": 2},
            {"kappa": 0},
            {"kappa": 0.3, "clean": 6},
            {"weights": (1, 1, 1)},
            {"weights": np.array([0.5, 0, 2])},
            {"weights": [0, 0, 3.0], "kappa": 2},
            {"rtol": 0.1},
            {"rtol": 0.4, "weights": (1, 2, 3)},
        ],
    )
    def test_against_loops(self, options):
        expected = slow(self.Z, **options)
        assert expected.max() > 0.5
        found = product_distances(self.Z, **options)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert found.dtype == "float64"

    def test_of_latents_of_zeros(self):
        z = np.concatenate([self.Z[:4], np.zeros((2, 4, 5, 12))])
        np.testing.assert_allclose(product_distances(z), slow(z), atol=1e-9)

    @pytest.mark.parametrize("shape", [(2, 3, 4), (3, 1, 2), (2, 2, 9)])
    def test_of_other_shapes(self, shape):
        z = normal(7, *shape)
        np.testing.assert_allclose(product_distances(z), slow(z), rtol=1e-8, atol=1e-8)

    def test_float32_is_computed_in_float64(self):
        z = self.Z.astype("float32")
        np.testing.assert_array_equal(product_distances(z), product_distances(z.astype("float64")))

    def test_exactly_symmetric_with_zeros_on_the_diagonal(self, monkeypatch):
        z = np.concatenate(
            [self.Z, 3 * self.Z, self.Z / 7]
        )  # with distances of 0, but for rounding
        for block in (hilbert.BLOCK, 300):
            monkeypatch.setattr(hilbert, "BLOCK", block)
            found = product_distances(z)
            np.testing.assert_array_equal(found, found.T)
            assert not found.diagonal().any()
            assert found.min() >= 0

    @pytest.mark.parametrize("block", [1, 50, 144 * 4, 144 * 13])
    def test_does_not_depend_on_the_size_of_blocks(self, block, monkeypatch):
        expected = product_distances(self.Z)
        monkeypatch.setattr(hilbert, "BLOCK", block)
        np.testing.assert_allclose(product_distances(self.Z), expected, atol=1e-11)

    def test_by_default_all_are_clean(self):
        np.testing.assert_array_equal(
            product_distances(self.Z), product_distances(self.Z, clean=13)
        )
        assert not np.allclose(product_distances(self.Z), product_distances(self.Z, clean=5))

    def test_the_median_over_clean_pairs_is_1_for_each_mode(self):
        factors = [mode_factors(self.Z, mode=mode) for mode in MODES]
        _, weights = hilbert.weighted_distances(factors, weights="median", clean=6, kappa=1.0)
        expected = [median_weight(mode_distances(self.Z, mode), 6) for mode in MODES]
        np.testing.assert_allclose(weights, expected, rtol=1e-9)
        assert all(type(weight) is float for weight in weights)
        for mode, weight in zip(MODES, weights, strict=True):
            only = product_distances(self.Z, weights=[float(k == mode) for k in MODES])
            assert median(pairs_of(weight * only[:6, :6])) == pytest.approx(1)

    def test_given_weights_are_returned(self):
        factors = [mode_factors(self.Z, mode=mode) for mode in MODES]
        given = hilbert.weighted_distances(factors, weights=(1, 0, 0.5), clean=2, kappa=1.0)
        assert given[1] == (1.0, 0.0, 0.5)

    def test_a_mode_in_which_all_are_one_has_weight_1(self):
        # One row, repeated: only its scale is of the first mode, and that does not count.
        z = normal(6, 3, 4, 5)
        z[:, 1:] = 0
        factors = [mode_factors(z, mode=mode) for mode in MODES]
        _, weights = hilbert.weighted_distances(factors, weights="median", clean=6, kappa=1.0)
        assert weights[0] == 1
        assert min(abs(weights[1] - 1), abs(weights[2] - 1)) > 1e-3
        np.testing.assert_allclose(product_distances(z), slow(z), atol=1e-9)

    def test_invariances(self):
        expected = product_distances(self.Z)
        scales = np.geomspace(1e-20, 1e20, 13)[:, None, None, None]
        permuted = np.random.default_rng(1).permutation(12)
        for changed in (
            self.Z * scales,
            -self.Z,
            self.Z[..., permuted],
            self.Z[:, ::-1],
            self.Z[:, :, ::-1],
        ):
            np.testing.assert_allclose(product_distances(changed), expected, atol=1e-8)
        changed = self.Z.copy()
        changed[0] = changed[0][..., permuted]  # of one alone
        assert np.abs(product_distances(changed) - expected).max() > 0.1

    def test_of_channels_invariant_under_their_rotations(self):
        only = {"weights": (0, 0, 1)}
        turned = self.Z @ rotation(12) + normal(12, seed=2)
        expected = product_distances(self.Z, **only)
        np.testing.assert_allclose(product_distances(turned, **only), expected, atol=1e-8)

    def test_latents_that_differ_little(self):
        z = normal(13, 4, 5, 12)
        z = np.concatenate([z, z * (1 + 1e-5 * normal(*z.shape, seed=1))])
        found = product_distances(z, weights=(1, 1, 1))
        expected = slow(z, weights=(1, 1, 1))
        near = np.arange(13), np.arange(13) + 13
        assert 0 < expected[near].max() < 1e-6
        np.testing.assert_allclose(found[near], expected[near], atol=1e-11)

    def test_kernel_is_positive_definite(self):
        """Of 120 latents of mixed ranks, at every width: Schoenberg's theorem."""
        z = mixed(120, (4, 4, 20), seed=1)
        assert len({tuple(ranks) for ranks in mode_ranks(z).tolist()}) > 4
        squared = product_distances(z)
        gamma = 1 / median(pairs_of(squared))
        for c in (1, 0.1, 0.01, 0.001):
            kernel = product_kernel(squared, kernel="gaussian", gamma=c * gamma)
            values = np.linalg.eigvalsh(kernel)
            assert values[0] >= -1e-10 * values[-1]
            assert len(hilbert_map(kernel)) == 120
        values = np.linalg.eigvalsh(product_kernel(squared))
        assert values[0] >= -1e-10 * values[-1]

    @pytest.mark.parametrize(("n", "d", "r"), [(30, 3, 2), (40, 4, 2)])
    def test_kernels_of_curve_lengths_are_not(self, n, d, r):
        """Why the product takes the embedded distance: l² is no squared Euclidean distance."""
        squared = curve_squares(n, d, r)
        gamma = 1 / median(pairs_of(squared))
        for c, at_most in ((1, -1e-2), (0.1, -3e-3), (0.01, -3e-4)):
            kernel = product_kernel(squared, kernel="gaussian", gamma=c * gamma)
            values = np.linalg.eigvalsh(kernel)
            assert values[0] < at_most * values[-1]
            with pytest.raises(ValueError, match=r"no Hilbert space.*eigenvalues from -"):
                hilbert_map(kernel)
        with pytest.raises(ValueError, match=r"no Hilbert space.*Bonnabel and Sepulchre"):
            hilbert_map(product_kernel(squared))

    def test_most_points(self):
        hilbert.check_points(3000)
        message = "too many points.*at most 3000.*images times levels.*Received: 3001"
        with pytest.raises(ValueError, match=message):
            hilbert.check_points(3001)
        with pytest.raises(ValueError, match=message):
            product_distances(np.ones((3001, 2, 2, 1)))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"latents": Z[0]}, r"`latents`.*\(n, H, W, C\).*shape \(4, 5, 12\)"),
            ({"latents": Z[None]}, r"`latents`.*\(n, H, W, C\).*shape \(1, 13, 4, 5, 12\)"),
            ({"latents": Z[:0]}, r"`latents`.*shape \(0, 4, 5, 12\)"),
            ({"latents": Z.astype("float16")}, "`latents`.*float32 or float64.*float16"),
            ({"latents": Z * np.nan}, "`latents`.*finite"),
            ({"kappa": -0.1}, "`kappa`.*finite number of at least 0.*kappa=-0.1"),
            ({"kappa": np.nan}, "`kappa`.*kappa=nan"),
            ({"kappa": np.inf}, "`kappa`.*kappa=inf"),
            ({"kappa": "1"}, "`kappa`.*kappa='1'"),
            ({"clean": 0}, "`clean`.*positive integer.*clean=0"),
            ({"clean": 2.0}, "`clean`.*positive integer.*clean=2.0"),
            ({"clean": True}, "`clean`.*positive integer.*clean=True"),
            ({"clean": 1}, "`clean`.*from 2 to 13.*clean=1"),
            ({"clean": 14}, "`clean`.*from 2 to 13.*clean=14"),
            ({"rtol": 1}, r"`rtol`.*\(0, 1\).*rtol=1"),
            ({"weights": "mean"}, "`weights`.*'median', or three numbers.*weights='mean'"),
            ({"weights": "abc"}, "`weights`.*'median', or three numbers.*weights='abc'"),
            ({"weights": None}, "`weights`.*three numbers.*weights=None"),
            ({"weights": (1, 1)}, r"`weights`.*three numbers.*weights=\(1, 1\)"),
            ({"weights": (1, 1, 1, 1)}, "`weights`.*three numbers"),
            ({"weights": 1.0}, "`weights`.*three numbers.*weights=1.0"),
            ({"weights": (1, -1e-9, 1)}, "`weights`.*three numbers of at least 0"),
            ({"weights": (1, np.nan, 1)}, "`weights`.*three numbers"),
            ({"weights": (1, np.inf, 1)}, "`weights`.*three numbers"),
            ({"weights": (1, "2", 1)}, "`weights`.*three numbers"),
            ({"weights": (1, 1j, 1)}, "`weights`.*three numbers"),
            ({"weights": (0, 0.0, 0)}, "`weights`.*not all 0"),
        ],
    )
    def test_errors(self, options, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            product_distances(**{"latents": self.Z, **options})


class TestProductKernel:
    def test_distance_kernel_by_hand(self):
        # Points 0, 1, 5 of a line, off their mean: -2, -1, 3.
        squared = np.array([[0, 1, 25], [1, 0, 16], [25, 16, 0]])
        expected = [[4, 2, -6], [2, 1, -3], [-6, -3, 9]]
        np.testing.assert_allclose(product_kernel(squared), expected, atol=1e-13)

    def test_distance_kernel_against_the_definition(self):
        squared = squares(20)
        found = product_kernel(squared)
        np.testing.assert_allclose(found, distance_kernel(squared), atol=1e-12)
        np.testing.assert_array_equal(found, product_kernel(squared, kernel="distance"))

    def test_gaussian_kernel_by_hand(self):
        squared = np.array([[0, 1, 9], [1, 0, 4], [9, 4, 0.0]])
        found = product_kernel(squared, kernel="gaussian", gamma=0.5)
        np.testing.assert_allclose(found, np.exp([[0, -0.5, -4.5], [-0.5, 0, -2], [-4.5, -2, 0]]))
        # The median of the pairs is 4; with the diagonal, it would be 1.
        found = product_kernel(squared, kernel="gaussian")
        np.testing.assert_allclose(found, product_kernel(squared, kernel="gaussian", gamma=0.25))
        assert (found.diagonal() == 1).all()

    def test_gaussian_kernel_by_the_median_of_pairs(self):
        squared = squares(9)  # 36 pairs, an even number
        gamma = 1 / median(pairs_of(squared))
        expected = product_kernel(squared, kernel="gaussian", gamma=gamma)
        np.testing.assert_allclose(product_kernel(squared, kernel="gaussian"), expected, rtol=1e-12)

    def test_gamma_is_1_where_distances_vanish(self):
        squared = np.array([[0, 1e-13], [1e-13, 0]])
        found = product_kernel(squared, kernel="gaussian")
        np.testing.assert_array_equal(found, np.exp(-squared))
        # From 1e-12 on, they are scaled.
        found = product_kernel(10 * squared, kernel="gaussian")
        assert found[0, 1] == pytest.approx(np.exp(-1))
        assert product_kernel(np.zeros((1, 1)), kernel="gaussian").tolist() == [[1]]

    @pytest.mark.parametrize(
        ("squared", "message"),
        [
            (np.zeros((2, 3)), r"shape \(n, n\).*shape \(2, 3\)"),
            (np.zeros(4), r"shape \(n, n\).*shape \(4,\)"),
            (np.zeros((0, 0)), r"shape \(n, n\).*shape \(0, 0\)"),
            (np.zeros((2, 2, 2)), r"shape \(n, n\).*shape \(2, 2, 2\)"),
            (np.array([[0, np.nan], [np.nan, 0]]), "finite values.*NaN or infinite"),
            (np.array([[0, np.inf], [np.inf, 0]]), "finite values.*NaN or infinite"),
            (np.array([[0, 1], [2, 0]]), "a symmetric matrix.*differs from its transpose"),
            (np.array([[0, 1], [1 + 1e-9, 0]]), "a symmetric matrix"),
            (np.array([[0, -1], [-1, 0]]), "at least 0, and 0 on the diagonal"),
            (np.array([[0, 1], [1, 1e-9]]), "at least 0, and 0 on the diagonal"),
        ],
    )
    @pytest.mark.parametrize("kernel", ["distance", "gaussian"])
    def test_errors_of_squared_distances(self, kernel, squared, message):
        with pytest.raises(ValueError, match=f"(?s)`squared_distances`.*{message}"):
            product_kernel(squared, kernel=kernel)

    @pytest.mark.parametrize("kernel", ["rbf", None, "Distance", 0])
    def test_of_another_kernel(self, kernel):
        with pytest.raises(ValueError, match=r"`kernel`.*'distance', 'gaussian'.*kernel="):
            product_kernel(squares(3), kernel=kernel)

    @pytest.mark.parametrize("gamma", [0, -1, np.nan, np.inf, "mean", None, True])
    def test_of_gamma(self, gamma):
        with pytest.raises(ValueError, match=r"`gamma`.*positive finite number.*gamma="):
            product_kernel(squares(3), kernel="gaussian", gamma=gamma)

    def test_of_too_many_points(self):
        zeros = np.broadcast_to(0.0, (3001, 3001))
        for call in (product_kernel, hilbert_map):
            with pytest.raises(ValueError, match=r"at most 3000.*Received: 3001"):
                call(zeros)


class TestHilbertMap:
    SQUARED = product_distances(mixed(40, (4, 4, 20)))

    def test_keeps_the_distances(self):
        points = hilbert_map(product_kernel(self.SQUARED))
        pairs = np.triu_indices(40, 1)
        found = pairwise_squares(points)[pairs]
        np.testing.assert_allclose(found, self.SQUARED[pairs], rtol=1e-8)

    def test_distances_of_the_gaussian_kernel(self):
        kernel = product_kernel(self.SQUARED, kernel="gaussian")
        pairs = np.triu_indices(40, 1)
        found = pairwise_squares(hilbert_map(kernel))[pairs]
        np.testing.assert_allclose(found, (2 - 2 * kernel)[pairs], rtol=1e-8)

    @pytest.mark.parametrize("kernel", ["distance", "gaussian"])
    def test_of_mean_0_along_axes_of_falling_spread(self, kernel):
        points = hilbert_map(product_kernel(self.SQUARED, kernel=kernel))
        assert points.shape == (40, 39)
        assert points.dtype == "float64"
        np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)
        scatter = points.T @ points
        spread = scatter.diagonal()
        assert (np.diff(spread) <= 0).all()
        assert spread[0] > 2 * spread[-1]
        np.testing.assert_allclose(scatter, np.diag(spread), atol=1e-12 * spread[0])

    def test_recovers_points_up_to_a_rotation(self):
        original = normal(20, 3) * [3, 2, 1] + 5
        points = hilbert_map(product_kernel(pairwise_squares(original)))
        assert points.shape == (20, 3)
        original = original - original.mean(axis=0)
        np.testing.assert_allclose(points @ points.T, original @ original.T, atol=1e-12)

    def test_of_latents_at_several_scales(self):
        z = mixed(13)
        points = hilbert_map(product_kernel(product_distances(np.concatenate([z, 3 * z, z / 7]))))
        assert points.shape[1] >= 12
        for copy in (points[13:26], points[26:]):
            np.testing.assert_allclose(copy, points[:13], atol=1e-5)

    def test_centres_the_kernel(self):
        # Inner products about another origin, and the same kernel.
        x = normal(8, 3)
        expected = (x - x.mean(axis=0)) @ (x - x.mean(axis=0)).T
        points = hilbert_map((x + 4) @ (x + 4).T)
        np.testing.assert_allclose(points @ points.T, expected, atol=1e-12)

    @pytest.mark.parametrize("scale", [1e-20, 1, 1e20])
    def test_counts_eigenvalues_above_a_share_of_the_largest(self, scale):
        kernel = scale * with_eigenvalues([5, 3, 1, 5 * 1.5e-10, 5 * 0.5e-10, 0])
        points = hilbert_map(kernel)
        assert points.shape == (7, 4)
        found = np.sum(points**2, axis=0) / scale
        np.testing.assert_allclose(found[:3], [5, 3, 1], rtol=1e-12)
        assert found[3] == pytest.approx(5 * 1.5e-10, rel=1e-3)

    @pytest.mark.parametrize("scale", [1e-20, 1, 1e20])
    def test_small_negative_eigenvalues_are_clipped_and_larger_raise(self, scale):
        points = hilbert_map(scale * with_eigenvalues([5, 3, -5 * 0.9e-8]))
        assert points.shape == (4, 2)
        np.testing.assert_allclose(np.sum(points**2, axis=0) / scale, [5, 3], rtol=1e-9)
        message = "(?s)no Hilbert space.*positive semi-definite.*from -.*product_kernel"
        with pytest.raises(ValueError, match=message):
            hilbert_map(scale * with_eigenvalues([5, 3, -5 * 1.1e-8]))

    def test_of_a_negative_kernel(self):
        with pytest.raises(ValueError, match=r"no Hilbert space.*eigenvalues from -1 to"):
            hilbert_map(-np.eye(3))

    @pytest.mark.parametrize("n", [1, 2, 5])
    def test_of_points_that_are_all_one(self, n):
        for kernel in ("distance", "gaussian"):
            points = hilbert_map(product_kernel(np.zeros((n, n)), kernel=kernel))
            assert points.shape == (n, 0)

    @pytest.mark.parametrize("value", [0.1, 3.3, 1e5])
    def test_of_a_constant_kernel(self, value):
        """Inner products of one point, not of mean 0, with itself."""
        for n in (2, 7, 50):
            assert hilbert_map(np.full((n, n), value)).shape == (n, 0)

    @pytest.mark.parametrize("kernel", ["distance", "gaussian"])
    @pytest.mark.parametrize("shape", [(4, 4, 20), (7, 7, 128)])
    def test_of_one_latent_at_many_scales(self, shape, kernel):
        """Scale does not count, so that these are one point: of rounding nothing is made."""
        z = normal(*shape) * np.arange(1, 13)[:, None, None, None] / 3
        squared = product_distances(z)
        assert squared.max() < 1e-10
        points = hilbert_map(product_kernel(squared, kernel=kernel))
        assert np.abs(points).max(initial=0) < 1e-5

    @pytest.mark.parametrize(
        ("kernel", "message"),
        [
            (np.zeros((2, 3)), r"shape \(n, n\).*shape \(2, 3\)"),
            (np.zeros(4), r"shape \(n, n\).*shape \(4,\)"),
            (np.zeros((0, 0)), r"shape \(n, n\).*shape \(0, 0\)"),
            (np.eye(3) * np.nan, "finite values"),
            (np.diag([1, np.inf]), "finite values"),
            (np.eye(3) + np.triu(np.ones((3, 3)), 1), "a symmetric matrix"),
        ],
    )
    def test_errors(self, kernel, message):
        with pytest.raises(ValueError, match=f"(?s)`kernel`.*{message}"):
            hilbert_map(kernel)


class TestSubspace:
    # Shares of the summed squares along four directions of six: 0.4, 0.3, 0.2 and 0.1.
    DIRECTIONS = rotation(6)[:, :4]

    def points(self):
        scores = normal(9, 4)
        scores = np.linalg.qr(scores - scores.mean(axis=0))[0] * np.sqrt([0.4, 0.3, 0.2, 0.1])
        return scores @ self.DIRECTIONS.T

    @pytest.mark.parametrize(
        ("energy", "q"),
        [
            (1e-9, 1),
            (0.4, 1),
            (0.4001, 2),
            (0.6999, 2),
            (0.7, 2),
            (0.7001, 3),
            (0.8999, 3),
            (0.9, 3),
            (0.9001, 4),
            (1 - 1e-9, 4),
            (1.0, 4),
            (1, 4),
        ],
    )
    @pytest.mark.parametrize("scale", [1, 1e-30, 1e30])
    def test_of_the_fewest_directions_that_suffice(self, scale, energy, q):
        basis = subspace(scale * self.points(), energy=energy)
        assert basis.shape == (6, q)
        np.testing.assert_allclose(basis.T @ basis, np.eye(q), atol=1e-12)
        # Those planted, the largest first.
        np.testing.assert_allclose(abs(basis.T @ self.DIRECTIONS[:, :q]), np.eye(q), atol=1e-9)

    def test_default_energy(self):
        assert subspace(self.points()).shape == (6, 3)  # of 0.8
        points = normal(60, 30)
        np.testing.assert_array_equal(subspace(points), subspace(points, energy=0.8))

    @pytest.mark.parametrize("energy", [0.5, 0.8, 0.95, 1])
    def test_against_loops(self, energy):
        points = normal(12, 8) * np.linspace(1, 3, 8)
        centred = points - sum(points) / 12
        total = np.sum(centred**2)
        q = next(
            q
            for q in range(1, 9)
            if sum(linalg.svdvals(centred)[:q] ** 2) >= energy * total * (1 - 1e-12)
        )
        basis = subspace(points, energy=energy)
        assert basis.shape == (8, q)
        assert np.sum((centred @ basis) ** 2) >= energy * total * (1 - 1e-12)

    def test_takes_off_the_own_mean(self):
        expected = subspace(self.points(), energy=0.7)
        shifted = subspace(self.points() + 100 * normal(6, seed=8), energy=0.7)
        np.testing.assert_allclose(shifted @ shifted.T, expected @ expected.T, atol=1e-9)

    def test_of_fewer_points_than_directions(self):
        assert subspace(normal(4, 10), energy=1).shape == (10, 3)  # of 4 points, off their mean
        assert subspace(normal(2, 10)).shape == (10, 1)

    @pytest.mark.parametrize("points", [np.zeros((5, 3)), np.full((3, 3), 0.1), normal(1, 3)])
    def test_of_one_point_is_empty(self, points):
        for scale in (1, 1e-30, 1e30):
            assert subspace(scale * points).shape == (3, 0)
            assert subspace(scale * points, energy=1).shape == (3, 0)

    @pytest.mark.parametrize("n", [2, 7, 100, 1000, 3000])
    def test_of_one_point_many_times_is_empty(self, n):
        assert subspace(np.repeat(normal(1, 3), n, axis=0)).shape == (3, 0)

    def test_of_no_axes(self):
        assert subspace(np.zeros((5, 0))).shape == (0, 0)

    def test_a_spread_far_below_the_mean_counts(self):
        points = 1e6 + 1e-3 * normal(20, 1) * np.array([1.0, 0, 0])
        np.testing.assert_allclose(abs(subspace(points)), [[1], [0], [0]], atol=1e-6)

    @pytest.mark.parametrize("energy", [0, -0.1, 1.0001, np.nan, np.inf, "0.8", None])
    def test_of_energy(self, energy):
        with pytest.raises(ValueError, match=r"`energy`.*a number in \(0, 1\].*energy="):
            subspace(self.points(), energy=energy)

    @pytest.mark.parametrize(
        "points",
        [np.zeros(3), np.zeros((0, 3)), np.zeros((2, 3, 4)), np.full((2, 3), np.nan), [[np.inf]]],
    )
    def test_of_points(self, points):
        with pytest.raises(ValueError, match=r"`points`.*finite rows \(n, p\).*shape \("):
            subspace(points)


class TestPrincipalAngles:
    @pytest.mark.parametrize(("p", "q"), [(3, 1), (10, 4), (40, 39), (5, 5)])
    def test_of_one_subspace_are_0(self, p, q):
        basis = rotation(p)[:, :q]
        found = principal_angles(basis, basis.copy())
        assert found.shape == (q,)
        assert (abs(found) < 1e-5).all()
        # In another basis of it.
        assert (abs(principal_angles(basis, basis @ rotation(q, seed=9))) < 1e-5).all()

    def test_of_a_contained_subspace_are_0(self):
        basis = rotation(9)
        for a, b in ((basis[:, :6], basis[:, 2:4]), (basis[:, 2:4], basis[:, :6])):
            found = principal_angles(a, b)
            assert found.shape == (2,)
            assert (abs(found) < 1e-5).all()

    def test_of_orthogonal_subspaces_are_right(self):
        basis = rotation(9)
        found = principal_angles(basis[:, :3], basis[:, 3:5])
        np.testing.assert_allclose(found, [90, 90], atol=1e-9)
        assert found.max() <= 90

    def test_by_hand_the_largest_first(self):
        angles = np.radians([10, 70, 1e-4])
        a = np.eye(6)[:, :3]
        b = np.concatenate([np.diag(np.cos(angles)), np.diag(np.sin(angles))])
        q = rotation(6)
        for x, y in ((a, b), (b, a), (q @ a, q @ b @ rotation(3))):
            # scipy takes small angles beside large ones by their cosines.
            np.testing.assert_allclose(principal_angles(x, y), [70, 10, 1e-4], atol=1e-7)
        np.testing.assert_allclose(principal_angles(a, b[:, :1]), [10])
        # Between lines, at most a right one.
        line = np.array([[np.cos(2)], [np.sin(2)]])
        np.testing.assert_allclose(principal_angles(line, [[1], [0]]), [180 - np.degrees(2)])

    @pytest.mark.parametrize(("q", "r"), [(0, 2), (2, 0), (0, 0)])
    def test_of_an_empty_subspace_are_none(self, q, r):
        found = principal_angles(np.eye(4)[:, :q], np.eye(4)[:, :r])
        assert found.shape == (0,)
        assert found.dtype == "float64"

    def test_of_the_levels_of_latents(self):
        """From latents to angles: by the tensors, and by the points of their Gram matrix."""
        clean = mixed(12)
        noisy = clean + 0.3 * normal(*clean.shape, seed=5)
        z = np.concatenate([clean, clean, noisy])
        squared = product_distances(z, clean=12)
        points = hilbert_map(product_kernel(squared))
        bases = [subspace(points[start : start + 12]) for start in (0, 12, 24)]
        assert (principal_angles(bases[0], bases[1]) < 1e-5).all()
        assert principal_angles(bases[0], bases[2]).mean() > 5
        _, values, axes = np.linalg.svd(distance_kernel(slow(z, clean=12)))
        other = (axes[: points.shape[1]] * np.sqrt(values[: points.shape[1], None])).T
        expected = principal_angles(subspace(other[:12]), subspace(other[24:]))
        np.testing.assert_allclose(principal_angles(bases[0], bases[2]), expected, atol=1e-4)

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (np.eye(3), np.eye(4)),
            (np.eye(3)[:, :0], np.eye(4)[:, :0]),
            (np.ones(3), np.eye(3)),
            (np.eye(3), np.ones(3)),
            (np.ones((3, 1, 1)), np.eye(3)),
        ],
    )
    def test_of_bases_of_other_spaces(self, a, b):
        with pytest.raises(ValueError, match=r"`b`.*a basis \(p, q\).*shape \("):
            principal_angles(a, b)

    def test_without_scipy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "scipy.linalg", None)
        with pytest.raises(ImportError, match=r"'scipy.linalg'.*'manifolds'.*\[manifolds\]"):
            principal_angles(np.eye(3), np.eye(3))
        assert principal_angles(np.eye(3), np.eye(3)[:, :0]).shape == (0,)


def test_distances_are_of_the_covariances():
    """The tensors by their singular values, and the matrices by their eigenvalues, agree."""
    z = mixed(7)
    for mode in MODES:
        covariances = mode_covariance(z, mode=mode)
        weights = [float(k == mode) for k in MODES]
        found = np.sqrt(product_distances(z, weights=weights, kappa=0.5))
        expected = [[embedded_distance(a, b, kappa=0.5) for b in covariances] for a in covariances]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert {rank(x, mode) for x in z} == set(mode_ranks(z)[:, mode - 1].tolist())
