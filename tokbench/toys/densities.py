"""Heads on known densities (claim C25): the same trunk, parameters and steps, another head. E width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from tokbench import build
from tokbench.cost import num_parameters
from tokbench.evaluate.measures import Measures, mean_of, measured, missing
from tokbench.metrics.points import coverage, sliced_wasserstein
from tokbench.metrics.standard_toys import DIRECTIONS
from tokbench.toys.targets import TARGETS, Target
from tokbench.train import fit

VERSION = 1
DIM = 2
TEST_SEED, PICTURED = 12345, 1000  # the test draws are the same for all
TILE = 2000  # points whose density is taken at a time


class Model(nn.Module):
    """A head whose state is the trunk's output for a fixed input: no condition but the parameters."""

    def __init__(self, node: Mapping[str, Any], *, width: int, depth: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(width))
        layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.SiLU())]
        self.trunk = nn.Sequential(*layers, nn.RMSNorm(width))
        self.head = build.construct(node, width=width, dim=DIM)

    def states(self, count: int) -> Tensor:
        """(count, E), all the same."""
        return self.trunk(self.start).expand(count, -1)

    def loss(self, x: Tensor, generator: Generator) -> Tensor:
        """(n,) of points (n, 2)."""
        return self.head.loss(self.states(len(x)), x, generator)

    def sample(self, count: int, generator: Generator) -> Tensor:
        """(count, 2)."""
        return self.head.sample(self.states(count), h_uncond=None, guidance=1.0, temperature=1.0, generator=generator)


def widest(node: Mapping[str, Any], *, depth: int, parameters: int) -> int:
    """The even width with the most parameters that are at most `parameters`; ValueError where two are too many."""

    def size(width: int) -> int:
        with torch.device("meta"):
            return num_parameters(Model(node, width=width, depth=depth))

    low, high = 1, 1024  # half of the width
    if size(2 * low) > parameters:
        raise ValueError(f"parameters must be >= {size(2 * low)} for {node['_target_']}, got {parameters}")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(2 * middle) <= parameters else (low, middle)
    return 2 * low


def run(config: Mapping[str, Any]) -> tuple[Measures, dict[str, np.ndarray]]:
    """Train the row's head on its target, and judge it; arrays of samples and of draws for a picture."""
    target, training, seed = TARGETS[config["target"]], config["training"], config["seed"]
    torch.manual_seed(seed)
    width = widest(config["head"], depth=config["depth"], parameters=config["parameters"])
    model = Model(config["head"], width=width, depth=config["depth"])
    noise = torch.Generator().manual_seed(seed)
    held_out = _draw(target, config["evaluation"]["validation"], TEST_SEED + 1)

    def validation() -> float:
        return model.loss(held_out, torch.Generator().manual_seed(0)).mean().item()

    fit(
        model,
        lambda x: {"loss": model.loss(x, noise).mean()},
        lambda generator: target.draw(training["batch"], generator).float(),
        validation=validation,
        seed=seed,
        **{key: value for key, value in training.items() if key != "batch"},
    )
    return _judge(model, target, config["evaluation"], seed=seed)


def _draw(target: Target, count: int, seed: int) -> Tensor:
    return target.draw(count, torch.Generator().manual_seed(seed)).float()


@torch.no_grad()
def _judge(
    model: Model, target: Target, sizes: Mapping[str, int], *, seed: int
) -> tuple[Measures, dict[str, np.ndarray]]:
    test, count = _draw(target, sizes["test"], TEST_SEED), sizes["samples"]
    log_p = target.log_density(test.double())
    likely = log_p.quantile(0.01) - 1e-6
    samples = model.sample(count, torch.Generator().manual_seed(seed))
    first, second = (_draw(target, count, TEST_SEED + 2 + place) for place in range(2))

    def outside(x: Tensor) -> Tensor:
        return target.log_density(x.double()) < likely

    cells = torch.where(outside(samples), -1, target.cells(samples.double()))
    found = {
        "toy/parameters": measured("toy/parameters", num_parameters(model)),
        "toy/kl_nats": missing("toy/kl_nats", "no likelihood"),
        "toy/sliced_wasserstein": measured(
            "toy/sliced_wasserstein",
            sliced_wasserstein(samples, first, directions=DIRECTIONS),
            n=count,
            floor=sliced_wasserstein(second, first, directions=DIRECTIONS),
        ),
        "toy/coverage": measured("toy/coverage", coverage(cells, target.num_cells), n=count),
        "toy/outside": measured(
            "toy/outside", outside(samples).double().mean().item(), n=count, floor=outside(first).double().mean().item()
        ),
    }
    if model.head.exact_nll:
        log_q = -torch.cat([model.loss(part, torch.Generator()) for part in test.split(TILE)]).double()
        found["toy/kl_nats"] = mean_of("toy/kl_nats", log_p - log_q)
    pictured = {"samples": samples[:PICTURED], "draws": first[:PICTURED]}
    return found, {name: points.half().numpy() for name, points in pictured.items()}
