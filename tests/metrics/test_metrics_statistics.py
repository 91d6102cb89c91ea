import numpy as np
import pytest
from scipy import stats

from tokbench.metrics import statistics
from tokbench.metrics.statistics import (
    Resamples,
    bootstrap_interval,
    clusters_to_separate,
    paired_difference,
    seeds_to_separate,
    students_difference,
    widened,
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


def test_means_of_resamples_are_those_of_the_drawn_images_and_seeds(monkeypatch):
    """Counts of draws, in tiles of 3, against means over the drawn clusters and seeds taken one by one."""
    monkeypatch.setattr(statistics, "WEIGHTS_TILE", 15)
    rng = np.random.default_rng(0)
    values, clusters = rng.normal(80, 9, (4, 21)), np.arange(21) % 5
    found = Resamples(clusters, resamples=8, seed=3)
    draws = np.random.default_rng(3)
    parts = [draws.integers(5, size=(count, 4)) for count in (3, 3, 2)]
    chosen = [np.concatenate([np.flatnonzero(clusters == c) for c in line]) for line in np.concatenate(parts)]
    wanted = np.stack([values[:, images].mean(axis=1) for images in chosen], axis=1)
    assert found.over_clusters(values) == pytest.approx(wanted, abs=1e-5)
    parts = [draws.integers(4, size=(count, 3)) for count in (3, 3, 2)]
    lines = np.concatenate(parts)
    for _ in range(2):  # drawn once for all that have four seeds
        means = found.over_seeds(wanted)
        assert means == pytest.approx([wanted[line, r].mean() for r, line in enumerate(lines)])


def test_draws_of_clusters_do_not_depend_on_the_number_of_seeds():
    """So that rows of other seeds, or of some of them, compare under common random numbers."""
    values = np.random.default_rng(0).normal(size=(3, 40))
    found = Resamples(np.arange(40), resamples=50, seed=0)
    found.over_seeds(found.over_clusters(values[:2]))
    assert found.over_clusters(values[2:])[0] == pytest.approx(found.over_clusters(values)[2], abs=1e-6)


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


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(np.zeros(4), np.arange(4), resamples=10, level=95, seed=0)
    with pytest.raises(ValueError, match="shape"):
        paired_difference(np.zeros(4), np.zeros(5), np.arange(4), resamples=10, level=0.9, seed=0)


def test_seeds_to_separate_are_the_fewest_whose_interval_leaves_out_zero() -> None:
    gaps = np.array([0.2, 1.9, 0.3])
    found = students_difference(gaps, level=0.95)
    wanted = seeds_to_separate(found, 3)
    assert wanted is not None
    reach = [stats.t.ppf(0.975, n - 1) * gaps.std(ddof=1) / np.sqrt(n) for n in (wanted - 1, wanted)]
    assert reach[1] < gaps.mean() <= reach[0]
    assert seeds_to_separate(students_difference(gaps[:1], level=0.95), 1) is None
    assert seeds_to_separate(students_difference(gaps / 1e9 + np.array([-1, 0, 1]), level=0.95), 3) is None


def test_an_interval_reaches_as_far_as_the_seeds_do_where_they_are_few() -> None:
    gaps = np.array([0.25, 0.43, 0.14])
    student = students_difference(gaps, level=0.95)
    assert widened((0.15, 0.4), gaps, level=0.95) == (student.low, student.high)
    assert widened((-5.0, 0.4), gaps, level=0.95) == (-5.0, student.high)
    assert widened((0.15, 0.4), gaps[:1], level=0.95) == (0.15, 0.4)


def test_widened_intervals_of_three_seeds_cover_what_they_say() -> None:
    """Seeds alone make the width: the bootstrap covers about three quarters, the widened interval 95 % or more."""
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(300):
        values = rng.normal(0, 1, (3, 1)) + rng.normal(0, 0.01, (3, 30))
        plain = bootstrap_interval(values, np.arange(30), resamples=200, level=0.95, seed=0)
        wide = widened(plain, values.mean(axis=1), level=0.95)
        covered += [low <= 0 <= high for low, high in (plain, wide)]
    plain_share, wide_share = covered / 300
    assert plain_share < 0.85
    assert wide_share > 0.92
