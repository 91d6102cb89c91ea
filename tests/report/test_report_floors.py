"""Nothing within three noise floors decides a claim, as nothing within them is ranked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_factory import measure, swept

from tokbench.records import RunRecord
from tokbench.report.groups import Group
from tokbench.report.levels import enough
from tokbench.report.rules import Finding, signs
from tokbench.report.view import View

KEY = "common/generation/fd_classifier"
FEW, MANY = "common/steps/fd_classifier_ddim_10", "common/steps/fd_classifier_ddpm_100"
FLOOR = 0.3


def run(name: str, seed: int, values: dict[str, float], floor: float | None = FLOOR, *, own: bool = True) -> RunRecord:
    """A run with these distances, each with the floor, or only that of all samples."""
    floors = {key: floor if own or key == KEY else None for key in values}
    made = {
        key: measure(key, value + 0.001 * seed * (name == "vq"), floor=floors[key]) for key, value in values.items()
    }
    return swept(name, 1000, seed, metrics=made)


def compared(
    first: float, second: float, expected: str, floor: float | None = FLOOR, *, counts: float = 0.5
) -> Finding:
    records = [
        run(name, seed, {KEY: value}, floor) for name, value in (("vq", first), ("fsq", second)) for seed in range(3)
    ]
    pair = {"label": "vq - fsq", "first": "vq", "second": "fsq", "expected": expected}
    (found,) = signs(View(Group("made", records), Path()), KEY, counts, pairs=[pair])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("first", "second", "expected", "agrees"),
    [
        (8.0, 9.0, "below", True),
        (8.0, 9.0, "above", False),
        (8.0, 9.0, "no change", False),
        (8.0, 8.8, "below", None),  # apart by less than 0.9
        (8.0, 8.8, "above", None),
        (8.0, 8.0, "no change", None),  # an effect of 0.5 could not be told
        (8.0, 8.0, "not below", None),
        (0.2, 0.9, "below", None),
        (0.2, 9.0, "below", True),  # one of them is within the noise, their difference is not
    ],
)
def test_a_difference_within_three_floors_decides_nothing(
    first: float, second: float, expected: str, agrees: bool | None
) -> None:
    found = compared(first, second, expected)
    assert found.agrees is agrees
    told = {True: "yes", False: "no", None: "cannot decide (within 3 noise floors, 0.9)"}[agrees]
    assert found.word.startswith(told)


def test_what_counts_beyond_three_floors_can_be_absent() -> None:
    assert compared(8.0, 8.0, "no change", counts=1.0).agrees is True
    assert compared(8.0, 8.0, "above", counts=1.0).agrees is False
    assert compared(0.5, 0.5, "no change", counts=1.0).word == "cannot decide (both within 3 noise floors of 0, 0.9)"


def test_a_measure_without_a_floor_decides_as_it_did() -> None:
    assert compared(8.0, 8.8, "below", None).agrees is True


@pytest.mark.parametrize("own", [True, False], ids=["own floor", "floor of all samples"])
@pytest.mark.parametrize(
    ("few", "many", "agrees"),
    [(8.0, 9.0, True), (12.0, 10.0, False), (10.0, 10.0, None), (30.0, 30.0, True), (31.0, 30.0, True)],
)
def test_few_steps_are_not_enough_within_three_floors(few: float, many: float, agrees: bool | None, own: bool) -> None:
    """5 % of 30 are more than the three floors of 0.9, 5 % of 10 are fewer."""
    records = [run("vq", seed, {KEY: 9.0, FEW: few, MANY: many + 0.1 * seed}, own=own) for seed in range(3)]
    side = {"label": "ten", "row": "vq", "few": FEW}
    (found,) = enough(View(Group("made", records), Path()), MANY, 5.0, rows=[side])
    assert found is not None
    assert found.agrees is agrees
    if (few, many) == (10.0, 10.0):
        assert found.word == "cannot decide (within 3 noise floors, 0.9)"


def test_few_seeds_are_not_called_noise() -> None:
    records = [run(name, 0, {KEY: value}) for name, value in (("vq", 8.0), ("fsq", 9.0))]
    pair = {"label": "vq - fsq", "first": "vq", "second": "fsq", "expected": "below"}
    (found,) = signs(View(Group("made", records), Path()), KEY, 0.5, pairs=[pair])
    assert found is not None
    assert found.word == "cannot decide"


@pytest.mark.parametrize(
    ("first", "second", "chance", "word"),
    [
        (0.481, 0.5, 0.5, "cannot decide (both as good as guessing, 0.5)"),
        (0.481, 0.6, 0.5, "no (the other way)"),
        (0.481, 0.5, None, "no (the other way)"),
        (0.12, 0.18, 0.167, "cannot decide (both as good as guessing, 0.167)"),
    ],
)
def test_accuracies_of_guessing_decide_nothing(first: float, second: float, chance: float | None, word: str) -> None:
    key = "common/understanding/same_different_accuracy"
    told = "share of pairs" + (f"; chance: {chance:g}" if chance else "")

    def made(name: str, seed: int, value: float) -> RunRecord:
        return swept(name, 1000, seed, metrics={key: replace(measure(key, value), n=1000, protocol=told)})

    values = {"vq": first, "fsq": second}
    records = [
        made(name, seed, value + 0.001 * seed * (name == "vq")) for name, value in values.items() for seed in range(3)
    ]
    pair = {"label": "vq - fsq", "first": "vq", "second": "fsq", "expected": "above"}
    (found,) = signs(View(Group("made", records), Path()), key, 0.02, pairs=[pair])
    assert found is not None
    assert found.word == word
