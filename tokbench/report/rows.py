"""The rows of a group: one tokenizer in one configuration, over its seeds."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from statistics import fmean
from typing import Any

from tokbench.records import Measure, RunRecord
from tokbench.report.groups import settings

NOMINAL_BITS = "bits/nominal_bits_per_image"
MAX_DIFFERENCES = 3  # settings shown in a label
IMPORTANT = ("quantizer", "tokenizer", "budget", "data")  # in this order, before the rest
PRESET, CLASS = "choices.generation", "_target_"
NAMES = ("choices.", "name")  # of options: the values they stand for differ too


@dataclass(frozen=True)
class Row:
    """The runs of one name and configuration, by seed."""

    label: str
    records: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Summary:
    """One measure over the seeds of a row."""

    mean: float | None
    deviation: float | None  # over seeds; None with fewer than two
    seeds: int  # that have a value
    of: int  # that have the measure or its absence
    unit: str
    floor: float | None  # mean over seeds
    reason: str | None  # of the first seed without a value


def summarize(records: Iterable[RunRecord], key: str) -> Summary | None:
    """The measure over records; None where no record has it."""
    measures = [record.metrics[key] for record in records if key in record.metrics]
    if not measures:
        return None
    values = [measure.value for measure in measures if measure.value is not None]
    floors = [measure.floor for measure in measures if measure.floor is not None]
    return Summary(
        mean=fmean(values) if values else None,
        deviation=_deviation(values) if len(values) > 1 else None,
        seeds=len(values),
        of=len(measures),
        unit=measures[0].unit,
        floor=fmean(floors) if floors else None,
        reason=next((measure.reason for measure in measures if measure.value is None), None),
    )


def mean_of(row: Row, key: str, *, seeds: int = 1) -> float | None:
    """The mean over seeds; None where fewer than so many have a value."""
    summary = summarize(row.records, key)
    return None if summary is None or summary.seeds < seeds else summary.mean


def nearest_a_name(rows: Sequence[Row], bits: float | None) -> list[Row]:
    """Of each name the row of most nearly so many nominal bits, of several as near, or without bits, the first."""

    def gap(row: Row) -> float:
        nominal = mean_of(row, NOMINAL_BITS)
        return 0.0 if nominal is None or bits is None else abs(nominal - bits)

    found: dict[str, Row] = {}
    for row in sorted(rows, key=gap):
        found.setdefault(row.records[0].name, row)
    return list(found.values())


def setting_of(record: RunRecord, measure: Measure) -> str | None:
    """The checkout and threads of a time or a rate (of unit s/... or .../s); None of what is no time, or of an old record."""
    timed = "s" in measure.unit.split(" ")[0].split("/")
    place, threads = record.environment.get("checkout"), record.environment.get("threads")
    return f"{place}, {threads} threads" if timed and place else None


def timed_in(rows: Iterable[Row], keys: Iterable[str]) -> set[str]:
    """The settings (checkout and threads) in which the rows' times of these measures were taken."""
    keys = list(keys)
    found = ((r, m) for row in rows for r in row.records for key in keys if (m := r.metrics.get(key)))
    return {setting for r, m in found if m.value is not None and (setting := setting_of(r, m))}


def _deviation(values: Sequence[float]) -> float:
    """Sample standard deviation: `statistics.stdev` to the last digits, but not in exact fractions, which take its time."""
    if min(values) == max(values):
        return 0.0  # not what rounding leaves
    mean = fmean(values)
    return sqrt(fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def make_rows(records: Iterable[RunRecord]) -> list[Row]:
    """One row for each name and configuration without its seed; of several for a name the label tells what differs.

    They stand in the order of their nominal bits, then of their labels.
    """
    by_name: dict[str, dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(records, key=lambda record: (record.name, record.seed, record.hash)):
        by_name[record.name][settings(record)].append(record)
    rows: list[Row] = []
    for name, variants in sorted(by_name.items()):
        ordered = sorted(variants.items(), key=lambda item: _nominal_bits(item[1]))
        found = labels(name, [json.loads(text) for text, _ in ordered])
        named = [Row(label, tuple(runs)) for label, (_, runs) in zip(found, ordered, strict=True)]
        rows += sorted(named, key=lambda row: (_nominal_bits(row.records), _natural(row.label)))
    return rows


def _natural(label: str) -> list[str | float]:
    """A key by which 4 comes before 32."""
    return [float(part) if part[:1].isdigit() else part for part in re.split(r"(\d+(?:\.\d+)?)", label)]


def _nominal_bits(records: Sequence[RunRecord]) -> float:
    """Of an image; 0 where there are none."""
    summary = summarize(records, NOMINAL_BITS)
    return (summary and summary.mean) or 0.0


def labels(name: str, configs: Sequence[dict[str, Any]]) -> list[str]:
    """The name alone for a single configuration, otherwise followed by the values that differ, the quantizer's first.

    The names of the options they come from are told only where nothing else differs; those of schemes and heads in place of
    the settings that follow from them.
    """
    if len(configs) == 1:
        return [name]
    flat = [flatten(config) for config in configs]
    keys = sorted({key for config in flat for key in config}, key=_importance)
    differing = [key for key in keys if len({json.dumps(config.get(key)) for config in flat}) > 1]
    telling = [k for k in differing if k == PRESET or (not k.startswith(NAMES) and not _follows(k, flat))] or differing
    telling = list({tuple(_told(key, config.get(key)) for config in flat): key for key in reversed(telling)}.values())[
        ::-1
    ]
    found = [f"{name} ({_differences(config, telling)})" for config in flat]
    if len(set(found)) < len(found):  # they differ beyond the settings shown
        found = [f"{label} #{number}" for number, label in enumerate(found, 1)]
    return found


def _follows(key: str, flat: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a setting of a scheme or head is the same in all configurations with the same preset, or class."""
    parents = (
        [key.rsplit(".", count)[0] for count in range(1, key.count(".") + 1)] if key.startswith("generation") else []
    )
    told = [PRESET, *(f"{parent}.{CLASS}" for parent in parents)] if parents else []
    for deciding in (name for name in told if name != key and len({config.get(name) for config in flat}) > 1):
        pairs = {(config.get(deciding), json.dumps(config.get(key))) for config in flat}
        if len(pairs) == len({first for first, _ in pairs}):
            return True
    return False


def _importance(key: str) -> tuple[int, str]:
    part = key.split(".")[0]
    return IMPORTANT.index(part) if part in IMPORTANT else len(IMPORTANT), key


def _differences(config: Mapping[str, Any], keys: Sequence[str]) -> str:
    shown = [_told(key, config.get(key)) for key in keys[:MAX_DIFFERENCES]]
    return ", ".join(shown + ([f"+{len(keys) - MAX_DIFFERENCES} more"] if len(keys) > MAX_DIFFERENCES else []))


def _told(key: str, value: Any) -> str:
    """`codebook_size=64`; of a class `head=Mixture`."""
    if key.endswith(f".{CLASS}"):
        return f"{key.split('.')[-2]}={str(value).rpartition('.')[2]}"
    return f"{key.rpartition('.')[2]}={_short(value)}"


def _short(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")).strip('"')


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
