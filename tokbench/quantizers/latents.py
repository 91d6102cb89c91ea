"""What every quantizer asks of its latents, and what several do with them. D channels."""

from __future__ import annotations

import torch
from torch import Tensor

SMALL_NORM = 1e-6  # below it z / |z| has no direction worth a gradient
COPIES = 6  # of a codebook in training: itself, what is searched, its gradient, two moments, the best one so far


class NotFinite(ValueError):
    """Latents with NaN or infinity."""


def check_latents(z: Tensor, dim: int) -> None:
    """ValueError unless z is (B, N, dim), `NotFinite` unless finite: NaN has no nearest code, its index would be wrong."""
    if z.ndim != 3 or z.shape[-1] != dim:
        raise ValueError(f"z must be (B, N, {dim}), got shape {tuple(z.shape)}")
    with torch.no_grad():
        if not torch.isfinite(z.sum(dtype=torch.float32 if z.dtype.itemsize < 4 else None)):
            bad = int((~z.isfinite()).any(dim=-1).sum())
            if bad:
                raise NotFinite(f"z must be finite, got NaN or infinity in {bad} of {z.shape[0] * z.shape[1]} tokens")


def on_sphere(z: Tensor) -> Tensor:
    """z / |z|; z itself, with the gradient of the identity, where |z| <= SMALL_NORM and the quotient's would explode."""
    norm = z.norm(dim=-1, keepdim=True)
    return z / norm.where(norm > SMALL_NORM, 1.0)


def check_codebook(*, dim: int, codebook_size: int) -> None:
    """ValueError unless a float32 codebook (codebook_size, dim) can be made, and trained in this machine's memory."""
    import psutil

    if dim < 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    if codebook_size < 2:
        raise ValueError(f"codebook_size must be >= 2, got {codebook_size}")
    needed, there = COPIES * 4 * dim * codebook_size, psutil.virtual_memory().total
    if needed > there:
        raise ValueError(
            f"codebook_size must fit into memory: {codebook_size} codes of {dim} channels take {needed / 1e9:,.1f} GB to train, "
            f"this machine has {there / 1e9:,.1f} GB"
        )
