"""An experiment's runs on a page of their own, and what stays on the page of everything."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from report_factory import file, measure, metrics, record

from tokbench.records import RunRecord
from tokbench.report.build import build_from_views
from tokbench.report.experiments import own_views, plain_views, read_experiments, remember
from tokbench.report.headline import headline
from tokbench.report.ranking import winners
from tokbench.report.view import read_views


def varied(name: str, seed: int, settings: Mapping[str, object], **changes: object) -> RunRecord:
    made = record(name, seed, ranked=True)
    told = f"{sum(map(ord, str(settings) + name)) * 10 + seed:08x}"
    return made.model_copy(update={"config": made.config | settings, "hash": told, **changes})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three tokenizers as usual, one with three positions, which an experiment asked for, and one changed by hand."""
    for name in ("fsq", "vq", "vq_tuned"):
        file(record(name, ranked=True), tmp_path)
    made = [varied("fsq", 0, {"backbone": {"positions": positions}}) for positions in ("rope1d", "rope2d", "none")]
    for one in made:
        file(one, tmp_path)
    remember(tmp_path, "positions", [one.file_name for one in made])
    file(varied("fsq", 0, {"backbone": {"width": 256}}), tmp_path)
    return tmp_path


def test_an_experiment_has_its_own_page_whose_rows_say_what_it_varied(results: Path) -> None:
    build_from_views(results)
    own, plain = ((results / f"{stem}.md").read_text() for stem in ("cifar10-cpu-positions", "cifar10-cpu"))
    assert all(f"| fsq (positions={positions})" in own for positions in ("rope1d", "rope2d", "none"))
    assert "positions=" not in plain
    assert "width=256" in plain  # what was run by hand stays
    assert "vq_tuned" not in own
    assert (results / "cifar10-cpu-positions-samples.png").exists()
    assert not (results / "cifar10-cpu-positions-reconstruction.png").exists()


def test_all_records_stay_in_the_table_of_the_group_and_in_the_index(results: Path) -> None:
    build_from_views(results)
    table = (results / "cifar10-cpu.csv").read_text()
    assert all(path.stem[-8:] in table for path in (results / "runs").glob("*.json"))
    assert "cifar10-cpu-positions" in (results / "README.md").read_text()


def test_an_experiment_over_tokenizers_alone_has_no_second_page(results: Path) -> None:
    files = [record(name, ranked=True).file_name for name in ("fsq", "vq", "vq_tuned")]
    remember(results, "tokenizers", files)
    views = build_from_views(results).views
    assert not (results / "cifar10-cpu-tokenizers.md").exists()
    assert "vq_tuned" in headline(views, ["tokenizers"])
    assert "width=256" not in headline(views, ["tokenizers"])


def test_a_list_grows_and_what_is_none_is_empty(tmp_path: Path) -> None:
    path = remember(tmp_path, "a", ["y.json", "x.json"])
    remember(tmp_path, "a", ["z.json", "x.json"])
    assert json.loads(path.read_text()) == ["x.json", "y.json", "z.json"]
    path.with_name("b.json").write_text('{"x": ')
    path.with_name("c.json").write_text('{"x": 1}')
    assert read_experiments(tmp_path) == {
        "a": frozenset({"x.json", "y.json", "z.json"}),
        "b": frozenset(),
        "c": frozenset(),
    }


def test_no_lists_change_nothing(results: Path) -> None:
    views = read_views(results)
    assert own_views(views, {}) == []
    assert [len(view.group.records) for view in plain_views(views, {})] == [7]


@pytest.mark.parametrize("same", [True, False])
def test_generation_is_ranked_among_tokenizers_of_one_backbone_and_budget(tmp_path: Path, same: bool) -> None:
    key = "common/generation/fd_classifier"
    for name, value in (("fsq", 10.0), ("vq", 100.0)):
        for seed in range(3):
            changed = metrics(name, seed) | {key: measure(key, value, floor=0.1)}
            width = 128 if same or name == "fsq" else 256
            file(varied(name, seed, {"backbone": {"width": width}}, metrics=changed), tmp_path, with_arrays=False)
    (view,) = read_views(tmp_path)
    assert winners(view, key, peers="all", array=None) == ({"fsq"} if same else set())


def test_a_page_has_tables_of_other_shapes_and_steps_where_runs_measured_them(tmp_path: Path) -> None:
    keys = "native/shapes/image_bits_per_token_2x2", "native/steps/fd_classifier_rounds_4"
    more = metrics("fsq", 0) | {key: measure(key, 7.25) for key in keys}
    file(record("fsq", ranked=True, metrics=more), tmp_path)
    file(record("fsq"), tmp_path)
    build_from_views(tmp_path)
    with_them, without = ((tmp_path / f"{stem}.md").read_text() for stem in ("cifar10-cpu", "photos32-cpu"))
    for title, cell in (
        ("Images of other shapes", "image, 2x2 (bits/token)"),
        ("One model over its steps", "rounds 4"),
    ):
        assert title in with_them
        assert cell in with_them
        assert title not in without
    (line,) = [
        line for line in with_them.splitlines() if "| rounds " in line
    ]  # of all numbers of steps the one that was run
    assert re.fullmatch(r"\| fsq +\| +rounds 4 \| +7\.25 \|", line)


def test_where_only_experiments_have_the_newest_runs_the_older_group_stays_the_headline(tmp_path: Path) -> None:
    for name in ("fsq", "vq"):
        file(record(name, ranked=True, environment={"fd_classifier_weights_sha256": "old"}), tmp_path)
    new = {"environment": {"fd_classifier_weights_sha256": "new"}, "created": "2025-06-01T00:00:00+00:00"}
    made = [varied("fsq", 0, {"backbone": {"positions": p}}, blocks={"native": "chameleon"}, **new) for p in "ab"]
    for one in made:
        file(one, tmp_path)
    remember(tmp_path, "positions", [one.file_name for one in made])
    views = build_from_views(tmp_path).views
    assert "| vq " in headline(views)
    assert "positions" not in headline(views)
    assert (tmp_path / "cifar10-cpu-positions.md").exists()
    assert not (tmp_path / "cifar10-cpu.md").exists()
