"""What a tokenizer and a scheme cost on this machine, measured alone on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tokbench import cost
from tokbench.backbone.sequence import encode_text
from tokbench.evaluate.measures import Measures, measured, missing
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.interfaces import Scheme, TokenBatch, Tokenizer, TokenSpace
from tokbench.metrics.images import to_float

VERSION = 1
REPEATS = 5
Timings = dict[str, cost.Timing | float]


def tokenizer_costs(
    tokenizer: Tokenizer,
    images: Tensor,
    *,
    step: Callable[[], object] | None,
    steps: int,
    device: torch.device,
) -> tuple[Measures, float]:
    """Measures over a batch of uint8 `images` (B, 3, H, W), and the cores others used meanwhile.

    `step` is one training step, forward and backward; None where nothing is trained.
    """
    batch = to_float(images.to(device))
    z_q = tokenizer.encode(batch).z_q.detach()

    @torch.no_grad()
    def measure() -> Timings:
        return {
            "encode_seconds": cost.latency(lambda: tokenizer.encode(batch), repeats=REPEATS),
            "decode_seconds": cost.latency(lambda: tokenizer.decode(z_q), repeats=REPEATS),
        }

    module = tokenizer if isinstance(tokenizer, nn.Module) else nn.Identity()
    flops = steps * cost.counted_flops(step) if step is not None else 0
    measures = {
        "cost/tokenizer_parameters": measured("cost/tokenizer_parameters", cost.num_parameters(module)),
        "cost/tokenizer_training_flops": measured("cost/tokenizer_training_flops", flops),
    }
    timed, others = _timed("", measure, per=len(images))
    return measures | timed, others


def scheme_costs(
    block: str,
    scheme: Scheme,
    tokenizer: Tokenizer,
    space: TokenSpace,
    *,
    caption: str,
    batch: int,
    training_flops: int,
    device: torch.device,
) -> tuple[Measures, float]:
    """Measures of generating with `caption` at guidance 1, decoding included in times, and the cores others used meanwhile."""
    assert isinstance(scheme, nn.Module)
    text, lengths = (part.to(device) for part in encode_text([caption]))

    @torch.no_grad()
    def image(rows: int = 1, *, decode: bool = True) -> object:
        generator = torch.Generator(device).manual_seed(0)
        quantized = scheme.sample(text.expand(rows, -1), lengths.expand(rows), guidance=1.0, generator=generator)
        return tokenizer.decode(quantized.z_q) if decode else quantized

    def measure() -> Timings:
        many, _ = cost.throughput(image, batch=batch, repeats=3)
        return {"latency_seconds": cost.latency(image, repeats=REPEATS), "throughput_images_per_second": many}

    key = f"{block}/cost/"
    values = {
        "parameters": float(cost.num_parameters(scheme)),
        "training_flops": float(training_flops),
        "generation_flops_counted": float(cost.counted_flops(lambda: image(decode=False))),
        "peak_memory_bytes": float(cost.peak_memory_bytes(image, device=device)),
    } | _analytic(scheme, space, prompt=int(lengths[0]) + cost.PROMPT_SPECIALS)
    measures = {key + name: measured(key + name, value) for name, value in values.items()}
    timed, others = _timed(f"{block}/", measure, per=1)
    return measures | timed, others


def training_step_flops(scheme: Scheme, batch: TokenBatch) -> int:
    """Counted FLOPs of one training step (forward and backward) on `batch`; gradients are left empty."""
    assert isinstance(scheme, nn.Module)

    def step() -> None:
        terms = scheme.loss(batch, torch.Generator(batch.latents.device).manual_seed(0))
        torch.stack(list(terms.values())).sum().backward()

    with torch.enable_grad():
        flops = cost.counted_flops(step)
    scheme.zero_grad(set_to_none=True)
    return flops


def _analytic(scheme: Scheme, space: TokenSpace, *, prompt: int) -> dict[str, float]:
    if not isinstance(scheme, Causal | Denoise):
        return {}
    backbone, n = scheme.backbone, space.num_tokens
    sizes = cost.Sizes(backbone.width, backbone.depth, space.dim)
    if isinstance(scheme, Causal):
        flops = cost.causal_reading_flops(sizes, prompt=prompt, num_tokens=n) + n * scheme.head.flops
        passes = cost.causal_passes(n)
    else:
        flops = cost.denoise_generation_flops(sizes, prompt=prompt, num_tokens=n, steps=scheme.steps, guided=False)
        flops += _snap_flops(space)
        passes = cost.denoise_passes(scheme.steps)
    cache = cost.kv_bytes(sizes, slots=prompt + n, rows=1, element_bytes=4)
    return {"generation_flops_analytic": flops, "passes": passes, "kv_cache_bytes": cache}


def _snap_flops(space: TokenSpace) -> int:
    """Of the search for one image's nearest codes; that of several codebooks is the tokenizer's own, and counted."""
    if len(space.codebook_sizes) > 1 and (snap := space.snap) is not None:
        return cost.counted_flops(lambda: snap(space.mean.expand(1, space.num_tokens, space.dim)))
    return sum(2 * space.num_tokens * size * space.dim for size in space.codebook_sizes)


def _timed(prefix: str, measure: Callable[[], Timings], *, per: int) -> tuple[Measures, float]:
    quiet = cost.quietly(measure)
    measures: Measures = {}
    names = ("encode_seconds", "decode_seconds") if not prefix else ("latency_seconds", "throughput_images_per_second")
    for name in names:
        key = f"{prefix}cost/{name}"
        if quiet.value is None:
            measures[key] = missing(key, quiet.reason or "busy")
            continue
        found = quiet.value[name]
        if isinstance(found, cost.Timing):
            spread = found.interquartile_range / per
            measures[key] = measured(key, found.median / per, n=len(found.seconds), spread=spread)
        else:
            measures[key] = measured(key, found)
    return measures, quiet.other_cores
