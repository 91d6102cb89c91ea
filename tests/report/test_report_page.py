"""Pages: what may share a table, what is ranked, what is said of what is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from report_factory import failure, file, measure, metrics, record

from tokbench.records import RunRecord
from tokbench.report.__main__ import main
from tokbench.report.build import build_report
from tokbench.report.formatting import markdown_table
from tokbench.report.headline import headline
from tokbench.report.page import plain, render_page
from tokbench.report.tidy import FIELDS
from tokbench.report.view import read_views

GOLDEN = Path(__file__).with_name("golden_table.md")


def pages(results: Path, *records: RunRecord, with_arrays: bool = False) -> dict[str, str]:
    """Name to text of the files written, but for the pictures."""
    for made in records:
        file(made, results, with_arrays=with_arrays)
    return {path.name: path.read_text() for path in build_report(results) if path.suffix != ".png"}


def tables(page: str) -> list[list[str]]:
    """The tables of a page, as lists of lines."""
    return [block.strip().splitlines() for block in page.split("\n\n") if block.strip().startswith("|")]


def headings(page: str) -> list[str]:
    return [table[0] for table in tables(page)]


def body(page: str, title: str) -> str:
    """What stands under a heading, up to the next."""
    return re.split(r"\n##+ ", page.split(f"# {title}\n", 1)[1])[0]


def test_the_page_of_two_runs_is_the_golden_one(tmp_path: Path) -> None:
    """To regenerate: `python tests/report/regenerate_golden.py` (and read the difference)."""
    from regenerate_golden import golden_page

    assert GOLDEN.exists(), f"{GOLDEN.name} is missing: python tests/report/regenerate_golden.py writes it"
    assert golden_page(tmp_path) == GOLDEN.read_text()


def test_demonstrations_have_neither_arrow_nor_bold(tmp_path: Path) -> None:
    page = pages(tmp_path, *(record(name, seed) for name in ("fsq", "vq_tuned") for seed in range(3)))[
        "photos32-cpu.md"
    ]
    assert "demo, unranked" in page
    assert "Not ranked: the data are a demonstration." in page
    assert not re.search("[↑↓]", page)
    assert not any("**" in line for table in tables(page) for line in table)


def test_ranked_data_has_arrows_but_never_on_what_collapse_improves(tmp_path: Path) -> None:
    page = pages(tmp_path, record("fsq", 0, ranked=True), record("vq", 0, ranked=True))["cifar10-cpu.md"]
    assert "PSNR (dB) ↑" in page
    assert "gFD classifier ↓" in page
    (bits,) = [line for line in headings(page) if "perplexity" in line]
    (model,) = [line for line in headings(page) if "model, image" in line]
    (training,) = [line for line in headings(page) if "tokenizer loss" in line]
    assert not re.search("[↑↓]", bits + model + training)


@pytest.mark.parametrize(("seeds", "ranks"), [(2, False), (3, True)])
def test_the_best_is_bold_only_from_three_seeds_on(tmp_path: Path, seeds: int, ranks: bool) -> None:
    made = (record(name, seed, ranked=True) for name in ("fsq", "vq", "vq_tuned") for seed in range(seeds))
    page = pages(tmp_path, *made, with_arrays=True)["cifar10-cpu.md"]
    bold = re.findall(r"\*\*(\d[^*]*)\*\*", body(page, "Reconstruction"))
    assert bold == (["24.07 ± 0.03"] if ranks else [])
    assert ("fewer than three seeds" in page) is not ranks


def test_one_seed_measured_whole_and_three_reconstructed_make_one_row_that_ranks_in_psnr_alone(tmp_path: Path) -> None:
    """As experiments=default leaves them, with the first seed's tokenizer recorded alone before."""
    for name in ("fsq", "vq", "vq_tuned"):
        alone = [
            record(name, seed, ranked=True, stage="tokenizer", hash=f"{seed}{len(name)}aaaaaa") for seed in range(3)
        ]
        for made in (*alone, record(name, 0, ranked=True)):
            file(made, tmp_path)
    page = pages(tmp_path)["cifar10-cpu.md"]
    assert "runs: 9 over 3 rows, seeds 0, 1, 2" in page
    assert re.findall(r"\*\*(\d[^*]*)\*\*", body(page, "Reconstruction")) == ["24.07 ± 0.03"]
    assert not re.search(r"\*\*\d", body(page, "Guidance 1"))
    text = headline(read_views(tmp_path))
    assert text.startswith("**cifar10-cpu** (3 seeds; generation: 1 seed)\n")
    assert re.findall(r"\*\*(\d[^*]*)\*\*", text) == ["24.07 ± 0.03"]
    assert "Bold: the best of equal nominal bits" in text


