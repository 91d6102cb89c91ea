"""docs/measures.md says of every measure what its definition says."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tokbench.metrics.standard import STANDARD

PAGE = Path(__file__).resolve().parents[2] / "docs" / "measures.md"
ENTRY = re.compile(r"- \*\*[^*]+\*\* ((?:`[^`]+`(?:, )?)+) \[([^;]+); (up|down|no direction)\]: \S")


def entries():
    found = [ENTRY.match(line) for line in PAGE.read_text().splitlines() if line.startswith("- **")]
    assert all(found)
    return [(re.findall(r"`([^`]+)`", one[1]), one[2], one[3]) for one in found]


@pytest.mark.parametrize("key", STANDARD)
def test_a_measure_has_one_entry_with_its_unit_and_direction(key):
    (entry,) = [entry for entry in entries() if any(fnmatchcase(key, pattern) for pattern in entry[0])]
    known = STANDARD[key]
    assert entry[1:] == (known.unit or "no unit", known.direction or "no direction")


def test_the_page_names_no_measure_that_is_gone():
    for patterns, *_ in entries():
        for pattern in patterns:
            assert any(fnmatchcase(key, pattern) for key in STANDARD), pattern
