"""A softmax over uniform bins of each channel: the control to parametric densities. M tokens, E width, D channels.

Channels follow each other as in `tokbench.heads.chain`. Within a bin the density is uniform; beyond [-limit, limit] there is
an exponential tail of mean 1 on each side. So it is a density on all of R, and its likelihood compares with others'.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tokbench.heads.chain import Chain
from tokbench.heads.sampling import check_temperature, draw, guided, without_caption

VERSION = 1


class Bins(nn.Module):
    """Its loss is the exact negative log likelihood, the bins' width included: at least D log width."""

    reads: Literal["indices", "latents"] = "latents"
    exact_nll = True

    def __init__(self, *, width: int, dim: int, num_bins: int, limit: float) -> None:
        """`num_bins` of equal width in [-limit, limit], in units of the standardised tokens; and the two tails."""
        super().__init__()
        if num_bins < 1 or not limit > 0:
            raise ValueError(f"num_bins must be >= 1 and limit > 0, got {num_bins} and {limit}")
        self.num_bins, self.limit, self.bin_width = num_bins, limit, 2 * limit / num_bins
        self.chain = Chain(width=width, dim=dim, num_outputs=num_bins + 2)

    @property
    def flops(self) -> int:
        return self.chain.flops

    def loss(self, h: Tensor, target: Tensor, generator: Generator | None) -> Tensor:
        """(M,) nats of target (M, D) given states (M, E); the generator is not used."""
        x = target.float()
        index = ((x + self.limit) / self.bin_width).floor().clamp(-1, self.num_bins).long() + 1  # 0 and last: the tails
        nats = F.cross_entropy(self.chain(h, x).flatten(0, 1), index.flatten(), reduction="none").view_as(x)
        inside = (index > 0) & (index <= self.num_bins)
        return (nats + torch.where(inside, math.log(self.bin_width), x.abs() - self.limit)).sum(dim=-1)

    def sample(
        self, h: Tensor, *, h_uncond: Tensor | None, guidance: float, temperature: float, generator: Generator
    ) -> Tensor:
        """(M, D) given states (M, E): guidance on each channel's logits given the same earlier channels, then temperature."""
        check_temperature("bins", temperature)

        def pick(given: Tensor, without: Tensor | None) -> Tensor:
            logits = guided(given, without, guidance)
            index = draw(logits, temperature=temperature, top_p=1.0, generator=generator) - 1
            uniform = torch.rand(index.shape, generator=generator, device=generator.device).to(logits)
            tail = self.limit - torch.log1p(-uniform)
            x = (index + uniform) * self.bin_width - self.limit
            return torch.where(index < 0, -tail, torch.where(index == self.num_bins, tail, x))

        return self.chain.walk(h, without_caption(h_uncond, guidance), pick)