@pytest.mark.parametrize(("better", "leads"), [(False, True), (True, False)])
def test_a_row_of_few_seeds_never_leads_but_may_deny_the_lead(tmp_path: Path, better: bool, leads: bool) -> None:
    key = "reconstruction/psnr_db"
    made = [record(name, seed, ranked=True) for name in ("fsq", "vq") for seed in range(3)]
    extra = metrics("vq_tuned", 0) | {key: measure(key, 99.0 if better else 1.0)}
    made.append(record("vq_tuned", 0, ranked=True, metrics=extra))
    page = pages(tmp_path, *made, with_arrays=True)["cifar10-cpu.md"]
    bold = re.findall(r"\*\*(\d[^* ]*)", body(page, "Reconstruction"))
    assert any(10 < float(cell) < 90 for cell in bold) is leads  # of the PSNR column
    assert "Some rows have fewer than three seeds: they never lead" in page


def test_a_continuous_tokenizer_does_not_outrank_codes_of_fewer_bits(tmp_path: Path) -> None:
    made = (record(name, seed, ranked=True) for name in ("fsq", "continuous_8") for seed in range(3))
    page = pages(tmp_path, *made, with_arrays=True)["cifar10-cpu.md"]
    assert not re.search(r"\*\*\d", body(page, "Reconstruction"))


@pytest.mark.parametrize(("gap", "ranks"), [(2.6, False), (2.8, True)])
def test_a_distance_leads_only_by_more_than_three_floors(tmp_path: Path, gap: float, ranks: bool) -> None:
    key = "common/generation/fd_classifier"
    for name, value in (("fsq", 10.0), ("vq", 10.0 + gap)):
        for seed in range(3):
            changed = metrics(name, seed) | {key: measure(key, value, floor=0.9)}
            file(record(name, seed, ranked=True, metrics=changed), tmp_path, with_arrays=False)
    page = pages(tmp_path)["cifar10-cpu.md"]
    assert ("**10**" in page) is ranks


@pytest.mark.parametrize("used", ["classifier", "random64"])
def test_who_was_trained_on_a_measures_features_is_not_ranked_by_it(tmp_path: Path, used: str) -> None:
    """C40: the row with the best value leads only where its loss saw other features; the page says why it does not."""
    key = "common/generation/fd_classifier"
    for name, value in (("vq_tuned", 5.0), ("fsq", 10.0), ("vq", 20.0)):
        for seed in range(3):
            changed = metrics(name, seed) | {key: measure(key, value, floor=0.9)}
            told = {"environment": {"trained_on_features": [used]}} if name == "vq_tuned" else {}
            file(record(name, seed, ranked=True, metrics=changed, **told), tmp_path, with_arrays=False)
    page = pages(tmp_path)["cifar10-cpu.md"]
    flattered = used == "classifier"
    assert ("**10**" in page, "**5**" in page) == (flattered, not flattered)
    assert ("gFD classifier does not rank vq_tuned: trained on the same features (classifier)" in page) is flattered


def test_rows_of_another_loss_are_no_peers(tmp_path: Path) -> None:
    made = [record(name, seed, ranked=True) for name in ("fsq", "vq") for seed in range(3)]
    assert re.search(
        r"\*\*\d", body(pages(tmp_path / "a", *made, with_arrays=True)["cifar10-cpu.md"], "Reconstruction")
    )
    made = [
        r.model_copy(update={"config": r.config | ({"loss": {"pixels": "l1"}} if r.name == "vq" else {})}) for r in made
    ]
    page = pages(tmp_path / "b", *made, with_arrays=True)["cifar10-cpu.md"]
    assert not re.search(r"\*\*\d", body(page, "Reconstruction"))


def test_native_generation_is_never_ranked(tmp_path: Path) -> None:
    key = "native/generation/fd_classifier"
    for name, value in (("fsq", 10.0), ("vq", 100.0)):
        for seed in range(3):
            changed = metrics(name, seed) | {key: measure(key, value, floor=0.1)}
            file(record(name, seed, ranked=True, metrics=changed), tmp_path, with_arrays=False)
    page = pages(tmp_path)["cifar10-cpu.md"]
    native = page.split("## 3. ")[1].split("## 4. ")[0]
    assert "chameleon" in native
    assert "**" not in native


