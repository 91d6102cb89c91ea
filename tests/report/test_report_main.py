"""The main table: one line a tokenizer, with what other data say of the same one."""

from __future__ import annotations

from pathlib import Path

from report_factory import file, measure, record

from tokbench.report.build import build_report


def cells(folder: Path, name: str) -> dict[str, str]:
    build_report(folder)
    lines = [line for line in (folder / "main.md").read_text().splitlines() if line.startswith("|")]
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")]
    (row,) = [line for line in lines if line.startswith(f"| {name} ")]
    return dict(zip(heads, [cell.strip() for cell in row.strip("|").split("|")], strict=True))


def test_each_row_has_its_quality_its_bits_and_its_cost(tmp_path: Path) -> None:
    for seed in range(3):
        for name in ("fsq", "continuous_4"):
            file(record(name, seed, ranked=True), tmp_path)
    found = cells(tmp_path, "fsq")
    assert "[" in found["PSNR (dB) [95 %]"]
    assert "(floor " in found["gFD, common"]
    assert found["seeds / test images"].startswith("3 / ")
    assert "nominal (bits/pixel)" not in found or cells(tmp_path, "continuous_4")["nominal (bits/pixel)"]


def test_a_column_of_other_data_is_of_the_same_tokenizer(tmp_path: Path) -> None:
    file(record("fsq", ranked=True), tmp_path)
    other = record("fsq", 1, ranked=True, hash="0123abcd")
    read = {"legibility/string_accuracy_relative": measure("legibility/string_accuracy_relative", 0.5)}
    data = other.data.model_copy(update={"name": "glyphs", "fingerprints": {"train": "99"}})
    file(other.model_copy(update={"metrics": other.metrics | read, "data": data}), tmp_path)
    build_report(tmp_path)
    text = (tmp_path / "main.md").read_text().split("## cifar10")[1].split("## ")[0]
    assert "strings read, glyphs (%)" in text
    assert "50.0" in text


def test_groups_that_stopped_earlier_have_no_line(tmp_path: Path) -> None:
    file(record("fsq", stage="tokenizer", ranked=True), tmp_path)
    build_report(tmp_path)
    assert not (tmp_path / "main.md").exists()
