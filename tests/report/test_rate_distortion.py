"""The page on rate and distortion, from made-up sweeps whose ranking is known."""

import json

import numpy as np
import pandas as pd
import pytest
from report_factory import file, measure, swept, swept_arrays

from tokbench.report import rate_plot
from tokbench.report.rate_distortion import PAGE, PLOT, TABLE, main
from tokbench.report.rate_families import make_curves, make_families
from tokbench.report.rate_kodak import codec_rows
from tokbench.report.view import read_views

SIZES = (16, 64, 256, 1024, 4096)
CODEC = {
    "version": "libsomething 1.2",
    "setting": "quality",
    "points": [
        {
            "setting": quality,
            "layout": layout,
            "header_bytes_a_file": 100,
            "bytes": [quality * 100, quality * 120],
            "files": [1 if layout == "picture" else 4] * 2,
            "pixels": [1000, 1000],
            "psnr_db": [10.0 + quality / 10, 12.0 + quality / 10],
        }
        for quality in (10, 20, 40, 80)
        for layout in ("picture", "tiles")
    ],
}


def filed(results, name, *, gain, seeds=3, sizes=SIZES, kodak=True, **changes):
    """A sweep with model bits of 60 % of the nominal ones, and `gain` dB more than another family at equal bits."""
    for codes in sizes:
        for seed in range(seeds):
            record = swept(name, codes, seed, stage="bits", blocks={"native": "chameleon"}, **changes)
            nominal = 64 * np.log2(codes)
            values = {
                "native/bits/model_bits_per_image": 0.6 * nominal + seed,
                "native/bits/model_bits_per_pixel": (0.6 * nominal + seed) / 1024,
                "bits/nominal_bits_per_pixel": nominal / 1024,
                "reconstruction/psnr_db": 18 + nominal / 100 + gain,
            }
            values |= {"native/kodak/model_bpp": nominal / 1500, "kodak/psnr_db": 20 + nominal / 100} if kodak else {}
            metrics = record.metrics | {key: measure(key, float(value)) for key, value in values.items()}
            config = {"seed": seed, "stage": "bits", "quantizer": {"codebook_size": codes}, "data": {"name": "cifar10"}}
            record = record.model_copy(update={"metrics": metrics, "config": config})
            file(record, results, kept=swept_arrays(record, 40))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    filed(folder, "fsq", gain=0.0)
    filed(folder, "vq_tuned", gain=1.0)
    (folder / "codecs-kodak.json").write_text(json.dumps({"protocol": "p", "codecs": {"JPEG 4:2:0": CODEC}}))
    assert main(["--results", str(folder)]) == 0
    return folder


def test_the_better_family_is_bold_at_equal_model_bits(results):
    page = (results / PAGE).read_text()
    section = page.split("### PSNR at equal model bits")[1].split("###")[0]
    lines = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in section.splitlines() if line.startswith("|")}
    assert all("**" in cell for cell in lines["vq_tuned"])
    assert not any("**" in cell for cell in lines["fsq"])
    headings = [float(cell.split()[0]) for cell in lines["family"]]
    for bits, cell in zip(headings, lines["fsq"], strict=True):
        nominal = (bits * 1024 - 1) / 0.6  # seed 1, the middle one
        assert float(cell.split()[0].strip("*")) == pytest.approx(18 + nominal / 100, abs=0.4)


def test_a_seed_without_model_bits_leaves_the_curve_to_the_others(tmp_path):
    filed(tmp_path, "fsq", gain=0.0, sizes=(16, 64))
    for codes in (16, 64):  # a fourth seed that stopped after its tokenizer: the same row
        record = swept("fsq", codes, 3)
        file(record, tmp_path, kept=swept_arrays(record, 40))
    (view,) = read_views(tmp_path)
    assert {len(row.records) for row in view.rows} == {4}
    curves, seeds = make_curves(view, make_families(view.rows))
    assert seeds == [0, 1, 2]
    assert all(np.isfinite(curve.bits).all() for curve in curves.values())
    assert main(["--results", str(tmp_path)]) == 0


