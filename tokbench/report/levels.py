"""The rules on each row by itself: what a measure is, in every seed, against a level or against another of the row's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tokbench.metrics.statistics import students_difference
from tokbench.report.floors import within_floors
from tokbench.report.information import held_bits_per_subpixel
from tokbench.report.ranking import MIN_SEEDS
from tokbench.report.rows import Row, mean_of
from tokbench.report.rules import Finding, ends, find_row
from tokbench.report.view import LEVEL, View

TOKENS = "bits/tokens"
ALIKE = "no continuous latent of as many tokens keeps more"


def levels(
    view: View, measure: str, minimum_effect: float, *, sides: Sequence[str | Mapping[str, Any]], level: float
) -> list[Finding | None]:
    """Whether `measure` of each side is at `level` in every seed, to less than what counts."""
    rows = [find_row(view, side) for side in sides]
    return [
        None if row is None else _level(row, measure, level, f"{level:g}", lambda v: abs(v - level) < minimum_effect)
        for row in rows
    ]


def at_most(
    view: View, measure: str, minimum_effect: float, *, sides: Sequence[str | Mapping[str, Any]], level: float
) -> list[Finding | None]:
    """Whether `measure` of each side stays below `level` by what counts in every seed."""
    rows = [find_row(view, side) for side in sides]
    most = level - minimum_effect
    return [
        None if row is None else _level(row, measure, level, f"below {level:g}", lambda v: v <= most) for row in rows
    ]


def at_least(
    view: View, measure: str, minimum_effect: float, *, sides: Sequence[str | Mapping[str, Any]], level: float
) -> list[Finding | None]:
    """Whether `measure` of each side stays above `level` by what counts in every seed."""
    rows = [find_row(view, side) for side in sides]
    least = level + minimum_effect
    return [
        None if row is None else _level(row, measure, level, f"above {level:g}", lambda v: v >= least) for row in rows
    ]


def carried(
    view: View, measure: str, minimum_effect: float, *, sides: Sequence[str | Mapping[str, Any]], level: float
) -> list[Finding | None]:
    """Whether `measure`, bits a pixel, of each side is below `level` of what the images hold, by what counts, in every seed."""
    held = held_bits_per_subpixel(view)
    rows = [find_row(view, side) if held else None for side in sides]
    scale, most = 1 / (3 * held[0]) if held else 1.0, level - minimum_effect
    return [
        None if row is None else _level(row, measure, level, f"below {level:g}", lambda v: v <= most, scale=scale)
        for row in rows
    ]


def collapse(
    view: View,
    measure: str,
    minimum_effect: float,
    *,
    has: str,
    needs: str,
    above: bool = False,
    control: Sequence[str] = (),
) -> list[Finding | None]:
    """Whether `measure` has fallen from 1 by what counts in every seed of each row whose `has` is below its `needs`.

    `above`: of each row whose `has` reaches its `needs`, whether it has not. `control`: names one of which, with as many tokens,
    must not have fallen, or the row decides nothing: it may be something else than bits that it lacks.
    """
    pairs = [(row, mean_of(row, has), mean_of(row, needs)) for row in view.rows]
    known = [(row, own >= least) for row, own, least in pairs if own is not None and least is not None]
    level = 1 - minimum_effect
    told, holds = ("above", lambda v: v > level) if above else ("at most", lambda v: v <= level)
    found = [(row, _level(row, measure, 1.0, f"{told} {level:g}", holds)) for row, reached in known if reached is above]
    if control:
        controls = [row for row in view.rows if row.records[0].name in control]
        kept = {mean_of(row, TOKENS) for row in controls if (mean_of(row, measure) or 0.0) > level}
        found = [(row, one if one is None or mean_of(row, TOKENS) in kept else _open(one)) for row, one in found]
    return [one for _, one in found] or [None]


def _open(finding: Finding) -> Finding:
    return replace(finding, agrees=None, why=ALIKE)


def enough(
    view: View, measure: str, minimum_effect: float, *, rows: Sequence[Mapping[str, Any]]
) -> list[Finding | None]:
    """Whether the measure `few` of each of the `rows` is at most `minimum_effect` percent above the row's own `measure`, or
    above the measure `many` that it names.
    """
    return [_enough(view, measure, minimum_effect, side) for side in rows]


def _enough(view: View, measure: str, most: float, side: Mapping[str, Any]) -> Finding | None:
    row = find_row(view, side["row"])
    if row is None:
        return None
    keys = side["few"], side.get("many", measure)
    pairs = [[r.metrics.get(key) for key in keys] for r in row.records]
    values = [(few.value, many.value) for few, many in pairs if few and many and few.value is not None and many.value]
    if not values:
        return None
    few, many = np.array(values, dtype=float).T
    gap = students_difference(100 * (few - many) / many, level=LEVEL)
    agreed = True if gap.high <= most else False if gap.low > most else None
    decided = len(values) >= MIN_SEEDS
    sides = [(row, key) for key in keys]
    noise = within_floors(sides, float((few - many).mean()), most / 100 * many.mean()) if decided else None
    return Finding(
        label=side["label"],
        expected=f"at most {most:g} % above",
        effect=f"{gap.mean:+.3g}",
        interval=ends(gap),
        unit="%",
        seeds=len(values),
        agrees=agreed if decided and noise is None else None,
        amount=gap.mean,
        why=noise,
    )


def _level(
    row: Row, measure: str, level: float, expected: str, holds: Callable[[float], bool], *, scale: float = 1.0
) -> Finding | None:
    measures = [r.metrics.get(measure) for r in row.records]
    values = [scale * m.value for m in measures if m is not None and m.value is not None]
    if not values:
        return None
    votes = {holds(value) for value in values}
    return Finding(
        label=row.label,
        expected=expected,
        effect=f"{np.mean(values) - level:+.3g}",
        interval=f"{min(values) - level:+.3g} to {max(values) - level:+.3g} (all seeds)",
        unit="",
        seeds=len(values),
        agrees=votes.pop() if len(values) >= MIN_SEEDS and len(votes) == 1 else None,
        amount=float(np.mean(values)) - level,
    )
