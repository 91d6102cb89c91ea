"""The plot of FLOP parity: log metric over log training FLOPs of both sides, with the lines that give the ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tokbench.report.claims import Claim, load_claims
from tokbench.report.definitions import definition
from tokbench.report.frontiers import marks
from tokbench.report.parity import AT_FIRST, OR_MORE, WAYS, Point, parity, points_of
from tokbench.report.pictures import DPI, save
from tokbench.report.rules import Finding
from tokbench.report.view import View

ENDING = "-parity"  # of the picture's stem
NOTE = (
    "FLOP parity (arXiv:2408.11039): a point is a run, a line the least-squares fit of log metric over log training FLOPs. The"
    " ratio is read along the grey line: FLOPs of the first side over those of the second, at the quality that the second's line"
    " reaches at its largest FLOPs, or, where the first side never reaches that, at what the first reaches at its own."
)


class Comparison(NamedTuple):
    """One pair of a claim, with its finding for each of WAYS."""

    claim: Claim
    pair: Mapping[str, Any]
    findings: Sequence[Finding]


def draw_parity(view: View, folder: Path) -> list[Path]:
    """`<stem>-parity.png` of an experiment with claims of parity: a line a pair, a panel a way to count; [] without runs."""
    found = comparisons(view)
    if not found:
        return []
    figure = Figure(figsize=(3.3 * len(WAYS), 2.9 * len(found)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for part, one in zip(figure.subfigures(len(found), 1, squeeze=False)[:, 0], found, strict=True):
        part.suptitle("{} (A) / {} (B)".format(*one.pair["label"].split(" / ")), fontsize=8, weight="bold")
        for axes, how, finding in zip(part.subplots(1, len(WAYS)), WAYS, one.findings, strict=True):
            _panel(axes, view, one, how, read_at=0 if finding.effect.endswith((AT_FIRST, OR_MORE)) else 1)
            axes.set_title(f"FLOPs of A / of B at equal quality:\n{_told(finding)}", fontsize=7)
    figure.suptitle(f"{view.group.stem}: quality against training FLOPs", fontsize=8)
    return [save(figure, folder / f"{view.group.stem}{ENDING}.png")]


def _told(finding: Finding) -> str:
    """The ratio with its interval, where that has numbers."""
    return f"{finding.effect}, {'95 % ' if ' to ' in finding.interval else ''}{finding.interval}"


def comparisons(view: View) -> list[Comparison]:
    """The pairs of the experiment's claims of parity both sides of which ran at two sizes or more; [] of no experiment."""
    asked = [claim for claim in load_claims() if claim.experiment == view.group.experiment]
    found = []
    for claim in (claim for claim in asked if claim.verdict["rule"] == "parity"):
        for pair in claim.verdict["pairs"]:
            findings = [f for f in parity(view, claim.measure, claim.minimum_effect, pairs=[pair]) if f]
            found += [Comparison(claim, pair, findings)] if len(findings) == len(WAYS) else []
    return found


def _panel(axes: Axes, view: View, one: Comparison, how: str, *, read_at: int) -> None:
    names = one.pair["label"].split(" / ")
    sides = [points_of(view, one.claim.measure, one.pair[side], how)[0] for side in ("first", "second")]
    for place, (name, points) in enumerate(zip(names, sides, strict=True)):
        axes.plot(*zip(*points, strict=True), "os"[place], markersize=3, color=f"C{place}", label=name)
        ends = np.array([min(points)[0], max(points)[0]])
        axes.plot(ends, _fitted(points, ends), linewidth=1, color=f"C{place}")
    reached = _fitted(sides[read_at], np.array([max(sides[read_at])[0]]))[0]
    axes.axhline(reached, color="grey", linewidth=0.6, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    marks(axes.xaxis, [flops for points in sides for flops, _ in points])
    marks(axes.yaxis, [metric for points in sides for _, metric in points])
    known = definition(one.claim.measure)
    axes.set_xlabel(f"training FLOPs, {how}", fontsize=7)
    axes.set_ylabel(known.label if known else one.claim.measure, fontsize=7)
    axes.tick_params(labelsize=6)
    axes.legend(fontsize=6)


def _fitted(points: Sequence[Point], flops: np.ndarray) -> np.ndarray:
    """The metric on the points' line, log over log, at those FLOPs."""
    x, y = np.log(np.array(points)).T
    slope, offset = np.polyfit(x, y, 1)
    fitted: np.ndarray = np.exp(offset + slope * np.log(flops))
    return fitted
