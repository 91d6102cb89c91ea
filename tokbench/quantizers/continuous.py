"""Continuous latents: no quantization. B images, N tokens, D channels."""

from __future__ import annotations

from torch import Tensor, nn

from tokbench.interfaces import Quantized

VERSION = 1


class Continuous(nn.Module):
    """The identity on (B, N, D): a plain autoencoder's latent."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be >= 1, got {dim}")
        self.dim = dim
        self.codebook_sizes: tuple[int, ...] = ()
        self.loss_weights: dict[str, float] = {}

    def forward(self, z: Tensor) -> Quantized:
        """z unchanged, no indices."""
        return Quantized(z, None, {})

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Refused: a continuous latent has no codes."""
        raise ValueError("indices_to_codes needs a discrete quantizer, got a continuous one; use z_q instead")
