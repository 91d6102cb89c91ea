import fcntl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch

from tokbench import timing


def test_calls_are_timed_after_a_warm_up():
    calls = []
    found = timing.latency(lambda: calls.append(time.sleep(0.01)), repeats=5, warm_up=2)
    assert len(calls) == 7
    assert len(found.seconds) == 5
    assert 0.01 <= found.median < 0.1
    assert found.interquartile_range >= 0


def _fixed(monkeypatch, seconds):
    """Lets each call of a batch last seconds(batch)."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def run(batch):
        tried.append(batch)
        now[0] += seconds(batch)

    tried = []
    return run, tried


def test_throughput_halves_the_batch_until_it_fits_and_while_the_rate_does_not_fall(monkeypatch):
    def seconds(batch):
        if batch > 8:
            raise torch.OutOfMemoryError
        return {8: 1.0, 4: 0.4, 2: 0.5, 1: 0.01}[batch]  # 8, 10, 4, and 100 images a second, never reached

    run, tried = _fixed(monkeypatch, seconds)
    rate, batch = timing.throughput(run, largest=32, repeats=3)
    assert (round(rate, 6), batch) == (10.0, 4)
    assert list(dict.fromkeys(tried)) == [32, 16, 8, 4, 2]


def test_throughput_goes_down_to_one_image_and_not_below(monkeypatch):
    run, _ = _fixed(monkeypatch, lambda batch: float(batch))
    assert timing.throughput(run, largest=4, repeats=1) == (1.0, 4)
    with pytest.raises(torch.OutOfMemoryError):
        timing.throughput(lambda batch: (_ for _ in ()).throw(torch.OutOfMemoryError()), largest=4, repeats=1)


def test_peak_memory_of_forty_megabytes_is_forty_megabytes():
    def allocate():
        for _ in range(3):
            torch.zeros(10_000_000).add_(1)  # freed each time

    peak = timing.peak_memory_bytes(allocate, device=torch.device("cpu"))
    assert peak == pytest.approx(40e6, rel=0.01)
    add = lambda: torch.zeros(10_000_000) + torch.zeros(10_000_000)  # noqa: E731
    both = timing.peak_memory_bytes(add, device=torch.device("cpu"))
    assert both == pytest.approx(120e6, rel=0.01)


def _other_seconds_without_and_with_children(monkeypatch):
    ours = timing._other_seconds()
    with monkeypatch.context() as patch:
        patch.setattr(psutil.Process, "children", lambda *a, **k: [])
        return ours, timing._other_seconds()


def test_the_work_of_other_processes_marks_a_measurement(monkeypatch):
    waste = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # a child: its work is our own
    try:
        time.sleep(0.1)
        before = _other_seconds_without_and_with_children(monkeypatch)
        time.sleep(0.4)
        after = _other_seconds_without_and_with_children(monkeypatch)
        monkeypatch.setattr(psutil.Process, "children", lambda *a, **k: [])
        measured = timing.quietly(lambda: time.sleep(0.4), attempts=2, wait_seconds=0.0)
    finally:
        waste.kill()
        waste.wait()
    child = (after[1] - before[1]) - (after[0] - before[0])
    assert 0.05 < child < 0.5
    assert (measured.value, measured.reason, measured.attempts) == (None, "busy", 2)
    assert measured.load_average >= 0


def test_a_quiet_machine_gives_its_value(monkeypatch):
    monkeypatch.setattr(timing, "_other_seconds", lambda: 0.0)
    measured = timing.quietly(lambda: 7, wait_seconds=0.0)
    assert (measured.value, measured.reason, measured.other_cores, measured.attempts) == (7, None, 0.0, 1)


def test_only_one_holder_measures_at_a_time():
    path = Path(tempfile.gettempdir()) / "tokbench-measure.lock"
    with timing.machine_lock(), path.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with timing.machine_lock():
        pass
