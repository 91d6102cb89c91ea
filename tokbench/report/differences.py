"""What separates each row from the leader of its comparison: rows of equal nominal bits in one encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np

from tokbench.metrics.statistics import Difference, clusters_to_separate
from tokbench.report.formatting import markdown_table, number
from tokbench.report.ranking import peer_groups
from tokbench.report.rows import Row, summarize
from tokbench.report.view import View

PSNR, ARRAY = "reconstruction/psnr_db", "psnr_db"
DIVISIONS = 10_000  # of seeds into two parts: all there are up to 7 and 7 seeds
HEADINGS = ["tokenizer", "leader", "minus leader (dB)", "95 % interval", "verdict", "p over seeds", "seeds"]
TITLE = "Paired differences in PSNR to the leader of equal nominal bits"
NOTHING = "No two rows of equal nominal bits share seeds and have per-image values."
NOTE = (
    "Same test images and seeds on both sides; the bootstrap draws seeds and whole clusters of images together, so that"
    " with one seed the interval knows nothing of what another training would give. The leader is the row of the highest mean"
    " among those of equal nominal bits (within 1 %) in one encoder and decoder, whatever its seeds. Images to separate: what"
    " the interval's width asks for, if it falls with their root; where seeds make it wide more images do not help. p: exact"
    " permutation test of the seeds' means, two-sided; three seeds against three cannot reach below 0.1."
)


def differences(view: View) -> tuple[str, list[str]]:
    """Title and lines of the differences of every row to the leader of its comparison."""
    lines = [line for rows in peer_groups(view, "equal bits") for line in _group(view, rows)]
    return TITLE, [*markdown_table(HEADINGS, lines), "", NOTE] if lines else [NOTHING]


def _group(view: View, rows: Sequence[Row]) -> list[list[str]]:
    found = [
        (summary.mean, row) for row in rows if (summary := summarize(row.records, PSNR)) and summary.mean is not None
    ]
    if len(found) < 2:
        return []
    _, leader = max(found, key=lambda pair: pair[0])
    compared = [(row, view.difference(row, leader, ARRAY)) for _, row in found if row is not leader]
    return [_line(view, row, leader, *gap) for row, gap in compared if gap is not None]


def _line(view: View, row: Row, leader: Row, gap: Difference, seeds: int) -> list[str]:
    interval = f"{number(gap.low, 'dB')} to {number(gap.high, 'dB')}"
    p = permutation_p(*(np.array([found.mean for found in view.sampled(r, ARRAY).values()]) for r in (row, leader)))
    return [row.label, leader.label, number(gap.mean, "dB"), interval, _verdict(view, row, gap), f"{p:.2g}", str(seeds)]


def _verdict(view: View, row: Row, gap: Difference) -> str:
    if gap.separable:
        return "separable"
    resamples = view.resamples(row)
    assert resamples is not None, row.label
    clusters = resamples.num_clusters
    wanted = clusters_to_separate(gap, clusters)
    return f"not separable at N = {clusters:,}" + (f" (about {wanted:,})" if wanted is not None else "")


def permutation_p(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of equal means of (S,) and (T,) seeds, over all divisions of them, or `DIVISIONS` drawn of more."""
    pooled, size = np.concatenate((a, b)), len(a)
    chosen = pooled[_divisions(len(pooled), size)].sum(axis=1)
    gaps = np.abs(chosen / size - (pooled.sum() - chosen) / len(b))
    return float((gaps >= abs(a.mean() - b.mean()) - 1e-9).mean())


@lru_cache(maxsize=32)
def _divisions(total: int, size: int) -> np.ndarray:
    """(P, size) places of the first part: every choice of `size` of `total`, or the given one and others at random."""
    if comb(total, size) <= DIVISIONS:
        return np.array(list(combinations(range(total), size)))
    draws = np.random.default_rng(0).permuted(np.tile(np.arange(total), (DIVISIONS, 1)), axis=1)[:, :size]
    draws[0] = np.arange(size)
    return draws
