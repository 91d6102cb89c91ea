"""What a tokenizer and a scheme cost on this machine, measured alone on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tokbench import cost, timing
from tokbench.backbone.attention import Cache
from tokbench.backbone.sequence import SPECIALS, encode_text
from tokbench.evaluate.measures import Measures, measured, missing
from tokbench.generation.causal import Causal
from tokbench.interfaces import Scheme, TokenBatch, Tokenizer, TokenSpace
from tokbench.metrics.images import to_float
from tokbench.quantizers.nearest import MIN_ROWS
from tokbench.roofline import Bounds, bounds, measured_device, workload

VERSION = 1
REPEATS = 5
FLOAT_BYTES = 4  # costs are measured in float32
TIMED = (
    *("latency_seconds", "throughput_images_per_second", "best_batch", "latency_over_roofline"),
    "head_seconds_share",
    *(f"{bound}_bound_seconds{at}" for at in ("", "_at_best") for bound in ("compute", "weights", "launch")),
)
Timings = dict[str, timing.Timing | float]


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
            "encode_seconds": timing.latency(lambda: tokenizer.encode(batch), repeats=REPEATS),
            "decode_seconds": timing.latency(lambda: tokenizer.decode(z_q), repeats=REPEATS),
        }

    module = tokenizer if isinstance(tokenizer, nn.Module) else nn.Identity()
    flops = steps * cost.counted_flops(step) if step is not None else 0
    measures = {
        "cost/tokenizer_parameters": measured("cost/tokenizer_parameters", cost.num_parameters(module)),
        "cost/tokenizer_training_flops": measured("cost/tokenizer_training_flops", flops),
    }
    names = ("encode_seconds", "decode_seconds")
    timed, others = _timed("cost/", names, measure, per=len(images))
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

    works = workload(scheme, space, prompt=int(lengths[0]) + cost.PROMPT_SPECIALS)

    def measure() -> Timings:
        one = timing.latency(image, repeats=REPEATS)
        many, best = timing.throughput(image, largest=batch, repeats=3)
        rates = measured_device(device, torch.float32)
        at_one, at_best = (
            bounds([*works.values()], rates, batch=rows, element_bytes=FLOAT_BYTES) for rows in (1, best)
        )
        found: Timings = {"latency_seconds": one, "throughput_images_per_second": many, "best_batch": best}
        found |= {"latency_over_roofline": one.median / at_one.seconds}
        found |= {"head_seconds_share": _head_share(scheme, lambda: image(decode=False))}
        return found | _bound_seconds(at_one, "") | _bound_seconds(at_best, "_at_best")

    key = f"{block}/cost/"
    values = {
        "parameters": float(cost.num_parameters(scheme)),
        "training_flops": float(training_flops),
        "generation_flops_counted": float(cost.counted_flops(lambda: image(decode=False))),
        "generation_flops_analytic": sum(work.flops for work in works.values()) + snap_flops(scheme, space),
        "passes": works["prompt"].passes + works["image"].passes,
        "kv_cache_bytes": _cache_bytes(scheme, space, prompt=int(lengths[0]) + cost.PROMPT_SPECIALS),
        "kv_cache_allocated_bytes": allocated_cache(scheme, image),
        "peak_memory_bytes": float(timing.peak_memory_bytes(image, device=device)),
    }
    measures = {key + name: measured(key + name, value) for name, value in values.items()}
    timed, others = _timed(key, TIMED, measure, per=1)
    return measures | timed, others


def _head_share(scheme: Any, generate: Callable[[], object]) -> float:
    """Of the time of one image, that inside the head's draws."""
    head = getattr(scheme, "head", None)
    if head is None:
        return 0.0
    inside: list[float] = []

    def sample(*args: Any, **options: Any) -> Tensor:
        drawn: list[Tensor] = []
        inside.append(timing.once(lambda: drawn.append(type(head).sample(head, *args, **options))))
        return drawn[0]

    head.sample = sample
    try:
        whole = timing.once(generate)
    finally:
        del head.sample
    return sum(inside) / whole


