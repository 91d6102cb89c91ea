"""The protocol of a tokenizer, checked on random images before anything is trained or measured."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from tokbench.interfaces import Tokenizer

IMAGES = 3
TOLERANCE = 1e-3  # relative, of values between a batch of one and a batch of three
SAME = 0.98  # least share of equal indices between them: a code near a tie may flip


@torch.no_grad()
def check_tokenizer(tokenizer: Tokenizer, *, size: int) -> None:
    """ValueError naming the rule that `tokenizer` breaks on (3, 3, size, size) images; it is left in its own mode."""
    name = type(tokenizer).__name__
    missing = [part for part in _PARTS if not hasattr(tokenizer, part)]
    if missing:
        raise ValueError(f"tokenizer {name} must have {', '.join(_PARTS)}; missing: {', '.join(missing)}")
    was_training = isinstance(tokenizer, nn.Module) and tokenizer.training
    if isinstance(tokenizer, nn.Module):
        tokenizer.eval()
    device = next((p.device for p in tokenizer.parameters()), None) if isinstance(tokenizer, nn.Module) else None
    images = torch.rand(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
    try:
        _check(tokenizer, images, f"tokenizer {name}")
    finally:
        if was_training:
            tokenizer.train()  # type: ignore[attr-defined]


_PARTS = ("dim", "codebook_sizes", "loss_weights", "shape", "encode", "latents", "indices_to_codes", "decode")


def _check(tokenizer: Tokenizer, images: Tensor, name: str) -> None:
    def rule(holds: bool, text: str) -> None:
        if not holds:
            raise ValueError(f"{name}: {text}")

    shape = tokenizer.shape(*images.shape[-2:])
    expected = (IMAGES, prod(shape), tokenizer.dim)
    quantized, again, one = tokenizer.encode(images), tokenizer.encode(images), tokenizer.encode(images[:1])
    z_q, indices = quantized.z_q, quantized.indices
    rule(
        tuple(z_q.shape) == expected, f"encode must give z_q of shape (B, N, dim) = {expected}, got {tuple(z_q.shape)}"
    )
    rule(bool(z_q.isfinite().all()), "encode must give finite z_q")
    rule(
        tuple(tokenizer.latents(images).shape[:2]) == expected[:2], f"latents must be (B, N, D) with N = {expected[1]}"
    )
    rule(torch.equal(z_q, again.z_q), "encode must be deterministic, two calls differ")
    unknown = set(quantized.losses) - set(tokenizer.loss_weights)
    rule(not unknown, f"loss_weights must name every loss, missing: {sorted(unknown)}")
    rule(
        (indices is None) == (not tokenizer.codebook_sizes),
        f"indices must be None exactly where codebook_sizes is empty, got codebook_sizes = {tokenizer.codebook_sizes}",
    )
    if indices is not None:
        assert one.indices is not None
        sizes = torch.tensor(tokenizer.codebook_sizes, device=indices.device)
        stages = indices if indices.ndim == 3 else indices[..., None]
        rule(indices.dtype == torch.int64, f"indices must be int64, got {indices.dtype}")
        rule(
            tuple(indices.shape) == (*expected[:2], *([len(sizes)] if len(sizes) > 1 else [])),
            f"indices must be (B, N), or (B, N, K) for K > 1 codebooks; got {tuple(indices.shape)} for K = {len(sizes)}",
        )
        rule(
            bool((stages >= 0).all() and (stages < sizes).all()), f"indices must lie in [0, V) for V = {sizes.tolist()}"
        )
        codes = tokenizer.indices_to_codes(indices)
        rule(torch.equal(codes.to(z_q.dtype), z_q), "indices_to_codes(indices) must equal z_q")
        same = (one.indices == indices[:1]).float().mean().item()
        rule(
            same >= SAME,
            f"encode must not depend on the batch: {same:.0%} of indices agree between batches of 1 and {IMAGES}",
        )
    else:
        rule(
            torch.allclose(one.z_q, z_q[:1], atol=TOLERANCE, rtol=TOLERANCE),
            f"encode must not depend on the batch: z_q differs between batches of 1 and {IMAGES}",
        )
    decoded = tokenizer.decode(z_q)
    rule(
        decoded.shape == images.shape,
        f"decode must give images of shape {tuple(images.shape)}, got {tuple(decoded.shape)}",
    )
    rule(bool(decoded.isfinite().all()), "decode must give finite images")
