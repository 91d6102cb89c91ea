"""Exact nearest-code search, tiled over tokens and codes so that no (N, V) matrix is ever held.

N tokens, D channels, V codes. argmin |z - e|^2 = argmax z.e - |e|^2 / 2: |z|^2 is the same for every code, and -|e|^2 / 2 is
one more coordinate of e beside a 1 in z. A maximum without its place is much cheaper than one with it, so the tiles give
maxima alone, and the place is looked for in the winning tile of each token.
"""

from __future__ import annotations

import torch
from torch import Tensor

VERSION = 1
TOKEN_TILE = 1024
CODE_TILE = 512
SMALL_CODEBOOK = 1024  # up to here one tile, its places with it, is quicker


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
        codes, tokens = codes - centre, z.detach().reshape(-1, z.shape[-1]).float() - centre
        half_norms = codes.square().sum(dim=1) / 2
        search = _search_small if len(codes) <= SMALL_CODEBOOK else _search_large
        found = search(tokens, codes, half_norms)
    return found.view(z.shape[:-1])


def _search_small(tokens: Tensor, codes: Tensor, half_norms: Tensor) -> Tensor:
    """(N,) indices for tokens (N, D), all codes at once."""
    found = [torch.addmm(half_norms, part, codes.T, beta=-1).max(dim=1).indices for part in tokens.split(TOKEN_TILE)]
    return torch.cat(found)


def _search_large(tokens: Tensor, codes: Tensor, half_norms: Tensor) -> Tensor:
    """(N,) indices for tokens (N, D), a tile of codes at a time."""
    table = torch.cat((codes, -half_norms[:, None]), dim=1).T.contiguous()
    tokens = torch.cat((tokens, tokens.new_ones(len(tokens), 1)), dim=1)
    tiles = [slice(start, start + CODE_TILE) for start in range(0, len(codes), CODE_TILE)]
    winner = torch.cat([_winning_tile(part, table, tiles) for part in tokens.split(TOKEN_TILE)])
    found, order = torch.empty_like(winner), winner.argsort()
    for tile, rows in zip(tiles, order.split(winner.bincount(minlength=len(tiles)).tolist()), strict=True):
        for part in rows.split(TOKEN_TILE):
            found[part] = (tokens[part] @ table[:, tile]).max(dim=1).indices + tile.start
    return found


def _winning_tile(tokens: Tensor, table: Tensor, tiles: list[slice]) -> Tensor:
    """(n,) number of the tile of columns of `table` (D + 1, V) with the greatest score of each token (n, D + 1)."""
    return torch.stack([(tokens @ table[:, tile]).amax(dim=1) for tile in tiles], dim=1).argmax(dim=1)
