"""Equal trials: as many for every method, the best by validation error."""

from pathlib import Path

import pytest

from tokbench import build, tune
from tokbench.job import prepare
from tokbench.train import Training
from tokbench.training_module import Diverged
from tokbench.tune import method_weight, scaled

WEIGHTS = build.compose(["tuning=equal"])["tuning"]["weights"]


def job(tmp_path: Path, *overrides: str):
    options = ["budget=smoke", "stage=tokenizer", "tuning=equal", f"cache_dir={tmp_path}", f"results_dir={tmp_path}"]
    return prepare(build.compose([*options, "data.num_train=64", "data.num_validation=32", *overrides]))


def training(loss: float) -> Training:
    return Training([loss], [(1, loss)], 1, 0.0)


@pytest.mark.parametrize(
    ("quantizer", "weight"),
    [
        ("vq", "beta"),
        ("lfq", "entropy_weight"),
        ("fsq", None),
        ("kl", "kl_weight"),
        ("rvq", "stage.beta"),
        ("bsq", "entropy_weight"),
    ],
)
def test_each_method_has_one_weight_or_none(quantizer: str, weight: str | None) -> None:
    assert method_weight(build.compose([f"quantizer={quantizer}"])["quantizer"], WEIGHTS) == weight


def test_every_method_gets_as_many_trials() -> None:
    tuning = build.compose(["tuning=equal"])["tuning"]
    assert len(tuning["trials"]) == len(tuning["trials_without_weight"]) == 5
    assert [1, 1] == tuning["trials"][0] == tuning["trials_without_weight"][0]


def test_scaling_changes_a_copy() -> None:
    config = build.compose(["quantizer=rvq"])
    changed = scaled(config, "stage.beta", 2.0, 4.0)
    assert changed["budget"]["tokenizer"]["lr"] == 2 * config["budget"]["tokenizer"]["lr"]
    assert changed["quantizer"]["stage"]["beta"] == 4 * config["quantizer"]["stage"]["beta"]


def test_the_best_trial_is_taken_by_validation_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fake(job):
        seen.append((job.config["budget"]["tokenizer"]["lr"], job.config["quantizer"]["beta"], job.config["seed"]))
        if len(seen) == 1:
            raise Diverged("at once")
        return None, training(abs(job.config["budget"]["tokenizer"]["lr"] - 0.004))

    monkeypatch.setattr(tune, "trained_tokenizer", fake)
    chosen, trials = tune.tune(job(tmp_path, "quantizer=vq", "seed=3"))
    assert [(t.lr_factor, t.weight_factor) for t in trials] == [(1, 1), (0.5, 1), (2, 1), (1, 0.25), (1, 4)]
    assert all(seed == 0 for *_, seed in seen)
    assert chosen.config["budget"]["tokenizer"]["lr"] == 0.004
    assert chosen.config["quantizer"]["beta"] == 0.25
    assert chosen.config["seed"] == 3
    assert chosen.config["budget"]["tokenizer"]["steps"] == 2


def test_all_trials_diverging_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(job):
        raise Diverged("no")

    monkeypatch.setattr(tune, "trained_tokenizer", fake)
    with pytest.raises(Diverged, match="all 5 tuning trials of fsq-searched diverged"):
        tune.tune(job(tmp_path, "quantizer=fsq"))


def test_nothing_to_train_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tuning needs a tokenizer with something to train, got 'patches-searched'"):
        tune.tune(job(tmp_path, "quantizer=patches"))


def test_trials_are_real_trainings_of_a_third_of_the_steps(tmp_path: Path) -> None:
    _, trials = tune.tune(job(tmp_path, "quantizer=fsq", "budget.tokenizer.steps=6"))
    assert {trial.steps for trial in trials} == {2}
    assert len({trial.validation for trial in trials}) == 5


def test_a_run_records_what_its_search_cost_and_chose(tmp_path: Path) -> None:
    from tokbench.execute import execute
    from tokbench.records import read_records

    execute(job(tmp_path, "quantizer=vq", "budget.tokenizer.steps=3"))
    (record,) = read_records(tmp_path / "runs")
    values = {key: measure.value for key, measure in record.metrics.items()}
    assert record.name == "vq-searched"
    assert values["training/tuning_trials"] == 5
    assert values["cost/tuning_flops"] == pytest.approx(values["cost/tokenizer_training_flops"] * 5 / 3)
    assert values["training/tuned_lr_factor"] in (0.5, 1, 2)
