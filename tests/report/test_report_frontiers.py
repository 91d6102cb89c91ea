"""Quality against cost, from records."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.image import imread
from report_factory import file, measure, record

from tokbench.records import read_records
from tokbench.report.frontiers import COSTS, Point, draw_frontiers, frontier, frontiers, points, seeds_told
from tokbench.report.groups import group_records
from tokbench.report.view import View


def view_of(folder: Path, quality: dict[str, float]) -> View:
    for place, (name, value) in enumerate(quality.items(), 1):
        made = record(name)
        values = {
            "common/generation/fd_classifier": value,
            "common/cost/latency_seconds": 0.1 * place,
            "common/cost/throughput_images_per_second": 100.0 * place,
        }
        found = {key: measure(key, each) for key, each in values.items()}
        file(made.model_copy(update={"metrics": found, "blocks": {"common": "transfusion"}}), folder)
    (group,) = group_records(read_records(folder / "runs"))
    return View(group, folder / "runs")


def test_points_are_those_of_the_records_and_rates_become_milliseconds(tmp_path: Path) -> None:
    view = view_of(tmp_path, {"a": 9.0, "b": 5.0, "c": 7.0})
    by_name = {name: (label, scale) for name, label, scale in COSTS}
    one = points(view, "latency_seconds", by_name["latency_seconds"][1])
    many = points(view, "throughput_images_per_second", by_name["throughput_images_per_second"][1])
    assert [point.cost for point in one] == pytest.approx([100, 200, 300])
    assert [point.cost for point in many] == pytest.approx([10, 5, 10 / 3])
    assert points(view, "training_flops", float) == []
    assert frontier(one) == [(pytest.approx(100), 9.0), (pytest.approx(200), 5.0)]
    assert [quality for _, quality in frontier(many)] == [7.0, 5.0]  # the order has flipped


def test_the_frontier_leaves_out_what_another_beats_in_both() -> None:
    found = [("x", 1.0, 5.0), ("x", 1.0, 4.0), ("y", 2.0, 4.0), ("y", 3.0, 1.0), ("z", 4.0, 2.0)]
    assert frontier([Point("fsq", *values) for values in found]) == [(1.0, 4.0), (3.0, 1.0)]


def test_each_scheme_has_its_own_frontier_where_its_costs_differ() -> None:
    common = [Point(name, "transfusion", *values) for name, values in {"a": (1.0, 9.0), "b": (2.0, 5.0)}.items()]
    native = [Point("a", "chameleon", 1.5, 4.0), Point("b", "chameleon", 1.55, 2.0)]  # 3 % apart
    assert frontiers([*common, *native]) == [[(1.0, 9.0), (2.0, 5.0)]]


def test_the_seeds_behind_the_points_are_told() -> None:
    assert [seeds_told(counts) for counts in ({1}, {3}, {1, 2, 3})] == ["1 seed", "3 seeds", "1 to 3 seeds"]


def test_a_picture_has_a_panel_a_cost_and_needs_three_systems(tmp_path: Path) -> None:
    (path,) = draw_frontiers(view_of(tmp_path / "three", {"a": 9.0, "b": 5.0, "c": 7.0}), tmp_path)
    height, width = imread(path).shape[:2]
    assert width == pytest.approx(2 * 3 / 3.6 * height, rel=0.02)
    assert draw_frontiers(view_of(tmp_path / "two", {"a": 9.0, "b": 5.0}), tmp_path) == []
