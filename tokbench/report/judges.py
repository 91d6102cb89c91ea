"""Whose eyes a measure is of: distances, agreement and reading are of one trained network, and tables do not mix two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tokbench.metrics.standard import FEATURES
from tokbench.records import Measure, RunRecord, parse_key

ANOTHER = "another judge"
JUDGES = {**FEATURES, "caption_shown": "checker", "attributes_shown": "checker"}
_END = "_weights_sha256"


def judges(record: RunRecord) -> dict[str, object]:
    """sha256 of the weights of each judge of a run, by its name: classifier, random64, reader, checker."""
    named = record.environment.items()
    return {key.removesuffix(_END).removeprefix("fd_"): value for key, value in named if key.endswith(_END)}


def judge_of(key: str) -> str | None:
    """The name of the judge that a record's measure is of; None where none is."""
    parts = parse_key(key)
    return "reader" if parts.group == "legibility" else JUDGES.get(parts.short)


def of_one_judge(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records; where their judges differ, measures of another than most of them have, of equally many the newest, are NA.

    The newest comes first.
    """
    most: dict[str, object] = {}
    for name in dict.fromkeys(name for record in records for name in judges(record)):
        most[name] = Counter(found[name] for record in records if name in (found := judges(record))).most_common(1)[0][
            0
        ]
    return [
        _without(record, {name for name, known in judges(record).items() if known != most[name]}) for record in records
    ]


def _without(record: RunRecord, others: set[str]) -> RunRecord:
    """The record with the measures of these judges missing."""
    if not others:
        return record
    lost = {key: _lost(m) for key, m in record.metrics.items() if m.value is not None and judge_of(key) in others}
    return record.model_copy(update={"metrics": {**record.metrics, **lost}})


def _lost(measure: Measure) -> Measure:
    return replace(measure, value=None, n=None, spread=None, floor=None, reason=ANOTHER)
