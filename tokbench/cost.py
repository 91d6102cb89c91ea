"""What generation costs: parameters, FLOPs (analytic and counted), passes, latency, throughput and memory.

FLOPs are 2 x multiply-accumulates of matrix products, attention counted dense, as it is executed: norms, activations,
RoPE and draws are left out. Analytic counts are of one image in the backbone and its heads. w width, P prompt slots
(padding, BOS and BOI included), N image tokens, D channels a token.
"""

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
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tokbench.backbone.sequence import SPECIALS
from tokbench.backbone.sequence import VOCABULARY as TEXT_VOCABULARY
from tokbench.layers import hidden_size

VERSION = 1
PROMPT_SPECIALS = 2  # BOS and BOI
BUSY_CORES = 0.25  # CPU time of other processes, as a share of one core, above which a timing is not a number
CLOCK_TICK_SECONDS = 0.01  # of the kernel's CPU accounting
T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """The plain numbers of a backbone: w, layers, and D channels an image token."""

    width: int
    depth: int
    dim: int


def backbone_flops(sizes: Sizes, queries: int, keys: int) -> int:
    """Of all blocks, for `queries` tokens that attend to `keys` tokens (themselves included)."""
    width = sizes.width
    weights = 4 * width**2 + 3 * width * hidden_size(width)
    return 2 * sizes.depth * queries * (weights + 2 * keys * width)


def causal_generation_flops(sizes: Sizes, *, prompt: int, num_tokens: int, codebook_size: int, guided: bool) -> int:
    """One image: the prompt once, N - 1 cached steps, N softmaxes over V; guidance reads everything twice."""
    heads = 2 * num_tokens * sizes.width * codebook_size
    return (1 + guided) * (causal_reading_flops(sizes, prompt=prompt, num_tokens=num_tokens) + heads)


def causal_reading_flops(sizes: Sizes, *, prompt: int, num_tokens: int) -> int:
    """The prompt once and N - 1 cached steps of one image, without its heads."""
    steps = sum(backbone_flops(sizes, 1, prompt + count) for count in range(1, num_tokens))
    return backbone_flops(sizes, prompt, prompt) + steps + 2 * (num_tokens - 1) * sizes.dim * sizes.width


def denoise_generation_flops(sizes: Sizes, *, prompt: int, num_tokens: int, steps: int, guided: bool) -> int:
    """One image: the prompt once, `steps` passes of all N tokens; guidance reads all twice. The snap is left out."""
    one = backbone_flops(sizes, num_tokens, prompt + num_tokens) + denoise_adapters_flops(sizes, num_tokens)
    return (1 + guided) * (backbone_flops(sizes, prompt, prompt) + steps * one)


def denoise_adapters_flops(sizes: Sizes, num_tokens: int) -> int:
    """Into the backbone, out of it, and the time embedding of one image."""
    return 4 * num_tokens * sizes.dim * sizes.width + 4 * sizes.width**2


def forward_flops(sizes: Sizes, *, text: int, num_tokens: int, image_head: int) -> int:
    """Reading one training row of `text` bytes (padding included) and an image; `image_head` is V, or D for denoise.

    The time embedding of denoise, 4 w^2, is left out.
    """
    row = text + num_tokens + SPECIALS
    heads = 2 * sizes.width * (row * TEXT_VOCABULARY + num_tokens * (sizes.dim + image_head))
    return backbone_flops(sizes, row, row) + heads


def training_flops(sizes: Sizes, *, text: int, num_tokens: int, image_head: int) -> int:
    """One training row: three forward passes' worth (forward, gradient of inputs, gradient of weights)."""
    return 3 * forward_flops(sizes, text=text, num_tokens=num_tokens, image_head=image_head)


def kv_bytes(sizes: Sizes, *, slots: int, rows: int, element_bytes: int) -> int:
    """Keys and values of all layers for `rows` sequences of `slots` tokens (prompt + N; guidance doubles the rows)."""
    return 2 * sizes.depth * sizes.width * slots * rows * element_bytes


def causal_passes(num_tokens: int) -> int:
    """Sequential backbone passes an image: the prompt's gives the first token."""
    return num_tokens


def denoise_passes(steps: int) -> int:
    """Sequential backbone passes an image, the prompt's included."""
    return steps + 1


def num_parameters(module: nn.Module) -> int:
    """All parameters, each once."""
    return sum(parameter.numel() for parameter in module.parameters())


def counted_flops(run: Callable[[], object]) -> int:
    """FLOPs of one call by torch's counter; attention runs in its plain form, which the counter sees on a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


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
    return Timing(tuple(_timed(run) for _ in range(repeats)))


def throughput(run: Callable[[int], object], *, batch: int, repeats: int) -> tuple[float, int]:
    """Items a second (median of `repeats`) of run(batch), and the batch: halved as often as memory demands."""
    while True:
        try:
            return batch / latency(partial(run, batch), repeats=repeats).median, batch
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
            torch.cuda.empty_cache()


def _timed(run: Callable[[], object]) -> float:
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
    reason: str | None  # "busy"
    other_cores: float  # CPU seconds of other processes a second of the measurement
    load_average: float  # of one minute, at its end
    attempts: int


def quietly(measure: Callable[[], T], *, attempts: int = 3, wait_seconds: float = 2.0) -> Quiet[T]:
    """measure() alone on the machine: one measurement at a time (a lock), tried again while others are busy."""
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
