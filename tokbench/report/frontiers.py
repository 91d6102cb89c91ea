"""Quality of generation against what it costs: the order of systems flips between one image and a full batch, and training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from tokbench.report.curves import COLOURS, MARKERS
from tokbench.report.pictures import DPI, save
from tokbench.report.rows import mean_of, summarize, timed_in
from tokbench.report.view import View

QUALITY, QUALITY_NAME = "generation/fd_classifier", "gFD classifier, guidance 1"
COSTS: tuple[tuple[str, str, Callable[[float], float]], ...] = (
    ("training_flops", "training FLOPs of the backbone", float),
    ("generation_flops_counted", "FLOPs an image", float),
    ("latency_seconds", "ms of one image, batch 1", lambda seconds: 1e3 * seconds),
    ("throughput_images_per_second", "ms an image at the best batch", lambda rate: 1e3 / rate),
)
LEAST = 3  # systems of a picture
APART = 1.05  # times that the costs of a frontier differ at least


class Point(NamedTuple):
    """One system: whose tokens, which scheme, what it costs and how good it is."""

    tokenizer: str
    preset: str
    cost: float
    quality: float


def draw_frontiers(view: View, folder: Path) -> list[Path]:
    """`<stem>-frontiers.png`: a panel a cost, where three systems or more have it; [] where none has."""
    costs = [(_label(view, name, label), points(view, name, scale)) for name, label, scale in COSTS]
    panels = [(label, found) for label, found in costs if len(found) >= LEAST]
    if not panels:
        return []
    figure = Figure(figsize=(3 * len(panels), 3.6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    tokenizers, presets = (sorted({getattr(p, n) for _, found in panels for p in found}) for n in Point._fields[:2])
    for axes, (label, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for point in found:
            colour = COLOURS[tokenizers.index(point.tokenizer) % len(COLOURS)]
            marker = MARKERS[presets.index(point.preset) % len(MARKERS)]
            axes.plot(point.cost, point.quality, marker, color=colour, markersize=4)
        for line in frontiers(found):
            axes.step(*zip(*line, strict=True), where="post", color="grey", linewidth=0.8, zorder=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        marks(axes.xaxis, [point.cost for point in found])
        marks(axes.yaxis, [point.quality for point in found])
        axes.set_xlabel(label, fontsize=7)
        axes.set_ylabel(QUALITY_NAME, fontsize=7)
        axes.tick_params(labelsize=6)
    keys = [Line2D([], [], color=COLOURS[i % len(COLOURS)], label=name) for i, name in enumerate(tokenizers)]
    shapes = [MARKERS[i % len(MARKERS)] for i in range(len(presets))]
    keys += [
        Line2D([], [], color="grey", marker=m, linestyle="", label=n) for m, n in zip(shapes, presets, strict=True)
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 6), fontsize=6, frameon=False)
    figure.suptitle(
        f"{view.group.stem}: what quality costs; lower is better in both; {_seeds(view)} a point", fontsize=8
    )
    return [save(figure, folder / f"{view.group.stem}-frontiers.png")]


def _label(view: View, name: str, label: str) -> str:
    """What an axis shows; of times also that they do not compare, where more than one setting took them."""
    blocks = {block for row in view.rows for record in row.records for block in record.blocks}
    places = timed_in(view.rows, [f"{block}/cost/{name}" for block in blocks])
    return f"{label}\n(of {len(places)} settings: not comparable)" if len(places) > 1 else label


def _seeds(view: View) -> str:
    keys = [(row, f"{block}/{QUALITY}") for row in view.rows for block in row.records[0].blocks]
    found = (summarize(row.records, key) for row, key in keys)
    return seeds_told({one.seeds for one in found if one is not None and one.seeds})


def seeds_told(counts: Collection[int]) -> str:
    """`1 seed` or `1 to 3 seeds`: those behind each of several means."""
    least, most = min(counts), max(counts)
    return (f"{least} seed" if least == most else f"{least} to {most} seed") + "s" * (most > 1)


def marks(axis: Axis, values: Sequence[float]) -> None:
    """Round marks, also where the values span less than a decade."""
    wide = max(values) > 10 * min(values)
    axis.set_major_locator(LogLocator(subs=(1, 3)) if wide else MaxNLocator(4))
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_locator(NullLocator())


def points(view: View, name: str, scale: Callable[[float], float]) -> list[Point]:
    """The systems that have that cost, means over seeds; a block that repeats another counts once."""
    found = [
        Point(row.label, preset, scale(cost), quality)
        for row in view.rows
        for block, preset in row.records[0].blocks.items()
        if (cost := mean_of(row, f"{block}/cost/{name}")) and (quality := mean_of(row, f"{block}/{QUALITY}"))
    ]
    return list(dict.fromkeys(found))


def frontiers(found: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """The frontier of each preset, as presets are never compared; without those whose costs are about one."""
    lines = [frontier([p for p in found if p.preset == preset]) for preset in sorted({p.preset for p in found})]
    return [line for line in lines if line[-1][0] >= APART * line[0][0]]


def frontier(found: Sequence[Point]) -> list[tuple[float, float]]:
    """Cost and quality of the points that no other beats in both, by cost."""
    ordered = sorted((point.cost, point.quality) for point in found)
    best = accumulate((quality for _, quality in ordered), min)
    kept = dict[float, float]()
    for (cost, quality), lowest in zip(ordered, best, strict=True):
        if quality == lowest and quality not in kept.values():
            kept.setdefault(cost, quality)
    return list(kept.items())
