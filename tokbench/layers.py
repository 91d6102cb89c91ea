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


def hidden_size(width: int) -> int:
    """Of the feed-forward layers: 8/3 of the width, rounded up to a multiple of 16."""
    return 16 * -(-8 * width // 48)


class SwiGLU(nn.Module):
    """(silu(x W1) * x W2) W3 (arXiv:2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates = nn.Linear(width, 2 * hidden_size(width), bias=False)
        self.out = nn.Linear(hidden_size(width), width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gates(x).chunk(2, dim=-1)
        return self.out(nn.functional.silu(gate) * value)


def time_embedding(time: Tensor, width: int, *, max_period: float = 1e4) -> Tensor:
    """(B, width) sines and cosines of 1000 * time (B,) in [0, 1] (arXiv:2006.11239, appendix B; after 1706.03762)."""
    rates = torch.exp(-math.log(max_period) * torch.arange(width // 2, device=time.device) / (width // 2))
    angles = 1000 * time.float()[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
