"""What quantizers made of several others share. B images, N tokens, K parts, each of one codebook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tokbench.interfaces import Quantizer


def make_parts(make: Callable[[], Quantizer], count: int, *, what: str) -> list[Any]:
    """`count` quantizers made by `make()`; ValueError names `what` where there are none or one has several codebooks."""
    if count < 1:
        raise ValueError(f"num_{what}s must be >= 1, got {count}")
    made = [make() for _ in range(count)]
    if any(len(part.codebook_sizes) != 1 for part in made):
        raise ValueError(f"{what} must have one codebook, got codebook sizes {made[0].codebook_sizes}")
    return made


def sizes_of(parts: Sequence[Any]) -> tuple[int, ...]:
    """(K,) codebook sizes."""
    return tuple(size for part in parts for size in part.codebook_sizes)


def factors_of(parts: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """The radices of each part's index, least significant first; its codebook's size alone where it has none."""
    return tuple(getattr(part, "factors", (part.codebook_sizes,))[0] for part in parts)


def join(indices: Sequence[Tensor]) -> Tensor:
    """(B, N, K) of K tensors (B, N); the only one itself where K is 1."""
    return indices[0] if len(indices) == 1 else torch.stack(list(indices), dim=-1)


def split(indices: Tensor, count: int) -> Sequence[Tensor]:
    """The inverse of `join`, for K = count."""
    return [indices] if count == 1 else indices.unbind(-1)
