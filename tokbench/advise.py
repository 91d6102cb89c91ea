"""`python -m tokbench.advise --max-tokens 256 --max-decode-ms 5 --prefer generation`: which tokenizer, and how sure is it?

Exit code 0: advice was given; 1: no row is left to choose; 2: bad input.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokbench.build import ROOT
from tokbench.names import hint, one_of, piped
from tokbench.report.advice import FIXED, FLOPS, Advice, Cost, Limit, Option, Way, absence, advise, named
from tokbench.report.baselines import EXACTNESS, trivial
from tokbench.report.definitions import direction
from tokbench.report.experiments import pages_of
from tokbench.report.formatting import EMPTY, heading, markdown_table, number
from tokbench.report.main_fields import DISTANCES
from tokbench.report.rows import mean_of
from tokbench.report.view import View, read_views

OK, NONE, BAD_INPUT = 0, 1, 2
MOST_OPEN = 20  # pairs that cannot be decided, shown
BATCHED = (
    "an image, as its share of a training batch of the tokenizer (of budget cpu 64 images, of sweep 32, of gpu 128): one image"
    " alone, of which no time is recorded, takes longer"
)
NO_RATE = (
    "Continuous rows have no {} and pay in numbers, {}. No record says how many bits such a number is worth, so the two costs do"
    " not compare: no row is out for one that pays in the other."
)
TWO_DIGITS = "FLOPs that are the same rounded to two digits count as equal."
UNSETTLED = "Undecided are rows that are out by these numbers, though the runs are too few or too close to settle it:"
NO_BASELINE = "No baseline of it is recorded that a choice must beat."


@dataclass(frozen=True)
class Goal:
    """What is wanted and what it is paid with, as keys of records."""

    qualities: tuple[str, ...]  # the first that rows of a group have judges the group
    costs: tuple[Cost, ...]  # a row pays the first that it has


LATENCY = "common/cost/latency_seconds"
GOALS = {
    "reconstruction": Goal(("reconstruction/psnr_db",), (("bits/marginal_bits_per_image",), FIXED)),
    "generation": Goal(tuple(f"common/{key}" for _, key in DISTANCES), ((FLOPS,),)),
    "understanding": Goal(("common/understanding/caption_accuracy", EXACTNESS), (("bits/tokens",),)),
}
LIMITS: dict[str, tuple[str, Way, float, str]] = {  # option: key, which way is better, recorded unit / given unit, help
    "max_tokens": ("bits/tokens", "down", 1.0, "image tokens of an image"),
    "max_bits": ("bits/marginal_bits_per_image", "down", 1.0, "used bits of an image (marginal entropy)"),
    "max_encode_ms": ("cost/encode_seconds", "down", 1e-3, f"milliseconds to encode {BATCHED}"),
    "max_decode_ms": ("cost/decode_seconds", "down", 1e-3, f"milliseconds to decode {BATCHED}"),
    "max_latency_ms": (LATENCY, "down", 1e-3, "milliseconds to generate an image at batch 1"),
    "min_psnr_db": ("reconstruction/psnr_db", "up", 1.0, "PSNR of reconstruction"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the advice; the exit code."""
    given = _parser().parse_args(arguments)
    bounds = {name: bound for name in LIMITS if (bound := getattr(given, name)) is not None}
    for name, bound in bounds.items():
        if not 0 <= bound < math.inf:
            return _wrong(f"--{name.replace('_', '-')} must be finite and at least 0, got {bound}")
    goal = GOALS[given.prefer]
    if goal.costs == ((FLOPS,),) and "max_latency_ms" in bounds:
        goal = replace(goal, costs=((LATENCY,),))
    views = {view.group.stem: view for view in pages_of(read_views(given.results), given.results)[0]}
    if given.group is not None and given.group not in views:
        meant = hint(given.group, views)
        return _wrong(f"--group must be one of {', '.join(views) or 'none recorded'}, got {given.group!r}{meant}")
    measured = [view for view in views.values() if judge(view, goal) is not None]
    asked = [v for v in measured if (v.group.stem == given.group if given.group else v.group.experiment is None)]
    if not asked:
        needs = f"--prefer {given.prefer} needs runs that measure {' or '.join(goal.qualities)}"
        return _wrong(f"{needs}: none in {given.group or given.results}")
    view = max(asked, key=lambda view: (view.group.ranked, max(r.created for r in view.group.records)))
    if given.group is None and len(measured) > 1:
        others = ", ".join(other.group.stem for other in measured if other is not view)
        print(f"No --group given: this is {view.group.stem}, the newest page of a whole group; others: {others}.\n")
    limits = [Limit(key, way, bounds[name] * scale) for name, (key, way, scale, _) in LIMITS.items() if name in bounds]
    advice = decide(view, goal, limits)
    print("\n".join(render(view, given.prefer, goal, advice)))
    return OK if advice.choices else NONE


