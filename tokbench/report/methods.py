"""A sweep over codebook sizes V: its methods, the rows of about one V, and PSNR at equal used bits.

Used bits are the marginal entropy of the tokens of an image: what they carry at most, whatever V promises.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tokbench.metrics.definition import PSNR_CAP
from tokbench.report.equal_bits import MOST_RATIO
from tokbench.report.groups import Group, settings
from tokbench.report.peers import BITS_TOLERANCE
from tokbench.report.rows import NOMINAL_BITS, Row, summarize

USED_BITS = "bits/marginal_bits_per_image"
PSNR = "reconstruction/psnr_db"
TOKENS = "bits/tokens"
MODEL_BITS = "bits/model_bits_per_image"  # of the first of BLOCKS that has them
BLOCKS = ("native", "common")
MARK = "reconstruction/psnr_lost_1_percent"  # of records that have all that a sweep's page shows
SEVERAL = {"num_stages", "num_groups"}
OF_SIZE = {"codebook_size", "levels", *SEVERAL}  # settings that make V
MOST_CODES = 2**18  # of a plot over V: a vocabulary of 2^48 would press all others into a corner
MOST_TARGETS = 8
STEPS = tuple(base * 10**power for power in range(6) for base in (1, 2, 5))


@dataclass(frozen=True)
class Point:
    """One row of a method."""

    row: Row
    codes: int  # V: of several codebooks their product
    nominal: float  # bits of an image
    used: float  # bits of an image, mean over seeds
    psnr: float  # dB, mean over seeds
    model: float | None  # bits of an image under the backbone that was trained on the tokens, mean over seeds
    deviations: tuple[float, float]  # over seeds, of used bits and PSNR; 0 for a single seed


@dataclass(frozen=True)
class Method:
    """One way of making codes, at one V or several, by V."""

    label: str
    points: tuple[Point, ...]

    @property
    def summed(self) -> bool:
        """Whether a token has several codebooks, whose entropies are summed: more than they carry together."""
        nodes = (point.row.records[0].config.get("quantizer") for point in self.points)
        return any(isinstance(node, dict) and SEVERAL & node.keys() for node in nodes)

    @property
    def grows(self) -> bool:
        """Whether more codes carry more bits throughout."""
        return all(b > a for a, b in pairwise(point.used for point in self.points))


def is_sweep(group: Group) -> bool:
    """Whether quantizers can be compared over this group: it may rank, and has discrete runs with all measures."""
    return group.ranked and any(
        (found := record.metrics.get(MARK)) is not None and found.value is not None for record in group.records
    )


def make_methods(rows: Sequence[Row]) -> list[Method]:
    """The discrete methods that lose anything, by name, inside the encoder and decoder that most rows share.

    Of a name that has one V twice, only the settings with the most V's are a method; where none has more than the others,
    its rows try something else than codebook sizes and make no method.
    """
    around = Counter(_around(row) for row in rows)
    common = max(around, key=lambda config: around[config]) if around else ""
    by_name: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        if _around(row) == common and (point := _point(row)) is not None:
            by_name[row.records[0].name].append(point)
    return [_method(name, points) for name, found in by_name.items() if (points := _main_variant(found))]


def _around(row: Row) -> str:
    return json.dumps([row.records[0].config.get(part) for part in ("tokenizer", "loss")], sort_keys=True)


def _main_variant(points: list[Point]) -> list[Point]:
    if _distinct(points):
        return points
    variants: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        config = json.loads(settings(point.row.records[0]))
        config["quantizer"] = without_size(config.get("quantizer"))
        variants[json.dumps(config, sort_keys=True)].append(point)
    first, *others = sorted(variants.values(), key=len, reverse=True)
    return first if _distinct(first) and not any(len(other) == len(first) for other in others) else []


def _distinct(points: Sequence[Point]) -> bool:
    return len({point.codes for point in points}) == len(points)


def _method(label: str, points: Sequence[Point]) -> Method:
    return Method(label, tuple(sorted(points, key=lambda point: point.codes)))


def without_size(node: Any) -> Any:
    """A quantizer's settings but for those that make V; its channels do where it names neither codes nor levels."""
    if not isinstance(node, dict):
        return node
    of_size = OF_SIZE if OF_SIZE & node.keys() else {"dim"}
    return {key: without_size(value) for key, value in node.items() if key not in of_size}


