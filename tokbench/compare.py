"""`python -m tokbench.compare A B`: the difference of two runs or rows in every measure that both have.

A and B are each a record's file, the hash of a run, a tokenizer's name, or the label of a row as the pages print it.
Exit code 0: compared; 2: not found, or not comparable, in one line.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tokbench.build import ROOT
from tokbench.names import hint, piped
from tokbench.report.comparison import HEADINGS, cells, pairs
from tokbench.report.experiments import pages_of
from tokbench.report.formatting import listed, markdown_table
from tokbench.report.rows import Row
from tokbench.report.view import View, read_views

OK, BAD_INPUT = 0, 2
READING = (
    "An arrow shows which way is better; a measure without one has no verdict. `images only` or `2 seeds only`: separable on"
    " these runs, but of fewer than the three seeds that a ranking takes.\n"
)
Found = Mapping[View, list[Row]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each page that has both; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tokbench.compare", description="Two runs or rows, measure by measure."
    )
    parser.add_argument("a", help="a record's file, a hash, a name or a row's label")
    parser.add_argument("b", help="the same")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of runs/ (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        groups = [view for view in read_views(given.results) if view.group.records]
        if not groups:
            raise ValueError(f"no records in {given.results / 'runs'}")
        lines = list(compared(groups, pages_of(groups, given.results)[0], given.a, given.b))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    print("\n".join(lines))
    return OK


def compared(groups: Sequence[View], pages: Sequence[View], a: str, b: str) -> Iterator[str]:
    """Markdown for each page with one row of both, those that never rank last, and a line for each that is left out.

    ValueError where no page has one row of both.
    """
    left, right = (find(groups, pages, name) for name in (a, b))
    there = sorted(left.keys() & right.keys(), key=_order)
    single = [view for view in there if len(left[view]) == len(right[view]) == 1]
    several = [_several(view, a, b, left, right) for view in there if view not in single]
    if not single:
        why = several[0] if several else why_apart(next(iter(left.items())), next(iter(right.items())))
        raise ValueError(f"{a} and {b} cannot be compared: {why}")
    tables: dict[tuple[str, ...], View] = {}
    for view in single:
        tables.setdefault(_runs(left[view][0], right[view][0]), view)  # two single runs are on many pages
    yield from (_table(view, left[view][0], right[view][0]) for view in tables.values())
    yield READING
    alone = [(name, own.keys() - other.keys()) for name, own, other in ((b, left, right), (a, right, left))]
    rest = [f"no {name!r} on {', '.join(sorted(v.group.stem for v in views))}" for name, views in alone if views]
    yield from (["Left out:\n", *(f"- {why}" for why in (*several, *rest))] if several or rest else [])


def _order(view: View) -> tuple[bool, bool, str]:
    return not view.group.ranked, view.group.experiment is not None, view.group.stem


def _runs(*rows: Row) -> tuple[str, ...]:
    return tuple(record.file_name for row in rows for record in row.records)


def _table(view: View, a: Row, b: Row) -> str:
    ranked = view.group.ranked
    title = f"**{view.group.stem}**{'' if ranked else ' (demo, never ranks)'}: A = {a.label}, B = {b.label}"
    lines = markdown_table(HEADINGS, [cells(pair, ranked=ranked) for pair in pairs(view, a, b)])
    return "\n".join([title, "", *lines, ""])


def _several(view: View, a: str, b: str, left: Found, right: Found) -> str:
    """Which of the names stands for several rows of a page, and their labels."""
    name, rows = (a, left[view]) if len(left[view]) > 1 else (b, right[view])
    return f"{name!r} is {len(rows)} rows of {view.group.stem}: {listed([row.label for row in rows])}"


def find(groups: Sequence[View], pages: Sequence[View], name: str) -> Found:
    """The rows that a name stands for on each page; a single run on each of its group's. ValueError where there is none."""
    for whole in groups:
        if (run := _single(whole, name)) is not None:
            return {view: [run] for view in (whole, *pages) if view.group.home == whole.group.stem}
    found = {view: [r for r in view.rows if r.label == name] or _named(view, name) for view in pages}
    if any(found.values()):
        return {view: rows for view, rows in found.items() if rows}
    names = {record.name for view in groups for record in view.group.records}
    meant = hint(name, names | {row.label for view in pages for row in view.rows})
    raise ValueError(f"no run, row or file {name!r}{meant} (recorded: {', '.join(sorted(names))})")


def _named(view: View, name: str) -> list[Row]:
    return [row for row in view.rows if row.records[0].name == name]


def _single(whole: View, name: str) -> Row | None:
    """The one run of a file or a hash."""
    wanted = Path(name).name
    for record in whole.group.records:
        if wanted == record.file_name or (re.fullmatch("[0-9a-f]{8}", name) and name == record.hash):
            return Row(f"{record.name} seed {record.seed} ({record.hash})", (record,))
    return None


def why_apart(a: tuple[View, list[Row]], b: tuple[View, list[Row]]) -> str:
    """What keeps two rows out of one table, in one line: data, budget, what measured them."""
    one, two = a[1][0].records[0], b[1][0].records[0]
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


if __name__ == "__main__":
    sys.exit(piped(main))
