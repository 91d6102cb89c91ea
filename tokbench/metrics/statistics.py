"""Error bars for means over images that every tokenizer and seed shares.

S training seeds, n images, C clusters (images of one photograph share a cluster), R resamples. Seeds and images are
crossed, not nested: an image that is hard is hard for every seed. So one draw of clusters serves all seeds of a
resample (the pigeonhole bootstrap, Owen 2007, arXiv:0712.1111); a fresh draw for each seed would make the interval too
narrow by up to sqrt(S). S - 1 of S seeds and C - 1 of C clusters are drawn, with replacement, which makes the variance
of each level unbiased (Rao and Wu 1988, doi:10.1080/01621459.1988.10478591): 3 of 3 seeds would lose a third of it.
Three seeds still say little about seeds: where they, not images, make the width, 95 % intervals cover about 75 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

WEIGHTS_TILE = 2**22  # resample x cluster weights held at a time

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """a - b on the same seeds and images."""

    mean: float
    low: float
    high: float
    separable: bool  # the interval leaves out 0


def bootstrap_interval(
    values: ArrayLike, clusters: ArrayLike, *, resamples: int, level: float, seed: int
) -> tuple[float, float]:
    """(low, high) of the mean of values (S, n) or (n,): the central `level` (0 to 1) of R bootstrap means.

    clusters (n,) names the cluster of each image. ValueError where there are fewer than two, or values are not finite.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level must be in (0, 1) and resamples >= 1, got {level} and {resamples}")
    table, members = checked_table(values, clusters)
    means = _bootstrap_means(*cluster_sums(table, members), resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike, *, resamples: int, level: float, seed: int
) -> Difference:
    """Mean and interval of a - b, both (S, n) or (n,) over the same seeds and images."""
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise ValueError(f"a and b must have one shape, got {left.shape} and {right.shape}")
    low, high = bootstrap_interval(left - right, clusters, resamples=resamples, level=level, seed=seed)
    return Difference(float((left - right).mean()), low, high, separable=low > 0 or high < 0)


def clusters_to_separate(difference: Difference, num_clusters: int) -> int | None:
    """About how many clusters would make this difference separable, now measured on `num_clusters`.

    The interval's half-width falls as 1 / sqrt(C) where images, not seeds, make it wide. None for a difference of 0.
    """
    if difference.mean == 0:
        return None
    half_width = (difference.high - difference.low) / 2
    return max(2, math.ceil(num_clusters * (half_width / difference.mean) ** 2))


def cluster_standard_error(values: ArrayLike, clusters: ArrayLike) -> float:
    """Standard error of the mean over images (n,) or (S, n), averaged over seeds first: sampling of clusters alone.

    sqrt(C / (C - 1) sum_c (sum_(i in c) v_i - mean)^2) / n (Cameron and Miller 2015, doi:10.3368/jhr.50.2.317, eq. 11).
    """
    table, members = checked_table(values, clusters)
    sums, sizes = cluster_sums(table.mean(axis=0, keepdims=True), members)
    residuals = sums[:, 0] - sizes * table.mean()
    count = len(sizes)
    return float(np.sqrt(count / (count - 1) * np.square(residuals).sum()) / table.shape[1])


def checked_table(values: ArrayLike, clusters: ArrayLike) -> tuple[Floats, Integers]:
    """Values as (S, n) and clusters as (n,) numbers from 0."""
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    names = np.asarray(clusters)
    if table.ndim != 2 or names.shape != table.shape[1:]:
        raise ValueError(f"values must be (S, n) or (n,) and clusters (n,), got {np.shape(values)} and {names.shape}")
    if not np.isfinite(table).all():
        raise ValueError(f"values must be finite, got {(~np.isfinite(table)).sum()} that are not")
    kinds, members = np.unique(names, return_inverse=True)
    if len(kinds) < 2:
        raise ValueError(f"clusters must name at least 2 clusters, got {len(kinds)}")
    return table, members.astype(np.int64)


def cluster_sums(table: Floats, members: Integers) -> tuple[Floats, Floats]:
    """Sum of each cluster for each seed (C, S), and images of each cluster (C,)."""
    sums = np.stack([np.bincount(members, weights=row) for row in table], axis=1)
    return sums.astype(np.float64), np.bincount(members).astype(np.float64)


def _bootstrap_means(sums: Floats, sizes: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """(R,) means over resampled seeds and clusters."""
    tile = max(1, WEIGHTS_TILE // len(sizes))
    rows = [min(tile, resamples - start) for start in range(0, resamples, tile)]
    return np.concatenate([_some_means(sums, sizes, count, rng) for count in rows])


def _some_means(sums: Floats, sizes: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    clusters = draw_counts(resamples, len(sizes), rng)
    seeds = draw_counts(resamples, sums.shape[1], rng)
    per_seed = (clusters @ sums) / (clusters @ sizes)[:, None]
    return (per_seed * seeds).sum(axis=1) / seeds.sum(axis=1)


def draw_counts(resamples: int, size: int, rng: np.random.Generator) -> Floats:
    """(R, size) how often each of `size` units is drawn in size - 1 draws with replacement; 1 of a single unit."""
    draws = rng.integers(size, size=(resamples, max(1, size - 1)))
    places = draws + size * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.float64)
