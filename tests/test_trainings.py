"""Trainings of a run: cut short, short of memory."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tokbench import build, checkpoints, job, stages
from tokbench.evaluate.tokens import encode_split, token_space
from tokbench.evaluate.training import training_measures
from tokbench.memory import out_of_memory
from tokbench.processes import as_here
from tokbench.training_module import Diverged


class Cut(BaseException):
    """Stands for the kill."""


def prepared(folder: Path, *words: str) -> job.Job:
    steps = ("budget.tokenizer.steps=6", "budget.backbone.steps=6")
    places = (f"results_dir={folder}", f"cache_dir={folder / 'cache'}")
    return job.prepare(build.compose(["budget=smoke", "generation=transfusion", *steps, *places, *words]))


def trained(ready: job.Job) -> list[Any]:
    """The trainings and weights of the tokenizer and of a scheme on its tokens."""
    tokenizer, training = stages.trained_tokenizer(ready)
    splits = ready.dataset.splits
    tables = {n: encode_split(tokenizer, splits[n], batch=64, device=ready.device) for n in ("train", "validation")}
    space = token_space(tokenizer, tables["train"], size=32)
    scheme, generated = stages.trained_scheme(ready, ready.presets["common"], space, tables)
    found: list[Any] = []
    for model, curve in ((tokenizer, training), (scheme, generated)):
        found += [curve.losses, curve.validation, *(value.tolist() for value in model.state_dict().values())]
    return found


def test_trainings_that_are_cut_short_end_with_the_same_bits(monkeypatch, tmp_path: Path) -> None:
    whole = trained(prepared(tmp_path / "whole"))
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", float("inf"))
    original, calls = checkpoints.Checkpoint.write, 0

    def write(self: checkpoints.Checkpoint, state: dict[str, Any]) -> None:
        nonlocal calls
        original(self, state)
        calls += 1
        if calls in (3, 11):
            raise Cut

    monkeypatch.setattr(checkpoints.Checkpoint, "write", write)
    for _ in range(2):
        with pytest.raises(Cut):
            trained(prepared(tmp_path / "cut"))
        assert len(list((tmp_path / "cut" / "cache" / "checkpoints").iterdir())) == 1
    assert trained(prepared(tmp_path / "cut")) == whole
    assert calls == 6 + 1 + 6 + 1, "no step may be done twice"


def test_a_run_short_of_memory_is_done_in_parts_and_its_record_says_so(monkeypatch, capsys, tmp_path: Path) -> None:
    original = stages.tokenizer_loss

    def short(tokenizer: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if tokenizer.training and len(images) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(tokenizer, images)

    monkeypatch.setattr(stages, "tokenizer_loss", short)
    _, training = stages.trained_tokenizer(prepared(tmp_path, "stage=tokenizer"))
    assert training_measures("", training)["training/micro_batches"].value == 4
    assert "once more, each batch in 4 parts" in capsys.readouterr().err
    monkeypatch.setattr(stages, "tokenizer_loss", original)
    _, whole = stages.trained_tokenizer(prepared(tmp_path / "whole", "stage=tokenizer"))
    assert "training/micro_batches" not in training_measures("", whole)
    assert training.losses == pytest.approx(whole.losses, rel=1e-4)
    assert stages.trained_tokenizer(prepared(tmp_path, "stage=tokenizer"))[1] == training, "the cache says so as well"


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    words = ("stage=tokenizer", "budget.tokenizer.steps=4", "quantizer=vq_ema")
    alone, together = (
        stages.trained_tokenizer(prepared(tmp_path / str(count), *words, f"devices={count}"))[1] for count in (1, 2)
    )
    assert together.losses == pytest.approx(alone.losses, rel=1e-4)
    assert [loss for _, loss in together.validation] == pytest.approx([loss for _, loss in alone.validation], rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_a_scheme_too(tmp_path: Path) -> None:
    """On their own noise, so that only the tokenizer's losses are those of one."""
    words = ("budget.tokenizer.steps=4", "budget.backbone.steps=4", "quantizer=vq_ema")
    alone, together = (trained(prepared(tmp_path / str(count), *words, f"devices={count}")) for count in (1, 2))
    assert together[0] == pytest.approx(alone[0], rel=1e-4)
    assert len(together) == len(alone)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["devices=0"], "devices must be a whole number from 1 to"),
        (["devices=1000"], "devices must be a whole number from 1 to"),
        (["devices=2", "budget.tokenizer.batch=33"], "budget.tokenizer.batch must divide among devices = 2, got 33"),
        (["devices=2", "tuning=equal"], "devices must be 1 with tuning"),
        (["strategy=fsdp"], "strategy must be auto or one of Lightning's ddp strategies, got 'fsdp'"),
    ],
)
def test_devices_that_cannot_be_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, *words)


def test_errors_of_other_processes_are_told_apart() -> None:
    error = as_here(
        "\n\n-- Process 0 terminated with the following error:\ntokbench.training_module.Diverged: term 'x' at step 3\n"
    )
    assert isinstance(error, Diverged)
    assert str(error) == "term 'x' at step 3"
    error = as_here("Traceback\ntorch.OutOfMemoryError: CUDA out of memory. Tried")
    assert out_of_memory(error)
