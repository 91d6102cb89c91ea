"""Diffusion as pure functions: schedules, predictions and samplers in continuous time t in [0, 1].

x_t = alpha x_0 + sigma eps; t = 0 is data, t = 1 noise; alpha^2 + sigma^2 = 1 but in `flow`. Tensors are (B, ...), t is (B,).
DDPM arXiv:2006.11239, DDIM 2010.02502, v 2202.00512 (appendix D), the cosine of 2102.09672 without its offset, flow
matching 2209.03003. What a sampler costs is counted in function evaluations, calls of the network: `evaluations`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Generator, Tensor

VERSION = 1
LATEST = 0.995  # t is clipped here: alpha = .008 (cosine), .007 (linear), so that x_0 from eps divides by no zero
TINY = 1e-6
BETA_RANGE, NUM_DDPM_STEPS = 0.02, 1000

Level = tuple[Tensor, Tensor]  # alpha and sigma
Schedule = Callable[[Tensor], Level]
Clean = Callable[[Tensor, Tensor], Tensor]  # x_t (B, ...) and t (B,) to x_0
Step = Callable[
    [Tensor, Tensor, Tensor, Level, Level, Generator], Tensor
]  # x_t, x_0, eps, level, next level, generator
Sampler = Callable[
    [Clean, Tensor, Sequence[Tensor], Schedule, Generator], Tensor
]  # also x at the first of the falling times
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


def flow(time: Tensor) -> Level:
    """alpha = 1 - t, sigma = t: the straight path of flow matching (arXiv:2209.03003)."""
    time = time.clamp(0, LATEST)
    return 1 - time, time


def shifted(schedule: Schedule, *, scale: float) -> Schedule:
    """The schedule with its signal-to-noise ratio alpha^2 / sigma^2 times scale^2, and alpha^2 + sigma^2 = 1.

    Averaging s x s pixels multiplies that ratio by s^2, so an image s times as long looks as noisy as the small one did at
    scale = 1 / s (arXiv:2301.11093, section 2.1, 64 / d; kexue.fm 10047).
    """
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")

    def moved(time: Tensor) -> Level:
        alpha, sigma = schedule(time)
        norm = torch.hypot(scale * alpha, sigma)
        return scale * alpha / norm, sigma / norm

    return moved


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


def _flow_to_clean(velocity: Tensor, x: Tensor, level: Level) -> Tensor:
    alpha, sigma = _spread(level, x)
    return (x - sigma * velocity) / (alpha + sigma)


def implied_noise(x0: Tensor, x: Tensor, level: Level) -> Tensor:
    """eps (B, ...) that makes x_t of x_0 at t > 0."""
    alpha, sigma = _spread(level, x)
    return (x - alpha * x0) / sigma


def ddim_step(x: Tensor, x0: Tensor, eps: Tensor, now: Level, then: Level, generator: Generator) -> Tensor:
    """x_s (B, ...) from x_t, s < t, along the deterministic path (arXiv:2010.02502, equation 12 with sigma = 0)."""
    return add_noise(x0, eps, then)


def ddpm_step(
    x: Tensor, x0: Tensor, eps: Tensor, now: Level, then: Level, generator: Generator, *, temperature: float = 1.0
) -> Tensor:
    """x_s (B, ...) drawn from q(x_s | x_t, x_0), s < t (arXiv:2006.11239, (6) and (7); 2107.00630, appendix A).

    The noise is times `temperature` (arXiv:2406.11838, section 3.2).
    """
    mean, variance = posterior(x, x0, now, then)
    return mean + variance.sqrt() * normal_like(x, generator) * temperature


def posterior(x: Tensor, x0: Tensor, now: Level, then: Level) -> tuple[Tensor, Tensor]:
    """Mean (B, ...) and variance (B, 1, ...) of x_s given x_t and x_0."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = _spread(now, x), _spread(then, x)
    ratio = alpha_t / alpha_s
    added = sigma_t**2 - ratio**2 * sigma_s**2
    mean = (ratio * sigma_s**2 * x + alpha_s * added * x0) / sigma_t**2
    return mean, (added * sigma_s**2 / sigma_t**2).clamp(min=0)


def by_steps(step: Step) -> Sampler:
    """The sampler that takes one such step from each time to the next."""

    def run(clean: Clean, x: Tensor, times: Sequence[Tensor], schedule: Schedule, generator: Generator) -> Tensor:
        for time, following in pairwise(times):
            now, then = schedule(time), schedule(following)
            x0 = clean(x, time)
            x = step(x, x0, implied_noise(x0, x, now), now, then, generator)
        return x

    return run


