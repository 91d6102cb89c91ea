"""Only rows of one matched budget are ranked, and a table says what leaves the others out."""

from __future__ import annotations

from typing import Any

import pytest
from report_factory import measure, record

from tokbench.records import RunRecord
from tokbench.report.columns import Column, value
from tokbench.report.groups import group_records
from tokbench.report.layouts import Layout
from tokbench.report.peers import Peers, peer_groups, standing
from tokbench.report.protocol import protocol_hash
from tokbench.report.ranking import seed_gaps, winners
from tokbench.report.rows import timed_in
from tokbench.report.tables import MACHINES, table
from tokbench.report.view import View

BUDGET: dict[str, Any] = {
    "precision": "32-true",
    "images": {"train": 20000},
    "tokenizer": {"steps": 600, "batch": 64, "width": 96, "depth": 1, "lr": 0.002},
}


def run(name: str, seed: int = 0, *, values: dict[str, float] | None = None, **budget: Any) -> RunRecord:
    made = record(name, seed, ranked=True)
    tokenizer = {key: budget.pop(key) for key in list(budget) if key in BUDGET["tokenizer"]}
    whole = BUDGET | budget | {"tokenizer": BUDGET["tokenizer"] | tokenizer}
    known = {key: measure(key, value, floor=0.1) for key, value in (values or {}).items()}
    config = made.config | {"budget": whole, "tokenizer": {"factor": 4}}
    return made.model_copy(update={"config": config, "metrics": made.metrics | known})


def view(records: list[RunRecord]) -> View:
    (group,) = group_records(records)
    return View(group, folder=None)  # type: ignore[arg-type]


def names(found: View, peers: Peers) -> list[set[str]]:
    return [{row.label for row in rows} for rows in peer_groups(found, peers)]


@pytest.mark.parametrize(
    "budget", [{"steps": 6000}, {"width": 192}, {"batch": 128}, {"depth": 2}, {"images": {"train": 50000}}]
)
def test_a_tokenizer_of_another_training_budget_is_not_ranked_beside_the_rest(budget: dict[str, Any]) -> None:
    found = view([run("fsq"), run("vq"), run("vq_tuned", **budget)])
    assert names(found, "equal bits") == [{"fsq", "vq"}, {"vq_tuned"}]
    told = {row.label: standing(found, row, "equal bits") for row in found.rows}
    assert told["fsq"] == "2 rows of 638 bits"
    assert told["vq_tuned"].startswith("none: budget.")
    assert ", not " in told["vq_tuned"]


def test_the_learning_rate_is_part_of_a_recipe() -> None:
    assert names(view([run("fsq"), run("vq", lr=0.01)]), "equal bits") == [{"fsq", "vq"}]


def test_rows_of_other_bits_or_none_stand_alone() -> None:
    bits = {"bits/nominal_bits_per_image": 768.0}
    found = view([run("fsq"), run("vq"), run("lfq", values=bits), run("continuous_4")])
    told = {row.label: standing(found, row, "equal bits") for row in found.rows}
    assert told["lfq"] == "none: 768 bits, not 638 bits"
    assert told["continuous_4"] == "none: no nominal bits"


def test_generation_is_compared_at_equal_tokens_and_flops() -> None:
    dear = {"common/cost/training_flops": 6.4e14}
    found = view([run("fsq"), run("vq"), run("pixels", values={"bits/tokens": 768.0}), run("patches", values=dear)])
    assert names(found, "all") == [{"fsq", "vq"}, {"patches"}, {"pixels"}]
    told = {row.label: standing(found, row, "all") for row in found.rows}
    assert told["fsq"] == "2 rows of 64 tokens, 560 T FLOPs"
    assert told["pixels"] == "none: tokens 768.0, not 64.0"
    assert told["patches"] == "none: 640 T FLOPs, not 560 T FLOPs"


def test_a_row_that_alone_has_the_common_scheme_is_not_compared_to_flops_that_were_never_spent() -> None:
    other = run("vq", steps=700)
    native = {key: value for key, value in other.metrics.items() if not key.startswith("common/")}
    found = view([run("fsq"), other.model_copy(update={"metrics": native})])
    told = {row.label: standing(found, row, "all") for row in found.rows}
    assert told == {"fsq": "none: no other row in its scheme", "vq": "none: no other row in its scheme"}


def test_runs_in_other_numbers_never_share_a_table() -> None:
    exact, rough = run("fsq"), run("vq", precision="bf16-mixed")
    assert [len(group.records) for group in group_records([exact, rough])] == [1, 1]
    assert protocol_hash([exact]) != protocol_hash([rough])
    assert protocol_hash([exact]) == protocol_hash([exact, exact])


@pytest.mark.parametrize(("noise", "leads"), [(0.0, True), (4.0, False)])
def test_a_distance_leads_only_where_its_seeds_agree(noise: float, leads: bool) -> None:
    """Means 5 and 10, floors of 0.1: far apart for images, but seeds that scatter by 4 make no order."""
    key = "reconstruction/fd_classifier"
    drift = (-noise, 0.0, noise)
    runs = [run("fsq", seed, values={key: 5.0 + drift[seed]}) for seed in range(3)]
    runs += [run("vq", seed, values={key: 10.0}) for seed in range(3)]
    assert winners(view(runs), key, peers="equal bits", array=None) == ({"fsq"} if leads else set())


def test_times_are_subtracted_within_one_checkout_and_number_of_threads() -> None:
    """The same model took .068 and .177 s an image on two machines: across them a difference says nothing of the models."""
    key = "common/cost/latency_seconds"
    made = {"fsq": [("a", 1), ("b", 1), ("d", 1)], "vq": [("a", 1), ("c", 1), ("d", 2)]}
    runs = [
        (made_by := run(name, seed, values={key: 1.0 + seed})).model_copy(
            update={"environment": made_by.environment | {"checkout": checkout, "threads": threads}}
        )
        for name, places in made.items()
        for seed, (checkout, threads) in enumerate(places)
    ]
    found = view(runs)
    first, second = found.rows
    assert seed_gaps(first, second, key).tolist() == [0.0]
    assert len(seed_gaps(first, second, "reconstruction/ssim")) == 3
    assert len(timed_in(found.rows, [key, "reconstruction/ssim"])) == 5
    costs = table(found, Layout("Cost", (Column("latency", key, value),)))
    assert MACHINES.format(5) in costs
    assert not timed_in(found.rows, ["reconstruction/ssim"])
