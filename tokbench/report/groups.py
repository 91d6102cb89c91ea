"""Which records may share a table: same images, same budget, same versions of what measured them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from tokbench.records import RunRecord
from tokbench.report.judges import judges, of_one_judge, required
from tokbench.report.protocol import precision, protocol_hash

TOKENIZER = ("name", "quantizer", "tokenizer", "loss", "tuning", "choices")  # of a configuration: what is compared
STAGES = ("tokenizer", "bits", "all")  # each measures what the one before it does, and more
SEPARATE = ("seed", "stage", "rd")  # of a configuration: how far a row was measured, which makes no other row


@dataclass
class Group:
    """Comparable runs, newest first while it is filled, and the failed runs of the same data and budget."""

    stem: str
    records: list[RunRecord] = field(default_factory=list)
    failed: list[RunRecord] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)  # of a mixed group: record file to what sets it apart
    experiment: str | None = None  # whose runs alone these are

    @property
    def any_record(self) -> RunRecord:
        return (self.records or self.failed)[0]

    @property
    def home(self) -> str:
        """The stem of the group that an experiment's runs belong to; otherwise its own."""
        return self.stem if self.experiment is None else self.stem.removesuffix(f"-{self.experiment}")

    @cached_property
    def ranked(self) -> bool:
        return bool(self.records) and not self.warnings and all(record.data.ranked for record in self.records)


def plain_stem(record: RunRecord) -> str:
    """`photos32-cpu` or `cifar10-32-cpu`: data, the size where the configuration has one the name lacks, budget."""
    data = record.config.get("data")
    size = data.get("size") if isinstance(data, dict) else None
    parts = [record.data.name, record.budget]
    if size is not None and not record.data.name.endswith(str(size)):
        parts.insert(1, str(size))
    return "-".join(parts)


def settings(record: RunRecord) -> str:
    """The configuration but for SEPARATE, as canonical JSON: equal for two seeds of one row."""
    return json.dumps({key: value for key, value in record.config.items() if key not in SEPARATE}, sort_keys=True)


def surroundings(record: RunRecord) -> str:
    """All that rows which are compared as material for generation must share: backbone, schemes, budget; canonical JSON."""
    apart = (*SEPARATE, *TOKENIZER)
    return json.dumps({key: value for key, value in record.config.items() if key not in apart}, sort_keys=True)


def newest_first(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The records by time of creation, the last one first."""
    return sorted(records, key=_age, reverse=True)


def _age(record: RunRecord) -> tuple[datetime, str]:
    return _moment(record), record.file_name


def _moment(record: RunRecord) -> datetime:
    moment = datetime.fromisoformat(record.created)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _identity(record: RunRecord) -> tuple[str, int, str]:
    return record.name, record.seed, settings(record)


class _Part:
    """Records that may share a table, and what a further one must agree with."""

    def __init__(self, record: RunRecord) -> None:
        self.records: list[RunRecord] = []
        self.images = record.data.fingerprints
        self.precision = precision(record)
        self.judges: dict[str, object] = {}
        self.versions: dict[str, int] = {}
        self.protocols: dict[str, str] = {}
        self.runs: set[tuple[str, int, str]] = set()
        self.add(record)

    def add(self, record: RunRecord) -> None:
        self.records.append(record)
        self.judges |= required(record)
        self.versions |= record.versions
        self.protocols |= {key: measure.protocol for key, measure in record.metrics.items()}
        self.runs.add(_identity(record))

    def comparable(self, record: RunRecord) -> bool:
        """False where the images, the precision, a judge that all must share, or the version of a shared room or measure differ,
        or the same run is here.
        """
        return (
            record.data.fingerprints == self.images
            and precision(record) == self.precision
            and all(self.versions.get(room, version) == version for room, version in record.versions.items())
            and all(self.protocols.get(key, m.protocol) == m.protocol for key, m in record.metrics.items())
            and all(self.judges.get(name, known) == known for name, known in required(record).items())
            and _identity(record) not in self.runs
        )


def _partition(records: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Sets of comparable records, both newest first. A run that generates nothing goes where its judges are, if it can."""
    parts: list[_Part] = []
    for record in sorted(newest_first(records), key=lambda record: record.stage != STAGES[-1]):
        homes = [part for part in parts if part.comparable(record)]
        same = (part for part in homes if judges(record) == judges(part.records[0]))
        home = next(same, homes[0] if homes else None)
        if home is None:
            parts.append(_Part(record))
        else:
            home.add(record)
    found = [newest_first(part.records) for part in parts]
    return [of_one_judge(part) for part in sorted(found, key=lambda part: _age(part[0]), reverse=True)]


def _superseded(failure: RunRecord, successes: Sequence[RunRecord]) -> bool:
    """Whether the same configuration and seed has succeeded since."""
    return any(_identity(done) == _identity(failure) and _moment(done) >= _moment(failure) for done in successes)


def _complete(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records but for those of a run that another record, of the same versions, took further."""
    by_run: dict[tuple[str, int, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        by_run[_identity(record)].append(record)
    return [r for r in records if not any(_goes_on(other, r) for other in by_run[_identity(r)])]


def _goes_on(later: RunRecord, record: RunRecord) -> bool:
    return _extent(later) > _extent(record) and record.versions.items() <= later.versions.items()


def _extent(record: RunRecord) -> tuple[int, int]:
    """How far a run was measured: its stage, then the measures that it adds there, such as those on photographs."""
    return STAGES.index(record.stage), len(record.metrics)


def group_records(records: Iterable[RunRecord], *, mixed: bool = False) -> list[Group]:
    """The groups by stem; of several with one stem the newest keeps it, the others append a hash of what differs.

    `mixed` adds one of all of them for each such stem: rows stay apart, carry a warning, and never rank.
    """
    by_stem: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_stem[plain_stem(record)].append(record)
    groups: list[Group] = []
    for stem, members in sorted(by_stem.items()):
        successes = [record for record in members if record.status == "ok"]
        parts = _partition(_complete(successes)) or [[]]
        found = [Group(stem, parts[0])] + [Group(f"{stem}-{protocol_hash(part)}", part) for part in parts[1:]]
        failures = newest_first(record for record in members if record.status == "failed")
        found[0].failed = [record for record in failures if not _superseded(record, successes)]
        groups += found
        if mixed and len(parts) > 1:
            groups.append(_mixed(stem, parts))
    return groups


def _mixed(stem: str, parts: Sequence[Sequence[RunRecord]]) -> Group:
    """The records of all parts; those of all but the newest are named by the hash of what sets them apart."""
    group = Group(f"{stem}-mixed")
    for place, part in enumerate(parts):
        apart = protocol_hash(part)
        for record in part:
            shown = record if place == 0 else record.model_copy(update={"name": f"{record.name}-{apart}"})
            group.records.append(shown)
            group.warnings[shown.file_name] = "newest" if place == 0 else f"other protocol or data: {apart}"
    return group
