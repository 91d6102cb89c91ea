"""`python -m tokbench.advise --max-tokens 256 --max-decode-ms 5 --prefer generation`: which tokenizer, and how sure is it?

Exit code 0: advice was given; 1: no row keeps the limits; 2: bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tokbench.build import ROOT
from tokbench.names import hint, one_of
from tokbench.report.advice import GOALS, Advice, Goal, Limit, advise
from tokbench.report.experiments import own_views, plain_views, read_experiments
from tokbench.report.formatting import heading, markdown_table, number
from tokbench.report.rows import summarize
from tokbench.report.view import View, read_views

OK, NONE, BAD_INPUT = 0, 1, 2
BATCHED = (
    "an image, as its share of a training batch of the tokenizer (of budget cpu 64 images, of sweep 32, of gpu 128): one image"
    " alone, of which no time is recorded, takes longer"
)
LIMITS = {  # option: key, which way is better, recorded unit / given unit, help
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
    goal = GOALS[given.prefer]
    every, experiments = read_views(given.results), read_experiments(given.results)
    paged = [*plain_views(every, experiments), *own_views(every, experiments)]
    views = {view.group.stem: view for view in paged if view.group.records}
    usual = [view for view in views.values() if view.group.experiment is None]
    measured = [view for view in usual if (found := summarize(view.group.records, goal.quality[0])) and found.seeds]
    if given.group is not None and given.group not in views:
        meant = hint(given.group, views)
        return _wrong(f"--group must be one of {', '.join(views) or 'none recorded'}, got {given.group!r}{meant}")
    if not measured:
        return _wrong(f"--prefer {given.prefer} needs runs that measure {goal.quality[0]}: none in {given.results}")
    ranked = sorted(measured, key=lambda view: (view.group.ranked, max(r.created for r in view.group.records)))
    view = views[given.group] if given.group else ranked[-1]
    limits = [
        Limit(key, way, getattr(given, name) * scale)  # type: ignore[arg-type]
        for name, (key, way, scale, _) in LIMITS.items()
        if getattr(given, name) is not None
    ]
    advice = advise(view, goal, limits)
    print("\n".join(render(view, given.prefer, goal, advice)))
    return OK if advice.choices else NONE


def render(view: View, prefer: str, goal: Goal, advice: Advice) -> list[str]:
    """Markdown: the rows to choose from, why the others are out, and how sure that is."""
    lines = [f"For {prefer}, on {view.group.stem}:", ""]
    if advice.choices:
        units = [_unit(view, key) for key, _ in (goal.quality, goal.cost)]
        names = [key.rpartition("/")[2].replace("_", " ") for key, _ in (goal.quality, goal.cost)]
        heads = ["choose from", *(heading(name, unit) for name, unit in zip(names, units, strict=True)), "seeds"]
        cells = [
            [o.row.label, number(o.quality, units[0]), number(o.cost, units[1]), str(o.seeds)] for o in advice.choices
        ]
        lines += [*markdown_table(heads, cells), ""]
    else:
        lines += ["no row keeps the limits.", ""]
    lines += markdown_table(["not", "because"], [list(item) for item in advice.excluded.items()], words=True)
    sure = "More seeds could not change the choice." if advice.choices else ""
    return [*lines, "", *([f"The records cannot decide: {why}." for why in advice.open] or [sure])]


def _unit(view: View, key: str) -> str:
    summary = summarize(view.group.records, key)
    return summary.unit if summary else ""


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
    sys.exit(main())
