"""`python -m tokbench.advise --max-tokens 256 --max-decode-ms 5 --prefer generation`: which tokenizer, and how sure is it?

Exit code 0: advice was given; 1: no row is left to choose; 2: bad input.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokbench.build import ROOT
from tokbench.names import hint, one_of, piped
from tokbench.report.advice import FIXED, Advice, Cost, Limit, Option, Way, absence, advise, named
from tokbench.report.definitions import direction
from tokbench.report.experiments import own_views, plain_views, read_experiments
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


@dataclass(frozen=True)
class Goal:
    """What is wanted and what it is paid with, as keys of records."""

    qualities: tuple[str, ...]  # the first that rows of a group have judges the group
    costs: tuple[Cost, ...]  # a row pays the first that it has
    least: str = ""  # the baseline that a choice must be as good as


GOALS = {
    "reconstruction": Goal(
        ("reconstruction/psnr_db",), (("bits/marginal_bits_per_image",), FIXED), least="mean_colour"
    ),
    "generation": Goal(tuple(f"common/{key}" for _, key in DISTANCES), (("common/cost/latency_seconds",),)),
    "understanding": Goal(
        ("common/understanding/caption_accuracy", "common/understanding/caption_exactness"), (("bits/tokens",),)
    ),
}
LIMITS: dict[str, tuple[str, Way, float, str]] = {  # option: key, which way is better, recorded unit / given unit, help
    "max_tokens": ("bits/tokens", "down", 1.0, "image tokens of an image"),
    "max_bits": ("bits/marginal_bits_per_image", "down", 1.0, "used bits of an image (marginal entropy)"),
    "max_encode_ms": ("cost/encode_seconds", "down", 1e-3, f"milliseconds to encode {BATCHED}"),
    "max_decode_ms": ("cost/decode_seconds", "down", 1e-3, f"milliseconds to decode {BATCHED}"),
    "max_latency_ms": ("common/cost/latency_seconds", "down", 1e-3, "milliseconds to generate an image at batch 1"),
    "min_psnr_db": ("reconstruction/psnr_db", "up", 1.0, "PSNR of reconstruction"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the advice; the exit code."""
    given = _parser().parse_args(arguments)
    bounds = {name: bound for name in LIMITS if (bound := getattr(given, name)) is not None}
    for name, bound in bounds.items():
        if not 0 <= bound < math.inf:
            return _wrong(f"--{name.replace('_', '-')} must be finite and at least 0, got {bound}")
    goal, views = GOALS[given.prefer], _views(given.results)
    if given.group is not None and given.group not in views:
        meant = hint(given.group, views)
        return _wrong(f"--group must be one of {', '.join(views) or 'none recorded'}, got {given.group!r}{meant}")
    asked = [views[given.group]] if given.group else [v for v in views.values() if v.group.experiment is None]
    measured = [view for view in asked if judge(view, goal) is not None]
    if not measured:
        needs = f"--prefer {given.prefer} needs runs that measure {' or '.join(goal.qualities)}"
        return _wrong(f"{needs}: none in {given.group or given.results}")
    view = max(measured, key=lambda view: (view.group.ranked, max(r.created for r in view.group.records)))
    limits = [Limit(key, way, bounds[name] * scale) for name, (key, way, scale, _) in LIMITS.items() if name in bounds]
    advice = decide(view, goal, limits)
    print("\n".join(render(view, given.prefer, goal, advice)))
    return OK if advice.choices else NONE


def _views(results: Path) -> dict[str, View]:
    """The pages of the results, by name."""
    every, experiments = read_views(results), read_experiments(results)
    paged = [*plain_views(every, experiments), *own_views(every, experiments)]
    return {view.group.stem: view for view in paged if view.group.records}


def judge(view: View, goal: Goal) -> str | None:
    """The first quality of the goal that a row of the group has; None where none has one."""
    return next((key for key in goal.qualities if any(mean_of(row, key) is not None for row in view.rows)), None)


def decide(view: View, goal: Goal, limits: Sequence[Limit]) -> Advice:
    """The advice of a group for a goal: also its baseline is a limit. ValueError where no row has a quality of the goal."""
    key = judge(view, goal)
    if key is None:
        raise ValueError(f"the group must measure {' or '.join(goal.qualities)}, got {view.group.stem} without")
    found = view.baseline(goal.least, key) if goal.least else None
    if found is not None and found.mean is not None:
        way: Way = "up" if direction(key) == "up" else "down"
        limits = [*limits, Limit(key, way, found.mean, f"the {goal.least.replace('_', ' ')}")]
    return advise(view, key, costs=goal.costs, limits=limits)


def render(view: View, prefer: str, goal: Goal, advice: Advice) -> list[str]:
    """Markdown: what judges, the rows to choose from, why the others are out, and how sure that is."""
    lines = [f"For {prefer}, on {view.group.stem}:", "", _judged(view, goal, advice), ""]
    costs = [cost for cost in goal.costs if any(option.paid == cost for option in advice.choices)]
    if advice.choices:
        unit = view.units[advice.judged_by]
        names = [" x ".join(named(key) for key in cost) for cost in costs]
        units = [view.units[cost[0]] for cost in costs]
        paid = [heading(name, unit) for name, unit in zip(names, units, strict=True)]
        heads = ["choose from", heading(named(advice.judged_by), unit), *paid, "seeds"]
        cells = [
            [o.row.label, number(o.quality, unit), *(_paid(view, o, cost) for cost in costs), str(o.seeds)]
            for o in advice.choices
        ]
        lines += [*markdown_table(heads, cells), ""]
        if len(costs) > 1:
            lines += [NO_RATE.format(*names), ""]
    else:
        lines += ["no row is left to choose:", ""]
    if advice.excluded:
        out = [list(item) for item in advice.excluded.items()]
        lines += [*markdown_table(["not", "because"], out, words=True), ""]
    if advice.open:
        more = len(advice.open) - MOST_OPEN
        rest = [f"- and {more} more"] if more > 0 else []
        return [*lines, "The records cannot decide:", "", *(f"- {why}" for why in advice.open[:MOST_OPEN]), *rest]
    return [*lines, *(["More seeds could not change the choice."] if advice.choices else [])]


def _judged(view: View, goal: Goal, advice: Advice) -> str:
    """The measure of quality as its protocol says it, and why it is not the first of the goal."""
    key, first = advice.judged_by, goal.qualities[0]
    protocol = next(record.metrics[key].protocol for record in view.group.records if key in record.metrics)
    why = "" if key == first else f" No row has {first}: {absence(view.rows[0], first)}."
    better = "higher" if direction(key) == "up" else "lower"
    return f"Judged by {key} ({better} is better): {protocol}.{why}"


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
