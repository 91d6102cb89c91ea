"""Every sub-pixel a token of 256 values: nothing trained, nothing lost (PixelRNN, arXiv:1601.06759; or 1904.10509).

(B, 3, H, W) -> indices (B, 3 H W), the 8-bit values in raster order, red, green and blue of a pixel one after the other;
z_q = value / 127.5 - 1 with D = 1. Under a causal scheme, nats / (3 H W ln 2) are the bits a sub-pixel of those papers.
"""

from __future__ import annotations

from torch import Tensor

from tokbench.interfaces import Quantized
from tokbench.metrics.images import to_float, to_uint8

VERSION = 1


class Pixels:
    """8-bit images as they are. Images between the 256 values are rounded as they would be when saved."""

    dim = 1
    codebook_sizes: tuple[int, ...] = (256,)

    def __init__(self) -> None:
        self.loss_weights: dict[str, float] = {}

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """(H, W, 3)."""
        return height, width, 3

    def latents(self, images: Tensor) -> Tensor:
        """(B, 3 H W, 1): the sub-pixels in [-1, 1], not rounded."""
        return _raster(images)[..., None]

    def encode(self, images: Tensor) -> Quantized:
        """Tokens of (B, 3, H, W) images in [-1, 1]."""
        values = _raster(to_uint8(images))
        return Quantized(to_float(values)[..., None], values.long(), {})

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N) int64 in [0, 256) to (B, N, 1) float32 in [-1, 1]."""
        return to_float(indices.byte())[..., None]

    def decode(self, z_q: Tensor) -> Tensor:
        """(B, 3 H W, 1) to (B, 3, H, W); square images."""
        side = round((z_q.shape[1] / 3) ** 0.5)
        if 3 * side * side != z_q.shape[1]:
            raise ValueError(f"z_q must hold three tokens a pixel of a square image, got {z_q.shape[1]}")
        return z_q.unflatten(1, (side, side, 3)).squeeze(-1).permute(0, 3, 1, 2)


def _raster(images: Tensor) -> Tensor:
    """(B, 3, H, W) to (B, 3 H W), the colours of a pixel side by side."""
    return images.permute(0, 2, 3, 1).flatten(1)
