"""Two runs or rows beside each other."""

from pathlib import Path

import numpy as np
import pytest
import report_factory as factory

from tokbench.compare import main
from tokbench.metrics.statistics import paired_difference
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


def table(results: Path, a: str, b: str, capsys) -> dict[str, list[str]]:
    assert main([a, b, "--results", str(results)]) == 0
    lines = [line.strip("| \n").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    return {line[0].split()[0]: [cell.strip() for cell in line[1:]] for line in lines[2:]}


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
    assert found["reconstruction/psnr_db"][4:] == ["yes", "1"]


def test_runs_are_named_by_file_or_hash(results: Path, capsys) -> None:
    one, two = (factory.record("fsq", seed, ranked=True) for seed in (0, 1))
    by_hash = table(results, one.hash, two.hash, capsys)
    by_file = table(results, str(results / "runs" / one.file_name), two.file_name, capsys)
    assert by_hash == by_file
    assert by_hash["reconstruction/psnr_db"][4] in ("yes", "no")


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
    other = {"seed": 0, "stage": "all", "quantizer": {"levels": [4, 4]}, "data": {"name": "cifar10"}}
    factory.file(factory.record("fsq", 0, ranked=True, config=other, hash="00000abc"), tmp_path)
    assert main(["fsq", "vq", "--results", str(tmp_path)]) == 2
    assert "'fsq' is 2 rows of" in capsys.readouterr().err


def test_no_records_is_one_line(capsys, tmp_path: Path) -> None:
    assert main(["a", "b", "--results", str(tmp_path)]) == 2
    assert "no records in" in capsys.readouterr().err