def test_points_of_more_seeds_do_not_push_the_curves_of_fewer_off_the_page(tmp_path):
    """Four points of one seed and two of three: the curves are those of the seed that all six have."""
    filed(tmp_path, "fsq", gain=0.0, sizes=(16, 64, 256, 1024), seeds=1)
    filed(tmp_path, "vq_tuned", gain=1.0, sizes=(16, 64), seeds=3)
    for number, name in enumerate(("lfq", "bsq", "ibq")):  # of one V each: on no curve
        filed(tmp_path, name, gain=0.1 * number, sizes=(64,), seeds=3)
    (view,) = read_views(tmp_path)
    curves, seeds = make_curves(view, make_families(view.rows))
    assert seeds == [0]
    assert {label: len(curve.bits) for label, curve in curves.items()} == {"fsq": 4, "vq_tuned": 2}
    assert main(["--results", str(tmp_path)]) == 0
    page = (tmp_path / PAGE).read_text()
    assert "### PSNR at equal model bits" in page
    assert "NA (fewer than 4 points)" in page


def test_one_point_of_two_seeds_does_not_cost_the_others_their_third(tmp_path):
    filed(tmp_path, "fsq", gain=0.0, sizes=(16, 64, 256))
    filed(tmp_path, "vq_tuned", gain=1.0, sizes=(16, 64))
    filed(tmp_path, "vq_tuned", gain=1.0, sizes=(256,), seeds=2)
    (view,) = read_views(tmp_path)
    curves, seeds = make_curves(view, make_families(view.rows))
    assert seeds == [0, 1, 2]
    assert {label: len(curve.bits) for label, curve in curves.items()} == {"fsq": 3, "vq_tuned": 2}


def test_a_family_of_one_seed_is_named_and_does_not_take_the_ranking_from_the_others(tmp_path):
    filed(tmp_path, "fsq", gain=0.0, sizes=(16, 64, 256))
    filed(tmp_path, "vq_tuned", gain=1.0, sizes=(16, 64, 256))
    filed(tmp_path, "lfq", gain=0.5, sizes=(16, 64, 256), seeds=1)
    assert main(["--results", str(tmp_path)]) == 0
    page = (tmp_path / PAGE).read_text()
    assert "Left out, as too few of their points have these 3 seeds: lfq." in page
    assert "Nothing is bold" not in page


def test_bd_rate_is_against_the_tuned_vq_and_on_kodak_against_jpeg(results):
    first, kodak = (results / PAGE).read_text().split("## Kodak")
    assert "against vq_tuned" in first
    assert "against JPEG 4:2:0" in kodak
    assert "libsomething 1.2" in kodak


def test_the_table_holds_every_point_and_the_plot_is_drawn(results):
    table = pd.read_csv(results / TABLE)
    assert set(table["images"]) == {"cifar10-cpu", "kodak"}
    assert len(table[(table["images"] == "kodak") & (table["series"] == "fsq")]) == len(SIZES)
    assert len(table[table["series"] == "JPEG 4:2:0"]) == 8
    assert (results / PLOT).read_bytes()[:4] == b"\x89PNG"


def test_bits_of_codecs_are_without_their_headers():
    rows = codec_rows({"codecs": {"JPEG": CODEC}})
    picture, tiles = rows[:2]
    assert picture["coded bpp"] == pytest.approx(8 * (1100 - 100) / 1000)
    assert picture["header bpp"] == pytest.approx(0.8)
    assert tiles["coded bpp"] == pytest.approx(8 * (1100 - 400) / 1000)
    assert picture["PSNR (dB)"] == pytest.approx(12.0)


def test_a_family_is_what_differs_in_codes_alone(tmp_path):
    from tokbench.records import read_records
    from tokbench.report.groups import group_records
    from tokbench.report.view import RESAMPLES, View

    filed(tmp_path, "fsq", gain=0.0, sizes=(16, 64), kodak=False)
    filed(tmp_path, "vq", gain=0.0, sizes=(16,), seeds=1, kodak=False)
    runs = tmp_path / "runs"
    view = View(group_records(read_records(runs))[0], runs)
    families = make_families(view.rows)
    assert [(family.label, len(family.points)) for family in families] == [("fsq", 2), ("vq", 1)]
    assert [point.codes for point in families[0].points] == [16, 64]
    curves, seeds = make_curves(view, families)
    assert list(curves) == ["fsq"]
    assert seeds == [0, 1, 2]
    assert curves["fsq"].quality_draws.shape == (2, RESAMPLES)
    assert curves["fsq"].bits[0] * 1024 == pytest.approx(0.6 * 256 + 1)
    bits = curves["fsq"].bits_draws[0] * 1024  # means of two of three seeds
    assert set(np.round(bits - 0.6 * 256, 6)) == {0, 0.5, 1, 1.5, 2}


