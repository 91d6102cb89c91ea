"""Verdicts on published claims follow from paired differences alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_factory import file, measure, record, swept, swept_arrays
from scipy import stats

from tokbench import build
from tokbench.metrics.statistics import Difference
from tokbench.records import RunRecord, read_records
from tokbench.report.build import build_report
from tokbench.report.catalogue import CATALOGUE
from tokbench.report.claims import RULE, comparisons, findings_of, load_claims, qualified, render_claims, span, verdict
from tokbench.report.experiments import remember
from tokbench.report.groups import group_records
from tokbench.report.levels import at_most
from tokbench.report.rules import DEFAULTS, Finding, agrees, difference, expand, find_row, find_rows, kind, signs
from tokbench.report.verdicts import Verdict, answers, fullest
from tokbench.report.view import View, read_views

YES, NO, OPEN = (Finding("", "", "", "", "", 3, vote) for vote in (True, False, None))


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
        ([YES, OPEN], "cannot decide"),
        ([YES, None], "cannot decide"),
        ([OPEN, OPEN], "cannot decide"),
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
        ({1000: 23.0, 4375: 22.0}, "cannot decide"),
    ],
)
def test_a_collapsing_codebook_supports_the_claim_of_collapse(
    tmp_path: Path, quality: dict[int, float], word: str
) -> None:
    page = rendered(tmp_path, quality)
    (line,) = [line for line in page.splitlines() if line.startswith("| C9 ")]
    assert line.split("|")[5].strip().startswith(word)


@pytest.mark.parametrize(
    ("interval", "expected", "vote"),
    [
        ((0.2, 0.1, 0.3), "above", True),
        ((0.2, 0.1, 0.3), "below", False),
        ((-0.2, -0.3, -0.1), "below", True),
        ((0.2, -0.1, 0.3), "above", None),
        ((0.03, 0.01, 0.05), "above", False),  # no effect that counts
        ((0.08, 0.01, 0.15), "above", None),
        ((0.01, -0.05, 0.05), "no change", True),
        ((0.01, 0.005, 0.02), "no change", True),
        ((0.3, 0.2, 0.4), "no change", False),
        ((0.1, -0.3, 0.5), "no change", None),
    ],
)
def test_an_interval_agrees_disagrees_or_leaves_open(
    interval: tuple[float, float, float], expected: Any, vote: bool | None
) -> None:
    mean, low, high = interval
    gap = Difference(mean, low, high, separable=low > 0 or high < 0)
    assert agrees(gap, expected, 0.1) is vote


def test_a_measure_without_values_of_single_images_is_compared_over_seeds(tmp_path: Path) -> None:
    """Student's t over paired seeds, against scipy's own interval."""
    usage = {240: [50.0, 60.0, 55.0, 58.0], 1000: [40.0, 41.0, 47.0, 40.0]}
    for codes, values in usage.items():
        for seed, value in enumerate(values):
            made = swept("vq", codes, seed)
            file(
                swept("vq", codes, seed, metrics=made.metrics | {"bits/usage": measure("bits/usage", value)}), tmp_path
            )
    (group,) = group_records(read_records(tmp_path / "runs"))
    view = View(group, tmp_path / "runs")
    found = difference(view, *view.rows, "bits/usage")
    assert found is not None
    known = stats.ttest_rel(usage[240], usage[1000])
    low, high = known.confidence_interval(0.95)
    assert (found[0].mean, found[0].low, found[0].high) == pytest.approx((13.75, low, high))
    assert found[1:] == (4, "share")


def test_a_pair_stands_for_each_combination_of_its_settings() -> None:
    family = {"label": "b {quantizer.beta}", "first": "vq", "second": {"name": "fsq"}, "expected": "above"}
    pairs = list(expand({**family, "each": {"quantizer.beta": [1, 4], "quantizer.init": ["kmeans"]}}))
    assert [pair["label"] for pair in pairs] == ["b 1", "b 4"]
    assert pairs[1]["first"] == {"name": "vq", "quantizer.beta": 4, "quantizer.init": "kmeans"}


@pytest.mark.parametrize(
    ("about", "wrong"),
    [
        ({"question": "q", "tier": "cpu"}, "must hold minutes, question, tier"),
        ({"question": "q", "tier": "laptop", "minutes": 1}, "must be one of cpu, gpu, reference, got 'laptop'"),
        ({"question": "q", "tier": "cpu", "minutes": 1, "claims": [{"name": "C1"}]}, "missing"),
        ({"question": "q", "tier": "cpu", "minutes": 1, "claims": [{"name": "C1", "colour": 1}]}, "colour"),
    ],
)
def test_a_file_that_says_too_little_of_its_claims_is_named(tmp_path: Path, about: Any, wrong: str) -> None:
    (tmp_path / "some.yaml").write_text(yaml.safe_dump({"about": about}))
    with pytest.raises(ValueError, match=r"some\.yaml.*") as found:
        load_claims(tmp_path)
    assert wrong in str(found.value)


def test_every_experiment_says_what_it_asks_and_where_it_can_run() -> None:
    for path in (build.ROOT / "experiments").glob("*.yaml"):
        about = yaml.safe_load(path.read_text())["about"]
        assert about["question"].endswith("?") or about["question"], path.name


def test_a_node_is_no_absent_one(tmp_path: Path) -> None:
    for place, branch in enumerate((None, {"channels": 8})):
        config = record().config | {"generation": {"branch": branch}}
        file(record(config=config, hash=f"0000000{place}"), tmp_path)
    (group,) = group_records(read_records(tmp_path / "runs"))
    (row,) = find_rows(View(group, tmp_path), {"name": "fsq", "generation.branch": None})
    assert row.records[0].config["generation"] == {"branch": None}


def test_one_seed_shows_its_effect_and_leaves_the_claim_open(tmp_path: Path) -> None:
    for codes, share in ((240, 0.5), (1000, 0.25)):
        made = swept("vq", codes)
        file(made.model_copy(update={"metrics": made.metrics | {"bits/usage": measure("bits/usage", share)}}), tmp_path)
    (view,) = read_views(tmp_path)
    sides = ({"name": "vq", "quantizer.codebook_size": codes} for codes in (240, 1000))
    pair = dict(zip(("first", "second"), sides, strict=True)) | {"label": "240 - 1000", "expected": "above"}
    (found,) = signs(view, "bits/usage", 0.1, pairs=[pair])
    assert found is not None
    assert (found.effect, found.interval, found.seeds, found.agrees) == ("+0.25", "NA (1 seed)", 1, None)


def test_too_few_seeds_decide_nothing(tmp_path: Path) -> None:
    page = rendered(tmp_path, {1000: 24.0, 4375: 22.0, 15360: 21.0}, seeds=2)
    assert "cannot decide" in next(line for line in page.splitlines() if line.startswith("| C9 "))


def test_a_group_without_the_rows_says_nothing(tmp_path: Path) -> None:
    assert rendered(tmp_path, {1000: 24.0}) == ""


def test_the_defaults_are_those_of_the_confs() -> None:
    config = build.compose(["quantizer=vq", "budget=sweep"])
    assert config["tokenizer"]["depth"] == config["budget"]["tokenizer"]["depth"]
    assert config["tokenizer"]["factor"] == DEFAULTS["tokenizer.factor"]
    assert config["quantizer"]["beta"] == DEFAULTS["quantizer.beta"]
    assert config["quantizer"]["codebook_size"] == DEFAULTS["quantizer.codebook_size"]


def collapsed(folder: Path) -> None:
    """A report on plain VQ that gets worse as its codebook grows, as C9 says."""
    for codes, psnr_db in {240: 23.9, 1000: 24.0, 4375: 22.0, 15360: 21.0}.items():
        for seed in range(3):
            made = swept("vq", codes, seed)
            file(made, folder, kept=shifted(made, psnr_db))
    build_report(folder)


def test_the_page_of_claims_has_all_forty_and_says_what_was_not_run(tmp_path: Path) -> None:
    collapsed(tmp_path)
    lines = (tmp_path / "claims.md").read_text().splitlines()
    assert all(any(re.match(rf"\| {name}[, ]", line) for line in lines) for name in CATALOGUE)
    assert all(any(line.startswith(f"| {claim.title} ") for line in lines) for claim in load_claims())
    (collapse,) = [line for line in lines if line.startswith("| C9 ")]
    assert "**supported** (4 of 4 comparisons agree)" in collapse
    assert any(line.startswith("| C6 ") and "not run: `make sweep EXPERIMENT=fsq_levels`" in line for line in lines)
    assert any(line.startswith("| C20 ") and "not run at this scale; needs" in line for line in lines)


def finding(effect: str, interval: str = "", amount: float | None = None) -> Finding:
    return Finding("", "", effect, interval, "dB", 3, None, amount=amount)


@pytest.mark.parametrize(
    ("findings", "text"),
    [
        ([finding("+0.25", "+0.1 to +0.4", 0.25)], "+0.25 (+0.1 to +0.4) dB"),
        ([finding("+0.25", "NA (1 seed)", 0.25), None], "+0.25 (NA, 1 seed) dB"),
        ([finding("+9", "", 9.0), finding("-0.5", "", -0.5), finding("+10", "", 10.0)], "3 effects: -0.5 … +10 dB"),
        ([finding("none"), finding("+9", "", 9.0), finding("+9", "", 9.0)], "2 effects: +9 … +9 dB"),
        ([finding("none", "none"), finding("none", "none")], "none"),
    ],
)
def test_the_summary_tells_the_effect_with_its_interval_or_its_range(findings: list[Finding | None], text: str) -> None:
    assert span(findings) == text


def test_the_page_of_claims_tells_each_effect(tmp_path: Path) -> None:
    collapsed(tmp_path)
    head, *lines = (line for line in (tmp_path / "claims.md").read_text().splitlines() if line.startswith("| "))
    assert [cell.strip() for cell in head.split("|")][5:7] == ["verdict", "effect (95 % interval)"]
    (collapse,) = [line for line in lines if line.startswith("| C9 ")]
    assert [cell.strip() for cell in collapse.split("|")][6] == "4 effects: -3 … -1.9 dB"


@pytest.mark.parametrize(
    ("interval", "expected", "told"),
    [
        ((-0.03, -0.05, -0.01), "below", "contradicted (claimed sign, too small to count)"),
        ((-0.3, -0.5, -0.2), "above", "contradicted (the other way)"),
        ((0.01, -0.02, 0.04), "above", "contradicted (no effect that counts)"),
        ((0.01, -0.02, 0.04), "not below", "supported (no worse)"),
        ((0.3, 0.2, 0.4), "not below", "supported"),
        ((0.3, 0.2, 0.4), "above", "supported"),
        ((0.01, -0.02, 0.04), "no change", "supported"),
    ],
)
def test_a_verdict_says_what_kind_of_yes_or_no_it_is(
    interval: tuple[float, float, float], expected: str, told: str
) -> None:
    gap = Difference(*interval, separable=True)
    vote = agrees(gap, expected, 0.1)
    assert vote is not None
    one = Finding("", "", "", "", "", 3, vote, why=kind(gap, expected, agrees=vote))
    assert qualified([one, one]) == told


def test_an_open_verdict_says_what_it_lacks() -> None:
    few = Finding("", "", "", "", "", 1, None)
    assert qualified([YES, None, few]) == "cannot decide (rows are missing)"
    assert qualified([YES, few]) == "cannot decide (too few seeds)"
    assert qualified([YES, OPEN]) == "cannot decide (both answers are within reach)"


def test_the_legend_names_every_verdict() -> None:
    assert all(f"{word}:" in RULE for word in ("Supported", "Contradicted", "Mixed", "Cannot decide"))
    assert "mixed is decided" in RULE


def test_a_measure_at_most_so_high_holds_in_every_seed_or_not_at_all(tmp_path: Path) -> None:
    for name, shares in {"vq": [0.1, 0.2, 0.1], "fsq": [0.6, 0.7, 0.8], "lfq": [0.4, 0.5, 0.6]}.items():
        for seed, value in enumerate(shares):
            made = swept(name, 1000, seed)
            kept = made.metrics | {"bits/usage": measure("bits/usage", value)}
            file(swept(name, 1000, seed, metrics=kept), tmp_path)
    (group,) = group_records(read_records(tmp_path / "runs"))
    view = View(group, tmp_path / "runs")
    found = at_most(view, "bits/usage", 0.05, sides=["vq", "fsq", "lfq", "gone"], level=0.5)
    assert [finding and finding.agrees for finding in found] == [True, False, None, None]
    assert found[3] is None


def test_a_run_by_hand_leaves_the_verdict_to_the_rows_of_the_experiment(tmp_path: Path) -> None:
    """Another learning rate makes another row of the same name: which one is meant the sweep's list says."""
    made = [swept("vq", codes, seed) for codes in (240, 1000) for seed in range(3)]
    for run in made:
        file(run, tmp_path, kept=shifted(run, 20.0 if run.config["quantizer"]["codebook_size"] == 240 else 22.0))
    other = swept("vq", 240, 7).model_copy(update={"hash": "0badcafe"})
    other = other.model_copy(update={"config": {**other.config, "budget": {"tokenizer": {"lr": 1.0}}}})
    file(other, tmp_path, kept=shifted(other, 5.0))
    (view,) = read_views(tmp_path)
    side = {"name": "vq", "quantizer.codebook_size": 240}
    assert find_row(view, side) is None
    view.asked.append(frozenset(run.file_name for run in made))
    row = find_row(view, side)
    assert row is not None
    assert {record.seed for record in row.records} == {0, 1, 2}
    remember(tmp_path, "codebook_size", [run.file_name for run in made])
    claim = next(claim for claim in load_claims() if claim.name == "C9")
    findings_of(claim, view)
    assert view.asked == [{run.file_name for run in made}, {run.file_name for run in [*made, other]}]
    later = frozenset({other.file_name})
    for asked, seeds in (([later], {7}), ([frozenset[str](), later], {7}), ([view.asked[0], later], {0, 1, 2})):
        view.asked[:] = asked  # those named first before others
        row = find_row(view, side)
        assert row is not None
        assert {record.seed for record in row.records} == seeds


