"""One code length for every tokenizer, in bits a sub-pixel: its tokens and what they leave open, beside lossless codecs.

n images of the generation split, the same for all; N tokens, D channels. Nothing is told beside the image: captions are left
out, so that the total bounds what images hold, as a codec's does.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import log

import torch
from torch import Tensor

from tokbench.evaluate.measures import Measures, in_batches, mean_of, measured, missing
from tokbench.evaluate.reference import some
from tokbench.evaluate.tokens import TokenTable
from tokbench.generation.denoise import Denoise
from tokbench.information.diffusion_bound import bound_nats
from tokbench.information.image_lossless import CODECS, bits_per_subpixel
from tokbench.information.lossless import CodeLength, fit_code, measure_code
from tokbench.interfaces import Dataset, Scheme, TokenBatch, Tokenizer, TokenSpace
from tokbench.metrics.images import to_float, to_uint8
from tokbench.metrics.standard_information import BOUND_TIMES, IMAGES

VERSION = 1
LEVEL_STEP = 2 / 255  # between levels, as numbers in [-1, 1]
ROUNDING = 1e-3  # of a level: of float32


@torch.no_grad()
def token_bits(scheme: Scheme, space: TokenSpace, table: TokenTable, *, batch: int) -> Tensor | None:
    """(n,) bits of the tokens of each image under a trained scheme; None where it says nothing that a coder could use.

    Exact over codes; over raw patches, which are levels, the variational bound of a denoiser.
    """
    rows = some(len(table), IMAGES)
    generator = torch.Generator(table.z_q.device).manual_seed(0)
    bounded = isinstance(scheme, Denoise) and not space.codebook_sizes and _are_levels(table.z_q)
    if scheme.likelihood != "exact" and not bounded:
        return None

    def nats(part: Tensor) -> Tensor:
        own = _untold(table.batch(space, rows[part]))
        if isinstance(scheme, Denoise):
            clean = scheme.denoiser(own.text, own.lengths)
            step = (LEVEL_STEP / space.std).to(own.latents.device)
            options = {"schedule": scheme.schedule, "times": BOUND_TIMES, "generator": generator}
            return bound_nats(clean, own.latents, step, **options).cpu()
        found = scheme.nll(own)
        assert found is not None
        return found.double().cpu()

    return in_batches(len(rows), batch, nats, what="token bits") / log(2)


def _are_levels(z_q: Tensor) -> bool:
    """Whether tokens (..., D) are 8-bit levels as numbers in [-1, 1]: a density of others is no code."""
    levels = (z_q + 1) / LEVEL_STEP
    return bool((levels - levels.round()).abs().max() < ROUNDING)


def _untold(batch: TokenBatch) -> TokenBatch:
    """The batch with empty captions."""
    return replace(batch, text=batch.text[:, :0], lengths=torch.zeros_like(batch.lengths))


@torch.no_grad()
def reconstructed(tokenizer: Tokenizer, images: Tensor, *, batch: int, device: torch.device) -> Tensor:
    """The uint8 images (n, 3, H, W) as they come back from their tokens."""
    parts = (to_float(part.to(device)) for part in images.split(batch))
    return torch.cat([to_uint8(tokenizer.decode(tokenizer.encode(part).z_q).float()).cpu() for part in parts])


def judged_images(dataset: Dataset) -> Tensor:
    """(n, 3, H, W) uint8: those whose code length is measured."""
    return dataset.generation.images[some(len(dataset.generation), IMAGES)]


def fit_code_length(
    tokenizer: Tokenizer, dataset: Dataset, again: Tensor, *, steps: int, batch: int, device: torch.device
) -> CodeLength:
    """Bits of what the tokens of the judged images leave open, and of the tokens where they are latents.

    `again`: the judged images `reconstructed`; where they are as they were, nothing is left open. Else it is said by parts
    that are fitted in so many steps, from seed 0.
    """
    held_out = judged_images(dataset)
    if torch.equal(again, held_out):
        nothing = torch.zeros(len(held_out), dtype=torch.float64)
        return CodeLength(None, nothing, torch.full_like(nothing, torch.inf))
    splits = {name: dataset.splits[name].images for name in ("train", "validation")}
    code = fit_code(tokenizer, splits, steps=steps, batch=batch, seed=0, device=device)
    return measure_code(code, held_out, batch=batch, seed=0, device=device)


def code_length_measures(
    dataset: Dataset, found: CodeLength, *, tokens: Tensor | None, table_bits: float | None
) -> tuple[Measures, Tensor | None]:
    """Measures, and (n,) bits of each image in all, None without a model of the tokens.

    `tokens`: (n,) bits of each image's tokens under a model; `table_bits`: of an image's under the training split's tables.
    """
    size = dataset.generation.images[0].numel()
    residual, measures, at = found.residual, Measures(), "information/"
    if found.tokens is not None:
        tokens = found.tokens
        measures[f"{at}coded_psnr_db"] = mean_of(f"{at}coded_psnr_db", found.psnr)
        measures[f"{at}token_bits_per_pixel"] = mean_of(f"{at}token_bits_per_pixel", found.tokens * 3 / size)
    measures[f"{at}residual_bits_per_subpixel"] = mean_of(f"{at}residual_bits_per_subpixel", residual / size)
    key = f"{at}table_lossless_bits_per_subpixel"
    if table_bits is not None:
        measures[key] = mean_of(key, (residual + table_bits) / size)
    if tokens is None:
        names = ("token_bits_per_subpixel", "lossless_bits_per_subpixel")
        return measures | {at + name: missing(at + name, "no model of the tokens") for name in names}, None
    total = tokens + residual
    measures[f"{at}token_bits_per_subpixel"] = mean_of(f"{at}token_bits_per_subpixel", tokens / size)
    share = tokens.sum().item() / total.sum().item()
    measures[f"{at}token_share"] = measured(f"{at}token_share", share, n=len(total))
    measures[f"{at}lossless_bits_per_subpixel"] = mean_of(f"{at}lossless_bits_per_subpixel", total / size)
    if dataset.entropy_bits is not None:
        key = f"{at}above_entropy_bits_per_subpixel"
        measures[key] = mean_of(key, (total - dataset.entropy_bits) / size)
    return measures, total


def codec_measures(dataset: Dataset) -> Measures:
    """Bits a sub-pixel of lossless image codecs on images of the generation split; "NA" where a codec is not installed."""
    return _codecs(dataset.generation.images)


@lru_cache(maxsize=1)
def _codecs(images: Tensor) -> Measures:
    chosen = images[some(len(images), IMAGES)]
    measures: Measures = {}
    for name, codec in CODECS.items():
        for form, tiled in (("single", False), ("tiled", True)):
            key = f"baseline/{name}/information/{form}_file_bits_per_subpixel"
            try:
                measures[key] = measured(key, bits_per_subpixel(codec, chosen, tiled=tiled), n=len(chosen))
            except ModuleNotFoundError as error:
                measures[key] = missing(key, str(error))
    return measures
