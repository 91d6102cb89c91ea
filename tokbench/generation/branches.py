"""What may stand beside the linear maps into the backbone and out of it: a U-Net, or as many parameters without one.

Transfusion's U-Net down and up blocks (arXiv:2408.11039, section 3.1) are here a branch that is added to the linear maps and
starts at zero, so that linear, U-Net and the wide control share all else. B images, D channels a token, h x w tokens, P patch
side, E width, C channels inside.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.layers import ResidualBlock

VERSION = 1
Memory = list[Tensor]


class UNet(nn.Module):
    """Convolutions down to one state a patch and up again, with the skips between them; told the noise level."""

    def __init__(self, *, dim: int, patch: int, width: int, channels: int) -> None:
        super().__init__()
        if patch & (patch - 1):
            raise ValueError(f"patch must be a power of two for branch UNet, got {patch}")
        if channels < 1:
            raise ValueError(f"channels of a branch must be >= 1, got {channels}")
        levels = patch.bit_length()
        self.time = nn.Linear(width, channels)
        self.first = nn.Conv2d(dim, channels, 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(channels) for _ in range(levels))
        self.shrink = nn.ModuleList(nn.Conv2d(channels, channels, 2, stride=2) for _ in range(levels - 1))
        self.into = nn.Conv2d(channels, width, 1)
        self.out_of = nn.Conv2d(width, channels, 1)
        self.merge = nn.ModuleList(nn.Conv2d(2 * channels, channels, 1) for _ in range(levels))
        self.up = nn.ModuleList(ResidualBlock(channels) for _ in range(levels))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(channels, channels, 2, stride=2) for _ in range(levels - 1))
        self.last = nn.Conv2d(channels, dim, 3, padding=1)
        for layer in (self.into, self.last):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def encode(self, x: Tensor, time: Tensor) -> tuple[Tensor, Memory]:
        """(B, E, h/P, w/P) of noisy tokens (B, D, h, w) at an embedded time (B, E), and what `decode` remembers."""
        x = self.first(x) + self.time(time)[..., None, None]
        skips: Memory = []
        for level, block in enumerate(self.down):
            x = self.shrink[level - 1](x) if level else x
            x = block(x)
            skips.append(x)
        return self.into(x), skips

    def decode(self, states: Tensor, memory: Memory) -> Tensor:
        """(B, D, h, w) of states (B, E, h/P, w/P)."""
        x = self.out_of(states)
        for level in reversed(range(len(self.up))):
            x = self.up[level](self.merge[level](torch.cat((x, memory[level]), dim=1)))
            x = self.grow[level - 1](x) if level else x
        return self.last(x)


class Wide(nn.Module):
    """The control: two linear maps each way through as many channels as give it the parameters of `UNet(channels)`."""

    def __init__(self, *, dim: int, patch: int, width: int, channels: int) -> None:
        super().__init__()
        with torch.device("meta"):
            target = sum(prod(p.shape) for p in UNet(dim=dim, patch=patch, width=width, channels=channels).parameters())
        self.patch, size = patch, dim * patch**2
        hidden = max(round(target / (2 * (size + width))), 1)
        self.first, self.into = nn.Linear(size, hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.out_of, self.last = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, size, bias=False)
        for layer in (self.into, self.last):
            nn.init.zeros_(layer.weight)

    def encode(self, x: Tensor, time: Tensor) -> tuple[Tensor, Memory]:
        """As `UNet.encode`; the time is not read."""
        x = F.pixel_unshuffle(x, self.patch).movedim(1, -1)
        return self.into(self.first(x)).movedim(-1, 1), []

    def decode(self, states: Tensor, memory: Memory) -> Tensor:
        """As `UNet.decode`."""
        return F.pixel_shuffle(self.last(self.out_of(states.movedim(1, -1))).movedim(-1, 1), self.patch)
