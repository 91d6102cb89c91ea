"""A token's channels one after another: what `fourier` and `bins` share, so that they differ in one channel's density alone.

p(x | h) = prod_j p(x_j | s_j),  s_j = u_j + MLP(norm u_j),  u_j = h + P_j + sum_{i<j} R_i f(x_i)

exact by the chain rule; all channels share the MLP and the map to parameters, and P_j, R_i tell them apart.
M tokens, E width, D channels, F features of a scalar.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

VERSION = 1
FREQUENCIES = tuple(torch.pi * 2.0**k for k in range(-2, 3))  # of standardised values: periods 8 to 1/2
NUM_FEATURES = 1 + 2 * len(FREQUENCIES)


def features(x: Tensor) -> Tensor:
    """(..., F) of scalars (...): tanh(x / 4), sines and cosines."""
    angles = x[..., None] * torch.tensor(FREQUENCIES, device=x.device)
    return torch.cat(((x / 4).tanh()[..., None], angles.sin(), angles.cos()), dim=-1)


class Chain(nn.Module):
    """Parameters of each channel's density, given the state and the channels before it."""

    def __init__(self, *, width: int, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.width, self.dim, self.num_outputs = width, dim, num_outputs
        self.place = nn.Parameter(0.02 * torch.randn(dim, width))
        self.read = nn.Parameter(torch.randn(dim - 1, NUM_FEATURES, width) * NUM_FEATURES**-0.5)
        last = nn.Linear(width, width, bias=False)
        nn.init.zeros_(last.weight)
        self.mix = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, width), nn.SiLU(), last)
        self.output = nn.Linear(width, num_outputs)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)

    @property
    def flops(self) -> int:
        """D (4 E^2 + 2 E outputs) + 2 (D - 1) F E."""
        each = 4 * self.width**2 + 2 * self.width * self.num_outputs
        return self.dim * each + 2 * (self.dim - 1) * NUM_FEATURES * self.width

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """(M, D, outputs) float32 given states (M, E) and the true channels (M, D)."""
        told = torch.einsum("mjf,jfe->mje", features(x[:, :-1]), self.read)
        before = torch.cat((torch.zeros_like(h)[:, None], told.cumsum(dim=1)), dim=1)
        return self._outputs(h[:, None] + before + self.place)

    def walk(self, h: Tensor, h_uncond: Tensor | None, pick: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        """(M, D): each channel is what `pick` draws from its parameters (M, outputs), and from those without the caption."""
        found: list[Tensor] = []
        for place in self.place.unbind():
            without = None if h_uncond is None else self._outputs(h_uncond + place)
            found.append(pick(self._outputs(h + place), without))
            if len(found) < self.dim:
                told = features(found[-1]) @ self.read[len(found) - 1]
                h, h_uncond = h + told, None if h_uncond is None else h_uncond + told
        return torch.stack(found, dim=-1)

    def _outputs(self, u: Tensor) -> Tensor:
        return self.output(u + self.mix(u)).float()
