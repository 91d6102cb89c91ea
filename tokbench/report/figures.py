"""The figures that README shows, each as soon as there are records that it can be drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape
from pathlib import Path

from tokbench.report.free import ENDING as FREE
from tokbench.report.parity_plot import ENDING as PARITY
from tokbench.report.rate_distortion import PLOT
from tokbench.report.toys import STEM as TOYS
from tokbench.report.view import View

FIGURES = (  # what is seen, and the files of a group
    ("PSNR against model bits, with image codecs", PLOT),
    ("Quality of generated images against time and FLOPs; lower is better in both", "{stem}-frontiers.png"),
    ("The same images through every tokenizer, with error maps", "{stem}-reconstruction.png"),
    ("The same words through every tokenizer", "{stem}-legibility.png"),
    ("What is still read, by the bits of a character and by its size", "{stem}-legibility-rate.png"),
    ("Images generated for the captions above, not selected", "{stem}-samples.png"),
    ("Right halves painted after the left ones, not selected", "{stem}-completions.png"),
    ("Text and images that the model itself said in one sequence, not selected", f"{{stem}}{FREE}.png"),
    ("PSNR, used bits and model bits over the codebook size V", "quantizers-{stem}-sizes.png"),
    ("Each tokenizer and scheme that was run at equal training FLOPs", "{stem}-equal-flops-*.png"),
    ("Quality over steps and rounds, and over the time that they take", "{stem}-steps.png"),
    ("Quality against training FLOPs, with the ratio at equal quality", f"{{stem}}{PARITY}.png"),
    ("What each head makes of densities that are known", f"{TOYS}.png"),
)


def figures(views: Sequence[View], results: Path) -> list[str]:
    """Markdown of the figures that there are in results, beside README: each of the group that says most."""
    own = [view.group.home for view in views if view.group.experiment]
    stems = [escape(s) for s in (*(view.group.stem for view in sorted(views, key=_weight, reverse=True)), *own)]
    lines: list[str] = []
    for title, pattern in FIGURES:
        found = (path for stem in stems for path in sorted(results.glob(pattern.format(stem=stem)), reverse=True))
        path = next(found, None)
        if path is not None:
            lines += ["", f"![{title}]({results.name}/{path.name})", "", f"*{title}.*"]
    return lines[1:]


def _weight(view: View) -> tuple[bool, bool, bool, int]:
    """Groups that may rank before demonstrations, those that generate before those of tokenizers alone, whole ones before
    experiments, large ones first.
    """
    generates = any(record.stage == "all" for record in view.group.records)
    return view.group.ranked, generates, view.group.experiment is None, len(view.group.records)
