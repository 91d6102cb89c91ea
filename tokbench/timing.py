"""Time, throughput and memory as measured on this machine, alone on it. A change of numbers here raises the VERSION of `cost`."""

from __future__ import annotations

import fcntl
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import psutil
import torch
from torch.profiler import ProfilerActivity, profile

from tokbench.sharing import runs_at_once

BUSY_CORES = 0.25  # CPU time of other processes, as a share of one core, above which a timing is not a number
CLOCK_TICK_SECONDS = 0.01  # of the kernel's CPU accounting
WORSE = 0.95  # of the best rate: where the search for the best batch stops
T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat of one call, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def interquartile_range(self) -> float:
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return high - low


def latency(run: Callable[[], object], *, repeats: int, warm_up: int = 1) -> Timing:
    """Wall time of a call, the device synchronised, after `warm_up` calls that do not count."""
    for _ in range(warm_up):
        run()
    return Timing(tuple(once(run) for _ in range(repeats)))


def throughput(run: Callable[[int], object], *, largest: int, repeats: int) -> tuple[float, int]:
    """Items a second (median of `repeats`) of run(batch) at the best batch, and that batch.

    Batches are tried from the largest down, halved as often as memory demands and until the rate falls.
    """
    best, batch = (0.0, 0), largest
    while batch:
        try:
            rate = batch / latency(partial(run, batch), repeats=repeats).median
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            torch.cuda.empty_cache()
        else:
            if rate < WORSE * best[0]:
                break
            best = max(best, (rate, batch))
        batch //= 2
    return best


def once(run: Callable[[], object]) -> float:
    """Wall time of one call, the device synchronised before and after."""
    _synchronise()
    start = time.perf_counter()
    run()
    _synchronise()
    return time.perf_counter() - start


def _synchronise() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_memory_bytes(run: Callable[[], object], *, device: torch.device) -> int:
    """Most bytes held at once by tensors that the call makes, above what was held before it (weights are not in it).

    On CUDA the allocator's own peak; on a CPU the running sum of the allocations and releases that the profiler saw.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    assert record.profiler is not None
    assert record.profiler.kineto_results is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@dataclass(frozen=True)
class Quiet(Generic[T]):
    """A measurement with the state of the machine around it; value None and a reason where others were at work."""

    value: T | None
    reason: str | None  # "busy", or how many runs at once
    other_cores: float  # CPU seconds of other processes a second of the measurement
    load_average: float  # of one minute, at its end
    attempts: int


def quietly(measure: Callable[[], T], *, attempts: int = 3, wait_seconds: float = 2.0) -> Quiet[T]:
    """measure() alone on the machine: one measurement at a time (a lock), tried again while others are busy.

    Not at all where other runs are known to be at work: this one has few threads then, even while they pause.
    """
    if runs_at_once() > 1:
        return Quiet(None, f"{runs_at_once()} runs at once", 0.0, os.getloadavg()[0], 0)
    with machine_lock():
        for attempt in range(1, attempts + 1):
            busy = OtherProcesses()
            value = measure()
            cores = busy.cores()
            if cores <= BUSY_CORES:
                return Quiet(value, None, cores, os.getloadavg()[0], attempt)
            if attempt < attempts:
                time.sleep(wait_seconds)
    return Quiet(None, "busy", cores, os.getloadavg()[0], attempts)


@contextmanager
def machine_lock() -> Iterator[None]:
    """Waits until no other process of this machine measures; the lock dies with its holder (POSIX).

    Not to be nested: the inner one would wait for the outer one.
    """
    path = Path(tempfile.gettempdir()) / "tokbench-measure.lock"
    if not path.exists():
        path.touch()
    with path.open() as file:  # to read: the file of another user can be locked, not written
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class OtherProcesses:
    """CPU time that processes other than this one and its children used since this object was made."""

    def __init__(self) -> None:
        self.start, self.others = time.perf_counter(), _other_seconds()

    def cores(self) -> float:
        """In cores; the accounting's own coarseness, one tick a core, is forgiven."""
        elapsed = max(time.perf_counter() - self.start, 1e-9)
        coarseness = CLOCK_TICK_SECONDS * (psutil.cpu_count() or 1)
        return max(0.0, _other_seconds() - self.others - coarseness) / elapsed


def _other_seconds() -> float:
    machine = psutil.cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    guest = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # already in user and nice
    own = psutil.Process()
    mine = sum(own.cpu_times()[:4])
    for child in own.children(recursive=True):
        try:
            mine += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return sum(machine) - idle - guest - mine
