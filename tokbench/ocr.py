"""`python -m tokbench.ocr ORIGINALS RECONSTRUCTIONS`: how much text of large images an OCR engine still reads.

The folders hold images under the same names. Truth is what the engine (rapidocr, of the extra `ocr`) reads in the
originals, so its own mistakes are not counted; it is no part of any record. Exit code 2: bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from torchmetrics.functional.text import char_error_rate

from tokbench.report.formatting import markdown_table

Read = Callable[[Path], str]
ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0, or 2 where the folders or the engine are not as they must be."""
    parser = argparse.ArgumentParser(prog="python -m tokbench.ocr", description="Text kept, by OCR.")
    parser.add_argument("originals", type=Path)
    parser.add_argument("reconstructions", type=Path)
    given = parser.parse_args(arguments)
    try:
        found = compare(pairs(given.originals, given.reconstructions), engine())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(found))
    return 0


def engine() -> Read:
    """What reads an image file: its lines of text, joined by a newline; ValueError where rapidocr is not installed."""
    try:
        from rapidocr import RapidOCR
    except ImportError:
        raise ValueError("tokbench.ocr needs rapidocr: pip install 'tokbench[ocr]'") from None
    reader = RapidOCR()
    return lambda path: "\n".join(reader(str(path)).txts or ())


def pairs(originals: Path, reconstructions: Path) -> list[tuple[Path, Path]]:
    """The images of both folders by name, whatever the ending; ValueError names a folder or an image without its partner."""
    by_name = []
    for folder in (originals, reconstructions):
        if not folder.is_dir():
            raise ValueError(f"folders must hold images, got {folder}, which is no folder")
        by_name.append({path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in ENDINGS})
    known, made = by_name
    if alone := sorted(known.keys() ^ made.keys()):
        raise ValueError(f"images must have one name in both folders, got {alone[0]} in one alone ({len(alone)} such)")
    if not known:
        raise ValueError(f"folders must hold images, got none in {originals}")
    return [(known[name], made[name]) for name in known]


def compare(images: Sequence[tuple[Path, Path]], read: Read) -> list[str]:
    """A Markdown table: of each image and of all, characters read in the original and the share that is kept.

    Kept is 1 - (substitutions + deletions + insertions) / characters, at least 0. ValueError where no original has text.
    """
    texts = [(original.stem, read(original), read(other)) for original, other in images]
    texts = [text for text in texts if text[1]]
    if not texts:
        raise ValueError(f"originals must show text, got {len(images)} images in which none is read")
    lines = [[name, str(len(was)), _kept([now], [was])] for name, was, now in texts]
    names, was, now = zip(*texts, strict=True)
    lines.append([f"all {len(names)}", str(sum(map(len, was))), _kept(now, was)])
    return markdown_table(["image", "characters", "kept (%)"], lines)


def _kept(now: Sequence[str], was: Sequence[str]) -> str:
    return f"{100 * max(0.0, 1 - float(char_error_rate(list(now), list(was)))):.1f}"


if __name__ == "__main__":
    sys.exit(main())
