"""A mixture of Gaussians over the channels of a token (GIVT, arXiv:2312.02116). M tokens, E width, D channels, K components.

p(x | h) = sum_k pi_k(h) N(x; mu_k(h), diag sigma_k(h)^2),  sigma = min_sigma + softplus(.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tokbench.diffusion import normal_like
from tokbench.heads.sampling import check_temperature, draw, resample, without_caption

VERSION = 1
UNIT = math.log(math.e - 1)  # softplus of it is 1


@dataclass(frozen=True, eq=False)
class Components:
    """The K Gaussians of M tokens."""

    logits: Tensor  # (M, K)
    mean: Tensor  # (M, K, D)
    sigma: Tensor  # (M, K, D)

    def log_density(self, x: Tensor) -> Tensor:
        """(..., M) nats per unit volume at x (..., M, D)."""
        z = (x[..., None, :] - self.mean) / self.sigma
        each = -0.5 * z.square() - self.sigma.log() - 0.5 * math.log(2 * math.pi)
        return (self.logits.log_softmax(-1) + each.sum(-1)).logsumexp(-1)

    def draw(self, *, temperature: float, generator: Generator) -> Tensor:
        """(M, D), with every sigma times `temperature`."""
        chosen = draw(self.logits, temperature=1.0, top_p=1.0, generator=generator)
        rows = torch.arange(len(chosen), device=chosen.device)
        mean, sigma = self.mean[rows, chosen], self.sigma[rows, chosen]
        return mean + temperature * sigma * normal_like(mean, generator)


class Mixture(nn.Module):
    """Its loss is the exact negative log likelihood, at least D log min_sigma."""

    reads: Literal["indices", "latents"] = "latents"
    exact_nll = True

    def __init__(
        self, *, width: int, dim: int, num_components: int, min_sigma: float, spread: float, num_candidates: int
    ) -> None:
        """Components start at sigma = 1 with means drawn from N(0, spread^2); `num_candidates` are of guidance."""
        super().__init__()
        if num_components < 1 or num_candidates < 1 or not min_sigma > 0:
            raise ValueError(
                "num_components and num_candidates must be >= 1 and min_sigma > 0, "
                f"got {num_components}, {num_candidates} and {min_sigma}"
            )
        self.dim, self.num_components, self.min_sigma = dim, num_components, min_sigma
        self.num_candidates = num_candidates
        self.parameters_of = nn.Linear(width, num_components * (1 + 2 * dim))
        nn.init.normal_(self.parameters_of.weight, std=0.02)
        means = spread * torch.randn(num_components * dim)
        start = torch.cat((torch.zeros(num_components), means, torch.full_like(means, UNIT)))
        self.parameters_of.bias.data.copy_(start)

    @property
    def flops(self) -> int:
        """2 E K (2 D + 1)."""
        return 2 * self.parameters_of.in_features * self.parameters_of.out_features

    def components(self, h: Tensor) -> Components:
        """The Gaussians of states (M, E)."""
        k, d = self.num_components, self.dim
        logits, mean, raw = self.parameters_of(h).float().split((k, k * d, k * d), dim=-1)
        sigma = self.min_sigma + F.softplus(raw.unflatten(-1, (k, d)))
        return Components(logits, mean.unflatten(-1, (k, d)), sigma)

    def loss(self, h: Tensor, target: Tensor, generator: Generator | None) -> Tensor:
        """(M,) nats of target (M, D) given states (M, E); the generator is not used."""
        return -self.components(h).log_density(target.float())

    def sample(
        self, h: Tensor, *, h_uncond: Tensor | None, guidance: float, temperature: float, generator: Generator
    ) -> Tensor:
        """(M, D) given states (M, E); `temperature` multiplies every sigma (variance scaling, arXiv:2312.02116).

        Guidance is of the density, p(x | h)^g p(x | h_uncond)^(1-g), as in that paper, but by importance resampling where it
        rejects: of `num_candidates` drawn at this temperature from p(x | h), one with odds (p(x | h) / p(x | h_uncond))^(g-1).
        So it is defined where the product has no finite mass, never leaves the support of the candidates, and is exact
        only as they grow in number.
        """
        check_temperature("mixture", temperature)
        h_uncond, given = without_caption(h_uncond, guidance), self.components(h)
        if h_uncond is None:
            return given.draw(temperature=temperature, generator=generator)
        draws = [given.draw(temperature=temperature, generator=generator) for _ in range(self.num_candidates)]
        candidates, empty = torch.stack(draws), self.components(h_uncond)
        ratio = given.log_density(candidates) - empty.log_density(candidates)
        return resample(candidates, (guidance - 1) * ratio, generator)
