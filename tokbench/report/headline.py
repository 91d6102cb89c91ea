"""The one table that a sweep ends with."""

from __future__ import annotations

from pathlib import Path

from tokbench.records import read_records
from tokbench.report.columns import Column, show, value
from tokbench.report.formatting import markdown_table
from tokbench.report.groups import group_records, plain_stem
from tokbench.report.rows import Row, summarize
from tokbench.report.view import View


def _both(view: View, row: Row, column: Column) -> str:
    """A measure of the common block and of the native one."""
    keys = (column.key, column.key.replace("common/", "native/"))
    return " / ".join(show(summarize(row.records, key)) for key in keys)


COLUMNS = (
    Column("PSNR", "reconstruction/psnr_db", value),
    Column("nominal", "bits/nominal_bits_per_image", value),
    Column("model", "native/bits/model_bits_per_image", value),
    Column("usage", "bits/usage", value),
    Column("gFD common", "common/generation/fd_classifier", value),
    Column("gFD native", "native/generation/fd_classifier", value),
    Column("latency common / native", "common/cost/latency_seconds", _both),
)


def headline(results: Path) -> str:
    """Markdown: one line a tokenizer for the newest group of each data set and budget; "" without records."""
    runs = Path(results) / "runs"
    groups = group_records(read_records(runs)) if runs.is_dir() else []
    newest = [group for group in groups if group.records and group.stem == plain_stem(group.any_record)]
    return "\n".join(_part(View(group, runs)) for group in newest)


def _part(view: View) -> str:
    columns = [column for column in COLUMNS if column.present(view)]
    rows = [[row.label, *(column.cell(view, row, column) for column in columns)] for row in view.rows]
    seeds = sorted({len(row.records) for row in view.rows})
    count = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed" + "s" * (seeds[0] > 1)
    demo = "" if view.group.ranked else ", demo, unranked"
    table = markdown_table(["tokenizer", *(column.heading(view) for column in columns)], rows)
    return "\n".join([f"**{view.group.stem}** ({count}{demo})", "", *table, ""])
