"""What lets a report of ten thousand runs keep to one gigabyte: what is opened, and what is kept."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from report_factory import file, measure, swept, swept_arrays

from tokbench import build
from tokbench.records import RunRecord, read_arrays, read_records
from tokbench.report import view as views
from tokbench.report.groups import Group
from tokbench.report.view import View, read_views


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the records whose arrays were opened."""
    names: list[str] = []

    def read(record: RunRecord, folder: Path) -> object:
        names.append(record.name)
        return read_arrays(record, folder)

    monkeypatch.setattr(views, "read_arrays", read)
    return names


def test_a_comparison_opens_only_its_own_rows(tmp_path: Path, opened: list[str]) -> None:
    for made in [swept(name, 64, seed) for name in ("fsq", "lfq", "simvq", "vq") for seed in (0, 1)]:
        file(made, tmp_path, kept=swept_arrays(made))
    (found,) = read_views(tmp_path)
    assert found.difference(found.rows[0], found.rows[2], "psnr_db") is not None
    assert sorted(opened) == ["fsq", "fsq", "simvq", "simvq"]


def test_a_report_reads_its_records_and_their_arrays_once(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokbench.report.__main__ import main

    for made in [swept(name, 64, seed) for name in ("fsq", "vq") for seed in range(3)]:
        file(made, tmp_path, kept=swept_arrays(made))
    read: list[Path] = []
    monkeypatch.setattr(views, "read_records", lambda path: read.append(path) or read_records(path))
    assert main(["--results", str(tmp_path)]) == 0
    assert read == [tmp_path / "runs"]
    assert sorted(opened) == ["fsq"] * 3 + ["vq"] * 3


def test_runs_that_differ_in_their_seeds_are_compared_without_reading_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokbench.records import Arrays

    asked: list[str] = []
    get = Arrays.__getitem__
    monkeypatch.setattr(Arrays, "__getitem__", lambda own, name: asked.append(name) or get(own, name))
    for made in [swept(name, 64, seed) for name, seeds in (("fsq", 3), ("vq", 2)) for seed in range(seeds)]:
        file(made, tmp_path, kept=swept_arrays(made))
    (found,) = read_views(tmp_path)
    fsq, vq = found.rows
    assert found.interval(fsq, "psnr_db") is not None
    assert found.difference(vq, fsq, "psnr_db") is not None
    assert asked.count("psnr_db") == 5


def test_values_of_images_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, images = 400, 10_000
    monkeypatch.setattr(views, "AT_ONCE", 8)
    monkeypatch.setattr(views, "RESAMPLES", 20)
    groups = np.arange(images)

    def arrays(record: RunRecord, folder: Path) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(int(record.hash, 16))
        return _Drawn({"psnr_db": lambda: rng.normal(20, 3, images).astype(np.float32), "groups": lambda: groups})

    monkeypatch.setattr(views, "read_arrays", arrays)
    known = {"reconstruction/psnr_db": measure("reconstruction/psnr_db", 20.0)}
    made = [swept("fsq", 2 + k // 3, k % 3, metrics=known) for k in range(runs)]
    found = View(Group("cifar10", made), Path())
    tracemalloc.start()
    assert all(found.interval(row, "psnr_db") is not None for row in found.rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < runs * images * 4 / 2  # bytes of their values as float32


class _Drawn(dict):  # type: ignore[type-arg]
    def __getitem__(self, name: str) -> np.ndarray:
        return super().__getitem__(name)()


def test_a_measure_has_no_dictionary_of_its_own() -> None:
    assert not hasattr(measure("reconstruction/psnr_db", 20.0), "__dict__")


REPORT = """
import resource, sys
from pathlib import Path
from tokbench.report.build import build_report
build_report(Path(sys.argv[1]))
used = resource.getrusage(resource.RUSAGE_SELF)
(peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
print(used.ru_utime + used.ru_stime, int(peak.split()[1]) * 1024)
"""  # VmHWM, as ru_maxrss begins with what the process that started this one had


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux to tell a process's own memory")
def test_a_report_of_ten_thousand_records_takes_less_than_a_gigabyte_and_20_seconds(tmp_path: Path) -> None:
    """Resident memory at its highest and CPU time of a process of one thread, its start among it; 1000 values a run."""
    for k in range(10_000):
        made = swept(("fsq", "vq", "lfq", "simvq")[k % 4], 2 + (k // 4) // 10, (k // 4) % 10)
        file(made, tmp_path, kept=swept_arrays(made, 1000))
    done = subprocess.run(
        [sys.executable, "-c", REPORT, str(tmp_path)],
        cwd=build.ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, peak = map(float, done.stdout.split())
    print(f"{seconds:.1f} s, {peak / 1e9:.2f} GB")
    assert peak < 1e9
    assert seconds < 20
