"""The command that runs what the claims miss."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tokbench import claims
from tokbench.report.catalogue import CATALOGUE
from tokbench.report.claims import load_claims, number_of


def test_every_claim_of_an_experiment_is_in_the_catalogue_of_forty() -> None:
    assert [number_of(name) for name in CATALOGUE] == list(range(1, 41))
    assert {number_of(claim.name) for claim in load_claims()} <= set(range(1, 41))


def test_without_records_every_experiment_of_the_tier_is_missing(tmp_path: Path) -> None:
    expected = {claim.experiment for claim in load_claims() if claim.tier == "cpu"}
    needs = claims.missing(tmp_path, "cpu")
    assert {need.experiment for need in needs} == expected
    assert {name for need in needs for name in need.claims} == {c.name for c in load_claims() if c.tier == "cpu"}


def test_the_plan_says_what_fits_and_what_does_not() -> None:
    needs = [
        claims.Need(name, (claim,), minutes, "")
        for name, claim, minutes in (("a", "C1", 20.0), ("b", "C2", 50.0), ("c", "C3", 80.0))
    ]
    head, *lines = claims.plan(needs, 1.0)
    assert head.startswith("3 experiments lack runs: about 2 h 30 min")
    assert [line.split("  ")[-1].strip() for line in lines] == ["a: C1", "b: C2", "c: C3"]
    assert [word in line for word, line in zip(("whole", "in part", "not in this time"), lines, strict=True)] == [
        True
    ] * 3
    assert claims.plan([], 1.0) == ["no claim of the tier lacks runs"]


def test_an_experiment_is_run_by_its_own_command_with_the_words_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    (need,) = [need for need in claims.missing(Path("nowhere"), "cpu") if need.experiment == "heads"]
    assert {"C25", "C27"} <= set(need.claims)
    asked: list[list[str]] = []

    class Done:
        def __init__(self, command: list[str], cwd: Path) -> None:
            asked.append(command[1:])

        def __enter__(self) -> Done:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def wait(self, seconds: float) -> int:
            return 0

    monkeypatch.setattr(claims.subprocess, "Popen", Done)
    words = ["data.root=somewhere", "results_dir=here"]
    for name, tool in (("heads", ""), ("text_tax", "x"), ("bits", "x")):
        own = need if name == "heads" else claims.Need(name, (), 1.0, tool)
        assert claims.run(own, words, time.monotonic() + 60) == claims.OK
    assert asked == [
        ["-m", "tokbench.toys", "results_dir=here"],
        [
            "-m",
            "tokbench.run",
            "-m",
            "experiments=text_tax",
            "reuse=anywhere",
            "results_dir=here",
        ],  # drawn, and in no folder
        ["-m", "tokbench.run", "-m", "experiments=bits", "reuse=anywhere", *words],
    ]


def test_no_hours_run_nothing_and_print_every_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert claims.main(["--hours", "0", "--results", str(tmp_path)]) == claims.OK
    printed = capsys.readouterr().out
    assert all(re.search(rf"\| {name}[, ]", printed) for name in CATALOGUE)
    assert all(f"| {claim.title} " in printed for claim in load_claims())
    assert "make sweep EXPERIMENT=fsq_levels" in printed
    assert "C25" in printed
    assert "`python -m tokbench.toys`" in printed
    assert "experiments lack runs" in printed


def test_negative_hours_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert claims.main(["--hours", "-1"]) == claims.BAD_INPUT
    assert "--hours must be >= 0, got -1" in capsys.readouterr().err


def test_a_misspelt_tier_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        claims.main(["--hours", "0", "--tier", "cup"])
    assert stopped.value.code == claims.BAD_INPUT
    assert (
        "argument --tier: must be one of cpu, gpu, reference, got 'cup'; did you mean 'cpu'?" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("C10", "must be key=value, got 'C10'; C10 is run by `make sweep EXPERIMENT="),
        ("C100", "must be key=value, got 'C100'; did you mean 'C10'?"),
        ("budget.tokenizer.step=3", "budget.tokenizer.step; did you mean 'budget.tokenizer.steps'?"),
    ],
)
def test_a_word_that_no_run_takes_is_named_before_any_run(
    word: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert claims.main(["--hours", "1", "--results", str(tmp_path), word]) == claims.BAD_INPUT
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


def test_a_sweep_is_stopped_at_the_deadline() -> None:
    start = time.monotonic()
    assert claims.run(claims.Need("quantizers", ("C10",), 1.0, ""), ["--help"], start) == claims.OUT_OF_TIME
    assert time.monotonic() - start < claims.GRACE_SECONDS


def test_an_experiment_on_a_folder_of_the_users_is_told_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need = claims.Need("bits_imagenette64", ("C1, 64 pixels",), 60.0, "make sweep EXPERIMENT=bits_imagenette64")
    monkeypatch.setattr(claims, "missing", lambda results, tier: [need])
    monkeypatch.setattr(claims, "run", lambda *given: pytest.fail("it has no images"))
    assert claims.main(["--hours", "1", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "needs images" in printed
    assert "left out, as it needs images: `make sweep EXPERIMENT=bits_imagenette64 ARGS=data.root=PATH`" in printed
