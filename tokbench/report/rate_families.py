"""Families of a rate-distortion comparison: rows that differ in their number of codes alone, with bits, quality and arrays."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tokbench.metrics.definition import PSNR_CAP
from tokbench.metrics.statistics import Floats
from tokbench.report.equal_bits import Curve
from tokbench.report.groups import settings
from tokbench.report.methods import BLOCKS, MODEL_BITS, without_size
from tokbench.report.rows import Row, Summary, labels, summarize
from tokbench.report.view import Sampled, View

PSNR = "reconstruction/psnr_db"


@dataclass(frozen=True)
class RatePoint:
    """One row, with the block its model bits are of."""

    row: Row
    block: str

    def summary(self, key: str) -> Summary | None:
        """A measure over seeds; MODEL/ stands for the block."""
        return summarize(self.row.records, key.replace("MODEL", self.block))

    def mean(self, key: str) -> float:
        """The same, nan where there is none."""
        found = self.summary(key)
        return float("nan") if found is None or found.mean is None else found.mean

    @property
    def pixels(self) -> float:
        """Of an image."""
        return self.mean("bits/nominal_bits_per_image") / self.mean("bits/nominal_bits_per_pixel")

    @property
    def codes(self) -> int:
        """V; of several codebooks their product."""
        return round(2 ** (self.mean("bits/nominal_bits_per_image") / self.mean("bits/tokens")))


@dataclass(frozen=True)
class Family:
    """One way of making codes, inside one autoencoder, by the model bits of its points."""

    label: str
    points: tuple[RatePoint, ...]


def make_families(rows: Sequence[Row]) -> list[Family]:
    """All rows that lose something and have model bits, by what they share but the number of codes."""
    found: dict[str, dict[str, list[RatePoint]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        point = _point(row)
        if point is not None:
            config = json.loads(settings(row.records[0]))
            config["quantizer"] = without_size(config.get("quantizer"))
            found[row.records[0].name][json.dumps(config, sort_keys=True)].append(point)
    families = []
    for name, variants in sorted(found.items()):
        names = labels(name, [json.loads(config) for config in variants])
        for label, points in zip(names, variants.values(), strict=True):
            families.append(
                Family(label, tuple(sorted(points, key=lambda p: p.mean("MODEL/bits/model_bits_per_image"))))
            )
    return families


def _point(row: Row) -> RatePoint | None:
    for block in BLOCKS:
        found = summarize(row.records, f"{block}/{MODEL_BITS}")
        quality = summarize(row.records, PSNR)
        if found is not None and found.mean is not None and quality is not None and quality.mean is not None:
            return RatePoint(row, block) if quality.mean < PSNR_CAP else None
    return None


def make_curves(view: View, families: Sequence[Family]) -> tuple[dict[str, Curve], list[int]]:
    """PSNR against model bits per pixel of families with two points or more, and the seeds it is over.

    Those are the seeds that put most points on curves; points without them all are left out.
    """
    tables = {id(point): _sampled(view, point) for family in families for point in family.points}
    seeds = _seeds_of_most([[set(tables[id(point)]) for point in family.points] for family in families])
    curves: dict[str, Curve] = {}
    for family in families:
        points = [point for point in family.points if set(seeds) <= tables[id(point)].keys()]
        if seeds and len(points) > 1:
            found = [_resampled(view, point, [tables[id(point)][seed] for seed in seeds], seeds) for point in points]
            curves[family.label] = Curve(*(np.array(column) for column in zip(*found, strict=True)))
    return curves, seeds


def _seeds_of_most(families: Sequence[Sequence[set[int]]]) -> list[int]:
    """Of the seeds that points have, those that leave most points in families of two or more; of equals the more seeds."""

    def left(seeds: Iterable[int]) -> tuple[int, int]:
        wanted = set(seeds)
        counts = (sum(wanted <= own for own in points) for points in families)
        return sum(count for count in counts if count > 1), len(wanted)

    candidates = {frozenset(own) for points in families for own in points if own}
    return sorted(max(candidates, key=left, default=frozenset()))


def _sampled(view: View, point: RatePoint) -> dict[int, Sampled]:
    """The PSNR of the seeds that have model bits too: another may have stopped after its tokenizer."""
    key = f"{point.block}/{MODEL_BITS}"
    coded = {r.seed for r in point.row.records if key in r.metrics and r.metrics[key].value is not None}
    return {seed: one for seed, one in view.sampled(point.row, "psnr_db").items() if seed in coded}


def _resampled(
    view: View, point: RatePoint, quality: Sequence[Sampled], seeds: Sequence[int]
) -> tuple[np.floating, np.floating, Floats, Floats]:
    """Bits and PSNR of a point, and (R,) of each over resamples: bits, of which a run has one mean, vary with the seeds."""
    bits = np.array([_bits(point, seed) for seed in seeds])
    psnr, draws = np.array([one.mean for one in quality]), np.stack([one.draws for one in quality])
    resamples = view.resamples(point.row)
    if resamples is None:
        return bits.mean(), psnr.mean(), draws[0], draws[0]
    own = np.broadcast_to(bits[:, None], draws.shape)
    return bits.mean(), psnr.mean(), resamples.over_seeds(own), resamples.over_seeds(draws)


def _bits(point: RatePoint, seed: int) -> float:
    """Model bits per pixel of one seed."""
    record = next(record for record in point.row.records if record.seed == seed)
    value = record.metrics[f"{point.block}/{MODEL_BITS}"].value
    assert value is not None  # of the seeds that `_sampled` leaves
    return value / point.pixels
