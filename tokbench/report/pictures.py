"""Pictures of a group: reconstructions with their error maps, and samples. k images, H and W sides."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tokbench.records import write_whole
from tokbench.report.methods import PSNR
from tokbench.report.rows import NOMINAL_BITS, Row, mean_of, nearest_a_name
from tokbench.report.view import View

COLUMNS = 8  # images in a row
GAIN = 4  # error maps show GAIN * |difference|, clipped, the same for all rows
DPI = 120
CELL_PIXELS = 96  # of an image, about: a whole multiple of its side
GAP_PIXELS = 4
LABEL_PIXELS = 228
TITLE_PIXELS = 42
CAPTION_PIXELS = 46
CAPTION_LETTERS = 13  # a line
LABEL_LETTERS = 28
LABEL_LINES = 5
MOST_STRIPS = 24  # of a picture, beside the originals
CODED = "information/lossless_bits_per_subpixel"  # a measure of the runs that a sweep was made for

_log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
Strip = tuple[str, Pixels]  # label and (k, 3, H, W) images


def error_map(images: Pixels, originals: Pixels) -> Pixels:
    """(k, 3, H, W) GAIN times the absolute difference, clipped at 255."""
    difference = np.abs(images.astype(np.int32) - originals.astype(np.int32))
    return np.minimum(GAIN * difference, 255).astype(np.uint8)


def mean_psnr_db(images: Pixels, originals: Pixels) -> float:
    """Mean over images (k, 3, H, W) of the PSNR in dB; identical images count as 100 dB, as in the measure."""
    error = np.square(images.astype(np.float64) - originals.astype(np.float64)).mean(axis=(1, 2, 3))
    return float(np.minimum(10 * np.log10(255**2 / np.maximum(error, 1e-12)), 100.0).mean())


def pictured(view: View) -> list[Row]:
    """All rows where they are few; else one of a name, that nearest to FSQ's bits, of the names that `_standing` puts first."""
    if len(view.rows) <= MOST_STRIPS:
        return view.rows
    rows = sorted(view.rows, key=_standing)
    fsq = next((row for row in rows if row.records[0].name == "fsq"), None)
    chosen = nearest_a_name(rows, mean_of(fsq, NOMINAL_BITS) if fsq else None)
    kept = sorted(chosen, key=_standing)[:MOST_STRIPS]
    return [row for row in view.rows if row in kept]


def _standing(row: Row) -> tuple[bool, int, float]:
    """Rows with a code length before others, then those of more seeds, then those that reconstruct better."""
    return mean_of(row, CODED) is None, -len(row.records), -(mean_of(row, PSNR) or 0.0)


def left_out(view: View) -> str:
    """What the pictures lack, for a title; "" where they have all rows."""
    shown, count = len(pictured(view)), len(view.rows)
    return f" ({shown} of {count} rows, one of a name)" if shown < count else ""


def reconstruction_strips(view: View) -> list[Strip]:
    """The originals, then the pictured rows' reconstructions, of the first seed with arrays; of few rows also error maps."""
    strips: list[Strip] = []
    rows = pictured(view)
    for row in rows:
        found = (view.arrays(record) for record in row.records)
        arrays = next((a for a in found if {"originals", "reconstructions"} <= a.keys()), None)
        if arrays is None:
            continue
        originals, images = arrays["originals"][:COLUMNS], arrays["reconstructions"][:COLUMNS]
        if not strips:
            strips.append(("originals", originals))
        elif not np.array_equal(strips[0][1], originals):
            _log.warning("%s: %s left out of the picture, its originals are others", view.group.stem, row.label)
            continue
        label = f"{row.label}\n{mean_psnr_db(images, originals):.2f} dB here"
        strips.append((label, images))
        if 2 * len(rows) <= MOST_STRIPS:
            strips.append((f"|error| × {GAIN}", error_map(images, originals)))
    return strips


