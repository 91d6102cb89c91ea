"""Families of a rate-distortion comparison: rows that differ in their rate alone, with bits, quality and arrays.

What makes the rate is the number of codes, of tokens on a line, or of channels. A continuous latent has the rate of a sample of
it by bits-back, which is a bound, and the quality of that sample.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokbench.metrics.definition import PSNR_CAP
from tokbench.metrics.statistics import Floats
from tokbench.report.equal_bits import Curve
from tokbench.report.groups import settings
from tokbench.report.methods import BLOCKS, MODEL_BITS, without_size
from tokbench.report.ranking import MIN_SEEDS
from tokbench.report.rows import Row, Summary, labels, summarize
from tokbench.report.view import Sampled, View

PSNR = "reconstruction/psnr_db"
MODEL_BPP = "MODEL/bits/model_bits_per_pixel"
SAMPLED = {PSNR: "information/coded_psnr_db", MODEL_BPP: "information/token_bits_per_pixel"}  # of a continuous latent
NO_RATE = {"num_queries"}  # of a tokenizer: how many tokens


@dataclass(frozen=True)
class RatePoint:
    """One row, with the block its model bits are of; None: a continuous latent."""

    row: Row
    block: str | None

    def summary(self, key: str) -> Summary | None:
        """A measure over seeds; MODEL/ stands for the block. Of a continuous latent bits and PSNR are those of its sample."""
        if self.block is not None:
            return summarize(self.row.records, key.replace("MODEL", self.block))
        of_another = key.startswith("reconstruction/") and key not in SAMPLED
        return None if of_another else summarize(self.row.records, SAMPLED.get(key, key))

    def mean(self, key: str) -> float:
        """The same, nan where there is none."""
        found = self.summary(key)
        return float("nan") if found is None or found.mean is None else found.mean

    @property
    def pixels(self) -> float:
        """Of an image."""
        return self.mean("bits/nominal_bits_per_image") / self.mean("bits/nominal_bits_per_pixel")

    @property
    def codes(self) -> int | None:
        """V; of several codebooks their product; None: continuous."""
        exponent = self.mean("bits/nominal_bits_per_image") / self.mean("bits/tokens")
        return round(2**exponent) if np.isfinite(exponent) else None


@dataclass(frozen=True)
class Family:
    """One way of making tokens, inside one autoencoder, by the bits of its points."""

    label: str
    points: tuple[RatePoint, ...]


def make_families(rows: Sequence[Row]) -> list[Family]:
    """All rows that lose something and have a rate, by what they share but what makes it."""
    found: dict[str, dict[str, list[RatePoint]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        point = rate_point(row)
        if point is not None:
            found[row.records[0].name][_made(point, told=False)].append(point)
    families = []
    for name, variants in sorted(found.items()):
        parts = [part for points in variants.values() for part in _apart(points)]
        names = labels(name, [json.loads(config) for config, _ in parts])
        for label, (_, points) in zip(names, parts, strict=True):
            own = label if points[0].block is not None else f"{label}, bits-back"
            families.append(Family(own, tuple(sorted(points, key=lambda point: point.mean(MODEL_BPP)))))
    return families


def _made(point: RatePoint, *, told: bool) -> str:
    """The configuration of a row but for what makes its rate; `told`: with the generator, which may follow from that."""
    config: dict[str, Any] = json.loads(settings(point.row.records[0]))
    kept = {
        key: value for key, value in config.items() if key not in ("name", "choices") and (told or key != "generation")
    }
    if isinstance(tokenizer := kept.get("tokenizer"), dict):
        kept["tokenizer"] = {key: value for key, value in tokenizer.items() if key not in NO_RATE}
    return json.dumps(kept | {"quantizer": without_size(config.get("quantizer"))}, sort_keys=True)


def _apart(points: Sequence[RatePoint]) -> list[tuple[str, list[RatePoint]]]:
    """The points as one family, or, where two have one rate on paper, as one a generator; each with its configuration."""
    paper = [(point.codes, point.mean("bits/tokens"), point.mean("bits/dim")) for point in points]
    parts: dict[str, list[RatePoint]] = defaultdict(list)
    for point in points:
        parts[_made(point, told=len(set(paper)) < len(paper))].append(point)
    return list(parts.items())


def rate_point(row: Row) -> RatePoint | None:
    """The row with the first of its rates; None of a row that has none, or loses nothing."""
    for point in (RatePoint(row, block) for block in (*BLOCKS, None)):
        if np.isfinite(point.mean(MODEL_BPP)) and np.isfinite(quality := point.mean(PSNR)):
            return point if quality < PSNR_CAP else None
    return None


def make_curves(view: View, families: Sequence[Family]) -> tuple[dict[str, Curve], list[int]]:
    """PSNR against model bits per pixel of families with two points or more, and the seeds it is over.

    Points without all those seeds are left out, and continuous latents, whose sample is of other images.
    """
    families = [Family(f.label, tuple(point for point in f.points if point.block is not None)) for f in families]
    tables = {id(point): _sampled(view, point) for family in families for point in family.points}
    seeds = _seeds_of_most([[set(tables[id(point)]) for point in family.points] for family in families])
    curves: dict[str, Curve] = {}
    for family in families:
        points = [point for point in family.points if set(seeds) <= tables[id(point)].keys()]
        if seeds and len(points) > 1:
            found = [_over(view, point, [tables[id(point)][seed] for seed in seeds], seeds) for point in points]
            curves[family.label] = Curve(*(np.array(column) for column in zip(*found, strict=True)))
    return curves, seeds


def _seeds_of_most(families: Sequence[Sequence[set[int]]]) -> list[int]:
    """Of the seeds that points have, as many as may rank, if they leave two families with two points or more to compare; of
    equals those that leave most families, then most points, then the more seeds.
    """

    def left(seeds: Iterable[int]) -> tuple[bool, int, int, int, int]:
        wanted = set(seeds)
        counts = [count for points in families if (count := sum(wanted <= own for own in points)) > 1]
        return len(counts) > 1, min(len(wanted), MIN_SEEDS), len(counts), sum(counts), len(wanted)

    candidates = {frozenset(own) for points in families for own in points if own}
    return sorted(max(candidates, key=left, default=frozenset()))


def _sampled(view: View, point: RatePoint) -> dict[int, Sampled]:
    """The PSNR of the seeds that have model bits too: another may have stopped after its tokenizer."""
    key = f"{point.block}/{MODEL_BITS}"
    coded = {r.seed for r in point.row.records if key in r.metrics and r.metrics[key].value is not None}
    return {seed: one for seed, one in view.sampled(point.row, "psnr_db").items() if seed in coded}


def _over(
    view: View, point: RatePoint, quality: Sequence[Sampled], seeds: Sequence[int]
) -> tuple[np.floating, np.floating, Floats, Floats, Floats, Floats]:
    """Bits and PSNR of a point, (R,) of each over resamples and (S,) of each over seeds: of bits a run has one mean alone."""
    bits = np.array([_bits(point, seed) for seed in seeds])
    psnr, draws = np.array([one.mean for one in quality]), np.stack([one.draws for one in quality])
    resamples = view.resamples(point.row)
    if resamples is None:
        return bits.mean(), psnr.mean(), draws[0], draws[0], bits, psnr
    own = np.broadcast_to(bits[:, None], draws.shape)
    return bits.mean(), psnr.mean(), resamples.over_seeds(own), resamples.over_seeds(draws), bits, psnr


def _bits(point: RatePoint, seed: int) -> float:
    """Model bits per pixel of one seed."""
    record = next(record for record in point.row.records if record.seed == seed)
    value = record.metrics[f"{point.block}/{MODEL_BITS}"].value
    assert value is not None  # of the seeds that `_sampled` leaves
    return value / point.pixels
