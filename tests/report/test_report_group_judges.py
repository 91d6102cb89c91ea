"""Tables never mix two judges; where only a few measures are of one, the rest of the run still counts."""

from __future__ import annotations

import pytest
from report_factory import measure, record

from tokbench.records import RunRecord
from tokbench.report.groups import group_records
from tokbench.report.judges import ANOTHER

KEYS = ("reconstruction/psnr_db", "reconstruction/fd_classifier", "baseline/real/reconstruction/fd_classifier")


def run(seed: int, weights: str, *, stage: str, day: int = 1) -> RunRecord:
    made = record("fsq", seed, metrics={key: measure(key, 10.0) for key in KEYS}, ranked=True)
    environment = {"fd_classifier_weights_sha256": weights, "fd_random64_weights_sha256": "same"}
    return made.model_copy(
        update={"environment": environment, "stage": stage, "created": f"2026-01-{day:02}T00:00:00+00:00"}
    )


@pytest.mark.parametrize("stage", ["tokenizer", "bits"])
def test_another_judges_distances_are_left_out_and_the_rest_of_its_runs_counts(stage: str) -> None:
    found = [run(0, "a", stage=stage), run(1, "a", stage=stage), run(2, "b", stage=stage, day=2)]
    (group,) = group_records(found)
    by_seed = {made.seed: made.metrics for made in group.records}
    assert all(by_seed[2][key].reason == ANOTHER for key in KEYS[1:])
    assert all(by_seed[seed][key].value == 10.0 for seed in (0, 1) for key in KEYS)
    assert by_seed[2][KEYS[0]].value == 10.0
    assert found[2].metrics[KEYS[1]].value == 10.0  # the record itself stays as it is


def test_of_as_many_runs_the_newer_judge_stays() -> None:
    (group,) = group_records([run(0, "a", stage="bits", day=2), run(1, "b", stage="bits", day=1)])
    assert {made.seed for made in group.records if made.metrics[KEYS[1]].value is not None} == {0}


def test_runs_that_generate_share_their_judges_and_others_go_where_theirs_are() -> None:
    found = [run(0, "a", stage="all"), run(1, "b", stage="all", day=3), run(2, "a", stage="bits", day=2)]
    new, old = group_records(found)
    assert [made.seed for made in new.records] == [1]
    assert [made.seed for made in old.records] == [2, 0]
    assert all(made.metrics[KEYS[1]].value == 10.0 for made in old.records)


@pytest.mark.parametrize("judge", ["reader", "checker"])
def test_runs_that_were_read_or_checked_by_different_networks_are_not_compared(judge: str) -> None:
    """Their answers are arrays, of which intervals are made, and a missing measure would not take those away."""
    key = f"{judge}_weights_sha256"
    read = [run(seed, "a", stage="bits") for seed in (0, 1)]
    for made, weights in zip(read, ("x", "y"), strict=True):
        made.environment[key] = weights
    assert [len(group.records) for group in group_records(read)] == [1, 1]
