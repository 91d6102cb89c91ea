"""Finite scalar quantization (FSQ, arXiv:2309.15505, section 3.1 and appendix A.1).

z -> f(z) = tanh(z + s) h - o -> round(f), scaled to [-1, 1]: channel i takes one of L_i values, no codebook, no loss.
B images, N tokens, D = number of levels. Dimension 0 is the least significant digit of the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from tokbench.interfaces import Quantized
from tokbench.quantizers.estimators import straight_through

VERSION = 1
EPSILON = 1e-3  # the paper's: keeps the bound inside the outer levels; at 1001 levels it would lose them
MAX_LEVEL = 1000


class FiniteScalarQuantizer(nn.Module):
    """A fixed grid of prod(levels) codes; computed in float32, so that every input dtype gives the same indices."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        levels = [int(level) for level in levels]
        if not levels or not all(2 <= level <= MAX_LEVEL for level in levels):
            raise ValueError(f"levels must each be >= 2 and <= {MAX_LEVEL}, got {levels}")
        if prod(levels) >= 2**63:
            raise ValueError(f"levels must have a product below 2^63, got {levels}")
        self.dim = len(levels)
        self.codebook_sizes = (prod(levels),)
        self.loss_weights: dict[str, float] = {}
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor([prod(levels[:i]) for i in range(self.dim)]), persistent=False)

    def bound(self, z: Tensor) -> Tensor:
        """(..., D) float32, strictly inside the half-integers around the L_i integer levels of each channel."""
        half = (self.levels - 1) * (1 - EPSILON) / 2
        offset = torch.where(self.levels % 2 == 1, 0.0, 0.5)
        return torch.tanh(z.float() + torch.tan(offset / half)) * half - offset

    def forward(self, z: Tensor) -> Quantized:
        """(B, N, D) latents to grid codes in [-1, 1]; even levels are asymmetric: L = 4 gives -1, -.5, 0, .5."""
        with torch.autocast(device_type=z.device.type, enabled=False):
            bounded = self.bound(z)
            digits = bounded.detach().round().long() + self.levels // 2
            indices = (digits * self.basis).sum(dim=-1)
            z_q = straight_through(bounded / (self.levels // 2), self._codes(digits))
        return Quantized(z_q.to(z.dtype), indices, {})

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N) int64 in [0, prod(levels)) to (B, N, D) float32."""
        return self._codes(indices[..., None] // self.basis % self.levels)

    def _codes(self, digits: Tensor) -> Tensor:
        half = self.levels // 2
        return (digits - half) / half
