"""What wrong tokens cost: the PSNR lost where codes are replaced by others at random.

M images, N tokens an image, K stages or groups, V codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from tokbench.evaluate.measures import Measures, in_batches, mean_of, missing
from tokbench.evaluate.reference import some
from tokbench.interfaces import Split, Tokenizer
from tokbench.metrics.images import psnr, to_float, to_uint8
from tokbench.metrics.standard import FLIP_IMAGES, FLIP_SEED, FLIP_SHARES

VERSION = 1


@torch.no_grad()
def evaluate_robustness(tokenizer: Tokenizer, split: Split, *, batch: int, device: torch.device) -> Measures:
    """reconstruction/psnr_lost_* of a trained tokenizer in eval mode; without a value where it is continuous."""
    keys = {f"reconstruction/psnr_lost_{percent}_percent": share for percent, share in FLIP_SHARES.items()}
    if not tokenizer.codebook_sizes:
        return {key: missing(key, "continuous") for key in keys}
    originals = split.images[some(len(split), FLIP_IMAGES)]

    def encode(rows: Tensor) -> Tensor:
        indices = tokenizer.encode(to_float(originals[rows].to(device))).indices
        assert indices is not None
        return indices.cpu()

    def quality(indices: Tensor) -> Tensor:
        def decode(rows: Tensor) -> Tensor:
            images = tokenizer.decode(tokenizer.indices_to_codes(indices[rows].to(device)))
            return psnr(to_uint8(images.float()).cpu(), originals[rows])

        return in_batches(len(indices), batch, decode, what="robustness")

    indices = in_batches(len(originals), batch, encode, what="robustness")
    clean = quality(indices)
    return {
        key: mean_of(key, clean - quality(flip(indices, tokenizer.codebook_sizes, share=share, seed=FLIP_SEED)))
        for key, share in keys.items()
    }


def flip(indices: Tensor, codebook_sizes: Sequence[int], *, share: float, seed: int) -> Tensor:
    """A copy of indices (M, N) or (M, N, K) with round(share * M * N) of its tokens replaced.

    Which ones depends on the seed, M and N alone. Each index of such a token becomes another code of its codebook, all
    others alike; codebooks must have V >= 2.
    """
    if not 0 <= share <= 1 or min(codebook_sizes) < 2:
        raise ValueError(f"share must be in [0, 1] and codebook_sizes >= 2, got {share} and {tuple(codebook_sizes)}")
    generator = Generator().manual_seed(seed)
    tokens = indices.flatten(0, 1).reshape(-1, len(codebook_sizes)).clone()
    hit = torch.randperm(len(tokens), generator=generator)[: round(share * len(tokens))]
    for stage, size in enumerate(codebook_sizes):
        step = torch.randint(1, size, (len(hit),), generator=generator)
        tokens[hit, stage] = (tokens[hit, stage] + step) % size
    return tokens.reshape(indices.shape)
