"""The Fourier basis density of each channel (arXiv:2402.15345; kexue.fm 10007). M tokens, E width, D channels, N frequencies.

On [-1, 1], with a_0..a_N complex and c_n = sum_k a_k conj(a_(k+n)):
  p(x) = |sum_k a_k exp(-i pi k x)|^2 / (2 c_0) = 1/2 + Re sum_(n>=1) (c_n / c_0) exp(i pi n x)
  P(x) = (x + 1) / 2 + Re sum_(n>=1) (c_n / c_0) (exp(i pi n x) - (-1)^n) / (i pi n)
(the second is corrected: that of kexue.fm 10007 is not a distribution function). A share FLOOR of a uniform density keeps log p
finite where the sum vanishes. On R: x = tanh((y - mu) / sigma). Channels follow each other as in `tokbench.heads.chain`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tokbench.heads.chain import Chain
from tokbench.heads.sampling import check_temperature, resample, without_caption

VERSION = 1
FLOOR = 1e-4
BISECTIONS = 26  # of [-1, 1]: to 3e-8
NEAREST_END = 1 - 1e-6  # of a drawn x: y within 7.3 sigma of mu


def autocorrelation(a: Tensor) -> Tensor:
    """c_0..c_N (..., N + 1) complex of a (..., N + 1): c_n = sum_k a_k conj(a_(k+n))."""
    size = a.shape[-1]
    return torch.fft.ifft(torch.fft.fft(a, n=2 * size).abs().square())[..., :size].conj()


def density(a: Tensor, x: Tensor) -> Tensor:
    """p(x) (...) >= 0 on [-1, 1], of a (..., N + 1), without the floor."""
    frequencies = torch.arange(a.shape[-1], device=x.device)
    waves = torch.polar(torch.ones_like(x)[..., None], -math.pi * x[..., None] * frequencies)
    return (a * waves).sum(-1).abs().square() / (2 * a.abs().square().sum(-1))


def distribution(c: Tensor, x: Tensor) -> Tensor:
    """P(x) (...) from 0 at -1 to 1 at 1, of c = `autocorrelation(a)` (..., N + 1), without the floor."""
    n = torch.arange(1, c.shape[-1], device=x.device, dtype=x.dtype)
    angles, ratio = math.pi * x[..., None] * n, c[..., 1:] / c[..., :1].real
    terms = ratio.real * angles.sin() + ratio.imag * (angles.cos() - (math.pi * n).cos())
    return (x + 1) / 2 + (terms / (math.pi * n)).sum(-1)


def roughness(a: Tensor) -> Tensor:
    """(...): the integral of p'(x)^2 over [-1, 1], sum_n pi^2 n^2 |c_n / c_0|^2."""
    c = autocorrelation(a)
    n = torch.arange(c.shape[-1], device=c.device)
    return ((math.pi * n).square() * (c / c[..., :1].real).abs().square()).sum(-1)


@dataclass(frozen=True, eq=False)
class Channel:
    """The density of one channel of M tokens on R."""

    a: Tensor  # (M, N + 1) complex
    mu: Tensor  # (M,)
    sigma: Tensor  # (M,)

    def log_density(self, y: Tensor) -> Tensor:
        """(..., M) nats per unit at y (..., M)."""
        z = (y - self.mu) / self.sigma
        steepness = 2 * (math.log(2) - z.abs() - F.softplus(-2 * z.abs()))  # log sech^2
        p = (1 - FLOOR) * density(self.a, z.tanh()) + FLOOR / 2
        return p.log() + steepness - self.sigma.log()

    def draw(self, count: int, generator: Generator) -> Tensor:
        """(count, M) by bisection of the distribution function."""
        uniform = torch.rand(count, len(self.mu), generator=generator, device=generator.device).to(self.mu)
        c, low, high = autocorrelation(self.a), -torch.ones_like(uniform), torch.ones_like(uniform)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = (1 - FLOOR) * distribution(c, middle) + FLOOR * (middle + 1) / 2 > uniform
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        x = ((low + high) / 2).clamp(-NEAREST_END, NEAREST_END)
        return self.mu + self.sigma * x.atanh()


class Fourier(nn.Module):
    """Its loss is the exact negative log likelihood; in training mode gamma times the roughness of each channel is added."""

    reads: Literal["indices", "latents"] = "latents"
    exact_nll = True

    def __init__(
        self, *, width: int, dim: int, num_frequencies: int, min_sigma: float, gamma: float, num_candidates: int
    ) -> None:
        """Each channel starts as p = 1/2, mu = 0 and sigma = 1; `num_candidates` are of guided or tempered draws."""
        super().__init__()
        if num_frequencies < 1 or num_candidates < 1 or not min_sigma > 0 or gamma < 0:
            raise ValueError(
                "num_frequencies and num_candidates must be >= 1, min_sigma > 0 and gamma >= 0, "
                f"got {num_frequencies}, {num_candidates}, {min_sigma} and {gamma}"
            )
        self.num_frequencies, self.min_sigma, self.gamma = num_frequencies, min_sigma, gamma
        self.num_candidates = num_candidates
        self.chain = Chain(width=width, dim=dim, num_outputs=2 * num_frequencies + 4)
        self.chain.output.bias.data[0] = 1.0  # a_0
        self.chain.output.bias.data[-1] = math.log(math.e - 1)  # softplus of it is 1

    @property
    def flops(self) -> int:
        """Of matrix products; the series are left out as all pointwise work is."""
        return self.chain.flops

    def channel(self, parameters: Tensor) -> Channel:
        """The density that parameters (..., 2 N + 4) stand for."""
        size = self.num_frequencies + 1
        real, imaginary, mu, raw = parameters.split((size, size, 1, 1), dim=-1)
        return Channel(torch.complex(real, imaginary), mu[..., 0], self.min_sigma + F.softplus(raw[..., 0]))

    def loss(self, h: Tensor, target: Tensor, generator: Generator | None) -> Tensor:
        """(M,) nats of target (M, D) given states (M, E); the generator is not used."""
        y = target.float()
        channels = self.channel(self.chain(h, y))
        nats = -channels.log_density(y)
        if self.training and self.gamma:
            nats = nats + self.gamma * roughness(channels.a)
        return nats.sum(dim=-1)

    def sample(
        self, h: Tensor, *, h_uncond: Tensor | None, guidance: float, temperature: float, generator: Generator
    ) -> Tensor:
        """(M, D) given states (M, E), channel by channel: (p(. | h)^g p(. | h_uncond)^(1-g))^(1/temperature).

        Both are given the same earlier channels. At g = 1 and temperature 1 the draw is exact; else it is importance
        resampling of `num_candidates` draws from p(. | h), exact only as they grow in number.
        """
        check_temperature("fourier", temperature)
        plain = guidance == 1 and temperature == 1

        def pick(parameters: Tensor, without: Tensor | None) -> Tensor:
            given = self.channel(parameters)
            if plain:
                return given.draw(1, generator)[0]
            candidates = given.draw(self.num_candidates, generator)
            own = wanted = given.log_density(candidates)
            if without is not None:
                wanted = guidance * own + (1 - guidance) * self.channel(without).log_density(candidates)
            return resample(candidates, wanted / temperature - own, generator)

        return self.chain.walk(h, without_caption(h_uncond, guidance), pick)
