"""Which rows a user with limits should look at: those that no other row beats, and what speaks against each of the others.

A row is paid for in used bits or, where it has none (continuous), in the numbers of its code, tokens x dim. No record says how
many bits such a number is worth: rows of the two kinds neither beat nor are beaten by each other, and both are choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal

import numpy as np

from tokbench.metrics.statistics import Difference, students_difference
from tokbench.report.definitions import direction
from tokbench.report.floors import FLOORS, noise_floor
from tokbench.report.formatting import heading, number, style
from tokbench.report.ranking import MIN_SEEDS, trained_on
from tokbench.report.rows import Row, mean_of, summarize, timed_in
from tokbench.report.rules import Expected, agrees, difference, ends
from tokbench.report.view import LEVEL, View

Way = Literal["up", "down"]
Cost = tuple[str, ...]  # measures whose product is paid; less is better
FIXED = ("bits/tokens", "bits/dim")  # by the configuration: the same in every seed
FLOPS = "common/cost/generation_flops_analytic"  # by shapes alone: the same in every seed and on every machine
DEMO = "the data are a demonstration and rank nothing"


@dataclass(frozen=True)
class Limit:
    """A bound on a measure, in the record's unit."""

    key: str
    way: Way  # "down": at most `bound`
    bound: float
    of: str = ""  # the baseline whose value it is, which is to be beaten; "" of a user's

    def broken_by(self, row: Row) -> str | None:
        """Why the row is out; None where it keeps the limit."""
        summary = summarize(row.records, self.key)
        if summary is None or summary.mean is None:
            return f"{named(self.key)} is {absence(row, self.key)}"
        inside = self.bound - summary.mean if self.way == "down" else summary.mean - self.bound
        if inside > 0 or (inside == 0 and not self.of):
            return None
        found, bound = (number(value, summary.unit) for value in (summary.mean, self.bound))
        than = ("no less" if self.of else "more") if self.way == "down" else ("no more" if self.of else "less")
        return f"{heading(named(self.key), summary.unit)} {found}, {than} than {bound}{self.of and f' of {self.of}'}"

    def unsettled(self, row: Row) -> str | None:
        """`against the limit (...): why` the row may be on the other side; None where it stays, or has no value."""
        measured = [m for r in row.records if (m := r.metrics.get(self.key)) and m.value is not None]
        if not measured:
            return None
        unit, gaps = measured[0].unit, np.array([m.value for m in measured]) - self.bound
        found = students_difference(gaps, level=LEVEL), len(gaps), unit
        why = _doubt([row], self.key, "below" if gaps.mean() <= 0 else "above", found)
        return f"against {self.told(unit)}: {why}" if why else None

    def told(self, unit: str) -> str:
        """`the limit (500 bits)`, `colour alone (28.5 %)`."""
        return f"{self.of or 'the limit'} ({number(self.bound, unit)} {style(unit).heading}".rstrip() + ")"


@dataclass(frozen=True)
class Option:
    """A row with a quality and a cost; better is larger in both of `signed`."""

    row: Row
    quality: float
    cost: float
    paid: Cost
    signed: tuple[float, float]  # of the FLOPs two digits: a few channels more in and out are no choice
    seeds: int  # that have the quality
    broken: Mapping[Limit, str]  # and why

    def beats(self, other: Option) -> bool:
        """Whether it is no worse in both, and better in one; never at costs of two kinds."""
        no_worse = all(a >= b for a, b in zip(self.signed, other.signed, strict=True))
        return self.paid == other.paid and self.signed != other.signed and no_worse


@dataclass(frozen=True)
class Advice:
    """What the records say to who must choose; options of best quality first."""

    judged_by: str  # key of the quality
    choices: tuple[Option, ...]  # no other row beats them
    undecided: tuple[tuple[Option, str], ...]  # out by the numbers, but why that is not settled
    excluded: Mapping[str, str]  # label of each other row to why it is out
    open: tuple[str, ...]  # what more seeds or timings could change among the choices


def advise(view: View, key: str, *, costs: Sequence[Cost], limits: Sequence[Limit]) -> Advice:
    """The Pareto set of the quality `key` and the first of the costs that a row has, among the rows that keep the limits."""
    options: list[Option] = []
    excluded: dict[str, str] = {}
    for row in view.rows:
        broken = {limit: why for limit in limits if (why := limit.broken_by(row)) is not None}
        option = _option(row, key, costs, broken)
        if option:
            options.append(option)
        else:
            excluded[row.label] = "; ".join(dict.fromkeys([*broken.values(), _unfit(row, key, costs)]))
    options.sort(key=lambda option: -option.signed[0])
    kept = [option for option in options if not option.broken]
    choices = [option for option in kept if not any(other.beats(option) for other in kept)]
    undecided = []
    for option in (option for option in options if option not in choices):
        over = [choice for choice in choices if choice.beats(option)]
        if why := _undecided(view, key, option, over):
            undecided.append((option, why))
        else:
            excluded[option.row.label] = "; ".join(option.broken.values()) or f"{over[0].row.label} is no worse in both"
    unsettled = [*_near_limits(limits, choices), *_near_each_other(view, key, choices)] if view.group.ranked else [DEMO]
    return Advice(key, tuple(choices), tuple(undecided), excluded, tuple(unsettled))


