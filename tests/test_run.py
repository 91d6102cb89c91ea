"""The command line on real images at budget=smoke: what it leaves behind, and what it says of bad input."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tokbench import build, execute, job, stages
from tokbench.interfaces import TokenSpace
from tokbench.records import Measure, RunRecord, read_arrays, read_records
from tokbench.report.groups import settings
from tokbench.run import BAD_INPUT, FAILED, OK, STOPPED, main
from tokbench.sweeps import Result


def arguments(folder: Path, *words: str) -> list[str]:
    return [*words, "budget=smoke", f"results_dir={folder}", f"cache_dir={folder / 'cache'}"]


def start(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tokbench.run", *words])
    return main()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of a sweep of two runs."""
    folder = tmp_path_factory.mktemp("results")
    words = arguments(folder, "-m", "quantizer=fsq,continuous_4")
    command = [sys.executable, "-m", "tokbench.run", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == OK, done.stderr
    return folder, done.stdout


def record_of(folder: Path, name: str) -> RunRecord:
    (record,) = [record for record in read_records(folder / "runs") if record.name == name]
    return record


def test_a_sweep_leaves_records_tables_and_pictures_and_nothing_else(swept: tuple[Path, str]) -> None:
    folder, output = swept
    assert {path.name for path in folder.iterdir()} == {
        *("runs", "cache", "README.md", "photos-32-smoke.md", "photos-32-smoke.csv", "report.html", "claims.md"),
        *("main.md", "main.csv", "information.md"),
        *("photos-32-smoke-reconstruction.png", "photos-32-smoke-samples.png", "photos-32-smoke-lost-first.png"),
        *("photos-32-smoke-completions.png", "photos-32-smoke-free.png"),
        *("photos-32-smoke-frontiers.png", "information-photos-32-smoke.png"),
    }
    assert len(list((folder / "runs").iterdir())) == 4
    assert "| fsq" in output
    assert f"written: {folder / 'photos-32-smoke.md'}" in output


def test_a_record_has_a_full_row(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    record = record_of(folder, "fsq")
    assert record.blocks == {"common": "transfusion", "native": "chameleon"}
    for key in (
        *("reconstruction/psnr_db", "reconstruction/ssim", "reconstruction/fd_classifier", "bits/usage"),
        *("common/generation/fd_classifier", "native/guided/fd_classifier", "native/bits/model_bits_per_image"),
        *("common/understanding/caption_bits_per_byte", "native/cost/generation_flops_counted"),
        *("cost/tokenizer_training_flops", "common/training/flattened", "baseline/mean_colour/reconstruction/psnr_db"),
    ):
        assert record.metrics[key].value is not None, key
    assert set(record.data.fingerprints) == {"train", "validation", "test", "generation"}
    assert record.environment["torch"] == torch.__version__.split("+")[0]
    assert {"png", "webp"} <= set(record.environment["image_codecs"])
    arrays = read_arrays(record, folder / "runs")
    assert arrays["psnr_db"].mean() == pytest.approx(record.metrics["reconstruction/psnr_db"].value, rel=1e-5)


def test_what_has_no_value_says_why(swept: tuple[Path, str]) -> None:
    metrics = record_of(swept[0], "continuous_4").metrics
    assert metrics["bits/usage"].reason == "continuous"
    assert metrics["native/bits/model_bits_per_image"].reason == "continuous"
    assert metrics["common/generation/class_agreement"].reason == "colour alone names the photograph"
    assert all(metrics["native" + key[6:]] == metrics[key] for key in metrics if key.startswith("common/"))


def test_counted_flops_are_the_formulas(swept: tuple[Path, str]) -> None:
    for name in ("fsq", "continuous_4"):
        metrics = record_of(swept[0], name).metrics
        for block in ("common", "native"):
            counted, analytic = (
                metrics[f"{block}/cost/generation_flops_{way}"].value for way in ("counted", "analytic")
            )
            assert counted == pytest.approx(analytic, rel=0.02)
            predicted, allocated = (metrics[f"{block}/cost/kv_cache_{way}bytes"].value for way in ("", "allocated_"))
            assert predicted == allocated > 0


def test_a_recorded_run_is_not_run_again(swept: tuple[Path, str], monkeypatch, capsys) -> None:
    folder, _ = swept
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").iterdir()}
    assert start(monkeypatch, *arguments(folder, "quantizer=fsq")) == OK
    assert "recorded before" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "runs").iterdir()}


