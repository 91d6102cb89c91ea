"""Speed of training the unified backbone: `fit` beside a bare loop of the same steps, and the share of a GPU's matrix rate.

Next token over random codes after a short caption, on random weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from tests.bench_generation import CAPTION, CODES, ROWS
from tests.bench_timing import line, ratio, seconds
from tokbench import cost
from tokbench.backbone.sequence import encode_text
from tokbench.backbone.transformer import Backbone
from tokbench.evaluate.tokens import TokenTable
from tokbench.generation.causal import Causal
from tokbench.heads.categorical import Categorical
from tokbench.interfaces import TokenBatch, TokenSpace
from tokbench.quantizers.fsq import FiniteScalarQuantizer
from tokbench.roofline import measured_device
from tokbench.train import fit

STEPS, LR, DECAY, CLIP = 60, 3e-3, 0.05, 1.0
IMAGES, DIM = 512, 4


@dataclass(frozen=True)
class Size:
    """Of a backbone and its batches."""

    width: int
    depth: int
    heads: int
    grid: tuple[int, int]
    batch: int


SMALL = Size(width=128, depth=3, heads=2, grid=(8, 8), batch=32)  # that of budget=cpu on images of 32 x 32
LARGE = Size(width=1024, depth=12, heads=8, grid=(16, 16), batch=64)


class Trained:
    """A scheme with the tokens that it is trained on; `fitted` and `looped` take the same steps."""

    def __init__(self, size: Size, device: torch.device) -> None:
        torch.manual_seed(0)
        self.size, self.device = size, device
        codes = FiniteScalarQuantizer([8, 5, 5, 5]).indices_to_codes
        self.space = TokenSpace(size.grid, DIM, (CODES,), torch.zeros(DIM), torch.ones(DIM), codes)
        sizes = {"width": size.width, "depth": size.depth, "heads": size.heads, "grid": size.grid}
        backbone = Backbone(dim=DIM, positions="rope_tv", base=1e4, **sizes)  # type: ignore[arg-type]
        head = Categorical(width=size.width, codebook_sizes=(CODES,), top_p=1.0)
        self.scheme = Causal(self.space, backbone, head, order="raster", temperature=1.0, **ROWS).to(device)
        indices = torch.randint(CODES, (IMAGES, prod(size.grid)))
        parts = (codes(indices), indices, *encode_text([CAPTION] * IMAGES))
        self.table = TokenTable(*(part.to(device) for part in parts))
        self.noise = torch.Generator(device).manual_seed(1)

    def draw(self, generator: torch.Generator) -> TokenBatch:
        return self.table.draw(self.space, self.size.batch, generator)

    def loss(self, batch: TokenBatch) -> dict[str, Tensor]:
        return {k: self.scheme.loss_weights[k] * v for k, v in self.scheme.loss(batch, self.noise).items()}

    def fitted(self, steps: int, precision: str) -> Trained:
        options: dict[str, Any] = {"lr": LR, "weight_decay": DECAY, "clip": CLIP, "precision": precision}
        fit(self.scheme, self.loss, self.draw, validation=lambda: 0.0, validations=1, steps=steps, seed=0, **options)
        return self

    def looped(self, steps: int) -> Trained:
        generator = torch.Generator().manual_seed(0)
        matrices = [p for p in self.scheme.parameters() if p.ndim >= 2]
        others = [p for p in self.scheme.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps + 1, pct_start=0.1)
        for _ in range(steps):
            value = torch.stack(list(self.loss(self.draw(generator)).values())).sum()
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_([*matrices, *others], CLIP)
            optimizer.step()
            schedule.step()
        return self


def beside_a_bare_loop(size: Size, steps: int) -> None:
    device = torch.device("cpu")
    ours, theirs = Trained(size, device).fitted(steps, "32-true"), Trained(size, device).looped(steps)
    pairs = zip(ours.scheme.parameters(), theirs.scheme.parameters(), strict=True)
    same = all(torch.equal(a, b) for a, b in pairs)
    found = ratio(partial(ours.fitted, steps, "32-true"), partial(theirs.looped, steps), repeats=5)
    line(f"training the backbone, {steps} steps: fit / bare loop", f"{found:.3f} x", "<= 1.05 x")
    line("  the same weights at the same seed", str(same), "True")


def matrix_share(size: Size, steps: int, device: torch.device) -> float:
    """Of the rate of a large bfloat16 product, in steps of a training whose start and end are left out."""
    rate, made = measured_device(device, torch.bfloat16).flops, Trained(size, device)
    sizes, shape = cost.Sizes(size.width, size.depth, DIM), {"text": len(CAPTION), "num_tokens": prod(size.grid)}
    flops = steps * size.batch * cost.training_flops(sizes, image_head=CODES, **shape)
    made.fitted(steps, "bf16-mixed")
    short, long = (seconds(partial(made.fitted, count, "bf16-mixed")) for count in (steps, 2 * steps))
    return flops / (long - short) / rate


def training() -> None:
    beside_a_bare_loop(SMALL, STEPS)
    on_gpu = torch.cuda.is_available()
    found = f"{100 * matrix_share(LARGE, STEPS, torch.device('cuda')):.0f} %" if on_gpu else "needs a GPU"
    line(f"training at width {LARGE.width}, depth {LARGE.depth}, bfloat16: share of matrix rate", found, ">= 45 %")


if __name__ == "__main__":
    training()
