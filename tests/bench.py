"""`make bench`: speed as ratios within one run, beside the bar each should meet. Not a test: use a quiet machine."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from tests.bench_quantizers import quantizers
from tokbench.backbone.sequence import encode_text
from tokbench.backbone.transformer import Backbone
from tokbench.generation.causal import Causal
from tokbench.heads.categorical import Categorical
from tokbench.interfaces import TokenSpace
from tokbench.quantizers.fsq import FiniteScalarQuantizer
from tokbench.records import read_records
from tokbench.tokenizers.autoencoder import Autoencoder
from tokbench.train import fit

STEPS = 60
MEASURING = ("train", "judge", "cost", "reconstruction", "encode")


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def line(what: str, measured: str, bar: str) -> None:
    print(f"{what:<72} {measured:>24}   bar: {bar}", flush=True)


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


def cached_sampling() -> None:
    torch.manual_seed(0)
    quantizer = FiniteScalarQuantizer([8, 5, 5, 5])
    space = TokenSpace((16, 16), 4, (1000,), torch.zeros(4), torch.ones(4), quantizer.indices_to_codes)
    backbone = Backbone(dim=4, width=256, depth=6, heads=4, grid=(16, 16), positions="rope_tv", base=1e4)
    head = Categorical(width=256, codebook_sizes=(1000,), top_p=1.0)
    weights = {"text": 1.0, "image": 1.0}
    rows = {"image_first": 0.2, "caption_dropout": 0.1, "loss_weights": weights}
    scheme = Causal(space, backbone, head, order="raster", temperature=1.0, **rows)  # type: ignore[arg-type]
    scheme.eval()
    for parameter in scheme.parameters():  # residual branches start at zero: give them something to compute
        nn.init.normal_(parameter, std=0.05) if parameter.ndim == 2 else None
    text, lengths = encode_text(["a cat"])

    def draw(use_cache: bool) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        indices = scheme.sample(text, lengths, guidance=1.0, generator=generator, use_cache=use_cache).indices
        assert indices is not None
        return indices

    same = torch.equal(draw(True), draw(False))
    ratio = statistics.median(seconds(lambda: draw(False)) / seconds(lambda: draw(True)) for _ in range(3))
    line("256 tokens, width 256, depth 6, batch 1: recomputing / KV cache", f"{ratio:.1f} x", ">= 5 x")
    line("  the same tokens at the same seed", str(same), "True")


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
    cached_sampling()
    overhead()
    quantizers()
