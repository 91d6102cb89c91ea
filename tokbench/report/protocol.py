"""What the numbers of one table have in common, whatever was measured: its protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from tokbench.records import RunRecord
from tokbench.report.judges import judges


def protocol_hash(records: Sequence[RunRecord]) -> str:
    """Six hex digits of what records of one table share: images, crop and precision, judges, measures, versions of rooms."""
    shared = {
        "images": records[0].data.fingerprints,
        "precision": precision(records[0]),
        "judges": sorted({item for record in records for item in judges(record).items()}, key=str),
        "measures": sorted({(key, m.protocol) for record in records for key, m in record.metrics.items()}),
        "versions": sorted({item for record in records for item in record.versions.items()}),
    }
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:6]


def precision(record: RunRecord) -> object:
    """The dtypes that the networks of a run were trained and measured in, as Lightning names them."""
    budget = record.config.get("budget")
    return budget.get("precision") if isinstance(budget, dict) else None
