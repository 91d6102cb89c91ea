"""`python -m tokbench.cost generation=chameleon,transfusion image_size=256 width=4096 depth=32`: what a system would cost.

Exit code 2: bad input.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from tokbench.names import hint, in_one_line
from tokbench.plan.system import System, planned
from tokbench.report.formatting import markdown_table, number
from tokbench.roofline import NAMED, Device, measured_device

OK, BAD_INPUT = 0, 2
USAGE = """usage: python -m tokbench.cost generation=PRESET,... [image_size=256] [width=4096] [depth=32] [KEY=VALUE ...]

  generation      presets of conf/generation; image_size: of square images, 256
  width, depth    of the backbone (the budget's); heads: width / 128
  prompt          text slots before the image, 32; steps: of presets that take steps (the budget's) or rounds (the preset's)
  device          {devices}, or none: measured on this machine
  flops, bandwidth, launch, memory    a second, bytes a second, seconds a block, bytes: in place of the device's
  element_bytes   of weights and cache: 2 (bfloat16); on a measured machine without a GPU 4

Other KEY=VALUE are those of a run: quantizer=vq quantizer.codebook_size=8192 tokenizer.factor=16. At guidance 1; guidance doubles
the FLOPs and the cache of the image.""".format(devices=", ".join(NAMED))
COUNTS = {"image_size", "width", "depth", "heads", "prompt", "steps", "element_bytes"}
RATES = {"flops": "flops", "bandwidth": "bandwidth", "launch": "launch", "memory": "memory"}


def main(words: Sequence[str]) -> int:
    """Print the plan; the exit code."""
    if not words or {"-h", "--help"} & set(words):
        print(USAGE)
        return OK if words else BAD_INPUT
    try:
        given, overrides = _read(words)
        device, element_bytes = _device(given)
        presets = given.get("generation", "chameleon,transfusion").split(",")
        plans = [planned(preset, given, overrides, device=device, element_bytes=element_bytes) for preset in presets]
    except Exception as error:
        if not isinstance(error, ValueError) and not type(error).__module__.startswith(("hydra", "omegaconf")):
            raise
        print(f"error: {in_one_line(str(error))}", file=sys.stderr)
        return BAD_INPUT
    print(render(plans))
    return OK


def _read(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The planner's own keys with their values, and the overrides of a run."""
    given: dict[str, Any] = {}
    overrides = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"arguments must be KEY=VALUE, got {word!r}")
        if key in COUNTS:
            if not value.isdigit() or int(value) < 1:
                raise ValueError(f"{key} must be a whole number >= 1, got {value!r}")
            given[key] = int(value)
        elif key in RATES:
            given[key] = _positive(key, value)
        elif key in ("generation", "device"):
            given[key] = value
        else:
            overrides.append(word)
    return given, overrides


def _positive(key: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"{key} must be a number > 0, got {value!r}")
    return number


def _device(given: Mapping[str, Any]) -> tuple[Device, int]:
    """The device and the bytes of an element on it."""
    rates = {field: given[key] for key, field in RATES.items() if key in given}
    on_gpu = torch.cuda.is_available()
    if "device" in given:
        if given["device"] not in NAMED:
            raise ValueError(
                f"device must be one of {', '.join(NAMED)}, got {given['device']!r}{hint(given['device'], NAMED)}"
            )
        device, default = NAMED[given["device"]], 2
    elif len(rates) == len(RATES):
        device, default = Device("as given", **rates), 2
    else:
        default = 2 if on_gpu else 4
        dtype = torch.bfloat16 if on_gpu else torch.float32
        device = measured_device(torch.device("cuda" if on_gpu else "cpu"), dtype)
    name = f"{device.name}, changed" if rates and device.name != "as given" else device.name
    return replace(device, **rates, name=name), given.get("element_bytes", default)


def render(plans: Sequence[System]) -> str:
    """Markdown: one row a system, and below it the device and what was not given."""
    device = plans[0].device
    heads = [
        *("preset", "parameters", "tokens", "passes", "training FLOPs/token", "6 N", "FLOPs/image", "of which head"),
        *("of which decoding", "KV cache (MiB)", "latency (ms)", "bound", "best batch", "images/s", "bound there"),
    ]
    rates = f"{number(device.flops, 'FLOPs')} FLOPs/s, {device.bandwidth / 1e9:.3g} GB/s, {device.launch * 1e6:.3g} us a block"
    note = (
        f"{device.name}: {rates}, {device.memory / 1e9:.3g} GB; {plans[0].element_bytes} bytes an element; guidance 1"
    )
    own = dict.fromkeys(line for plan in plans for line in plan.notes)
    return "\n".join([*markdown_table(heads, [_row(plan) for plan in plans]), "", note, *own])


def _row(plan: System) -> list[str]:
    works, batch = plan.works, plan.best_batch
    total = sum(work.flops for work in works.values())
    flops = (plan.training_flops_per_token, plan.training_proxy, total)
    parts = [number(works[name].flops, "FLOPs") if name in works else "0" for name in ("head", "decoding")]
    passes = works["prompt"].passes + works["image"].passes
    told = [plan.preset, number(plan.parameters, ""), str(plan.num_tokens), str(passes)]
    told += [*(number(value, "FLOPs") for value in flops), *parts, number(plan.row_bytes, "bytes")]
    one = plan.at(1)
    told += [number(one.seconds, "s/image"), one.name]
    if not batch:
        return [*told, "NA (does not fit)", "–", "–"]
    best = plan.at(batch)
    return [*told, str(batch), f"{batch / best.seconds:.3g}", best.name]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
