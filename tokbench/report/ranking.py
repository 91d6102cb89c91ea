"""When a best value may be called so: never on few seeds, on a demonstration, or within the noise."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from tokbench.metrics.standard import FEATURES
from tokbench.metrics.statistics import students_difference
from tokbench.records import parse_key
from tokbench.report.definitions import direction
from tokbench.report.floors import FLOORS, noise_floor
from tokbench.report.formatting import listed
from tokbench.report.peers import Peers, peer_groups
from tokbench.report.rows import Row, mean_of, setting_of
from tokbench.report.view import LEVEL, View

MIN_SEEDS = 3


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


def winners(view: View, key: str, *, peers: Peers, array: str | None) -> set[str]:
    """Labels of the rows that lead their peers (`peer_groups`).

    A lead counts where the paired interval of the per-image array leaves out 0, or, without an array, where both the value
    and its distance to the next exceed three noise floors and Student's interval over the seeds in common leaves out 0. No
    lead, no winner.
    """
    asked = (key, peers, array)
    if asked not in view.winners:
        view.winners[asked] = _winners(view, *asked)
    return view.winners[asked]


def _winners(view: View, key: str, peers: Peers, array: str | None) -> set[str]:
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


def _leader(view: View, key: str, rows: Sequence[Row], way: str, array: str | None) -> str | None:
    found = [(mean, row) for row in rows if (mean := mean_of(row, key, seeds=MIN_SEEDS)) is not None]
    if len(found) < 2:
        return None
    found.sort(key=lambda pair: pair[0], reverse=way == "up")
    (first, best), *others = found
    means = [mean for row in rows if (mean := mean_of(row, key)) is not None]
    if first != (max(means) if way == "up" else min(means)):
        return None  # a row of fewer seeds looks better
    if array is not None:
        view.sample([row for _, row in found], array)
        leads = all(_separable(view, best, row, array) for _, row in others)
    else:
        floors = [inf if (floor := noise_floor(row, key)) is None else floor for _, row in found]
        margin = FLOORS * max(floors)
        clear = abs(first - others[0][0]) > margin and (way == "up" or first > margin)
        leads = clear and all(separable_by_seeds(best, row, key) for _, row in others)
    return best.label if leads else None


def _separable(view: View, row: Row, other: Row, array: str) -> bool:
    found = view.difference(row, other, array)
    return found is not None and found[0].separable


def separable_by_seeds(row: Row, other: Row, key: str) -> bool:
    """Whether Student's 95 % interval of the mean gap between seeds in common leaves out 0; never of a single seed."""
    gaps = seed_gaps(row, other, key)
    return len(gaps) > 1 and students_difference(gaps, level=LEVEL).separable


def seed_gaps(row: Row, other: Row, key: str) -> np.ndarray:
    """(S,) values of a measure of the one row minus those of the other, over the seeds that have both.

    Times are compared within one checkout and number of threads: one model timed on two machines may differ more than two on one.
    """
    mine, theirs = seed_values(row, key), seed_values(other, key)
    return np.array([mine[taken] - theirs[taken] for taken in mine if taken in theirs])


def seed_values(row: Row, key: str) -> dict[tuple[int, str | None], float]:
    """The measure of each run that has it, by seed and, of times, the setting that took it."""
    by_seed = {(r.seed, setting_of(r, m)): m.value for r in row.records if (m := r.metrics.get(key))}
    return {taken: value for taken, value in by_seed.items() if value is not None}
