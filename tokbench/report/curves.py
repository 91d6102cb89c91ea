"""Plots of a sweep over codebook sizes: PSNR against used bits, rarefaction, training. One style a method in all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from tokbench.metrics.definition import usage_cap
from tokbench.report.methods import Method, Point, Size, over_sizes
from tokbench.report.pictures import DPI, save
from tokbench.report.view import View

COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf"),
    *("#bcbd22", "#7f7f7f", "#000075", "#e000e0", "#0b5d1e", "#800000", "#7be000", "#d2a679"),
)
MARKERS = "osD^vP*X<>h"  # as many as share no factor with the colours
LINES = ("-", "--", ":", "-.")
PANELS = 3  # in a row
MOST_PANELS = 12
LINEAR_BELOW = 0.02  # of the loss, which an entropy term can make negative
LEGEND_ROWS = 24  # of a legend beside a plot, before it takes another column


def look(place: int) -> dict[str, Any]:
    """Colour, marker and line of a plot's series: no two of 176 share colour and marker, no two of 64 colour and line."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": LINES[place // len(COLOURS) % len(LINES)],
    }


def styles(methods: Sequence[Method]) -> dict[str, dict[str, Any]]:
    """The look of each method by label; those of several V, which have plots of their own, come first to a colour."""
    ordered = sorted(methods, key=lambda method: len(method.points) < 2)
    return {method.label: look(place) for place, method in enumerate(ordered)}


def draw_quality(path: Path, methods: Sequence[Method], *, title: str) -> Path:
    """PSNR against used bits, a line a method over its V; bars are deviations over seeds."""
    figure, axes = _single(methods)
    for label, style in styles(methods).items():
        points = next(method.points for method in methods if method.label == label)
        used, psnr = ([getattr(point, name) for point in points] for name in ("used", "psnr"))
        x, y = zip(*(point.deviations for point in points), strict=True)
        axes.errorbar(used, psnr, xerr=x, yerr=y, label=label, elinewidth=0.8, markersize=4.5, linewidth=1.2, **style)
    _write(axes, title, "used bits of an image (marginal entropy x tokens)", "PSNR (dB)")
    _beside(figure, axes, methods)
    return save(figure, path)


def draw_sizes(path: Path, methods: Sequence[Method], *, title: str) -> Path:
    """PSNR, used bits and, where a backbone was trained, model bits against V to MOST_CODES, a line a method over several V."""
    several = over_sizes(methods)
    panels: dict[str, Callable[[Point], float | None]] = {
        "PSNR (dB)": lambda point: point.psnr,
        "used bits of an image": lambda point: point.used,
        "model bits of an image": lambda point: point.model,
    }
    drawn = {label: value for label, value in panels.items() if any(value(p) for m in several for p in m.points)}
    legend = ceil(len(several) / 6)
    figure = _figure(4.6 * len(drawn), 3.6 + 0.2 * legend)
    known = styles(methods)
    for axes, (label, value) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        for method in several:
            places = [(point.codes, found) for point in method.points if (found := value(point)) is not None]
            axes.plot(
                [x for x, _ in places], [y for _, y in places], label=method.label, markersize=4, **known[method.label]
            )
        axes.set_xscale("log", base=2)
        _write(axes, "", "codebook size V", label)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=6, fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=9, weight="bold")
    figure.tight_layout(rect=(0, (0.2 * legend + 0.15) / (3.6 + 0.2 * legend), 1, 1))
    return save(figure, path)


def draw_rarefaction(path: Path, view: View, sizes: Sequence[Size], methods: Sequence[Method], *, title: str) -> Path:
    """Usage against the tokens seen, a panel a V (of many, some, the least and the largest among them), of each method's first
    seed; the cap of even use is dashed.
    """
    sizes = [sizes[i] for i in spread(len(sizes), MOST_PANELS)]
    rows = ceil(len(sizes) / PANELS)
    columns = min(PANELS, len(sizes))
    legend = ceil(len(methods) / 5)
    height = 2.9 * rows + 0.22 * legend + 0.7
    figure = _figure(3.6 * max(columns, 2), height)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    known = styles(methods)
    for axes, size in zip(panels, sizes, strict=False):
        _rarefaction_panel(axes, view, size, known)
    for axes in panels[len(sizes) :]:
        axes.set_visible(False)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=5, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10, weight="bold")
    figure.tight_layout(rect=(0, (0.22 * legend + 0.15) / height, 1, 1))
    return save(figure, path)


def spread(number: int, most: int) -> list[int]:
    """All of 0..number - 1, or `most` of them at even steps, the first and the last among them."""
    return list(range(number)) if number <= most else [i * (number - 1) // (most - 1) for i in range(most)]


def _rarefaction_panel(axes: Axes, view: View, size: Size, known: Mapping[str, Mapping[str, Any]]) -> None:
    most = 1
    for method, point in size.points:
        found = rarefaction(view, point)
        if found is not None:
            tokens, usage = found
            style = {key: value for key, value in known[method.label].items() if key != "marker"}
            axes.plot(tokens, usage, label=method.label, linewidth=1.2, **style)
            most = max(most, int(tokens[-1]))
    codes = max(point.codes for _, point in size.points)
    seen = np.geomspace(1, most, 200)
    axes.plot(
        seen, [usage_cap(n, codes) for n in seen], color="black", linewidth=1, linestyle=(0, (4, 3)), label="even use"
    )
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _write(axes, size.title, "tokens seen", "usage")


def draw_training(path: Path, view: View, size: Size, methods: Sequence[Method], *, title: str) -> Path:
    """Training loss against step at one V, of each method's first seed."""
    figure, axes = _single(methods)
    known = styles(methods)
    for method, point in size.points:
        found = training(view, point)
        if found is not None:
            style = {key: value for key, value in known[method.label].items() if key != "marker"}
            steps, losses = found
            axes.plot(steps, smooth(losses), label=method.label, linewidth=1, **style)
    axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
    _write(axes, title, "step", "training loss with the method's own terms")
    _beside(figure, axes, methods)
    return save(figure, path)


def rarefaction(view: View, point: Point) -> tuple[np.ndarray, np.ndarray] | None:
    """(P,) tokens seen and (P,) usage of the first seed that has them; None where none has."""
    found = (view.arrays(record) for record in point.row.records)
    names = ("rarefaction_tokens", "rarefaction_usage")
    return next(((a[names[0]], a[names[1]]) for a in found if set(names) <= a.keys()), None)


def training(view: View, point: Point) -> tuple[np.ndarray, np.ndarray] | None:
    """(k,) steps and (k,) losses of the first seed that has them; None where none has."""
    found = (view.arrays(record).get("loss_tokenizer") for record in point.row.records)
    return next(((curve[:, 0], curve[:, 1]) for curve in found if curve is not None), None)


def smooth(values: np.ndarray) -> np.ndarray:
    """(k,) means over windows of five, shorter towards both ends."""
    kernel = np.ones(min(5, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _single(methods: Sequence[Method]) -> tuple[Figure, Axes]:
    figure = _figure(9.5, max(5.5, 0.2 * min(len(methods), LEGEND_ROWS) + 1))
    return figure, figure.subplots()


def _write(axes: Axes, title: str, below: str, beside: str) -> None:
    axes.set_title(title, fontsize=9, weight="bold")
    axes.set_xlabel(below, fontsize=8)
    axes.set_ylabel(beside, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def _beside(figure: Figure, axes: Axes, methods: Sequence[Method]) -> None:
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        fontsize=8,
        frameon=False,
        ncols=ceil(len(methods) / LEGEND_ROWS),
        handlelength=3,
    )
    figure.tight_layout()
