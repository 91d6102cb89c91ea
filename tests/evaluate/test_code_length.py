"""The code lengths of a run: which tokenizers have which, and that a run may stop there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tokbench import build, stages
from tokbench.evaluate.code_length import (
    code_length_measures,
    fit_code_length,
    judged_images,
    reconstructed,
    token_bits,
)
from tokbench.evaluate.tokens import encode_split, token_space
from tokbench.execute import execute
from tokbench.interfaces import Dataset, Quantized, Split
from tokbench.job import prepare
from tokbench.metrics.images import to_float
from tokbench.records import RunRecord, read_records
from tokbench.tokenizers.patches import Patches

CPU = torch.device("cpu")


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


def test_a_continuous_latent_is_coded_with_noise_and_codes_are_not(made: dict[str, RunRecord]) -> None:
    metrics = made["continuous_4"].metrics
    assert metrics["information/token_bits_per_pixel"].value == pytest.approx(3 * value(made["continuous_4"], "token"))
    assert metrics["information/coded_psnr_db"].n == metrics["information/lossless_bits_per_subpixel"].n
    assert not {"information/token_bits_per_pixel", "information/coded_psnr_db"} & made["fsq"].metrics.keys()


def test_raw_patches_leave_nothing_open(made: dict[str, RunRecord]) -> None:
    assert value(made["patches"], "residual") == 0


def test_the_run_stops_after_the_likelihood(made: dict[str, RunRecord]) -> None:
    assert made["fsq"].blocks == {"native": "chameleon"}
    assert made["continuous_4"].blocks == {}
    for record in made.values():
        assert not any("/generation/" in key and not key.startswith("baseline") for key in record.metrics)


def test_image_codecs_stand_beside_them(made: dict[str, RunRecord]) -> None:
    images = made["fsq"].metrics["information/lossless_bits_per_subpixel"].n
    for name in ("png", "webp"):
        assert made["fsq"].metrics[f"baseline/{name}/information/single_file_bits_per_subpixel"].n == images
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


def dataset(entropy_bits: float | None = None) -> Dataset:
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(images, tuple(f"image {i}" for i in range(40)), None, torch.arange(40))
    return Dataset("noise", True, (), split, split, split, split, entropy_bits=entropy_bits)


class Halved(Patches):
    """Nothing trained, and yet something lost: every image at half its contrast."""

    def latents(self, images: Tensor) -> Tensor:
        return super().latents(images) / 2

    def encode(self, images: Tensor) -> Quantized:
        return Quantized(self.latents(images), None, {})


def test_what_is_lost_is_paid_for_by_a_tokenizer_that_needs_no_training_too() -> None:
    data, options = dataset(entropy_bits=1.0), {"steps": 2, "batch": 40, "device": CPU}
    (kept, kept_bits), (lost, _) = (
        code_length_measures(
            data,
            fit_code_length(
                tokenizer,
                data,
                reconstructed(tokenizer, judged_images(data), batch=40, device=CPU),
                **options,  # type: ignore[arg-type]
            ),
            tokens=torch.ones(40),
            table_bits=None,
        )
        for tokenizer in (Patches(4), Halved(4))
    )
    assert kept["information/residual_bits_per_subpixel"].value == 0
    assert kept["information/above_entropy_bits_per_subpixel"].value == 0
    assert torch.equal(kept_bits, torch.ones(40))
    assert lost["information/residual_bits_per_subpixel"].value > 1


def test_tokens_cost_the_same_whatever_the_caption() -> None:
    """A caption that says what the image shows would make the total smaller than what the image holds."""
    job = prepare(build.compose(["quantizer=fsq", "stage=bits", "budget=smoke"]))
    tokenizer, split = job.tokenizer().eval(), job.dataset.generation  # type: ignore[attr-defined]
    table = encode_split(tokenizer, split, batch=96, device=CPU)
    space = token_space(tokenizer, table, size=32)
    scheme = job.scheme(job.presets["native"], space).eval()  # type: ignore[attr-defined]
    with torch.no_grad():  # or the image would not see the caption at all
        for block in scheme.backbone.blocks:
            torch.nn.init.normal_(block.attention.out.weight, std=0.5)
    other = encode_split(tokenizer, Split(split.images, ("a",) * len(split), None, split.groups), batch=96, device=CPU)
    rows = torch.arange(len(table))
    assert not torch.allclose(scheme.nll(table.batch(space, rows)), scheme.nll(other.batch(space, rows)))
    found, same = (token_bits(scheme, space, own, batch=96) for own in (table, other))
    assert torch.equal(found, same)


def test_a_density_of_tokens_that_are_no_levels_is_no_code() -> None:
    job = prepare(build.compose(["quantizer=patches", "stage=bits", "budget=smoke"]))
    split, (patches, halved) = job.dataset.generation, (Patches(4), Halved(4))
    for tokenizer, coded in ((patches, True), (halved, False)):
        table = encode_split(tokenizer, split, batch=96, device=CPU)
        space = token_space(tokenizer, table, size=32)
        scheme = job.scheme(job.presets["native"], space).eval()  # type: ignore[attr-defined]
        assert (token_bits(scheme, space, table, batch=96) is not None) == coded
    assert torch.equal(patches.decode(patches.latents(to_float(split.images))), to_float(split.images))


def test_a_tokenizer_s_code_length_is_fitted_once_and_read_again_unchanged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = ["quantizer=continuous_4", "stage=bits", "budget=smoke", f"results_dir={tmp_path}", f"cache_dir={tmp_path}"]
    other = ["budget.backbone.steps=3"]  # another generator on the same tokenizer
    judged = ["budget.judge.steps=4"]  # another length of the fit
    execute(prepare(build.compose(given)))
    fitted = []
    monkeypatch.setattr(
        stages, "fit_code_length", lambda *a, **k: fitted.append(k["steps"]) or fit_code_length(*a, **k)
    )
    execute(prepare(build.compose([*given, *other])))
    assert not fitted
    first, second = (r.metrics["information/residual_bits_per_subpixel"] for r in read_records(tmp_path / "runs"))
    assert first == second
    execute(prepare(build.compose([*given, *judged])))
    execute(prepare(build.compose([*given, "force=true"])))
    assert len(fitted) == 2


def test_other_weights_and_other_code_of_a_tokenizer_are_fitted_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fitted = []
    monkeypatch.setattr(stages, "fit_code_length", lambda *a, **k: fitted.append(1) or fit_code_length(*a, **k))
    job = prepare(build.compose(["quantizer=fsq", "stage=bits", "budget=smoke", f"cache_dir={tmp_path}"]))
    tokenizer = job.tokenizer().eval()  # type: ignore[attr-defined]
    for _ in range(2):
        stages.code_length(job, tokenizer)
    assert len(fitted) == 1
    with torch.no_grad():
        next(tokenizer.parameters()).mul_(1.5)
    stages.code_length(job, tokenizer)
    assert len(fitted) == 2
    monkeypatch.setattr(type(tokenizer), "decode", lambda self, z: torch.zeros(len(z), 3, 32, 32))
    stages.code_length(job, tokenizer)
    assert len(fitted) == 3
