"""One code length for every tokenizer: -log p(tokens) - log p(image | tokens), the bits of coding the image without loss.

B images, N tokens, D channels; sub-pixels are 3 H W an image.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from rich.progress import track
from torch import Generator, Tensor, nn

from tokbench.information.continuous import GaussianCode
from tokbench.information.residual import ResidualModel
from tokbench.interfaces import Tokenizer
from tokbench.metrics.images import psnr, to_float, to_uint8

VERSION = 1
FITTED_ON = 4000  # training images, the first of a fixed shuffle
BATCH, CHECKS, CHECKED = 32, 5, 256
LEARNING_RATE, WIDTH_LEARNING_RATE = 3e-3, 0.1  # the latter of logarithms that may start far from where they belong


@dataclass(frozen=True, eq=False)
class CodeLength:
    """Bits an image (n,), and what its tokens alone decode to; `tokens` is None where a model of the tokens must say it."""

    tokens: Tensor | None
    residual: Tensor
    psnr: Tensor  # dB, of latents with a width from the sample of them that the bits pay for


class LosslessCode(nn.Module):
    """The parts of a code beside the tokenizer: what the tokens leave open, and, for trained latents, their rate."""

    def __init__(self, tokenizer: Tokenizer, images: Tensor, *, batch: int, device: torch.device) -> None:
        """For a trained tokenizer in eval mode; `images` (M, 3, H, W) uint8 of the training split fit the latents' prior."""
        super().__init__()
        self.tokenizer = [tokenizer]  # in a list: not a part that is trained here
        self.residual = ResidualModel().to(device)
        self.posterior = getattr(getattr(tokenizer, "quantizer", None), "posterior", None)
        self.code: GaussianCode | None = None
        if not tokenizer.codebook_sizes:
            with torch.no_grad():
                parts = [self.latents(to_float(part.to(device))) for part in images.split(batch)]
            widths = [width for _, width in parts if width is not None]
            means = torch.cat([mean for mean, _ in parts])
            self.code = GaussianCode(means, torch.cat(widths) if widths else None).to(device)

    def latents(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) tokens of images in [-1, 1], and the widths of their own posterior where they have one."""
        (tokenizer,) = self.tokenizer
        if self.posterior is None:
            return tokenizer.encode(images).z_q, None
        return self.posterior(tokenizer.latents(images))

    def forward(self, images: Tensor, generator: Generator) -> tuple[Tensor | None, Tensor]:
        """(B,) nats of the tokens, or None where they are codes, and (B,) nats of uint8 images given them."""
        nats, decoded = self.decoded(images, generator)
        return nats, self.residual.nats(images, decoded)

    def decoded(self, images: Tensor, generator: Generator) -> tuple[Tensor | None, Tensor]:
        """(B,) nats of the tokens, or None where they are codes, and what they decode to (B, 3, H, W)."""
        (tokenizer,) = self.tokenizer
        with torch.no_grad():
            z, widths = self.latents(to_float(images))
        if self.code is None:
            with torch.no_grad():
                return None, tokenizer.decode(z)
        widths = self.code.width(z) if widths is None else widths
        noise = torch.randn(z.shape, generator=generator, device=z.device)
        return self.code.kl_nats(z, widths), tokenizer.decode(z + widths * noise)


def fit_code(
    tokenizer: Tokenizer, splits: Mapping[str, Tensor], *, steps: int, batch: int, seed: int, device: torch.device
) -> LosslessCode:
    """The code whose parts minimise the length of `splits["train"]`, of several checks the best on `splits["validation"]`.

    Images are (M, 3, H, W) uint8. The same number of steps, batches and images for every tokenizer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = torch.randperm(len(splits["train"]))
        code = LosslessCode(tokenizer, splits["train"], batch=batch, device=device)
    train, held_out = splits["train"][order[:FITTED_ON]], splits["validation"][:CHECKED]
    generator = torch.Generator().manual_seed(seed)
    groups: list[dict[str, Any]] = [{"params": list(code.residual.parameters()), "lr": LEARNING_RATE}]
    if code.code is not None and code.code.fitted:
        groups.append({"params": list(code.code.parameters()), "lr": WIDTH_LEARNING_RATE})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [g["lr"] for g in groups], total_steps=steps)
    checks = {max(round(steps * (i + 1) / CHECKS), 1) for i in range(CHECKS)}
    best: tuple[float, dict[str, Any]] | None = None
    noise = torch.Generator(device).manual_seed(seed + 1)
    first = train[:CHECKED].to(device)
    code.residual.start(first, code.decoded(first, noise)[1])
    for step in track(range(steps), "lossless code", disable=not sys.stderr.isatty(), transient=True):
        rows = torch.randint(len(train), (BATCH,), generator=generator)
        tokens, residual = code(train[rows].to(device), noise)
        loss = residual.mean() / train[0].numel() + (
            0.0 if tokens is None else tokens.mean().float() / train[0].numel()
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step + 1 in checks:
            found = measure_code(code, held_out, batch=batch, seed=seed, device=device)
            length = (found.residual + (0.0 if found.tokens is None else found.tokens)).mean().item()
            if best is None or length < best[0]:
                best = length, {name: value.clone() for name, value in code.state_dict().items()}
    assert best is not None
    code.load_state_dict(best[1])
    return code.requires_grad_(False)


@torch.no_grad()
def measure_code(code: LosslessCode, images: Tensor, *, batch: int, seed: int, device: torch.device) -> CodeLength:
    """Bits and dB of each of the uint8 images (n, 3, H, W)."""
    generator = torch.Generator(device).manual_seed(seed)
    tokens, residual, quality = list[Tensor](), list[Tensor](), list[Tensor]()
    for part in images.split(batch):
        nats, decoded = code.decoded(part.to(device), generator)
        tokens += [] if nats is None else [nats]
        residual.append(code.residual.nats(part.to(device), decoded))
        quality.append(psnr(part, to_uint8(decoded).cpu()))
    bits = torch.cat(tokens).cpu() / log(2) if tokens else None
    return CodeLength(bits, torch.cat(residual).double().cpu() / log(2), torch.cat(quality))
