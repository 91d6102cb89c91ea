"""Named numbers as records keep them: unit and protocol come from the standard set, never from the caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tokbench.metrics.standard import STANDARD
from tokbench.records import Measure, parse_key

Measures = dict[str, Measure]


@dataclass
class Found:
    """All that a run has found so far: measures by the key they are filed under, and arrays by name."""

    metrics: Measures = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, measures: Mapping[str, Measure] | None = None, /, **arrays: Tensor | np.ndarray | None) -> None:
        """Adds measures, and arrays or tensors; an array that is None does not exist."""
        self.metrics |= measures or {}
        kept = {name: found for name, found in arrays.items() if found is not None}
        self.arrays |= {n: a.detach().cpu().numpy() if isinstance(a, Tensor) else a for n, a in kept.items()}


def measured(
    key: str, value: float, *, n: int | None = None, spread: float | None = None, floor: float | None = None
) -> Measure:
    """The measure filed under a record's `key`; `spread` is the standard deviation over the n."""
    definition = STANDARD[parse_key(key).standard]
    return Measure(
        value=float(value), unit=definition.unit, n=n, spread=spread, floor=floor, protocol=definition.protocol
    )


def missing(key: str, reason: str) -> Measure:
    """The measure filed under a record's `key`, without a value and with the reason."""
    definition = STANDARD[parse_key(key).standard]
    return Measure(value=None, unit=definition.unit, reason=reason, protocol=definition.protocol)


def mean_of(key: str, values: Tensor, *, floor: float | None = None) -> Measure:
    """The mean of (n,) values with their deviation."""
    values = values.double()
    spread = values.std().item() if len(values) > 1 else None
    return measured(key, values.mean().item(), n=len(values), spread=spread, floor=floor)


@torch.no_grad()
def in_batches(total: int, batch: int, call: Callable[[Tensor], Tensor], *, what: str) -> Tensor:
    """`call` on index tensors that cover range(total), concatenated; a progress bar on a terminal."""
    from sys import stderr

    from rich.progress import track

    parts = torch.arange(total).split(batch)
    return torch.cat([call(part) for part in track(parts, description=what, disable=not stderr.isatty())])
