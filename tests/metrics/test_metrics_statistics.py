import numpy as np
import pytest
from scipy import stats

from tokbench.metrics.statistics import (
    bootstrap_interval,
    cluster_standard_error,
    clusters_to_separate,
    paired_difference,
)


def test_interval_agrees_with_scipy_where_every_image_is_its_own_cluster():
    values = np.random.default_rng(0).gamma(2.0, size=400)
    low, high = bootstrap_interval(values, np.arange(400), resamples=9999, level=0.95, seed=0)
    result = stats.bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1))
    expected = result.confidence_interval
    width = expected.high - expected.low
    np.testing.assert_allclose([low, high], [expected.low, expected.high], atol=0.05 * width)


def clustered(rng: np.random.Generator, seeds: int, clusters: int, size: int, spread: float) -> np.ndarray:
    """(S, clusters * size) values of true mean 0: clusters and images the same for every seed, plus little noise."""
    images = np.repeat(rng.normal(size=clusters), size) + 0.3 * rng.normal(size=clusters * size)
    return images + spread * rng.normal(size=(seeds, 1)) + 0.1 * rng.normal(size=(seeds, clusters * size))


def coverage(seeds: int, names: np.ndarray, spread: float = 0.0) -> float:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        low, high = bootstrap_interval(clustered(rng, seeds, 30, 8, spread), names, resamples=400, level=0.9, seed=1)
        hits += low <= 0 <= high
    return hits / 300


def test_clustered_intervals_cover_the_truth_and_unclustered_ones_do_not():
    photographs = np.repeat(np.arange(30), 8)
    assert 0.84 < coverage(3, photographs) < 0.95
    assert coverage(3, np.arange(240)) < 0.6


def test_intervals_cover_the_truth_where_seeds_differ():
    assert 0.82 < coverage(6, np.repeat(np.arange(30), 8), spread=0.15) < 0.95


def test_the_variance_of_a_few_seeds_is_not_underestimated():
    """Three constant rows: the spread of resampled means is the standard error s / sqrt(3), not sqrt(2/3) of it."""
    rows = np.array([[-1.0], [0.0], [1.0]]) * np.ones(10)
    low, high = bootstrap_interval(rows, np.arange(10), resamples=20000, level=0.5, seed=0)
    assert (low, high) == (-0.5, 0.5)  # two draws of three seeds: -1, -.5, 0, .5, 1 with weights 1, 2, 3, 2, 1


def test_interval_is_fixed_by_its_seed_and_widens_with_its_level():
    values, names = np.random.default_rng(0).normal(size=50), np.arange(50) // 2
    narrow, again, wide = (
        bootstrap_interval(values, names, resamples=500, level=level, seed=0) for level in (0.5, 0.5, 0.99)
    )
    assert narrow == again
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]


def test_a_paired_difference_separates_what_two_intervals_cannot():
    rng = np.random.default_rng(0)
    b = 5 * rng.normal(size=(3, 200))
    a = b + 0.2 + 0.1 * rng.normal(size=b.shape)
    options = {"resamples": 500, "level": 0.95, "seed": 0}
    first, second = (bootstrap_interval(x, np.arange(200), **options) for x in (a, b))
    assert first[0] < second[1]
    difference = paired_difference(a, b, np.arange(200), **options)
    assert difference.separable
    assert difference.low < difference.mean < difference.high
    assert difference.mean == pytest.approx(0.2, abs=0.02)


def test_a_set_is_not_separable_from_itself_nor_a_difference_lost_in_noise():
    a = np.random.default_rng(0).normal(size=100)
    options = {"resamples": 500, "level": 0.95, "seed": 0}
    same = paired_difference(a, a, np.arange(100), **options)
    assert (same.mean, same.low, same.high, same.separable) == (0, 0, 0, False)
    assert clusters_to_separate(same, 100) is None
    noise = paired_difference(a + 0.01, np.zeros(100), np.arange(100), **options)
    assert not noise.separable
    assert clusters_to_separate(noise, 100) > 100


def test_cluster_standard_error_is_the_usual_one_for_clusters_of_one():
    values = np.random.default_rng(0).normal(size=60)
    assert cluster_standard_error(values, np.arange(60)) == pytest.approx(stats.sem(values))


def test_repeated_images_add_no_information():
    values = np.random.default_rng(0).normal(size=40)
    repeated = cluster_standard_error(np.repeat(values, 9), np.repeat(np.arange(40), 9))
    assert repeated == pytest.approx(stats.sem(values))


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        (np.zeros(4), np.zeros(4), "2 clusters"),
        (np.zeros(4), np.arange(3), "clusters"),
        (np.array([0.0, np.nan]), np.arange(2), "finite"),
    ],
)
def test_bad_tables_are_refused(values, clusters, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, clusters, resamples=10, level=0.9, seed=0)
    with pytest.raises(ValueError, match=message):
        cluster_standard_error(values, clusters)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(np.zeros(4), np.arange(4), resamples=10, level=95, seed=0)
    with pytest.raises(ValueError, match="shape"):
        paired_difference(np.zeros(4), np.zeros(5), np.arange(4), resamples=10, level=0.9, seed=0)