def test_the_same_seed_gives_the_same_record(swept: tuple[Path, str], monkeypatch, tmp_path: Path) -> None:
    folder, _ = swept
    assert start(monkeypatch, *arguments(tmp_path, "quantizer=fsq")) == OK
    first, again = record_of(folder, "fsq"), record_of(tmp_path, "fsq")
    assert first.hash == again.hash
    assert untimed(first) == untimed(again)
    one, two = read_arrays(first, folder / "runs"), read_arrays(again, tmp_path / "runs")
    assert all((one[name] == two[name]).all() for name in one)


def test_a_tokenizer_alone_has_the_numbers_of_the_whole_run(
    swept: tuple[Path, str], monkeypatch, tmp_path: Path
) -> None:
    """The first seed of experiments=default is of one stage, the others of another, and they share a row."""
    folder, _ = swept
    assert start(monkeypatch, *arguments(tmp_path, "quantizer=fsq", "stage=tokenizer")) == OK
    whole, alone = record_of(folder, "fsq"), record_of(tmp_path, "fsq")
    assert settings(whole) == settings(alone)
    measured = untimed(alone)
    assert "reconstruction/psnr_db" in measured
    assert measured == {key: measure for key, measure in untimed(whole).items() if key in measured}
    one, two = read_arrays(whole, folder / "runs"), read_arrays(alone, tmp_path / "runs")
    assert all((one[name] == two[name]).all() for name in two)


def untimed(record: RunRecord) -> dict[str, Measure]:
    timed = ("seconds", "throughput", "peak_memory", "best_batch", "roofline")
    return {key: measure for key, measure in record.metrics.items() if not any(word in key for word in timed)}


