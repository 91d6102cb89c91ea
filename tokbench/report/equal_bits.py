"""Curves of quality against bits: one at any number of bits, with intervals, and the area between two (BD-rate).

A curve has P points and R resamples of seeds and images. Quality between points follows the monotone cubic through them (PCHIP,
Fritsch and Carlson 1980); nothing is extrapolated.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.interpolate import PchipInterpolator

from tokbench.metrics.statistics import Floats, central, widened

MOST_RATIO = 2.0  # of neighbours' bits: farther apart nothing is read between them
MOST_LOST = 0.05  # share of resamples whose points are out of order, above which there is no interval
BD_POINTS = 4  # fewest of a curve for BD-rate, of points that overlap
LADDERS = (
    (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9),
    (1, 1.5, 2, 3, 4, 5, 6, 8),
)  # of round numbers, times powers of ten


@dataclass(frozen=True, eq=False)
class Curve:
    """One family's points, in any order: means, and means of the resamples that all families share."""

    bits: Floats  # (P,)
    quality: Floats  # (P,)
    bits_draws: Floats  # (P, R), R = 0 where there are too few images
    quality_draws: Floats  # (P, R)
    bits_seeds: Floats  # (P, S)
    quality_seeds: Floats  # (P, S)


@dataclass(frozen=True)
class AtBits:
    """One family's quality at some number of bits."""

    mean: float
    low: float | None  # of the interval; None where there are too few images or points out of order
    high: float | None
    behind: float | None  # low end of the interval of the best family's quality less this; None for the best itself
    best: bool  # or not separable from it: False where there is no interval to tell


def front(bits: Floats, quality: Floats) -> list[int]:
    """The places of the points that no other with as few bits equals, the fewest bits first: where more bits buy more."""
    best, kept = -np.inf, []
    for place in sorted(range(len(bits)), key=lambda k: (bits[k], -quality[k])):
        if quality[place] > best:
            best = quality[place]
            kept.append(place)
    return kept


def quality_at(bits: Floats, quality: Floats, targets: Sequence[float]) -> Floats:
    """Quality at each of the targets between points in the order of their bits (P,); nan outside, where bits fall, and
    between neighbours more than MOST_RATIO apart.
    """
    places = np.asarray(targets, dtype=np.float64)
    if len(bits) < 2 or (np.diff(bits) <= 0).any():
        return np.full(len(places), np.nan)
    found = np.asarray(PchipInterpolator(bits, quality, extrapolate=False)(places), dtype=np.float64)
    held = np.zeros(len(places), dtype=bool)
    for low, high in stretches(bits):
        held |= (low <= places) & (places <= high)
    return np.where(held, found, np.nan)


def stretches(bits: Floats) -> list[tuple[float, float]]:
    """From where to where a curve through points in the order of their bits (P,) may be read."""
    found: list[tuple[float, float]] = []
    for low, high in pairwise(map(float, bits)):
        if high <= MOST_RATIO * low:
            start = found.pop()[0] if found and found[-1][1] == low else low
            found.append((start, high))
    return found


def at_equal_bits(curves: Mapping[str, Curve], targets: Sequence[float], *, level: float) -> list[dict[str, AtBits]]:
    """For each of the targets the families that reach so many bits, the best first."""
    means, draws, seeds = {}, {}, {}
    for label, curve in curves.items():
        kept = front(curve.bits, curve.quality)
        means[label] = quality_at(curve.bits[kept], curve.quality[kept], targets)
        draws[label] = _read(curve.bits_draws[kept], curve.quality_draws[kept], targets)
        seeds[label] = _read(curve.bits_seeds[kept], curve.quality_seeds[kept], targets)
    found = []
    for place in range(len(targets)):
        order = sorted((k for k in means if np.isfinite(means[k][place])), key=lambda k: -means[k][place])
        own = {label: (float(means[label][place]), draws[label][:, place], seeds[label][:, place]) for label in order}
        found.append({label: _judged(own[label], own[order[0]], level) for label in order})
    return found


def _read(bits: Floats, quality: Floats, targets: Sequence[float]) -> Floats:
    """(R, T) quality at each target of each resample, or seed, (P, R), nan where its points do not reach it."""
    if not bits.shape[1]:
        return np.full((1, len(targets)), np.nan)
    return np.stack([quality_at(*own, targets) for own in zip(bits.T, quality.T, strict=True)])


Read = tuple[float, Floats, Floats]  # of a family at some number of bits: mean, resamples and seeds


def _judged(own: Read, best: Read, level: float) -> AtBits:
    low, high = _interval(own[1], own[2], level)
    if own is best:
        return AtBits(own[0], low, high, None, best=True)
    behind, _ = _interval(best[1] - own[1], best[2] - own[2], level)
    return AtBits(own[0], low, high, behind, best=behind is not None and behind <= 0)


def _interval(draws: Floats, seeds: Floats, level: float) -> tuple[float, float] | tuple[None, None]:
    lost = np.isnan(draws)
    if lost.mean() > MOST_LOST or np.isnan(seeds).any():
        return None, None
    return widened(central(draws[~lost], level=level), seeds, level=level)


def bd_rate(
    anchor: tuple[Sequence[float], Sequence[float]], test: tuple[Sequence[float], Sequence[float]]
) -> float | None:
    """Mean difference of bits at equal quality in percent of the anchor's (VCEG-M33), below 0 where `test` needs fewer.

    Both are (bits, quality); points that buy nothing are left out. None with fewer than four points or no overlap.
    """
    from bjontegaard import bd_rate as bjontegaard

    (rates, qualities), (others, reached) = (
        _front(np.asarray(b, float), np.asarray(q, float)) for b, q in (anchor, test)
    )
    if min(len(rates), len(others)) < BD_POINTS or max(qualities[0], reached[0]) >= min(qualities[-1], reached[-1]):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of little overlap, which the page says itself
        found = bjontegaard(
            rates, qualities, others, reached, method="pchip", require_matching_points=False, min_overlap=0
        )
    return float(found) if np.isfinite(found) else None


def _front(bits: Floats, quality: Floats) -> tuple[Floats, Floats]:
    kept = front(bits, quality)
    return bits[kept], quality[kept]


def round_targets(ranges: Sequence[tuple[float, float]], *, most: int) -> list[float]:
    """At most `most` round numbers of bits that at least two ranges (low, high) hold, close together where ranges are narrow.

    Of too many, those that most ranges hold, of equals the lowest.
    """
    found: list[float] = []
    for ladder in LADDERS:
        places = (round(base * 10.0**power, 6) for power in range(-3, 5) for base in ladder)
        held = {x: sum(low <= x <= end for low, end in ranges) for x in places}
        found = [x for x in held if held[x] >= 2]
        if len(found) <= most:
            return found
    return sorted(sorted(found, key=lambda x: (-held[x], x))[:most])