def test_different_budgets_never_share_a_page(tmp_path: Path) -> None:
    written = pages(tmp_path, record("fsq"), record("vq", budget="gpu"))
    assert {"photos32-cpu.md", "photos32-gpu.md"} <= written.keys()
    assert "vq" not in "".join(line for table in tables(written["photos32-cpu.md"]) for line in table)
    assert "| fsq" not in written["photos32-gpu.md"]


@pytest.mark.parametrize("how", ["version", "protocol", "data"])
def test_other_versions_protocols_and_data_never_share_a_page_and_the_newest_keeps_the_name(
    tmp_path: Path, how: str
) -> None:
    old = record("fsq", created="2024-01-01T00:00:00+0000", hash="aaaaaaaa")
    new = record("vq", created="2025-01-01T00:00:00+0000")
    if how == "version":
        new = new.model_copy(update={"versions": {"metrics.images": 2, "quantizers.vq": 1}})
    elif how == "protocol":
        key = "reconstruction/psnr_db"
        other = replace(new.metrics[key], protocol="pooled over the set")
        new = new.model_copy(update={"metrics": new.metrics | {key: other}})
    else:
        new = new.model_copy(update={"data": new.data.model_copy(update={"fingerprints": {"test": "33"}})})
    written = pages(tmp_path, old, new)
    (other_name,) = [name for name in written if re.fullmatch(r"photos32-cpu-[0-9a-f]{6}\.md", name)]
    assert "| vq " in written["photos32-cpu.md"]
    assert "| fsq " not in written["photos32-cpu.md"]
    assert "| fsq " in written[other_name]
    assert "| vq " not in written[other_name]


def test_an_older_run_of_the_same_configuration_is_not_mixed_in(tmp_path: Path) -> None:
    old = record("fsq", created="2024-01-01T00:00:00+00:00", hash="aaaaaaaa", versions={"metrics.images": 1})
    new = record("fsq", hash="bbbbbbbb", versions={"metrics.images": 1, "layers": 1})
    written = pages(tmp_path, old, new)
    assert "bbbbbbbb" in written["photos32-cpu.csv"]
    assert "aaaaaaaa" not in written["photos32-cpu.csv"]


def test_a_tokenizer_stage_gives_way_to_the_whole_run(tmp_path: Path) -> None:
    written = pages(tmp_path, record("fsq", stage="tokenizer", hash="aaaaaaaa"), record("fsq", hash="bbbbbbbb"))
    assert {name for name in written if name.endswith(".md")} == {
        "README.md",
        "claims.md",
        "main.md",
        "photos32-cpu.md",
    }
    assert "aaaaaaaa" not in written["photos32-cpu.csv"]


def test_a_run_with_measures_on_photographs_is_the_same_row_as_those_without(tmp_path: Path) -> None:
    measured = record("fsq", hash="bbbbbbbb")
    key = "photographs/psnr_db"
    more = measured.metrics | {key: measured.metrics["reconstruction/psnr_db"]}
    measured = measured.model_copy(update={"config": measured.config | {"rd": {"name": "kodak"}}, "metrics": more})
    written = pages(tmp_path, record("fsq", hash="aaaaaaaa"), measured, record("fsq", 1, hash="cccccccc"))
    assert "rd=" not in written["photos32-cpu.md"]
    assert "aaaaaaaa" not in written["photos32-cpu.csv"]
    assert "cccccccc" in written["photos32-cpu.csv"]


def test_two_configurations_of_one_name_are_two_rows_that_say_what_differs(tmp_path: Path) -> None:
    config = record().config | {"quantizer": {"levels": [4, 4]}}
    page = pages(tmp_path, record(), record(config=config, hash="00000001"))["photos32-cpu.md"]
    assert "| fsq (levels=[8,5,5,5]) |" in page
    assert "| fsq (levels=[4,4])     |" in page


def test_what_is_missing_says_why(tmp_path: Path) -> None:
    page = pages(tmp_path, record("continuous_4"), record("patches", stage="tokenizer"))["photos32-cpu.md"]
    assert "NA (continuous)" in page
    assert "NA (n = 1,200 < 5,000)" in page
    assert "Not measured: patches." in page
    assert "not converged" in page
    assert "None" not in page.replace("None.", "").replace("None of these", "")


def test_without_arrays_the_page_is_whole_but_for_intervals_and_pictures(tmp_path: Path) -> None:
    page = pages(tmp_path, record("fsq"), record("vq"))["photos32-cpu.md"]
    assert "NA (no arrays)" in page
    assert "### PSNR\n" not in page
    assert len(tables(body(page, "gFD classifier, common"))[0]) == 3
    assert re.findall(r"\]\((photos32-cpu-[^)]*)", page) == ["photos32-cpu-frontiers.png"]  # of numbers alone


