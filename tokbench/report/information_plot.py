"""One code length as a picture: the bits of the tokens and of what they leave open, beside lossless image codecs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tokbench.report.pictures import DPI, save

BAR = 0.24  # inches
TOKENS, LEFT, CODEC = "tab:blue", "0.8", "black"


@dataclass(frozen=True)
class Bar:
    """Bits a sub-pixel: of the tokens (of a codec all), and of what they leave open, with the deviation of their sum."""

    label: str
    tokens: float
    left: float | None
    deviation: float | None = None

    @property
    def total(self) -> float:
        """Both."""
        return self.tokens + (self.left or 0.0)


def draw_code_length(path: Path, bars: Sequence[Bar], *, title: str, entropy: float | None) -> Path:
    """The path of the picture, the shortest code above; a line where the exact entropy is known."""
    ordered = sorted(bars, key=lambda bar: -bar.total)
    figure = Figure(figsize=(9.5, 1.3 + BAR * len(ordered)), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = range(len(ordered))
    colours = [CODEC if bar.left is None else TOKENS for bar in ordered]
    axes.barh(places, [bar.tokens for bar in ordered], color=colours, height=0.7)
    axes.barh(places, [bar.left or 0 for bar in ordered], left=[b.tokens for b in ordered], color=LEFT, height=0.7)
    spread = [(k, bar) for k, bar in enumerate(ordered) if bar.deviation is not None]
    axes.errorbar(
        [bar.total for _, bar in spread],
        [k for k, _ in spread],
        xerr=[bar.deviation or 0 for _, bar in spread],
        fmt="none",
        ecolor="black",
        elinewidth=0.8,
    )
    for place, bar in enumerate(ordered):
        axes.text(bar.total + 0.06, place, f"{bar.total:.2f}", fontsize=6.5, va="center")
    axes.set_yticks(places, [bar.label for bar in ordered], fontsize=7)
    for colour, label in ((TOKENS, "tokens"), (LEFT, "left open"), (CODEC, "image codec (tiles of one picture)")):
        axes.barh([0], [0], color=colour, label=label)
    if entropy is not None:
        axes.axvline(entropy, color="tab:red", linewidth=1, label="exact entropy of the images")
    axes.set_xlim(0, max(bar.total for bar in ordered) * 1.08)
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.set_xlabel("bits a sub-pixel (8 is the raw image)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.55 / figure.get_figheight() - 0.02),
        ncols=4,
        fontsize=7,
        frameon=False,
    )
    axes.set_title(title, fontsize=9, weight="bold")
    figure.tight_layout()
    return save(figure, path)
