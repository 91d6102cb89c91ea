"""Advice is the Pareto set under the limits, and says what the records leave open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_factory import file, measure, record, swept, swept_arrays

from tokbench import advise, build
from tokbench.records import read_records
from tokbench.report.advice import GOALS, Limit
from tokbench.report.advice import advise as decide
from tokbench.report.groups import group_records
from tokbench.report.view import View


def add(folder: Path, name: str, psnr_db: float, bits: float, *, seeds: int = 3, noise: float = 0.01) -> None:
    for seed in range(seeds):
        made = swept(name, 1000, seed)
        values = {"reconstruction/psnr_db": psnr_db, "bits/marginal_bits_per_image": bits}
        kept = made.metrics | {key: measure(key, value) for key, value in values.items()}
        arrays = swept_arrays(made)
        spread = np.random.default_rng([seed, ord(name[0])]).normal(0, noise, len(arrays["psnr_db"]))
        arrays |= {"psnr_db": (psnr_db + spread).astype(np.float32)}
        file(made.model_copy(update={"metrics": kept}), folder, kept=arrays)


def view(folder: Path) -> View:
    (group,) = group_records(read_records(folder / "runs"))
    return View(group, folder / "runs")


def test_the_choice_is_what_no_other_row_beats(tmp_path: Path) -> None:
    add(tmp_path, "good", 25.0, 600)
    add(tmp_path, "cheap", 22.0, 300)
    add(tmp_path, "poor", 21.0, 400)
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    assert [option.row.label for option in advice.choices] == ["good", "cheap"]
    assert advice.excluded == {"poor": "cheap is no worse in both"}
    assert advice.open == ()


def test_a_limit_names_what_breaks_it(tmp_path: Path) -> None:
    add(tmp_path, "good", 25.0, 600)
    add(tmp_path, "cheap", 22.0, 300)
    advice = decide(view(tmp_path), GOALS["reconstruction"], [Limit("bits/marginal_bits_per_image", "down", 500)])
    assert [option.row.label for option in advice.choices] == ["cheap"]
    assert advice.excluded == {"good": "marginal bits per image (bits) 600, more than 500"}
    missing = decide(view(tmp_path), GOALS["reconstruction"], [Limit("bits/none", "down", 1)])
    assert missing.choices == ()
    assert "none is NA (not measured)" in missing.excluded["good"]


def test_few_seeds_and_overlapping_rows_leave_the_choice_open(tmp_path: Path) -> None:
    add(tmp_path, "good", 25.0, 600, noise=2.0)
    add(tmp_path, "near", 24.99, 610, noise=2.0)
    add(tmp_path, "new", 22.0, 300, seeds=1)
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    near, new = sorted(advice.open)
    assert near.startswith("good against near: ")
    assert new == "good against new: 1 seed, fewer than 3"


def test_each_member_of_the_choice_is_held_against_its_neighbour(tmp_path: Path) -> None:
    add(tmp_path, "good", 29.0, 900)
    add(tmp_path, "mean", 25.0, 600, noise=2.0)
    add(tmp_path, "thin", 24.99, 500, noise=2.0)
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    assert [option.row.label for option in advice.choices] == ["good", "mean", "thin"]
    (line,) = advice.open
    assert line.startswith("mean against thin: not separable")


def test_what_is_out_by_less_than_its_interval_is_open_unless_another_choice_settles_it(tmp_path: Path) -> None:
    add(tmp_path, "good", 29.0, 900)
    add(tmp_path, "mean", 25.0, 600, noise=2.0)
    add(tmp_path, "near", 24.99, 610, noise=2.0)
    add(tmp_path, "dear", 24.99, 950, noise=2.0)  # good is better for less
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    assert advice.excluded == {"near": "mean is no worse in both", "dear": "good is no worse in both"}
    (line,) = advice.open
    assert line.startswith("mean against near: not separable")


def test_a_demonstration_decides_nothing(tmp_path: Path) -> None:
    file(swept("vq", 1000, ranked=False), tmp_path)
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    assert advice.open == ("the data are a demonstration and rank nothing",)


def test_the_command_prints_choices_and_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, "good", 25.0, 600)
    add(tmp_path, "poor", 21.0, 700)
    assert advise.main(["--prefer", "reconstruction", "--results", str(tmp_path)]) == advise.OK
    printed = capsys.readouterr().out
    assert "| good " in printed
    assert "good is no worse in both" in printed
    assert "More seeds could not change the choice." in printed
    none = ["--prefer", "reconstruction", "--min-psnr-db", "30", "--results", str(tmp_path)]
    assert advise.main(none) == advise.NONE
    assert "no row keeps the limits" in capsys.readouterr().out


def test_what_was_not_measured_or_recorded_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, "good", 25.0, 600)
    assert advise.main(["--prefer", "reconstruction", "--group", "no", "--results", str(tmp_path)]) == advise.BAD_INPUT
    assert "--group must be one of cifar10-cpu, got 'no'" in capsys.readouterr().err
    near = ["--prefer", "reconstruction", "--group", "cifar10-cup", "--results", str(tmp_path)]
    assert advise.main(near) == advise.BAD_INPUT
    assert "got 'cifar10-cup'; did you mean 'cifar10-cpu'?" in capsys.readouterr().err
    empty = str(tmp_path / "empty")
    assert advise.main(["--prefer", "generation", "--results", empty]) == advise.BAD_INPUT
    assert "common/generation/fd_classifier" in capsys.readouterr().err


def test_a_newer_group_without_values_of_the_goal_gives_no_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "common/generation/fd_classifier"
    file(record("fsq", ranked=True), tmp_path)
    newer = record("fsq", 1, created="2025-06-01T00:00:00+00:00", hash="0123abcd", ranked=True)
    data = newer.data.model_copy(update={"name": "scenes"})
    absent = newer.metrics | {key: measure(key, None, "no classes")}
    file(newer.model_copy(update={"data": data, "metrics": absent}), tmp_path)
    advise.main(["--prefer", "generation", "--results", str(tmp_path)])
    assert "on cifar10-cpu" in capsys.readouterr().out


def test_a_misspelt_goal_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        advise.main(["--prefer", "genration"])
    assert stopped.value.code == advise.BAD_INPUT
    printed = capsys.readouterr().err
    assert "argument --prefer: must be one of reconstruction, generation, understanding, got 'genration'" in printed
    assert "did you mean 'generation'?" in printed


def batch_of(budget: str) -> int:
    return build.compose([f"budget={budget}"])["budget"]["tokenizer"]["batch"]


def test_the_help_says_that_times_are_of_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        advise.main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "milliseconds to decode an image, as its share of a training batch" in printed
    for budget in ("cpu", "sweep", "gpu"):
        assert f"of {budget} {batch_of(budget)}".replace("of cpu", "of budget cpu") in advise.BATCHED
