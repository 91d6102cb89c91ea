"""What the standard set says of a measure in a record."""

from __future__ import annotations

from tokbench.metrics.standard import STANDARD, Definition
from tokbench.records import parse_key


def definition(key: str) -> Definition | None:
    """The definition behind a record's key: of "common/guided/kid" that of "generation/kid"; None if there is none."""
    return STANDARD.get(parse_key(key).standard)


def direction(key: str) -> str | None:
    """ "up" or "down" where that is better; None where collapse improves the measure or the set does not have it."""
    known = definition(key)
    return known.direction if known else None
