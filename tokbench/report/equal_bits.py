"""Curves of quality against bits: one at any number of bits, with intervals, and the area between two (BD-rate).

A curve has P points, each over S seeds and n images. Quality between points follows the monotone cubic through them (PCHIP,
Fritsch and Carlson 1980); nothing is extrapolated. R resamples.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from tokbench.metrics.statistics import Floats, Integers
from tokbench.report.bootstrap import bootstrap_means, central

MOST_LOST = 0.05  # share of resamples whose points are out of order, above which there is no interval
BD_POINTS = 4  # fewest of a curve for BD-rate, of points that overlap


@dataclass(frozen=True, eq=False)
class Curve:
    """One family's points, in any order."""

    bits: Floats  # (P, S, n) of each image; where only a mean is known, it repeats
    quality: Floats  # (P, S, n)

    @property
    def means(self) -> tuple[Floats, Floats]:
        """(P,) bits and (P,) quality."""
        return self.bits.mean(axis=(1, 2)), self.quality.mean(axis=(1, 2))


@dataclass(frozen=True)
class AtBits:
    """One family's quality at some number of bits."""

    mean: float
    low: float | None  # of the interval; None where there are too few images or points out of order
    high: float | None
    behind: float | None  # lowest of the interval of the best family's quality less this; None for the best itself
    separable: bool  # from the best


def front(bits: Floats, quality: Floats) -> list[int]:
    """The places of the points that no other with as few bits equals, the fewest bits first: where more bits buy more."""
    best, kept = -np.inf, []
    for place in sorted(range(len(bits)), key=lambda k: (bits[k], -quality[k])):
        if quality[place] > best:
            best = quality[place]
            kept.append(place)
    return kept


def quality_at(bits: Floats, quality: Floats, target: float) -> float:
    """Quality at `target` bits between points in the order of their bits (P,); nan outside them, or where bits fall."""
    if len(bits) < 2 or (np.diff(bits) <= 0).any() or not bits[0] <= target <= bits[-1]:
        return float("nan")
    return float(PchipInterpolator(bits, quality)(target))


def at_equal_bits(
    curves: Mapping[str, Curve], target: float, clusters: Integers, *, resamples: int, level: float, seed: int
) -> dict[str, AtBits]:
    """The families that reach `target` bits, the best first; all share seeds, images and their clusters (n,).

    Each point's mean bits and quality are resampled together, seeds and clusters crossed, the same for all families; those
    behind the best by an interval that leaves out 0 are separable from it.
    """
    known = {label: (curve, front(*curve.means)) for label, curve in curves.items()}
    means = {label: quality_at(*_at(curve.means, kept), target) for label, (curve, kept) in known.items()}
    order = sorted((label for label in means if np.isfinite(means[label])), key=lambda label: -means[label])
    if not order:
        return {}
    draws = {label: _drawn(*known[label], target, clusters, resamples, seed) for label in order}
    return {label: _judged(label, order[0], means, draws, level) for label in order}


def _at(means: tuple[Floats, Floats], kept: Sequence[int]) -> tuple[Floats, Floats]:
    return means[0][list(kept)], means[1][list(kept)]


def _drawn(
    curve: Curve, kept: Sequence[int], target: float, clusters: Integers, resamples: int, seed: int
) -> Floats | None:
    """(R,) quality at the target of each resample, nan where its points do not reach it; None with one cluster."""
    if len(np.unique(clusters)) < 2:
        return None
    tables = [curve.bits[k] for k in kept] + [curve.quality[k] for k in kept]
    means = bootstrap_means(tables, clusters, resamples=resamples, seed=seed)
    bits, quality = means[: len(kept)], means[len(kept) :]
    return np.array([quality_at(bits[:, r], quality[:, r], target) for r in range(resamples)])


def _judged(
    label: str, best: str, means: Mapping[str, float], draws: Mapping[str, Floats | None], level: float
) -> AtBits:
    own, first = _interval(draws[label], level), None
    if label != best and draws[label] is not None and draws[best] is not None:
        first = _interval(draws[best] - draws[label], level)  # type: ignore[operator]
    low, high = own or (None, None)
    return AtBits(means[label], low, high, first and first[0], first is not None and first[0] > 0)


def _interval(draws: Floats | None, level: float) -> tuple[float, float] | None:
    if draws is None or np.isnan(draws).mean() > MOST_LOST:
        return None
    return central(draws[~np.isnan(draws)], level=level)


def bd_rate(
    anchor: tuple[Sequence[float], Sequence[float]], test: tuple[Sequence[float], Sequence[float]]
) -> float | None:
    """Mean difference of bits at equal quality in percent of the anchor's (VCEG-M33), below 0 where `test` needs fewer.

    Both are (bits, quality); points that buy nothing are left out. None with fewer than four points or no overlap.
    """
    from bjontegaard import bd_rate as bjontegaard

    fronts = [
        _at((np.asarray(b, float), np.asarray(q, float)), front(np.asarray(b), np.asarray(q)))
        for b, q in (anchor, test)
    ]
    (rates, qualities), (others, reached) = fronts
    if min(len(rates), len(others)) < BD_POINTS or max(qualities[0], reached[0]) >= min(qualities[-1], reached[-1]):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of little overlap, which the page says itself
        found = bjontegaard(
            rates, qualities, others, reached, method="pchip", require_matching_points=False, min_overlap=0
        )
    return float(found) if np.isfinite(found) else None


def round_targets(ranges: Sequence[tuple[float, float]], *, most: int) -> list[float]:
    """At most `most` round numbers of bits that at least two ranges (low, high) hold, evenly spaced."""
    high = max((end for _, end in ranges), default=0.0)
    for step in (base * 10.0**power for power in range(-2, 5) for base in (1, 2, 5)):
        if high / step > 20 * most:
            continue
        places = [round(step * k, 6) for k in range(1, int(high / step) + 1)]
        found = [x for x in places if sum(low <= x <= end for low, end in ranges) >= 2]
        if len(found) <= most:
            return found
    return []
