"""Sweeps that are killed, or started twice at once: the same records as one that was left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tokbench import build
from tokbench.records import RunRecord, read_records
from tokbench.run import FAILED

DRIVER = Path(__file__).with_name("sweep_driver.py")
TIMED = ("seconds", "throughput", "peak_memory")
RUNS = ["-m", "budget=smoke", "quantizer=fsq,vq_tuned,continuous_4"]


def drive(folder: Path, *words: str, kills: int = 0, at_once: int = 0, seed: int = 0) -> dict[str, Any]:
    plan = {"folder": str(folder), "words": [*RUNS, *words], "kills": kills, "at_once": at_once, "seed": seed}
    text = json.dumps(plan | {"checkpoint_seconds": 0.1})
    env = os.environ | {"PYTHONPATH": str(build.ROOT)}
    done = subprocess.run([sys.executable, DRIVER], input=text, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def content(record: RunRecord) -> dict[str, Any]:
    """All of a record but what time and the machine's state give it."""
    kept = record.model_dump(exclude={"created", "seconds", "environment"})
    kept["metrics"] = {k: m for k, m in kept["metrics"].items() if not any(word in k for word in TIMED)}
    return kept


def assert_same(one: Path, two: Path) -> None:
    first, second = (read_records(folder / "runs") for folder in (one, two))
    assert len(first) == 3
    assert [content(record) for record in first] == [content(record) for record in second]
    pages = [{path.name for path in folder.iterdir()} for folder in (one, two)]
    assert pages[0] == pages[1]
    assert {path.name for path in (two / "runs").iterdir()} == {path.name for path in (one / "runs").iterdir()}
    left = [path for path in two.rglob(".*") if path.suffix == ".tmp"]
    assert not left, "what killed writers left must be gone"
    assert not list((two / "cache" / "checkpoints").glob("*"))


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sweeps")
    return folder, drive(folder, "stage=tokenizer", "budget.tokenizer.steps=20", kills=2, at_once=2)


def test_a_sweep_killed_twice_ends_as_one_left_alone(driven: tuple[Path, dict[str, Any]]) -> None:
    folder, found = driven
    assert found["whole"] == found["last"] == 0
    assert found["cuts"] == [-9, -9]
    assert found["again"] == [], "a finished run must not be done again"
    assert_same(folder / "whole", folder / "cut")


def test_two_sweeps_at_once_do_each_run_once(driven: tuple[Path, dict[str, Any]]) -> None:
    folder, found = driven
    assert found["both"] == [0, 0]
    outputs = [(folder / f"both{number}.txt").read_text() for number in range(2)]
    assert sum(output.count("] recorded: ") for output in outputs) == 3
    assert sum(output.count("] recorded before: ") for output in outputs) == 3
    assert any("is being made by process" in output for output in outputs)
    assert all("Traceback" not in output for output in outputs)
    assert_same(folder / "whole", folder / "both")


@pytest.mark.slow
def test_a_sweep_killed_twenty_times_ends_as_one_left_alone(tmp_path: Path) -> None:
    found = drive(tmp_path, "budget.tokenizer.steps=100", "budget.backbone.steps=40", kills=20, seed=1)
    assert found["whole"] == found["last"] == 0
    assert found["again"] == []
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_several_processes_report_back_and_take_no_timings(tmp_path: Path) -> None:
    words = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "tokenizer.factor=4,5", "stage=tokenizer"]
    places = ["budget=smoke", f"results_dir={tmp_path}", f"cache_dir={tmp_path / 'cache'}"]
    command = [sys.executable, "-m", "tokbench.run", *words, *places]
    done = subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == FAILED
    assert "1 of 2 runs failed:\n  tokenizer.factor=5" in done.stderr
    assert "[sweep] 2 of 2 runs done, 1 failed" in done.stdout
    assert "| fsq" in done.stdout, "the closing report is of all processes' runs"
    (record,) = read_records(tmp_path / "runs")
    assert record.environment["runs_at_once"] == 2
    assert record.environment["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)
    assert record.metrics["cost/encode_seconds"].reason == "2 runs at once"


def test_the_runs_of_a_sweep_stand_together_in_wandb() -> None:
    for words, group in ((["experiment=codebook_size"], "codebook_size"), ([], None)):
        config = build.compose(["logger=wandb", "logger.offline=true", *words])
        logger = build.construct(config["logger"], name="fsq-s0")
        assert logger._wandb_init["group"] == group
        assert logger._wandb_init["name"] == "fsq-s0"
