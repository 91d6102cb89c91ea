"""The numbers behind the tables: one line for each run and measure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from tokbench.records import RunRecord, parse_key

FIELDS = (
    "name", "seed", "block", "measure", "value", "unit", "n", "spread", "floor", "reason", "protocol", "record",
)  # fmt: skip
EXTRA = 2  # place of further settings among the FIELDS


def csv_lines(records: Iterable[RunRecord], settings: Sequence[str] = ()) -> Iterator[bytes]:
    """FIELDS and values of each, sorted by record and measure: a hundred megabytes of thousands of records.

    `block` is tokenizer, common, native or baseline/<row>; `settings` are keys of the configuration.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*FIELDS[:EXTRA], *settings, *FIELDS[EXTRA:]))
    for record in sorted(records, key=lambda record: (record.name, record.seed, record.hash)):
        first, file_name = (record.name, record.seed, *(record.config.get(key) for key in settings)), record.file_name
        for key, m in sorted(record.metrics.items()):
            parts = parse_key(key)
            block = f"baseline/{parts.baseline}" if parts.baseline else parts.block
            values = (m.value, m.unit, m.n, m.spread, m.floor, m.reason, m.protocol)
            writer.writerow((*first, block, f"{parts.group}/{parts.short}", *values, file_name))
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
