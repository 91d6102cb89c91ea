"""`python -m tokbench.claims --hours 3`: run what the claims still miss, as long as there is time, and write their verdicts.

Exit code 0: every claim of the tier is decided or was given its runs; 1: a run failed; 2: bad input; 3: time ran out.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tokbench.build import ROOT
from tokbench.report.build import build_report
from tokbench.report.claims import TIERS, load_claims
from tokbench.report.ranking import MIN_SEEDS
from tokbench.report.verdicts import find_verdicts, summary
from tokbench.report.view import read_views

OK, FAILED, BAD_INPUT, OUT_OF_TIME = 0, 1, 2, 3
GRACE_SECONDS = 60  # of a sweep that was asked to stop


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, report and print the verdicts; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tokbench.claims", description="Runs and verdicts of the claims.")
    parser.add_argument("--hours", type=float, required=True, help="time for runs; 0: verdicts from what is recorded")
    parser.add_argument("--tier", choices=TIERS, default="cpu", help="experiments to run (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of runs/ (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", help="of every run, such as data.root=PATH")
    given = parser.parse_args(arguments)
    if not given.hours >= 0:
        print(f"error: --hours must be >= 0, got {given.hours:g}", file=sys.stderr)
        return BAD_INPUT
    deadline = time.monotonic() + 3600 * given.hours
    code = OK
    for experiment in missing(given.results, given.tier):
        if time.monotonic() >= deadline:
            code = max(code, OUT_OF_TIME)
            break
        print(f"{experiment}: {(deadline - time.monotonic()) / 3600:.1f} hours left", flush=True)
        code = max(code, run(experiment, [*given.overrides, f"results_dir={given.results}"], deadline))
    build_report(given.results)
    print("\n".join(summary(find_verdicts(read_views(given.results)))))
    return code


def missing(results: Path, tier: str) -> list[str]:
    """The experiments of a tier with a claim whose comparisons lack rows or seeds, in the order of the claims."""
    done: dict[tuple[str, str], bool] = {}
    for found in find_verdicts(read_views(results)):
        enough = all(finding is not None and finding.seeds >= MIN_SEEDS for finding in found.findings)
        key = (found.claim.experiment, found.claim.name)
        done[key] = done.get(key, False) or enough
    claims = [claim for claim in load_claims() if claim.tier == tier]
    return list(dict.fromkeys(c.experiment for c in claims if not done.get((c.experiment, c.name), False)))


def run(experiment: str, overrides: Sequence[str], deadline: float) -> int:
    """The exit code of a sweep; it is stopped at the deadline (`time.monotonic`) and goes on from there another time."""
    command = [sys.executable, "-m", "tokbench.run", "-m", f"experiments={experiment}", *overrides]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            return process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            return OUT_OF_TIME


if __name__ == "__main__":
    sys.exit(main())
