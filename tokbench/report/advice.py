"""Which rows a user with limits should look at: those that no other row beats, and what speaks against each of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from tokbench.report.floors import FLOORS, noise_floor
from tokbench.report.formatting import heading, number
from tokbench.report.ranking import MIN_SEEDS
from tokbench.report.rows import Row, summarize
from tokbench.report.rules import difference
from tokbench.report.view import View

Way = Literal["up", "down"]


@dataclass(frozen=True)
class Goal:
    """What is wanted and what it is paid with: a record's key and which way is better, of each."""

    quality: tuple[str, Way]
    cost: tuple[str, Way]


GOALS: Mapping[str, Goal] = {
    "reconstruction": Goal(("reconstruction/psnr_db", "up"), ("bits/marginal_bits_per_image", "down")),
    "generation": Goal(("common/generation/fd_classifier", "down"), ("common/cost/latency_seconds", "down")),
    "understanding": Goal(("common/understanding/caption_accuracy", "up"), ("bits/tokens", "down")),
}


@dataclass(frozen=True)
class Limit:
    """A bound on a measure, in the record's unit."""

    key: str
    way: Way  # "down": at most `bound`
    bound: float

    def broken_by(self, row: Row) -> str | None:
        """Why the row is out; None where it keeps the limit."""
        summary = summarize(row.records, self.key)
        name = self.key.rpartition("/")[2].replace("_", " ")
        if summary is None or summary.mean is None:
            return f"{name} is NA ({summary.reason if summary else 'not measured'})"
        if (summary.mean <= self.bound) if self.way == "down" else (summary.mean >= self.bound):
            return None
        found, bound = (number(value, summary.unit) for value in (summary.mean, self.bound))
        return f"{heading(name, summary.unit)} {found}, {'more' if self.way == 'down' else 'less'} than {bound}"


@dataclass(frozen=True)
class Option:
    """A row that keeps the limits, with the two numbers of the goal; better is larger in both (`signed`)."""

    row: Row
    quality: float
    cost: float
    signed: tuple[float, float]
    seeds: int  # that have the quality

    def beats(self, other: Option) -> bool:
        return self.signed != other.signed and all(a >= b for a, b in zip(self.signed, other.signed, strict=True))


@dataclass(frozen=True)
class Advice:
    """The rows to choose from, best quality first; why each other row is out; what could change with more seeds."""

    choices: tuple[Option, ...]
    excluded: Mapping[str, str]
    open: tuple[str, ...]


def advise(view: View, goal: Goal, limits: Sequence[Limit]) -> Advice:
    """The Pareto set of quality and cost among the rows that keep the limits."""
    excluded: dict[str, str] = {}
    options: list[Option] = []
    for row in view.rows:
        broken = [why for limit in limits if (why := limit.broken_by(row)) is not None]
        option = _option(row, goal)
        if broken or option is None:
            excluded[row.label] = "; ".join(broken) or "quality or cost of the goal is NA"
        else:
            options.append(option)
    choices = [o for o in options if not any(other.beats(o) for other in options)]
    choices.sort(key=lambda option: -option.signed[0])
    for option in options:
        if option not in choices:
            best = max((o for o in choices if o.beats(option)), key=lambda o: o.signed[0])
            excluded[option.row.label] = f"{best.row.label} is no worse in both"
    return Advice(tuple(choices), excluded, tuple(_open(view, goal, options, choices)))


def _option(row: Row, goal: Goal) -> Option | None:
    quality, cost = (summarize(row.records, key) for key, _ in (goal.quality, goal.cost))
    if quality is None or quality.mean is None or cost is None or cost.mean is None:
        return None
    signs = [1.0 if way == "up" else -1.0 for _, way in (goal.quality, goal.cost)]
    return Option(row, quality.mean, cost.mean, (signs[0] * quality.mean, signs[1] * cost.mean), quality.seeds)


def _open(view: View, goal: Goal, options: Sequence[Option], choices: Sequence[Option]) -> list[str]:
    """What the records leave open, in words; nothing where more seeds could not change the choice.

    Each choice must be of better quality than the next, which costs less, and each row that is out than one that beats it.
    """
    if not view.group.ranked:
        return ["the data are a demonstration and rank nothing"]
    better = [([choice], other) for choice, other in pairwise(choices)]
    for option in options:
        if option not in choices:
            better.append(([choice for choice in choices if choice.beats(option)], option))
    found = []
    for over, option in better:
        why = [_undecided(view, goal, choice, option) for choice in over]
        if all(why):
            found.append(f"{over[0].row.label} against {option.row.label}: {why[0]}")
    return found


def _undecided(view: View, goal: Goal, best: Option, other: Option) -> str | None:
    """Why the quality of `best`, which is no worse, may not stay so; None where it is settled."""
    key, _ = goal.quality
    seeds = min(option.seeds for option in (best, other))
    if seeds < MIN_SEEDS:
        return f"{seeds} seed{'s' * (seeds > 1)}, fewer than {MIN_SEEDS}"
    gap = difference(view, best.row, other.row, key)
    if gap is None or math.isnan(gap[0].low):
        return "no two seeds in common"
    if not gap[0].separable:
        return f"not separable (interval {gap[0].low:+.3g} to {gap[0].high:+.3g} {gap[2]})".replace(" )", ")")
    floors = [floor for option in (best, other) if (floor := noise_floor(option.row, key)) is not None]
    if floors and abs(best.quality - other.quality) <= FLOORS * max(floors):
        return f"apart by less than {FLOORS} noise floors"
    return None
