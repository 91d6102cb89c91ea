"""The comparison of quantizers over their codebook sizes, and what a report of hundreds of runs leaves out."""

from __future__ import annotations

import re
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from report_factory import SWEPT, file, measure, record, swept, swept_arrays

from tokbench.metrics.statistics import bootstrap_interval, paired_difference
from tokbench.records import RunRecord, read_records
from tokbench.report.build import BEGIN, END, build_report, update_readme
from tokbench.report.curves import look, spread, styles
from tokbench.report.formatting import listed
from tokbench.report.groups import Group, group_records
from tokbench.report.headline import headline
from tokbench.report.methods import by_size, is_sweep, make_methods, over_sizes, psnr_at, shared_size, targets
from tokbench.report.pictures import MOST_STRIPS, left_out, pictured, reconstruction_strips
from tokbench.report.quantizers import equal_bits
from tokbench.report.rows import labels, make_rows, nearest_a_name
from tokbench.report.view import BOOTSTRAP_SEED, LEVEL, RESAMPLES, View, read_views


def written(results: Path, *records: RunRecord, with_arrays: bool = True) -> dict[str, Path]:
    for made in records:
        file(made, results, kept=swept_arrays(made) if with_arrays else None, with_arrays=with_arrays)
    return {path.name: path for path in build_report(results)}


def view(results: Path) -> View:
    (group,) = group_records(read_records(results / "runs"))
    return View(group, results / "runs")


def sweep(*names: str, seeds: int = 1) -> list[RunRecord]:
    return [
        swept(name, codes, seed, collapse=name == "vq") for name in names for codes in SWEPT for seed in range(seeds)
    ]


def section(page: str, title: str) -> str:
    return re.split(r"\n###? ", page.split(f"### {title}\n", 1)[1])[0]


def test_the_page_has_every_part_and_its_plots(tmp_path: Path) -> None:
    made = written(tmp_path, *sweep("fsq", "vq", seeds=3))
    page = made["quantizers.md"].read_text()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert "## cifar10-cpu\n" in page
    assert set(links) == {
        "cifar10-cpu.md",
        *(f"quantizers-cifar10-cpu-{plot}.png" for plot in ("psnr-bits", "sizes", "rarefaction", "training")),
    }
    assert all(link in made for link in links)
    assert "[quantizers.md](quantizers.md)" in made["README.md"].read_text()
    titles = re.findall(r"^###+ (.*)$", page, re.MULTILINE)
    assert titles == [
        *("PSNR against used bits", "Over the codebook size", "PSNR at equal used bits", "All rows"),
        *(f"V = {codes:,}" for codes in SWEPT),
        *("Rarefaction", "Training"),
    ]
    assert "None" not in page


def test_no_arrow_or_bold_on_what_collapse_improves(tmp_path: Path) -> None:
    page = written(tmp_path, *sweep("fsq", "vq", seeds=3))["quantizers.md"].read_text()
    heads = [line for line in page.splitlines() if line.startswith("| method") and "seeds" in line]
    assert len(heads) == len(SWEPT)
    for head in heads:
        arrows = [cell.strip() for cell in head.split("|") if re.search("[↑↓]", cell)]
        assert arrows == ["PSNR (dB) ↑", "SSIM ↑", "encode (ms) ↓", "decode (ms) ↓"]
    bold = [cell for line in page.splitlines() for cell in line.split("|") if "**" in cell]
    assert len(bold) <= 2 * len(SWEPT)
    assert not re.search(r"\*\*", section(page, "PSNR at equal used bits"))


def test_demonstrations_continuous_rows_and_old_records_make_no_page(tmp_path: Path) -> None:
    old = swept("vq", 64, ranked=True)
    old = old.model_copy(update={"metrics": {k: m for k, m in old.metrics.items() if "psnr_lost" not in k}})
    assert "quantizers.md" not in written(tmp_path / "a", record("fsq"))
    assert "quantizers.md" not in written(tmp_path / "b", swept("fsq", 64, ranked=False))
    assert "quantizers.md" not in written(tmp_path / "c", record("continuous_4", ranked=True), old, with_arrays=False)
    page = written(tmp_path / "d", old, swept("fsq", 64))["quantizers.md"].read_text()
    assert "NA (not measured)" in page