def test_the_report_names_a_corrupt_record_and_keeps_it(swept: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    (folder / "runs").mkdir(parents=True)
    for path in (swept[0] / "runs").iterdir():
        (folder / "runs" / path.name).write_bytes(path.read_bytes())
    broken = folder / "runs" / "broken-s0-00000000.json"
    broken.write_text('{"name": "bro')
    command = [sys.executable, "-m", "tokbench.report", "--results", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == OK
    assert broken.name in done.stderr
    assert broken.exists()
    assert "broken" not in (folder / "photos-32-smoke.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reuse=maybe"], "reuse must be one of here, anywhere, got 'maybe'"),
        (["quantizer=zzzz"], "error: quantizer has no option 'zzzz' (python -m tokbench.list names them all)\n"),
        (["generation=givt", "head@generation.head=nosuch"], "error: head has no option 'nosuch' (it has bins, "),
        (["quantizer"], "error: arguments must be KEY=VALUE, got 'quantizer'\n"),
        (["foo=bar"], "error: no setting named foo\n"),
        (["quantiser=vq"], "error: no setting named quantiser; did you mean 'quantizer'?\n"),
        (
            ["head@generation.head=bins"],
            "error: Could not override 'head@generation.head'. Did you mean to override one",
        ),
        (
            ["generation=showo", "+generation.scheme.rounds=100"],
            "error: generation.scheme.rounds is set already: leave its + out\n",
        ),
        (["seed=0", "-m", "stage=all"], "error: -m must come before all KEY=VALUE or after them, got 'stage=all' "),
        (["loss.weight=1"], "error: no setting named loss.weight\nloss is null: choose one"),
        (["data=5"], "error: Config group override must be a string or a list. Got int\n"),
        (["+fewsteps=10"], "error: no setting named fewsteps; did you mean 'few_steps'?\n"),
        (["quantizer.levels=[8,1,5]"], "levels must each be a whole number >= 2 and <= 1000, got [8, 1, 5]"),
        (["quantizer=vq", "quantizer.codebook_size=0"], "codebook_size must be >= 2, got 0"),
        (["quantizer.level=[8]"], "level"),
        (["+quantizer.level=[8]"], "no argument 'level'; it takes: bound"),
        (["tokenizer.factor=5"], "image size must be divisible by factor = 5, got 32x32"),
        (["data=folder", "data.root=/nowhere/at/all"], "/nowhere/at/all"),
        (["data=cifar10", "data.root=/nowhere/at/all"], "/nowhere/at/all"),
        (["data=folder"], "data.root"),
        (["quantizer=continuous_4", "generation=chameleon"], "transfusion"),
        (["tokenizer._target_=no.such.Class"], "no.such.Class"),
        (["name=my run"], "name must be letters"),
        (["seed=-1"], "seed must be a whole number >= 0, got -1"),
        (["stage=half"], "stage must be one of all, bits, tokenizer, got 'half'"),
    ],
)
def test_bad_input_is_told_shortly(words: list[str], message: str, monkeypatch, capfd, tmp_path: Path) -> None:
    assert start(monkeypatch, *arguments(tmp_path, *words)) == BAD_INPUT
    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["budget.backbone.steps=0"], "fsq s0: budget.backbone.steps must be a whole number >= 1, got 0"),
        (["budget.tokenizer.steps=2.5"], "fsq s0: budget.tokenizer.steps must be a whole number >= 1, got 2.5"),
        (
            ["generation=showo", "generation.scheme.rounds=abc"],
            "rounds of tokbench.generation.masked.Masked must be a whole",
        ),
        (["backbone.heads=0"], "backbone.heads must be a whole number >= 1, got 0"),
        (["generation=transfusion", "+generation.scheme.patch=2.0"], "patch must be a whole number, got 2.0"),
        (
            ["generation=chameleon", "shapes=true", "generation.scheme.order=random"],
            "order must be raster with shapes=true",
        ),
        (["pairs={steps:2,side:300}"], "pairs.side must be <= the side of an image, 32, got 300"),
    ],
)
def test_a_value_that_cannot_be_meant_is_told_in_one_line_and_nothing_is_trained(
    words: list[str], message: str, monkeypatch, capfd, tmp_path: Path
) -> None:
    assert start(monkeypatch, *arguments(tmp_path, *words)) == BAD_INPUT
    error = capfd.readouterr().err
    assert error.startswith("error: fsq s0: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_nan_in_training_names_step_and_term_and_is_recorded(monkeypatch, capsys, tmp_path: Path) -> None:
    def diverge(tokenizer: object, images: torch.Tensor) -> dict[str, torch.Tensor]:
        terms = original(tokenizer, images)
        bad = tokenizer.training and next(calls) == 2  # type: ignore[attr-defined]
        return terms | {"reconstruction": terms["reconstruction"] * (float("nan") if bad else 1.0)}

    original, calls = stages.tokenizer_loss, iter(range(1, 1000))
    monkeypatch.setattr(stages, "tokenizer_loss", diverge)
    assert start(monkeypatch, *arguments(tmp_path, "stage=tokenizer")) == FAILED
    error = capsys.readouterr().err
    assert "'reconstruction' is not finite at step 2 of 2" in error
    assert "Traceback" not in error
    (record,) = read_records(tmp_path / "runs")
    assert record.status == "failed"
    assert "step 2" in str(record.error)


def test_a_failure_does_not_stop_a_sweep_which_ends_with_a_list(monkeypatch, capsys, tmp_path: Path) -> None:
    words = arguments(tmp_path, "-m", "tokenizer.factor=5,8", "stage=tokenizer")
    assert start(monkeypatch, *words) == FAILED
    seen = capsys.readouterr()
    assert "image size must be divisible by factor = 5" in seen.err
    assert "1 of 2 runs failed:\n  tokenizer.factor=5" in seen.err
    assert seen.err.splitlines()[-1].endswith(": image size must be divisible by factor = 5, got 32x32")
    assert "[sweep] 1 of 2 runs done, 1 failed\n" in seen.out
    assert "[sweep] 2 of 2 runs done, 1 failed\n" in seen.out
    assert [record.status for record in read_records(tmp_path / "runs")] == ["ok"]
    assert "| fsq" in seen.out


def test_what_is_wrong_with_every_run_of_a_sweep_is_told_once_and_summed_up(
    monkeypatch, capsys, tmp_path: Path
) -> None:
    assert start(monkeypatch, *arguments(tmp_path, "-m", "tokenizer.factor=5", "seed=0,1,2")) == BAD_INPUT
    said = "image size must be divisible by factor = 5, got 32x32"
    assert capsys.readouterr().err.splitlines() == [
        f"error: fsq s0: {said}",
        "3 of 3 runs failed:",
        f"  3 runs: {said}",
    ]


def test_a_sweep_that_is_killed_has_listed_the_runs_of_its_experiment(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tokbench.run.run", lambda config, **_: Result(OK, record=f"fsq-s{config['seed']}.json"))
    monkeypatch.setattr("tokbench.run._close", lambda outcomes: STOPPED)  # never came to its end
    assert start(monkeypatch, *arguments(tmp_path, "-m", "experiment=mine", "seed=0,1")) == STOPPED
    assert json.loads((tmp_path / "sweeps" / "mine.json").read_text()) == ["fsq-s0.json", "fsq-s1.json"]


def test_a_full_disk_leaves_no_half_record_and_the_next_start_goes_on(monkeypatch, capsys, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        assert start(patched, *arguments(tmp_path, "stage=tokenizer")) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot write, nothing is recorded" in line
    assert "No space left on device" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "judges" not in str(path)]
    assert start(monkeypatch, *arguments(tmp_path, "stage=tokenizer")) == OK


def test_ctrl_c_leaves_no_record_and_the_next_start_keeps_the_trained_tokenizer(
    monkeypatch, capsys, tmp_path: Path
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(execute, "evaluate_tokenizer", interrupt)
        assert start(patched, *arguments(tmp_path, "stage=tokenizer")) == STOPPED
    assert "the next start goes on" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*")) if (tmp_path / "runs").exists() else True
    monkeypatch.setattr(stages, "fit", interrupt)  # trained already: not to be called again
    assert start(monkeypatch, *arguments(tmp_path, "stage=tokenizer")) == OK


def test_a_users_own_tokenizer_is_checked_and_run(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "own_tokenizer.py").write_text(
        "from tokbench.tokenizers.patches import Patches\n"
        "class Coarse(Patches):\n"
        "    def __init__(self, size): super().__init__(size)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["tokenizer._target_=own_tokenizer.Coarse", "+tokenizer.size=8", "stage=tokenizer"]
    assert start(monkeypatch, *arguments(tmp_path, *words)) == OK
    record = record_of(tmp_path, "coarse")
    assert record.metrics["bits/tokens"].value == 16
    assert record.metrics["reconstruction/psnr_db"].value == 100


def test_every_tokenizer_and_backbone_starts_from_the_same_weights(tmp_path: Path) -> None:
    """Whatever the quantizer draws, encoder, decoder and transformer blocks are the same at one seed."""
    starts = []
    for name in ("fsq", "vq", "vq_tuned_rotation", "continuous_8"):
        ready = job.prepare(build.compose(arguments(tmp_path, f"quantizer={name}")))
        tokenizer = ready.tokenizer()
        state = {k: v for k, v in tokenizer.state_dict().items() if k.startswith(("encoder", "decoder"))}
        zeros = torch.zeros(tokenizer.dim)
        space = TokenSpace(
            (8, 8), tokenizer.dim, tokenizer.codebook_sizes, zeros, zeros + 1, tokenizer.indices_to_codes
        )
        blocks = ready.scheme(ready.presets["common"], space).backbone.blocks.state_dict()
        starts.append(state | blocks)
    for start_of in starts[1:]:
        assert all(torch.equal(value, starts[0][key]) for key, value in start_of.items())


def test_a_users_folder_of_images_runs_end_to_end(monkeypatch, tmp_path: Path) -> None:
    root = tmp_path / "my images"
    for name, level in (("dark", 40), ("light", 200)):
        (root / name).mkdir(parents=True)
        for k in range(30):
            pixels = np.random.default_rng(k).integers(0, 40, (20, 24, 3)) + level
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{k}.png")
    words = ["data=folder", f"data.root={root}", "data.size=16", "budget.evaluation.samples=8"]
    assert start(monkeypatch, *arguments(tmp_path, *words)) == OK
    record = record_of(tmp_path, "fsq")
    assert record.data.name == "folder-my-images"
    assert record.metrics["common/generation/fd_classifier"].reason is not None
    assert record.metrics["common/understanding/caption_accuracy"].value is not None
    assert str(tmp_path) not in json.dumps(record.config)


def test_ctrl_c_in_training_stops_with_its_own_code(monkeypatch, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "tokenizer_loss", interrupt)
    assert start(monkeypatch, *arguments(tmp_path, "stage=tokenizer")) == STOPPED
    assert not list((tmp_path / "runs").iterdir())


def test_a_record_made_elsewhere_is_made_again_here(
    swept: tuple[Path, str], monkeypatch, capsys, tmp_path: Path
) -> None:
    words = ["stage=tokenizer", "budget=smoke", f"results_dir={tmp_path}"]
    assert start(monkeypatch, *words, f"cache_dir={tmp_path / 'here'}") == OK
    assert start(monkeypatch, *words, f"cache_dir={tmp_path / 'here'}") == OK
    assert "recorded before" in capsys.readouterr().out
    assert start(monkeypatch, *words, f"cache_dir={tmp_path / 'elsewhere'}") == OK
    assert "recorded before" not in capsys.readouterr().out
    assert start(monkeypatch, *words, f"cache_dir={tmp_path / 'third'}", "reuse=anywhere") == OK
    assert "recorded before" in capsys.readouterr().out


def test_readme_and_ci_name_the_same_commands() -> None:
    readme, ci = (build.ROOT / "README.md").read_text(), (build.ROOT / ".ci" / "run").read_text()
    makefile = (build.ROOT / "Makefile").read_text()
    for command in ("make sweep", "make test"):
        assert command in readme
        assert f"\n{command.split()[1]}:" in makefile
    assert "make test" in ci
    assert "make lint" in ci


@pytest.mark.parametrize(("seeds", "words"), [("", ""), ("2", "'seed=range(2)'")])
def test_make_sweep_takes_a_number_of_seeds_for_any_experiment(seeds: str, words: str) -> None:
    command = ["make", "-n", "-o", ".venv/done", "sweep", f"SEEDS={seeds}", "EXPERIMENT=cifar10"]
    done = subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if "tokbench.run" in line]
    assert line.split("experiments=cifar10")[1].strip() == words


def test_every_record_of_the_repository_is_valid_json_of_this_schema() -> None:
    paths = sorted((build.ROOT / "results" / "runs").glob("*.json"))
    for path in paths:
        RunRecord.model_validate_json(path.read_text())
        assert str(Path.home()) not in json.dumps(json.loads(path.read_text())["config"])
    assert paths, "results/runs must hold the records behind README's tables"
