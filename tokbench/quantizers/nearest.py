"""Exact nearest-code search, tiled over tokens and codes so that no (N, V) matrix is ever held.

N tokens, D channels, V codes. argmin |z - e|^2 = argmax z.e - |e|^2 / 2: |z|^2 is the same for every code, and -|e|^2 / 2 is
one more coordinate of e beside a 1 in z. On a CPU a maximum without its place is much cheaper than one with it, so the tiles
give the maxima of groups of codes alone, and the place is looked for in the winning group of each token. On a GPU both are
bound by memory, so one pass gives the places.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

VERSION = 1
TOKEN_TILE, CODE_TILE = 2048, 512  # scores of a tile stay in the second-level caches of two cores
GROUP, LARGE_GROUP, LARGE_CODEBOOK = 128, 512, 8192  # codes a group, up to LARGE_CODEBOOK codes and above
GPU_TILE = 2**26  # scores held at once
# BLAS adds up products of fewer rows or columns in another order: a token's score would depend on the batch, equal codes differ
MIN_ROWS, MIN_CODES = 64, 16


@torch.no_grad()
def nearest_code(z: Tensor, codebook: Tensor) -> Tensor:
    """(...) int64 indices of the Euclidean nearest row of `codebook` (V, D) for each z (..., D); ties go to the lower index.

    Computed in float32 whatever the autocast, the input's dtype or the TF32 setting, after both are shifted by the
    codebook's mean, without which features far from the origin lose their differences to rounding.
    """
    if codebook.ndim != 2 or z.shape[-1] != codebook.shape[1]:
        raise ValueError(f"z and codebook must share their last size, got {tuple(z.shape)} and {tuple(codebook.shape)}")
    with torch.autocast(device_type=z.device.type, enabled=False), _full_float32():
        codes = codebook.detach().float()
        centre = codes.mean(dim=0)
        codes, tokens = codes - centre, z.detach().reshape(-1, z.shape[-1]).float() - centre
        table = torch.cat((codes, codes.square().sum(dim=1, keepdim=True) / -2), dim=1)
        tokens = F.pad(tokens, (0, 1, 0, max(MIN_ROWS - len(tokens), 0)), value=1.0)
        one_tile = len(table) >= MIN_CODES and len(tokens) * len(table) <= TOKEN_TILE * CODE_TILE
        search = _search_groups if z.device.type == "cpu" and not one_tile else _search_at_once
        found = search(tokens, table)[: z.shape[:-1].numel()]
    return found.view(z.shape[:-1])


def _search_at_once(tokens: Tensor, table: Tensor) -> Tensor:
    """(N,) indices for tokens (N, D + 1) and codes (V, D + 1), all codes of as many tokens as GPU_TILE scores allow."""
    rows = max(GPU_TILE // len(table), 1)
    codes, bias = table[:, :-1], table[:, -1]
    return torch.cat([torch.addmm(bias, part[:, :-1], codes.T).max(dim=1).indices for part in tokens.split(rows)])


def _search_groups(tokens: Tensor, table: Tensor) -> Tensor:
    """The same, a tile at a time: the winning group of each token, then the place in it."""
    group = LARGE_GROUP if len(table) > LARGE_CODEBOOK else min(GROUP, _round_up(len(table), MIN_CODES))
    padding = _round_up(len(table), group) - len(table)
    table = F.pad(table, (0, 0, 0, padding))
    table[len(table) - padding :, -1] = -torch.inf  # never wins
    winner = _winning_group(tokens, table, group)
    order = winner.argsort()
    tokens, places, start = tokens[order], [], 0
    for number, count in enumerate(winner.bincount(minlength=len(table) // group).tolist()):
        codes = table[number * group :][:group].T
        for begin in range(start, start + count, TOKEN_TILE):
            end = min(begin + TOKEN_TILE, start + count)
            first = min(begin, len(tokens) - MIN_ROWS)
            scores = tokens[first : max(end, first + MIN_ROWS)] @ codes
            places.append(scores[begin - first : end - first].max(dim=1).indices)
        start += count
    return torch.empty_like(winner).scatter_(0, order, winner[order] * group + torch.cat(places))


def _winning_group(tokens: Tensor, table: Tensor, group: int) -> Tensor:
    """(N,) number of the group of rows of `table` (V, D + 1) with the greatest score of each token (N, D + 1)."""
    best = tokens.new_empty(len(tokens), len(table) // group)
    buffer = tokens.new_empty(TOKEN_TILE * CODE_TILE)
    for rows, maxima in zip(tokens.split(TOKEN_TILE), best.split(TOKEN_TILE), strict=True):
        for codes, part in zip(table.split(CODE_TILE), maxima.split(CODE_TILE // group, dim=1), strict=True):
            scores = torch.mm(rows, codes.T, out=buffer[: len(rows) * len(codes)].view(len(rows), len(codes)))
            torch.amax(scores.view(len(rows), -1, group), dim=2, out=part)
    return best.max(dim=1).indices


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@contextmanager
def _full_float32() -> Iterator[None]:
    """Products of float32 matrices without TF32 or bfloat16, which a program may have allowed for all of them."""
    backends: Any = torch.backends
    changed = []
    for flags in (backends, backends.cuda.matmul, backends.mkldnn.matmul):
        if flags.fp32_precision != "ieee":
            changed.append((flags, flags.fp32_precision))
            flags.fp32_precision = "ieee"
    try:
        yield
    finally:
        for flags, precision in reversed(changed):
            flags.fp32_precision = precision
