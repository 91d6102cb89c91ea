"""Diffusion as pure functions: schedules, predictions and samplers in continuous time t in [0, 1].

x_t = alpha x_0 + sigma eps with alpha^2 + sigma^2 = 1; t = 0 is data, t = 1 noise. Tensors are (B, ...), t is (B,).
DDPM arXiv:2006.11239, DDIM 2010.02502, v 2202.00512 (appendix D), the cosine of 2102.09672 without its offset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Generator, Tensor

VERSION = 1
LATEST = 0.995  # t is clipped here: alpha = .008 (cosine), .007 (linear), so that x_0 from eps divides by no zero
BETA_RANGE, NUM_DDPM_STEPS = 0.02, 1000

Level = tuple[Tensor, Tensor]  # alpha and sigma
Schedule = Callable[[Tensor], Level]
Sampler = Callable[[Tensor, Tensor, Tensor, Level, Level, Generator], Tensor]
T = TypeVar("T")


def cosine(time: Tensor) -> Level:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2), of t (B,)."""
    angle = time.clamp(0, LATEST) * torch.pi / 2
    return angle.cos(), angle.sin()


def linear(time: Tensor) -> Level:
    """The limit of alpha_n = prod_k sqrt(1 - .02 k / 1000), n = 1000 t (ddpm-gau, kexue.fm 9984); log SNR ends at -10.

    log alpha = 500 * integral_0^t log(1 - .02 u) du = -25000 ((1 - x) log(1 - x) + x) with x = .02 t, as a series:
    float32 would cancel. Its error is below 1e-6 of the value.
    """
    x = time.clamp(0, LATEST) * BETA_RANGE
    log_alpha = -NUM_DDPM_STEPS / (2 * BETA_RANGE) * (x**2 / 2 + x**3 / 6 + x**4 / 12)
    return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()


def add_noise(x0: Tensor, noise: Tensor, level: Level) -> Tensor:
    """x_t (B, ...) of clean x_0 and noise at level alpha, sigma (B,)."""
    alpha, sigma = _spread(level, x0)
    return alpha * x0 + sigma * noise


@dataclass(frozen=True)
class Prediction:
    """What a network is asked for, `target(x0, eps, level)`, and the way back, `clean(prediction, x_t, level)`."""

    target: Callable[[Tensor, Tensor, Level], Tensor]
    clean: Callable[[Tensor, Tensor, Level], Tensor]


def _eps_to_clean(eps: Tensor, x: Tensor, level: Level) -> Tensor:
    alpha, sigma = _spread(level, x)
    return (x - sigma * eps) / alpha


def _velocity(x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    alpha, sigma = _spread(level, x0)
    return alpha * eps - sigma * x0


def _velocity_to_clean(v: Tensor, x: Tensor, level: Level) -> Tensor:
    alpha, sigma = _spread(level, x)
    return alpha * x - sigma * v


def implied_noise(x0: Tensor, x: Tensor, level: Level) -> Tensor:
    """eps (B, ...) that makes x_t of x_0 at t > 0."""
    alpha, sigma = _spread(level, x)
    return (x - alpha * x0) / sigma


def ddim_step(x: Tensor, x0: Tensor, eps: Tensor, now: Level, then: Level, generator: Generator) -> Tensor:
    """x_s (B, ...) from x_t, s < t, along the deterministic path (arXiv:2010.02502, equation 12 with sigma = 0)."""
    return add_noise(x0, eps, then)


def ddpm_step(x: Tensor, x0: Tensor, eps: Tensor, now: Level, then: Level, generator: Generator) -> Tensor:
    """x_s (B, ...) drawn from q(x_s | x_t, x_0), s < t (arXiv:2006.11239, (6) and (7); 2107.00630, appendix A)."""
    mean, variance = posterior(x, x0, now, then)
    return mean + variance.sqrt() * normal_like(x, generator)


def posterior(x: Tensor, x0: Tensor, now: Level, then: Level) -> tuple[Tensor, Tensor]:
    """Mean (B, ...) and variance (B, 1, ...) of x_s given x_t and x_0."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = _spread(now, x), _spread(then, x)
    ratio = alpha_t / alpha_s
    added = sigma_t**2 - ratio**2 * sigma_s**2
    mean = (ratio * sigma_s**2 * x + alpha_s * added * x0) / sigma_t**2
    return mean, (added * sigma_s**2 / sigma_t**2).clamp(min=0)


def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    *,
    schedule: Schedule,
    prediction: Prediction,
    sampler: Sampler,
    steps: int,
    generator: Generator,
) -> Tensor:
    """x_0 (B, ...) from noise (B, ...) in `steps` calls of predict(x, t (B,)), at t = 1, 1 - 1/steps, ..., 1/steps."""
    x = noise
    for step in range(steps, 0, -1):
        time, following = (x.new_full((len(x),), place / steps) for place in (step, step - 1))
        now, then = schedule(time), schedule(following)
        x0 = prediction.clean(predict(x, time), x, now)
        x = sampler(x, x0, implied_noise(x0, x, now), now, then, generator)
    return x


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "linear": linear}
PREDICTIONS: dict[str, Prediction] = {
    "x0": Prediction(lambda x0, eps, level: x0, lambda x0, x, level: x0),
    "eps": Prediction(lambda x0, eps, level: eps, _eps_to_clean),
    "v": Prediction(_velocity, _velocity_to_clean),
}
SAMPLERS: dict[str, Sampler] = {"ddim": ddim_step, "ddpm": ddpm_step}


def choose(options: dict[str, T], name: str, argument: str) -> T:
    """The option of that name; ValueError lists them."""
    if name not in options:
        raise ValueError(f"{argument} must be one of {', '.join(options)}, got {name!r}")
    return options[name]


def normal_like(x: Tensor, generator: Generator) -> Tensor:
    """Standard normal noise of x's shape, drawn where the generator lives."""
    return torch.randn(x.shape, generator=generator, device=generator.device).to(x)


def _spread(level: Level, x: Tensor) -> Level:
    """alpha and sigma (B,) as (B, 1, ...) against x (B, ...)."""
    alpha, sigma = level
    shape = (-1,) + (1,) * (x.ndim - 1)
    return alpha.view(shape), sigma.view(shape)