def training_proxy(scheme: Scheme, batch: TokenBatch) -> int:
    """6 N D of one training step on `batch`: N parameters of the blocks, D tokens of its rows."""
    backbone = scheme.backbone  # type: ignore[attr-defined]
    places = getattr(scheme, "num_places", batch.latents.shape[1])
    tokens = len(batch.text) * (batch.text.shape[1] + places + SPECIALS)
    return 6 * cost.num_parameters(backbone.blocks) * tokens


def training_step_flops(scheme: Scheme, batch: TokenBatch) -> int:
    """Counted FLOPs of one training step (forward and backward) on `batch`, in expectation over whether its rows are
    joined two by two; gradients are left empty.
    """
    assert isinstance(scheme, nn.Module)
    share, flops = scheme.interleaved, 0.0

    def step() -> None:
        terms = scheme.loss(batch, torch.Generator(batch.latents.device).manual_seed(0))
        torch.stack(list(terms.values())).sum().backward()

    try:
        for kind, weight in ((0.0, 1 - share), (1.0, share)):
            scheme.interleaved = kind
            with torch.enable_grad():
                flops += weight * cost.counted_flops(step) if weight else 0.0
    finally:
        scheme.interleaved = share
    scheme.zero_grad(set_to_none=True)
    return round(flops)


def snap_flops(scheme: Scheme, space: TokenSpace) -> int:
    """Of the searches for one image's nearest codes, where a scheme draws latents of a discrete tokenizer.

    A causal scheme searches token by token, each search of at least MIN_ROWS rows. That of several codebooks is the tokenizer's
    own, and counted.
    """
    if getattr(getattr(scheme, "head", None), "reads", "latents") == "indices":
        return 0
    at_once = 1 if isinstance(scheme, Causal) else space.num_tokens
    searches = space.num_tokens // at_once
    if len(space.codebook_sizes) > 1 and (snap := space.snap) is not None:
        return searches * cost.counted_flops(lambda: snap(space.mean.expand(1, at_once, space.dim)))
    return sum(2 * searches * max(at_once, MIN_ROWS) * size * space.dim for size in space.codebook_sizes)


def allocated_cache(scheme: Scheme, generate: Callable[[], object]) -> int:
    """Bytes of keys and values held when generate() is over."""
    backbone = scheme.backbone  # type: ignore[attr-defined]
    caches: list[Cache] = []

    def prefill(*args: Any, **options: Any) -> tuple[Cache, Tensor]:
        cache, state = type(backbone).prefill(backbone, *args, **options)
        caches.append(cache)
        return cache, state

    backbone.prefill = prefill
    try:
        generate()
    finally:
        del backbone.prefill
    return sum(cache.num_bytes for cache in caches)


def _cache_bytes(scheme: Scheme, space: TokenSpace, *, prompt: int) -> int:
    backbone = scheme.backbone  # type: ignore[attr-defined]
    sizes = cost.Sizes(backbone.width, backbone.depth, space.dim)
    again = int(getattr(scheme, "rereads_boi", False))
    places = getattr(scheme, "num_places", space.num_tokens) + again
    return cost.kv_bytes(sizes, slots=prompt + places, rows=1, element_bytes=FLOAT_BYTES)


def _bound_seconds(found: Bounds, suffix: str) -> Timings:
    return {f"{name}_bound_seconds{suffix}": getattr(found, name) for name in ("compute", "weights", "launch")}


def _timed(prefix: str, names: Iterable[str], measure: Callable[[], Timings], *, per: int) -> tuple[Measures, float]:
    quiet = timing.quietly(measure)
    measures: Measures = {}
    for name in names:
        key = f"{prefix}{name}"
        if quiet.value is None:
            measures[key] = missing(key, quiet.reason or "busy")
            continue
        found = quiet.value[name]
        if isinstance(found, timing.Timing):
            spread = found.interquartile_range / per
            measures[key] = measured(key, found.median / per, n=len(found.seconds), spread=spread)
        else:
            measures[key] = measured(key, found)
    return measures, quiet.other_cores
