"""Learned places, added to what the backbone reads in place of RoPE (two tables an image, after arXiv:2010.11929, D.4).

B rows, S places, E width, h and w the grid trained on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.backbone.positions import Grid

TEXT_PLACES = 1024


class LearnedPositions(nn.Module):
    """One vector a text place, row and column."""

    def __init__(self, width: int, grid: Grid) -> None:
        super().__init__()
        self.texts, self.rows, self.columns = (
            nn.Parameter(0.02 * torch.randn(size, width)) for size in (TEXT_PLACES, *grid)
        )

    def text(self, places: Tensor) -> Tensor:
        """(B, S, E) at places (B, S, 2) of the layout `learned`; ValueError beyond the last one."""
        index = places[..., 0].long()
        if int(index.max()) >= TEXT_PLACES:
            raise ValueError(f"positions=learned has {TEXT_PLACES} text places, got text at {int(index.max())}")
        return self.texts[index]

    def image(self, grid: Grid) -> Tensor:
        """(h w, E) in raster order; of another grid than the one trained on, both tables are interpolated linearly."""
        rows, columns = (_stretched(table, size) for table, size in zip((self.rows, self.columns), grid, strict=True))
        return (rows[:, None] + columns[None]).flatten(0, 1)


def _stretched(table: Tensor, size: int) -> Tensor:
    """(size, E): the table itself at its own size."""
    if len(table) == size:
        return table
    return F.interpolate(table.T[None], size=size, mode="linear", align_corners=False)[0].T
