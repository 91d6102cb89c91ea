"""Differences to the leader of a comparison, and when they may be called so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_factory import file, measure, record, swept, swept_arrays
from scipy import stats

from tokbench.records import RunRecord, read_records
from tokbench.report.differences import differences, permutation_p
from tokbench.report.groups import group_records
from tokbench.report.view import View


def view(folder: Path) -> View:
    (group,) = group_records(read_records(folder / "runs"))
    return View(group, folder / "runs")


def moved(record: RunRecord, psnr_db: float, noise: float = 0.5) -> dict[str, Any]:
    kept = swept_arrays(record)
    rng = np.random.default_rng(int(record.hash, 16))
    values = psnr_db + rng.normal(0, noise, len(kept["psnr_db"]))
    return kept | {"psnr_db": values.astype(np.float32)}


def lines_of(folder: Path, measure: str = "PSNR") -> list[list[str]]:
    _, found = differences(view(folder))
    text = "\n".join(found).split(f"### {measure}\n")[1].split("###")[0]
    lines = text.splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]


def test_each_row_meets_the_leader_of_its_own_bits(tmp_path: Path) -> None:
    for made in (*(swept("fsq", codes) for codes in (240, 1000)), swept("vq", 1024), swept("lfq", 256)):
        file(made, tmp_path, kept=swept_arrays(made))
    (line,) = lines_of(tmp_path)
    seen = view(tmp_path)
    rows = {row.label: row for row in seen.rows}
    pair = rows["vq"], rows["fsq (codebook_size=1000)"]
    first, leader = sorted(pair, key=lambda row: row.records[0].metrics["reconstruction/psnr_db"].value or 0)
    found = seen.difference(first, leader, "psnr_db")
    assert found is not None
    assert line[:3] == [first.label, leader.label, f"{found[0].mean:.2f}"]


def test_a_row_of_few_seeds_leads_none_of_three_and_one_training_separates_no_method(tmp_path: Path) -> None:
    for name, codes, quality, seeds in (("fsq", 1000, 23.0, 3), ("lfq", 1024, 22.0, 3), ("vq", 1000, 25.0, 1)):
        for seed in range(seeds):
            made = swept(name, codes, seed)
            file(made, tmp_path, kept=moved(made, quality, noise=0.1))
    lines = {line[0]: line for line in lines_of(tmp_path)}
    assert {line[1] for line in lines.values()} == {"fsq"}
    assert lines["lfq"][4] == "separable"
    assert lines["vq"][4] == "separable for this training (1 seed)"


def test_two_rows_of_one_tokenizer_are_not_compared_in_what_it_reconstructs(tmp_path: Path) -> None:
    for steps, quality in ((110, 23.0), (440, 23.1)):
        made = swept("fsq", 1000, hash=f"{steps:08x}")
        made = made.model_copy(update={"config": made.config | {"budget": {"backbone": {"steps": steps}}}})
        file(made, tmp_path, kept=moved(made, quality, noise=0.01))
    _, found = differences(view(tmp_path))
    assert not any(line.startswith("### PSNR") for line in found)


def test_what_seeds_do_not_separate_says_how_many_would(tmp_path: Path) -> None:
    for seed in range(3):
        for name, codes, quality in (("fsq", 1000, 24.0), ("vq", 1024, 24.05 + 0.3 * seed)):
            made = swept(name, codes, seed)
            file(made, tmp_path, kept=moved(made, quality, noise=0.1))
    (line,) = lines_of(tmp_path)
    assert line[4].startswith("not separable with 3 seeds (about ")
    assert int(line[4].split("about ")[1].rstrip(")")) > 3


def test_what_is_not_separable_says_how_many_images_would_do(tmp_path: Path) -> None:
    for name, codes, quality in (("fsq", 1000, 24.0), ("vq", 1024, 24.05)):
        made = swept(name, codes, 0)
        file(made, tmp_path, kept=moved(made, quality, noise=1.0))
    (line,) = lines_of(tmp_path)
    assert line[4].startswith("not separable at N = 24 (about ")
    assert int(line[4].split("about ")[1].rstrip(")").replace(",", "")) > 24


def generated(values: dict[str, tuple[float, ...]], floor: float, folder: Path) -> list[list[str]]:
    """The lines of gFD of made-up runs with these values a seed."""
    key = "common/generation/fd_classifier"
    for name, found in values.items():
        for seed, value in enumerate(found):
            made = record(name, seed, ranked=True)
            known = {key: measure(key, value, floor=floor)}
            file(made.model_copy(update={"metrics": made.metrics | known}), folder)
    return lines_of(folder, "gFD classifier, common")


def test_distances_of_a_few_seeds_are_held_against_the_lowest_by_student(tmp_path: Path) -> None:
    near, far = (10.4, 11.5, 10.7), (15.0, 15.1, 14.9)
    values = {"fsq": (10.0, 10.1, 9.9), "vq": near, "continuous_4": far}
    found = {line[0]: line for line in generated(values, 0.1, tmp_path)}
    known = stats.ttest_rel(near, values["fsq"]).confidence_interval(0.95)
    assert {line[1] for line in found.values()} == {"fsq"}
    assert found["vq"][3] == f"{known.low:.3f} to {known.high:.2f}"
    assert found["vq"][4].startswith("not separable with 3 seeds (about ")
    assert (found["continuous_4"][2], found["continuous_4"][4]) == ("5", "separable")


def test_distances_within_three_floors_are_not_told_apart(tmp_path: Path) -> None:
    (line,) = generated({"fsq": (10.0, 10.1, 9.9), "vq": (12.0, 12.1, 11.9)}, 0.7, tmp_path)
    assert line[4] == "within three floors"


def test_one_seed_separates_nothing(tmp_path: Path) -> None:
    (line,) = generated({"fsq": (10.0,), "vq": (15.0,)}, 0.1, tmp_path)
    assert line[3:5] == ["NA (1 seed)", "not separable with 1 seed"]


def test_p_is_that_of_all_divisions_of_the_seeds() -> None:
    """Three against three, fully apart: 2 of the 20 divisions are as extreme."""
    assert permutation_p(np.array([1.0, 1.1, 1.2]), np.array([2.0, 2.1, 2.2])) == pytest.approx(0.1)
    assert permutation_p(np.array([1.0]), np.array([2.0])) == 1
    assert permutation_p(np.array([1.0]), np.array([2.0, 2.1, 2.2])) == pytest.approx(0.25)
    a, b = np.random.default_rng(0).normal(size=(2, 5))
    known = stats.permutation_test((a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), vectorized=True)
    assert permutation_p(a, b) == pytest.approx(known.pvalue)
    assert permutation_p(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 3.0])) == 1
