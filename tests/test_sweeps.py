"""What the runs of a sweep tell each other, and the terminal."""

import subprocess
import sys
from pathlib import Path

import pytest

from tokbench.run import _at_once, _grid_size
from tokbench.sweeps import BAD_INPUT, FAILED, HELD, OK, Ledger, Outcome, duration, failures, progress

WRITE = """
import sys
from pathlib import Path
from tokbench.sweeps import Ledger, Outcome
for number in range(50):
    Ledger(Path(sys.argv[1])).add(Outcome(0, overrides=f"{sys.argv[2]}-{number}", config={"text": "x" * 5000}))
"""


def outcome(number: int, code: int = OK, seconds: float = 60.0, error: str = "") -> Outcome:
    return Outcome(code, error, seconds if code == OK else 0.0, overrides=f"seed={number}", sweep=True)


def test_outcomes_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path / "out"), str(i)]) for i in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = Ledger(tmp_path / "out").read()
    assert {one.overrides for one in found} == {f"{i}-{n}" for i in range(3) for n in range(50)}


def test_a_run_looked_at_again_counts_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "out")
    assert ledger.read() == []
    for code in (HELD, OK):
        ledger.add(outcome(1, code))
    assert [one.code for one in ledger.read()] == [OK]


CUT = """
import resource, sys
from pathlib import Path
from tokbench.sweeps import Ledger, Outcome
ledger = Ledger(Path(sys.argv[1]))
ledger.add(Outcome(0, overrides="first"))
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
for name in ("second", "third"):
    ledger.add(Outcome(0, overrides=name, config={"text": "x" * 500}))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ledger.add(Outcome(1, overrides="fourth"))
"""


def test_a_full_disk_costs_lines_and_says_which(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CUT, str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert [one.overrides for one in Ledger(tmp_path / "out").read()] == ["first", "fourth"]
    assert [line.split(":")[0].split()[-1] for line in done.stderr.splitlines()] == ["second", "third"]


@pytest.mark.parametrize(
    ("outcomes", "total", "at_once", "line"),
    [
        ([outcome(1)], 5, 1, "1 of 5 runs done, at most about 4 min to go"),
        ([outcome(1), outcome(2)], 6, 2, "2 of 6 runs done, at most about 2 min to go"),
        ([outcome(1), outcome(2, FAILED)], 3, 1, "2 of 3 runs done, 1 failed, at most about 60 s to go"),
        ([outcome(1), outcome(2, HELD)], 2, 1, "1 of 2 runs done, 1 made by another process"),
        ([outcome(1, seconds=0.0)], 9, 1, "1 of 9 runs done"),  # recorded before: nothing to judge from
        ([outcome(1)], None, 1, "1 runs done"),
    ],
)
def test_progress_is_one_line(outcomes: list[Outcome], total: int | None, at_once: int, line: str) -> None:
    assert progress(outcomes, total=total, at_once=at_once) == line


def test_the_closing_list_names_each_failure_with_its_error() -> None:
    assert failures([outcome(1)]) == []
    found = failures([outcome(1), outcome(2, FAILED, error="Diverged: x"), outcome(3, BAD_INPUT, error="seed must be")])
    assert found == ["2 of 3 runs failed:", "  seed=2: Diverged: x", "  seed=3: seed must be"]


def test_an_error_that_runs_share_is_told_once() -> None:
    wrong = [outcome(number, BAD_INPUT, error="factor must be") for number in (1, 2)]
    assert failures(wrong) == ["2 of 2 runs failed:", "  2 runs: factor must be"]
    found = failures([wrong[0], outcome(3, FAILED, error="Diverged: x"), wrong[1]])
    told = ["  2 runs: factor must be", "    seed=1", "    seed=2", "  seed=3: Diverged: x"]
    assert found == ["3 of 3 runs failed:", *told]


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (11_100, "3 h 5 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("params", "words", "size"),
    [
        ({"quantizer": "fsq,vq,lfq"}, ["experiments=default"], 3),
        ({"quantizer": "fsq,vq,lfq"}, ["quantizer=vq", "seed=0,1"], 2),
        ({"seed": "0,1,2", "+quantizer.init": "uniform,kmeans", "+quantizer.ema_decay": "null,0.9,0.99"}, [], 18),
        (None, ["seed=range(4)"], 4),
        (None, ["budget.tokenizer.lr=interval(0,1)"], None),
    ],
)
def test_the_size_of_a_grid(params: dict[str, str] | None, words: list[str], size: int | None) -> None:
    assert _grid_size(params, words) == size


@pytest.mark.parametrize(("jobs", "wanted"), [(None, 1), (3, 3), (-10_000, 1)])
def test_runs_at_once(jobs: int | None, wanted: int) -> None:
    assert _at_once({"n_jobs": jobs}) == wanted
