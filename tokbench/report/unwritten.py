"""What every command that writes a report says where it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

BAD_INPUT = 2


def say_unwritten(results: Path, error: OSError) -> int:
    """One line on stderr why a folder of results has no report, such as a full disk; the exit code for bad input."""
    print(f"error: {results} cannot be written: {error}", file=sys.stderr, flush=True)
    return BAD_INPUT
