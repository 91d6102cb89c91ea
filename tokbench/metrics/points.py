"""Sets of points on the plane against each other and against cells of equal mass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

VERSION = 1


def sliced_wasserstein(x: Tensor, y: Tensor, *, directions: int) -> float:
    """Root mean square over evenly spaced directions of the Wasserstein-2 distance of x and y (n, 2); exact along each."""
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"x and y must both be (n, 2), got {tuple(x.shape)} and {tuple(y.shape)}")
    angles = math.pi * torch.arange(directions, dtype=torch.float64) / directions
    along = torch.stack((angles.cos(), angles.sin()))
    first, second = ((points.double() @ along).sort(dim=0).values for points in (x, y))
    return (first - second).square().mean().sqrt().item()


def coverage(cells: Tensor, num_cells: int) -> float:
    """Share of the cells, all of equal mass, that hold at least half of theirs; cells (n,) int64, -1 is none of them."""
    counts = cells[cells >= 0].bincount(minlength=num_cells)
    return (counts * num_cells * 2 >= len(cells)).double().mean().item()
