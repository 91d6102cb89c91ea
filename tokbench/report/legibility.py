"""The same words through every tokenizer, one row a tokenizer, with what is left of picture and text beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tokbench.report.pictures import COLUMNS, MOST_STRIPS, Strip, draw
from tokbench.report.rows import Row, summarize
from tokbench.report.view import View

CHARACTERS, STRINGS = "legibility/char_accuracy", "legibility/string_accuracy"
NEEDED = {"originals", "reconstructions", "words"}


def draw_legibility(view: View, folder: Path) -> list[Path]:
    """`<stem>-legibility.png`; [] where no run has words. Of many rows some, evenly from the most legible to the least."""
    strips, words = legibility_strips(view)
    if not strips:
        return []
    title = f"{view.group.stem}: the same words through each tokenizer, the most legible first"
    return [draw(folder / f"{view.group.stem}-legibility.png", strips, title=title, captions=words)]


def legibility_strips(view: View) -> tuple[list[Strip], list[str]]:
    """The originals and the rows' reconstructions, of the first seed with arrays; the words above them."""
    found = [(row, arrays) for row in view.rows if (arrays := _arrays(view, row))]
    found = sorted(found, key=lambda item: -_mean(item[0], CHARACTERS))
    if not found:
        return [], []
    chosen = np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST_STRIPS)).round().astype(int))
    first = found[0][1]
    real = view.baseline("real", STRINGS)
    read = "" if real is None or real.mean is None else f"\nstrings read {100 * real.mean:.1f} %"
    strips: list[Strip] = [(f"originals{read}", first["originals"][:COLUMNS])]
    strips += [(_label(found[i][0]), found[i][1]["reconstructions"][:COLUMNS]) for i in chosen]
    return strips, [str(word) for word in first["words"][:COLUMNS]]


def _arrays(view: View, row: Row) -> Mapping[str, np.ndarray]:
    kept = (view.arrays(record) for record in row.records if CHARACTERS in record.metrics)
    return next((arrays for arrays in kept if arrays.keys() >= NEEDED), {})


def _label(row: Row) -> str:
    psnr, read = _mean(row, "reconstruction/psnr_db"), 100 * _mean(row, STRINGS)
    return f"{row.label}\n{psnr:.2f} dB, strings read {read:.1f} %"


def _mean(row: Row, key: str) -> float:
    summary = summarize(row.records, key)
    return 0.0 if summary is None or summary.mean is None else summary.mean
