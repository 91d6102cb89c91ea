"""The command that runs what the claims miss."""

from __future__ import annotations

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
    assert set(claims.missing(tmp_path, "cpu")) == expected


def test_no_hours_run_nothing_and_print_every_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert claims.main(["--hours", "0", "--results", str(tmp_path)]) == claims.OUT_OF_TIME
    printed = capsys.readouterr().out
    assert all(f"| {name} " in printed for name in CATALOGUE)
    assert "make sweep EXPERIMENT=fsq_levels" in printed


def test_negative_hours_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert claims.main(["--hours", "-1"]) == claims.BAD_INPUT
    assert "--hours must be >= 0, got -1" in capsys.readouterr().err


def test_a_sweep_is_stopped_at_the_deadline() -> None:
    start = time.monotonic()
    assert claims.run("quantizers", ["--help"], start) == claims.OUT_OF_TIME
    assert time.monotonic() - start < claims.GRACE_SECONDS
