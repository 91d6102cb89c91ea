"""The bound of a denoiser against data whose entropy is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tokbench.diffusion import SCHEDULES
from tokbench.information.diffusion_bound import _log_snr, _time_of, bound_nats

STEP = 0.5
LEVELS = torch.arange(-3, 4) * STEP  # seven equally likely values


def optimal(schedule: object) -> object:
    """E[x_0 | x_t] of independent uniform levels."""

    def clean(x: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = (part.reshape(-1, 1, 1, 1) for part in schedule(time))  # type: ignore[operator]
        log_p = -((x[..., None] - alpha * LEVELS) ** 2) / (2 * sigma**2)
        return log_p.softmax(dim=-1) @ LEVELS

    return clean


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_the_best_denoiser_of_uniform_levels_reaches_their_entropy(name: str) -> None:
    schedule = SCHEDULES[name]
    generator = torch.Generator().manual_seed(0)
    x = LEVELS[torch.randint(7, (64, 8, 4), generator=generator)]
    step = torch.full((4,), STEP)
    found = bound_nats(optimal(schedule), x, step, schedule=schedule, times=64, generator=generator)  # type: ignore[arg-type]
    per_value = found.mean().item() / 32
    assert per_value >= math.log(7) - 0.02  # sampling error alone
    assert per_value == pytest.approx(math.log(7), rel=0.02)


def test_a_worse_denoiser_has_a_longer_code() -> None:
    schedule = SCHEDULES["cosine"]
    x = LEVELS[torch.randint(7, (64, 8, 4), generator=torch.Generator().manual_seed(0))]
    best, worse = (
        bound_nats(
            lambda z, t, off=off: optimal(schedule)(z, t) + off,  # type: ignore[operator,misc]
            x,
            torch.full((4,), STEP),
            schedule=schedule,
            times=16,
            generator=torch.Generator().manual_seed(1),
        ).mean()
        for off in (0.0, 0.1)
    )
    assert worse > best + 1


def test_the_time_of_a_noise_level_is_found() -> None:
    time = torch.tensor([1e-4, 0.1, 0.5, 0.9], dtype=torch.float64)
    for name in ("cosine", "linear"):
        assert torch.allclose(_time_of(SCHEDULES[name], _log_snr(SCHEDULES[name], time)), time, rtol=1e-5)
