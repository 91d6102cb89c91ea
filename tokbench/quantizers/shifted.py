"""A quantizer whose origin lies elsewhere: Q(z + c) - c for a constant c in every channel.

For nearest-code search and the straight-through estimator nothing changes; the rotation trick turns about the origin, and
claims of it (arXiv:2410.06424) can be tried against that. B images, N tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from tokbench.interfaces import Quantized, Quantizer
from tokbench.quantizers.latents import check_latents

VERSION = 1


class ShiftedQuantizer(nn.Module):
    """The quantizer made by `inner()`, seeing z + `offset`."""

    inner: Any

    def __init__(self, *, inner: Callable[[], Quantizer], offset: float) -> None:
        super().__init__()
        self.inner, self.offset = inner(), offset
        self.dim, self.codebook_sizes = self.inner.dim, self.inner.codebook_sizes
        if len(self.codebook_sizes) > 1:
            raise ValueError(f"inner must have one codebook, got codebook sizes {self.codebook_sizes}")
        self.factors = getattr(self.inner, "factors", (self.codebook_sizes,))

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The inner quantizer's."""
        return self.inner.loss_weights

    def forward(self, z: Tensor) -> Quantized:
        """(B, N, D) latents to the inner quantizer's codes of z + offset, minus offset."""
        check_latents(z, self.dim)
        quantized = self.inner(z.float() + self.offset)
        return replace(quantized, z_q=(quantized.z_q - self.offset).to(z.dtype))

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N) int64 to (B, N, D)."""
        return self.inner.indices_to_codes(indices) - self.offset
