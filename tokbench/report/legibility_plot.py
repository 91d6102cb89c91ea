"""What is still read of the text in images: against the bits that an image has a character, and by font size."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tokbench.data.letters import FONT_SIZES
from tokbench.report.curves import LINES, MARKERS, look
from tokbench.report.methods import USED_BITS
from tokbench.report.pictures import DPI, save
from tokbench.report.rows import NOMINAL_BITS, Row, mean_of
from tokbench.report.view import View

READ = {"characters": "legibility/char_accuracy", "strings": "legibility/string_accuracy"}
HAS, NEEDS = "legibility/bits_per_glyph", "legibility/text_bits_per_glyph"
MOST_ROWS = 24  # of the legend


@dataclass(frozen=True)
class Reading:
    """One row: used bits a character (None: continuous), shares read of what is read of originals, and shares by font size."""

    label: str
    name: str
    tokens: float
    bits: float | None
    shares: dict[str, float]
    by_size: list[float | None]


def readings(view: View) -> list[Reading]:
    """All rows whose characters were read, by name, those of most tokens first."""
    found = [reading for row in view.rows if (reading := _reading(row)) is not None]
    return sorted(found, key=lambda one: (one.name, -one.tokens, one.label))


def _reading(row: Row) -> Reading | None:
    means = {what: mean_of(row, f"{key}_relative") for what, key in READ.items()}
    shares = {what: share for what, share in means.items() if share is not None}
    by_size = [mean_of(row, f"{READ['characters']}_{size}_px") for size in FONT_SIZES]
    tokens, nominal, used, has = (mean_of(row, key) for key in ("bits/tokens", NOMINAL_BITS, USED_BITS, HAS))
    bits = has * used / nominal if has is not None and used is not None and nominal else None
    return Reading(row.label, row.records[0].name, tokens or 0.0, bits, shares, by_size) if shares else None


def draw_reading(view: View, folder: Path) -> list[Path]:
    """`<stem>-legibility-rate.png`; [] where no name was read at two rates."""
    found = readings(view)
    lines = defaultdict[str, list[Reading]](list)
    for reading in found:
        lines[reading.name].append(reading)
    if not any(len({one.bits for one in own if one.bits is not None}) > 1 for own in lines.values()):
        return []
    figure = Figure(figsize=(13.5, 4.6), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    by_bits, by_size = figure.subplots(1, 2)
    for place, own in enumerate(lines.values()):
        _draw_rate(by_bits, place, [one for one in own if one.bits is not None])
    needs = next((need for row in view.rows if (need := mean_of(row, NEEDS)) is not None), None)
    if needs is not None:
        by_bits.axvline(needs, color="black", linewidth=0.9, linestyle=":", label="what text and layout need")
    by_bits.set_xscale("log")
    _write(
        by_bits, "used bits of an image (marginal entropy x tokens) a character", "read, of what is read of originals"
    )
    by_bits.legend(fontsize=7, frameon=False)
    for reading in found[:MOST_ROWS]:
        place, nth = list(lines).index(reading.name), lines[reading.name].index(reading)
        style = {
            "color": look(place)["color"],
            "marker": MARKERS[nth % len(MARKERS)],
            "linestyle": LINES[nth % len(LINES)],
        }
        places = [(size, share) for size, share in zip(FONT_SIZES, reading.by_size, strict=True) if share is not None]
        by_size.plot(*zip(*places, strict=True), label=reading.label, markersize=3.5, linewidth=1.1, **style)
    _write(by_size, "font size (pixels)", "characters read")
    by_size.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7, frameon=False, handlelength=3)
    figure.suptitle(f"{view.group.stem}: what is still read", fontsize=9, weight="bold")
    figure.tight_layout()
    return [save(figure, folder / f"{view.group.stem}-legibility-rate.png")]


def _draw_rate(axes: Axes, place: int, own: list[Reading]) -> None:
    """A line a kind of share: characters solid, strings dashed."""
    for (what, line), marker in zip((("characters", "-"), ("strings", "--")), "os", strict=True):
        places = [(one.bits, one.shares[what]) for one in own if what in one.shares]
        if places:
            label = f"{own[0].name}, {what}"
            style: dict[str, Any] = look(place) | {"linestyle": line, "marker": marker}
            axes.plot(*zip(*places, strict=True), label=label, markersize=3.5, linewidth=1.2, **style)


def _write(axes: Axes, below: str, beside: str) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(below, fontsize=8)
    axes.set_ylabel(beside, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", linewidth=0.6)