def euler(clean: Clean, x: Tensor, times: Sequence[Tensor], schedule: Schedule, generator: Generator) -> Tensor:
    """x_0 by Euler's method on dx/dt = alpha' x_0 + sigma' eps; the last step goes to the x_0 seen there. DDIM on `flow`."""
    times = [time * LATEST for time in times]
    for time, following in pairwise(times[:-1]):
        x = x + _wide(following - time, x) * _slope(clean, x, time, schedule)
    return clean(x, times[-2])


def heun(clean: Clean, x: Tensor, times: Sequence[Tensor], schedule: Schedule, generator: Generator) -> Tensor:
    """x_0 by Heun's method on the same equation, second order; the last step is Euler's (arXiv:2206.00364, algorithm 1)."""
    times = [time * LATEST for time in times]
    for time, following in pairwise(times[:-1]):
        length, first = _wide(following - time, x), _slope(clean, x, time, schedule)
        second = _slope(clean, x + length * first, following, schedule)
        x = x + length * (first + second) / 2
    return clean(x, times[-2])


def dpm_solver_2m(clean: Clean, x: Tensor, times: Sequence[Tensor], schedule: Schedule, generator: Generator) -> Tensor:
    """x_0 by DPM-Solver++(2M), second order in one evaluation a step (arXiv:2211.01095, algorithm 2).

    It is DDIM towards x_0 extrapolated in lambda = log(alpha / sigma); the first and the last step, where lambda is
    infinite, are plain DDIM.
    """
    times = [time * LATEST for time in times]
    before: tuple[Tensor, Tensor] | None = None  # x_0 and lambda of the step before
    for place, (time, following) in enumerate(pairwise(times), start=2):
        now, then = schedule(time), schedule(following)
        x0, here = clean(x, time), _wide(_log_ratio(now), x)
        towards = x0
        if before is not None and place < len(times):
            ahead = _wide(_log_ratio(then), x) - here
            towards = x0 + (x0 - before[0]) * ahead / (2 * (here - before[1]))
        before = x0, here
        x = add_noise(towards, implied_noise(towards, x, now), then)
    return x


def _slope(clean: Clean, x: Tensor, time: Tensor, schedule: Schedule) -> Tensor:
    """dx/dt (B, ...) of the probability flow at t > 0; the schedule's part by a difference, to about 1e-6."""
    after, before = schedule(time.double()), schedule(time.double() - TINY)
    alpha, sigma = (((late - early) / TINY).to(x) for late, early in zip(after, before, strict=True))
    x0 = clean(x, time)
    return _wide(alpha, x) * x0 + _wide(sigma, x) * implied_noise(x0, x, schedule(time))


def _log_ratio(level: Level) -> Tensor:
    return level[0].log() - level[1].log()


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
    """x_0 (B, ...) from noise (B, ...) in `steps` even steps of t from 1 to 0; predict(x, t (B,)) is called `evaluations` times.

    Samplers of the differential equation start at LATEST, where the level is that of t = 1.
    """

    def clean(x: Tensor, time: Tensor) -> Tensor:
        return prediction.clean(predict(x, time), x, schedule(time))

    times = [noise.new_full((len(noise),), place / steps) for place in range(steps, -1, -1)]
    return sampler(clean, noise, times, schedule, generator)


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "linear": linear, "flow": flow}
PREDICTIONS: dict[str, Prediction] = {
    "x0": Prediction(lambda x0, eps, level: x0, lambda x0, x, level: x0),
    "eps": Prediction(lambda x0, eps, level: eps, _eps_to_clean),
    "v": Prediction(_velocity, _velocity_to_clean),
    "flow": Prediction(lambda x0, eps, level: eps - x0, _flow_to_clean),
}
SAMPLERS: dict[str, Sampler] = {
    "ddim": by_steps(ddim_step),
    "ddpm": by_steps(ddpm_step),
    "euler": euler,
    "heun": heun,
    "dpm_solver_2m": dpm_solver_2m,
}


def evaluations(sampler: str, steps: int) -> int:
    """Calls of the network that the sampler makes in so many steps: 2 a step of Heun's but its last, else 1."""
    choose(SAMPLERS, sampler, "sampler")
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps}")
    return 2 * steps - 1 if sampler == "heun" else steps


def process(schedule: str, prediction: str) -> tuple[Schedule, Prediction]:
    """Both by name; ValueError lists the names, or refuses v where alpha^2 + sigma^2 is not 1."""
    chosen = choose(SCHEDULES, schedule, "schedule"), choose(PREDICTIONS, prediction, "prediction")
    if (schedule, prediction) == ("flow", "v"):
        raise ValueError(
            "prediction 'v' needs alpha^2 + sigma^2 = 1, which schedule 'flow' is not; its velocity is 'flow'"
        )
    return chosen


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
    return _wide(level[0], x), _wide(level[1], x)


def _wide(value: Tensor, x: Tensor) -> Tensor:
    """(B,) as (B, 1, ...) against x (B, ...)."""
    return value.view((-1,) + (1,) * (x.ndim - 1))
