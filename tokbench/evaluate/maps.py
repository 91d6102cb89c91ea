"""Arrays that tell what a tokenizer loses first: by frequency, by pixel, and the bits of its tokens by place."""

from __future__ import annotations

import torch
from torch import Tensor

from tokbench.evaluate.tokenizer import TokenizerResult
from tokbench.interfaces import Split, Tokenizer
from tokbench.metrics.maps import TILE, band_power, entropy_by_place, octave_bands


def lost_maps(tokenizer: Tokenizer, result: TokenizerResult, split: Split) -> dict[str, Tensor]:
    """By name, over the test split in 8-bit levels:

    `band_cycles_per_pixel` (b,) lower ends of octave bands; `power_originals` and `power_error` (b,) levels^2 a coefficient;
    `error_by_pixel` (H, W) mean |error| over images and colours; where there are codes `entropy_by_position` in bits, of the
    tokenizer's shape.
    """
    height, width = split.images.shape[-2:]
    pairs = list(zip(result.images.split(TILE), split.images.split(TILE), strict=True))
    error = torch.cat([a.short() - b.short() for a, b in pairs])
    found = {
        "band_cycles_per_pixel": octave_bands(height, width)[0],
        "power_originals": band_power(split.images),
        "power_error": band_power(error),
        "error_by_pixel": torch.stack([part.abs().double().sum(dim=(0, 1)) for part in error.split(TILE)]).sum(dim=0)
        / error.shape[:2].numel(),
    }
    if result.indices is not None:
        bits = entropy_by_place(result.indices, tokenizer.codebook_sizes)
        found["entropy_by_position"] = bits.view(tokenizer.shape(height, width))
    return {name: values.float() for name, values in found.items()}