def test_without_arrays_the_tables_are_there_and_the_curves_are_not(tmp_path: Path) -> None:
    page = written(tmp_path, *sweep("fsq"), with_arrays=False)["quantizers.md"].read_text()
    assert "### All rows" in page
    assert "### Rarefaction" not in page
    assert "### Training" not in page


def test_one_method_of_one_size_is_no_comparison(tmp_path: Path) -> None:
    assert "quantizers.md" not in written(tmp_path, *sweep("fsq")[:1])


def test_methods_are_names_with_their_points_by_size() -> None:
    rows = make_rows([*sweep("fsq", "vq"), record("continuous_4", ranked=True)])
    methods = make_methods(rows)
    assert [method.label for method in methods] == ["fsq", "vq"]
    assert [point.codes for point in methods[0].points] == list(SWEPT)
    assert [method.grows for method in methods] == [True, False]


def at(lr: float, codes: int, **changes: object) -> RunRecord:
    made = swept("vq", codes, hash=f"{int(lr * 1000) * 10_000 + codes:08x}")
    return made.model_copy(update={"config": made.config | {"budget": {"lr": lr}} | changes})


def test_of_one_name_the_settings_with_the_most_sizes_are_the_method() -> None:
    records = [at(0.001, 16), at(0.001, 64), at(0.002, 16)]
    (method,) = make_methods(make_rows(records))
    assert [point.codes for point in method.points] == [16, 64]
    assert {point.row.records[0].config["budget"]["lr"] for point in method.points} == {0.001}


def test_a_name_whose_rows_try_something_else_than_sizes_is_no_method() -> None:
    assert make_methods(make_rows([at(lr, codes) for lr in (0.001, 0.002) for codes in (16, 64)])) == []


def test_rows_in_another_encoder_are_no_methods() -> None:
    records = [at(0.001, 16), at(0.001, 64), at(0.001, 256, tokenizer={"depth": 3})]
    (method,) = make_methods(make_rows(records))
    assert [point.codes for point in method.points] == [16, 64]


def test_a_setting_chosen_anew_at_each_size_does_not_split_a_method() -> None:
    made = [swept("vq", codes) for codes in (16, 64)]
    tuned = [r.model_copy(update={"config": r.config | {"lr": k}}) for k, r in enumerate(made)]
    (method,) = make_methods(make_rows(tuned))
    assert len(method.points) == 2


def test_what_loses_nothing_is_not_a_method() -> None:
    made = swept("pixels", 256)
    measure = replace(made.metrics["reconstruction/psnr_db"], value=100.0)
    made = made.model_copy(update={"metrics": made.metrics | {"reconstruction/psnr_db": measure}})
    assert make_methods(make_rows([made])) == []


def test_sizes_hold_nominal_bits_within_one_percent() -> None:
    rows = make_rows([swept("fsq", 1000), swept("lfq", 1024), swept("vq", 1000), swept("fsq", 240), swept("vq", 256)])
    sizes = by_size(make_methods(rows))
    assert [size.title for size in sizes] == ["V = 240", "V = 256", "V = 1,000 to 1,024"]
    assert [method.label for method, _ in sizes[2].points] == ["fsq", "lfq", "vq"]
    assert shared_size(sizes) is sizes[2]


def test_psnr_is_interpolated_over_used_bits_and_never_beyond() -> None:
    (method,) = make_methods(make_rows(sweep("fsq")))
    used, psnr = ([getattr(point, name) for point in method.points] for name in ("used", "psnr"))
    for bits in np.linspace(used[0], used[-1], 23):
        assert psnr_at(method, float(bits)) == pytest.approx(np.interp(bits, used, psnr))
    assert psnr_at(method, used[0] - 1) is None
    assert psnr_at(method, used[-1] + 1) is None


