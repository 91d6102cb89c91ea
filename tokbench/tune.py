"""Equal tuning for every method of a comparison: the same number of short trainings, the best by validation error.

A trial scales the learning rate and one weight of the method (conf/tuning/). All trials have seed 0, whatever the run's, and
are kept like every trained tokenizer: the seeds of a row share one search.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from tokbench.identity import Values
from tokbench.job import Job
from tokbench.stages import trained_tokenizer
from tokbench.training_module import Diverged

VERSION = 1


@dataclass(frozen=True)
class Trial:
    """One short training."""

    lr_factor: float
    weight_factor: float
    steps: int
    validation: float  # lowest mean squared error on the validation split; infinite where the training diverged


def tune(job: Job) -> tuple[Job, list[Trial]]:
    """The job with the learning rate and weight of its best trial, and all trials in order.

    ValueError where the tokenizer has nothing to train.
    """
    tuning, config = job.config["tuning"], job.config
    weight = method_weight(config["quantizer"], tuning["weights"])
    pairs = tuning["trials" if weight else "trials_without_weight"]
    steps = max(round(config["budget"]["tokenizer"]["steps"] * tuning["fraction"]), 1)
    trials = [_try(job, weight, *pair, steps=steps) for pair in pairs]
    best = min(trials, key=lambda trial: trial.validation)
    if best.validation == inf:
        raise Diverged(f"all {len(trials)} tuning trials of {config['name']} diverged")
    return replace(job, config=scaled(config, weight, best.lr_factor, best.weight_factor)), trials


def method_weight(quantizer: Values | None, names: list[str]) -> str | None:
    """The first of the dotted names that the quantizer's node has with a value other than 0; None where there is none."""
    return next((name for name in names if _get(quantizer, name)), None)


def scaled(config: Values, weight: str | None, lr_factor: float, weight_factor: float) -> dict[str, Any]:
    """A copy of a run's configuration with its tokenizer's learning rate and that weight of its quantizer multiplied."""
    changed: dict[str, Any] = copy.deepcopy(dict(config))
    changed["budget"]["tokenizer"]["lr"] *= lr_factor
    if weight:
        *path, last = weight.split(".")
        node = changed["quantizer"]
        for part in path:
            node = node[part]
        node[last] *= weight_factor
    return changed


def _try(job: Job, weight: str | None, lr_factor: float, weight_factor: float, *, steps: int) -> Trial:
    config = scaled(job.config, weight, lr_factor, weight_factor) | {"seed": 0}
    config["budget"]["tokenizer"]["steps"] = steps
    try:
        _, training = trained_tokenizer(replace(job, config=config))
    except Diverged:
        return Trial(lr_factor, weight_factor, steps, inf)
    if training is None:
        raise ValueError(f"tuning needs a tokenizer with something to train, got {job.config['name']!r}")
    return Trial(lr_factor, weight_factor, steps, min(loss for _, loss in training.validation))


def _get(node: Any, name: str) -> Any:
    for part in name.split("."):
        node = node.get(part) if hasattr(node, "get") else None
    return node
