"""What a plan says below its table: what was not given, and how many steps or rounds an image takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

DEFAULTS = {"image_size": 256, "prompt": 32}
SOURCES = {  # of a scheme's number: the group whose option says it, and the keys that say another
    "steps": ("budget", {"steps", "generation.scheme.steps", "budget.evaluation.denoise_steps"}),
    "rounds": ("generation", {"steps", "generation.scheme.rounds"}),
}


def notes(config: Mapping[str, Any], given: Mapping[str, Any], overrides: Sequence[str]) -> Iterator[str]:
    """The lines on one system, of its composed configuration, the planner's own keys and the user's overrides."""
    named = {*given, *(word.partition("=")[0].lstrip("+") for word in overrides)}
    if told := ", ".join(_not_given(config, named)):
        yield f"not given: {told}"
    if told := ", ".join(_sampling(config, named)):
        yield f"{config['generation']['name']}: {told}"


def _not_given(config: Mapping[str, Any], named: set[str]) -> Iterator[str]:
    own = [f"{key}={value}" for key, value in DEFAULTS.items() if key not in named]
    keys = ("width", "depth", *(() if "width" in named else ("heads",)))  # heads follow from a width that was given
    kept = [key for key in keys if not {key, f"backbone.{key}", f"budget.backbone.{key}"} & named]
    if own:
        yield " ".join(own)
    if kept:
        sizes = " ".join(f"{key}={config['backbone'][key]}" for key in kept)
        yield f"{sizes} of budget={config['choices']['budget']}"


def _sampling(config: Mapping[str, Any], named: set[str]) -> Iterator[str]:
    scheme, head = config["generation"]["scheme"], config["generation"]["head"] or {}
    for kind, (group, keys) in SOURCES.items():
        if kind in scheme:
            source = f" ({group}={config['choices'][group]}; steps=N sets others)"
            yield f"{scheme[kind]} {kind}{'' if keys & named else source}"
    if "steps" in head:
        yield f"{head['steps']} steps of its head (generation.head.steps=N sets others)"
