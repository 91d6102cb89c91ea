"""Two rows beside each other: every measure that both have, and how far apart they are.

Measures kept for each image have the paired bootstrap over seeds and images; the others, where both rows have two or more
seeds in common, Student's interval of the differences of those seeds. Within three noise floors nothing is separable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tokbench.metrics.statistics import Difference, students_difference
from tokbench.records import parse_key
from tokbench.report.columns import ARROWS
from tokbench.report.definitions import direction
from tokbench.report.floors import within_floors
from tokbench.report.formatting import EMPTY, heading, number
from tokbench.report.ranking import MIN_SEEDS, seed_gaps
from tokbench.report.rows import Row, Summary, mean_of, summarize
from tokbench.report.rules import ARRAYS
from tokbench.report.view import LEVEL, View

HEADINGS = ["measure", "A", "B", "A - B", f"{LEVEL:.0%} interval", "separable", "seeds"]


@dataclass(frozen=True)
class Pair:
    """One measure of two rows."""

    key: str
    a: Summary
    b: Summary
    difference: Difference | None  # a - b; None where one has no value; without bounds (NaN) where there is one seed
    seeds: int  # in common
    noise: str | None = None  # why the difference of an unpaired distance is none

    def verdict(self) -> str:
        """Whether the two are separable, or that it is so of too few seeds for a ranking."""
        gap = self.difference
        if gap is None or math.isnan(gap.low):
            return "NA"
        if self.noise or not gap.separable:
            return f"no ({self.noise})" if self.noise else "no"
        if self.seeds >= MIN_SEEDS:
            return "yes"
        return "images only (1 seed)" if self.seeds == 1 else f"{self.seeds} seeds only"


def pairs(view: View, a: Row, b: Row) -> Iterator[Pair]:
    """Each measure that both rows have, in the order of its name; baselines, which no row owns, are left out."""
    keys = {key for record in a.records for key in record.metrics} & {k for r in b.records for k in r.metrics}
    for key in sorted(key for key in keys if parse_key(key).block != "baseline"):
        left, right = summarize(a.records, key), summarize(b.records, key)
        assert left is not None
        assert right is not None
        found = view.difference(a, b, ARRAYS[key]) if key in ARRAYS else None
        gap, seeds = found or _seeds(a, b, key)
        noise = None if gap is None or key in ARRAYS else within_floors([(a, key), (b, key)], gap.mean, 0.0)
        yield Pair(key, left, right, gap, seeds, noise)


def cells(pair: Pair, *, ranked: bool) -> list[str]:
    """The line of a measure under HEADINGS: with an arrow and a verdict where one side is better and the data rank."""
    unit, gap = pair.a.unit, pair.difference
    arrow = ARROWS.get(direction(pair.key) or "", "") if ranked else ""
    if gap is None:
        apart = ["NA", "NA"]
    elif math.isnan(gap.low):
        apart = [number(gap.mean, unit), "NA (fewer than 2 seeds)"]
    else:
        apart = [number(gap.mean, unit), f"{number(gap.low, unit)} to {number(gap.high, unit)}"]
    values = [_value(summary.mean, summary.reason, unit) for summary in (pair.a, pair.b)]
    return [heading(pair.key, unit) + arrow, *values, *apart, pair.verdict() if arrow else EMPTY, str(pair.seeds)]


def _value(mean: float | None, reason: str | None, unit: str) -> str:
    return f"NA ({reason})" if mean is None else number(mean, unit)


def _seeds(a: Row, b: Row, key: str) -> tuple[Difference | None, int]:
    gaps = seed_gaps(a, b, key)
    if len(gaps):
        return students_difference(gaps, level=LEVEL), len(gaps)
    mine, others = mean_of(a, key), mean_of(b, key)
    return None if mine is None or others is None else Difference(mine - others, math.nan, math.nan, separable=False), 0
