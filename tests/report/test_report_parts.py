"""Numbers, tables and pictures of the report, piece by piece."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from report_factory import file, measure, record

from tokbench.records import read_records
from tokbench.report.build import build_report
from tokbench.report.columns import Column, bound
from tokbench.report.formatting import heading, markdown_table, number
from tokbench.report.groups import group_records, plain_stem
from tokbench.report.pictures import (
    CAPTION_PIXELS,
    GAIN,
    GAP_PIXELS,
    LABEL_LETTERS,
    LABEL_LINES,
    TITLE_PIXELS,
    error_map,
    mean_psnr_db,
    reconstruction_strips,
    sample_strips,
    wrap,
)
from tokbench.report.rows import summarize
from tokbench.report.view import View


def test_a_long_label_keeps_what_stands_below_it() -> None:
    label = "vq (beta=0.25, codebook_size=1000, estimator=straight_through, +2 more) #45\n20.62 dB here"
    assert wrap(label, LABEL_LETTERS, most=LABEL_LINES).endswith("\n20.62 dB here")
    assert wrap(label, LABEL_LETTERS).endswith("#45 …")


def test_seeds_that_agree_deviate_by_nothing_at_all() -> None:
    key, value = "bits/nominal_bits_per_image", 64 * math.log2(15)  # whose mean over three is rounded
    found = summarize([record(seed=seed, metrics={key: measure(key, value)}) for seed in range(3)], key)
    assert found is not None
    assert found.deviation == 0.0


@pytest.mark.parametrize(
    ("value", "unit", "deviation", "text"),
    [
        (23.5514, "dB", None, "23.55"),
        (23.5514, "dB", 0.0312, "23.55 ± 0.03"),
        (0.8, "", None, "0.800"),
        (0.04561, "", 0.0002, "0.0456 ± 0.0002"),
        (12.34, "", 0.1, "12.3 ± 0.1"),
        (1_234_567, "", None, "1.23 M"),
        (1.234e9, "FLOPs/image", 0.01e9, "1.23 ± 0.01 G"),
        (0.0, "", None, "0"),
        (-0.00012, "", None, "-0.000120"),
        (1e-9, "", None, "1.00e-09"),
        (0.971, "share", None, "97.1"),
        (637.8, "bits/image", None, "638"),
        (102_400, "tokens", None, "102,400"),
        (0.01234, "s/image", None, "12.3"),
        (3 * 2**20, "bytes", None, "3"),
        (3.0, "furlongs", 0.5, "3.00 ± 0.50"),
        (640.0, "bits/image", 0.0, "640"),
    ],
)
def test_digits_follow_the_unit(value: float, unit: str, deviation: float | None, text: str) -> None:
    assert number(value, unit, deviation) == text


def test_units_stand_in_headings() -> None:
    assert heading("PSNR", "dB") == "PSNR (dB)"
    assert heading("latency", "s/image") == "latency (ms)"
    assert heading("peak", "bytes") == "peak (MiB)"
    assert heading("SSIM", "") == "SSIM"
    assert heading("far", "furlongs") == "far (furlongs)"


def test_the_bound_is_the_largest_of_three_and_tells_its_share(tmp_path: Path) -> None:
    keys = [f"native/cost/{name}_bound_seconds_at_best" for name in ("compute", "weights", "launch")]
    column = Column("bound", keys[0], bound, bare=True)
    for values, text in (
        ((1.0, 2.0, 5.0), "launch (62 %)"),
        ((None,) * 3, "NA (busy)"),
        ((3.0, 1.0, 0.0), "compute (75 %)"),
    ):
        folder = tmp_path / str(values)
        measures = {key: measure(key, each, "busy") for key, each in zip(keys, values, strict=True)}
        file(record(metrics=measures), folder)
        (group,) = group_records(read_records(folder / "runs"))
        view = View(group, folder / "runs")
        assert bound(view, view.rows[0], column) == text


def test_a_table_keeps_its_columns_whatever_the_cells_hold() -> None:
    lines = markdown_table(["a", "b"], [["x|y", "1"], ["two\nlines", "22"]])
    assert lines == ["| a         |   b |", "|-----------|----:|", "| x\\|y      |   1 |", "| two lines |  22 |"]


@pytest.mark.parametrize(
    ("name", "size", "stem"),
    [("photos32", 32, "photos32-cpu"), ("cifar10", 32, "cifar10-32-cpu"), ("mine", None, "mine-cpu")],
)
def test_a_stem_names_data_size_and_budget(name: str, size: int | None, stem: str) -> None:
    made = record()
    made = made.model_copy(
        update={"data": made.data.model_copy(update={"name": name}), "config": {"data": {"size": size}}}
    )
    assert plain_stem(made) == stem


def test_the_error_map_is_amplified_alike_and_clipped() -> None:
    a = np.full((1, 3, 2, 2), 100, np.uint8)
    b = a.copy()
    b[0, 0, 0, 0], b[0, 1, 1, 1] = 90, 255
    wanted = np.zeros_like(a)
    wanted[0, 0, 0, 0], wanted[0, 1, 1, 1] = 10 * GAIN, 255
    np.testing.assert_array_equal(error_map(a, b), wanted)


def test_psnr_in_a_label_is_that_of_the_images_shown() -> None:
    a = np.zeros((2, 3, 4, 4), np.uint8)
    assert mean_psnr_db(a, a + np.uint8(1)) == pytest.approx(20 * np.log10(255))
    assert mean_psnr_db(a, a) == 100.0


def view(results: Path) -> View:
    (group,) = group_records(read_records(results / "runs"))
    return View(group, results / "runs")


def test_pictures_have_a_row_for_the_originals_and_two_a_tokenizer(tmp_path: Path) -> None:
    for name in ("fsq", "vq"):
        for seed in range(2):
            file(record(name, seed), tmp_path)
    file(record("patches", stage="tokenizer"), tmp_path)
    paths = {path.name: path for path in build_report(tmp_path)}
    strips = reconstruction_strips(view(tmp_path))
    assert [label.split("\n")[0] for label, _ in strips] == [
        "originals",
        *(text for name in ("fsq", "patches", "vq") for text in (name, f"|error| × {GAIN}")),
    ]
    assert strips[1][0].endswith(" dB here")
    samples, captions = sample_strips(view(tmp_path))
    assert [label for label, _ in samples] == [
        f"{name}\n{block}, guidance 2"
        for name in ("fsq", "vq")
        for block in ("common: transfusion", "native: chameleon")
    ]
    assert captions[0] == "a photograph of thing 0"
    for kind, count, top in (("reconstruction", 7, TITLE_PIXELS), ("samples", 4, TITLE_PIXELS + CAPTION_PIXELS)):
        picture = imread(paths[f"photos32-cpu-{kind}.png"])
        assert picture.shape[0] == top + count * (96 + GAP_PIXELS)
        shown = picture[top : top + 96 : 3, -100:-4:3, :3]  # the first row's last image, at its own size
        strip = (strips if kind == "reconstruction" else samples)[0][1]
        np.testing.assert_allclose(np.moveaxis(shown, -1, 0) * 255, strip[7], atol=0.5)


def test_a_cell_cannot_hold_a_picture_a_tag_or_an_address_of_elsewhere() -> None:
    from markdown_it import MarkdownIt

    bad = (
        "![x](http://a.example/x.png)",
        "[x](javascript:alert)",
        "[x]( //a.example)",
        "<img src=x>",
        "<https://a.example>",
    )
    good = ("**23.55** ± 0.03", "[page](page.md)", "`make sweep`", "< 0.1")
    html = (
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render("\n".join(markdown_table(["a"], [[c] for c in (*bad, *good)])))
    )
    assert html.count("<a ") == 1
    assert "<img" not in html
    assert "<strong>23.55</strong>" in html
    assert "<code>make sweep</code>" in html
    assert "&lt; 0.1" in html