def sample_strips(view: View) -> tuple[list[Strip], list[str]]:
    """The pictured rows' samples in each block, of the first seed that has them, and the captions they were drawn for.

    A native scheme that is the common one is not shown twice.
    """
    strips: list[Strip] = []
    captions: list[str] = []
    for row in pictured(view):
        for block in ("common", "native"):
            name = f"samples_{block}"
            found = next(((r, a) for r in row.records if name in (a := view.arrays(r))), None)
            if found is None:
                continue
            record, arrays = found
            if block == "native" and record.blocks.get("common") == record.blocks.get(block):
                continue  # the same samples
            captions = captions or [str(caption) for caption in arrays.get("sample_captions", [])[:COLUMNS]]
            guidance = record.metrics.get(f"{block}/guided/guidance")
            weight = f", guidance {guidance.value:g}" if guidance is not None and guidance.value is not None else ""
            label = f"{row.label}\n{block}: {record.blocks.get(block, '')}{weight}"
            strips.append((label, arrays[name][:COLUMNS]))
    return strips, captions


def draw(
    path: Path,
    strips: Sequence[Strip],
    *,
    title: str,
    captions: Sequence[str] = (),
    words: Sequence[Sequence[str]] = (),
) -> Path:
    """The path of a PNG with one labelled row a strip, captions above the columns; a pixel becomes a whole square.

    `words`: of each strip texts below it, as wide as its images together, evenly.
    """
    side = strips[0][1].shape[-1]
    cell = side * max(1, round(CELL_PIXELS / side)) + GAP_PIXELS
    top = TITLE_PIXELS + (CAPTION_PIXELS if captions else 0)
    step = cell + (CAPTION_PIXELS if words else 0)
    width = LABEL_PIXELS + cell * max(len(images) for _, images in strips)
    height = top + step * len(strips)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def write(x: float, down: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - down / height, text, parse_math=False, **style)

    write(10, TITLE_PIXELS / 2, title, fontsize=9, weight="bold", va="center")
    for column, caption in enumerate(captions):
        x = LABEL_PIXELS + cell * (column + 0.5)
        write(x, top - 5, wrap(caption, CAPTION_LETTERS), fontsize=5.5, ha="center", va="bottom")
    for line, (label, images) in enumerate(strips):
        down = top + step * line
        write(
            LABEL_PIXELS - 10,
            down + cell / 2,
            wrap(label, LABEL_LETTERS, most=LABEL_LINES),
            fontsize=7,
            ha="right",
            va="center",
        )
        figure.figimage(_mosaic(images, cell), LABEL_PIXELS, height - down - cell)
        for place, text in enumerate(words[line] if words else ()):
            share = len(images) / len(words[line])  # images above a text
            x = LABEL_PIXELS + cell * share * (place + 0.5)
            write(x, down + cell, wrap(text, int(CAPTION_LETTERS * share)), fontsize=5.5, ha="center", va="top")
    return save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    """The path of the PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_whole(path, buffer.getvalue())
    return path


def _mosaic(images: Pixels, cell: int) -> Pixels:
    """(cell, k * cell, 3): images (k, 3, H, W) side by side, each pixel repeated, with a white gap after each."""
    factor = (cell - GAP_PIXELS) // images.shape[-1]
    large = images.repeat(factor, axis=2).repeat(factor, axis=3)
    rest = cell - np.array(large.shape[2:])
    padded = np.pad(large, ((0, 0), (0, 0), (0, rest[0]), (0, rest[1])), constant_values=255)
    return np.concatenate(list(np.moveaxis(padded, 1, -1)), axis=1)


def wrap(text: str, letters: int, *, most: int = 4) -> str:
    """Text in lines of about so many letters, at most so many of them."""
    lines: list[str] = []
    for part in text.split("\n"):
        line = ""
        for word in part.split():
            if line and len(line) + 1 + len(word) > letters:
                lines, line = [*lines, line], word
            else:
                line = f"{line} {word}".strip()
        lines.append(line)
    return "\n".join(lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " …"])


def draw_pictures(view: View, folder: Path) -> list[Path]:
    """The pictures that the group's arrays allow: `<stem>-reconstruction.png` and `<stem>-samples.png`.

    What an experiment varies beside the tokenizer changes no reconstruction: its page has the samples alone.
    """
    paths: list[Path] = []
    stem = view.group.stem
    if view.group.experiment is None and (strips := reconstruction_strips(view)):
        title = f"{stem}: reconstruction of the same test images{left_out(view)}"
        paths.append(draw(folder / f"{stem}-reconstruction.png", strips, title=title))
    samples, captions = sample_strips(view)
    if samples:
        title = f"{stem}: samples for the captions above each column, not selected{left_out(view)}"
        paths.append(draw(folder / f"{stem}-samples.png", samples, title=title, captions=captions))
    return paths
