"""How large RoPE's base must be for a context (kexue.fm 10122): under too small a base like tokens look unlike."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

GRID = 1.002  # ratio of neighbouring bases that are tried: a window of good bases narrower than that is stepped over
CHUNK = 32


def least_cosine_sum(base: Tensor, *, head_dim: int, length: int) -> Tensor:
    """(K,) the least of sum_{i < d/2} cos(m b^(-2i/d)) over m < length, of each base (K,), in float64."""
    rates = base.double()[:, None, None] ** (-2.0 * torch.arange(head_dim // 2, dtype=torch.float64) / head_dim)
    return (torch.arange(length)[None, :, None] * rates).cos().sum(dim=-1).amin(dim=1)


@lru_cache
def least_base(head_dim: int, length: int) -> float:
    """b*(L): the smallest base whose cosine sum is nowhere below 0 at distances m < L, for heads of d channels.

    Larger bases can fail again in places; b* grows about as 2 L for large d.
    """
    if head_dim < 4 or length < 1:
        raise ValueError(f"head_dim must be >= 4 and length >= 1, got {head_dim} and {length}")
    low = least_base(head_dim, length // 2) if length >= 32 else 1.5  # b* never falls as L grows
    while True:
        tried = low * GRID ** torch.arange(CHUNK, dtype=torch.float64)
        good = (least_cosine_sum(tried, head_dim=head_dim, length=length) >= 0).nonzero()
        if len(good):
            first = int(good[0])
            return _bisected(float(tried[first]) / GRID, float(tried[first]), head_dim, length)
        low = float(tried[-1]) * GRID


def _bisected(low: float, high: float, head_dim: int, length: int) -> float:
    """Between a base that fails and one that does not, to five digits."""
    while high / low > 1 + 1e-5:
        middle = (low * high) ** 0.5
        if least_cosine_sum(torch.tensor([middle]), head_dim=head_dim, length=length) >= 0:
            high = middle
        else:
            low = middle
    return high


def base_warning(base: float, *, head_dim: int, length: int) -> str | None:
    """What to tell who chose `base` for positions up to `length`; None where it is large enough."""
    least = least_base(head_dim, length)
    if base >= least:
        return None
    return f"backbone.base = {base:g} is below b*({length}) = {least:.4g} for heads of {head_dim} channels (kexue.fm 10122)"
