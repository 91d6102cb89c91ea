"""Advice is the Pareto set under the limits, and says what the records leave open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_factory import file, measure, record, swept, swept_arrays

from tokbench import advise, build
from tokbench.advise import GOALS, decide
from tokbench.metrics.standard_truth import SWAPPED
from tokbench.records import read_records
from tokbench.report.advice import FLOPS, Advice, Limit
from tokbench.report.groups import group_records
from tokbench.report.view import View

BITS, LATENCY = "bits/marginal_bits_per_image", "common/cost/latency_seconds"
GFD, KID = "common/generation/fd_classifier", "common/generation/kid_random64"
ACCURACY, EXACTNESS = "common/understanding/caption_accuracy", "common/understanding/caption_exactness"
COLOUR = "baseline/colour_only/understanding/caption_accuracy"
IN_TIME = replace(GOALS["generation"], costs=((LATENCY,),))


def add(
    folder: Path,
    name: str,
    psnr_db: float,
    bits: float | None,
    *,
    seeds: int = 3,
    noise: float = 0.01,
    apart: float = 0,
) -> None:
    """Runs whose images have `noise` dB; the bits of the seeds are `apart`, and None of a continuous row."""
    for seed in range(seeds):
        made = swept(name, 1000, seed)
        values = {"reconstruction/psnr_db": psnr_db, BITS: None if bits is None else bits + apart * (seed - 1)}
        kept = made.metrics | {key: measure(key, value, "continuous") for key, value in values.items()}
        arrays = swept_arrays(made)
        spread = np.random.default_rng([seed, ord(name[0])]).normal(0, noise, len(arrays["psnr_db"]))
        arrays |= {"psnr_db": (psnr_db + spread).astype(np.float32)}
        file(made.model_copy(update={"metrics": kept}), folder, kept=arrays)


def add_generated(
    folder: Path, name: str, kid: float, latency: float, *, seeds: int = 3, place: str = "here", **more: float
) -> None:
    """Runs on scenes, which have no classes; `more` are their `exactness` and `flops`."""
    exactness, flops = more.get("exactness", 0.5), more.get("flops", 1e9)
    for seed in range(seeds):
        made = record(name, seed, ranked=True)
        values = {GFD: None, ACCURACY: None, KID: kid + 1e-5 * seed, EXACTNESS: exactness, FLOPS: flops}
        values |= {LATENCY: latency + 1e-6 * seed}
        kept = made.metrics | {key: measure(key, value, "no classes") for key, value in values.items()}
        kept[KID] = measure(KID, values[KID], floor=0.001)
        data, where = made.data.model_copy(update={"name": "scenes"}), made.environment | {"checkout": place}
        file(made.model_copy(update={"metrics": kept, "data": data, "environment": where}), folder, with_arrays=False)


def add_read(folder: Path, name: str, accuracy: float, *, seeds: int = 3) -> None:
    """Runs whose captions are named as well as told; colour alone names 28 %."""
    for seed in range(seeds):
        made = record(name, seed, ranked=True)
        values = {ACCURACY: accuracy + 0.001 * seed, COLOUR: 0.28}
        kept = made.metrics | {key: measure(key, value) for key, value in values.items()}
        file(made.model_copy(update={"metrics": kept}), folder, with_arrays=False)


def labels(advice: Advice) -> list[str]:
    return [option.row.label for option in advice.choices]


def undecided(advice: Advice) -> dict[str, str]:
    return {option.row.label: why for option, why in advice.undecided}


def rows_under(printed: str, first: str) -> Sequence[str]:
    """The first cells of the printed table whose first heading this is."""
    lines = printed.split(f"| {first} ")[1].splitlines()[2:]
    return [line.split("|")[1].strip() for line in lines[: lines.index("")]]


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
    assert undecided(advice)["near"].startswith("against good: psnr db not separable")
    assert advice.open == ("good against new: psnr db of 1 seed, fewer than 3",)
    alone = decide(view(tmp_path), GOALS["reconstruction"], [Limit(BITS, "down", 400)])
    assert "new against the mean colour (14.20 dB): psnr db of 1 seed, fewer than 3" in alone.open


def test_each_member_of_the_choice_is_held_against_its_neighbour(tmp_path: Path) -> None:
    add(tmp_path, "good", 29.0, 900)
    add(tmp_path, "mean", 25.0, 600, noise=2.0)
    add(tmp_path, "thin", 24.99, 500, noise=2.0)
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    assert [option.row.label for option in advice.choices] == ["good", "mean", "thin"]
    (line,) = advice.open
    assert line.startswith("mean against thin: psnr db not separable")


def test_what_is_out_by_less_than_its_interval_is_undecided_unless_another_choice_settles_it(tmp_path: Path) -> None:
    add(tmp_path, "good", 29.0, 900)
    add(tmp_path, "mean", 25.0, 600, noise=2.0)
    add(tmp_path, "near", 24.99, 610, noise=2.0)
    add(tmp_path, "dear", 24.99, 950, noise=2.0)  # good is better for less
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    assert advice.excluded == {"dear": "good is no worse in both"}
    assert undecided(advice)["near"].startswith("against mean: psnr db not separable")
    assert advice.open == ()


def test_bits_that_overlap_over_seeds_leave_the_choice_open(tmp_path: Path) -> None:
    add(tmp_path, "good", 25.0, 600, apart=40)
    add(tmp_path, "cheap", 22.0, 590)
    add(tmp_path, "poor", 21.0, 610, apart=-40)
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    assert [option.row.label for option in advice.choices] == ["good", "cheap"]
    assert advice.excluded == {}
    (chosen,) = advice.open
    assert chosen.startswith("good against cheap: marginal bits per image not separable (interval -109 to +89.4 bits")
    assert undecided(advice)["poor"].startswith("against good: marginal bits per image not separable")


def test_seeds_in_common_that_say_the_reverse_leave_the_choice_open(tmp_path: Path) -> None:
    add(tmp_path, "good", 25.0, 300)
    add(tmp_path, "cheap", 22.0, 280)
    made = swept("cheap", 1000, 3)  # its fourth seed makes it the dearer one
    kept = made.metrics | {
        "reconstruction/psnr_db": measure("reconstruction/psnr_db", 22.0),
        BITS: measure(BITS, 480.0),
    }
    file(made.model_copy(update={"metrics": kept}), tmp_path, kept=swept_arrays(made) | {"psnr_db": np.full(24, 22.0)})
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    assert advice.excluded == {}
    assert undecided(advice)["cheap"].startswith(
        "against good: marginal bits per image the reverse on the seeds in common (interval +20"
    )


def test_continuous_rows_are_choices_and_compete_in_numbers(tmp_path: Path) -> None:
    add(tmp_path, "good", 25.0, 600)
    add(tmp_path, "smooth", 24.0, None)
    add(tmp_path, "blurred", 23.0, None)
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    assert [(o.row.label, o.cost) for o in advice.choices] == [("good", 600), ("smooth", 256)]
    assert advice.excluded == {"blurred": "smooth is no worse in both"}
    assert advice.open == ()
    limited = decide(view(tmp_path), GOALS["reconstruction"], [Limit(BITS, "down", 700)])
    assert limited.excluded["smooth"] == "marginal bits per image is NA (continuous)"


def test_what_is_below_the_mean_colour_is_no_choice(tmp_path: Path) -> None:
    add(tmp_path, "good", 25.0, 600)
    add(tmp_path, "flat", 12.69, 0)
    add(tmp_path, "mean", 14.3, 20)  # 14.2 dB of the mean colour itself
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    assert [option.row.label for option in advice.choices] == ["good", "mean"]
    assert advice.excluded == {"flat": "psnr db (dB) 12.69, no more than 14.20 of the mean colour"}
    assert advice.open == ()
    add(tmp_path / "few", "flat", 12.69, 0, seeds=1)
    few = decide(view(tmp_path / "few"), GOALS["reconstruction"], [])
    assert undecided(few) == {"flat": "against the mean colour (14.20 dB): psnr db of 1 seed, fewer than 3"}


def test_a_row_within_its_noise_of_a_limit_leaves_the_choice_open_unless_a_choice_beats_it(tmp_path: Path) -> None:
    add(tmp_path, "good", 25.0, 495, apart=20)
    add(tmp_path, "dear", 27.0, 505, apart=20)
    add(tmp_path, "poor", 21.0, 505, apart=20)
    advice = decide(view(tmp_path), GOALS["reconstruction"], [Limit(BITS, "down", 500)])
    assert [option.row.label for option in advice.choices] == ["good"]
    (inside,) = advice.open
    assert inside.startswith(
        "good against the limit (500 bits): marginal bits per image not separable (interval -54.7 to"
    )
    outside = undecided(advice)
    assert list(outside) == ["dear"]
    assert outside["dear"].startswith("against the limit (500 bits): marginal bits per image not separable")
    exact = decide(view(tmp_path), GOALS["reconstruction"], [Limit("bits/tokens", "down", 64)])
    assert not any("limit" in line for line in exact.open)


def test_a_group_is_judged_by_the_first_measure_that_its_rows_have(tmp_path: Path) -> None:
    add_generated(tmp_path, "vq", 0.02, 0.02)
    add_generated(tmp_path, "fsq", 0.03, 0.03)
    for goal, key in (("generation", KID), ("understanding", EXACTNESS)):
        assert decide(view(tmp_path), GOALS[goal], []).judged_by == key
    advice = decide(view(tmp_path), GOALS["generation"], [])
    assert [option.row.label for option in advice.choices] == ["vq"]
    assert advice.excluded == {"fsq": "vq is no worse in both"}
    assert advice.open == ()


def test_what_reads_no_better_than_its_baseline_is_no_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_read(tmp_path, "vq", 0.16)
    add_read(tmp_path, "fsq", 0.19)
    advice = decide(view(tmp_path), GOALS["understanding"], [])
    assert advice.choices == ()
    assert advice.excluded["vq"] == "caption accuracy (%) 16.1, no more than 28.0 of colour alone"
    wanted = ["--prefer", "understanding", "--results", str(tmp_path)]
    assert advise.main(wanted) == advise.NONE
    assert "No row beats colour alone (28.0 %): nothing is advised." in capsys.readouterr().out
    add_read(tmp_path, "vq_tuned", 0.4)
    assert labels(decide(view(tmp_path), GOALS["understanding"], [])) == ["vq_tuned"]
    assert advise.main(wanted) == advise.OK
    assert "A choice must beat colour alone (28.0 %)." in capsys.readouterr().out


def test_one_seed_below_its_baseline_is_undecided_and_shown_with_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_read(tmp_path, "vq", 0.16, seeds=1)
    assert advise.main(["--prefer", "understanding", "--results", str(tmp_path)]) == advise.NONE
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| vq ")]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == ["vq", "16.0", "64", "1", "against colour alone (28.0 %): caption accuracy of 1 seed, fewer than 3"]


def test_the_right_caption_must_be_found_more_often_than_by_guessing(tmp_path: Path) -> None:
    add_generated(tmp_path, "vq", 0.02, 0.02, exactness=1 / (SWAPPED + 1))
    add_generated(tmp_path, "fsq", 0.02, 0.02, exactness=0.3)
    advice = decide(view(tmp_path), GOALS["understanding"], [])
    assert labels(advice) == ["fsq"]
    assert advice.excluded["vq"].endswith("of guessing")


def test_generation_is_paid_in_flops_of_two_digits_unless_a_limit_is_on_its_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_generated(tmp_path, "vq", 0.02, 0.03, flops=1.359e9)
    add_generated(tmp_path, "fsq", 0.05, 0.01, flops=1.351e9)
    add_generated(tmp_path, "patches", 0.08, 0.02, flops=0.5e9)
    wanted = ["--prefer", "generation", "--results", str(tmp_path)]
    assert advise.main(wanted) == advise.OK
    printed = capsys.readouterr().out
    assert rows_under(printed, "choose from") == ["vq", "patches"]
    assert advise.TWO_DIGITS in printed
    assert "No baseline of it is recorded that a choice must beat." in printed
    assert advise.main([*wanted, "--max-latency-ms", "50"]) == advise.OK
    printed = capsys.readouterr().out
    assert rows_under(printed, "choose from") == ["vq", "fsq"]
    assert advise.TWO_DIGITS not in printed


def test_what_cannot_be_told_from_a_choice_is_not_said_to_be_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, kid in (("vq", 0.02), ("fsq", 0.03), ("patches", 0.08)):
        add_generated(tmp_path, name, kid, 0.02, seeds=1)
    assert advise.main(["--prefer", "generation", "--results", str(tmp_path)]) == advise.OK
    printed = capsys.readouterr().out
    assert rows_under(printed, "undecided") == ["fsq", "patches"]
    assert "against vq: kid random64 of 1 seed, fewer than 3" in printed
    assert "no worse" not in printed
    assert "More seeds could not change" not in printed


def test_times_of_single_runs_and_of_several_settings_leave_the_choice_open(tmp_path: Path) -> None:
    add_generated(tmp_path, "vq", 0.02, 0.02)
    add_generated(tmp_path, "fsq", 0.03, 0.03, place="there")
    open_to = undecided(decide(view(tmp_path), IN_TIME, []))
    assert open_to == {"fsq": "against vq: latency seconds of 2 settings, whose times do not compare"}
    single = tmp_path / "single"
    add_generated(single, "vq", 0.02, 0.02)
    add_generated(single, "fsq", 0.03, 0.01, seeds=1)
    lines = decide(view(single), IN_TIME, [Limit(LATENCY, "down", 0.015)]).open
    assert lines == ("fsq against the limit (15 ms): latency seconds of 1 seed, fewer than 3",)


def test_a_row_trained_on_the_features_of_the_judge_is_no_choice(tmp_path: Path) -> None:
    add_generated(tmp_path, "vq", 0.02, 0.02)
    made = read_records(tmp_path / "runs")[0]
    taught = made.environment | {"trained_on_features": ["random64"]}
    other = {"name": "fsq", "hash": "0123abcd", "environment": taught}
    file(made.model_copy(update=other), tmp_path, with_arrays=False)
    advice = decide(view(tmp_path), GOALS["generation"], [])
    assert advice.excluded == {"fsq": "trained on random64, whose features kid random64 is a distance of"}


def test_a_demonstration_decides_nothing(tmp_path: Path) -> None:
    file(swept("vq", 1000, ranked=False), tmp_path)
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    assert advice.open == ("the data are a demonstration and rank nothing",)
    worse = swept("fsq", 16, ranked=False)
    file(worse.model_copy(update={"metrics": worse.metrics | {BITS: measure(BITS, 9e9)}}), tmp_path)
    advice = decide(view(tmp_path), GOALS["reconstruction"], [])
    assert undecided(advice) == {"fsq": "against vq: the data are a demonstration and rank nothing"}


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
    assert "no row is left to choose" in capsys.readouterr().out


def test_the_command_says_what_judges_and_what_is_paid_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, "good", 25.0, 600)
    add(tmp_path, "smooth", 27.0, None)
    assert advise.main(["--prefer", "reconstruction", "--results", str(tmp_path)]) == advise.OK
    printed = capsys.readouterr().out
    assert "Judged by reconstruction/psnr_db (higher is better): mean of per-image PSNR" in printed
    assert [cell.strip() for cell in printed.split("| smooth ")[1].split("|")[1:4]] == [
        "27.00",
        "NA (continuous)",
        "256",
    ]
    assert "the two costs do not compare" in printed
    scenes = tmp_path / "scenes"
    add_generated(scenes, "vq", 0.02, 0.02)
    for goal, key, first in (("generation", KID, GFD), ("understanding", EXACTNESS, ACCURACY)):
        assert advise.main(["--prefer", goal, "--results", str(scenes)]) == advise.OK
        printed = capsys.readouterr().out
        assert f"Judged by {key} (" in printed
        assert f"No row has {first}: NA (no classes)." in printed
        assert "do not compare" not in printed


@pytest.mark.parametrize("bound", ["nan", "inf", "-inf", "-1"])
def test_a_limit_must_be_a_finite_number_of_at_least_0(bound: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert advise.main(["--prefer", "reconstruction", f"--max-tokens={bound}"]) == advise.BAD_INPUT
    line = f"error: --max-tokens must be finite and at least 0, got {bound.replace('-1', '-1.0')}\n"
    assert capsys.readouterr().err == line


def test_a_group_without_the_measures_of_the_goal_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file(record("fsq", ranked=True), tmp_path)
    file(swept("vq", 1000, data=record().data), tmp_path)
    wanted = ["--prefer", "generation", "--group", "photos32-cpu", "--results", str(tmp_path)]
    assert advise.main(wanted) == advise.BAD_INPUT
    assert (
        f"--prefer generation needs runs that measure {GFD} or {KID}: none in photos32-cpu" in capsys.readouterr().err
    )


def test_without_a_cost_no_row_is_advised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = record("fsq", ranked=True)
    kept = made.metrics | {LATENCY: measure(LATENCY, None, "2 runs at once")}
    file(made.model_copy(update={"metrics": kept}), tmp_path)
    wanted = ["--prefer", "generation", "--max-latency-ms", "99", "--results", str(tmp_path)]
    assert advise.main(wanted) == advise.NONE
    printed = capsys.readouterr().out
    assert "latency seconds is NA (2 runs at once)" in printed
    assert "no row is left to choose" in printed


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
    file(record("fsq", ranked=True), tmp_path)
    newer = record("fsq", 1, created="2025-06-01T00:00:00+00:00", hash="0123abcd", ranked=True)
    data = newer.data.model_copy(update={"name": "scenes"})
    absent = newer.metrics | {key: measure(key, None, "no classes") for key in (GFD, KID)}
    file(newer.model_copy(update={"data": data, "metrics": absent}), tmp_path)
    wanted = ["--prefer", "generation", "--results", str(tmp_path)]
    advise.main(wanted)
    assert "on cifar10-cpu" in capsys.readouterr().out
    file(record("fsq"), tmp_path)
    advise.main(wanted)
    assert (
        "No --group given: this is cifar10-cpu, the newest page of a whole group; others: photos32-cpu."
        in capsys.readouterr().out
    )
    advise.main([*wanted, "--group", "cifar10-cpu"])
    assert "No --group" not in capsys.readouterr().out


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
