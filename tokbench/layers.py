"""What several networks share. B batch, C channels, H and W sides."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

VERSION = 1


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(norm x)))), (B, C, H, W) to the same; the second convolution starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(nn.functional.silu(self.norm(x)))
        return x + self.second(nn.functional.silu(h))


def time_embedding(time: Tensor, width: int, *, max_period: float = 1e4) -> Tensor:
    """(B, width) sines and cosines of 1000 * time (B,) in [0, 1] (arXiv:2006.11239, appendix B; after 1706.03762)."""
    rates = torch.exp(-math.log(max_period) * torch.arange(width // 2, device=time.device) / (width // 2))
    angles = 1000 * time.float()[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
