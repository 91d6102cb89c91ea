"""The numbers behind the tables: one line for each run and measure."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from tokbench.records import RunRecord, parse_key

FIELDS = (
    "name", "seed", "block", "measure", "value", "unit", "n", "spread", "floor", "reason", "protocol", "record",
)  # fmt: skip


def tidy(records: Iterable[RunRecord]) -> pd.DataFrame:
    """A frame of FIELDS, sorted by record and measure; `block` is tokenizer, common, native or baseline/<row>."""
    lines = [
        {
            "name": record.name,
            "seed": record.seed,
            "block": f"baseline/{parts.baseline}" if parts.baseline else parts.block,
            "measure": f"{parts.group}/{parts.short}",
            **measure.model_dump(),
            "record": record.file_name,
        }
        for record in sorted(records, key=lambda record: (record.name, record.seed, record.hash))
        for key, measure in sorted(record.metrics.items())
        for parts in [parse_key(key)]
    ]
    return pd.DataFrame(lines, columns=list(FIELDS)).astype({"n": "Int64"})
