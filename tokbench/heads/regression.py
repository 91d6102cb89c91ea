"""Least squares: the negative control of heads over continuous tokens. M tokens, E width, D channels.

Minimising |x - mu(h)|^2 is the likelihood of a Gaussian whose deviation does not depend on h (kexue.fm 10197): here one
sigma a channel, fitted with the rest. What is not such a Gaussian is averaged or drowned in noise.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from tokbench.diffusion import normal_like
from tokbench.heads.sampling import check_temperature, without_caption

VERSION = 1


class Regression(nn.Module):
    """p(x | h) = N(x; W h + b, diag sigma^2); its loss is the exact negative log likelihood of that."""

    reads: Literal["indices", "latents"] = "latents"
    exact_nll = True

    def __init__(self, *, width: int, dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(width, dim)
        nn.init.normal_(self.mean.weight, std=0.02)
        nn.init.zeros_(self.mean.bias)
        self.log_sigma = nn.Parameter(torch.zeros(dim))

    @property
    def flops(self) -> int:
        """2 E D."""
        return 2 * self.mean.in_features * self.mean.out_features

    def loss(self, h: Tensor, target: Tensor, generator: Generator | None) -> Tensor:
        """(M,) nats of target (M, D) given states (M, E); the generator is not used."""
        z = (target.float() - self.mean(h).float()) * (-self.log_sigma).exp()
        return (0.5 * z.square() + self.log_sigma + 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(
        self, h: Tensor, *, h_uncond: Tensor | None, guidance: float, temperature: float, generator: Generator
    ) -> Tensor:
        """(M, D): mean + temperature * sigma * noise.

        Guidance is of the density, p(x | h)^g p(x | h_uncond)^(1-g): as both have one sigma, it moves the mean and is exact.
        """
        check_temperature("regression", temperature)
        h_uncond, mean = without_caption(h_uncond, guidance), self.mean(h).float()
        if h_uncond is not None:
            without = self.mean(h_uncond).float()
            mean = without + guidance * (mean - without)
        return mean + temperature * self.log_sigma.exp() * normal_like(mean, generator)
