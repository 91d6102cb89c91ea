"""`python -m tokbench.compare A B`: the difference of two runs or rows in every measure that both have.

A and B are each a record's file, the hash of a run, a tokenizer's name, or the label of a row as the tables print it.
Exit code 0: compared; 2: not found, or not comparable, in one line.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokbench.build import ROOT
from tokbench.names import hint, piped
from tokbench.records import RunRecord, read_records
from tokbench.report.comparison import Pair, pairs
from tokbench.report.formatting import heading, listed, markdown_table, number
from tokbench.report.groups import Group, group_records
from tokbench.report.rows import Row
from tokbench.report.view import LEVEL, View

OK, BAD_INPUT = 0, 2
HEADINGS = ["measure", "A", "B", "A - B", f"{LEVEL:.0%} interval", "separable", "seeds"]
Found = tuple[View, Row]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each group that has both; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tokbench.compare", description="Two runs or rows, measure by measure."
    )
    parser.add_argument("a", help="a record's file, a hash, a name or a row's label")
    parser.add_argument("b", help="the same")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of runs/ (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        views = [View(group, given.results / "runs") for group in _groups(given.results)]
        tables = list(compared(views, given.a, given.b))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    print("\n".join(tables))
    return OK


def compared(views: Sequence[View], a: str, b: str) -> Iterator[str]:
    """Markdown for each group with both; ValueError where there is none, or a name stands for several rows of one."""
    left, right = (find(views, name) for name in (a, b))
    stems = sorted(left.keys() & right.keys())
    if not stems:
        one, two = next(iter(left.values())), next(iter(right.values()))
        raise ValueError(f"{a} and {b} cannot be compared: {why_apart(one, two)}")
    for stem in stems:
        (view, mine), (_, others) = left[stem], right[stem]
        lines = [_line(pair) for pair in pairs(view, mine, others)]
        yield f"**{stem}**: A = {mine.label}, B = {others.label}\n"
        yield "\n".join([*markdown_table(HEADINGS, lines), ""])


def find(views: Sequence[View], name: str) -> dict[str, Found]:
    """The row that a name stands for, by the stem of each group in which it stands for one alone; ValueError where none does."""
    single = _single(views, name)
    if single is not None:
        return {single[0].group.stem: single}
    rows = {view: [r for r in view.rows if r.label == name] or _named(view, name) for view in views}
    if found := {view.group.stem: (view, own[0]) for view, own in rows.items() if len(own) == 1}:
        return found
    for view, own in rows.items():
        if own:
            labels = listed([row.label for row in own])
            raise ValueError(f"{name!r} is {len(own)} rows of {view.group.stem}, give a run's hash or one of: {labels}")
    known = {record.name for view in views for record in view.group.records}
    raise ValueError(
        f"no run, row or file {name!r}{hint(name, known)} (recorded: {', '.join(sorted(known)) or 'none'})"
    )


def _named(view: View, name: str) -> list[Row]:
    return [row for row in view.rows if row.records[0].name == name]


def _single(views: Sequence[View], name: str) -> Found | None:
    """The one run of a file or a hash."""
    wanted = Path(name).name
    for view in views:
        for record in view.group.records:
            if wanted == record.file_name or (re.fullmatch("[0-9a-f]{8}", name) and name == record.hash):
                return view, Row(f"{record.name} seed {record.seed} ({record.hash})", (record,))
    return None


def why_apart(a: Found, b: Found) -> str:
    """What keeps two rows out of one table, in one line: data, budget, what measured them."""
    one, two = a[1].records[0], b[1].records[0]
    checks = {
        "data": (one.data.name, two.data.name),
        "budget": (one.budget, two.budget),
        "images": (one.data.fingerprints, two.data.fingerprints),
    }
    for what, (left, right) in checks.items():
        if left != right:
            return f"{what} {_short(left)} and {_short(right)} differ"
    versions = [f"{k} {one.versions[k]} and {v}" for k, v in two.versions.items() if one.versions.get(k, v) != v]
    protocols = [k for k, m in two.metrics.items() if k in one.metrics and one.metrics[k].protocol != m.protocol]
    if versions or protocols:
        return f"they were measured in different ways: {', '.join(versions + protocols)}"
    return f"they stand in different tables, {a[0].group.stem} and {b[0].group.stem}"


def _short(value: object) -> str:
    return value if isinstance(value, str) else "of other fingerprints"


def _line(pair: Pair) -> list[str]:
    unit, gap = pair.a.unit, pair.difference
    values = [_value(summary.mean, summary.reason, unit) for summary in (pair.a, pair.b)]
    name = heading(pair.key, unit)
    if gap is None:
        return [name, *values, "NA", "NA", "NA", str(pair.seeds)]
    if math.isnan(gap.low):
        return [name, *values, number(gap.mean, unit), "NA (fewer than 2 seeds)", "NA", str(pair.seeds)]
    interval = f"{number(gap.low, unit)} to {number(gap.high, unit)}"
    verdict = f"no ({pair.noise})" if pair.noise else "yes" if gap.separable else "no"
    return [name, *values, number(gap.mean, unit), interval, verdict, str(pair.seeds)]


def _value(mean: float | None, reason: str | None, unit: str) -> str:
    return f"NA ({reason})" if mean is None else number(mean, unit)


def _groups(results: Path) -> list[Group]:
    runs = results / "runs"
    records: list[RunRecord] = read_records(runs) if runs.is_dir() else []
    groups = [group for group in group_records(records) if group.records]
    if not groups:
        raise ValueError(f"no records in {runs}")
    return groups


if __name__ == "__main__":
    sys.exit(piped(main))
