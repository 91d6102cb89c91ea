"""What a tokenizer loses (reconstruction) and what its tokens carry (bits), on the fixed test split."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2, prod

import torch
from torch import Tensor

from tokbench.evaluate.measures import Measures, in_batches, mean_of, measured, missing
from tokbench.evaluate.reference import Reference
from tokbench.interfaces import Split, Tokenizer
from tokbench.metrics.codes import CodeStatistics
from tokbench.metrics.features import frechet_distance
from tokbench.metrics.images import psnr, ssim, to_float, to_uint8

VERSION = 1
LOSSLESS_DB = 40.0


@dataclass(frozen=True, eq=False)
class TokenizerResult:
    """Measures, per-image vectors and the reconstructions themselves."""

    measures: Measures
    psnr_db: Tensor  # (M,)
    ssim: Tensor  # (M,)
    images: Tensor  # (M, 3, H, W) uint8
    indices: Tensor | None  # (M, N) or (M, N, K) int32; None where continuous
    rarefaction: tuple[Tensor, Tensor] | None  # (P,) int64 tokens and (P,) usage of so many; None where continuous


@torch.no_grad()
def evaluate_tokenizer(
    tokenizer: Tokenizer, reference: Reference, *, batch: int, device: torch.device
) -> TokenizerResult:
    """Reconstruction and bits of a trained tokenizer in eval mode."""
    split = reference.dataset.test
    codes = CodeStatistics(tokenizer.codebook_sizes).to(device)
    indices: list[Tensor] = []

    def reconstruct(rows: Tensor) -> Tensor:
        images = to_float(split.images[rows].to(device))
        quantized = tokenizer.encode(images)
        latents = tokenizer.latents(images)
        codes.update(
            latents if latents.shape == quantized.z_q.shape else quantized.z_q, quantized.z_q, quantized.indices
        )
        if quantized.indices is not None:
            indices.append(quantized.indices.int().cpu())
        return to_uint8(tokenizer.decode(quantized.z_q).float()).cpu()

    images = in_batches(len(split), batch, reconstruct, what="reconstruction")
    quality, measures = reconstruction_measures("", images, split, reference)
    measures |= _bits(tokenizer, codes, split)
    rarefaction = codes.rarefaction() if tokenizer.codebook_sizes else None
    return TokenizerResult(measures, *quality, images, torch.cat(indices) if indices else None, rarefaction)


def reconstruction_measures(
    prefix: str, images: Tensor, split: Split, reference: Reference
) -> tuple[tuple[Tensor, Tensor], Measures]:
    """((M,) PSNR, (M,) SSIM) and the measures of 8-bit `images` against the split's, filed under `prefix`."""
    db = torch.cat([psnr(a, b) for a, b in zip(images.split(500), split.images.split(500), strict=True)])
    similarity = torch.cat([ssim(a, b) for a, b in zip(images.split(500), split.images.split(500), strict=True)])
    key = f"{prefix}reconstruction/"
    measures = {
        f"{key}psnr_db": mean_of(f"{key}psnr_db", db),
        f"{key}ssim": mean_of(f"{key}ssim", similarity),
        f"{key}psnr_ge_40": mean_of(f"{key}psnr_ge_40", (db >= LOSSLESS_DB).double()),
    }
    for name in ("fd_classifier", "fd_random64"):
        features = reference.features(name)
        if features is None:
            measures[key + name] = missing(key + name, "no classes")
        elif len(images) <= features.num_features:
            measures[key + name] = missing(key + name, f"n = {len(images)}")
        else:
            distance = frechet_distance(features(images), reference.known(name, "test"))
            measures[key + name] = measured(key + name, distance, n=len(images))
    return (db, similarity), measures


def _bits(tokenizer: Tokenizer, codes: CodeStatistics, split: Split) -> Measures:
    height, width = split.images.shape[-2:]
    num_tokens = prod(tokenizer.shape(height, width))
    values = dict(codes.compute()) | {"tokens": float(num_tokens), "dim": float(tokenizer.dim)}
    if tokenizer.codebook_sizes:
        nominal = num_tokens * sum(log2(size) for size in tokenizer.codebook_sizes)
        values |= {"nominal_bits_per_image": nominal, "nominal_bits_per_pixel": nominal / (height * width)}
        values["marginal_bits_per_image"] = num_tokens * values["marginal_entropy_bits"]
    n = int(values["usage_tokens"])
    measures = {f"bits/{name}": measured(f"bits/{name}", value, n=n) for name, value in values.items()}
    for name in _DISCRETE:
        measures.setdefault(f"bits/{name}", missing(f"bits/{name}", "continuous"))
    return measures


_DISCRETE = (
    "nominal_bits_per_image",
    "nominal_bits_per_pixel",
    "usage",
    "usage_cap",
    "perplexity",
    "marginal_entropy_bits",
    "marginal_bits_per_image",
)
