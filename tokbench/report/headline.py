"""The one table that a sweep ends with, and what README shows in its place where it would be too long."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokbench.report.claims import questions
from tokbench.report.columns import Column, floor, floored, show, value
from tokbench.report.figures import figures
from tokbench.report.formatting import EMPTY, markdown_table
from tokbench.report.groups import plain_stem
from tokbench.report.information import PAGE as INFORMATION
from tokbench.report.information import PICTURE, short_tables
from tokbench.report.methods import is_sweep, make_methods
from tokbench.report.quantizers import PAGE, equal_bits
from tokbench.report.rate_distortion import PAGE as RATES
from tokbench.report.rate_distortion import equal_model_bits
from tokbench.report.rows import Row, summarize
from tokbench.report.tables import nothing_learned
from tokbench.report.verdicts import Verdict, answers
from tokbench.report.view import View


def _both(view: View, row: Row, column: Column) -> str:
    """A measure of the common block and of the native one, with the noise floor that they share."""
    keys = (column.key, column.key.replace("common/", "native/"))
    text, beside = " / ".join(show(summarize(row.records, key)) for key in keys), floor(view, row, column)
    return text if beside == EMPTY else f"{text} (floor {beside})"


GFD, KID = "common/generation/fd_classifier", "common/generation/kid_random64"
COLUMNS = (
    Column("PSNR", "reconstruction/psnr_db", value, rank="equal bits", array="psnr_db"),
    Column("nominal", "bits/nominal_bits_per_image", value),
    Column("model", "native/bits/model_bits_per_image", value),
    Column("usage", "bits/usage", value),
    Column("strings read", "legibility/string_accuracy", value, rank="equal bits", array="string_accuracy"),
    Column("gFD common", GFD, floored),
    Column("gFD native", "native/generation/fd_classifier", floored),
    Column("KID random64 common / native", KID, _both),
    Column("caption shown, reconstruction", "reconstruction/caption_shown", value),
    Column("caption shown, common / native", "common/generation/caption_shown", _both),
    Column("right caption, common / native", "common/understanding/caption_exactness", _both),
    Column("caption accuracy common", "common/understanding/caption_accuracy", value),
    Column("FLOPs of an image, common / native", "common/cost/generation_flops_counted", _both),
)
BOLD = "Bold: the best of equal nominal bits (within 1 %), by a paired bootstrap over seeds and images, and over seeds (Student)."


def headline(views: Sequence[View], experiments: Sequence[str] = ()) -> str:
    """Markdown: one line a row for each of those experiments, or the newest group of each data set and budget; "" of none."""
    own = [view for view in views if view.group.experiment in experiments]
    return "\n".join(_table(view) for view in own or _newest(views))


def readme_block(views: Sequence[View], results: Path, verdicts: Sequence[Verdict] = ()) -> str:
    """The headline, or PSNR at equal bits of groups that generate nothing, where there is any; verdicts; then figures."""
    told = [
        _summary(view, results.name) if is_sweep(view.group) and not _generates(view) else _table(view)
        for view in _newest(views)
    ]
    own = [view for view in views if view.group.experiment and (results / f"{view.group.stem}.md").exists()]
    swept = [view for view in _newest(views) if is_sweep(view.group) and not _generates(view)]
    lengths: list[str] = []
    for view in swept:
        found = short_tables(view, published=not lengths)
        lengths += ["", *found, *_bars(view, results)] if found else []
    told += [*lengths, "", f"More: [{INFORMATION}]({results.name}/{INFORMATION}).", ""] if lengths else []
    found = answers(verdicts)
    told += (
        ["**Published claims, decided here** (small networks, short training, small images)", "", *found]
        if found
        else []
    )
    return "\n".join([*told, *_experiments(own, results.name), *figures([*_newest(views), *own], results), ""])


def _bars(view: View, results: Path) -> list[str]:
    """Markdown of the group's picture of code lengths; [] where there is none."""
    path = results / PICTURE.format(stem=view.group.stem)
    return ["", f"![One code length]({results.name}/{path.name})"] if path.exists() else []


def _experiments(views: Sequence[View], folder: str) -> list[str]:
    """Markdown: what each experiment asks, and where its page is."""
    lines = [
        [
            f"[{view.group.experiment}]({folder}/{view.group.stem}.md)",
            plain_stem(view.group.any_record),
            questions().get(view.group.experiment or "", ""),
            _seeds(view),
        ]
        for view in views
    ]
    return [*markdown_table(["experiment", "data and budget", "asks", "taken"], lines, words=True), ""] if lines else []


def _newest(views: Sequence[View]) -> list[View]:
    """The first, newest view of each data set and budget that is no experiment's."""
    found: dict[str, View] = {}
    for view in views:
        if view.group.records and view.group.experiment is None and not view.group.warnings:
            found.setdefault(plain_stem(view.group.any_record), view)
    return list(found.values())


def _generates(view: View) -> bool:
    return any(record.stage == "all" for record in view.group.records)


def _summary(view: View, folder: str) -> str:
    names = {record.name for record in view.group.records}
    what = f"**{view.group.stem}** ({len(names)} tokenizers, {len(view.rows)} rows, {_seeds(view)})"
    equal = equal_model_bits(view)
    rates = f", [{RATES}]({folder}/{RATES})" if equal else ""
    told = f"{what}: [{PAGE}]({folder}/{PAGE}) (usage, robustness, equal used bits){rates}"
    return "\n".join([told, "", *(equal or equal_bits(make_methods(view.rows)) or _lines(view)), ""])


def _seeds(view: View) -> str:
    """How many there are of a row, and how many of those that generate were taken so far, where those are fewer."""
    seeds = [len(row.records) for row in view.rows]
    whole = [count for row in view.rows if (count := sum(record.stage == "all" for record in row.records))]
    fewer = bool(whole) and max(whole) < max(seeds)
    return _counted(seeds) + (f"; generation: {_counted(whole)}" if fewer else "")


def _counted(seeds: Sequence[int]) -> str:
    least, most = min(seeds), max(seeds)
    return f"{least} to {most} seeds" if least < most else f"{most} seed" + "s" * (most > 1)


def _has_value(view: View, key: str) -> bool:
    found = (record.metrics.get(key) for record in view.group.records)
    return any(measure is not None and measure.value is not None for measure in found)


def _table(view: View) -> str:
    demo = "" if view.group.ranked else ", demo, unranked"
    return "\n".join([f"**{view.group.stem}** ({_seeds(view)}{demo})", "", *_lines(view)])


def _lines(view: View) -> list[str]:
    """Markdown: a line a row, and what bold means where any is."""
    columns = [column for column in COLUMNS if _has_value(view, column.key)]
    if any(column.key == GFD for column in columns):  # a distance that needs no classes stands where there are none
        columns = [column for column in columns if column.key != KID]
    rows = [[row.label, *(column.cell(view, row, column) for column in columns)] for row in view.rows]
    table = markdown_table(["tokenizer", *(column.heading(view) for column in columns)], rows)
    bold = [BOLD, ""] if any("**" in cell for row in rows for cell in row) else []
    return [*table, "", *bold, *nothing_learned(view)]
