"""How much training one system needs for the quality of another: the parity ratio of FLOPs (arXiv:2408.11039, section 4.2).

Each system is a line, log metric = a + b log FLOPs, fitted by least squares to its runs (sizes x budgets x seeds). The ratio is
FLOPs_A(m) / FLOPs_B(m), with m what B's line gives at B's largest FLOPs; below 1, A needs fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tokbench.metrics.statistics import Floats

ROUNDING = 1e-9  # of a logarithm


@dataclass(frozen=True)
class Parity:
    """The ratio with its interval: pairs of FLOPs and metric drawn with replacement, within each system."""

    ratio: float
    low: float
    high: float
    extrapolated: bool  # A's FLOPs at that quality are outside those it was run at, or no run of it is so good


def parity(
    flops_a: ArrayLike,
    metric_a: ArrayLike,
    flops_b: ArrayLike,
    metric_b: ArrayLike,
    *,
    resamples: int,
    level: float,
    seed: int,
) -> Parity | None:
    """The ratio of A to B with its central `level` (0 to 1) of R resamples; None where the lines do not decide one.

    They do not where a line is flat or the two run opposite ways, in the data or in more than 1 - level of the resamples.
    ValueError unless each system has runs at two sizes or more, and all numbers are above 0.
    """
    first, second = _logs(flops_a, metric_a, "first"), _logs(flops_b, metric_b, "second")
    largest = float(second[0].max())
    (found,) = _log_ratios(first[:, None], second[:, None], largest)
    rng = np.random.default_rng(seed)
    first_drawn, second_drawn = (
        own[:, rng.integers(own.shape[1], size=(resamples, own.shape[1]))] for own in (first, second)
    )
    draws = _log_ratios(first_drawn, second_drawn, largest)
    known = draws[np.isfinite(draws)]
    if not np.isfinite(found) or len(known) < level * resamples:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    slope, offset = (part[0] for part in _line(*second[:, None]))
    outside = not _within(found + largest, first[0]) or not _within(offset + slope * largest, first[1])
    return Parity(float(np.exp(found)), float(np.exp(low)), float(np.exp(high)), outside)


def _within(value: float, known: Floats) -> bool:
    return bool(known.min() - ROUNDING <= value <= known.max() + ROUNDING)


def _logs(flops: ArrayLike, metric: ArrayLike, name: str) -> Floats:
    """(2, n): log FLOPs and log metric."""
    points = np.array([flops, metric], dtype=np.float64)
    if not (points > 0).all() or not np.isfinite(points).all():
        raise ValueError(f"FLOPs and metric of the {name} system must be finite and > 0, got {points.tolist()}")
    if len(np.unique(points[0])) < 2:
        raise ValueError(f"the {name} system must have runs at two FLOPs or more, got {points[0].tolist()}")
    return np.log(points)


def _log_ratios(a: Floats, b: Floats, largest: float) -> Floats:
    """(R,) log FLOPs_A - log FLOPs_B where A's line meets what B's gives at `largest`, of points (2, R, n); NaN: none does."""
    (slope_a, offset_a), (slope_b, offset_b) = _line(*a), _line(*b)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (offset_b + slope_b * largest - offset_a) / slope_a - largest
    return np.where(slope_a * slope_b > 0, ratios, np.nan)


def _line(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Slope and offset (R,) of y over x, both (R, n); NaN where all x are one."""
    centred = x - x.mean(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (centred * y).sum(axis=1) / np.square(centred).sum(axis=1)
    return slope, y.mean(axis=1) - slope * x.mean(axis=1)
