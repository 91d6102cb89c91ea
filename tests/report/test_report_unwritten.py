"""A report that cannot be written is one line and exit code 2, whoever asked for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from report_factory import file, measure, swept, swept_arrays

from tokbench import build
from tokbench.records import Measure
from tokbench.sweeps import BAD_INPUT

REPORTS = {  # what writes the pages of a results folder
    "report": "from tokbench.report.__main__ import main; main(['--results', FOLDER])",
    "rate_distortion": "from tokbench.report.rate_distortion import main; main(['--results', FOLDER])",
    "claims": "from tokbench.claims import main; main(['--hours', '0', '--results', FOLDER])",
    "sweep": (
        "from tokbench.run import _close; from tokbench.sweeps import Outcome;"
        "_close([Outcome(0, sweep=True, config={'results_dir': FOLDER})])"
    ),
}


def reported(what: str, folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """A process that writes the report of a folder and ends with the exit code, after the code `before`."""
    *first, last = REPORTS[what].split(";")
    code = "; ".join(
        ["import sys", f"FOLDER = {str(folder)!r}", *first, *([before] if before else []), f"sys.exit({last})"]
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True, check=False)


def one_line(done: subprocess.CompletedProcess[str], folder: Path, reason: str) -> None:
    assert done.returncode == BAD_INPUT, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {folder} cannot be written: ")
    assert reason in line


@pytest.mark.parametrize("what", REPORTS)
def test_a_report_on_a_full_disk_is_one_line(tmp_path: Path, what: str) -> None:
    filled(tmp_path)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    one_line(reported(what, tmp_path, limit), tmp_path, "File too large")
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".lock"))]


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that nobody can write")
@pytest.mark.parametrize("what", ["report", "claims"])
def test_a_report_of_a_folder_that_nobody_can_write_is_one_line(what: str) -> None:
    folder = Path("/sys/kernel")
    one_line(reported(what, folder), folder, "/sys/kernel/")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write whatever the mode")
@pytest.mark.parametrize("what", REPORTS)
def test_a_report_of_a_folder_that_may_only_be_read_is_one_line(tmp_path: Path, what: str) -> None:
    filled(tmp_path)
    tmp_path.chmod(0o555)
    try:
        one_line(reported(what, tmp_path), tmp_path, "Permission denied")
    finally:
        tmp_path.chmod(0o755)


def filled(folder: Path) -> None:
    """Records of which every page has something to say."""
    for made in (swept("vq", codes, metrics=with_model_bits(codes)) for codes in (16, 64)):
        file(made, folder, kept=swept_arrays(made))


def with_model_bits(codes: int) -> dict[str, Measure]:
    values = {"native/bits/model_bits_per_image": 32.0 * codes, "native/bits/model_bits_per_pixel": codes / 32}
    values |= {"bits/nominal_bits_per_pixel": codes / 16}
    return swept("vq", codes).metrics | {key: measure(key, value) for key, value in values.items()}
