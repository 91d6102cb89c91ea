"""What the schemes share: what a head is asked for, what a drawn token becomes, and what rows they were trained on.

B images, N image tokens, D channels, K stages or groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from tokbench.backbone.learned import TEXT_PLACES
from tokbench.backbone.sequence import Sequences
from tokbench.generation.prompts import Known
from tokbench.interfaces import Head, Quantized, TokenBatch, TokenSpace
from tokbench.quantizers.nearest import nearest_code

VERSION = 1  # not in a run's hash: a change of numbers here raises the VERSION of the schemes


def check_head(scheme: str, space: TokenSpace, head: Head, *, temperature: float) -> None:
    """ValueError unless the head reads what the tokenizer has, and can be drawn from at this temperature."""
    if head.reads == "indices" and not space.codebook_sizes:
        raise ValueError(
            f"scheme {scheme!r} with head {type(head).__name__} needs indices, but the tokenizer is continuous"
        )
    if head.reads == "latents":
        check_snap(scheme, space)
    least = "> 0" if head.reads == "latents" else ">= 0"
    if not 0 <= temperature < inf or (temperature == 0 and head.reads == "latents"):
        raise ValueError(f"temperature must be {least} with head {type(head).__name__}, got {temperature}")
    if hasattr(head, "check_temperature"):  # one with rules of its own
        head.check_temperature(temperature)


def check_snap(scheme: str, space: TokenSpace) -> None:
    """ValueError where latents come to be that no one could turn into the tokenizer's codes."""
    if len(space.codebook_sizes) > 1 and space.snap is None:
        raise ValueError(
            f"scheme {scheme!r} needs the tokenizer's own snap for codebook_sizes = {space.codebook_sizes}: "
            "give it (or its quantizer) a method snap, (B, N, D) to (B, N, K) int64"
        )


def check_rows(**probabilities: float) -> None:
    """ValueError unless all are probabilities."""
    for name, value in probabilities.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")


def check_guidance(guidance: float, scheme: Any) -> None:
    """ValueError where guidance would compare with captions left out, which no training row of the scheme had."""
    if guidance == 1:
        return
    if scheme.caption_dropout == 0 or scheme.interleaved == 1:
        rule = "caption_dropout = 0" if scheme.caption_dropout == 0 else "interleaved = 1"
        raise ValueError(f"guidance must be 1 for a scheme trained with {rule}, got {guidance}")


def check_scheme(
    scheme: Any,
    preset: Mapping[str, Any],
    *,
    guidances: Iterable[float],
    shapes: Iterable[tuple[int, ...]],
    text: int,
) -> None:
    """ValueError where the scheme of a preset lacks a loss's weight or places for captions of `text` bytes, or cannot be judged
    at these guidances and token shapes.
    """
    if not {"text", "image"} <= set(scheme.loss_weights):
        raise ValueError(f"loss_weights must be of text and image, got {scheme.loss_weights}")
    captions = 2 if scheme.interleaved else 1
    if scheme.backbone.learned is not None and captions * (text + 2) + 2 > TEXT_PLACES:
        rule = f"a row's captions must be <= {TEXT_PLACES - 2 * captions - 2} bytes with positions=learned"
        raise ValueError(f"{rule}, got {captions} of up to {text} bytes")
    for guidance in guidances:
        check_guidance(guidance, scheme)
    for shape in shapes:
        if getattr(scheme, "following", None) is not None:  # one vector for each place of the training images
            raise ValueError(f"order must be raster with shapes=true, got {preset['scheme']['order']!r}")
        grouped(replace(scheme.space, shape=shape), getattr(scheme, "patch", 1))


def grouped(space: TokenSpace, patch: int) -> tuple[int, tuple[int, ...]]:
    """Channels and shape of what a backbone reads where P x P of the tokenizer's tokens are one; ValueError if they cannot be."""
    if not isinstance(patch, int):
        raise ValueError(f"patch must be a whole number, got {patch!r}")
    if patch == 1:
        return space.dim, space.shape
    if patch < 1 or len(space.shape) != 2 or space.shape[0] % patch or space.shape[1] % patch:
        raise ValueError(f"patch must divide the tokenizer's grid, got patch {patch} and tokens of shape {space.shape}")
    return space.dim * patch**2, (space.shape[0] // patch, space.shape[1] // patch)


def targets(head: Head, batch: TokenBatch) -> Tensor:
    """What the head reads: (B, N) or (B, N, K) int64, or (B, N, D) latents."""
    if head.reads == "latents":
        return batch.latents
    if batch.indices is None:
        raise ValueError(f"head {type(head).__name__} needs batch.indices, got None: the tokenizer is continuous")
    return batch.indices


def by_image(tokens: Tensor, rows: Sequences) -> Tensor:
    """(B M, n, ...) of the tokens (B, M n, ...) of M images a row."""
    images = rows.image_starts.shape[1]
    return tokens.reshape(len(tokens) * images, tokens.shape[1] // images, *tokens.shape[2:])


def finish(space: TokenSpace, drawn: Tensor, *, indices: bool) -> Quantized:
    """The tokenizer's tokens of what a head drew: codes of (B, n[, K]) indices, or (B, n, D) standardised latents.

    Latents of a discrete tokenizer snap to the nearest of all V codes, or to those of its stages.
    """
    if indices:
        return Quantized(space.indices_to_codes(drawn), drawn, {})
    z = space.restore(drawn)
    if not space.codebook_sizes:
        return Quantized(z, None, {})
    if len(space.codebook_sizes) > 1:
        assert space.snap is not None
        found = space.snap(z)
    else:
        every = torch.arange(space.codebook_sizes[0], device=z.device)
        found = nearest_code(z, space.indices_to_codes(every[None])[0])
    return Quantized(space.indices_to_codes(found), found, {})


def joined(parts: list[Quantized], order: Tensor) -> Quantized:
    """Tokens drawn one part after another, (B, n, ...) each, as one; token k is the order[k]-th drawn."""
    z_q = torch.cat([part.z_q for part in parts], dim=1)[:, order]
    indices = [part.indices for part in parts if part.indices is not None]
    return Quantized(z_q, torch.cat(indices, dim=1)[:, order] if indices else None, {})


def restored(found: Quantized, known: Known) -> Quantized:
    """The tokens found, but those that are known exactly as they were given."""
    z_q = torch.where(known.keep[..., None], known.z_q, found.z_q)
    if found.indices is None:
        return Quantized(z_q, None, {})
    assert known.indices is not None
    keep = known.keep if found.indices.ndim == 2 else known.keep[..., None]
    return Quantized(z_q, torch.where(keep, known.indices, found.indices), {})


def log_volume(space: TokenSpace) -> float:
    """Nats of one image that standardising its tokens took from the density of its latents: N sum log sigma."""
    return space.num_tokens * float(space.std.double().log().sum())
