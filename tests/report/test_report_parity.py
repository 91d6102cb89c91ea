"""The rule of FLOP parity finds a known ratio in records, whatever way FLOPs are counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from report_factory import file, measure, record

from tokbench.metrics.parity import Parity
from tokbench.records import read_records
from tokbench.report.groups import group_records
from tokbench.report.parity import EXTRAPOLATED, OR_LESS, OR_MORE, WAYS, _agrees, parity, points_of
from tokbench.report.view import View

KEY = "native/generation/fd_classifier"
PAIR = {"label": "a / b", "first": {"name": "a"}, "second": {"name": "b"}, "expected": "below"}


def write(
    folder: Path,
    name: str,
    scale: float,
    *,
    seeds: int = 3,
    slope: float = -0.3,
    levels: Sequence[float] = (),
    spread: float = 0.001,
) -> None:
    """Runs that need `scale` times the FLOPs of their kind for the same distance; counts differ by constants in between."""
    for size, flops in enumerate((1e12, 1e13, 1e14)):
        for seed in range(seeds):
            values = {
                KEY: (levels[size] if levels else 50 * (flops / scale / 1e12) ** slope) * (1 + spread * (seed % 2)),
                "native/cost/training_flops_proxy": flops,
                "native/cost/training_flops": 1.5 * flops,
                "cost/tokenizer_training_flops": 1e12,
            }
            made = record(name, seed, metrics={key: measure(key, value) for key, value in values.items()})
            config = {**made.config, "budget": {"backbone": {"width": 32 * 2**size}}}
            file(made.model_copy(update={"config": config, "hash": f"{size}{made.hash[1:]}"}), folder)


def found(folder: Path, **changes: object) -> list:
    (group,) = group_records(read_records(folder / "runs"))
    return parity(View(group, folder / "runs"), KEY, 0.1, pairs=[{**PAIR, **changes}])


def test_a_known_ratio_supports_or_contradicts(tmp_path: Path) -> None:
    write(tmp_path, "a", 0.25)
    write(tmp_path, "b", 1.0)
    findings = found(tmp_path)
    assert [finding.label for finding in findings] == [f"a / b, FLOPs {how}" for how in WAYS]
    for finding in findings[:2]:
        assert float(finding.effect) == pytest.approx(0.25, rel=0.01)
        assert (finding.seeds, finding.agrees, finding.unit) == (3, True, "ratio")
    assert 0.2 < float(findings[2].effect) < 0.35
    assert findings[2].effect != findings[1].effect
    turned = found(tmp_path, first=PAIR["second"], second=PAIR["first"])
    assert [finding.agrees for finding in turned] == [False] * 3
    assert turned[0].effect == "4 (at the first's largest)"


def test_a_side_whose_largest_flops_do_worse_than_the_others_smallest_has_a_bound(tmp_path: Path) -> None:
    write(tmp_path, "a", 1000.0)
    write(tmp_path, "b", 1.0)
    more, less = found(tmp_path), found(tmp_path, first={"name": "b"}, second={"name": "a"})
    assert (more[0].effect, more[0].agrees) == ("100 or more", False)
    assert (less[0].effect, less[0].agrees) == ("0.01 or less", True)


def test_a_bound_rests_on_runs_not_on_the_ends_of_lines(tmp_path: Path) -> None:
    """The line of a ends at 3.7 and that of b starts at 2.9, but what was measured there is 3.0 and 3.5."""
    write(tmp_path, "a", 1.0, levels=(10.0, 9.9, 3.0))
    write(tmp_path, "b", 1.0, levels=(3.5, 1.0, 0.9))
    assert found(tmp_path)[0].effect == "10 or more"


def test_a_bound_is_read_where_the_seeds_separate_the_runs(tmp_path: Path) -> None:
    """b's fewest FLOPs do better than a's most by less than the seeds differ; its next ones do by far: 10 times, not 100."""
    write(tmp_path, "a", 1.0, levels=(10.0, 9.0, 8.0), spread=0.02)
    write(tmp_path, "b", 1.0, levels=(7.9, 4.0, 2.0), spread=0.02)
    more, less = found(tmp_path), found(tmp_path, first={"name": "b"}, second={"name": "a"})
    assert (more[0].effect, more[0].interval, more[0].agrees) == ("10 or more", "a bound", False)
    assert (less[0].effect, less[0].interval, less[0].agrees) == ("0.1 or less", "a bound", True)


@pytest.mark.parametrize(
    ("scale", "expected", "counts", "vote"),
    [
        (1000.0, "below", 0.1, False),  # "100 or more"
        (1000.0, "above", 0.1, True),
        (1000.0, "above", 150.0, None),  # what counts may be there or not
        (0.001, "below", 0.1, True),  # "0.01 or less"
        (0.001, "above", 0.1, False),
    ],
)
def test_a_bound_votes_where_all_that_it_leaves_open_votes_alike(
    tmp_path: Path, scale: float, expected: str, counts: float, vote: bool | None
) -> None:
    write(tmp_path, "a", scale)
    write(tmp_path, "b", 1.0)
    (group,) = group_records(read_records(tmp_path / "runs"))
    view = View(group, tmp_path / "runs")
    assert parity(view, KEY, counts, pairs=[{**PAIR, "expected": expected}])[0].agrees is vote


def test_a_bound_on_the_wrong_side_of_one_decides_nothing() -> None:
    for low, high, where, expected in ((0.0, 5.0, OR_LESS, "above"), (0.2, math.inf, OR_MORE, "below")):
        assert _agrees(Parity(5.0, low, high, extrapolated=False), where, expected, 0.1) is None


def test_resamples_do_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    write(tmp_path, "a", 1.0)
    (group,) = group_records(read_records(tmp_path / "runs"))
    points, seeds = points_of(View(group, tmp_path / "runs"), KEY, {"name": "a"}, WAYS[0])
    assert (len(points), seeds) == (9, 3)
    assert points == sorted(points)


def test_curves_that_are_no_lines_decide_nothing(tmp_path: Path) -> None:
    """Falling steeply, then flat: what the second's line reaches at its largest FLOPs no run of either side does."""
    write(tmp_path, "a", 1.0, levels=(3.0, 0.60, 0.59))
    write(tmp_path, "b", 1.0, levels=(3.0, 0.70, 0.69))
    assert [(f.effect.endswith(EXTRAPOLATED), f.agrees) for f in found(tmp_path)] == [(True, None)] * 3


def test_few_seeds_one_size_or_opposite_slopes_decide_nothing(tmp_path: Path) -> None:
    write(tmp_path / "few", "a", 0.25, seeds=2)
    write(tmp_path / "few", "b", 1.0, seeds=2)
    assert [finding.agrees for finding in found(tmp_path / "few")] == [None] * 3
    assert found(tmp_path / "few", first={"name": "absent"}) == [None] * 3
    write(tmp_path / "odd", "a", 0.25, slope=0.3)
    write(tmp_path / "odd", "b", 1.0)
    assert [(finding.effect, finding.agrees) for finding in found(tmp_path / "odd")] == [("none", None)] * 3


def test_a_side_can_be_another_block(tmp_path: Path) -> None:
    write(tmp_path, "a", 0.25)
    write(tmp_path, "b", 1.0)
    assert found(tmp_path, first={"name": "a", "block": "common"}) == [None] * 3
