"""One table of a page: its rows, its baselines and the notes below it."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from tokbench.metrics.statistics import Difference
from tokbench.report.columns import Column, floor
from tokbench.report.formatting import EMPTY, listed, markdown_table, number
from tokbench.report.layouts import Layout
from tokbench.report.ranking import BITS_TOLERANCE
from tokbench.report.rows import NOMINAL_BITS, Row, summarize
from tokbench.report.view import View

BASELINE_LABELS = {
    "real": "*real against real*",
    "mean_colour": "*mean colour*",
    "replayed_train": "*training images replayed*",
    "colour_only": "*colour alone*",
}
REFERENCE = "fsq"  # what paired differences are taken against, where it has a row
NOTHING = "No run of this group has these measures."
PAIRED = (
    "Same test images and seeds on both sides; the bootstrap draws seeds and whole clusters of images together, so that"
    " with one seed the interval knows nothing of what another training would give."
)
FLOOR = (
    "floor: the same distance between training and test originals. Replayed training images score near it or below, so"
    " it is read together with the distance to the nearest training image."
)
BOLD = (
    "Bold: the lead over every other row (of reconstruction: of equal nominal bits within 1 %) is separable in the"
    " paired bootstrap, or, for a distance, larger than three noise floors."
)


def table(view: View, layout: Layout) -> list[str]:
    """The layout's lines: tokenizers, the baselines that apply, notes; none where no run has its measures."""
    columns = layout.shown(view)
    rows = [row for row in view.rows if any(_has(row, column) for column in columns)]
    baselines = [name for name in BASELINE_LABELS if any(column.baseline_summary(view, name) for column in columns)]
    if not rows:
        return []
    cells = {
        column: [*(column.cell(view, row, column) for row in rows), *(column.baseline(view, b) for b in baselines)]
        for column in columns
    }
    kept = {column: texts for column, texts in cells.items() if set(texts) != {EMPTY}}
    labels = ["tokenizer", *(row.label for row in rows), *(BASELINE_LABELS[name] for name in baselines)]
    lines = markdown_table(*_transposed([labels, *([column.heading(view), *texts] for column, texts in kept.items())]))
    left_out = [row.label for row in view.rows if row not in rows]
    notes = [
        *layout.notes,
        *([FLOOR] if any(column.cell is floor for column in kept) else []),
        *([BOLD] if any("**" in text for texts in kept.values() for text in texts) else []),
        *([f"Not measured: {listed(left_out)}."] if left_out else []),
    ]
    return [*lines, *(line for note in notes for line in ("", note))]


def _transposed(columns: Sequence[Sequence[str]]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    headings, *rows = zip(*columns, strict=True)
    return headings, rows


def _has(row: Row, column: Column) -> bool:
    return any(column.key in record.metrics for record in row.records)


def differences(view: View) -> tuple[str, list[str]]:
    """Title and lines of the paired differences in PSNR of every row against the reference."""
    if not view.rows:
        return "Paired differences in PSNR", [NOTHING]
    known = [row for row in view.rows if row.records[0].name == REFERENCE]
    known = known or [max(view.rows, key=lambda row: len(row.records))]
    name = known[0].label if len(known) == 1 else f"{REFERENCE} of equal nominal bits"
    pairs = [(row, reference) for row in view.rows if (reference := _reference(known, row)) is not None]
    compared = [(row.label, view.difference(row, other, "psnr_db")) for row, other in pairs if row is not other]
    lines = [_difference(label, *found) for label, found in compared if found is not None]
    title = f"Paired differences in PSNR against {name}"
    if not lines:
        return title, ["No other run shares its seeds and has per-image values."]
    headings = ["tokenizer", f"minus {known[0].label if len(known) == 1 else REFERENCE} (dB)"]
    return title, [*markdown_table([*headings, "95 % interval", "verdict", "seeds"], lines), "", PAIRED]


def _reference(known: Sequence[Row], row: Row) -> Row | None:
    """The one reference, or of several the first with the row's nominal bits, within 1 %; None without such."""
    if len(known) == 1:
        return known[0]
    bits = _nominal(row)
    return next((other for other in known if abs(_nominal(other) - bits) <= BITS_TOLERANCE * bits), None)


def _nominal(row: Row) -> float:
    summary = summarize(row.records, NOMINAL_BITS)
    return nan if summary is None or summary.mean is None else summary.mean


def _difference(label: str, gap: Difference, seeds: int) -> list[str]:
    verdict = "separable" if gap.separable else "not separable"
    return [label, number(gap.mean, "dB"), f"{number(gap.low, 'dB')} to {number(gap.high, 'dB')}", verdict, str(seeds)]
