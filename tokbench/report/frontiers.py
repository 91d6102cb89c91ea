"""Quality of generation against what it costs: the order of systems flips between one image and a full batch, and training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tokbench.report.pictures import DPI, save
from tokbench.report.rows import Row, summarize
from tokbench.report.view import View

QUALITY, QUALITY_NAME = "generation/fd_classifier", "gFD classifier, guidance 1"
COSTS: tuple[tuple[str, str, Callable[[float], float]], ...] = (
    ("training_flops", "training FLOPs of the backbone", float),
    ("generation_flops_counted", "FLOPs an image", float),
    ("latency_seconds", "ms of one image, batch 1", lambda seconds: 1e3 * seconds),
    ("throughput_images_per_second", "ms an image at the best batch", lambda rate: 1e3 / rate),
)
LEAST = 3  # systems of a picture
Point = tuple[str, float, float]  # preset, cost and quality


def draw_frontiers(view: View, folder: Path) -> list[Path]:
    """`<stem>-frontiers.png`: a panel a cost, where three systems or more have it; [] where none has."""
    panels = [(label, found) for name, label, scale in COSTS if len(found := points(view, name, scale)) >= LEAST]
    if not panels:
        return []
    figure = Figure(figsize=(3.4 * len(panels), 3.4), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (label, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for preset in sorted({preset for preset, _, _ in found}):
            own = [(cost, quality) for name, cost, quality in found if name == preset]
            axes.scatter(*zip(*own, strict=True), s=14, label=preset)
        axes.step(*zip(*frontier(found), strict=True), where="post", color="grey", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(label, fontsize=7)
        axes.set_ylabel(QUALITY_NAME, fontsize=7)
        axes.tick_params(labelsize=6, which="both")
        axes.legend(fontsize=6)
    figure.suptitle(f"{view.group.stem}: what quality costs; lower is better in both", fontsize=8)
    return [save(figure, folder / f"{view.group.stem}-frontiers.png")]


def points(view: View, name: str, scale: Callable[[float], float]) -> list[Point]:
    """Preset, cost and quality of each row and block, means over seeds; a block that repeats another counts once."""
    found = [
        (preset, scale(cost), quality)
        for row in view.rows
        for block, preset in row.records[0].blocks.items()
        if (cost := _mean(row, f"{block}/cost/{name}")) and (quality := _mean(row, f"{block}/{QUALITY}"))
    ]
    return list(dict.fromkeys(found))


def frontier(found: Sequence[Point]) -> list[tuple[float, float]]:
    """Cost and quality of the points that no other beats in both, by cost."""
    ordered = sorted((cost, quality) for _, cost, quality in found)
    best = accumulate((quality for _, quality in ordered), min)
    kept = dict[float, float]()
    for (cost, quality), lowest in zip(ordered, best, strict=True):
        if quality == lowest and quality not in kept.values():
            kept.setdefault(cost, quality)
    return list(kept.items())


def _mean(row: Row, key: str) -> float | None:
    summary = summarize(row.records, key)
    return None if summary is None else summary.mean
