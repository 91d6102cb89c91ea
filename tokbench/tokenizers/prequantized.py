"""The latent of a trained vector quantizer before its quantizer (arXiv:2406.11838, table 2; VQ-reg of 2112.10752, section 3.1).

Trained:  x -> encoder -> z -> quantizer -> z_q -> decoder, with the quantizer's losses
Used:     x -> encoder -> z as the token;  z -> (quantizer -> z_q -> decoder) as the decoder

The same images come out as of the discrete tokenizer with the same weights: the rows differ in what is generated alone.
B images, N tokens, D channels.
"""

from __future__ import annotations

from torch import Tensor

from tokbench.interfaces import Quantized, Quantizer
from tokbench.tokenizers.autoencoder import Autoencoder

VERSION = 1


class Prequantized(Autoencoder):
    """In training the autoencoder around `quantizer`; in evaluation continuous, the quantizer a layer of the decoder."""

    def __init__(
        self,
        quantizer: Quantizer,
        *,
        width: int,
        factor: int,
        depth: int,
        layout: str = "grid",
        num_queries: int | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__(
            quantizer, width=width, factor=factor, depth=depth, layout=layout, num_queries=num_queries, size=size
        )
        if not quantizer.codebook_sizes:
            raise ValueError(
                f"quantizer must have codes for tokenizer 'prequantized', got {type(quantizer).__name__}: use quantizer=vq_tuned"
            )
        self.codebook_sizes = ()

    @property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """None: the tokens are continuous."""
        return ()

    @property
    def snap(self) -> None:
        """None: the tokens are continuous."""

    def encode(self, images: Tensor) -> Quantized:
        """Tokens of (B, 3, H, W) images in [-1, 1]: in evaluation the latents, without indices or losses."""
        return super().encode(images) if self.training else Quantized(self.latents(images), None, {})

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Refused: latents are not codes."""
        raise ValueError(
            "indices_to_codes needs a discrete tokenizer, got latents before their quantizer; use z_q instead"
        )

    def decode(self, z_q: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(B, N, D) to (B, 3, H, W), `grid` as the autoencoder's; in evaluation of latents, which are quantized first."""
        return super().decode(z_q if self.training else self.quantizer(z_q).z_q, grid)
