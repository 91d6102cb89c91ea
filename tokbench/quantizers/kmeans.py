"""Centres of the first batch for a codebook (Lloyd, doi:10.1109/TIT.1982.1056489). N tokens, D channels, V centres."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokbench.quantizers.nearest import nearest_code
from tokbench.quantizers.ranks import from_first_rank

LLOYD_ITERATIONS = 10


@torch.no_grad()
def kmeans(tokens: Tensor, size: int, *, onto: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """(size, D) centres of tokens (N, D), the same on all ranks, after Lloyd's iterations from random tokens.

    `onto` moves the centres back to where codes may lie, such as the sphere, after each iteration. An empty cluster keeps
    its centre. ValueError where there are fewer tokens than centres.
    """
    if len(tokens) < size:
        raise ValueError(
            f"k-means needs at least as many tokens as centres, got {len(tokens)} tokens for {size} centres"
        )
    centres = tokens[from_first_rank(torch.randperm(len(tokens), device=tokens.device))[:size]].clone()
    for _ in range(LLOYD_ITERATIONS):
        nearest = nearest_code(tokens, centres)
        counts = torch.bincount(nearest, minlength=size)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, tokens)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
        centres = onto(centres) if onto else centres
    return from_first_rank(centres)