def test_a_family_may_differ_in_tokens_of_a_line_and_in_the_head_that_follows(tmp_path):
    for queries, head in ((16, "Categorical"), (64, "Factorised")):
        for seed in range(3):
            own = f"{100 * queries + seed:08x}"
            record = swept("fsq-queries_causal", 64, seed, stage="bits", blocks={"native": "chameleon"}, hash=own)
            values = {
                "bits/tokens": float(queries),
                "native/bits/model_bits_per_image": 4.0 * queries,
                "native/bits/model_bits_per_pixel": 4.0 * queries / 1024,
            }
            metrics = record.metrics | {key: measure(key, value) for key, value in values.items()}
            config = {"seed": seed, "quantizer": {"codebook_size": 64}, "data": {"name": "cifar10"}}
            config |= {"tokenizer": {"factor": 4, "num_queries": queries}, "generation": {"head": head}}
            record = record.model_copy(update={"metrics": metrics, "config": config})
            file(record, tmp_path, kept=swept_arrays(record, 40))
    (view,) = read_views(tmp_path)
    (family,) = make_families(view.rows)
    assert family.label == "fsq-queries_causal"
    assert [point.mean("bits/tokens") for point in family.points] == [16, 64]


def test_a_continuous_latent_is_a_point_with_its_samples_quality_and_is_on_no_curve(tmp_path):
    filed(tmp_path, "fsq", gain=0.0, sizes=(16, 64))
    for dim in (4, 8):
        for seed in range(3):
            record = swept("continuous", 16 * dim, seed, stage="bits", blocks={})
            values = {"information/token_bits_per_pixel": 0.1 * dim, "information/coded_psnr_db": 20.0 + dim}
            kept = {key: found for key, found in record.metrics.items() if "nominal" not in key}
            metrics = kept | {key: measure(key, value) for key, value in values.items()}
            config = {"seed": seed, "quantizer": {"dim": dim}, "data": {"name": "cifar10"}}
            own = record.model_copy(update={"metrics": metrics, "config": config})
            file(own, tmp_path, kept=swept_arrays(record, 40))
    (view,) = read_views(tmp_path)
    family, fsq = make_families(view.rows)
    assert (family.label, fsq.label) == ("continuous, bits-back", "fsq")
    assert [point.mean("reconstruction/psnr_db") for point in family.points] == [24.0, 28.0]
    assert [point.summary("reconstruction/ssim") for point in family.points] == [None, None]
    assert list(make_curves(view, [family, fsq])[0]) == ["fsq"]
    assert main(["--results", str(tmp_path)]) == 0
    assert "| continuous, bits-back |" in (tmp_path / PAGE).read_text()


def test_few_seeds_are_never_bold(tmp_path):
    filed(tmp_path, "fsq", gain=0.0, seeds=2)
    filed(tmp_path, "vq_tuned", gain=1.0, seeds=2)
    assert main(["--results", str(tmp_path)]) == 0
    page = (tmp_path / PAGE).read_text()
    assert "Nothing is bold" in page
    assert "**2" not in page


def test_nothing_to_compare_writes_nothing(tmp_path, capsys):
    assert main(["--results", str(tmp_path)]) == 2
    assert "codecs-kodak.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "label", ["{}", "tokens_vs_vocabulary (factor={}, head=Factorised, name=causal_factorised, +1 more)"]
)
def test_a_long_legend_lies_below_the_axes_and_inside_the_picture(label, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(rate_plot, "save", lambda figure, path: drawn.append(figure) or path)
    many = {label.format(k): ([0.1 * k, 0.2 * k], [20.0 + k, 21.0 + k], None) for k in range(1, 24)}
    few = {"JPEG": ([0.1, 1.0], [20.0, 30.0], "picture"), "JPEG, tiles": ([0.1, 1.0], [19.0, 29.0], "tiles")}
    rate_plot.draw_rate(tmp_path / "plot.png", {"cifar10-cpu": many, "Kodak": few})
    (figure,) = drawn
    figure.canvas.draw()
    for axes in figure.axes:
        legend, data = axes.get_legend().get_window_extent(), axes.get_window_extent()
        assert legend.y1 < axes.xaxis.get_label().get_window_extent().y0
        assert legend.y0 > 0
        assert 0 < legend.x0 < legend.x1 < figure.bbox.width
        assert data.height > 0.5 * rate_plot.WIDTH * figure.dpi
    first, second = (axes.get_legend().get_window_extent() for axes in figure.axes)
    assert first.x1 < second.x0
