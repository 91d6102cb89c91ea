"""Pictures of generation systems: tokenizer against scheme at equal training FLOPs, quality over steps and time, completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tokbench.metrics.standard_systems import WAYS
from tokbench.report.curves import look
from tokbench.report.frontiers import Point, frontier, marks, seeds_told
from tokbench.report.pictures import COLUMNS, DPI, Strip, draw, pictured, save
from tokbench.report.rows import Row, flatten, mean_of, summarize
from tokbench.report.view import View

QUALITY = "guided/fd_classifier"
FLOPS = "budget.backbone.training_flops"
BLOCKS = ("native", "common")
PASSES = "evaluations or rounds"
TIMES = {  # axis to measure
    "ms of one image at guidance 1, batch 1, tokens alone": "latency_seconds",
    "ms an image at guidance 1, the best batch, tokens alone": "best_batch_seconds",
}
Cells = Mapping[tuple[str, str], float]  # tokenizer and preset to the mean over seeds
Curves = Mapping[str, list[tuple[float, float]]]  # label to (cost, quality)


def draw_heatmaps(view: View, folder: Path) -> list[Path]:
    """`<stem>-equal-flops-<FLOPs>.png` for each number of training FLOPs that several tokenizers and schemes were given."""
    paths: list[Path] = []
    for flops, cells in heatmaps(view).items():
        title = f"{view.group.stem}: gFD classifier at the best guidance, {flops:.2g} training FLOPs each, {_behind(view, flops)}"
        paths.append(_heatmap(folder / f"{view.group.stem}-equal-flops-{flops:.2g}.png", cells, title=title))
    return paths


def draw_systems(view: View, folder: Path) -> list[Path]:
    """`<stem>-steps.png` and `-completions.png`, each where there are runs that it can show."""
    stem, paths = view.group.stem, list[Path]()
    if curves := step_curves(view):
        title = f"{stem}: one model over its steps; lower is better in all"
        panels = {PASSES: curves} | {axis: time_curves(view, measure) for axis, measure in TIMES.items()}
        paths.append(_curves(folder / f"{stem}-steps.png", panels, title=title))
    if strips := completion_strips(view):
        title = f"{stem}: right halves painted after the left ones, guidance 1, not selected"
        paths.append(draw(folder / f"{stem}-completions.png", strips, title=title))
    return paths


def heatmaps(view: View) -> dict[float, Cells]:
    """Training FLOPs to the quality of each tokenizer in each preset; without those of a single tokenizer or preset."""
    found: dict[float, dict[tuple[str, str], float]] = defaultdict(dict)
    for row in view.rows:
        record = row.records[0]
        flops = flatten(record.config).get(FLOPS)
        for block, preset in record.blocks.items():
            quality = mean_of(row, f"{block}/{QUALITY}")
            if flops and quality is not None:
                found[float(flops)][record.name, preset] = quality
    return {
        flops: cells for flops, cells in found.items() if all(len(set(names)) > 1 for names in zip(*cells, strict=True))
    }


def _behind(view: View, flops: float) -> str:
    """`1 to 3 seeds, floor 0.112`: what stands behind the cells of so many training FLOPs."""
    rows = [row for row in view.rows if flatten(row.records[0].config).get(FLOPS) == flops]
    keys = [f"{block}/{QUALITY}" for block in BLOCKS]
    found = [one for row in rows for key in keys if (one := summarize(row.records, key)) is not None and one.seeds]
    floors = [one.floor for one in found if one.floor is not None]
    return seeds_told({one.seeds for one in found}) + (f", floor {max(floors):.3g}" if floors else "")


def step_curves(view: View) -> dict[str, list[tuple[float, float]]]:
    """Label to (passes, quality) of each row and way of sampling that was judged over its steps."""
    return _over(view, lambda row, block, way, count: float(count))


def time_curves(view: View, measure: str) -> dict[str, list[tuple[float, float]]]:
    """Label to (ms an image by a measure of `TIMES`, quality) of the same, where the machine was quiet."""

    def milliseconds(row: Row, block: str, way: str, count: int) -> float | None:
        seconds = mean_of(row, f"{block}/steps/{measure}_{way}_{count}")
        return None if seconds is None else 1e3 * seconds

    return _over(view, milliseconds)


def _over(view: View, cost: Callable[[Row, str, str, int], float | None]) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in view.rows:
        for block in BLOCKS:
            for way, count in WAYS:
                quality = mean_of(row, f"{block}/steps/fd_classifier_{way}_{count}")
                x = None if quality is None else cost(row, block, way, count)
                if quality is not None and x is not None:
                    preset = row.records[0].blocks.get(block, block)  # type: ignore[call-overload]
                    curves[f"{row.label}, {preset}: {way}"].append((x, quality))
    return curves


def completion_strips(view: View) -> list[Strip]:
    """One strip a pictured row and block whose scheme painted halves, of the first seed that has them; the originals first."""
    strips: list[Strip] = []
    for row in pictured(view):
        for block in BLOCKS:
            arrays = _arrays(view, row, f"completed_{block}")
            if not arrays:
                continue
            if not strips:
                strips.append(("originals", arrays["completion_originals"][:COLUMNS]))
            preset = row.records[0].blocks.get(block, block)  # type: ignore[call-overload]
            strips.append((f"{row.label}\n{preset}", arrays[f"completed_{block}"][:COLUMNS]))
    return strips


def _arrays(view: View, row: Row, name: str) -> Mapping[str, np.ndarray]:
    found = (view.arrays(record) for record in row.records if record.blocks)  # others generate nothing
    return next((arrays for arrays in found if name in arrays), {})


def _heatmap(path: Path, cells: Cells, *, title: str) -> Path:
    tokenizers, presets = (sorted(set(names)) for names in zip(*cells, strict=True))
    values = np.array([[cells.get((t, p), np.nan) for p in presets] for t in tokenizers])
    figure = Figure(figsize=(1.6 + 1.05 * len(presets), 1.4 + 0.5 * len(tokenizers)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(np.log(values), cmap="viridis_r", aspect="auto")
    middle = np.nanmean(np.log(values))
    for (i, j), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.3g}"
        colour = "black" if np.isnan(value) or np.log(value) < middle else "white"
        axes.text(j, i, text, ha="center", va="center", fontsize=6 if np.isnan(value) else 8, color=colour)
    axes.set_xticks(range(len(presets)), presets, fontsize=7, rotation=20)
    axes.set_yticks(range(len(tokenizers)), tokenizers, fontsize=7)
    axes.set_title(
        f"{title}\n(lower is better; –: not run, or a scheme over codes and a tokenizer without)", fontsize=8
    )
    return save(figure, path)


def _curves(path: Path, given: Mapping[str, Curves], *, title: str) -> Path:
    """A panel over passes, and those over times with their frontiers where anything was timed; a colour is one curve in all."""
    panels = [(name, curves) for name, curves in given.items() if curves]
    figure = Figure(figsize=(4.6 * len(panels) + 1.8, 4), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for place, label in enumerate(given[PASSES]):
            line = curves.get(label, [])  # by passes, also where a timing of fewer came out longer
            axes.plot(
                [x for x, _ in line],
                [y for _, y in line],
                markersize=3,
                linewidth=1,
                label=label,
                **look(place),
            )
        found = [Point("", label, *point) for label, points in curves.items() for point in points]
        if name != PASSES:
            axes.step(*zip(*frontier(found), strict=True), where="post", color="grey", linewidth=3, alpha=0.4, zorder=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        marks(axes.xaxis, [point.cost for point in found])
        marks(axes.yaxis, [point.quality for point in found])
        axes.set_xlabel(name, fontsize=8)
        axes.set_ylabel("gFD classifier at the chosen guidance", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=6)
    figure.suptitle(title, fontsize=8)
    return save(figure, path)
