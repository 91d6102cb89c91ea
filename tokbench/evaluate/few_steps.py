"""One trained scheme over numbers of steps: what more passes buy and cost, without training again (C31, C32)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokbench import timing
from tokbench.backbone.sequence import encode_text
from tokbench.diffusion import SAMPLERS as SAMPLER_FUNCTIONS
from tokbench.diffusion import evaluations
from tokbench.evaluate.generation import Sizes, generate
from tokbench.evaluate.measures import Measures, measured, missing
from tokbench.evaluate.reference import Reference, some
from tokbench.generation.denoise import Denoise
from tokbench.generation.masked import Masked
from tokbench.interfaces import Scheme, Tokenizer
from tokbench.metrics.features import frechet_distance
from tokbench.metrics.standard_systems import EVALUATIONS, ROUNDS, SAMPLERS

VERSION = 1
REPEATS = 3


def evaluate_few_steps(
    block: str,
    scheme: Scheme,
    tokenizer: Tokenizer,
    reference: Reference,
    sizes: Sizes,
    *,
    most: int,
    guidance: float,
    largest: int,
    seed: int,
    device: torch.device,
) -> Measures:
    """Quality and time of each way of at most so many passes; nothing where a scheme's passes are as many as its tokens.

    Times are of one image alone, and an image at the best batch of at most `largest`.
    """
    chosen = ways(scheme, most=most)
    options = {
        "guidance": guidance,
        "batch": sizes.batch,
        "seed": seed,
        "device": device,
        "what": f"{block}: few steps",
    }
    measures: Measures = {}
    for way, count in chosen:
        key = f"{block}/steps/fd_classifier_{way}_{count}"
        with taking(scheme, way, count):
            measures[key] = _quality(key, scheme, tokenizer, reference, sizes.samples, options)
    return measures | (_times(block, scheme, chosen, largest, device) if chosen else {})


def _times(block: str, scheme: Scheme, chosen: list[tuple[str, int]], largest: int, device: torch.device) -> Measures:
    def measure() -> list[tuple[timing.Timing, float]]:
        sampled = partial(_sampled, scheme, device)
        _, best = timing.throughput(sampled, largest=largest, repeats=1)
        found = []
        for way in chosen:
            with taking(scheme, *way):
                one = timing.latency(partial(sampled, 1), repeats=REPEATS)
                found.append((one, timing.once(partial(sampled, best)) / best))
        return found

    quiet = timing.quietly(measure)
    measures: Measures = {}
    for place, (way, count) in enumerate(chosen):
        alone, together = (f"{block}/steps/{name}_seconds_{way}_{count}" for name in ("latency", "best_batch"))
        if quiet.value is None:
            measures |= {key: missing(key, quiet.reason or "busy") for key in (alone, together)}
        else:
            one, many = quiet.value[place]
            measures[alone] = measured(alone, one.median, n=REPEATS, spread=one.interquartile_range)
            measures[together] = measured(together, many, n=1)
    return measures


def ways(scheme: Scheme, *, most: int) -> list[tuple[str, int]]:
    """Samplers with numbers of evaluations that they can make, or numbers of rounds, up to `most`."""
    if isinstance(scheme, Masked):
        return [("rounds", count) for count in ROUNDS if count <= min(most, scheme.space.num_tokens)]
    if isinstance(scheme, Denoise):
        counts = [n for n in EVALUATIONS if n <= most]
        return [(name, n) for name in SAMPLERS for n in counts if evaluations(name, _steps(name, n)) <= n]
    return []


@contextmanager
def taking(scheme: Any, way: str, count: int) -> Iterator[None]:
    """The scheme samples in so many rounds, or evaluations of a sampler (Heun's: one fewer where they are even), meanwhile."""
    names = ("rounds",) if way == "rounds" else ("steps", "sampler", "evaluations")
    before = {name: getattr(scheme, name) for name in names}
    if way == "rounds":
        scheme.rounds = count
    else:
        scheme.steps, scheme.sampler = _steps(way, count), SAMPLER_FUNCTIONS[way]
        scheme.evaluations = evaluations(way, scheme.steps)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(scheme, name, value)


def _steps(sampler: str, count: int) -> int:
    return (count + 1) // 2 if sampler == "heun" else count


def _quality(
    key: str, scheme: Scheme, tokenizer: Tokenizer, reference: Reference, samples: int, options: dict[str, Any]
) -> Any:
    split, features = reference.dataset.generation, reference.features("fd_classifier")
    if features is None:
        return missing(key, "no classes")
    rows = some(len(split), samples)
    images = generate(scheme, tokenizer, tuple(split.captions[i] for i in rows.tolist()), **options)
    if len(images) <= features.num_features:
        return missing(key, f"n = {len(images)} < {features.num_features + 1}")
    distance = frechet_distance(features(images), reference.known("fd_classifier", "generation"))
    return measured(key, distance, n=len(images))


@torch.no_grad()
def _sampled(scheme: Scheme, device: torch.device, rows: int) -> Tensor:
    text, lengths = (part.to(device) for part in encode_text(["a"] * rows))
    generator = torch.Generator(device).manual_seed(0)
    return scheme.sample(text, lengths, guidance=1.0, generator=generator).z_q