def judge(view: View, goal: Goal) -> str | None:
    """The first quality of the goal that a row of the group has; None where none has one."""
    return next((key for key in goal.qualities if any(mean_of(row, key) is not None for row in view.rows)), None)


def least(view: View, key: str) -> Limit | None:
    """The baseline that a choice must beat in the quality; None where none is recorded."""
    found = trivial(view, key)
    return None if found is None else Limit(key, "up" if direction(key) == "up" else "down", found.value, found.by)


def decide(view: View, goal: Goal, limits: Sequence[Limit]) -> Advice:
    """The advice of a group for a goal: also its baseline is a limit. ValueError where no row has a quality of the goal."""
    key = judge(view, goal)
    if key is None:
        raise ValueError(f"the group must measure {' or '.join(goal.qualities)}, got {view.group.stem} without")
    baseline = least(view, key)
    return advise(view, key, costs=goal.costs, limits=[*limits, *([baseline] if baseline else [])])


def render(view: View, prefer: str, goal: Goal, advice: Advice) -> list[str]:
    """Markdown: what judges, the rows to choose from, those that may be as well, why others are out, and how sure that is."""
    lines = [f"For {prefer}, on {view.group.stem}:", "", _judged(view, goal, advice), ""]
    chosen = [(option, "") for option in advice.choices]
    costs = [cost for cost in goal.costs if any(option.paid == cost for option, _ in (*chosen, *advice.undecided))]
    lines += _table(view, advice, costs, ["choose from"], chosen) if chosen else [_none(view, advice), ""]
    if advice.undecided:
        lines += [UNSETTLED, "", *_table(view, advice, costs, ["undecided", "because"], advice.undecided)]
    lines += [NO_RATE.format(*map(_cost_name, costs)), ""] if len(costs) > 1 else []
    lines += [TWO_DIGITS, ""] if (FLOPS,) in costs else []
    if advice.excluded:
        out = [list(item) for item in advice.excluded.items()]
        lines += [*markdown_table(["not", "because"], out, words=True), ""]
    if advice.open:
        more = len(advice.open) - MOST_OPEN
        rest = [f"- and {more} more"] if more > 0 else []
        return [*lines, "The records cannot decide:", "", *(f"- {why}" for why in advice.open[:MOST_OPEN]), *rest]
    return [*lines, *(["More seeds could not change the choice."] if chosen and not advice.undecided else [])]


def _table(
    view: View, advice: Advice, costs: Sequence[Cost], heads: Sequence[str], options: Sequence[tuple[Option, str]]
) -> list[str]:
    """Options with their quality, costs and seeds between the headings, the second of which is for what is told of each."""
    unit = view.units[advice.judged_by]
    paid = [heading(_cost_name(cost), view.units[cost[0]]) for cost in costs]
    lines = [
        [o.row.label, number(o.quality, unit), *(_paid(view, o, cost) for cost in costs), str(o.seeds), told]
        for o, told in options
    ]
    first, *last = heads
    names = [first, heading(named(advice.judged_by), unit), *paid, "seeds", *last]
    return [*markdown_table(names, [line[: len(names)] for line in lines]), ""]


def _cost_name(cost: Cost) -> str:
    return " x ".join(named(key) for key in cost)


def _none(view: View, advice: Advice) -> str:
    """Why nothing is advised."""
    baseline = least(view, advice.judged_by)
    if baseline and all(baseline.broken_by(row) for row in view.rows):
        return f"No row beats {baseline.told(view.units[advice.judged_by])}: nothing is advised."
    return "no row is left to choose:"


def _judged(view: View, goal: Goal, advice: Advice) -> str:
    """The measure of quality as its protocol says it, why it is not the first of the goal, and what a choice must beat."""
    key, first = advice.judged_by, goal.qualities[0]
    protocol = next(record.metrics[key].protocol for record in view.group.records if key in record.metrics)
    why = "" if key == first else f" No row has {first}: {absence(view.rows[0], first)}."
    better = "higher" if direction(key) == "up" else "lower"
    baseline = least(view, key)
    told = f"A choice must beat {baseline.told(view.units[key])}." if baseline else NO_BASELINE
    return f"Judged by {key} ({better} is better): {protocol}.{why} {told}"


def _paid(view: View, option: Option, cost: Cost) -> str:
    """What the option pays of one kind of cost; of another kind why it has none, or that it is not paid."""
    if option.paid == cost:
        return number(option.cost, view.units[cost[0]])
    return absence(option.row, cost[0]) or EMPTY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tokbench.advise", description="A tokenizer for a budget.")
    wants = f"what is wanted most: {', '.join(GOALS)}"
    parser.add_argument("--prefer", type=one_of(GOALS), metavar="WHAT", required=True, help=wants)
    parser.add_argument("--group", help="page of results/ to read, such as cifar10-32-cpu (default: the newest ranked)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of runs/ (default: %(default)s)")
    for name, (_, way, _, text) in LIMITS.items():
        bound = "at most so many" if way == "down" else "at least so much"
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help=f"{bound}: {text}")
    return parser


def _wrong(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(piped(main))
