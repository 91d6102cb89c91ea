"""One table of a page: its rows, its baselines and the notes below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokbench.report.baselines import EXACTNESS, trivial
from tokbench.report.columns import ONE_STACK, Column, floor
from tokbench.report.formatting import EMPTY, listed, markdown_table, number
from tokbench.report.layouts import Layout
from tokbench.report.ranking import trained_on
from tokbench.report.rows import Row, timed_in
from tokbench.report.view import View

BASELINE_LABELS = {
    "real": "*real against real*",
    "mean_colour": "*mean colour*",
    "replayed_train": "*training images replayed*",
    "colour_only": "*colour alone*",
}
TO_BEAT = {  # measure to its name and unit
    "reconstruction/psnr_db": ("PSNR", "dB"),
    "reconstruction/caption_shown": ("caption shown", "%"),
    "common/understanding/caption_accuracy": ("caption accuracy", "%"),
    EXACTNESS: ("right caption", "%"),
}
NOTHING = "No run of this group has these measures."
FLOOR = (
    "floor: the same distance between training and test originals. Replayed training images score near it or below, so"
    " it is read together with the distance to the nearest training image."
)
BOLD = (
    "Bold: the lead over every other row (of reconstruction: of equal nominal bits within 1 %) is separable in the paired"
    " bootstrap and over seeds (Student), or, for a distance, larger than three noise floors and separable over seeds (Student)."
)
MACHINES = (
    "Times of this table were taken in {} settings (checkouts, perhaps on as many machines, and threads): rows do not compare in"
    " them. A difference of times is told only where one setting took both."
)
ENCODER_DECODER = (
    f"{ONE_STACK['mar']}: masked tokens and a diffusion head as in MAR (arXiv:2406.11838), in the one transformer of all presets."
    " The published model is an encoder-decoder: half of its layers read the known tokens and 64 more, half read all, without a"
    " cache; `tokbench.cost.encoder_decoder_masked_flops` counts its FLOPs."
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
    wide = _transposed([labels, *([column.heading(view), *texts] for column, texts in kept.items())])
    lines = markdown_table(*(_folded(view, layout, rows, kept) if layout.lines else wide))
    there = {row.label for row in rows}
    left_out = [row.label for row in view.rows if row.label not in there]
    notes = [
        *layout.notes,
        *([FLOOR] if any(column.cell is floor for column in kept) else []),
        *([BOLD] if any("**" in text for texts in kept.values() for text in texts) else []),
        *([ENCODER_DECODER] if any(ONE_STACK["mar"] in text for texts in kept.values() for text in texts) else []),
        *_unranked(columns, rows),
        *([MACHINES.format(len(places))] if len(places := timed_in(rows, (c.key for c in kept))) > 1 else []),
        *([f"Not measured: {listed(left_out)}."] if left_out else []),
    ]
    return [*lines, *(line for note in notes for line in ("", note))]


def nothing_learned(view: View) -> list[str]:
    """Markdown: what is reached without a tokenizer or a model, which a row must beat to say anything; [] of nothing."""
    found = [
        f"{what} {number(beaten.value, view.units[key])} {unit} by {beaten.by}"
        for key, (what, unit) in TO_BEAT.items()
        if key in view.units and (beaten := trivial(view, key)) is not None
    ]
    return [f"To beat: {'; '.join(found)}. A row that does not says nothing of its tokenizer.", ""] if found else []


def _folded(
    view: View, layout: Layout, rows: Sequence[Row], cells: Mapping[Column, Sequence[str]]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Headings, and a line of each row for each of the layout's lines that it has anything of."""
    several = len(layout.columns) // len(layout.lines)
    parts = [layout.columns[start : start + several] for start in range(0, len(layout.columns), several)]
    heads = [next((c for c in alike if c in cells), None) for alike in zip(*parts, strict=True)]
    shown = [place for place, head in enumerate(heads) if head is not None]
    lines = []
    for place, row in enumerate(rows):
        for name, columns in zip(layout.lines, parts, strict=True):
            texts = [cells[columns[k]][place] if columns[k] in cells else EMPTY for k in shown]
            if set(texts) != {EMPTY}:
                lines.append([row.label, name, *texts])
    return ["tokenizer", "by", *(head.heading(view) for head in heads if head is not None)], lines


def _unranked(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """A note for each ranked column that leaves out rows whose loss saw its features."""
    notes = []
    for column in columns:
        found = {row.label: network for row in rows if column.rank and (network := trained_on(row, column.key))}
        if found:
            network = next(iter(found.values()))
            notes.append(
                f"{column.name} does not rank {listed(list(found))}: trained on the same features ({network}), which it flatters."
            )
    return notes


def _transposed(columns: Sequence[Sequence[str]]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    headings, *rows = zip(*columns, strict=True)
    return headings, rows


def _has(row: Row, column: Column) -> bool:
    return any(column.key in record.metrics for record in row.records)
