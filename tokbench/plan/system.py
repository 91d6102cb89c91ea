"""A system too large to run: parameters counted on torch's meta device, the rest from shapes. No weights of it are allocated.

Only a tokenizer of the user's own that cannot be made on that device is made on the CPU first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from tokbench import build, cost
from tokbench.generation.causal import Causal
from tokbench.generation.tokens import grouped
from tokbench.interfaces import TokenSpace
from tokbench.layers import hidden_size
from tokbench.plan.notes import DEFAULTS, notes
from tokbench.plan.training import training_flops
from tokbench.roofline import Bounds, Device, Work, bounds, sizes_of, workload
from tokbench.values import check_config

LARGEST_BATCH = 4096


@dataclass(frozen=True)
class System:
    """What it is and what generating one image with it takes, at guidance 1."""

    preset: str
    parameters: int
    num_tokens: int  # places of an image in the sequence: P x P of the tokenizer's tokens are one
    training_flops_per_token: float
    training_proxy: float  # 6 N
    works: Mapping[str, Work]
    row_bytes: int  # keys and values of one image
    pass_bytes: int  # of one image, while a pass runs: one layer's activations and the head's outputs
    device: Device
    element_bytes: int
    notes: tuple[str, ...] = ()  # lines on what was not given

    def at(self, batch: int) -> Bounds:
        """Seconds of generating `batch` images at once, and which bound holds."""
        return bounds([*self.works.values()], self.device, batch=batch, element_bytes=self.element_bytes)

    @property
    def best_batch(self) -> int:
        """The largest power of two that fits beside all weights, with its cache and one pass; 0 where not even one image does.

        What decoding to pixels holds at once is left out: images can be decoded one by one.
        """
        decoding = self.works["decoding"].parameters if "decoding" in self.works else 0
        weights = (self.parameters + decoding) * self.element_bytes
        room = int((self.device.memory - weights) // (self.row_bytes + self.pass_bytes))
        return 0 if room < 1 else min(2 ** (room.bit_length() - 1), LARGEST_BATCH)


def planned(
    preset: str, given: Mapping[str, int], overrides: Sequence[str], *, device: Device, element_bytes: int
) -> System:
    """The system of a preset of conf/generation, of `given` sizes and of overrides as a run takes them.

    ValueError, or Hydra's own error, where they do not fit.
    """
    config = build.compose([*_overrides(preset, given), *overrides])
    check_config(config)
    node = config["generation"]
    if "scheme" not in node:
        raise ValueError(f"generation must name single presets, such as chameleon or transfusion, got {preset!r}")
    tokenizer = _tokenizer(config)
    size, prompt = (given.get(key, DEFAULTS[key]) for key in ("image_size", "prompt"))
    zeros = torch.zeros(tokenizer.dim)
    space = TokenSpace(
        shape=tokenizer.shape(size, size),
        dim=tokenizer.dim,
        codebook_sizes=tuple(tokenizer.codebook_sizes),
        mean=zeros,
        std=zeros + 1,
        indices_to_codes=tokenizer.indices_to_codes,
        factors=tuple(tuple(own) for own in getattr(tokenizer, "factors", ())),
        snap=getattr(tokenizer, "snap", None),
    )
    dim, grid = grouped(space, node["scheme"].get("patch", 1))
    with torch.device("meta"):
        backbone = build.construct(config["backbone"], dim=dim, grid=grid)
        head = _head(node["head"], backbone.width, space)
        scheme = build.construct(node["scheme"], space, backbone, *([head] if head is not None else []))
    works = workload(scheme, space, prompt=prompt) | _decoding(tokenizer, size, space)
    sizes, places = sizes_of(backbone), prod(grid)
    length = prompt + places + cost.SPECIALS
    return System(
        preset=node["name"],
        parameters=cost.num_parameters(scheme),
        num_tokens=places,
        training_flops_per_token=training_flops(scheme, space, text=prompt) / length,
        training_proxy=6 * cost.num_parameters(backbone.blocks),
        works=works,
        row_bytes=cost.kv_bytes(sizes, slots=prompt + places, rows=1, element_bytes=element_bytes),
        pass_bytes=_pass_bytes(scheme, space, prompt=prompt, element_bytes=element_bytes),
        device=device,
        element_bytes=element_bytes,
        notes=tuple(notes(config, given, overrides)),
    )


def _overrides(preset: str, given: Mapping[str, Any]) -> list[str]:
    """The run's overrides that the planner's own keys stand for."""
    words = [f"generation={preset}"]
    words += [f"backbone.{key}={given[key]}" for key in ("width", "depth", "heads") if key in given]
    if "width" in given and "heads" not in given:
        words.append(f"backbone.heads={max(given['width'] // 128, 1)}")
    if "steps" in given:
        words.append(f"budget.evaluation.denoise_steps={given['steps']}")
        scheme = build.compose([f"generation={preset}"])["generation"].get("scheme", {})
        words += [f"generation.scheme.rounds={given['steps']}"] if "rounds" in scheme else []
    return words


def _tokenizer(config: Mapping[str, Any]) -> Any:
    """Its shapes without its weights, where they can be had: torch says RuntimeError where making it reads a number of them."""

    def made() -> Any:
        node = config["tokenizer"]
        wanted = {"quantizer": build.construct(config["quantizer"])} if build.takes(node, "quantizer") else {}
        return build.construct(node, **wanted)

    try:
        with torch.device("meta"):
            return made()
    except RuntimeError:
        return made()


def _head(node: Mapping[str, Any] | None, width: int, space: TokenSpace) -> Any:
    if not node:
        return None
    known = {"width": width, "dim": space.dim, "codebook_sizes": space.codebook_sizes, "factors": space.factors}
    return build.construct(node, **{name: value for name, value in known.items() if build.takes(node, name)})


def _pass_bytes(scheme: Any, space: TokenSpace, *, prompt: int, element_bytes: int) -> int:
    """Of one image: SwiGLU's gates and their product beside the residual stream and its norm, and float32 logits or latents."""
    causal = isinstance(scheme, Causal)
    at_once = 1 if causal else getattr(scheme, "num_places", space.num_tokens)
    width, says_indices = scheme.backbone.width, getattr(getattr(scheme, "head", None), "reads", "") == "indices"
    layer = max(prompt, at_once) * (2 * width + 3 * hidden_size(width))
    outputs = (1 if causal else space.num_tokens) * (sum(space.codebook_sizes) if says_indices else space.dim)
    return layer * element_bytes + 4 * outputs


def _decoding(tokenizer: Any, size: int, space: TokenSpace) -> dict[str, Work]:
    """Pixels of one image of the tokenizer, counted on the meta device; nothing where it has no networks."""
    if not isinstance(tokenizer, nn.Module) or not cost.num_parameters(tokenizer):
        return {}
    there: Any = tokenizer.to("meta").eval()
    with torch.no_grad():
        flops = cost.counted_flops(lambda: there.decode(torch.empty(1, space.num_tokens, space.dim, device="meta")))
    return {"decoding": Work(1, flops, cost.num_parameters(tokenizer), 0, 0)}