def test_changed_arrays_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = file(record("fsq"), tmp_path)
    path.with_suffix(".npz").write_bytes(b"not these")
    page = pages(tmp_path)["photos32-cpu.md"]
    assert path.with_suffix(".npz").name in caplog.text
    assert "NA (no arrays)" in page


def test_baselines_stand_in_the_tables_they_apply_to(tmp_path: Path) -> None:
    page = pages(tmp_path, record("fsq"))["photos32-cpu.md"]
    assert "*mean colour*" in body(page, "Reconstruction")
    assert "*training images replayed*" in body(page, "Guidance 1")
    assert "*colour alone*" in body(page, "Common: bidirectional image mask")
    assert "*" not in "".join(tables(body(page, "Best guidance"))[0])


def test_paired_differences_carry_a_verdict(tmp_path: Path) -> None:
    made = (record(name, seed) for name in ("fsq", "vq") for seed in range(2))
    page = pages(tmp_path, *made, with_arrays=True)["photos32-cpu.md"]
    (table,) = tables(body(page, "PSNR"))
    assert re.search(
        r"\| vq +\| +fsq \| +-3\.\d\d \| -3\.\d\d to -[23]\.\d\d \| separable \| +0\.33 \| +2 \|", table[2]
    )


def test_failed_runs_are_listed_until_they_succeed(tmp_path: Path) -> None:
    page = pages(tmp_path, record("fsq"), failure("lfq"), failure("vq", hash="aaaaaaaa"))["photos32-cpu.md"]
    listed = page.split("## 9. Failed runs")[1]
    assert "Diverged: loss term codebook is nan at step 12" in listed
    assert "`lfq-s0-" in listed
    assert "`vq-s0-aaaaaaaa.failed.json`" in listed
    page = pages(tmp_path, record("vq", hash="bbbbbbbb"))["photos32-cpu.md"]  # the same configuration, newer versions
    assert "vq-s0-aaaaaaaa" not in page


MARKED = (
    "![x](http://evil.example/x.png)",
    "[x](javascript:alert(1)) [y]: [z][y]",
    "<http://evil.example> <b>bold</b> <!-- x --> &lt; &#42; 1 < 2 & 3",
    "__init__ _x_ *y* **z** `code` a_b ~~gone~~",
    "\\ \\| | a\\",
    "two\n\n# lines\n- and | a cell",
)


@pytest.mark.parametrize("text", MARKED)
def test_plain_text_is_shown_as_it_stands(text: str) -> None:
    renderer = MarkdownIt("js-default", {"html": True})
    shown = escapeHtml(" ".join(text.split()))
    assert renderer.render(f"- a: {plain(text)}") == f"<ul>\n<li>a: {shown}</li>\n</ul>\n"
    assert f"<td>{shown}</td>" in renderer.render("\n".join(markdown_table(["a"], [[plain(text)]])))


def test_plain_text_of_names_and_numbers_is_not_changed() -> None:
    text = "vq_ema_rotation (factor=8), PSNR >= 40 dB, 1 - exp(-n / V), images <= features; Some CPU, 2 cores"
    assert plain(text) == text


def test_what_records_say_is_shown_as_it_stands(tmp_path: Path) -> None:
    """Each place of the page where a record's own words enter its Markdown."""
    said = {
        name: f"![{name}](http://evil.example) <b>`x`</b> _y_" for name in ("split", "key", "value", "room", "protocol")
    }
    made, key = record("fsq._a_.x", ranked=True, budget="cpu._b_.x"), "reconstruction/psnr_db"
    made = made.model_copy(
        update={
            "data": made.data.model_copy(
                update={
                    "name": "photos._c_.x",
                    "sizes": {said["split"]: 3},
                    "fingerprints": {said["split"]: "`<b>`*x*"},
                }
            ),
            "environment": {said["key"]: said["value"], "list": [said["value"]]},
            "versions": {said["room"]: 1},
            "metrics": made.metrics | {key: replace(made.metrics[key], protocol=said["protocol"])},
        }
    )
    failed = {name: f"[{name}](http://evil.example) | <i>" for name in ("stage", "error")}
    for each in (made, record("lfq._d_.x", status="failed", data=made.data, budget=made.budget, **failed)):
        file(each, tmp_path, with_arrays=False)
    (view,) = read_views(tmp_path)
    rendered = MarkdownIt("js-default", {"html": True}).render(render_page(view, [Path("a._e_.png")]))
    assert re.findall(r"<(?:img|a|b|i)\b.*", rendered) == ['<img src="a._e_.png" alt="a._e_"></p>']
    names = (
        "<h1>photos._c_.x-cpu._b_.x</h1>",
        "data: photos._c_.x,",
        "budget: cpu._b_.x",
        "seeds (fsq._a_.x)",
        ">lfq._d_.x<",
    )
    assert [name for name in names if name not in rendered] == []
    assert "<code>'&lt;b&gt;'*x*</code>" in rendered  # a print, where no backslash helps
    for text in (*said.values(), *failed.values()):
        assert escapeHtml(text) in rendered


