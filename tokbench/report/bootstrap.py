"""The bootstrap of `metrics.statistics` for all rows of a page: they share its draws, which take most of its time.

L rows, S seeds, n images, C clusters, R resamples. Equal draws make a - b of two rows' bootstrap means the bootstrap mean
of their paired difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokbench.metrics.statistics import WEIGHTS_TILE, Floats, Integers, checked_table, cluster_sums, draw_counts


def bootstrap_means(tables: Sequence[Floats], clusters: Integers, *, resamples: int, seed: int) -> Floats:
    """(L, R) bootstrap means of L tables (S, n): those behind `bootstrap_interval` of each; clusters (n,)."""
    members = checked_table(tables[0], clusters)[1]
    found = [cluster_sums(checked_table(table, clusters)[0], members) for table in tables]
    sums, sizes = np.concatenate([own for own, _ in found], axis=1), found[0][1]
    rng, seeds = np.random.default_rng(seed), len(tables[0])
    tile = max(1, WEIGHTS_TILE // len(sizes))
    rows = [min(tile, resamples - start) for start in range(0, resamples, tile)]
    return np.concatenate([_some_means(sums, sizes, seeds, count, rng) for count in rows], axis=1)


def central(means: Floats, *, level: float) -> tuple[float, float]:
    """The interval that holds the central `level` (0 to 1) of (R,) bootstrap means."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _some_means(sums: Floats, sizes: Floats, num_seeds: int, resamples: int, rng: np.random.Generator) -> Floats:
    """(L, resamples) means from cluster sums (C, L S): clusters are drawn first, then seeds, the same for all rows."""
    clusters = draw_counts(resamples, len(sizes), rng)
    seeds = draw_counts(resamples, num_seeds, rng)
    per_seed = (clusters @ sums) / (clusters @ sizes)[:, None]
    weighted = per_seed.reshape(resamples, -1, num_seeds) * seeds[:, None]
    return (weighted.sum(axis=2) / seeds.sum(axis=1)[:, None]).T
