"""Error bars for means over images that every tokenizer and seed shares.

S training seeds, n images, C clusters (images of one photograph share a cluster), R resamples. Seeds and images are
crossed, not nested: an image that is hard is hard for every seed. So one draw of clusters serves all seeds of a
resample (the pigeonhole bootstrap, Owen 2007, arXiv:0712.1111); a fresh draw for each seed would make the interval too
narrow by up to sqrt(S). S - 1 of S seeds and C - 1 of C clusters are drawn, with replacement, which makes the variance
of each level unbiased (Rao and Wu 1988, doi:10.1080/01621459.1988.10478591): 3 of 3 seeds would lose a third of it.
Three seeds still say little about seeds: where they, not images, make the width, 95 % intervals cover about 75 %. So an interval
reaches as far as Student's over the seeds' means where that reaches farther (`widened`).
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

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
    draws = Resamples(clusters, resamples=resamples, seed=seed)
    return central(draws.over_seeds(draws.over_clusters(np.atleast_2d(values))), level=level)


def central(means: Floats, *, level: float) -> tuple[float, float]:
    """The interval that holds the central `level` (0 to 1) of (R,) bootstrap means."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def widened(interval: tuple[float, float], means: Floats, *, level: float) -> tuple[float, float]:
    """A bootstrap interval, or Student's over the (S,) seeds' own means where that reaches farther; as it is of one seed."""
    if len(means) < 2:
        return interval
    student = students_difference(means, level=level)
    return min(interval[0], student.low), max(interval[1], student.high)


class Resamples:
    """R draws of clusters and of seeds, which everything that shares its images uses: equal draws make the difference of
    two bootstrap means that of a paired difference.

    clusters (n,) names the cluster of each image. ValueError where there are fewer than two.
    """

    def __init__(self, clusters: ArrayLike, *, resamples: int, seed: int) -> None:
        kinds, self._members = np.unique(np.asarray(clusters), return_inverse=True)
        if len(kinds) < 2:
            raise ValueError(f"clusters must name at least 2 clusters, got {len(kinds)}")
        self._sizes = np.bincount(self._members).astype(np.float64)
        rng = np.random.default_rng(seed)
        self._clusters = draw_counts(resamples, len(kinds), rng)
        self._drawn = self._clusters @ self._sizes  # images
        self._rng = rng  # as it is before seeds are drawn, however many there are
        self._seeds: dict[int, NDArray[np.uint8]] = {}  # (S, R) by S

    @property
    def num_clusters(self) -> int:
        return len(self._sizes)

    def over_clusters(self, values: ArrayLike) -> Floats:
        """(k, R) means over drawn clusters of values (k, n), which must be finite: of any number of tables at a time."""
        table = checked_table(values, self._members)
        means = table.mean(axis=1)
        sums = cluster_sums(table - means[:, None], self._members).astype(np.float32)  # around 0 float32 loses nothing
        tile = max(1, WEIGHTS_TILE // len(self._sizes))
        starts = range(0, len(self._clusters), tile)
        parts = [sums.T @ self._clusters[start : start + tile].T.astype(np.float32) for start in starts]
        return np.concatenate(parts, axis=1) / self._drawn + means[:, None]

    def over_seeds(self, means: Floats) -> Floats:
        """(R,) means over drawn seeds of means (S, R) over drawn clusters."""
        if len(means) not in self._seeds:
            self._seeds[len(means)] = draw_counts(len(self._clusters), len(means), deepcopy(self._rng)).T
        weights = self._seeds[len(means)]
        return np.asarray((means * weights).sum(axis=0) / weights.sum(axis=0))


def paired_difference(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike, *, resamples: int, level: float, seed: int
) -> Difference:
    """Mean and interval of a - b, both (S, n) or (n,) over the same seeds and images."""
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise ValueError(f"a and b must have one shape, got {left.shape} and {right.shape}")
    low, high = bootstrap_interval(left - right, clusters, resamples=resamples, level=level, seed=seed)
    return Difference(float((left - right).mean()), low, high, separable=low > 0 or high < 0)


def students_difference(gaps: Floats, *, level: float) -> Difference:
    """The mean of (S,) gaps, one a seed, with Student's interval; of a single gap without bounds (nan)."""
    if len(gaps) == 1:
        return Difference(float(gaps[0]), math.nan, math.nan, separable=False)
    reach = stats.t.ppf((1 + level) / 2, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    low, high = float(gaps.mean() - reach), float(gaps.mean() + reach)
    return Difference(float(gaps.mean()), low, high, separable=low > 0 or high < 0)


def clusters_to_separate(difference: Difference, num_clusters: int) -> int | None:
    """About how many clusters would make this difference separable, now measured on `num_clusters`.

    The interval's half-width falls as 1 / sqrt(C) where images, not seeds, make it wide. None for a difference of 0.
    """
    if difference.mean == 0:
        return None
    half_width = (difference.high - difference.low) / 2
    return max(2, math.ceil(num_clusters * (half_width / difference.mean) ** 2))


def seeds_to_separate(difference: Difference, seeds: int, *, level: float = 0.95, most: int = 1000) -> int | None:
    """The fewest seeds of which Student's interval would leave out 0, if they scatter as the S behind this difference.

    None of a single seed, of a difference of 0, or where `most` are not enough.
    """
    if seeds < 2 or difference.mean == 0:
        return None
    half = (1 + level) / 2
    deviation = (difference.high - difference.low) / 2 * math.sqrt(seeds) / stats.t.ppf(half, seeds - 1)
    counts = np.arange(2, most + 1)
    enough = stats.t.ppf(half, counts - 1) * deviation / np.sqrt(counts) < abs(difference.mean)
    return int(counts[enough.argmax()]) if enough.any() else None


def checked_table(values: ArrayLike, clusters: NDArray[Any]) -> Floats:
    """Values as (S, n) over the n images of the clusters (n,)."""
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if table.ndim != 2 or clusters.shape != table.shape[1:]:
        raise ValueError(
            f"values must be (S, n) or (n,) and clusters (n,), got {np.shape(values)} and {clusters.shape}"
        )
    if not np.isfinite(table).all():
        raise ValueError(f"values must be finite, got {(~np.isfinite(table)).sum()} that are not")
    return table


def cluster_sums(table: Floats, members: Integers) -> Floats:
    """(C, S) sum of each cluster, numbered from 0, for each seed."""
    return np.stack([np.bincount(members, weights=row) for row in table], axis=1)


def draw_counts(resamples: int, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(R, size) how often each of `size` units is drawn in size - 1 draws with replacement; 1 of a single unit."""
    tile = max(1, WEIGHTS_TILE // size)
    return np.concatenate([_draw(min(tile, resamples - start), size, rng) for start in range(0, resamples, tile)])


def _draw(resamples: int, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    draws = rng.integers(size, size=(resamples, max(1, size - 1)))
    places = draws + size * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.uint8)
