"""Orders in which the tokens of an image come to be. h x w image tokens in raster order, N = h w."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

VERSION = 1  # not in a run's hash: a change here raises the VERSION of the schemes
SEED = 0  # of the one random order, whatever the run's


def raster(height: int, width: int) -> Tensor:
    """(N,) int64: row by row."""
    return torch.arange(height * width)


def column(height: int, width: int) -> Tensor:
    """(N,) int64: column by column."""
    return torch.arange(height * width).view(height, width).t().flatten()


def spiral(height: int, width: int) -> Tensor:
    """(N,) int64: along the border clockwise and inwards, from the upper left."""
    left = torch.arange(height * width).view(height, width)
    rings = []
    while left.numel():
        rings.append(left[0])
        left = left[1:].t().flip(0)
    return torch.cat(rings)


def random(height: int, width: int) -> Tensor:
    """(N,) int64: one permutation, the same in every run."""
    return torch.randperm(height * width, generator=torch.Generator().manual_seed(SEED))


ORDERS: dict[str, Callable[[int, int], Tensor]] = {f.__name__: f for f in (raster, column, spiral, random)}
