"""The rule that compares two families of rows at equal bits: each seed by its own curve, then the differences of the seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tokbench.metrics.statistics import students_difference
from tokbench.report.equal_bits import front, quality_at
from tokbench.report.ranking import MIN_SEEDS
from tokbench.report.rate_families import MODEL_BPP, rate_point
from tokbench.report.rules import Finding, agrees, ends, find_rows
from tokbench.report.view import LEVEL, View

SIZES = ("quantizer.codebook_size",)  # which a family runs through


def equal_bits(
    view: View, measure: str, minimum_effect: float, *, pairs: Sequence[Mapping[str, Any]], at: Sequence[float]
) -> list[Finding | None]:
    """Of each pair, at each number of bits a pixel, whether PSNR of `first` - `second` has the `expected` sign.

    A side is a name, or a name with dotted settings, of all sizes; its curve goes through the front of one seed's points.
    """
    return [_at(view, measure, minimum_effect, pair, bits) for pair in pairs for bits in at]


def _at(view: View, measure: str, minimum_effect: float, pair: Mapping[str, Any], bits: float) -> Finding | None:
    first, second = (quality_by_seed(view, pair[side], measure, bits) for side in ("first", "second"))
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    gap = students_difference(np.array([first[seed] - second[seed] for seed in seeds]), level=LEVEL)
    return Finding(
        label=f"{pair['label']}, {bits:g} bits/pixel",
        expected=pair["expected"],
        effect=f"{gap.mean:+.3g}",
        interval=ends(gap),
        unit="dB",
        seeds=len(seeds),
        agrees=agrees(gap, pair["expected"], minimum_effect) if len(seeds) >= MIN_SEEDS else None,
        amount=gap.mean,
    )


def quality_by_seed(view: View, side: str | Mapping[str, Any], measure: str, bits: float) -> dict[int, float]:
    """Seed to the measure at so many bits a pixel, of the seeds whose points reach them."""
    points: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row in find_rows(view, side, free=SIZES):
        for record in row.records:
            point = rate_point(replace(row, records=(record,)))
            if point is not None:
                points[record.seed].append((point.mean(MODEL_BPP), point.mean(measure)))
    found = {}
    for seed, own in points.items():
        rates, quality = np.array(sorted(own)).T
        kept = front(rates, quality)
        (value,) = quality_at(rates[kept], quality[kept], [bits])
        if np.isfinite(value):
            found[seed] = float(value)
    return found
