"""Raw pixel patches as tokens (Fuyu; arXiv:2408.11039's patch baseline): no autoencoder, nothing trained, nothing lost.

P patch side, D = 3 P^2.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from tokbench.interfaces import Quantized

VERSION = 1


class Patches:
    """(B, 3, H, W) to (B, H W / P^2, 3 P^2), channel-major within a patch, and back exactly."""

    codebook_sizes: tuple[int, ...] = ()

    def __init__(self, patch: int) -> None:
        if patch < 1:
            raise ValueError(f"patch must be >= 1, got {patch}")
        self.patch, self.dim = patch, 3 * patch**2
        self.loss_weights: dict[str, float] = {}
        self.tied_channels = patch**2  # of one colour: standardised together

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """(h, w) of the patch grid."""
        if height % self.patch or width % self.patch:
            raise ValueError(f"image size must be divisible by patch = {self.patch}, got {height}x{width}")
        return height // self.patch, width // self.patch

    def latents(self, images: Tensor) -> Tensor:
        """The patches."""
        self.shape(*images.shape[-2:])
        return F.pixel_unshuffle(images, self.patch).flatten(2).transpose(1, 2)

    def encode(self, images: Tensor) -> Quantized:
        """The patches, no indices."""
        return Quantized(self.latents(images), None, {})

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Refused: patches are not codes."""
        raise ValueError("indices_to_codes needs a discrete tokenizer, got raw patches; use z_q instead")

    def decode(self, z_q: Tensor) -> Tensor:
        """(B, N, 3 P^2) to (B, 3, H, W); square images."""
        side = round(z_q.shape[1] ** 0.5)
        if side * side != z_q.shape[1]:
            raise ValueError(f"z_q must hold a square number of tokens, got {z_q.shape[1]}")
        return F.pixel_shuffle(z_q.transpose(1, 2).unflatten(2, (side, side)), self.patch)
