"""What the runs of a sweep tell each other and the terminal, over all its processes: one line of JSON a run."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130
HELD = 75  # inside a sweep alone: another process makes the run, to be looked at again


@dataclass(frozen=True)
class Result:
    """How one run ended."""

    code: int
    error: str = ""  # one line; "" where there is none
    seconds: float = 0.0  # of work that led to a record
    record: str = ""  # the file of the record that there is


@dataclass(frozen=True)
class Outcome(Result):
    """The same, with the run."""

    overrides: str = ""  # what makes it this one of the sweep
    sweep: bool = False
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ledger:
    """The outcomes so far, in a file that every process of the sweep appends to."""

    path: Path

    def add(self, outcome: Outcome) -> None:
        """One write to the end of the file: lines of several processes do not mix, and one that was cut spoils no other.

        Where there is no room it says so: the runs and their records need no such line.
        """
        line = f"\n{json.dumps(asdict(outcome))}\n".encode()
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.write(handle, line) < len(line):
                raise OSError(errno.ENOSPC, "no room for a whole line")
        except OSError as error:
            print(f"[sweep] the list at the end will lack {outcome.overrides}: {error}", file=sys.stderr, flush=True)
        finally:
            os.close(handle)

    def read(self) -> list[Outcome]:
        """In the order they ended; of a run that was looked at again the last. Lines that were cut are left out."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        whole = (line for line in lines if line.startswith("{") and line.endswith("}"))
        return list({found.overrides: found for found in (Outcome(**json.loads(line)) for line in whole)}.values())


def progress(outcomes: Sequence[Outcome], *, total: int | None, at_once: int) -> str:
    """One line: how many runs of the sweep are done, how many failed, and how long the rest takes if none is recorded."""
    done = [outcome for outcome in outcomes if outcome.code != HELD]
    failed = sum(outcome.code != OK for outcome in done)
    parts = [f"{len(done)}{'' if total is None else f' of {total}'} runs done"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{held} made by another process"] if (held := len(outcomes) - len(done)) else []
    worked = [outcome.seconds for outcome in done if outcome.seconds]
    if total is not None and worked and total > len(outcomes):
        left = fmean(worked) * (total - len(outcomes)) / max(1, min(at_once, total - len(outcomes)))
        parts.append(f"at most about {duration(left)} to go")
    return ", ".join(parts)


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """The closing list: the first line of each error with the runs that failed by it; [] where all went well.

    An error of several runs is told once with their number, and with their names where it is not that of all.
    """
    failed = [outcome for outcome in outcomes if outcome.code != OK]
    lines = [f"{len(failed)} of {len(outcomes)} runs failed:"] if failed else []
    for error in dict.fromkeys(outcome.error for outcome in failed):
        runs = [outcome.overrides for outcome in failed if outcome.error == error]
        if len(runs) == 1:
            lines.append(f"  {runs[0]}: {error}")
        else:
            lines.append(f"  {len(runs)} runs: {error}")
            lines += [f"    {run}" for run in runs if len(runs) < len(outcomes)]
    return lines


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