def test_what_a_claim_lacks_is_counted_below_its_comparisons() -> None:
    claim = next(claim for claim in load_claims() if claim.name == "C9")
    assert comparisons(claim, [finding("+0.25", "+0.1 to +0.4", 0.25), None, None])[-1] == (
        "An effect counts from 0.1 dB. 2 of 3 comparisons have no runs here."
    )
    assert comparisons(claim, [finding("+0.25")])[-1] == "An effect counts from 0.1 dB."


def found(name: str, group: str, *findings: Finding | None) -> Verdict:
    return Verdict(next(claim for claim in load_claims() if claim.name == name), group, findings)


def test_what_decides_nothing_for_lack_of_rows_is_left_out_where_another_group_holds_more() -> None:
    whole, open_, part, decided = (
        found("C6", group, *findings)
        for group, findings in zip("abcd", ((YES, NO), (OPEN, OPEN), (YES, None), (NO, None)), strict=True)
    )
    most, least = found("C9", "a", YES, OPEN, None), found("C9", "b", YES, None, None)
    assert fullest([whole, open_, part, decided, most, least]) == [whole, open_, decided, most]


def test_readme_tells_what_is_decided_by_rules_made_beforehand_and_names_all_other_claims() -> None:
    told = [
        found("C8", "a", YES),
        found("C8", "b", OPEN),
        found("C9", "a", NO),
        found("C2", "a", OPEN),
        found("C9, usage", "a", YES),
    ]
    *table, undecided, not_run, afterwards, _ = answers(told)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:-1]]
    assert [[line[0], line[2], line[3], line[5]] for line in cells] == [
        ["C8", "a", "**supported**", "0.1"],
        ["C9", "a", "**contradicted**", "0.1"],
    ]
    assert undecided == "- Cannot decide (both answers are within reach): C2."
    assert "; C3, order; " in not_run
    assert "C8" not in not_run
    assert afterwards.endswith("were known: C9, usage.")
    assert answers([found("C2", "a", OPEN)]) == []