def test_nothing_is_read_between_sizes_whose_bits_lie_far_apart() -> None:
    (method,) = make_methods(make_rows([swept("fsq", 4), swept("fsq", 1024)]))
    low, high = (point.used for point in method.points)
    assert high > 2 * low
    assert psnr_at(method, (low + high) / 2) is None
    assert psnr_at(method, high) == method.points[1].psnr


def test_sums_over_several_codebooks_are_not_compared_at_equal_used_bits() -> None:
    runs = []
    for stages in (2, 3):
        made = swept("rvq", 4**stages, 0)
        runs.append(made.model_copy(update={"config": {**made.config, "quantizer": {"num_stages": stages}}}))
    plain = [swept(name, codes) for name in ("fsq", "vq_tuned") for codes in (16, 64, 256)]
    methods = make_methods(make_rows([*runs, *plain]))
    assert {method.label: method.summed for method in methods} == {"rvq": True, "fsq": False, "vq_tuned": False}
    text = "\n".join(equal_bits(methods))
    assert "fsq" in text
    assert "rvq" not in text


def test_a_collapsing_method_gets_the_best_psnr_at_no_more_bits() -> None:
    (method,) = make_methods(make_rows(sweep("vq")))
    places = [(point.used, point.psnr) for point in method.points]
    for bits in np.linspace(min(places)[0], max(places)[0], 23):
        assert psnr_at(method, float(bits)) == max(quality for used, quality in places if used <= bits)
    assert psnr_at(method, min(places)[0] - 1) is None
    assert psnr_at(method, max(places)[0] + 1) is None


def test_targets_are_round_and_few_and_reached() -> None:
    methods = make_methods(make_rows(sweep("fsq", "simvq")))
    found = targets(methods)
    assert found == [300, 400, 500, 600]
    assert all(psnr_at(method, bits) is not None for method in methods for bits in found)
    assert targets(make_methods(make_rows([swept("fsq", 64)]))) == []


def test_a_sweep_ranks_and_is_discrete() -> None:
    groups = [group_records([made])[0] for made in (swept("fsq", 64), record("fsq"), record("patches", ranked=True))]
    assert [is_sweep(group) for group in groups] == [True, False, False]


def test_intervals_of_a_page_are_those_of_the_rows_alone(tmp_path: Path) -> None:
    made = [swept(name, 64, seed) for name in ("fsq", "simvq") for seed in range(3)]
    for one in made:
        file(one, tmp_path, kept=swept_arrays(one))
    found = view(tmp_path)
    options = {"resamples": RESAMPLES, "level": LEVEL, "seed": BOOTSTRAP_SEED}
    for row in found.rows:
        table = np.stack([swept_arrays(one)["psnr_db"] for one in row.records])
        assert found.interval(row, "psnr_db") == pytest.approx(bootstrap_interval(table, np.arange(24), **options))
        assert {seed: one.mean for seed, one in found.sampled(row, "psnr_db").items()} == pytest.approx(
            dict(enumerate(table.mean(axis=1)))
        )


def test_rows_that_share_some_seeds_are_compared_over_those(tmp_path: Path) -> None:
    for made in [*(swept("fsq", 64, seed) for seed in (0, 1)), *(swept("simvq", 64, seed) for seed in (1, 2))]:
        file(made, tmp_path, kept=swept_arrays(made))
    fsq, simvq = view(tmp_path).rows
    found = view(tmp_path).difference(simvq, fsq, "psnr_db")
    assert found is not None
    assert found[1] == 1
    a, b = (swept_arrays(swept(name, 64, 1)) for name in ("simvq", "fsq"))
    wanted = paired_difference(a["psnr_db"], b["psnr_db"], a["groups"], resamples=1000, level=0.95, seed=0)
    assert astuple(found[0]) == pytest.approx(astuple(wanted))


def test_labels_show_what_the_quantizer_says_first() -> None:
    def config(levels: list[int], lr: float, option: str) -> dict:
        return {
            "budget": {"tokenizer": {"lr": lr}},
            "choices": {"quantizer": option},
            "name": option,
            "quantizer": {"levels": levels},
        }

    found = labels("fsq", [config([8, 5], 1e-3, "a"), config([8, 6], 2e-3, "b")])
    assert found == ["fsq (levels=[8,5], lr=0.001)", "fsq (levels=[8,6], lr=0.002)"]
    assert labels("x", [{"choices": {"quantizer": q}} for q in "ab"]) == ["x (quantizer=a)", "x (quantizer=b)"]
    assert labels("lfq", [{"quantizer": {"dim": d}} for d in (4, 8)]) == ["lfq (dim=4)", "lfq (dim=8)"]


