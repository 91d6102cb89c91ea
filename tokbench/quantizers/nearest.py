"""Exact nearest-code search, tiled over tokens and codes so that no (N, V) matrix is ever held.

N tokens, D channels, V codes. argmin |z - e|^2 = argmax z.e - |e|^2 / 2: |z|^2 is the same for every code.
"""

from __future__ import annotations

import torch
from torch import Tensor

VERSION = 1
TOKEN_TILE = 1024
CODE_TILE = 1024


@torch.no_grad()
def nearest_code(z: Tensor, codebook: Tensor) -> Tensor:
    """(...) int64 indices of the Euclidean nearest row of `codebook` (V, D) for each z (..., D); ties go to the lower index.

    Computed in float32 whatever the autocast or the input's dtype, after both are shifted by the codebook's mean, without
    which features far from the origin lose their differences to rounding.
    """
    if codebook.ndim != 2 or z.shape[-1] != codebook.shape[1]:
        raise ValueError(f"z and codebook must share their last size, got {tuple(z.shape)} and {tuple(codebook.shape)}")
    with torch.autocast(device_type=z.device.type, enabled=False):
        codes = codebook.detach().float()
        centre = codes.mean(dim=0)
        codes = codes - centre
        half_norms = codes.square().sum(dim=1) / 2
        tokens = z.detach().reshape(-1, z.shape[-1]).float() - centre
        found = [_nearest(tile, codes, half_norms) for tile in tokens.split(TOKEN_TILE)]
        return torch.cat(found).view(z.shape[:-1]) if found else tokens.new_empty(z.shape[:-1], dtype=torch.int64)


def _nearest(tokens: Tensor, codes: Tensor, half_norms: Tensor) -> Tensor:
    best = tokens.new_full((len(tokens),), -torch.inf)
    index = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
    for start in range(0, len(codes), CODE_TILE):
        tile = slice(start, start + CODE_TILE)
        score, place = torch.addmm(half_norms[tile], tokens, codes[tile].T, beta=-1).max(dim=1)
        better = score > best
        best = torch.where(better, score, best)
        index = torch.where(better, place + start, index)
    return index
