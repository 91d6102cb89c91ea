"""The code lengths of a run: which tokenizers have which, and that a run may stop there."""

from __future__ import annotations

import pytest

from tokbench import build
from tokbench.execute import execute
from tokbench.job import prepare
from tokbench.records import RunRecord, read_records


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    folder = tmp_path_factory.mktemp("bits")
    for name in ("fsq", "continuous_4", "patches"):
        given = [
            f"quantizer={name}",
            "stage=bits",
            "budget=smoke",
            f"results_dir={folder}",
            f"cache_dir={folder}/cache",
        ]
        execute(prepare(build.compose(given)))
    return {record.name: record for record in read_records(folder / "runs")}


def value(record: RunRecord, name: str) -> float:
    found = record.metrics[f"information/{name}_bits_per_subpixel"].value
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["fsq", "continuous_4", "patches"])
def test_the_total_is_what_tokens_say_and_what_they_leave_open(made: dict[str, RunRecord], name: str) -> None:
    record = made[name]
    total = value(record, "lossless")
    assert total == pytest.approx(value(record, "token") + value(record, "residual"))
    assert total > 2.5  # photographs hold more


def test_codes_also_have_a_total_by_tables_and_continuous_latents_have_none(made: dict[str, RunRecord]) -> None:
    tables = made["fsq"].metrics["bits/table_bits_per_image"].value
    assert tables is not None
    by_tables = value(made["fsq"], "residual") + tables / (3 * 32 * 32)
    assert value(made["fsq"], "table_lossless") == pytest.approx(by_tables)
    assert "information/table_lossless_bits_per_subpixel" not in made["continuous_4"].metrics


def test_raw_patches_leave_nothing_open(made: dict[str, RunRecord]) -> None:
    assert value(made["patches"], "residual") == 0


def test_the_run_stops_after_the_likelihood(made: dict[str, RunRecord]) -> None:
    assert made["fsq"].blocks == {"native": "chameleon"}
    assert made["continuous_4"].blocks == {}
    for record in made.values():
        assert not any("/generation/" in key and not key.startswith("baseline") for key in record.metrics)


def test_image_codecs_stand_beside_them(made: dict[str, RunRecord]) -> None:
    for name in ("png", "webp"):
        single, tiled = (
            made["fsq"].metrics[f"baseline/{name}/information/{form}_file_bits_per_subpixel"].value
            for form in ("single", "tiled")
        )
        assert single is not None
        assert tiled is not None
        assert 8 > single > tiled > 2


def test_what_measures_code_lengths_is_in_the_hash_of_these_runs_alone(made: dict[str, RunRecord]) -> None:
    assert made["fsq"].versions["information.lossless"] == 1
    job = prepare(build.compose(["stage=tokenizer", "budget=smoke"]))
    assert "information.lossless" not in job.versions