def test_rows_of_one_name_stand_in_the_order_of_their_size() -> None:
    rows = make_rows([swept("vq", codes) for codes in (4096, 16, 256)])
    assert [row.label for row in rows] == [f"vq (codebook_size={codes})" for codes in (16, 256, 4096)]


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(k) for k in range(12)]).endswith("8, 9, and 2 more")


def test_pictures_of_many_rows_have_one_of_a_name(tmp_path: Path) -> None:
    made = written(tmp_path, *sweep("fsq", "lfq", "simvq", "ibq", "vq"), swept("bsq", 1000))
    found = view(tmp_path)
    assert len(found.rows) > MOST_STRIPS
    assert [row.records[0].name for row in pictured(found)] == ["bsq", "fsq", "ibq", "lfq", "simvq", "vq"]
    assert all("4096" in row.label for row in pictured(found)[1:])  # as the FSQ that reconstructs best
    assert len(reconstruction_strips(found)) == 13
    assert left_out(found) == " (6 of 26 rows, one of a name)"
    assert "one of each name" in made["cifar10-cpu.md"].read_text()


def test_pictures_of_many_names_keep_those_of_code_lengths_then_of_most_seeds_then_the_best(tmp_path: Path) -> None:
    key = "information/lossless_bits_per_subpixel"
    late = swept("vq", 1024)
    made = [late.model_copy(update={"metrics": late.metrics | {key: measure(key, 6.0)}})]
    made += [swept("simvq", 1024, seed) for seed in range(2)]
    made += [swept(f"a{place}", 4 * 2 ** (place % 12)) for place in range(MOST_STRIPS)]
    found = View(Group("many", made), tmp_path)
    names = [row.records[0].name for row in pictured(found)]
    assert len(names) == MOST_STRIPS
    assert names == [name for row in found.rows if (name := row.records[0].name) in names]  # in the pages' order
    assert {"vq", "simvq"} <= set(names)
    assert {f"a{place}" for place in range(MOST_STRIPS)} - set(names) == {"a0", "a12"}  # of the fewest codes


def test_a_name_is_shown_by_its_row_nearest_to_the_bits_or_without_bits_by_the_first() -> None:
    rows = make_rows([*sweep("vq"), swept("bsq", 1000), record("continuous_4", metrics={})])
    assert [row.label for row in nearest_a_name(rows, 8.1 * 64)] == [
        "continuous_4",
        "vq (codebook_size=256)",
        "bsq",
    ]
    assert [row.label for row in nearest_a_name(rows, None)] == ["bsq", "continuous_4", "vq (codebook_size=16)"]


def test_plots_of_many_series_repeat_no_pair_of_colour_and_marker_or_line() -> None:
    looks = [look(place) for place in range(64)]
    for other in ("marker", "linestyle"):
        assert len({(one["color"], one[other]) for one in looks}) == len(looks)
    methods = make_methods(make_rows([*(swept(f"a{place}", 64) for place in range(20)), *sweep("fsq", "lfq", "vq")]))
    several = [styles(methods)[method.label]["color"] for method in over_sizes(methods)]
    assert len(set(several)) == 3


def test_pictures_of_more_than_a_dozen_rows_have_no_error_maps(tmp_path: Path) -> None:
    written(tmp_path, *sweep("fsq", "lfq", "simvq")[:13])
    labels = [label.split("\n")[0] for label, _ in reconstruction_strips(view(tmp_path))]
    assert len(labels) == 14
    assert not any("error" in label for label in labels)


