"""The kinds of columns a table has: each a heading and a cell for a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokbench.records import parse_key
from tokbench.report.definitions import direction
from tokbench.report.formatting import EMPTY, heading, number
from tokbench.report.peers import Peers, standing
from tokbench.report.ranking import winners
from tokbench.report.rows import Row, Summary, summarize
from tokbench.report.view import View

ARROWS = {"up": " ↑", "down": " ↓"}
ONE_STACK = {"mar": "mar (one stack)"}  # presets whose published architecture is another, as cells name them


@dataclass(frozen=True)
class Column:
    """One column; `key` is a record's, and ties the column to its protocol."""

    name: str
    key: str
    cell: Callable[[View, Row, Column], str]
    rank: Peers | None = None  # among which rows the best is set in bold
    array: str | None = None  # the per-image array behind the key: decides what is separable
    bare: bool = False  # without arrow and unit: the cell is no value of the measure

    def heading(self, view: View) -> str:
        if self.bare:
            return self.name
        arrow = ARROWS.get(direction(self.key) or "", "") if view.group.ranked else ""
        return heading(self.name, self._unit(view)) + arrow

    def _unit(self, view: View) -> str:
        return view.units.get(self.key, "")

    def present(self, view: View) -> bool:
        """Whether any run has the measure, or the reason for its absence."""
        return self.key in view.units

    def baseline_summary(self, view: View, name: str) -> Summary | None:
        """A baseline row's measure; None where it does not apply."""
        return view.baseline(name, self.key) if self.cell in (value, floor) else None

    def baseline(self, view: View, name: str) -> str:
        """The cell of a baseline row."""
        summary = self.baseline_summary(view, name)
        if summary is None:
            return EMPTY
        return show(summary) if self.cell is value else show_floor(summary)


def show(summary: Summary | None) -> str:
    """`23.55 ± 0.03`, with the number of seeds where some have no value; `NA (reason)` where none has."""
    if summary is None:
        return "NA (not measured)"
    if summary.mean is None:
        return f"NA ({summary.reason})"
    text = number(summary.mean, summary.unit, summary.deviation)
    return text if summary.seeds == summary.of else f"{text} ({summary.seeds} of {summary.of} seeds)"


def show_floor(summary: Summary) -> str:
    """The noise floor of a measure, in its unit; a dash where there is none."""
    return EMPTY if summary.floor is None else number(summary.floor, summary.unit)


def value(view: View, row: Row, column: Column) -> str:
    """Mean over seeds, in bold where it is the best of a ranking."""
    text = show(summarize(row.records, column.key))
    if column.rank is None:
        return text
    best = row.label in winners(view, column.key, peers=column.rank, array=column.array)
    return f"**{text}**" if best else text


def floor(view: View, row: Row, column: Column) -> str:
    """The noise floor: the measure between train and test originals."""
    summary = summarize(row.records, column.key)
    return EMPTY if summary is None else show_floor(summary)


def interval(view: View, row: Row, column: Column) -> str:
    """The 95 % bootstrap interval of the mean."""
    assert column.array is not None
    found = view.interval(row, column.array)
    summary = summarize(row.records, column.key)
    if found is None or summary is None:
        return "NA (no arrays)"
    return " to ".join(number(end, summary.unit) for end in found)


def ranked_among(view: View, row: Row, column: Column) -> str:
    """The rows that this one may be ranked among, and what they share; or what leaves it out of every comparison."""
    assert column.rank is not None
    return standing(view, row, column.rank)


def floored(view: View, row: Row, column: Column) -> str:
    """The value with its noise floor: `10.6 (floor 0.94)`."""
    text, beside = value(view, row, column), floor(view, row, column)
    return text if beside == EMPTY or text.startswith("NA") else f"{text} (floor {beside})"


def seeds(view: View, row: Row, column: Column) -> str:
    """The number of seeds of a row."""
    return str(len(row.records))


def warning(view: View, row: Row, column: Column) -> str:
    """What sets a row of mixed records apart from the newest ones; a dash where nothing is mixed."""
    return next((view.group.warnings[r.file_name] for r in row.records if r.file_name in view.group.warnings), EMPTY)


def preset(view: View, row: Row, column: Column) -> str:
    """The name of the generation preset of the column's block, and what sets it apart from the published one."""
    names = [name for r in row.records for block, name in r.blocks.items() if block == parse_key(column.key).block]
    return ", ".join(ONE_STACK.get(name, name) for name in dict.fromkeys(names)) or EMPTY


def flattened(view: View, row: Row, column: Column) -> str:
    """Whether the loss had flattened in every seed."""
    summary = summarize(row.records, column.key)
    if summary is None or summary.mean is None:
        return show(summary)
    if summary.mean == 1:
        return "flattened"
    done = round(summary.mean * summary.seeds)
    return f"not converged ({done} of {summary.seeds} flattened)" if done else "not converged"


def bound(view: View, row: Row, column: Column) -> str:
    """The name of the largest of three bounds, the column's key and its two siblings, and its share of their sum."""
    found = {
        name: summarize(row.records, column.key.replace("compute", name)) for name in ("compute", "weights", "launch")
    }
    means = {name: summary.mean for name, summary in found.items() if summary is not None and summary.mean is not None}
    if len(means) < 3:
        return show(found["compute"])
    name = max(means, key=lambda each: means[each])
    return f"{name} ({100 * means[name] / (sum(means.values()) or 1):.0f} %)"
