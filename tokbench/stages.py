"""The trained parts of a run: its tokenizer (kept by hash, so that a sweep trains each once) and its generation schemes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from tokbench import build
from tokbench.evaluate.tokens import TokenTable
from tokbench.interfaces import Scheme, Tokenizer, TokenSpace
from tokbench.job import ROOMS, Job, Values
from tokbench.metrics.images import to_float
from tokbench.train import Training, fit

VERSION = 1


def tokenizer_loss(tokenizer: Tokenizer, images: Tensor) -> dict[str, Tensor]:
    """Weighted scalar terms on (B, 3, H, W) images in [-1, 1]: mean squared error, and the quantizer's losses."""
    quantized = tokenizer.encode(images)
    reconstruction = nn.functional.mse_loss(tokenizer.decode(quantized.z_q).float(), images)
    weights = tokenizer.loss_weights
    return {"reconstruction": reconstruction} | {k: weights[k] * v for k, v in quantized.losses.items()}


def trainable(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer has parameters to train."""
    return isinstance(tokenizer, nn.Module) and any(p.requires_grad for p in tokenizer.parameters())


def trained_tokenizer(job: Job) -> tuple[Tokenizer, Training | None]:
    """The tokenizer, trained and frozen, in eval mode, and its training; from the cache where these very weights are kept."""
    tokenizer, budget = job.tokenizer(), job.config["budget"]
    if not isinstance(tokenizer, nn.Module):
        return tokenizer, None
    if not trainable(tokenizer):
        return tokenizer.eval(), None
    parts = [job.config[k] for k in ("tokenizer", "quantizer", "seed")] + [budget["tokenizer"], budget["precision"]]
    used = build.versions([job.config["tokenizer"], job.config["quantizer"]], ROOMS)
    path = Path(job.config["cache_dir"]) / "tokenizers" / f"{build.digest(parts, used, job.fingerprints)}.pt"
    if path.exists() and not job.config["force"]:
        kept = torch.load(path, map_location=job.device, weights_only=True)
        tokenizer.load_state_dict(kept["weights"])
        training = Training(**kept["training"])
    else:
        training = _fit_tokenizer(job, tokenizer)
        _save(path, {"weights": tokenizer.state_dict(), "training": vars(training)})
    return tokenizer.eval().requires_grad_(False), training


def _fit_tokenizer(job: Job, tokenizer: Any) -> Training:
    options = dict(job.config["budget"]["tokenizer"])
    train, validation = (job.dataset.splits[n].images.to(job.device) for n in ("train", "validation"))
    size = options["batch"]

    def draw(generator: Generator) -> Tensor:
        rows = torch.randint(len(train), (size,), generator=generator)
        return to_float(train[rows.to(train.device)])

    def loss(images: Tensor) -> dict[str, Tensor]:
        return tokenizer_loss(tokenizer, images)

    def held_out() -> float:
        errors = [loss(to_float(part))["reconstruction"] * len(part) for part in validation.split(256)]
        return float(sum(errors)) / len(validation)

    training = fit(tokenizer, loss, draw, validation=held_out, **_fit_options(job, "tokenizer"))
    if any(not getattr(module, "initialized", True) for module in tokenizer.modules()):
        raise ValueError(
            f"init=kmeans needs as many tokens as codes, {tokenizer.codebook_sizes}, "
            f"and {options['steps']} steps of {size} images did not hold them"
        )
    return training


def trained_scheme(
    job: Job, preset: Values, space: TokenSpace, tables: Mapping[str, TokenTable]
) -> tuple[Scheme, Training]:
    """A scheme trained on the tokens of the training split, in eval mode, and its training."""
    scheme: Any = job.scheme(preset, space)
    size, seed = job.config["budget"]["backbone"]["batch"], job.config["seed"]
    noise = torch.Generator(job.device).manual_seed(seed + 1)
    weights = scheme.loss_weights

    def weighted(batch: Any, generator: Generator) -> dict[str, Tensor]:
        return {k: weights[k] * v for k, v in scheme.loss(batch, generator).items()}

    def held_out() -> float:
        generator = torch.Generator(job.device).manual_seed(0)
        parts = torch.arange(len(tables["validation"])).split(size)
        losses = [sum(weighted(tables["validation"].batch(space, p), generator).values()) * len(p) for p in parts]
        return float(sum(losses)) / len(tables["validation"])

    training = fit(
        scheme,
        lambda batch: weighted(batch, noise),
        lambda generator: tables["train"].draw(space, size, generator),
        validation=held_out,
        **_fit_options(job, "backbone"),
    )
    return scheme, training


def _fit_options(job: Job, part: str) -> dict[str, Any]:
    budget = job.config["budget"]
    options = {name: budget[part][name] for name in ("steps", "lr", "weight_decay", "clip")}
    return options | {"seed": job.config["seed"], "precision": budget["precision"], "logger": job.logger, "name": part}


def _save(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        torch.save(content, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
