"""The variational bound of a denoiser on -log p(image tokens), for tokens that are 8-bit levels (arXiv:2107.00630, section 4).

B images, N tokens, D channels. With lambda = log(alpha^2 / sigma^2), the bound is in nats

    KL(q(z_1 | x) || N(0, 1)) + E[-log p(x | z_0)] + 1/2 E over lambda of (lambda_0 - lambda_1) e^lambda |x - x^(z)|^2,

the last of equation 15 as an integral over lambda, which is sampled evenly: e^lambda |x - x^|^2 is the error of the noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from tokbench.diffusion import Schedule, add_noise, normal_like

VERSION = 1
FINEST = 0.35  # sigma / alpha at z_0, in half-steps between levels: there p(x | z_0) is nearly certain
BISECTIONS = 60


def bound_nats(
    clean: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    step: Tensor,
    *,
    schedule: Schedule,
    times: int,
    generator: Generator,
) -> Tensor:
    """(B,) nats, an upper bound on -log p of x (B, N, D), whose values lie `step` (D,) apart; `times` noise levels an image.

    `clean(x_t, t)` is the denoiser's x_0, t (B,).
    """
    first = _time_of(schedule, -2 * torch.log(FINEST * step.min() / 2).double())
    last = torch.ones((), dtype=torch.float64)
    high, low = (_log_snr(schedule, t) for t in (first, last))
    nats = _prior_nats(x, schedule(last[None])) + _level_nats(x, step, schedule(first[None]), generator)
    for k in range(times):
        spread = torch.rand(len(x), generator=generator, device=generator.device).to(x.device).double()
        log_snr = low + (high - low) * (k + spread) / times  # one in each of `times` equal parts
        time = _time_of(schedule, log_snr).to(x)
        noisy = add_noise(x, normal_like(x, generator), schedule(time))
        error = (x - clean(noisy, time)).double().square().flatten(1).sum(dim=1)
        nats = nats + 0.5 * (high - low) / times * log_snr.exp() * error
    return nats


def _log_snr(schedule: Schedule, time: Tensor) -> Tensor:
    alpha, sigma = schedule(time.double().reshape(-1))
    return (2 * (alpha.log() - sigma.log())).reshape(time.shape)


def _time_of(schedule: Schedule, log_snr: Tensor) -> Tensor:
    """t (...) in float64 at which the schedule has that log signal-to-noise ratio, by bisection: it falls with t."""
    low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = _log_snr(schedule, middle) > log_snr
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2


def _prior_nats(x: Tensor, level: tuple[Tensor, Tensor]) -> Tensor:
    alpha, sigma = (part.double() for part in level)
    variance = sigma.square()
    return 0.5 * (variance + alpha.square() * x.double().square() - 1 - variance.log()).flatten(1).sum(dim=1)


def _level_nats(x: Tensor, step: Tensor, level: tuple[Tensor, Tensor], generator: Generator) -> Tensor:
    """-log p(x | z_0), p of a level in proportion to the density of z_0 around it, over the levels nearby (others have none)."""
    alpha, sigma = (part.double() for part in level)
    noise = normal_like(x, generator).double() * sigma / alpha  # of z_0 / alpha
    away = torch.arange(-8, 9, device=x.device, dtype=torch.float64)
    gaps = noise[..., None] - away * step.double()[:, None]
    log_p = -gaps.square() / (2 * (sigma / alpha).square())
    return (log_p.logsumexp(dim=-1) - log_p[..., 8]).flatten(1).sum(dim=1)
