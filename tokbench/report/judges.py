"""Whose eyes a measure is of: distances, agreement and reading are of one trained network, and tables do not mix two."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from tokbench.metrics.standard import FEATURES
from tokbench.records import Measure, RunRecord, parse_key

ANOTHER = "another judge"
_OF_DISTANCES = frozenset(FEATURES.values())  # a reader's and a checker's answers also stand image by image
_END = "_weights_sha256"


def judges(record: RunRecord) -> dict[str, object]:
    """sha256 of the weights of each judge of a run, by its name: classifier, random64, reader, checker."""
    named = record.environment.items()
    return {key.removesuffix(_END).removeprefix("fd_"): value for key, value in named if key.endswith(_END)}


def required(record: RunRecord) -> dict[str, object]:
    """Those of its judges that a run must share with all runs of its table.

    All judges of a run that generates; of another one not those whose few distances `of_one_judge` can leave out.
    """
    generates = record.stage == "all"
    return {name: known for name, known in judges(record).items() if generates or name not in _OF_DISTANCES}


def of_one_judge(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records; distances by another judge than most of them have, of equally many the newest, are NA.

    The newest comes first.
    """
    counts: dict[str, Counter[object]] = defaultdict(Counter)
    for record in records:
        for name, known in judges(record).items():
            counts[name][known] += 1
    most = {name: known.most_common(1)[0][0] for name, known in counts.items()}
    return [
        _without(record, {name for name, known in judges(record).items() if known != most[name]}) for record in records
    ]


def _without(record: RunRecord, others: set[str]) -> RunRecord:
    """The record with the distances by these judges missing."""
    if not others:
        return record
    found = record.metrics.items()
    lost = {key: _lost(m) for key, m in found if m.value is not None and FEATURES.get(parse_key(key).short) in others}
    return record.model_copy(update={"metrics": {**record.metrics, **lost}})


def _lost(measure: Measure) -> Measure:
    return replace(measure, value=None, n=None, spread=None, floor=None, reason=ANOTHER)
