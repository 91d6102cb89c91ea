"""A small denoiser for each token (MAR, arXiv:2406.11838, section 3). M tokens, E width, D channels, W width of the network.

c = T(t) + H h;  x' = I x_t;  each block x' + gate * MLP(scale * norm(x') + shift) with (scale, shift, gate) = A silu(c)
(adaLN-zero, arXiv:2212.09748);  the prediction O(scale * norm(x') + shift).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tokbench.diffusion import (
    SAMPLERS,
    add_noise,
    by_steps,
    choose,
    ddpm_step,
    evaluations,
    normal_like,
    process,
    sample,
)
from tokbench.heads.sampling import check_temperature, without_caption
from tokbench.layers import time_embedding

VERSION = 1


class Block(nn.Module):
    """(M, W) to the same, told by c (M, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tell = nn.Linear(width, 3 * width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.tell.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.tell(F.silu(c)).chunk(3, dim=-1)
        return x + gate * self.second(F.silu(self.first(_moved(x, shift, scale))))


class Denoiser(nn.Module):
    """What is predicted for x_t (M, D) at t (M,), told h (M, E)."""

    def __init__(self, *, width: int, dim: int, net_width: int, net_depth: int) -> None:
        super().__init__()
        self.dim, self.net_width, self.net_depth = dim, net_width, net_depth
        self.state = nn.Linear(width, net_width)
        self.time = nn.Sequential(nn.Linear(net_width, net_width), nn.SiLU(), nn.Linear(net_width, net_width))
        self.input = nn.Linear(dim, net_width)
        self.blocks = nn.ModuleList(Block(net_width) for _ in range(net_depth))
        self.tell = nn.Linear(net_width, 2 * net_width)
        self.output = nn.Linear(net_width, dim)
        for layer in (self.tell, self.output):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def flops(self) -> int:
        """Of one evaluation, without the state's map: 2 W (2 D + (5 depth + 4) W)."""
        return 2 * self.net_width * (2 * self.dim + (5 * self.net_depth + 4) * self.net_width)

    def forward(self, x: Tensor, time: Tensor, state: Tensor) -> Tensor:
        """(M, D) float32; `state` (M, W) is that of h."""
        c = state + self.time(time_embedding(time, self.net_width))
        x = self.input(x)
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.tell(F.silu(c)).chunk(2, dim=-1)
        return self.output(_moved(x, shift, scale)).float()


class Diffusion(nn.Module):
    """Its loss is the mean squared error of the prediction: no likelihood, nor a bound on one."""

    reads: Literal["indices", "latents"] = "latents"
    exact_nll = False

    def __init__(
        self,
        *,
        width: int,
        dim: int,
        net_width: int,
        net_depth: int,
        schedule: str,
        prediction: str,
        sampler: str,
        steps: int,
        draws: int,
    ) -> None:
        """Names of `tokbench.diffusion`; `steps` of the sampler a token, `draws` of (t, noise) a token in the loss."""
        super().__init__()
        if draws < 1 or net_width % 2:
            raise ValueError(f"draws must be >= 1 and net_width even, got {draws} and {net_width}")
        if net_width < 1 or net_depth < 0:
            raise ValueError(f"net_width must be >= 1 and net_depth >= 0, got {net_width} and {net_depth}")
        self.schedule, self.prediction = process(schedule, prediction)
        self.sampler, self.ancestral = choose(SAMPLERS, sampler, "sampler"), sampler == "ddpm"
        self.sampler_name = sampler
        self.evaluations, self.steps, self.draws = evaluations(sampler, steps), steps, draws
        self.net = Denoiser(width=width, dim=dim, net_width=net_width, net_depth=net_depth)

    def check_temperature(self, temperature: float) -> None:
        """ValueError unless the sampler can draw at this temperature, which only the noise of 'ddpm' has a use for."""
        check_temperature("diffusion", temperature)
        if temperature != 1 and not self.ancestral:
            raise ValueError(
                f"temperature must be 1 but with sampler 'ddpm', which alone adds noise, got {temperature} "
                f"with {self.sampler_name!r}"
            )

    @property
    def flops(self) -> int:
        """2 E W, and the denoiser's FLOPs for each of the sampler's evaluations."""
        return self._flops(self.evaluations)

    @property
    def loss_flops(self) -> int:
        """Of one token's loss: as `flops`, for each of its draws."""
        return self._flops(self.draws)

    def _flops(self, evaluations: int) -> int:
        return 2 * self.net.state.in_features * self.net.net_width + evaluations * self.net.flops

    def loss(self, h: Tensor, target: Tensor, generator: Generator | None) -> Tensor:
        """(M,): squared error of the prediction for target (M, D), mean over channels and `draws` of t in [0, 1]."""
        if generator is None:
            raise ValueError("head 'diffusion' draws t and noise in its loss: generator must be given, got None")
        target, state = (part.repeat(self.draws, 1) for part in (target.float(), self.net.state(h)))
        time = torch.rand(len(target), generator=generator, device=generator.device).to(target)
        level, noise = self.schedule(time), normal_like(target, generator)
        error = self.net(add_noise(target, noise, level), time, state) - self.prediction.target(target, noise, level)
        return error.square().mean(dim=-1).view(self.draws, -1).mean(dim=0)

    def sample(
        self, h: Tensor, *, h_uncond: Tensor | None, guidance: float, temperature: float, generator: Generator
    ) -> Tensor:
        """(M, D) given states (M, E); guidance is of the prediction (arXiv:2207.12598).

        `temperature` multiplies the noise of each ancestral step (arXiv:2406.11838, section 3.2): only sampler 'ddpm' adds any,
        and with another it must be 1.
        """
        self.check_temperature(temperature)
        h_uncond, state = without_caption(h_uncond, guidance), self.net.state(h)
        without = None if h_uncond is None else self.net.state(h_uncond)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            if without is None:
                return self.net(x, time, state)
            given, empty = self.net(x.repeat(2, 1), time.repeat(2), torch.cat((state, without))).chunk(2)
            return empty + guidance * (given - empty)

        return sample(
            predict,
            normal_like(h.new_empty(len(h), self.net.dim, dtype=torch.float32), generator),
            schedule=self.schedule,
            prediction=self.prediction,
            sampler=by_steps(partial(ddpm_step, temperature=temperature)) if self.ancestral else self.sampler,
            steps=self.steps,
            generator=generator,
        )


def _moved(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
