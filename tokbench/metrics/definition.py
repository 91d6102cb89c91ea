"""What a measure is: its name, heading, unit, protocol, version and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down"] | None


@dataclass(frozen=True)
class Definition:
    """One measure."""

    name: str  # the record's key without its group
    label: str  # heading of a table
    unit: str  # "" for a pure number
    protocol: str  # one line that tells how the number comes to be
    version: int
    direction: Direction  # which way is better; None where better has no direction


def group(name: str, version: int, protocols: Mapping[tuple[str, str, str, Direction], str]) -> dict[str, Definition]:
    """Definitions by "group/name" from protocols by (name, label, unit, direction)."""
    return {
        f"{name}/{key}": Definition(key, label, unit, protocol, version, direction)
        for (key, label, unit, direction), protocol in protocols.items()
    }