def _point(row: Row) -> Point | None:
    """None of a row that is continuous, lossless or without its measures."""
    found = [summarize(row.records, key) for key in (NOMINAL_BITS, TOKENS, USED_BITS, PSNR)]
    means = [summary.mean for summary in found if summary is not None and summary.mean is not None]
    if len(means) < len(found) or means[-1] >= PSNR_CAP:
        return None
    nominal, tokens, used, psnr = means
    of_used, of_psnr = ((summary and summary.deviation) or 0.0 for summary in found[2:])
    return Point(row, round(2 ** (nominal / tokens)), nominal, used, psnr, _model_bits(row), (of_used, of_psnr))


def _model_bits(row: Row) -> float | None:
    found = (summarize(row.records, f"{block}/{MODEL_BITS}") for block in BLOCKS)
    return next((summary.mean for summary in found if summary is not None and summary.mean is not None), None)


@dataclass(frozen=True)
class Size:
    """The methods at about one V: nominal bits within 1 %, as where rows rank."""

    points: tuple[tuple[Method, Point], ...]

    @property
    def title(self) -> str:
        """`V = 1,000 to 1,024`."""
        codes = sorted({point.codes for _, point in self.points})
        return f"V = {codes[0]:,}" + (f" to {codes[-1]:,}" if len(codes) > 1 else "")


def by_size(methods: Sequence[Method]) -> list[Size]:
    """All points by V, the fewest codes first, each with its method."""
    pairs = sorted(
        ((method, point) for method in methods for point in method.points),
        key=lambda pair: (pair[1].nominal, pair[0].label),
    )
    sizes: list[list[tuple[Method, Point]]] = []
    for pair in pairs:
        if sizes and pair[1].nominal <= sizes[-1][0][1].nominal * (1 + BITS_TOLERANCE):
            sizes[-1].append(pair)
        else:
            sizes.append([pair])
    return [Size(tuple(sorted(own, key=lambda pair: pair[0].label))) for own in sizes]


def shared_size(sizes: Sequence[Size]) -> Size:
    """The V that most methods have, of several the largest."""
    return max(reversed(sizes), key=lambda size: len({method.label for method, _ in size.points}))


def over_sizes(methods: Sequence[Method]) -> list[Method]:
    """The methods at several V of at most MOST_CODES, with those points alone."""
    small = [Method(m.label, tuple(point for point in m.points if point.codes <= MOST_CODES)) for m in methods]
    return [method for method in small if len(method.points) > 1]


def psnr_at(method: Method, bits: float) -> float | None:
    """PSNR in dB at so many used bits, interpolated between neighbouring V; None outside the method's range, and between
    neighbours whose bits differ more than MOST_RATIO times.

    Where more codes do not carry more bits, the best PSNR of any V at no more bits.
    """
    places = [(point.used, point.psnr) for point in method.points]
    if not min(places)[0] <= bits <= max(places)[0]:
        return None
    if not method.grows:
        return max(quality for used, quality in places if used <= bits)
    for (low, first), (high, second) in pairwise(places):
        if bits <= high:
            if high > MOST_RATIO * low and bits not in (low, high):
                return None
            return first + (second - first) * (bits - low) / (high - low)
    return places[0][1]


def targets(methods: Sequence[Method]) -> list[int]:
    """Round numbers of used bits, at most eight, that at least two methods with several V reach."""
    ranges = [sorted(point.used for point in method.points) for method in methods if len(method.points) > 1]
    if not ranges:
        return []
    most = int(max(own[-1] for own in ranges))
    for step in STEPS:
        places = list(range(step, most + 1, step)) if most / step <= 10 * MOST_TARGETS else []
        reached = Counter(x for x in places for own in ranges if own[0] <= x <= own[-1])
        found = [x for x in places if reached[x] >= min(2, len(ranges))]
        if places and len(found) <= MOST_TARGETS:
            return found
    return []
