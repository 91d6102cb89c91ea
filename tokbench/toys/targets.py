"""Densities on the plane that are known exactly: what a head over continuous tokens is asked to learn.

Each has zero mean and unit variance a channel, as standardised tokens have, and cells of equal mass that tell whether all of it
is found. Points are (n, 2) float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

VERSION = 1
MODE_SIGMA, RING_SIGMA, CORRELATION = 0.15, 0.1, 0.9
MODE = math.sqrt(1 - MODE_SIGMA**2)
RING = math.sqrt((2 - RING_SIGMA**2) / 5)  # rings of radius RING and 3 RING: E r^2 / 2 = 1
HALF_BOARD, SQUARES = math.sqrt(3), 4  # a board of 4 x 4 squares on [-sqrt 3, sqrt 3]^2
SECTORS = 8


@dataclass(frozen=True)
class Target:
    """One density: `draw(n, generator)`, `log_density(x)` in nats, and `cells(x)`, -1 outside all of `num_cells`."""

    draw: Callable[[int, Generator], Tensor]
    log_density: Callable[[Tensor], Tensor]
    cells: Callable[[Tensor], Tensor]
    num_cells: int


def _normal(count: int, generator: Generator) -> Tensor:
    return torch.randn(count, 2, generator=generator, dtype=torch.float64)


def _coins(count: int, generator: Generator) -> Tensor:
    """(n,) of 0 and 1."""
    return torch.randint(2, (count,), generator=generator)


def _log_normal(x: Tensor, sigma: float) -> Tensor:
    """Elementwise log density of N(0, sigma^2)."""
    return -0.5 * (x / sigma).square() - math.log(sigma) - 0.5 * math.log(2 * math.pi)


def _sector(x: Tensor) -> Tensor:
    """(n,) which eighth of the circle."""
    return ((torch.atan2(x[:, 1], x[:, 0]) / math.pi + 1) * SECTORS / 2).floor().long() % SECTORS


def _two_modes() -> Target:
    def draw(count: int, generator: Generator) -> Tensor:
        sign = 2.0 * _coins(count, generator)[:, None] - 1
        return sign * MODE + MODE_SIGMA * _normal(count, generator)

    def log_density(x: Tensor) -> Tensor:
        return torch.stack([_log_normal(x - m, MODE_SIGMA).sum(1) for m in (-MODE, MODE)]).logsumexp(0) - math.log(2)

    return Target(draw, log_density, lambda x: (x.sum(1) > 0).long(), 2)


def _rings() -> Target:
    radii = (RING, 3 * RING)

    def draw(count: int, generator: Generator) -> Tensor:
        angle = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
        radius = RING * (1 + 2 * _coins(count, generator)) + RING_SIGMA * _normal(count, generator)[:, 0]
        return radius[:, None] * torch.stack((angle.cos(), angle.sin()), dim=1)

    def log_density(x: Tensor) -> Tensor:
        r = x.norm(dim=1)
        of_radius = torch.stack([_log_normal(r - radius, RING_SIGMA) for radius in radii]).logsumexp(0) - math.log(2)
        return of_radius - (2 * math.pi * r).log()

    return Target(draw, log_density, lambda x: (x.norm(dim=1) > 2 * RING) * SECTORS + _sector(x), 2 * SECTORS)


def _checker() -> Target:
    side, dark = 2 * HALF_BOARD / SQUARES, SQUARES**2 // 2

    def draw(count: int, generator: Generator) -> Tensor:
        row = torch.randint(SQUARES, (count,), generator=generator)
        column = 2 * torch.randint(SQUARES // 2, (count,), generator=generator) + row % 2
        corner = torch.stack((row, column), dim=1)
        return (corner + torch.rand(count, 2, generator=generator, dtype=torch.float64)) * side - HALF_BOARD

    def cells(x: Tensor) -> Tensor:
        row, column = ((x + HALF_BOARD) / side).floor().long().unbind(1)
        inside = (x.abs() < HALF_BOARD).all(1) & ((row + column) % 2 == 0)
        return torch.where(inside, (row * SQUARES + column) // 2, -1)

    def log_density(x: Tensor) -> Tensor:
        return torch.where(cells(x) >= 0, -math.log(dark * side**2), -math.inf).double()

    return Target(draw, log_density, cells, dark)


def _correlated() -> Target:
    across = math.sqrt(1 - CORRELATION**2)

    def whiten(x: Tensor) -> Tensor:
        return torch.stack((x[:, 0], (x[:, 1] - CORRELATION * x[:, 0]) / across), dim=1)

    def draw(count: int, generator: Generator) -> Tensor:
        first, second = _normal(count, generator).unbind(1)
        return torch.stack((first, CORRELATION * first + across * second), dim=1)

    def log_density(x: Tensor) -> Tensor:
        return _log_normal(whiten(x), 1.0).sum(1) - math.log(across)

    return Target(draw, log_density, lambda x: _sector(whiten(x)), SECTORS)


TARGETS: dict[str, Target] = {
    "two_modes": _two_modes(),
    "rings": _rings(),
    "checker": _checker(),
    "correlated": _correlated(),
}
