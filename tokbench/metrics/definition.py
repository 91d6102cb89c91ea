"""What a measure is: its name, heading, unit, protocol, version and which way is better.

Tables read definitions without torch, which takes seconds and half a gigabyte: what they need of the modules that measure
stands here, or is read from their files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PSNR_CAP = 100.0  # dB; what identical images get in place of infinity
CODECS_FILE = "codecs-kodak.json"  # in results/: what information.codecs measured
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


def version_of(module: str) -> int:
    """The VERSION in the file of a module of this package, such as "metrics.images", which is not imported."""
    path = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    found = re.search(r"^VERSION = (\d+)$", path.read_text(), re.MULTILINE)
    assert found is not None, path
    return int(found[1])


def usage_cap(num_tokens: int, size: int) -> float:
    """1 - exp(-N / V): the usage that N independent tokens, uniform over V codes, would be expected to show."""
    return -math.expm1(-num_tokens / size)
