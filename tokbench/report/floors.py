"""What the noise of an unpaired distance leaves open: within three noise floors nothing is decided, as nothing is ranked."""

from __future__ import annotations

from collections.abc import Sequence

from tokbench.records import parse_key
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


def noise_floor(row: Row, key: str) -> float | None:
    """Mean over seeds, in the measure's unit; of samples in few steps, whose own was not recorded, that of as many samples in
    all steps. None where none was measured.
    """
    block, _, group, short = parse_key(key)
    judge = "fd_classifier"
    keys = [key, f"{block}/generation/{judge}"] if group == "steps" and short.startswith(judge) else [key]
    found = (summarize(row.records, each) for each in keys)
    return next((abs(one.floor) for one in found if one is not None and one.floor is not None), None)
