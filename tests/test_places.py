"""What a machine lacks is said in one line, before a run starts, with exit code 2."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokbench import build, places
from tokbench.run import BAD_INPUT, main

LIMITED = """
import resource, sys
from tokbench import run, timing
timing.BUSY_CORES = float("inf")
for limit in (200_000, 10_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    print(run.main())
"""


def start(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tokbench.run", *words, "budget=smoke", "stage=tokenizer"])
    return main()


@pytest.mark.parametrize("key", ["results_dir", "cache_dir"])
@pytest.mark.parametrize("sweep", [[], ["-m", "quantizer=fsq,vq"]], ids=["run", "sweep"])
def test_a_folder_that_cannot_be_written_is_one_line(
    monkeypatch, capfd, tmp_path: Path, key: str, sweep: list[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    where = {"results_dir": tmp_path / "results", "cache_dir": tmp_path / "cache"} | {key: tmp_path / "file" / "inner"}
    words = [f"{name}={path}" for name, path in where.items()]
    if sweep and key == "cache_dir":  # Hydra itself writes there
        words.append(f"hydra.sweep.dir={tmp_path / 'hydra'}")
    assert start(monkeypatch, *sweep, *words) == BAD_INPUT
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert not logging.getLogger("tokbench.records").disabled  # what it warns of is still said
    assert f"{key} must be a folder that can be written, got {tmp_path / 'file' / 'inner'}: Not a directory" in lines[0]


def test_a_full_disk_is_one_line_and_leaves_nothing_half(tmp_path: Path) -> None:
    """A limit on the size of files fails writes as a full disk does: where the judge is to be kept, and at once."""
    words = ["budget=smoke", "stage=tokenizer", f"results_dir={tmp_path}", f"cache_dir={tmp_path / 'cache'}"]
    command = [sys.executable, "-c", LIMITED, *words]
    done = subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True, check=False)
    assert [int(line) for line in done.stdout.splitlines() if line.isdigit()] == [BAD_INPUT, BAD_INPUT]
    first, second = done.stderr.splitlines()
    assert first.startswith("error: fsq s0: cannot write, nothing is recorded: OSError: [Errno 27] File too large")
    assert second.startswith("error: fsq s0: results_dir must be a folder that can be written")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "checkout"]


@pytest.mark.parametrize(
    ("asked", "there", "wrong"),
    [
        ("7", 0, True),
        ("0,1", 1, True),
        ("0", 1, False),
        ("", 0, False),
        ("-1", 0, False),
        ("GPU-5a", 0, True),
        (None, 0, False),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, asked: str | None, there: int, wrong: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if asked is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    if wrong:
        with pytest.raises(ValueError, match=f"CUDA_VISIBLE_DEVICES must name GPUs that are there, got '{asked}'"):
            places.chosen_device()
    else:
        assert places.chosen_device().type == ("cuda" if there else "cpu")


def test_the_command_line_says_so_too(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "99")
    assert start(monkeypatch, f"results_dir={tmp_path}", f"cache_dir={tmp_path / 'cache'}") == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "CUDA_VISIBLE_DEVICES must name GPUs that are there, got '99'" in line
