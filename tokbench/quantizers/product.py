"""Product (grouped) quantization: the channels of a token in G groups, each with a quantizer of its own.

z = (z_1, ..., z_G) -> z_q = (Q_1(z_1), ..., Q_G(z_G)): V^G codes at the cost of G searches (Jegou et al. 2011,
doi:10.1109/TPAMI.2010.57; as a tokenizer: arXiv:2212.03185). B images, N tokens, D channels, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokbench.interfaces import Quantized, Quantizer
from tokbench.quantizers.latents import check_latents
from tokbench.quantizers.nearest import nearest_code
from tokbench.quantizers.parts import factors_of, join, make_parts, sizes_of, split

VERSION = 1


class ProductQuantizer(nn.Module):
    """G quantizers made by `group()`, each of one codebook; D is the sum of their channels; losses are means over groups."""

    groups: Any  # ModuleList of quantizers

    def __init__(self, *, group: Callable[[], Quantizer], num_groups: int) -> None:
        super().__init__()
        made = make_parts(group, num_groups, what="group")
        self.groups = nn.ModuleList(made)
        self.dim, self.width = sum(part.dim for part in made), made[0].dim
        self.codebook_sizes, self.factors = sizes_of(made), factors_of(made)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """A group's, the same for all."""
        return self.groups[0].loss_weights

    def forward(self, z: Tensor) -> Quantized:
        """(B, N, D) latents to codes side by side; indices (B, N, G), or (B, N) where G is 1."""
        check_latents(z, self.dim)
        parts = [group(part) for group, part in zip(self.groups, z.split(self.width, dim=-1), strict=True)]
        losses = {name: torch.stack([part.losses[name] for part in parts]).mean() for name in parts[0].losses}
        z_q = torch.cat([part.z_q for part in parts], dim=-1)
        return Quantized(z_q, join([part.indices for part in parts]), losses)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N, G) int64, (B, N) where G is 1, to (B, N, D)."""
        parts = zip(self.groups, split(indices, len(self.groups)), strict=True)
        return torch.cat([group.indices_to_codes(part) for group, part in parts], dim=-1)

    @torch.no_grad()
    def snap(self, z: Tensor) -> Tensor:
        """(B, N, G) int64, (B, N) where G is 1: the nearest code of each group of z (B, N, D)."""
        indices = []
        for group, size, part in zip(self.groups, self.codebook_sizes, z.split(self.width, dim=-1), strict=True):
            indices.append(nearest_code(part, group.indices_to_codes(torch.arange(size, device=z.device)[None])[0]))
        return join(indices)
