"""What the noise of an unpaired distance leaves open: within three noise floors nothing is decided, as nothing is ranked."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean

from tokbench.records import parse_key
from tokbench.report.baselines import chance
from tokbench.report.rows import Row, mean_of, summarize

FLOORS = 3  # values and leads below so many noise floors are not ranked, and decide nothing
Side = tuple[Row, str]  # with the key of its measure


def within_floors(sides: Sequence[Side], effect: float, counts: float) -> str | None:
    """Why an `effect`, the distance of the first side less that of the second, is noise; None where it may decide.

    It is where both sides are within three floors (the larger of theirs) of 0, or where it is and three floors are more than
    what `counts`, so that an effect that counts could not be told from none. Measures without a floor may always decide.
    """
    floors = [floor for row, key in sides if (floor := noise_floor(row, key)) is not None]
    if not floors:
        return None
    margin = FLOORS * max(floors)
    means = [mean for row, key in sides if (mean := mean_of(row, key)) is not None]
    if max(means) <= margin:
        return f"both within {FLOORS} noise floors of 0, {margin:.2g}"
    return f"within {FLOORS} noise floors, {margin:.2g}" if abs(effect) <= margin and margin > counts else None


def at_chance(sides: Sequence[Side]) -> str | None:
    """Why accuracies decide nothing: all are those of guessing, to two standard errors; None of others, or of no known chance."""
    found = [[m for r in row.records if (m := r.metrics.get(key)) and m.value is not None] for row, key in sides]
    guessed = chance(measure for measures in found for measure in measures)
    if guessed is None or not all(found):
        return None
    for measures in found:
        count = sum(m.n or 0 for m in measures)
        error = sqrt(guessed * (1 - guessed) / count) if count else 0.0
        if fmean(m.value for m in measures if m.value is not None) > guessed + 2 * error:
            return None
    return f"both as good as guessing, {guessed:g}"


def noise_floor(row: Row, key: str) -> float | None:
    """Mean over seeds, in the measure's unit; of samples in few steps, whose own was not recorded, that of as many samples in
    all steps. None where none was measured.
    """
    block, _, group, short = parse_key(key)
    judge = "fd_classifier"
    keys = [key, f"{block}/generation/{judge}"] if group == "steps" and short.startswith(judge) else [key]
    found = (summarize(row.records, each) for each in keys)
    return next((abs(one.floor) for one in found if one is not None and one.floor is not None), None)
