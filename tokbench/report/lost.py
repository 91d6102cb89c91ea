"""The figure of what is lost first: power by frequency, error by pixel, bits of tokens by place, and errors of single images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tokbench.report.curves import look
from tokbench.report.pictures import DPI, GAIN, LABEL_LETTERS, error_map, left_out, pictured, save, wrap
from tokbench.report.rows import Row
from tokbench.report.view import View

Arrays = Mapping[str, np.ndarray]
NEEDED = {"band_cycles_per_pixel", "power_originals", "power_error", "error_by_pixel"}
SHOWN = 3  # images whose errors are pictured
SILENT = 1e-4  # levels^2: what stands for no error at all on the axis of decibels
CELL = 1.15  # inches
PLOT = 3.6
TITLES = ("mean |error|", "entropy by place", "model bits by place")
NOTE = (
    "Above: power a coefficient in octave bands of spatial frequency, of the originals and of each row's error; where a line"
    " meets the originals', nothing of that band is kept. Beside it the bits of the tokens under the causal backbone, in raster"
    " order or in that of the queries. Below, of each row's first seed: mean |error| by pixel in 8-bit levels, the marginal"
    " entropy of the token at each place and its model bits (a line of queries is one row, in its order), each column on one"
    " scale, and |error| of single test images."
)


def draw_lost(view: View, folder: Path) -> list[Path]:
    """`<stem>-lost-first.png` of the pictured rows; [] where no run has its arrays."""
    rows = [(row, found) for row in pictured(view) if (found := _arrays(view, row)) is not None]
    if not rows:
        return []
    height = PLOT + CELL * len(rows) + 0.5
    figure = Figure(figsize=(9.5, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    halves = figure.add_gridspec(2, 1, height_ratios=[PLOT + 0.3, height - PLOT - 0.3])
    upper, lower = (figure.add_subfigure(halves[place]) for place in (0, 1))
    upper.suptitle(f"{view.group.stem}: what is lost first{left_out(view)}", fontsize=9, weight="bold")
    upper.subplots_adjust(left=0.07, right=0.8, bottom=0.15, top=0.9, wspace=0.22)
    bands, order = upper.subplots(1, 2)
    _draw_bands(bands, rows)
    _draw_order(order, rows)
    handles, labels = bands.get_legend_handles_labels()
    upper.legend(
        handles, labels, loc="center left", bbox_to_anchor=(0.805, 0.5), fontsize=6, frameon=False, labelspacing=0.35
    )
    panels = lower.subplots(len(rows), len(TITLES) + SHOWN, squeeze=False)
    lower.subplots_adjust(left=0.2, right=0.99, bottom=0.01, top=1 - 0.3 / (height - PLOT), hspace=0.08, wspace=0.08)
    limits = [max((float(m.max()) for _, a in rows if (m := _maps(a)[k]) is not None), default=1.0) for k in range(3)]
    for line, (row, arrays) in zip(panels, rows, strict=True):
        _draw_row(line, row, arrays, limits)
    titles = [f"{title}\nto {limit:.3g} {unit}" for title, limit, unit in zip(TITLES, limits, UNITS, strict=True)]
    for axes, title in zip(panels[0], [*titles, *([f"|error| × {GAIN}"] * SHOWN)], strict=True):
        axes.set_title(title, fontsize=7)
    return [save(figure, folder / f"{view.group.stem}-lost-first.png")]


UNITS = ("levels", "bits", "bits")


def _arrays(view: View, row: Row) -> Arrays | None:
    """Those of the first seed that has them; None where none has."""
    return next((a for record in row.records if (a := view.arrays(record)).keys() >= NEEDED), None)


def _maps(arrays: Arrays) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Error by pixel, entropy by place and model bits by place, each (rows, columns); None of what a run lacks."""
    entropy, bits = arrays.get("entropy_by_position"), arrays.get("nll_by_position_native")
    if bits is not None and entropy is not None:
        bits = bits.reshape(entropy.shape)
    return arrays["error_by_pixel"], _flat(entropy), _flat(bits)


def _flat(values: np.ndarray | None) -> np.ndarray | None:
    """(rows, columns) of a grid, of a line, or of sub-pixels, whose colours are averaged."""
    if values is None or values.ndim == 2:
        return values
    return values[None] if values.ndim == 1 else values.mean(axis=2)


def _draw_bands(axes: Axes, rows: Sequence[tuple[Row, Arrays]]) -> None:
    ends = rows[0][1]["band_cycles_per_pixel"]
    places = np.arange(len(ends))
    axes.plot(places, _decibels(rows[0][1]["power_originals"]), color="black", linestyle="--", label="originals")
    for place, (label, (_, arrays)) in enumerate(zip(_labels([row for row, _ in rows]), rows, strict=True)):
        axes.plot(places, _decibels(arrays["power_error"]), label=label, markersize=3, linewidth=1.1, **look(place))
    upper = [*(f"{end:.3g}" for end in ends[2:]), "0.71"]
    names = ["mean", *(f"{low:.3g} to\n{high}" for low, high in zip(ends[1:], upper, strict=True))]
    axes.set_xticks(places, names)
    _write(axes, "spatial frequency, cycles a pixel", "power a coefficient, dB of one level")


def _draw_order(axes: Axes, rows: Sequence[tuple[Row, Arrays]]) -> None:
    """Bits of the tokens one after another, of the rows that have them; each row's N tokens fill the axis."""
    for place, (_, arrays) in enumerate(rows):
        bits = arrays.get("nll_by_position_native")
        if bits is not None:
            style = look(place) | {"marker": ""}
            axes.plot((np.arange(len(bits)) + 0.5) / len(bits), bits, linewidth=1.1, **style)
    axes.set_xlim(0, 1)
    _write(axes, "place in the image's tokens, as a share of N", "model bits a token")


def _labels(rows: Sequence[Row]) -> list[str]:
    """One line a row for the legend: names alone where they tell the rows apart."""
    names = [row.records[0].name for row in rows]
    return names if len(set(names)) == len(names) else [row.label for row in rows]


def _write(axes: Axes, below: str, beside: str) -> None:
    axes.tick_params(labelsize=6)
    axes.set_xlabel(below, fontsize=7.5)
    axes.set_ylabel(beside, fontsize=7.5)
    axes.grid(color="0.9", linewidth=0.6)


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, SILENT))


def _draw_row(line: Sequence[Axes], row: Row, arrays: Arrays, limits: Sequence[float]) -> None:
    for axes in line:
        axes.set_axis_off()
    for axes, values, limit in zip(line[: len(TITLES)], _maps(arrays), limits, strict=True):
        if values is not None:
            axes.imshow(values, vmin=0, vmax=limit or 1, cmap="viridis", aspect="auto", interpolation="nearest")
    line[0].text(
        -0.06, 0.5, wrap(row.label, LABEL_LETTERS), fontsize=6.5, ha="right", va="center", transform=line[0].transAxes
    )
    if {"originals", "reconstructions"} <= arrays.keys():
        errors = error_map(arrays["reconstructions"][:SHOWN], arrays["originals"][:SHOWN])
        for axes, error in zip(line[len(TITLES) :], errors, strict=False):
            axes.imshow(np.moveaxis(error, 0, -1), aspect="auto", interpolation="nearest")