def test_readme_has_a_link_a_plot_and_equal_bits_in_place_of_a_table_of_hundreds(tmp_path: Path) -> None:
    results = tmp_path / "results"
    made = written(results, *sweep("fsq", "vq"), record("fsq"))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert update_readme(readme, results, read_views(results))
    text = readme.read_text()
    assert "**cifar10-cpu** (2 tokenizers, 10 rows, 1 seed)" in text
    assert "[quantizers.md](results/quantizers.md)" in text
    assert section((results / "quantizers.md").read_text(), "PSNR at equal used bits").strip() in text
    plots = re.findall(r"!\[[^]]*\]\(results/([^)]+)\)", text)
    assert plots == ["cifar10-cpu-reconstruction.png", "quantizers-cifar10-cpu-sizes.png"]
    assert set(plots) <= made.keys()
    assert "**photos32-cpu** (1 seed, demo, unranked)\n\n| tokenizer" in text
    assert "old" not in text
    assert "codebook_size" in headline(read_views(results))  # what a sweep ends with stays a table


def test_readme_has_a_table_where_there_is_nothing_to_read_at_equal_bits(tmp_path: Path) -> None:
    results = tmp_path / "results"
    written(results, swept("fsq", 1000), swept("vq", 1000))
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    update_readme(readme, results, read_views(results))
    text = readme.read_text()
    assert re.search(r"\| tokenizer +\|.*PSNR", text)
    assert "| vq " in text
    assert "rate_distortion.md" not in text  # which such a group is not on


def test_rows_of_a_name_stand_in_the_order_of_their_numbers() -> None:
    rows = make_rows(
        [
            record("continuous_4", config=record("continuous_4").config | {"factor": factor}, hash=f"{factor:08x}")
            for factor in (32, 4, 8)
        ]
    )
    assert [row.label for row in rows] == [f"continuous_4 (factor={factor})" for factor in (4, 8, 32)]


def test_a_label_tells_once_what_two_settings_share() -> None:
    configs = [{"budget": {"backbone": {"width": w}}, "backbone": {"width": w}} for w in (64, 128)]
    assert labels("fsq", configs) == ["fsq (width=64)", "fsq (width=128)"]
    apart = [{"tokenizer": {"width": w}, "backbone": {"width": v}} for w, v in ((64, 64), (64, 128), (128, 64))]
    assert labels("fsq", apart)[1] == "fsq (width=64, width=128)"


def test_groups_that_generate_keep_their_table_in_readme(tmp_path: Path) -> None:
    results = tmp_path / "results"
    written(results, record("fsq", ranked=True))
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    update_readme(readme, results, read_views(results))
    assert "| fsq" in readme.read_text()


@pytest.mark.parametrize(("number", "wanted"), [(3, 3), (12, 12), (13, 12), (125, 12)])
def test_of_many_codebook_sizes_some_are_drawn_the_least_and_the_largest_among_them(number, wanted):
    found = spread(number, 12)
    assert found == sorted(set(found))
    assert len(found) == wanted
    assert (found[0], found[-1]) == (0, number - 1)


def vast(name: str) -> RunRecord:
    return swept(name, 2**48, hash=f"{sum(map(ord, name)):08x}")


def test_vocabularies_beyond_all_others_are_left_out_over_the_codebook_size(tmp_path: Path) -> None:
    records = [swept("fsq", 16), swept("fsq", 2**18), vast("fsq"), swept("tokens", 8), vast("tokens")]
    methods = make_methods(make_rows(records))
    assert [[point.codes for point in method.points] for method in methods] == [[16, 2**18, 2**48], [8, 2**48]]
    (drawn,) = over_sizes(methods)
    assert [point.codes for point in drawn.points] == [16, 2**18]
    made = written(tmp_path, *records[:2], *records[3:])
    assert "larger V are left out of this figure" in section(
        made["quantizers.md"].read_text(), "Over the codebook size"
    )


def test_a_method_of_vast_vocabularies_alone_is_not_drawn_over_the_codebook_size(tmp_path: Path) -> None:
    made = written(tmp_path, swept("tokens", 8), vast("tokens"))
    assert "quantizers-cifar10-cpu-sizes.png" not in made
    assert "### Over the codebook size" not in made["quantizers.md"].read_text()
