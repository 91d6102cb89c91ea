"""A group with its rows and arrays, as tables and pictures read it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from tokbench.metrics.statistics import Difference, paired_difference
from tokbench.records import RunRecord, parse_key, read_arrays
from tokbench.report.bootstrap import bootstrap_means, central
from tokbench.report.groups import Group
from tokbench.report.rows import Row, Summary, make_rows, summarize

RESAMPLES = 1000
LEVEL = 0.95
BOOTSTRAP_SEED = 0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class View:
    """One group; `folder` holds the arrays its records list."""

    group: Group
    folder: Path
    _arrays: dict[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    winners: dict[tuple[str, str, str | None], set[str]] = field(default_factory=dict)  # kept by the ranking
    _differences: dict[tuple[str, str, str], tuple[Difference, int] | None] = field(default_factory=dict)
    _means: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @cached_property
    def units(self) -> dict[str, str]:
        """The unit of each measure that any of the runs has, or the reason for its absence."""
        return {key: measure.unit for record in reversed(self.group.records) for key, measure in record.metrics.items()}

    @cached_property
    def rows(self) -> list[Row]:
        return make_rows(self.group.records)

    def arrays(self, record: RunRecord) -> Mapping[str, np.ndarray]:
        """The arrays of a record; empty, with a warning, where they are missing or changed."""
        if record.file_name not in self._arrays:
            try:
                self._arrays[record.file_name] = read_arrays(record, self.folder)
            except ValueError as error:
                _log.warning("arrays left out: %s", error)
                self._arrays[record.file_name] = {}
        return self._arrays[record.file_name]

    def baseline(self, name: str, key: str) -> Summary | None:
        """A baseline row's measure over all runs that have it; None for guided samples, which no baseline has."""
        parts = parse_key(key)
        guided = parts.group == "guided"
        return None if guided else summarize(self.group.records, f"baseline/{name}/{parts.standard}")

    def per_image(self, row: Row, name: str) -> dict[int, np.ndarray]:
        """Seed to (n,) values of the test images, for the seeds whose arrays are there."""
        found = ((record.seed, self.arrays(record)) for record in row.records)
        return {seed: arrays[name].astype(np.float64) for seed, arrays in found if {name, "groups"} <= arrays.keys()}

    def clusters(self, row: Row) -> np.ndarray:
        """(n,) groups of the test images: crops of one photograph share one."""
        return next(arrays["groups"] for record in row.records if "groups" in (arrays := self.arrays(record)))

    def interval(self, row: Row, name: str) -> tuple[float, float] | None:
        """The bootstrap interval of the mean over seeds and images; None without arrays or with a single cluster."""
        means = self._bootstrapped(name).get(row.label)
        return None if means is None else central(means, level=LEVEL)

    def _bootstrapped(self, name: str) -> dict[str, np.ndarray]:
        """Row label to (R,) bootstrap means of an array; without the rows that lack it or have a single cluster."""
        if name not in self._means:
            stacks: dict[tuple[int, bytes], list[Row]] = defaultdict(list)
            for row in self.rows:
                values = self.per_image(row, name)
                if values and len(np.unique(self.clusters(row))) > 1:
                    stacks[len(values), self.clusters(row).tobytes()].append(row)
            self._means[name] = {}
            for rows in stacks.values():
                tables = [np.stack(list(self.per_image(row, name).values())) for row in rows]
                means = bootstrap_means(tables, self.clusters(rows[0]), resamples=RESAMPLES, seed=BOOTSTRAP_SEED)
                self._means[name] |= {row.label: found for row, found in zip(rows, means, strict=True)}
        return self._means[name]

    def difference(self, row: Row, reference: Row, name: str) -> tuple[Difference, int] | None:
        """row - reference on the same images and seeds, and the number of those seeds; None where there are none."""
        key = (row.label, reference.label, name)
        if key not in self._differences:
            self._differences[key] = self._difference(row, reference, name)
        return self._differences[key]

    def _difference(self, row: Row, reference: Row, name: str) -> tuple[Difference, int] | None:
        mine, others = self.per_image(row, name), self.per_image(reference, name)
        seeds = sorted(set(mine) & set(others))
        if not seeds or len(np.unique(self.clusters(row))) < 2:
            return None
        if not np.array_equal(self.clusters(row), self.clusters(reference)):
            raise ValueError(f"{row.label} and {reference.label} must share their test images, but their groups differ")
        a, b = (np.stack([values[seed] for seed in seeds]) for values in (mine, others))
        if mine.keys() == others.keys():  # the same draws for both, already made
            means = self._bootstrapped(name)
            low, high = central(means[row.label] - means[reference.label], level=LEVEL)
            return Difference(float((a - b).mean()), low, high, separable=low > 0 or high < 0), len(seeds)
        clusters = self.clusters(row)
        found = paired_difference(a, b, clusters, resamples=RESAMPLES, level=LEVEL, seed=BOOTSTRAP_SEED)
        return found, len(seeds)
