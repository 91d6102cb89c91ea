"""`make bench`: speed as ratios within one run, beside the bar each should meet. Not a test: use a quiet machine."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from tests.bench_generation import generation
from tests.bench_quantizers import quantizers
from tests.bench_timing import line, seconds
from tests.bench_training import training
from tokbench.quantizers.fsq import FiniteScalarQuantizer
from tokbench.records import read_records
from tokbench.tokenizers.autoencoder import Autoencoder
from tokbench.train import fit

STEPS = 60
MEASURING = ("train", "judge", "cost", "reconstruction", "encode")


def help_seconds() -> None:
    command = [sys.executable, "-m", "tokbench.run", "--help"]
    runs = [seconds(lambda: subprocess.run(command, capture_output=True, check=True)) for _ in range(4)][1:]
    line("python -m tokbench.run --help", f"{statistics.median(runs):.2f} s", "<= 2 s")


def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(FiniteScalarQuantizer([8, 5, 5, 5]), width=96, factor=4, depth=1)


def loss(model: Autoencoder, images: Tensor) -> Tensor:
    return nn.functional.mse_loss(model.decode(model.encode(images).z_q), images)


def harness_step() -> None:
    images = torch.rand(2048, 3, 32, 32) * 2 - 1

    def draw(generator: Generator) -> Tensor:
        return images[torch.randint(len(images), (64,), generator=generator)]

    def bare() -> None:
        model, generator = autoencoder(), torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS + 1)
        for _ in range(STEPS):
            value = loss(model, draw(generator))
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()

    def harness() -> None:
        model = autoencoder()
        options = {"steps": STEPS, "lr": 2e-3, "weight_decay": 1e-4, "clip": 1.0, "seed": 0, "validations": 1}
        fit(model, lambda x: {"loss": loss(model, x)}, draw, validation=lambda: 0.0, **options)  # type: ignore[arg-type]

    bare(), harness()
    ratios = [seconds(harness) / seconds(bare) for _ in range(5)]
    line(f"training of {STEPS} steps: harness / bare loop", f"{statistics.median(ratios):.3f} x", "<= 1.05 x")


def overhead() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tokbench.run", "budget=smoke", f"results_dir={folder}", f"cache_dir={folder}"]
        total = seconds(lambda: subprocess.run(command, capture_output=True, check=True))
        (record,) = read_records(Path(folder) / "runs")
    inside = sum(took for step, took in record.seconds.items() if step.startswith(MEASURING))
    line("a run outside training and measuring", f"{total - inside:.1f} s", "<= 15 s")


if __name__ == "__main__":
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    help_seconds()
    harness_step()
    generation()
    training()
    overhead()
    quantizers()
