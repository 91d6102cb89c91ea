"""The main table: one line a tokenizer, with what other data say of the same one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
from report_factory import file, measure, metrics, record

from tokbench.records import RunRecord
from tokbench.report.build import build_report
from tokbench.report.headline import headline
from tokbench.report.view import read_views


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
    assert found["generation, common"].startswith("gFD ")
    assert "(floor " in found["generation, common"]
    assert found["generation, native"].endswith(", chameleon)")
    assert found["seeds: reconstruction / generation"] == "3 / 3"
    assert found["images: reconstructed / generated / captioned"].split(" / ")[0] != "0"
    assert "nominal (bits/pixel)" not in found or cells(tmp_path, "continuous_4")["nominal (bits/pixel)"]


def beside_glyphs(other: RunRecord, folder: Path) -> str:
    """The main table of CIFAR-10 once `other` was trained on glyphs, half of whose strings it keeps."""
    key = "legibility/string_accuracy_relative"
    data = other.data.model_copy(update={"name": "glyphs", "fingerprints": {"train": "99"}})
    file(other.model_copy(update={"metrics": other.metrics | {key: measure(key, 0.5)}, "data": data}), folder)
    build_report(folder)
    return (folder / "main.md").read_text().split("## cifar10")[1].split("## ")[0]


def test_a_column_of_other_data_is_of_the_same_tokenizer(tmp_path: Path) -> None:
    file(record("fsq", ranked=True), tmp_path)
    other = record("fsq", 1, ranked=True, hash="0123abcd")
    text = beside_glyphs(other, tmp_path)
    assert "strings read of those read in originals, glyphs (%)" in text
    assert "50.0" in text


def test_groups_that_stopped_earlier_have_no_line(tmp_path: Path) -> None:
    file(record("fsq", stage="tokenizer", ranked=True), tmp_path)
    build_report(tmp_path)
    assert not (tmp_path / "main.md").exists()


def test_psnr_at_equal_model_bits_is_read_off_the_sweep_of_the_method(tmp_path: Path) -> None:
    """FSQ has 478.4 model bits of an image; vq, with V = 16 and 4096, has 400 and 600: 39 % of the way from 20 to 24 dB."""
    for seed in range(3):
        file(record("fsq", seed, ranked=True), tmp_path)
        for codes, bits, quality in ((16, 400.0, 20.0), (4096, 600.0, 24.0)):
            made = record("vq", seed, ranked=True, hash=f"{codes:07x}{seed}")
            values = {"native/bits/model_bits_per_image": bits, "native/bits/model_bits_per_pixel": bits / 1024}
            values |= {"reconstruction/psnr_db": quality, "bits/nominal_bits_per_image": 64 * math.log2(codes)}
            values |= {"bits/nominal_bits_per_pixel": math.log2(codes) / 16}
            known = {key: measure(key, value) for key, value in values.items()}
            config = made.config | {"quantizer": {"codebook_size": codes}}
            file(made.model_copy(update={"metrics": made.metrics | known, "config": config}), tmp_path)
    assert cells(tmp_path, "vq (codebook_size=16)")["PSNR at FSQ's model bits (dB)"] == "21.57"


def test_psnr_at_equal_model_bits_may_be_read_off_a_sweep_at_another_budget(tmp_path: Path) -> None:
    file(record("vq", 0, ranked=True), tmp_path)
    sweep = {"budget": "sweep", "stage": "bits", "ranked": True}
    for name, codes, bits, quality in (("fsq", 1000, 500.0, 23.0), ("vq", 16, 400.0, 20.0), ("vq", 4096, 600.0, 24.0)):
        values = {"native/bits/model_bits_per_image": bits, "native/bits/model_bits_per_pixel": bits / 1024}
        values |= {"reconstruction/psnr_db": quality, "bits/nominal_bits_per_image": 64 * math.log2(codes)}
        values |= {"bits/nominal_bits_per_pixel": math.log2(codes) / 16}
        made = record(name, 0, hash=f"{codes:08x}", **sweep)
        config = made.config | {"quantizer": {"codebook_size": codes}}
        known = {key: measure(key, value) for key, value in values.items()}
        file(made.model_copy(update={"metrics": made.metrics | known, "config": config}), tmp_path)
    assert cells(tmp_path, "vq")["PSNR at FSQ's model bits (dB)"] == "22.00 (budget sweep)"


def test_what_was_read_at_another_budget_says_so(tmp_path: Path) -> None:
    """Whose tokenizer is narrower, as that budget says."""
    first, other = record("fsq", ranked=True), record("fsq", 1, ranked=True, hash="0123abcd", budget="sweep")
    for made, width in ((first, 96), (other, 48)):
        made.config["tokenizer"] = {"factor": 4, "width": width}
    file(first, tmp_path)
    text = beside_glyphs(other, tmp_path)
    assert "50.0 (budget sweep)" in text


def test_without_classes_generation_is_told_by_kid(tmp_path: Path) -> None:
    made = record("fsq", ranked=True)
    key = "common/generation/fd_classifier"
    known = {key: measure(key, None, "no classes")}
    file(made.model_copy(update={"metrics": made.metrics | known}), tmp_path)
    assert cells(tmp_path, "fsq")["generation, common"].startswith("KID 0.0234 (floor ")


def test_the_best_is_bold_and_the_csv_has_the_same_cells(tmp_path: Path) -> None:
    for seed in range(3):
        for name in ("fsq", "vq"):
            file(record(name, seed, ranked=True), tmp_path)
    assert cells(tmp_path, "fsq")["PSNR (dB) [95 %]"].startswith("**23.58**")
    assert not cells(tmp_path, "vq")["PSNR (dB) [95 %]"].startswith("**")
    table = pd.read_csv(tmp_path / "main.csv").set_index("tokenizer")
    assert list(table.index) == ["fsq", "vq"]
    assert table.loc["fsq", "PSNR (dB) [95 %]"].startswith("23.58 [")


def test_the_tables_say_what_is_reached_without_a_tokenizer(tmp_path: Path) -> None:
    right = "common/understanding/caption_exactness"
    more = metrics("fsq", 0) | {right: measure(right, 0.2)}
    made = record("fsq", ranked=True, metrics=more)
    file(made, tmp_path)
    build_report(tmp_path)
    told = "To beat: PSNR 14.20 dB by the mean colour; caption accuracy 66.0 % by colour alone"
    assert told in (tmp_path / "main.md").read_text()
    (view,) = read_views(tmp_path)
    assert told in headline([view])
    chance = more | {right: replace(more[right], protocol="share of scenes; chance: 0.167")}
    file(record("fsq", 1, ranked=True, metrics=chance), tmp_path)
    assert "right caption 16.7 % by guessing" in headline(read_views(tmp_path))
