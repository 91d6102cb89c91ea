"""Numbers as a reader wants them: the unit goes into the heading, the digits follow from the unit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
LISTED = 10  # names in a sentence
OUTSIDE = re.compile(r"(?<!\\)(?:!\[|\]\((?=\s*(?:[a-z][a-z+.-]*:|//))|<(?=[a-z/!?]))", re.IGNORECASE)
INERT = {"![": "!\\[", "](": "]\\("}
EMPTY = "–"  # a baseline or block to which a measure does not apply


@dataclass(frozen=True)
class Style:
    """How values of one unit are printed."""

    heading: str  # the unit as printed, "" for a plain number
    scale: float = 1.0  # printed = scale * recorded
    decimals: int | None = None  # None: three significant digits
    prefixed: bool = False  # 1.23 G


_COUNT = Style("", decimals=0)
_STYLES = {
    "": Style("", prefixed=True),
    "dB": Style("dB", decimals=2),
    "share": Style("%", scale=100, decimals=1),
    "bits/image": Style("bits", decimals=0),
    "bits/pixel": Style("bits/pixel", decimals=3),
    "bits/subpixel": Style("bits/sub-pixel", decimals=3),
    "s/image": Style("ms", scale=1e3),
    "bytes": Style("MiB", scale=2.0**-20),
    "FLOPs": Style("FLOPs", prefixed=True),
    "FLOPs/image": Style("FLOPs", prefixed=True),
    "tokens/image": _COUNT,
    "passes/image": _COUNT,
    "images": Style("", decimals=0),
    "channels": _COUNT,
    "tokens": _COUNT,
    "steps": _COUNT,
    "codes": Style("codes", decimals=0),
}


def style(unit: str) -> Style:
    """The style of a unit; one without an own style keeps its name and three significant digits."""
    return _STYLES.get(unit, Style(unit))


def heading(name: str, unit: str) -> str:
    """`PSNR (dB)`, or the name alone for a plain number."""
    shown = style(unit).heading
    return f"{name} ({shown})" if shown else name


def number(value: float, unit: str, deviation: float | None = None) -> str:
    """The value, and a deviation other than 0 in the same digits, without the unit: `23.55 ± 0.03`, `1.23 G`."""
    how = style(unit)
    scaled, prefix = value * how.scale, ""
    if how.prefixed:
        factor, prefix = next((pair for pair in PREFIXES if abs(scaled) >= pair[0]), (1.0, ""))
        scaled, how = scaled / factor, Style("", scale=how.scale / factor)
    decimals = _decimals(scaled, whole=not deviation) if how.decimals is None else how.decimals
    parts = [_fixed(scaled, decimals)]
    if deviation:
        parts += ["±", _fixed(deviation * how.scale, decimals)]
    return " ".join([*parts, prefix]).rstrip()


def _decimals(value: float, *, whole: bool) -> int:
    """Decimals that leave three significant digits; none for a whole number below a thousand, where `whole` allows."""
    if value == 0 or (whole and float(value).is_integer() and abs(value) < 1000):
        return 0
    return min(6, max(0, 2 - floor(log10(abs(value)))))


def _fixed(value: float, decimals: int) -> str:
    return f"{value:.2e}" if 0 < abs(value) < 0.5 * 10**-6 else f"{value:,.{decimals}f}"


def listed(names: Sequence[str]) -> str:
    """`a, b, c`, or the first ten names and how many more there are."""
    return ", ".join([*names[:LISTED], *([f"and {len(names) - LISTED} more"] if len(names) > LISTED else [])])


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> list[str]:
    """The lines of a GitHub table, padded to read well as text: names to the left, numbers (but not words) right."""
    cells = [[_escape(cell) for cell in line] for line in (headings, *rows)]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(headings))]

    left = [words or i == 0 for i in range(len(widths))]

    def join(line: Sequence[str]) -> str:
        parts = zip(line, widths, left, strict=True)
        return "| " + " | ".join(cell.ljust(w) if to_left else cell.rjust(w) for cell, w, to_left in parts) + " |"

    rule = "|".join("-" * (w + 2) if to_left else "-" * (w + 1) + ":" for w, to_left in zip(widths, left, strict=True))
    return [join(cells[0]), f"|{rule}|", *(join(line) for line in cells[1:])]


def _escape(cell: str) -> str:
    """One line that stays in its cell. Pictures, tags and addresses outside the folder are text: no table has any of its own."""
    inert = OUTSIDE.sub(lambda found: INERT.get(found[0], "\\<"), cell)
    return " ".join(inert.replace("|", "\\|").split())
