"""PSNR against bits per pixel: a panel a set of images, tokenizers in colour, image codecs in black and grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from tokbench.report.curves import look
from tokbench.report.pictures import DPI, save

TICKS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 5)
WIDTH, ROW = 7.8, 0.17  # inches of a panel, and of a line of its legend
LETTER, HANDLE = 0.053, 0.6  # inches that a letter of a legend takes, and what stands before it
MOST_COLUMNS = 4
TILED = "codecs, each tile a file"
DASHES = ("-", "--", "-.", ":", (0, (8, 2, 1, 2, 1, 2)), (0, (8, 4)))  # of codecs


def draw_rate(path: Path, panels: Mapping[str, Mapping[str, Any]]) -> Path:
    """The picture's path; a series is (bits, quality, layout), layout None for a tokenizer, which has one style in all panels."""
    rows = max(_rows([*own, TILED]) for own in panels.values())
    figure = Figure(figsize=(WIDTH * len(panels), 5.6 + ROW * rows), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    tokenizers = list(dict.fromkeys(k for own in panels.values() for k, one in own.items() if one[2] is None))
    for axes, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        codecs = [label for label, one in series.items() if one[2] == "picture"]
        for label, (bits, quality, layout) in series.items():
            if layout is None:
                style = look(tokenizers.index(label))
                axes.plot(bits, quality, label=label, markersize=5, linewidth=1.4, zorder=3, **style)
            elif layout == "picture":
                style = {"color": "black", "linestyle": DASHES[codecs.index(label) % len(DASHES)]}
                axes.plot(bits, quality, label=label, linewidth=1.1, zorder=2, **style)
            else:
                axes.plot(bits, quality, linewidth=0.7, color="0.75", zorder=1)
        _finish(axes, title, any(one[2] == "tiles" for one in series.values()))
    figure.tight_layout()
    return save(figure, path)


def _finish(axes: Axes, title: str, tiles: bool) -> None:
    if tiles:
        axes.plot([], [], linewidth=0.7, color="0.75", label=TILED)
    bits = "model bits (tokenizers), coded bits without header (codecs)" if title == "Kodak" else "model bits"
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title(title, fontsize=10, weight="bold")
    axes.set_xlabel(f"{bits} per pixel", fontsize=9)
    axes.set_ylabel("PSNR (dB)", fontsize=9)
    axes.grid(alpha=0.3)
    labels = axes.get_legend_handles_labels()[1]
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        fontsize=7,
        frameon=False,
        handlelength=3,
        ncols=_columns(labels),
    )


def _columns(labels: Sequence[str]) -> int:
    """As many columns of a legend as are no wider than a panel, filled one after another."""
    for columns in range(MOST_COLUMNS, 1, -1):
        rows = ceil(len(labels) / columns)
        widest = (max(map(len, labels[start : start + rows])) for start in range(0, len(labels), rows))
        if sum(HANDLE + LETTER * letters for letters in widest) <= WIDTH:
            return columns
    return 1


def _rows(labels: Sequence[str]) -> int:
    return ceil(len(labels) / _columns(labels))
