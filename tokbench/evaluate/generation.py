"""What a trained scheme generates, how it reads images, and the bits it gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log
from sys import stderr
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from tokbench.backbone.sequence import IGNORE, arrange, encode_text
from tokbench.data.common import subset
from tokbench.evaluate.exactness import evaluate_exactness
from tokbench.evaluate.measures import Measures, in_batches, mean_of, measured, missing
from tokbench.evaluate.reference import Reference, some
from tokbench.evaluate.tokens import TokenTable
from tokbench.generation.causal import Causal
from tokbench.interfaces import Scheme, Split, TokenBatch, Tokenizer, TokenSpace
from tokbench.metrics.features import frechet_distance, kid, nearest_distance, sliced_wasserstein
from tokbench.metrics.images import to_uint8
from tokbench.metrics.standard import RANDOM_MINIMUM, SLICES, SLICES_SEED
from tokbench.records import Measure

VERSION = 1


@dataclass(frozen=True)
class Sizes:
    """How much is measured; part of a budget."""

    samples: int  # images generated at each guidance
    tuning_samples: int  # images generated for each candidate guidance on the validation split
    guidances: tuple[float, ...]  # candidates
    understanding: int  # images read
    batch: int


@torch.no_grad()
def generate(
    scheme: Scheme,
    tokenizer: Tokenizer,
    captions: tuple[str, ...],
    *,
    guidance: float,
    batch: int,
    seed: int,
    device: torch.device,
    what: str,
) -> Tensor:
    """(n, 3, H, W) uint8, one image a caption."""
    text, lengths = (part.to(device) for part in encode_text(captions))
    generator = torch.Generator(device).manual_seed(seed)
    images = []
    parts = torch.arange(len(captions), device=device).split(batch)
    for rows in track(parts, description=what, disable=not stderr.isatty()):
        quantized = scheme.sample(text[rows], lengths[rows], guidance=guidance, generator=generator)
        images.append(to_uint8(tokenizer.decode(quantized.z_q).float()).cpu())
    return torch.cat(images)


def evaluate_generation(
    block: str,
    scheme: Scheme,
    tokenizer: Tokenizer,
    reference: Reference,
    sizes: Sizes,
    *,
    seed: int,
    device: torch.device,
) -> tuple[Measures, Tensor]:
    """Measures of `block` at guidance 1 and at the guidance that did best on validation; samples (n, 3, H, W) of the latter."""
    dataset = reference.dataset

    def draw(split: Split, n: int, guidance: float, what: str) -> tuple[Tensor, Tensor]:
        rows = some(len(split), n)
        captions = tuple(split.captions[i] for i in rows.tolist())
        what = f"{block}: {what}, guidance {guidance:g}"
        options = {"guidance": guidance, "batch": sizes.batch, "seed": seed, "device": device, "what": what}
        return generate(scheme, tokenizer, captions, **options), rows  # type: ignore[arg-type]

    scores = {}
    for guidance in sizes.guidances:
        images, _ = draw(dataset.validation, sizes.tuning_samples, guidance, "tuning")
        scores[guidance] = _tuning_score(images, dataset.validation, reference)
    best = min(scores, key=lambda g: scores[g])
    measures: Measures = {
        f"{block}/guided/guidance": measured(f"{block}/guided/guidance", best, n=sizes.tuning_samples)
    }
    drawn: dict[float, tuple[Tensor, Tensor]] = {}
    for group, guidance in (("generation", 1.0), ("guided", best)):
        if guidance not in drawn:
            drawn[guidance] = draw(dataset.generation, sizes.samples, guidance, "samples")
        images, rows = drawn[guidance]
        labels = dataset.generation.labels
        measures |= sample_measures(f"{block}/{group}/", images, None if labels is None else labels[rows], reference)
        if reference.checker is not None:
            truth = subset(dataset.generation, rows).truth
            assert truth is not None
            measures |= evaluate_exactness(f"{block}/{group}/", images, truth, reference)[0]
    return measures, images


def _tuning_score(images: Tensor, split: Split, reference: Reference) -> float:
    features = reference.features("fd_classifier")
    if features is not None and len(images) > features.num_features:
        return frechet_distance(features(images), reference.known("fd_classifier", "validation"))
    return sliced_wasserstein(images, split.images, projections=SLICES, seed=SLICES_SEED)


def sample_measures(
    prefix: str, images: Tensor, labels: Tensor | None, reference: Reference, *, against: Tensor | None = None
) -> Measures:
    """Measures of generated 8-bit `images` against the generation split, or its rows `against`.

    Image i was asked for by the caption of labels[i].
    """
    n, train = len(images), reference.dataset.train.images
    against = torch.arange(len(reference.dataset.generation)) if against is None else against
    held_out = reference.dataset.generation.images[against]
    measures: Measures = {}
    for name in ("fd_classifier", "fd_random64"):
        measures[prefix + name] = _distance(prefix + name, name, images, reference, against)
    random = reference.features("fd_random64")
    assert random is not None
    real, known = reference.known("fd_random64", "generation")[against], reference.known("fd_random64", "train", n)
    key = f"{prefix}kid_random64"
    if min(len(real), len(known), n) < 2:
        measures[key] = missing(key, "fewer than 2 images")
    else:
        measures[key] = measured(key, kid(random(images), real), n=n, floor=kid(known, real))
    key = f"{prefix}sliced_wasserstein"
    known_images = train[some(len(train), n)]
    value, floor = (
        sliced_wasserstein(x, held_out, projections=SLICES, seed=SLICES_SEED) for x in (images, known_images)
    )
    measures[key] = measured(key, value, n=n, floor=floor)
    key = f"{prefix}nearest_train_distance"
    measures[key] = mean_of(key, nearest_distance(images, train))
    key = f"{prefix}class_agreement"
    measures[key] = _agreement(key, images, labels, reference)
    return measures


def _distance(key: str, name: str, images: Tensor, reference: Reference, against: Tensor) -> Measure:
    features = reference.features(name)
    if features is None:
        return missing(key, "no classes")
    least = RANDOM_MINIMUM if name == "fd_random64" else features.num_features + 1
    real, known = reference.known(name, "generation")[against], reference.known(name, "train", len(images))
    if (fewest := min(len(images), len(real), len(known))) < least:
        return missing(key, f"n = {fewest} < {least}")
    floor = frechet_distance(known, real)
    return measured(key, frechet_distance(features(images), real), n=len(images), floor=floor)


def _agreement(key: str, images: Tensor, labels: Tensor | None, reference: Reference) -> Measure:
    if not reference.dataset.ranked:
        return missing(key, "colour alone names the photograph")
    if reference.classifier is None or labels is None:
        return missing(key, "no classes")
    agrees = reference.classifier.predict(images, batch=500).cpu() == labels
    return mean_of(key, agrees.double())


@torch.no_grad()
def evaluate_understanding(
    block: str, scheme: Scheme, space: TokenSpace, table: TokenTable, split: Split, names: tuple[str, ...], sizes: Sizes
) -> Measures:
    """Class by caption likelihood, and caption bits per byte, of the split whose tokens are `table`."""
    rows = some(len(table), sizes.understanding)
    device = table.z_q.device

    def own(part: Tensor, content: bool) -> Tensor:
        return scheme.caption_nll(table.batch(space, rows[part]), content=content).cpu()

    def by_name(part: Tensor) -> Tensor:
        batch = table.batch(space, rows[part])
        text, lengths = (x.to(device) for x in encode_text(names))
        nats = []
        for k in range(len(names)):
            many = text[k].expand(len(part), -1), lengths[k].expand(len(part))
            nats.append(scheme.caption_nll(TokenBatch(batch.latents, batch.indices, *many)))
        return torch.stack(nats, dim=1).cpu()

    measures = _bits_per_byte(f"{block}/understanding/caption", table, rows, sizes.batch, own)
    key = f"{block}/understanding/caption_accuracy"
    if split.labels is None or len(names) < 2:
        measures[key] = missing(key, "no classes")
    else:
        chosen = in_batches(len(rows), sizes.batch, by_name, what=f"{block}: classes").argmin(dim=1)
        measures[key] = mean_of(key, (chosen == split.labels[rows]).double())
    return measures


def evaluate_text(block: str, scheme: Any, space: TokenSpace, table: TokenTable, sizes: Sizes) -> Measures:
    """Bits per byte of the captions alone, with no image read."""
    rows = some(len(table), sizes.understanding)

    def alone(part: Tensor, content: bool) -> Tensor:
        batch = table.batch(space, rows[part])
        return _text_nats(scheme, batch.text, batch.lengths, content=content).cpu()

    return _bits_per_byte(f"{block}/understanding/text", table, rows, sizes.batch, alone)


def _bits_per_byte(name: str, table: TokenTable, rows: Tensor, batch: int, nats: Callable[..., Tensor]) -> Measures:
    """Bits of the captions of these rows over their bytes: of all, and of their content alone."""
    num_bytes = table.lengths[rows.to(table.lengths.device)].sum().item()
    measures: Measures = {}
    for key, content in ((f"{name}_bits_per_byte", False), (f"{name}_content_bits_per_byte", True)):
        if not num_bytes:
            measures[key] = missing(key, "no captions")
            continue
        found = in_batches(len(rows), batch, partial(nats, content=content), what=key)
        measures[key] = measured(key, found.sum().item() / log(2) / num_bytes, n=len(rows))
    return measures


def _text_nats(scheme: Any, text: Tensor, lengths: Tensor, *, content: bool = False) -> Tensor:
    """(B,) nats of the captions (B, T) and of BOI, which ends them, with no image read; of their content alone, or not."""
    rows = arrange(text, lengths, torch.zeros_like(lengths, dtype=torch.bool), 0)
    backbone, place = scheme.backbone, torch.arange(rows.tokens.shape[1], device=text.device)
    turn = backbone.rotation(rows.image_starts, len(place))
    states = backbone(backbone.embed_text(rows.tokens, rows.image_starts), turn, mask=None, causal=True)
    said = torch.cat((rows.tokens[:, 1:], rows.tokens[:, :1]), dim=1)
    targets = said.masked_fill(place > lengths[:, None], IGNORE)
    return backbone.text_nats(states, targets, content=content).sum(dim=1)


@torch.no_grad()
def evaluate_likelihood(
    block: str, scheme: Scheme, space: TokenSpace, table: TokenTable, *, pixels: int, sizes: Sizes
) -> tuple[Measures, Tensor | None]:
    """What the scheme's likelihood says of the image tokens given the caption, each kind under its own name.

    Bits an image and a pixel where it is exact over codes, else "NA" and the reason; besides them a bound on those bits, or
    the bits of a density a channel. And (N,) mean bits at each place of the image where those of single codes are known.
    """
    exact, kind = ("model_bits_per_image", "model_bits_per_pixel"), scheme.likelihood
    by_place = scheme if kind == "exact" and isinstance(scheme, Causal) else None
    rows = some(len(table), sizes.understanding)

    def nats(part: Tensor) -> Tensor:
        batch = table.batch(space, rows[part])
        found = by_place.token_nll(batch) if by_place else scheme.nll(batch)
        assert found is not None
        return found.cpu()

    measures: Measures = {}
    if kind != "exact":
        reason = "a bound alone" if kind == "bound" else "no exact likelihood" if space.codebook_sizes else "continuous"
        measures = {f"{block}/bits/{name}": missing(f"{block}/bits/{name}", reason) for name in exact}
    if kind is None:
        return measures, None
    bits = in_batches(len(rows), sizes.batch, nats, what=f"{block}: likelihood") / log(2)
    whole = bits.sum(dim=1) if by_place else bits
    parts = {
        "exact": dict(zip(exact, (1, pixels), strict=True)),
        "bound": {"model_bits_bound_per_image": 1},
        "density": {"model_density_bits_per_channel": space.num_tokens * space.dim},
    }
    for name, share in parts[kind].items():
        measures[f"{block}/bits/{name}"] = mean_of(f"{block}/bits/{name}", whole / share)
    if by_place is None:
        return measures, None
    quarter, drawn = max(space.num_tokens // 4, 1), bits[:, by_place.order.cpu()]
    key = f"{block}/bits/position_drop"
    measures[key] = mean_of(key, drawn[:, :quarter].mean(dim=1) - drawn[:, -quarter:].mean(dim=1))
    return measures, bits.mean(dim=0)
