"""Quantizers beside vector-quantize-pytorch, its options switched to ours: time and extra memory of forward and backward.

N = 16384 tokens, D = 64 channels (FSQ: its levels; LFQ: log2 V bits), two threads, train mode, the losses included. Each
measurement has a process of its own, so that one's memory is not another's; Linux alone (/proc).
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import log2
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokbench.quantizers.fsq import FiniteScalarQuantizer
from tokbench.quantizers.lfq import LookupFreeQuantizer
from tokbench.quantizers.rvq import ResidualQuantizer
from tokbench.quantizers.simvq import SimVQ
from tokbench.quantizers.vq import VectorQuantizer

try:
    import vector_quantize_pytorch as vqp
except ImportError:
    sys.exit("the bench compares with vector-quantize-pytorch: `make bench` installs it, or pip install -e '.[bench]'")

BATCH, TOKENS, DIM, THREADS = 16, 1024, 64, 2
SIZES = (1024, 8192, 65536)
LEVELS = {1024: [8, 5, 5, 5], 8192: [8, 8, 5, 5, 5], 65536: [8, 8, 8, 5, 5, 5]}
MEMORY_LIMIT = 20e9  # of address space, theirs and ours alike
RUNS, RUNS_SECONDS, RUN_LIMIT = 15, 1.0, 60  # runs a measurement, seconds for them, seconds until it is given up
OUT_OF_MEMORY = f"runs out of {MEMORY_LIMIT / 1e9:.0f} GB"


@dataclass(frozen=True)
class Row:
    """Makers of a quantizer of V codes, and the bars: ours / theirs, or ours alone, by V."""

    ours: Callable[[int], nn.Module]
    theirs: Callable[[int], nn.Module]
    time: Mapping[int, float]
    memory: Mapping[int, float] = field(default_factory=dict)
    seconds: float | None = None  # ours alone at V = 65536
    gigabytes: float | None = None
    searches: bool = False  # one search of all codes: has a floor
    theirs_up_to: int = SIZES[-1]  # above, no bar compares, and theirs takes 20 s to run out of memory: left out


def our_vq(size: int, estimator: str, **options: Any) -> nn.Module:
    return VectorQuantizer(dim=DIM, codebook_size=size, beta=0.25, estimator=estimator, **options)


def our_rvq(size: int) -> nn.Module:
    stage = lambda: our_vq(size, "straight_through")  # noqa: E731
    return ResidualQuantizer(stage=stage, num_stages=3, estimator="straight_through")  # type: ignore[arg-type]


def our_lfq(size: int) -> nn.Module:
    return LookupFreeQuantizer(dim=int(log2(size)), beta=0.25, entropy_weight=0.1, gamma=1.0, temperature=0.01)


LEARNED: dict[str, Any] = {"learnable_codebook": True, "ema_update": False, "commitment_weight": 0.25}


def their_vq(size: int, rotation: bool, **options: Any) -> nn.Module:
    return vqp.VectorQuantize(dim=DIM, codebook_size=size, rotation_trick=rotation, **options)


def their_rvq(size: int) -> nn.Module:
    return vqp.ResidualVQ(dim=DIM, codebook_size=size, num_quantizers=3, rotation_trick=False, **LEARNED)


def their_lfq(size: int) -> nn.Module:  # its forward has the same temperature, 1 / 100
    return vqp.LFQ(codebook_size=size, entropy_loss_weight=0.1, diversity_gamma=1.0, commitment_loss_weight=0.25)


VQ: dict[str, Any] = {
    "time": {1024: 0.13, 8192: 0.07},
    "memory": {1024: 0.25, 8192: 0.05},
    "seconds": 1.5,
    "gigabytes": 0.5,
    "searches": True,
}
EMA: dict[str, Any] = {"ema_update": True, "decay": 0.8, "commitment_weight": 0.25}
ROWS: dict[str, Row] = {
    "VQ straight-through": Row(lambda v: our_vq(v, "straight_through"), lambda v: their_vq(v, False, **LEARNED), **VQ),
    "VQ rotation": Row(lambda v: our_vq(v, "rotation"), lambda v: their_vq(v, True, **LEARNED), **VQ),
    "VQ EMA 0.8": Row(
        lambda v: our_vq(v, "straight_through", ema_decay=0.8),
        lambda v: their_vq(v, False, **EMA),
        **VQ,
        theirs_up_to=8192,
    ),
    "FSQ": Row(lambda v: FiniteScalarQuantizer(LEVELS[v]), lambda v: vqp.FSQ(LEVELS[v]), dict.fromkeys(SIZES, 1.1)),
    "LFQ with entropy": Row(our_lfq, their_lfq, {1024: 0.05, 8192: 0.02}, seconds=0.5),
    "RVQ x 3": Row(our_rvq, their_rvq, {1024: 0.2, 8192: 0.2}, theirs_up_to=8192),
    "SimVQ": Row(
        lambda v: SimVQ(dim=DIM, codebook_size=v, beta=0.25, estimator="straight_through"),
        lambda v: vqp.SimVQ(dim=DIM, codebook_size=v, rotation_trick=False),
        {1024: 0.7, 8192: 0.7},
        theirs_up_to=8192,
    ),
}


@dataclass(frozen=True)
class Measurement:
    """Median seconds and extra peak bytes of one forward and backward pass, and the matrix rate in FLOP/s just before."""

    seconds: float
    bytes: int
    matrix_rate: float


def step(quantizer: nn.Module, z: Tensor, grad: Tensor) -> None:
    """Forward and backward, with the losses at their weights."""
    z.grad = None
    quantizer.zero_grad()
    out = quantizer(z)
    if isinstance(out, tuple):  # theirs: z_q, indices and, but for FSQ, losses
        z_q, losses = out[0], [loss.sum() for loss in out[2:]]
    else:
        z_q, losses = out.z_q, [quantizer.loss_weights[name] * loss for name, loss in out.losses.items()]  # type: ignore
    total = (z_q * grad).sum() + sum(loss for loss in losses if loss.requires_grad)
    total.backward()


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def matrix_rate() -> float:
    """FLOP/s of a product of large float32 matrices, the best of five."""
    a, out = torch.randn(3000, 3000), torch.empty(3000, 3000)
    return 2 * 3000**3 / min(timed(lambda: torch.mm(a, a, out=out)) for _ in range(5))


def resident(key: str) -> int:
    (found,) = [row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(key + ":")]
    return int(found.split()[1]) * 1024


def measure(name: str, size: int, side: str) -> Measurement:
    """In this process, which should do nothing else."""
    torch.set_num_threads(THREADS)
    Path("/proc/self/oom_score_adj").write_text("1000")  # should the machine lack the memory, this process ends first
    resource.setrlimit(resource.RLIMIT_AS, (int(MEMORY_LIMIT),) * 2)
    torch.manual_seed(0)
    row = ROWS[name]
    quantizer = (row.ours if side == "ours" else row.theirs)(size).train()
    dim = {"FSQ": len(LEVELS[size]), "LFQ with entropy": int(log2(size))}.get(name, DIM)
    z, grad = torch.randn(BATCH, TOKENS, dim, requires_grad=True), torch.randn(BATCH, TOKENS, dim)
    rate = matrix_rate()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    spent = [timed(lambda: step(quantizer, z, grad))]
    extra = resident("VmHWM") - before
    if spent[0] < RUNS_SECONDS:
        spent = []  # a first run has costs of its own, which a long one hides
        while len(spent) < RUNS and sum(spent) < RUNS_SECONDS:
            spent.append(timed(lambda: step(quantizer, z, grad)))
    return Measurement(statistics.median(spent), extra, rate)


def measure_apart(name: str, size: int, side: str) -> Measurement | str:
    """`measure` in a process of its own, or why there is none."""
    command = [sys.executable, "-m", "tests.bench_quantizers", "measure", name, str(size), side]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_LIMIT)
    except subprocess.TimeoutExpired:
        return f"over {RUN_LIMIT} s"
    if done.returncode == 0:
        return Measurement(**json.loads(done.stdout.splitlines()[-1]))
    if done.returncode == -9:
        return "killed: too little memory free"
    if "can't allocate memory" in done.stderr or "MemoryError" in done.stderr:
        return OUT_OF_MEMORY
    raise RuntimeError(f"{side} of {name} at V={size} failed:\n{done.stderr[-2000:]}")


def verdict(value: float, bar: float | None, unit: str) -> str:
    return "" if bar is None else f"  {'met' if value <= bar else 'MISSED'}: {value:.3g} {unit}, bar {bar:g}"


def report(name: str, size: int) -> None:
    """One line of the table."""
    row = ROWS[name]
    ours = measure_apart(name, size, "ours")
    theirs = measure_apart(name, size, "theirs") if size <= row.theirs_up_to else "not run"
    if isinstance(ours, str):
        print(f"{name:<20} {size:>6}  MISSED: ours {ours}", flush=True)
        return
    beside = theirs if isinstance(theirs, str) else f"{theirs.seconds * 1e3:9.1f} ms {theirs.bytes / 1e6:7.0f} MB"
    text = f"{name:<20} {size:>6} {ours.seconds * 1e3:9.1f} ms {ours.bytes / 1e6:6.0f} MB {beside:>22}"
    if row.searches:
        floor = 2 * BATCH * TOKENS * size * DIM / ours.matrix_rate
        text += f"  {floor / ours.seconds:4.0%} of the floor"
    else:
        text += " " * 19
    if not isinstance(theirs, str):
        text += verdict(ours.seconds / theirs.seconds, row.time.get(size), "x time")
        text += verdict(ours.bytes / max(theirs.bytes, 1), row.memory.get(size), "x memory")
    if size == SIZES[-1]:
        text += verdict(ours.seconds, row.seconds, "s")
        text += verdict(ours.bytes / 1e9, row.gigabytes, "GB")
        text += "  met: ours runs" if not row.seconds and size not in row.time else ""
    print(text, flush=True)


def quantizers(names: tuple[str, ...] = tuple(ROWS)) -> None:
    """The whole table: ours beside theirs, the floor, each bar and whether it is met."""
    print(
        f"forward + backward, N={BATCH * TOKENS}, {THREADS} threads; theirs: vector-quantize-pytorch, options as ours"
    )
    print(f"{'':<20} {'V':>6} {'ours':>22} {'theirs':>22}", flush=True)
    for name in names:
        for size in SIZES:
            report(name, size)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(asdict(measure(sys.argv[2], int(sys.argv[3]), sys.argv[4]))))
    else:
        quantizers(tuple(sys.argv[1:]) or tuple(ROWS))
