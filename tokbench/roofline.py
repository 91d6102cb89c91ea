"""Which bound holds for generating an image, and how long it then takes: a roofline of compute, memory and launches.

One pass takes max(FLOPs / F, bytes / BW) + blocks * tau: F multiply-add FLOPs and BW bytes a second, tau seconds to start a
block. Weights are read once a pass whatever the batch, so that few tokens a pass are bound by them (a GPU has F / BW of
some hundreds) and many tokens by compute; a small network is bound by its launches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch

from tokbench import cost
from tokbench.backbone.attention import Block
from tokbench.backbone.positions import rope1d, rotation, sequence
from tokbench.backbone.transformer import Backbone
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.generation.masked import Masked, still_masked
from tokbench.interfaces import Scheme, TokenSpace
from tokbench.timing import latency


@dataclass(frozen=True)
class Work:
    """Passes over the same weights, one after another, for one image at guidance 1."""

    passes: int
    flops: float  # of all passes
    parameters: int  # read once a pass
    cached: float  # elements of keys and values read by all passes
    blocks: int  # started one after another in a pass


@dataclass(frozen=True)
class Device:
    """Rates of a machine."""

    name: str
    flops: float  # a second that matrix products reach
    bandwidth: float  # bytes a second
    launch: float  # seconds to start one block of the backbone
    memory: float  # bytes


# F: 40 % of the dense bfloat16 peak; tau: some ten kernels of 10 us a block, not compiled. Data sheets of the makers.
NAMED = {
    "a100": Device("A100 80GB", 1.25e14, 2.04e12, 1e-4, 80e9),
    "h100": Device("H100 SXM", 4.0e14, 3.35e12, 1e-4, 80e9),
    "h200": Device("H200", 4.0e14, 4.8e12, 1e-4, 141e9),
    "rtx4090": Device("RTX 4090", 6.6e13, 1.01e12, 1e-4, 24e9),
}


@dataclass(frozen=True)
class Bounds:
    """Seconds a batch would take if one bound alone held, and those of the roofline."""

    compute: float
    weights: float
    launch: float
    seconds: float

    @property
    def name(self) -> str:
        """Of the bound that holds."""
        return max(("compute", "weights", "launch"), key=lambda bound: getattr(self, bound))


def bounds(works: Sequence[Work], device: Device, *, batch: int, element_bytes: int) -> Bounds:
    """Of generating `batch` images at once, weights and cache in elements of so many bytes."""
    parts = []
    for work in works:
        read = work.passes * work.parameters + work.cached * batch
        parts.append(
            (work.flops * batch / device.flops, read * element_bytes / device.bandwidth, _launch(work, device))
        )
    compute, weights, launch = (sum(part) for part in zip(*parts, strict=True))
    return Bounds(compute, weights, launch, sum(max(c, w) + t for c, w, t in parts))


def _launch(work: Work, device: Device) -> float:
    return work.passes * work.blocks * device.launch


def sizes_of(backbone: Backbone) -> cost.Sizes:
    """Its plain numbers."""
    return cost.Sizes(backbone.width, backbone.depth, backbone.dim, len(backbone.skips))


def workload(scheme: Scheme, space: TokenSpace, *, prompt: int) -> dict[str, Work]:
    """The work of one image at guidance 1 after `prompt` slots: of its prompt, its image passes and its head (or adapters).

    Weights read are those of the blocks and long skips, and in passes of denoise of adaLN and a branch; embeddings of text,
    image and time are left out, 2 w^2 and less of some 12 w^2 a layer.
    """
    assert isinstance(scheme, Causal | Masked | Denoise), f"no formula for {type(scheme).__name__}"
    backbone, n = scheme.backbone, scheme.num_places if isinstance(scheme, Denoise) else space.num_tokens
    sizes = sizes_of(backbone)
    shape = {"prompt": prompt, "num_tokens": n}
    token = 2 * sizes.depth * sizes.width  # elements of one token's keys and values
    reading = cost.backbone_flops(sizes, prompt, prompt)
    if isinstance(scheme, Causal):
        passes, flops = n - 1, cost.causal_reading_flops(sizes, **shape)
        seen = sum(prompt + count for count in range(1, n))
    else:
        passes = scheme.evaluations if isinstance(scheme, Denoise) else scheme.rounds
        seen = passes * (prompt + n)
        if isinstance(scheme, Denoise):
            flops = cost.denoise_generation_flops(sizes, steps=passes, guided=False, **shape)
            flops += passes * _options_flops(scheme, sizes, prompt)
        else:
            flops = cost.masked_generation_flops(sizes, rounds=passes, guided=False, **shape)
    parameters = cost.num_parameters(backbone.blocks) + cost.num_parameters(backbone.skips)
    works = {"prompt": Work(1, reading, parameters, 0, sizes.depth)}
    if isinstance(scheme, Denoise):
        parameters += sum(cost.num_parameters(part) for part in (scheme.modulations, scheme.branch) if part is not None)
    works["image"] = Work(passes, flops - reading, parameters, token * seen, sizes.depth)
    return works if isinstance(scheme, Denoise) else works | {"head": _head_work(scheme, n)}


def _options_flops(scheme: Denoise, sizes: cost.Sizes, prompt: int) -> int:
    """What a pass of one image takes for BOI read again, adaLN and a branch."""
    n = scheme.num_places
    again = cost.backbone_flops(sizes, n + scheme.rereads_boi, prompt + n + scheme.rereads_boi)
    return again - cost.backbone_flops(sizes, n, prompt + n) + beside_flops(scheme)


def beside_flops(scheme: Denoise) -> int:
    """Of adaLN and of a branch, whose convolutions are counted, for one image read once."""
    branch, width = scheme.branch, scheme.backbone.width
    modulations = 12 * width**2 * len(scheme.modulations)
    if branch is None:
        return modulations
    rows, columns = scheme.backbone.grid
    made = scheme.output.weight.new_zeros
    picture = made(1, scheme.space.dim, rows * scheme.patch, columns * scheme.patch)

    def both_ways() -> object:
        _, memory = branch.encode(picture, made(1, width))
        return branch.decode(made(1, width, rows, columns), memory)

    return modulations + cost.counted_flops(both_ways)


def _head_work(scheme: Causal | Masked, num_tokens: int) -> Work:
    """Of a head whose every call counts as one block: one call a pass, `evaluations` calls of a diffusion head."""
    head, calls, tokens = scheme.head, num_tokens, num_tokens
    if isinstance(scheme, Masked):
        calls, masked = scheme.rounds, [num_tokens, *still_masked(num_tokens, scheme.rounds)[:-1]]
        if scheme.reveal == "confident":  # draws all that are masked, then asks for their likelihood
            calls, tokens = 2 * calls, 2 * sum(masked)
    assert isinstance(head, torch.nn.Module)
    calls *= getattr(head, "evaluations", 1)
    return Work(calls, tokens * head.flops, cost.num_parameters(head), 0, 1)


@torch.no_grad()
def measured_device(device: torch.device, dtype: torch.dtype) -> Device:
    """The rates of this machine: of a square matrix product in `dtype` and a copy, both large, and of one tiny block."""
    on_gpu = device.type == "cuda"
    side = 8192 if on_gpu else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(2**28 if on_gpu else 2**24, device=device)
    target = torch.empty_like(source)
    block = Block(64, 1).to(device)
    turn = tuple(part.to(device) for part in rotation(rope1d(sequence(1)), 64, 1e4))
    token = torch.randn(1, 1, 64, device=device)

    def seconds(run: Callable[[], object]) -> float:
        return latency(run, repeats=5).median

    return Device(
        name=torch.cuda.get_device_name(device) if on_gpu else f"this CPU, {torch.get_num_threads()} threads",
        flops=2 * side**3 / seconds(lambda: a @ b),
        bandwidth=2 * source.numel() * 4 / seconds(lambda: target.copy_(source)),
        launch=seconds(lambda: [block(token, turn, None, False, None, 0) for _ in range(100)]) / 100,
        memory=torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available,
    )
