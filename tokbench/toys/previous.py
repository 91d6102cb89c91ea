"""Predicting x_0 against predicting x_(t-1) (claim C27; kexue.fm 10197), which is drawn anew from q(x_(t-1) | x_t, x_0).

With c the weight of x_0 in the mean of q, |mean(x_t, f) - x_(t-1)|^2 / c^2 has the same expected gradient as |f - x_0|^2: what
differs is the noise of that draw alone. Unweighted, it also neglects large t. T steps of diffusion, of the cosine schedule.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Generator, Tensor

from tokbench.diffusion import LATEST, Level, add_noise, cosine, ddpm_step, normal_like, posterior
from tokbench.evaluate.measures import Measures, measured
from tokbench.heads.diffusion import Denoiser
from tokbench.metrics.standard_toys import BATCHES
from tokbench.toys.densities import DIM, TEST_SEED
from tokbench.toys.targets import TARGETS
from tokbench.train import fit

VERSION = 1
# x_0 predicted, x_0, x_t and their levels at t and t - 1 to an error (M,)
Error = Callable[[Tensor, Tensor, Tensor, Level, Level, Generator], Tensor]


def clean_error(found: Tensor, x0: Tensor, x: Tensor, now: Level, then: Level, generator: Generator) -> Tensor:
    """|f - x_0|^2 a channel."""
    return (found - x0).square().mean(dim=1)


def previous_error(
    found: Tensor, x0: Tensor, x: Tensor, now: Level, then: Level, generator: Generator, *, weighted: bool
) -> Tensor:
    """|mean(x_t, f) - x_(t-1)|^2 a channel, x_(t-1) drawn from q; divided by c^2 where weighted."""
    drawn = ddpm_step(x, x0, x, now, then, generator)
    error = (posterior(x, found, now, then)[0] - drawn).square().mean(dim=1)
    weight = posterior(torch.zeros_like(x), torch.ones_like(x), now, then)[0][:, 0]
    return error / weight.square() if weighted else error


ERRORS: dict[str, Error] = {
    "x0": clean_error,
    "previous": partial(previous_error, weighted=True),
    "previous_unweighted": partial(previous_error, weighted=False),
}


def loss(net: Denoiser, error: Error, x0: Tensor, *, steps: int, generator: Generator) -> Tensor:
    """(M,) of x_0 (M, 2), each at one of `steps` even times."""
    place = torch.randint(1, steps + 1, (len(x0),), generator=generator)
    time, before = (LATEST * (place - back).to(x0) / steps for back in (0, 1))
    now, then = cosine(time), cosine(before)
    x = add_noise(x0, normal_like(x0, generator), now)
    return error(_clean(net, x, time), x0, x, now, then, generator)


def _clean(net: Denoiser, x: Tensor, time: Tensor) -> Tensor:
    return net(x, time, net.state(x.new_zeros(len(x), 1)))


def gradient_variance(net: Denoiser, batch_loss: Callable[[], Tensor]) -> float:
    """The variance of the gradient of `batch_loss()`, summed over the parameters, over BATCHES calls."""
    parameters = list(net.parameters())
    gradients = torch.stack(
        [torch.cat([part.flatten() for part in torch.autograd.grad(batch_loss(), parameters)]) for _ in range(BATCHES)]
    )
    return gradients.double().var(dim=0).sum().item()


def run(config: Mapping[str, Any]) -> Measures:
    """The error in x_0 after training by the row's own error, and the variance of that error's gradient."""
    name, seed, steps = config["name"], config["seed"], config["diffusion_steps"]
    settings = json.dumps({key: value for key, value in config.items() if key != "name"})
    common, own = _trained(settings, "x0"), _trained(settings, name)
    draws, target = torch.Generator().manual_seed(seed), TARGETS[config["target"]]

    def batch_loss() -> Tensor:
        x0 = target.draw(config["training"]["batch"], draws).float()
        return loss(common, ERRORS[name], x0, steps=steps, generator=draws).mean()

    found = {
        "toy/denoising_error": _judged(own, config),
        "toy/gradient_variance_log10": math.log10(gradient_variance(common, batch_loss)),
    }
    return {key: measured(key, value) for key, value in found.items()}


@lru_cache(maxsize=2)
def _trained(settings: str, name: str) -> Denoiser:
    """The net that minimised the error of that name; the last ones are kept, as rows share that of x_0."""
    config = json.loads(settings)
    training, target = config["training"], TARGETS[config["target"]]
    torch.manual_seed(config["seed"])
    net = Denoiser(width=1, dim=DIM, net_width=config["net_width"], net_depth=config["net_depth"])
    noise = torch.Generator().manual_seed(config["seed"])
    fit(
        net,
        lambda x: {"loss": loss(net, ERRORS[name], x, steps=config["diffusion_steps"], generator=noise).mean()},
        lambda generator: target.draw(training["batch"], generator).float(),
        validation=lambda: _judged(net, config),
        seed=config["seed"],
        **{key: value for key, value in training.items() if key != "batch"},
    )
    return net


@torch.no_grad()
def _judged(net: Denoiser, config: Mapping[str, Any]) -> float:
    x0 = TARGETS[config["target"]].draw(config["evaluation"]["test"], torch.Generator().manual_seed(TEST_SEED)).float()
    generator = torch.Generator().manual_seed(TEST_SEED)
    return loss(net, clean_error, x0, steps=config["diffusion_steps"], generator=generator).mean().item()
