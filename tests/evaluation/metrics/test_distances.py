"""The Fréchet and kernel distances: closed forms, independent computations, and what must raise them."""

import numpy as np
import pytest
import scipy.linalg

from latent_shift.evaluation.features import Moments
from latent_shift.evaluation.metrics.distances import (
    frechet_distance,
    frechet_of_rows,
    gaussian_distance,
    kernel_distance,
    polynomial_kernel,
    unbiased_discrepancy,
    warn_if_short,
)


def normal(count, width=6, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width))


def random_gaussian(width, seed):
    chance = np.random.default_rng(seed)
    factor = chance.normal(size=(width, 2 * width))
    return chance.normal(size=width), factor @ factor.T / (2 * width)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [2, 17, 64])
def test_it_is_scipys_matrix_square_root(width, seed):
    (mean, one), (other_mean, other) = random_gaussian(width, seed), random_gaussian(width, seed + 100)
    root = scipy.linalg.sqrtm(one @ other)
    expected = ((mean - other_mean) ** 2).sum() + np.trace(one) + np.trace(other) - 2 * np.trace(root).real
    assert gaussian_distance(mean, one, other_mean, other) == pytest.approx(expected, abs=1e-6)


def test_gaussians_of_one_dimension_have_a_closed_form():
    found = gaussian_distance(np.array([1.0]), np.array([[4.0]]), np.array([3.0]), np.array([[9.0]]))
    assert found == pytest.approx((1 - 3) ** 2 + (2 - 3) ** 2, abs=1e-12)


def test_covariances_that_commute_have_a_closed_form():
    turn, _ = np.linalg.qr(normal(5, 5))
    first, second = np.array([4.0, 1, 0.25, 9, 0]), np.array([1.0, 1, 4, 0, 0])
    covariances = [turn @ np.diag(values) @ turn.T for values in (first, second)]
    found = gaussian_distance(np.zeros(5), covariances[0], np.ones(5), covariances[1])
    assert found == pytest.approx(5 + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum(), abs=1e-6)


def test_a_shift_counts_as_its_length_squared():
    rows = normal(300)
    assert frechet_of_rows(rows, rows + 2) == pytest.approx(4 * 6, rel=1e-9)


@pytest.mark.parametrize("count", [5, 40, 500])
def test_identical_sets_give_0_and_order_does_not_matter(count):
    rows, other = normal(count, 24), normal(count, 24, seed=1) * 1.5
    order = np.random.default_rng(5).permutation(count)
    assert frechet_of_rows(rows, rows) == pytest.approx(0, abs=1e-9)
    assert frechet_of_rows(rows[order], other) == pytest.approx(frechet_of_rows(rows, other), rel=1e-9)
    assert frechet_of_rows(other, rows) == pytest.approx(frechet_of_rows(rows, other), rel=1e-9)
    assert kernel_distance(rows[order], other) == pytest.approx(kernel_distance(rows, other), rel=1e-9)


@pytest.mark.parametrize("count", [4, 12, 60])
def test_rows_and_moments_agree_also_without_full_rank(count):
    rows, other = normal(count, 30), normal(count + 5, 30, seed=2) + 0.3
    by_moments = frechet_distance(Moments.of(rows), Moments.of(other))
    assert frechet_of_rows(rows, other) == pytest.approx(by_moments, rel=1e-6)


def test_growing_noise_grows():
    rows = normal(400, 10)
    noise = normal(400, 10, seed=9)
    distances = [frechet_of_rows(rows, rows + amount * noise) for amount in (0, 0.2, 0.5, 1, 2)]
    kernels = [unbiased_discrepancy(rows, rows + amount * noise) for amount in (0, 0.5, 1, 2)]
    assert distances == sorted(distances)
    assert kernels == sorted(kernels)


def test_the_kernel_distance_is_the_plain_sums():
    first, second = normal(7, 4), normal(5, 4, seed=1) + 1

    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / 4 + 1) ** 3

    inside = np.mean([kernel(x, y) for i, x in enumerate(first) for j, y in enumerate(first) if i != j])
    other = np.mean([kernel(x, y) for i, x in enumerate(second) for j, y in enumerate(second) if i != j])
    between = np.mean([kernel(x, y) for x in first for y in second])
    assert kernel_distance(first, second) == pytest.approx(inside + other - 2 * between, rel=1e-9)
    assert polynomial_kernel(first, second).shape == (7, 5)


def test_the_kernel_distance_has_no_bias_with_few_samples():
    found = [unbiased_discrepancy(normal(10, 4, seed=s), normal(10, 4, seed=s + 10_000)) for s in range(600)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert frechet_of_rows(normal(10, 4), normal(10, 4, seed=1)) > 0.2


@pytest.mark.parametrize("subset_size", [1000, 40])  # whole sets, and subsets
def test_frames_of_one_clip_are_no_samples_of_their_own(subset_size):
    def frames(seed, clips=20, each=8):
        centres = normal(clips, 4, seed=seed).repeat(each, axis=0)
        return centres + 0.1 * normal(clips * each, 4, seed=seed + 5000)

    def distances(rows_per_clip):
        options = {"rows_per_clip": rows_per_clip, "subset_size": subset_size, "subsets": 20}
        return [kernel_distance(frames(s), frames(s + 10_000), **options) for s in range(150)]

    found, naive = distances(8), distances(1)
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert np.mean(naive) > 5 * np.std(naive) / np.sqrt(len(naive))


def test_the_kernel_distance_of_frames_is_the_plain_sums():
    first, second = normal(6, 4), normal(4, 4, seed=1) + 1
    kernels = [polynomial_kernel(*both) for both in ((first, first), (second, second), (first, second))]
    inside, other = (
        np.mean([one[i, j] for i in range(len(one)) for j in range(len(one)) if i // 2 != j // 2])
        for one in kernels[:2]
    )
    found = kernel_distance(first, second, rows_per_clip=2)
    assert found == pytest.approx(inside + other - 2 * kernels[2].mean(), rel=1e-9)
    with pytest.raises(ValueError, match="of 3 and 1 clips; give at least 2"):
        kernel_distance(first, second[:2], rows_per_clip=2)


def test_large_sets_are_taken_in_seeded_subsets():
    first, second = normal(80, 4), normal(90, 4, seed=1) + 0.5
    found = kernel_distance(first, second, subsets=20, subset_size=40, seed=3)
    assert found == kernel_distance(first, second, subsets=20, subset_size=40, seed=3)
    assert found == pytest.approx(unbiased_discrepancy(first, second), rel=0.3)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="of 6 and of 5 numbers"):
        frechet_of_rows(normal(9), normal(9, 5))
    with pytest.raises(ValueError, match="of 6 and of 5 numbers"):
        kernel_distance(normal(9), normal(9, 5))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_of_rows(normal(1), normal(9))
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(normal(1), normal(9))
    with pytest.warns(UserWarning, match="needs 7 rows or more"):
        warn_if_short(6, 6, "real")
