"""Verdicts on published claims follow from paired differences alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_factory import file, swept, swept_arrays

from tokbench import build
from tokbench.metrics.statistics import Difference
from tokbench.records import RunRecord, read_records
from tokbench.report.claims import CLAIMS, DEFAULTS, Finding, _agrees, render_claims, verdict
from tokbench.report.groups import group_records
from tokbench.report.view import View

YES, NO, OPEN = (Finding((), agrees) for agrees in (True, False, None))


def shifted(record: RunRecord, psnr_db: float) -> dict[str, Any]:
    kept = swept_arrays(record)
    return kept | {"psnr_db": kept["psnr_db"] - kept["psnr_db"].mean() + psnr_db}


def rendered(folder: Path, quality: dict[int, float], *, seeds: int = 3) -> str:
    """The claims of plain VQ with such a PSNR at each V."""
    for codes, psnr_db in quality.items():
        for seed in range(seeds):
            made = swept("vq", codes, seed)
            file(made, folder, kept=shifted(made, psnr_db))
    (group,) = group_records(read_records(folder / "runs"))
    return "\n".join(render_claims(View(group, folder / "runs")))


@pytest.mark.parametrize(
    ("findings", "word"),
    [
        ([YES, YES], "supported"),
        ([NO, NO], "contradicted"),
        ([NO, OPEN], "contradicted"),
        ([YES, NO], "mixed"),
        ([YES, OPEN], "undecided"),
        ([YES, None], "undecided"),
        ([OPEN, OPEN], "undecided"),
    ],
)
def test_the_verdict_is_a_rule_on_the_comparisons(findings: list[Finding | None], word: str) -> None:
    assert verdict(findings) == word


@pytest.mark.parametrize(
    ("quality", "word"),
    [
        ({240: 23.9, 1000: 24.0, 4375: 22.0, 15360: 21.0}, "supported"),
        ({240: 20.9, 1000: 21.0, 4375: 23.0, 15360: 24.0}, "contradicted"),
        ({240: 22.9, 1000: 23.0, 4375: 22.0, 15360: 24.0}, "mixed"),
        ({1000: 23.0, 4375: 22.0}, "undecided"),
    ],
)
def test_a_collapsing_codebook_supports_the_claim_of_collapse(
    tmp_path: Path, quality: dict[int, float], word: str
) -> None:
    page = rendered(tmp_path, quality)
    (line,) = [line for line in page.splitlines() if line.startswith("| C9 ")]
    assert line.rstrip("| ").endswith(word)


@pytest.mark.parametrize(
    ("interval", "expected", "agrees"),
    [
        ((0.2, 0.1, 0.3), 1, True),
        ((0.2, 0.1, 0.3), -1, False),
        ((0.2, -0.1, 0.3), 1, None),
        ((0.01, -0.05, 0.05), 0, True),
        ((0.01, 0.005, 0.02), 0, True),
        ((0.3, 0.2, 0.4), 0, False),
        ((0.1, -0.3, 0.5), 0, None),
    ],
)
def test_an_interval_agrees_disagrees_or_leaves_open(
    interval: tuple[float, float, float], expected: int, agrees: bool | None
) -> None:
    mean, low, high = interval
    assert _agrees(Difference(mean, low, high, separable=low > 0 or high < 0), expected) is agrees


def test_too_few_seeds_decide_nothing(tmp_path: Path) -> None:
    page = rendered(tmp_path, {1000: 24.0, 4375: 22.0, 15360: 21.0}, seeds=2)
    assert "undecided" in next(line for line in page.splitlines() if line.startswith("| C9 "))


def test_a_group_without_the_rows_says_nothing(tmp_path: Path) -> None:
    assert rendered(tmp_path, {1000: 24.0}) == ""


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_every_side_is_a_row_that_some_experiment_makes(claim: Any) -> None:
    names = {path.stem for path in (build.ROOT / "conf" / "quantizer").glob("*.yaml")}
    names |= {
        build.compose([f"experiments={path.stem}"])["name"] for path in (build.ROOT / "experiments").glob("*.yaml")
    }
    for pair in claim.pairs:
        for side in (pair.first, pair.second):
            assert side.name in names


def test_the_defaults_are_those_of_the_confs() -> None:
    config = build.compose(["quantizer=vq", "budget=sweep"])
    assert config["tokenizer"]["depth"] == config["budget"]["tokenizer"]["depth"]
    assert config["quantizer"]["beta"] == DEFAULTS["quantizer.beta"]
    assert config["quantizer"]["codebook_size"] == DEFAULTS["quantizer.codebook_size"]
