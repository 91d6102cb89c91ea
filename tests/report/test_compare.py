"""Two runs or rows beside each other."""

from pathlib import Path

import numpy as np
import pytest
import report_factory as factory

from tokbench.compare import main
from tokbench.metrics.statistics import paired_difference
from tokbench.records import RunRecord
from tokbench.report.experiments import remember
from tokbench.report.view import BOOTSTRAP_SEED, LEVEL, RESAMPLES


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    for name in ("fsq", "vq", "vq_tuned"):
        for seed in range(3 if name != "vq_tuned" else 1):
            factory.file(factory.record(name, seed, ranked=True), folder)
    factory.file(factory.record("fsq", 0), folder)  # of other data
    factory.file(factory.record("patches", 0, ranked=True, budget="gpu"), folder)
    return folder


@pytest.fixture(scope="module")
def paged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tokenizers on data that rank and on a demonstration, an experiment over positions, and one without a page."""
    folder = tmp_path_factory.mktemp("paged")
    made = [placed(name, positions) for name in ("fsq", "vq") for positions in ("rope1d", "rope2d")]
    for one in made:
        factory.file(one, folder)
    for name in ("fsq", "vq"):
        for seed in range(3):
            factory.file(factory.record(name, seed, ranked=True), folder)
            factory.file(factory.record(name, seed), folder)
    factory.file(factory.record("vq_tuned", 0, ranked=True), folder)
    factory.file(factory.record("fsq", 0, budget="gpu"), folder)
    remember(folder, "positions", [one.file_name for one in made])
    remember(folder, "default", [factory.record(name, 0, ranked=True).file_name for name in ("fsq", "vq")])
    return folder


def placed(name: str, positions: str) -> RunRecord:
    made = factory.record(name, 0, ranked=True)
    config = made.config | {"backbone": {"positions": positions}}
    return made.model_copy(update={"config": config, "hash": f"{sum(map(ord, positions + name)):08x}"})


def printed(results: Path, a: str, b: str, capsys) -> str:
    assert main([a, b, "--results", str(results)]) == 0
    return str(capsys.readouterr().out)


def table(results: Path, a: str, b: str, capsys) -> dict[str, list[str]]:
    """The cells of each measure of the last table."""
    lines = [line.strip("| ").split("|") for line in printed(results, a, b, capsys).splitlines() if line[:1] == "|"]
    return {line[0].split()[0]: [cell.strip() for cell in line[1:]] for line in lines[2:]}


def test_a_name_is_the_row_of_each_page_and_those_that_never_rank_come_last(paged: Path, capsys) -> None:
    lines = printed(paged, "fsq", "vq", capsys).splitlines()
    titles = [line for line in lines if line.startswith("**")]
    assert titles == [
        "**cifar10-cpu**: A = fsq, B = vq",
        "**photos32-cpu** (demo, never ranks): A = fsq, B = vq",
    ]


def test_a_page_that_is_left_out_says_why(paged: Path, capsys) -> None:
    lines = printed(paged, "fsq", "vq", capsys).splitlines()
    several = "'fsq' is 2 rows of cifar10-cpu-positions: fsq (positions=rope1d), fsq (positions=rope2d)"
    assert [line for line in lines if line.startswith("- ")] == [f"- {several}", "- no 'vq' on photos32-gpu"]


def test_a_row_is_found_by_the_label_that_its_page_prints(paged: Path, capsys) -> None:
    lines = printed(paged, "fsq (positions=rope1d)", "vq (positions=rope1d)", capsys).splitlines()
    assert lines[0] == "**cifar10-cpu-positions**: A = fsq (positions=rope1d), B = vq (positions=rope1d)"
    assert main(["fsq (positions=rope1d)", "vq", "--results", str(paged)]) == 2
    assert "'vq' is 2 rows of cifar10-cpu-positions: vq (positions=rope1d)" in capsys.readouterr().err
    assert main(["fsq (positions=rope3d)", "vq", "--results", str(paged)]) == 2
    assert "did you mean 'fsq (positions=rope" in capsys.readouterr().err


def test_a_run_is_compared_with_rows_and_runs_of_any_page_of_its_group(paged: Path, capsys) -> None:
    one, other = placed("fsq", "rope1d"), factory.record("vq", 0, ranked=True)
    assert "**cifar10-cpu**: A = fsq seed 0" in printed(paged, one.hash, "vq", capsys)
    assert printed(paged, one.hash, other.hash, capsys).count("**") == 2


def test_a_measure_shows_its_direction_and_one_without_has_no_verdict(results: Path, capsys) -> None:
    lines = [line for line in printed(results, "fsq", "vq", capsys).splitlines() if line.startswith("|")]
    assert any(line.startswith("| reconstruction/psnr_db (dB) ↑ ") for line in lines)
    assert any(line.startswith("| cost/encode_seconds (ms) ↓ ") for line in lines)
    assert table(results, "fsq", "vq", capsys)["bits/usage"][4] == "–"


def test_a_demonstration_has_no_verdicts(paged: Path, capsys) -> None:
    found = table(paged, "fsq", "vq", capsys)  # the last table
    assert {cells[4] for key, cells in found.items() if "/" in key} == {"–"}


def test_two_seeds_are_too_few_for_a_verdict(capsys, tmp_path: Path) -> None:
    for name, flops in (("fsq", 1e12), ("vq", 2e12)):
        for seed in range(2):
            made = factory.record(name, seed, ranked=True)
            key = "cost/tokenizer_training_flops"
            made.metrics[key] = factory.measure(key, flops)
            factory.file(made, tmp_path)
    assert table(tmp_path, "fsq", "vq", capsys)["cost/tokenizer_training_flops"][4] == "2 seeds only"


def test_rows_are_compared_by_the_paired_bootstrap_where_images_are_kept(results: Path, capsys) -> None:
    found = table(results, "fsq", "vq", capsys)
    tables = [np.stack([factory.arrays(name, seed)["psnr_db"] for seed in range(3)]) for name in ("fsq", "vq")]
    wanted = paired_difference(*tables, np.arange(24) // 4, resamples=RESAMPLES, level=LEVEL, seed=BOOTSTRAP_SEED)
    interval = f"{wanted.low:.2f} to {wanted.high:.2f}"
    assert found["reconstruction/psnr_db"][2:] == [f"{wanted.mean:.2f}", interval, "yes", "3"]


def test_other_measures_have_students_interval_of_the_seeds(results: Path, capsys) -> None:
    found = table(results, "fsq", "vq", capsys)
    assert found["reconstruction/fd_classifier"][3] == "0 to 0"
    assert found["reconstruction/fd_classifier"][4] == "no"
    assert not any(key.startswith("baseline") for key in found)


def test_one_seed_has_no_interval_but_by_images(results: Path, capsys) -> None:
    found = table(results, "vq_tuned", "vq", capsys)
    assert found["bits/usage"][3] == "NA (fewer than 2 seeds)"
    assert found["reconstruction/psnr_db"][4:] == ["images only (1 seed)", "1"]


def test_runs_are_named_by_file_or_hash(results: Path, capsys) -> None:
    one, two = (factory.record("fsq", seed, ranked=True) for seed in (0, 1))
    by_hash = table(results, one.hash, two.hash, capsys)
    by_file = table(results, str(results / "runs" / one.file_name), two.file_name, capsys)
    assert by_hash == by_file
    assert by_hash["reconstruction/psnr_db"][4] in ("images only (1 seed)", "no")


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("vq", "patches", "vq and patches cannot be compared: budget cpu and gpu differ"),
        ("vqq", "fsq", "no run, row or file 'vqq'; did you mean 'vq'?"),
        (factory.record("fsq", 0).hash, "vq", "data photos32 and cifar10 differ"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(results: Path, capsys, a: str, b: str, message: str) -> None:
    assert main([a, b, "--results", str(results)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_other_versions_and_several_rows_of_a_name_are_refused(capsys, tmp_path: Path) -> None:
    factory.file(factory.record("fsq", 0, ranked=True), tmp_path)
    factory.file(factory.record("vq", 0, ranked=True, versions={"metrics.images": 2}), tmp_path)
    assert main(["fsq", "vq", "--results", str(tmp_path)]) == 2
    assert "measured in different ways: metrics.images 1 and 2" in capsys.readouterr().err
    factory.file(factory.record("vq", 1, ranked=True), tmp_path)
    other = {"seed": 0, "stage": "all", "quantizer": {"levels": [4, 4]}, "data": {"name": "cifar10"}}
    factory.file(factory.record("fsq", 0, ranked=True, config=other, hash="00000abc"), tmp_path)
    assert main(["fsq", "vq", "--results", str(tmp_path)]) == 2
    assert "'fsq' is 2 rows of" in capsys.readouterr().err


def test_no_records_is_one_line(capsys, tmp_path: Path) -> None:
    assert main(["a", "b", "--results", str(tmp_path)]) == 2
    assert "no records in" in capsys.readouterr().err
