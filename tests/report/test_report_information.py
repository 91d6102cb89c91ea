"""The page of code lengths, from records alone."""

from __future__ import annotations

from pathlib import Path

from report_factory import file, measure, record, swept

from tokbench.records import RunRecord
from tokbench.report.build import build_report
from tokbench.report.information import build_information, code_lengths, short_tables
from tokbench.report.view import read_views

KEYS = {
    "information/token_bits_per_subpixel": 0.2,
    "information/residual_bits_per_subpixel": 4.8,
    "information/lossless_bits_per_subpixel": 5.0,
}


def coded(made: RunRecord, **more: float) -> RunRecord:
    values = KEYS | {f"information/{key}": value for key, value in more.items()}
    codecs = {"baseline/png/information/tiled_file_bits_per_subpixel": 5.6}
    kept = made.metrics | {key: measure(key, value) for key, value in (values | codecs).items()}
    pixel = {"bits/nominal_bits_per_pixel": measure("bits/nominal_bits_per_pixel", 640 / 1024)}
    return made.model_copy(update={"metrics": kept | pixel})


def page(folder: Path, *records: RunRecord) -> str:
    for made in records:
        file(made, folder)
    build_report(folder)
    return (folder / "information.md").read_text()


def test_the_table_has_totals_codecs_and_the_budget(tmp_path: Path) -> None:
    text = page(tmp_path, coded(swept("vq", 1024)))
    assert "| png            |            NA (not measured) |                                 5.600 |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| vq ") and "5.000" in line]
    assert "0.200" in row
    (budget,) = [line for line in text.splitlines() if line.startswith("| vq ") and "times too few" in line]
    assert " 32 x 32 " in budget
    assert "15,360" in budget  # 3 x 32 x 32 sub-pixels of 5 bits, less than PNG's
    assert "SEED (arXiv:2307.08041)" in text


def test_without_code_lengths_there_is_no_page(tmp_path: Path) -> None:
    file(record("fsq"), tmp_path)
    build_report(tmp_path)
    assert not (tmp_path / "information.md").exists()
    assert "information.md" not in (tmp_path / "README.md").read_text()


def test_a_run_taken_further_replaces_the_one_that_stopped_and_shares_its_page(tmp_path: Path) -> None:
    """Records of both stages make one row, and rows of either stage one page."""
    short = swept("vq", 1024)
    further = coded(short).model_copy(update={"stage": "bits", "hash": "abcdef01"})
    further = further.model_copy(update={"versions": further.versions | {"information.lossless": 1}})
    page(tmp_path, short, further, swept("fsq", 1024))
    assert len(list(tmp_path.glob("cifar10-cpu*.md"))) == 1
    text = (tmp_path / "cifar10-cpu.csv").read_text()
    assert "abcdef01" in text
    assert short.file_name not in text


def test_where_the_entropy_is_known_images_hold_exactly_that(tmp_path: Path) -> None:
    made = coded(swept("vq", 1024))
    known = {"bits/source_bits_per_image": measure("bits/source_bits_per_image", 307.2)}
    text = page(tmp_path, made.model_copy(update={"metrics": made.metrics | known}))
    assert "Held: 0.100 bits a sub-pixel, the exact entropy of the process that drew them." in text
    (budget,) = [line for line in text.splitlines() if line.startswith("| vq ") and "enough, by" in line]
    assert "| 307 |" in " ".join(budget.split())


def test_what_a_grid_needs_follows_from_its_codes_and_what_it_uses_stands_beside(tmp_path: Path) -> None:
    text = page(tmp_path, coded(swept("vq", 1024)))
    (budget,) = [line for line in text.splitlines() if line.startswith("| vq ") and "times too few" in line]
    cells = [cell.strip() for cell in budget.strip("|").split("|")]
    assert cells[4] == "640"
    assert cells[7] == "14,720"  # 15,360 - 640
    assert cells[9] == "1,536"  # 15,360 / log2 1024
    assert cells[-1] == "576"


def test_a_reader_in_a_hurry_sees_one_row_of_each_name_beside_codecs_and_published_systems(tmp_path: Path) -> None:
    for name, codes in (("fsq", 1000), ("vq", 16), ("vq", 1024)):
        file(coded(swept(name, codes)), tmp_path)
    (found,) = read_views(tmp_path)
    lines = short_tables(found)
    assert sum(line.startswith("| vq ") for line in lines) == 2
    assert any(line.startswith("| vq ") and " 1,024 " in line for line in lines)
    assert any(line.startswith("| *png* ") and "5.600" in line for line in lines)
    assert any(line.startswith("| SEED ") for line in lines)


def test_the_picture_has_a_bar_for_each_tokenizer_and_codec_and_the_page_shows_it(tmp_path: Path) -> None:
    text = page(tmp_path, coded(swept("fsq", 1024)), coded(swept("vq", 1024)), coded(swept("vq", 64)))
    assert "![One code length](information-cifar10-cpu.png)" in text
    assert (tmp_path / "information-cifar10-cpu.png").read_bytes()[:4] == b"\x89PNG"
    (view,) = read_views(tmp_path)
    bars = {bar.label: bar for bar in code_lengths(view)}
    assert list(bars) == ["fsq", "vq", "png"]  # of a name the row of most nearly FSQ's bits
    assert (bars["vq"].tokens, bars["vq"].left, bars["vq"].total) == (0.2, 4.8, 5.0)
    assert (round(bars["png"].total, 6), bars["png"].left) == (5.6, None)


def test_an_experiments_group_is_shown_where_it_has_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    small = {"data": {"name": "cifar10", "size": 16}}
    for name, config in (("fsq", {}), ("fsq", small), ("pixels", small)):
        made = swept(name, 1024, 0 if config else 1)
        file(coded(made.model_copy(update={"config": {**made.config, **config}})), tmp_path)
    first, second = sorted(read_views(tmp_path), key=lambda view: len(view.rows))
    text = (build_information([first], tmp_path, [first, second])[0]).read_text()
    assert [line for line in text.splitlines() if line.startswith("## cifar10")] == [
        "## cifar10-cpu",
        "## cifar10-16-cpu",
    ]
    text = (build_information([second], tmp_path, [first, second])[0]).read_text()
    assert [line for line in text.splitlines() if line.startswith("## cifar10")] == ["## cifar10-16-cpu"]
