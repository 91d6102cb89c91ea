"""`python -m tokbench.report`: write the tables and pictures, and print the headline."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tokbench.report.build import build_from_views, update_readme
from tokbench.report.headline import headline
from tokbench.report.unwritten import say_unwritten

RESULTS = Path(__file__).resolve().parents[2] / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 where there is no record to report, or the report cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m tokbench.report", description="Tables from run records.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with runs/ in it (default: %(default)s)")
    parser.add_argument(
        "--allow-mixed",
        action="store_true",
        help="also pages that mix protocols or data, with a warning column, unranked",
    )
    given = parser.parse_args(arguments)
    try:
        return _report(given.results, mixed=given.allow_mixed)
    except OSError as error:
        return say_unwritten(given.results, error)


def _report(results: Path, *, mixed: bool) -> int:
    paths, views, verdicts = build_from_views(results, mixed=mixed)
    if not paths:
        print(f"no records in {results / 'runs'}: run `python -m tokbench.run` or `make sweep` first", file=sys.stderr)
        return 2
    readme = RESULTS.parent / "README.md"
    if results.resolve() == RESULTS and update_readme(readme, results, views, verdicts):
        paths.append(readme)
    for path in paths:
        print(f"wrote {path}")
    print(f"\n{headline(views)}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
