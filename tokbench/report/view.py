"""A group with its rows and arrays, as tables and pictures read it.

S seeds, n test images, R resamples.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np

from tokbench.metrics.statistics import Difference, Floats, Resamples, central, widened
from tokbench.records import RunRecord, parse_key, read_arrays, read_records
from tokbench.report.groups import Group, group_records
from tokbench.report.rows import Row, Summary, make_rows, summarize

RESAMPLES = 1000
LEVEL = 0.95
BOOTSTRAP_SEED = 0
AT_ONCE = 256  # arrays of (n,) values held at a time

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sampled:
    """What stays of the (n,) values of a run's test images: a thousandth of what thousands of runs have."""

    mean: float
    draws: Floats  # (R,) bootstrap means; (0,) where all images are of one cluster


@dataclass(frozen=True, eq=False)
class View:
    """One group; `folder` holds the arrays its records list."""

    group: Group
    folder: Path
    _arrays: dict[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    winners: dict[tuple[str, str, str | None], set[str]] = field(default_factory=dict)  # kept by the ranking
    asked: list[frozenset[str]] = field(
        default_factory=list
    )  # records that a claim means, the first of them before others
    _differences: dict[tuple[str, str, str], tuple[Difference, int] | None] = field(default_factory=dict)
    _clusters: dict[str, np.ndarray] = field(default_factory=dict)  # of rows by label; equal ones are one array
    _resamples: dict[int, Resamples] = field(default_factory=dict)  # by the id of the clusters
    _sampled: dict[tuple[str, str], Sampled] = field(default_factory=dict)  # by record and array
    _whole: set[str] = field(default_factory=set)  # arrays that all rows were sampled of

    def part(self, records: Sequence[RunRecord], *, stem: str, experiment: str | None = None) -> View:
        """Some of the records as a group of their own, which reads no array again."""
        group = Group(stem, list(records), experiment=experiment)
        return View(group, self.folder, self._arrays, _sampled=self._sampled)

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

    def clusters(self, row: Row) -> np.ndarray:
        """(n,) groups of the test images: crops of one photograph share one. Rows with the same groups share the array."""
        if row.label not in self._clusters:
            groups = next(a["groups"] for record in row.records if "groups" in (a := self.arrays(record)))
            alike = (known for known in self._clusters.values() if np.array_equal(known, groups))
            self._clusters[row.label] = next(alike, groups)
        return self._clusters[row.label]

    def resamples(self, row: Row) -> Resamples | None:
        """The draws of the row's images, the same for all rows with the same groups; None of a single cluster."""
        clusters = self.clusters(row)
        if id(clusters) not in self._resamples:
            if (clusters == clusters[0]).all():
                return None
            self._resamples[id(clusters)] = Resamples(clusters, resamples=RESAMPLES, seed=BOOTSTRAP_SEED)
        return self._resamples[id(clusters)]

    def sampled(self, row: Row, name: str) -> dict[int, Sampled]:
        """Seed to the mean and bootstrap means of an array, for the seeds whose arrays are there."""
        self.sample([row], name)
        found = ((record.seed, self._sampled.get((record.file_name, name))) for record in row.records)
        return {seed: one for seed, one in found if one is not None}

    def sample(self, rows: Sequence[Row], name: str) -> None:
        """Read what the runs of the rows have of an array, and keep what stays of it; faster for many rows at a time."""
        waiting: dict[Resamples | None, list[RunRecord]] = defaultdict(list)
        for row in rows:
            for record in row.records:
                if (record.file_name, name) not in self._sampled and {name, "groups"} <= self.arrays(record).keys():
                    waiting[self.resamples(row)].append(record)
        for resamples, records in waiting.items():
            for start in range(0, len(records), AT_ONCE):
                some = records[start : start + AT_ONCE]
                values = np.stack([self.arrays(record)[name] for record in some])
                draws = resamples.over_clusters(values) if resamples else np.empty((len(some), 0))
                for record, mean, own in zip(some, values.mean(axis=1, dtype=np.float64), draws, strict=True):
                    self._sampled[record.file_name, name] = Sampled(float(mean), own)

    def interval(self, row: Row, name: str) -> tuple[float, float] | None:
        """The widened bootstrap interval of the mean over seeds and images; None without arrays or with a single cluster."""
        if name not in self._whole:  # tables show it of all rows
            self._whole.add(name)
            self.sample(self.rows, name)
        found = self.sampled(row, name)
        resamples = self.resamples(row) if found else None
        if resamples is None:
            return None
        draws = central(resamples.over_seeds(np.stack([one.draws for one in found.values()])), level=LEVEL)
        return widened(draws, np.array([one.mean for one in found.values()]), level=LEVEL)

    def difference(self, row: Row, reference: Row, name: str) -> tuple[Difference, int] | None:
        """row - reference on the same images, and the number of seeds in common, or 1 of two single runs; None of none."""
        key = (row.label, reference.label, name)
        if key not in self._differences:
            self._differences[key] = self._difference(row, reference, name)
        return self._differences[key]

    def _difference(self, row: Row, reference: Row, name: str) -> tuple[Difference, int] | None:
        pairs = self._pairs(row, reference, name)
        if not pairs or (resamples := self.resamples(row)) is None:
            return None
        if self.resamples(reference) is not resamples:
            raise ValueError(f"{row.label} and {reference.label} must share their test images, but their groups differ")
        draws = central(
            resamples.over_seeds(np.stack([mine.draws - other.draws for mine, other in pairs])), level=LEVEL
        )
        gaps = self.gaps(row, reference, name)
        low, high = widened(draws, gaps, level=LEVEL)
        return Difference(fmean(gaps), low, high, separable=low > 0 or high < 0), len(pairs)

    def gaps(self, row: Row, reference: Row, name: str) -> Floats:
        """(S,) the means of row - reference of each seed in common."""
        return np.array([mine.mean - other.mean for mine, other in self._pairs(row, reference, name)])

    def _pairs(self, row: Row, reference: Row, name: str) -> list[tuple[Sampled, Sampled]]:
        mine, others = self.sampled(row, name), self.sampled(reference, name)
        shared = sorted(mine.keys() & others.keys())
        if not shared and len(mine) == len(others) == 1:
            return list(zip(mine.values(), others.values(), strict=True))
        return [(mine[seed], others[seed]) for seed in shared]


def read_views(results: Path, *, mixed: bool = False) -> list[View]:
    """The groups of the records in `results/runs`; `mixed` adds those of different protocols or data."""
    runs = Path(results) / "runs"
    return [View(group, runs) for group in group_records(read_records(runs), mixed=mixed)] if runs.is_dir() else []