def test_failures_alone_make_a_page(tmp_path: Path) -> None:
    written = pages(tmp_path, failure("lfq"))
    assert "Diverged" in written["photos32-cpu.md"]
    assert headline(read_views(tmp_path)) == ""


def test_the_csv_has_one_line_a_run_and_measure(tmp_path: Path) -> None:
    pages(tmp_path, record("fsq"), record("continuous_4"))
    frame = pd.read_csv(tmp_path / "photos32-cpu.csv")
    assert tuple(frame.columns) == FIELDS
    assert len(frame) == len(metrics("fsq", 0)) + len(metrics("continuous_4", 0))
    assert set(frame["block"]) >= {"tokenizer", "common", "native", "baseline/mean_colour"}
    line = frame[(frame["name"] == "fsq") & (frame["block"] == "common") & (frame["measure"] == "guided/fd_classifier")]
    assert line["value"].tolist() == [10.1]
    assert line["floor"].tolist() == [0.9]
    missing = frame[frame["value"].isna()]
    assert missing["reason"].notna().all()


def test_the_index_links_what_is_there(tmp_path: Path) -> None:
    index = pages(tmp_path, record("fsq"), with_arrays=True)["README.md"]
    links = re.findall(r"\]\(([^)]+)\)", index)
    assert "photos32-cpu-reconstruction.png" in links
    assert all((tmp_path / link).exists() for link in links)


def test_the_report_is_the_same_twice(tmp_path: Path) -> None:
    file(record("fsq"), tmp_path)
    first = {path: path.read_bytes() for path in build_report(tmp_path)}
    assert {path: path.read_bytes() for path in build_report(tmp_path)} == first


def test_the_headline_is_one_markdown_table_a_group(tmp_path: Path) -> None:
    pages(tmp_path, record("fsq"), record("continuous_4"), record("vq", ranked=True))
    text = headline(read_views(tmp_path))
    assert text.startswith("**cifar10-cpu** (1 seed)\n\n| tokenizer")
    assert "**photos32-cpu** (1 seed, demo, unranked)" in text
    assert re.search(r"\| fsq +\| +23\.55 \| +638 \|", text)
    assert all(line.count("|") == 10 for line in text.splitlines() if line.startswith("|"))


def test_the_headline_has_a_distance_where_there_are_no_classes(tmp_path: Path) -> None:
    made = record("fsq")
    kid = {"common/generation/kid_random64": measure("common/generation/kid_random64", 0.0234)}
    file(made.model_copy(update={"metrics": made.metrics | kid}), tmp_path)
    text = headline(read_views(tmp_path))
    assert "gFD common" in text
    assert "KID" not in text
    classless = {key: found for key, found in made.metrics.items() if not key.endswith("fd_classifier")}
    file(made.model_copy(update={"metrics": classless | kid}), tmp_path)
    text = headline(read_views(tmp_path))
    assert "KID random64 common / native" in text
    assert "0.0234 / " in text
    assert "gFD" not in text


def test_the_command_writes_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file(record("fsq"), tmp_path)
    assert main(["--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "photos32-cpu.md") in printed
    assert "| fsq" in printed


def test_the_command_says_that_there_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path)]) == 2
    assert "no records in" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_mixed_protocols_stand_together_only_when_asked_and_never_rank(tmp_path: Path) -> None:
    for seed in range(3):
        for name, version in (("fsq", 1), ("vq", 2)):
            file(record(name, seed, ranked=True, versions={"metrics.images": version}), tmp_path)
    build_report(tmp_path)
    assert not list(tmp_path.glob("*-mixed.md"))
    build_report(tmp_path, mixed=True)
    (page,) = tmp_path.glob("*-mixed.md")
    text = page.read_text()
    assert re.search(r"\| (vq|fsq)-[0-9a-f]{6} .*other protocol or data: [0-9a-f]{6}", text)
    assert "**" not in "".join(tables(body(text, "Reconstruction"))[0])
    assert "↑" not in text
