"""The rule of FLOP parity: how much training one system needs for what another reaches, from runs of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from tokbench.metrics.parity import Parity
from tokbench.metrics.parity import parity as ratio_of
from tokbench.metrics.statistics import Difference
from tokbench.records import RunRecord, parse_key
from tokbench.report.ranking import MIN_SEEDS
from tokbench.report.rules import Finding, agrees, find_rows, in_block
from tokbench.report.view import LEVEL, RESAMPLES, View

PROXY, BACKBONE, TOKENIZER = "cost/training_flops_proxy", "cost/training_flops", "cost/tokenizer_training_flops"
Point = tuple[float, float]  # FLOPs and metric of a run
AT_FIRST, OR_MORE, EXTRAPOLATED = " (at the first's largest)", " or more", " (extrapolated)"
Columns = Sequence[Sequence[float]]  # FLOPs of all runs, and their metrics


def parity(
    view: View, measure: str, minimum_effect: float, *, pairs: Sequence[Mapping[str, Any]]
) -> list[Finding | None]:
    """Of each pair and way to count FLOPs, whether `first` needs fewer or more than `second`, by what counts of the ratio.

    A side is all rows of a name with its dotted settings; its `block` takes the place of the measure's. Ways to count: 6 N D; all
    that the backbone's training does; that and the tokenizer's. The ratio is read at the quality that the second side reaches at
    its largest FLOPs; where the first never does, at what the first reaches at its own; where one side's smallest FLOPs do better
    than the other's largest, it is a bound; of what is extrapolated all the same none agrees.
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
    told = ("none", "none") if found is None else (f"{found.ratio:.3g}{where}", f"{found.low:.3g} to {found.high:.3g}")
    return Finding(
        label=f"{pair['label']}, FLOPs {how}",
        expected=f"{pair['expected']} 1",
        effect=told[0],
        interval=told[1],
        unit="ratio",
        seeds=seeds,
        amount=None if found is None else found.ratio,
        agrees=_agrees(found, pair["expected"], minimum_effect) if seeds >= MIN_SEEDS else None,
    )


def _ratio(first: Columns, second: Columns) -> tuple[Parity | None, str]:
    """The ratio, and where it is read if not at the quality of the second's largest FLOPs; votes if it is not extrapolated."""
    options: dict[str, Any] = {"resamples": RESAMPLES, "level": LEVEL, "seed": 0}
    found = ratio_of(*first, *second, **options)
    if found is None or not found.extrapolated:
        return found, ""
    if (least := min(first[0]) / max(second[0])) > found.ratio and _ahead(first, second):
        return _clipped(found, least), " or less"
    back = ratio_of(*second, *first, **options)
    if back is not None and (least := min(second[0]) / max(first[0])) > back.ratio and _ahead(second, first):
        return _inverse(_clipped(back, least)), OR_MORE
    return (found, EXTRAPOLATED) if back is None or back.extrapolated else (_inverse(back), AT_FIRST)


def _ahead(one: Columns, other: Columns) -> bool:
    """Whether runs of the one's fewest FLOPs do better, on average, than those of the other's most: farther on its own way."""
    start, end, reached = _level(one, min), _level(one, max), _level(other, max)
    return (start - reached) * (end - start) > 0


def _level(side: Columns, which: Callable[[Sequence[float]], float]) -> float:
    """The mean metric of the runs of the least or most FLOPs."""
    return fmean(metric for flops, metric in zip(*side, strict=True) if flops == which(side[0]))


def _clipped(found: Parity, least: float) -> Parity:
    return Parity(max(found.ratio, least), max(found.low, least), max(found.high, least), extrapolated=False)


def _inverse(found: Parity) -> Parity:
    return Parity(1 / found.ratio, 1 / found.high, 1 / found.low, extrapolated=False)


def _agrees(found: Parity | None, expected: Any, minimum_effect: float) -> bool | None:
    if found is None or found.extrapolated:
        return None
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
