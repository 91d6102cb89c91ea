"""The picture of free runs: text and images that a model said in one sequence. S sequences, M images at most in one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokbench.report.pictures import Pixels, draw
from tokbench.report.rows import Row, flatten
from tokbench.report.view import View

ENDING = "-free"  # of the picture's stem
BLOCKS = ("native", "common")
INTERLEAVED = "scheme.interleaved"
IMAGE, MARK = "<image>", "▢"  # in the recorded words; in the picture
NOTHING = "(nothing)"
NOTE = (
    "Free runs: from an empty prompt the model says bytes of text and begins images itself (BOI is its own choice); an image ends"
    " (EOI) after its N tokens, as in Chameleon and Transfusion. Below the images is the sequence as it was said, "
    f"{MARK} for an image; older records keep the first image of a sequence alone. The first row of each scheme, and of each kind"
    " of training rows (of one captioned image, or two), not selected."
)


class Run(NamedTuple):
    """The free runs of one row and block: its label, (S, M, 3, H, W) images, white where none was kept, and S texts."""

    label: str
    images: Pixels
    words: list[str]


def draw_free(view: View, folder: Path) -> list[Path]:
    """`<stem>-free.png`: the free runs of one row of each scheme and kind of rows; [] where no run has them."""
    runs = free_runs(view)
    if not runs:
        return []
    most = max(run.images.shape[1] for run in runs)
    strips = [(run.label, np.concatenate(_widened(run.images, most))) for run in runs]
    title = f"{view.group.stem}: said by the model itself, {MARK} an image{_first_alone(runs)}"
    path = folder / f"{view.group.stem}{ENDING}.png"
    return [draw(path, strips, title=title, words=[run.words for run in runs])]


def free_runs(view: View) -> list[Run]:
    """Of each scheme, by its preset and the share of its training rows that held two images, the first row that has them, of
    its first seed with arrays.
    """
    found: dict[tuple[str, object], Run] = {}
    for row in view.rows:
        values = flatten(row.records[0].config)
        interleaved = tuple(value for key, value in values.items() if key.endswith(INTERLEAVED) and value)
        for block in BLOCKS:
            preset = row.records[0].blocks.get(block, "")  # type: ignore[call-overload]
            if preset and (preset, interleaved) not in found and (arrays := _arrays(view, row, block)):
                found[preset, interleaved] = _run(f"{row.label}\n{preset}", arrays, block)
    return list(found.values())


def _arrays(view: View, row: Row, block: str) -> Mapping[str, np.ndarray]:
    found = (view.arrays(record) for record in row.records if record.blocks)
    return next((a for a in found if {f"free_{block}", f"free_words_{block}"} <= a.keys()), {})


def _run(label: str, arrays: Mapping[str, np.ndarray], block: str) -> Run:
    """Older records keep the first image of a sequence alone, (S, 3, H, W)."""
    words = [str(text) for text in arrays[f"free_words_{block}"]]
    kept = arrays[f"free_{block}"]
    images = kept[:, None] if kept.ndim == 4 else kept
    there = np.array([text.count(IMAGE) for text in words])[:, None] > np.arange(images.shape[1])
    shown = np.where(there[..., None, None, None], images, np.uint8(255))
    return Run(label, shown, [_readable(text) for text in words])


def _readable(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text.replace(IMAGE, MARK)) or NOTHING


def _widened(images: Pixels, most: int) -> Pixels:
    """(S, most, 3, H, W), white where there are fewer."""
    missing = most - images.shape[1]
    return np.pad(images, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255)


def _first_alone(runs: list[Run]) -> str:
    """What the title adds where a sequence has more images than its record keeps."""
    lacking = any(text.count(MARK) > run.images.shape[1] for run in runs for text in run.words)
    return ", of several the first alone was kept" if lacking else ""
