"""When a best value may be called so: never on few seeds, on a demonstration, or within the noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tokbench.metrics.standard import FEATURES
from tokbench.records import parse_key
from tokbench.report.definitions import direction
from tokbench.report.formatting import listed
from tokbench.report.groups import surroundings
from tokbench.report.rows import NOMINAL_BITS, Row, summarize
from tokbench.report.view import View

MIN_SEEDS = 3
FLOORS = 3  # values and leads below so many noise floors are not ranked
BITS_TOLERANCE = 0.01  # of nominal bits, within which rows count as equal


def why_unranked(view: View) -> str | None:
    """The reason that no table of this group ranks, or that some of its rows do not; None where all may."""
    if not view.group.ranked:
        return "Not ranked: the data are a demonstration."
    few = dict.fromkeys(row.records[0].name for row in view.rows if len(row.records) < MIN_SEEDS)
    if not few:
        return None
    if not _may_rank(view):
        return f"Not ranked: fewer than three seeds ({listed(list(few))})."
    return f"Some rows have fewer than three seeds: they never lead, and take the lead from a worse one ({listed(list(few))})."


def _may_rank(view: View) -> bool:
    return view.group.ranked and any(len(row.records) >= MIN_SEEDS for row in view.rows)


def winners(view: View, key: str, *, peers: str, array: str | None) -> set[str]:
    """Labels of the rows that lead their peers: those of one backbone and budget, or of equal nominal bits in one autoencoder.

    A lead counts where the paired interval of the per-image array leaves out 0, or, without an array, where both the
    value and its distance to the next exceed three noise floors. No lead, no winner.
    """
    asked = (key, peers, array)
    if asked not in view.winners:
        view.winners[asked] = _winners(view, *asked)
    return view.winners[asked]


def _winners(view: View, key: str, peers: str, array: str | None) -> set[str]:
    way = direction(key)
    if way is None or not _may_rank(view):
        return set()
    allowed = [[row for row in rows if trained_on(row, key) is None] for rows in peer_groups(view, peers)]
    return {best for rows in allowed if (best := _leader(view, key, rows, way, array)) is not None}


def trained_on(row: Row, key: str) -> str | None:
    """The network behind a measure's features where the row's training loss was computed on them too: it does not rank."""
    network = FEATURES.get(parse_key(key).short)
    used = (record.environment.get("trained_on_features") for record in row.records)
    return network if any(isinstance(names, list) and network in names for names in used) else None


def peer_groups(view: View, peers: str) -> list[list[Row]]:
    """Rows that differ in the tokenizer alone, or discrete rows by equal nominal bits (1 %) in one autoencoder and loss."""
    if peers == "all":
        alike: dict[str, list[Row]] = defaultdict(list)
        for row in view.rows:
            alike[surroundings(row.records[0])].append(row)
        return list(alike.values())
    groups: list[tuple[float, object, list[Row]]] = []
    for row in view.rows:
        bits = _mean(row, NOMINAL_BITS, seeds=1)
        if bits is None:
            continue  # continuous: no row has as many bits
        around = tuple(row.records[0].config.get(part) for part in ("tokenizer", "loss"))
        same = (
            rows for first, other, rows in groups if abs(bits - first) <= BITS_TOLERANCE * first and other == around
        )
        home = next(same, None)
        if home is None:
            groups.append((bits, around, [row]))
        else:
            home.append(row)
    return [rows for *_, rows in groups]


def _mean(row: Row, key: str, *, seeds: int) -> float | None:
    """The mean over seeds; None where fewer than so many have a value."""
    summary = summarize(row.records, key)
    return None if summary is None or summary.seeds < seeds else summary.mean


def _leader(view: View, key: str, rows: Sequence[Row], way: str, array: str | None) -> str | None:
    found = [(mean, row) for row in rows if (mean := _mean(row, key, seeds=MIN_SEEDS)) is not None]
    if len(found) < 2:
        return None
    found.sort(key=lambda pair: pair[0], reverse=way == "up")
    (first, best), *others = found
    means = [mean for row in rows if (mean := _mean(row, key, seeds=1)) is not None]
    if first != (max(means) if way == "up" else min(means)):
        return None  # a row of fewer seeds looks better
    if array is not None:
        view.sample([row for _, row in found], array)
        leads = all(_separable(view, best, row, array) for _, row in others)
    else:
        margin = FLOORS * max(_floor(view, row, key) for _, row in found)
        leads = abs(first - others[0][0]) > margin and (way == "up" or first > margin)
    return best.label if leads else None


def _separable(view: View, row: Row, other: Row, array: str) -> bool:
    found = view.difference(row, other, array)
    return found is not None and found[0].separable


def _floor(view: View, row: Row, key: str) -> float:
    """The noise floor; infinite where none was measured."""
    summary = summarize(row.records, key)
    return float("inf") if summary is None or summary.floor is None else abs(summary.floor)