def _option(row: Row, key: str, costs: Sequence[Cost], broken: Mapping[Limit, str]) -> Option | None:
    """The row with its quality and cost; None where it lacks one, or learned from the features that judge it."""
    quality = summarize(row.records, key)
    paid = next((cost for cost in costs if all(mean_of(row, each) is not None for each in cost)), None)
    if quality is None or quality.mean is None or paid is None or trained_on(row, key):
        return None
    cost = prod(mean for each in paid if (mean := mean_of(row, each)) is not None)
    compared = float(f"{cost:.1e}") if paid == (FLOPS,) else cost
    signed = (quality.mean if direction(key) == "up" else -quality.mean, -compared)
    return Option(row, quality.mean, cost, paid, signed, quality.seeds, broken)


def _unfit(row: Row, key: str, costs: Sequence[Cost]) -> str:
    """Why a row makes no option."""
    if network := trained_on(row, key):
        return f"trained on {network}, whose features {named(key)} is a distance of"
    lacking = key if mean_of(row, key) is None else costs[0][0]
    return f"{named(lacking)} is {absence(row, lacking)}"


def _undecided(view: View, key: str, option: Option, over: Sequence[Option]) -> str | None:
    """Why a row that breaks limits, or is beaten by the choices `over`, may be one; None where one of these settles it."""
    doubts: list[str] = []
    for limit in option.broken:
        if (why := limit.unsettled(option.row)) is None:
            return None
        doubts.append(why)
    for choice in over:
        if (why := _unsettled(view, [key, *option.paid], choice, option)) is None:
            return None
        doubts.append(f"against {choice.row.label}: {why}")
    return doubts[0]


def _near_limits(limits: Sequence[Limit], choices: Sequence[Option]) -> Iterator[str]:
    """The choices that may break a limit."""
    for choice in choices:
        alone = sum(other.paid == choice.paid for other in choices) == 1
        told = choice.seeds < MIN_SEEDS and not alone  # against its neighbours
        found = (limit.unsettled(choice.row) for limit in limits if not (limit.of and told))
        yield from (f"{choice.row.label} {why}" for why in found if why)


def _near_each_other(view: View, key: str, choices: Sequence[Option]) -> Iterator[str]:
    """The pairs of choices whose order is not settled: each must be of better quality than the next of its kind of cost,
    which costs less.
    """
    for paid in dict.fromkeys(choice.paid for choice in choices):
        for best, next_best in pairwise(choice for choice in choices if choice.paid == paid):
            why = _unsettled(view, [key], best, next_best) or _unsettled(view, paid, next_best, best)
            if why is not None:
                yield f"{best.row.label} against {next_best.row.label}: {why}"


def _unsettled(view: View, keys: Sequence[str], best: Option, other: Option) -> str | None:
    """Why `best`, which is no worse by these measures, may not stay so; None where it is settled."""
    if not view.group.ranked:
        return DEMO
    rows = best.row, other.row
    for key in keys:
        expected: Expected = "above" if direction(key) == "up" else "below"
        why = _doubt(rows, key, expected, difference(view, *rows, key))
        floors = [floor for row in rows if (floor := noise_floor(row, key)) is not None]
        means = [mean for row in rows if (mean := mean_of(row, key)) is not None]
        if why is None and floors and max(means) - min(means) <= FLOORS * max(floors):
            why = f"{named(key)} apart by less than {FLOORS} noise floors"
        if why is not None:
            return why
    return None


def _doubt(rows: Sequence[Row], key: str, expected: Expected, found: tuple[Difference, int, str] | None) -> str | None:
    """Why a gap over seeds may not be as expected; None where it is, or is 0 in every seed."""
    if key in (*FIXED, FLOPS):
        return None
    if (places := len(timed_in(rows, [key]))) > 1:
        return f"{named(key)} of {places} settings, whose times do not compare"
    if found is None:
        return f"{named(key)} of no seed in common"
    gap, seeds, unit = found
    if seeds < MIN_SEEDS:
        return f"{named(key)} of {seeds} seed{'s' * (seeds > 1)}, fewer than {MIN_SEEDS}"
    if gap.low == gap.high == 0 or agrees(gap, expected, 0.0):
        return None
    how = "the reverse on the seeds in common" if gap.separable else "not separable"
    return f"{named(key)} {how} (interval {f'{ends(gap)} {unit}'.rstrip()})"


def named(key: str) -> str:
    """A measure as text: `psnr db`."""
    return key.rpartition("/")[2].replace("_", " ")


def absence(row: Row, key: str) -> str:
    """`NA (continuous)`: why a row has no value; "" where it has one."""
    found = summarize(row.records, key)
    if found is not None and found.mean is not None:
        return ""
    return f"NA ({found.reason if found else 'not measured'})"
