"""The rule of FLOP parity: how much training one system needs for what another reaches, from runs of several sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from statistics import fmean
from typing import Any

from scipy.stats import ttest_ind

from tokbench.metrics.parity import Parity
from tokbench.metrics.parity import parity as ratio_of
from tokbench.metrics.statistics import Difference
from tokbench.records import RunRecord, parse_key
from tokbench.report.ranking import MIN_SEEDS
from tokbench.report.rules import Finding, agrees, find_rows, in_block
from tokbench.report.view import LEVEL, RESAMPLES, View

PROXY, BACKBONE, TOKENIZER = "cost/training_flops_proxy", "cost/training_flops", "cost/tokenizer_training_flops"
Point = tuple[float, float]  # FLOPs and metric of a run
AT_FIRST, OR_MORE, OR_LESS, EXTRAPOLATED = " (at the first's largest)", " or more", " or less", " (extrapolated)"
BOUNDS = (OR_MORE, OR_LESS)
Columns = Sequence[Sequence[float]]  # FLOPs of all runs, and their metrics


def parity(
    view: View, measure: str, minimum_effect: float, *, pairs: Sequence[Mapping[str, Any]]
) -> list[Finding | None]:
    """Of each pair and way to count FLOPs, whether `first` needs fewer or more than `second`, by what counts of the ratio.

    A side is all rows of a name with its dotted settings; its `block` takes the place of the measure's. Ways to count: 6 N D; all
    that the backbone's training does; that and the tokenizer's. The ratio is read at the quality that the second side reaches at
    its largest FLOPs; where the first never does, at what the first reaches at its own; where from some FLOPs on one side does
    better than the other's largest, these give a bound; of what is extrapolated all the same none agrees.
    """
    return [_one(view, measure, minimum_effect, pair, how) for pair in pairs for how in WAYS]


def _flops(record: RunRecord, block: str, how: str) -> float:
    if how == "6 N D":
        return _value(record, f"{block}/{PROXY}")
    return _value(record, f"{block}/{BACKBONE}") + (_value(record, TOKENIZER) if how == "with the tokenizer's" else 0)


WAYS = ("6 N D", "with attention", "with the tokenizer's")


def _one(view: View, measure: str, minimum_effect: float, pair: Mapping[str, Any], how: str) -> Finding | None:
    sides = [points_of(view, measure, pair[name], how) for name in ("first", "second")]
    if any(len({flops for flops, _ in points}) < 2 for points, _ in sides):
        return None
    columns = [list(column) for points, _ in sides for column in zip(*points, strict=True)]
    found, where = _ratio(columns[:2], columns[2:])
    seeds = min(count for _, count in sides)
    interval = (
        "none"
        if found is None
        else "a bound"
        if where in (OR_LESS, OR_MORE)
        else f"{found.low:.3g} to {found.high:.3g}"
    )
    return Finding(
        label=f"{pair['label']}, FLOPs {how}",
        expected=f"{pair['expected']} 1",
        effect="none" if found is None else f"{found.ratio:.3g}{where}",
        interval=interval,
        unit="ratio",
        seeds=seeds,
        amount=None if found is None else found.ratio,
        agrees=_agrees(found, where, pair["expected"], minimum_effect) if seeds >= MIN_SEEDS else None,
    )


def _ratio(first: Columns, second: Columns) -> tuple[Parity | None, str]:
    """The ratio, and where it is read if not at the quality of the second's largest FLOPs; votes if it is not extrapolated."""
    options: dict[str, Any] = {"resamples": RESAMPLES, "level": LEVEL, "seed": 0}
    found = ratio_of(*first, *second, **options)
    if found is None or not found.extrapolated:
        return found, ""
    back = ratio_of(*second, *first, **options)
    if back is not None and not back.extrapolated:
        return _inverse(back), AT_FIRST
    if (most := _bound(first, second)) is not None and most > found.ratio:
        return Parity(most, 0.0, most, extrapolated=False), OR_LESS
    if back is not None and (most := _bound(second, first)) is not None and most > back.ratio:
        return Parity(1 / most, 1 / most, math.inf, extrapolated=False), OR_MORE
    return found, EXTRAPOLATED


def _bound(one: Columns, other: Columns) -> float | None:
    """The fewest FLOPs from which on the one's runs do better than the other's of the most, over the latter; None of no such.

    Better is farther on its own way, and by more than the seeds differ: Welch's t at `LEVEL`.
    """
    start, end = (_metrics(one, which(one[0])) for which in (min, max))
    reached, way = _metrics(other, max(other[0])), fmean(end) - fmean(start)

    def ahead(flops: float) -> bool:
        test = ttest_ind(_metrics(one, flops), reached, equal_var=False)
        return bool(test.statistic * way > 0 and test.pvalue < 1 - LEVEL)

    found = list(takewhile(ahead, sorted(set(one[0]), reverse=True)))
    return found[-1] / max(other[0]) if found else None


def _metrics(side: Columns, at: float) -> list[float]:
    """Of the runs of so many FLOPs."""
    return [metric for flops, metric in zip(*side, strict=True) if flops == at]


def _inverse(found: Parity) -> Parity:
    return Parity(1 / found.ratio, 1 / found.high, 1 / found.low, extrapolated=False)


def _agrees(found: Parity | None, where: str, expected: Any, minimum_effect: float) -> bool | None:
    """The vote of a ratio; of a bound only where all that it leaves open votes alike."""
    if found is None or found.extrapolated:
        return None
    if where in BOUNDS:
        ends = {_vote(Parity(x, x, x, extrapolated=False), expected, minimum_effect) for x in (found.low, found.high)}
        return ends.pop() if len(ends) == 1 else None
    return _vote(found, expected, minimum_effect)


def _vote(found: Parity, expected: Any, minimum_effect: float) -> bool | None:
    gap = Difference(found.ratio - 1, found.low - 1, found.high - 1, separable=not found.low <= 1 <= found.high)
    return agrees(gap, expected, minimum_effect)


def points_of(view: View, measure: str, side: Mapping[str, Any], how: str) -> tuple[list[Point], int]:
    """Of all runs of a side (FLOPs counted by one of WAYS) that have the measure; and the fewest seeds of one of its rows."""
    block = side.get("block") or parse_key(measure).block
    key = in_block(measure, block)
    needed = (key, f"{block}/{PROXY}", f"{block}/{BACKBONE}", TOKENIZER)
    points, seeds = [], []
    for row in find_rows(view, {name: value for name, value in side.items() if name != "block"}):
        runs = [record for record in row.records if all(_measured(record, each) for each in needed)]
        points += [(_flops(record, block, how), _value(record, key)) for record in runs]
        seeds += [len(runs)] if runs else []
    return sorted(points), min(seeds, default=0)  # resamples are drawn by place: the same from any page


def _measured(record: RunRecord, key: str) -> bool:
    return key in record.metrics and record.metrics[key].value is not None


def _value(record: RunRecord, key: str) -> float:
    value = record.metrics[key].value
    assert value is not None, key
    return value
