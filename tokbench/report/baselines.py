"""What is reached without a tokenizer or a model: a row must beat it to say anything of its tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from tokbench.records import Measure
from tokbench.report.view import View


class Trivial(NamedTuple):
    """A value to beat, in the record's unit, and what reaches it."""

    value: float
    by: str


BY = {  # measure of a run: the baseline to beat, and its name
    "reconstruction/psnr_db": ("mean_colour", "the mean colour"),
    "reconstruction/caption_shown": ("mean_colour", "the mean colour"),
    "common/understanding/caption_accuracy": ("colour_only", "colour alone"),
}
EXACTNESS = "common/understanding/caption_exactness"  # which tells its chance
GUESSING = "guessing"


def trivial(view: View, key: str) -> Trivial | None:
    """What a row of the group must beat in a measure; None where no such baseline is recorded."""
    if key in BY:
        name, by = BY[key]
        found = view.baseline(name, key)
        return None if found is None or found.mean is None else Trivial(found.mean, by)
    guessed = chance(record.metrics[key] for record in view.group.records if key in record.metrics)
    return None if guessed is None else Trivial(guessed, GUESSING)


def chance(measures: Iterable[Measure]) -> float | None:
    """The share that guessing reaches, which a measure tells in its protocol as "chance: 0.5"; None where none is told."""
    told = (re.search(r"chance: ([\d.]+)", measure.protocol) for measure in measures)
    return next((float(found[1]) for found in told if found), None)
