"""`python -m tokbench.claims --hours 3`: run what the claims still miss, as long as there is time, and write their verdicts.

Exit code 0: every claim of the tier is decided or was given its runs, but for those on a folder of the user's, whose command
is told; 1: a run failed; 2: bad input, or a folder or disk
that cannot be written; 3: time ran out, of which there was any.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokbench.build import ROOT
from tokbench.names import hint, misspelt, one_of
from tokbench.report.build import build_report
from tokbench.report.claims import EXPERIMENTS, TIERS, TOYS, Claim, load_claims
from tokbench.report.ranking import MIN_SEEDS
from tokbench.report.toys import toy_views
from tokbench.report.unwritten import say_unwritten
from tokbench.report.verdicts import find_verdicts, fullest, summary
from tokbench.report.view import View, read_views
from tokbench.sweeps import duration

OK, FAILED, BAD_INPUT, OUT_OF_TIME = 0, 1, 2, 3
GRACE_SECONDS = 60  # of a sweep that was asked to stop


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, report and print the verdicts; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tokbench.claims", description="Runs and verdicts of the claims.")
    parser.add_argument("--hours", type=float, required=True, help="time for runs; 0: verdicts from what is recorded")
    tiers = f"experiments to run: {', '.join(TIERS)} (default: %(default)s)"
    parser.add_argument("--tier", type=one_of(TIERS), metavar="TIER", default="cpu", help=tiers)
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of runs/ (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", help="of every run, such as data.root=PATH")
    given = parser.parse_args(arguments)
    if not given.hours >= 0:
        return _wrong(f"--hours must be >= 0, got {given.hours:g}")
    if wrong := [*_no_settings(given.overrides), *misspelt(given.overrides)]:
        return _wrong("; ".join(wrong))
    deadline = time.monotonic() + 3600 * given.hours
    code, wanted = OK, missing(given.results, given.tier)
    print(*plan(wanted, given.hours), sep="\n", flush=True)
    for need in wanted if given.hours else ():
        if time.monotonic() >= deadline:
            code = max(code, OUT_OF_TIME)
            break
        if _own_folder(need.experiment):
            print(f"{need.experiment}: left out, as it needs images: `{need.command} ARGS=data.root=PATH`", flush=True)
            continue
        print(f"{need.experiment}: {(deadline - time.monotonic()) / 3600:.1f} hours left", flush=True)
        code = max(code, run(need, [*given.overrides, f"results_dir={given.results}"], deadline))
    try:
        build_report(given.results)
    except OSError as error:
        code = say_unwritten(given.results, error)
    print("\n".join(summary(fullest(find_verdicts(_views(given.results))))))
    return code


def _wrong(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return BAD_INPUT


def _no_settings(words: Sequence[str]) -> Iterator[str]:
    """A line for each word that sets nothing, such as the name of a claim, of which experiments run all."""
    known = {claim.name.split(",")[0]: claim for claim in load_claims()}
    for word in words:
        if "=" not in word:
            meant = f"; {word} is run by `{known[word].command}`" if word in known else hint(word, known)
            yield f"what follows the options must be key=value, got {word!r}{meant}"


@dataclass(frozen=True)
class Need:
    """An experiment with claims that lack rows or seeds, and the minutes that what lacks takes on two quiet cores."""

    experiment: str
    claims: tuple[str, ...]
    minutes: float
    command: str


def missing(results: Path, tier: str) -> list[Need]:
    """The experiments of a tier that a claim still lacks runs of, those of the fewest minutes first."""
    shares: dict[str, float] = {}
    for found in find_verdicts(_views(results)):
        done = sum(finding is not None and finding.seeds >= MIN_SEEDS for finding in found.findings)
        shares[found.claim.name] = max(shares.get(found.claim.name, 0.0), done / len(found.findings))
    lacking: dict[str, list[Claim]] = defaultdict(list)
    for claim in load_claims():
        if claim.tier == tier and shares.get(claim.name, 0.0) < 1:
            lacking[claim.experiment].append(claim)
    needs = [_need(claims, shares) for claims in lacking.values()]
    return sorted(needs, key=lambda need: need.minutes)


def _need(claims: Sequence[Claim], shares: Mapping[str, float]) -> Need:
    """Of the claims of one experiment; the share of it that lacks is that of their comparisons, at most."""
    least = min(shares.get(claim.name, 0.0) for claim in claims)
    first = claims[0]
    names = tuple(claim.name for claim in claims)
    return Need(first.experiment, names, first.minutes * (1 - least), first.command)


def plan(needs: Sequence[Need], hours: float) -> list[str]:
    """What will be run in so many hours, and what will not, a line each."""
    if not needs:
        return ["no claim of the tier lacks runs"]
    total = sum(need.minutes for need in needs if not _own_folder(need.experiment))
    lines = [f"{len(needs)} experiments lack runs: about {duration(60 * total)} on two quiet cores, the shortest first"]
    end = 0.0
    for need in needs:
        own = _own_folder(need.experiment)
        start, end = end, end + need.minutes * (not own)
        when = "not in this time" if start >= 60 * hours else "in part" if end > 60 * hours else "whole"
        when = "needs images" if own else when
        names = "; ".join(need.claims)
        lines.append(f"  about {duration(60 * need.minutes):>10}  {when:<16}  {need.experiment}: {names}")
    return lines


def run(need: Need, overrides: Sequence[str], deadline: float) -> int:
    """The exit code of the experiment's command, which is stopped at the deadline and goes on from there another time."""
    sweep = ["tokbench.run", "-m", f"experiments={need.experiment}", "reuse=anywhere"]
    module = ["tokbench.toys"] if need.command == TOYS else sweep
    command = [sys.executable, "-m", *module, *(word for word in overrides if _taken(word, need))]
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


def _taken(override: str, need: Need) -> bool:
    """Whether the experiment's runs can take it: a folder of data is for data that lie in one."""
    return not override.startswith("data.root=") or (need.command != TOYS and "\nroot:" in _data(need.experiment))


def _own_folder(experiment: str) -> bool:
    """Whether its images are in a folder that only the user can name."""
    return "\nroot: ???" in _data(experiment)


def _data(experiment: str) -> str:
    """The conf of the experiment's data, of photos where it names none."""
    path = EXPERIMENTS / f"{experiment}.yaml"
    found = re.search(r"override /data: (\w+)", path.read_text()) if path.exists() else None
    return (ROOT / "conf" / "data" / f"{found.group(1) if found else 'photos'}.yaml").read_text()


def _views(results: Path) -> list[View]:
    return [*read_views(results), *toy_views(results)]


if __name__ == "__main__":
    sys.exit(main())
