"""Every option of conf/ and every experiment composes, and is built; wrong values are named."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tokbench import build
from tokbench.interfaces import TokenSpace

CONF = build.ROOT / "conf"
VQ_NODE = {"_target_": "tokbench.quantizers.vq.VectorQuantizer", "dim": 2, "codebook_size": 4, "beta": 1.0}
VQ_NODE |= {"estimator": "rotation"}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("group", sorted(path.name for path in CONF.iterdir() if path.is_dir()))
def test_every_option_composes(group: str) -> None:
    assert options(group)
    for option in options(group):
        if group == "head":
            config = build.compose([f"+head@extra={option}"])
            assert config["extra"]["_target_"]
        elif group == "toys":
            config = build.compose([f"+toys={option}"])
        else:
            extra = ["data.root=somewhere"] if option == "folder" else []
            config = build.compose([f"{group}={option}", *extra])
        assert config["name"]


@pytest.mark.parametrize("name", sorted(path.stem for path in (build.ROOT / "experiments").glob("*.yaml")))
def test_every_experiment_composes_and_states_a_question(name: str) -> None:
    config = build.compose([f"experiments={name}"])
    assert config["experiment"] == name
    about = yaml.safe_load((build.ROOT / "experiments" / f"{name}.yaml").read_text())["about"]
    assert "?" in about["question"]
    assert about["claims"], "what would the records decide?"


def test_the_default_comparison_measures_one_seed_whole_and_others_as_far_as_ranks() -> None:
    stages = [build.compose(["experiments=default", f"seed={seed}"])["stage"] for seed in range(4)]
    assert stages == ["all", "tokenizer", "tokenizer", "tokenizer"]
    assert build.compose(["experiments=default", "seed=1", "stage=bits"])["stage"] == "bits"


@pytest.mark.parametrize("budget", options("budget"))
@pytest.mark.parametrize("generation", options("generation"))
def test_every_generation_preset_and_budget_is_built(generation: str, budget: str) -> None:
    config = build.compose([f"generation={generation}", f"budget={budget}"])
    presets = [config["generation"]] if "scheme" in config["generation"] else config["generation"].values()
    space = TokenSpace((4, 4), 4, (10,), torch.zeros(4), torch.ones(4), lambda i: torch.zeros(*i.shape, 4))
    for preset in presets:
        with torch.device("meta"):
            backbone = build.construct(config["backbone"], dim=4, grid=(4, 4))
            known = {"width": backbone.width, "dim": 4, "codebook_sizes": (10,)}
            wanted = {k: v for k, v in known.items() if preset["head"] and build.takes(preset["head"], k)}
            head = preset["head"] and build.construct(preset["head"], **wanted)
            scheme = build.construct(preset["scheme"], space, backbone, *([head] if head else []))
        assert set(scheme.loss_weights) == {"text", "image"}


def test_the_wandb_logger_is_built_offline(tmp_path: Path) -> None:
    config = build.compose(["logger=wandb", "logger.offline=true", f"cache_dir={tmp_path}"])
    logger = build.construct(config["logger"])
    assert logger._offline


def test_a_wrong_key_is_named_with_the_valid_ones() -> None:
    node = {"_target_": "tokbench.quantizers.fsq.FiniteScalarQuantizer", "level": [8]}
    with pytest.raises(ValueError, match="no argument 'level'; it takes: bound, codebook_size, levels"):
        build.construct(node)


def test_a_missing_key_and_a_wrong_target_are_named() -> None:
    with pytest.raises(ValueError, match="needs dim"):
        build.construct({"_target_": "tokbench.quantizers.continuous.Continuous"})
    with pytest.raises(ValueError, match=r"importable name such as my.module.Class, got 'my.module.Class'"):
        build.construct({"_target_": "my.module.Class"})


def test_a_tokenizer_by_target_starts_from_its_own_arguments() -> None:
    overrides = ["tokenizer._target_=tokbench.tokenizers.patches.Patches", "+tokenizer.patch=8"]
    assert build.compose(overrides)["tokenizer"] == {"_target_": "tokbench.tokenizers.patches.Patches", "patch": 8}


def test_the_alias_of_patches_is_the_tokenizer() -> None:
    alias, direct = build.compose(["quantizer=patches"]), build.compose(["tokenizer=patches"])
    assert alias["tokenizer"] == direct["tokenizer"]
    assert alias["name"] == direct["name"] == "patches"


def test_the_hash_covers_values_data_and_versions_but_no_paths() -> None:
    config = build.compose([])
    base = build.run_hash(config, {"train": "a"}, {"x": 1})
    assert base == build.run_hash(build.compose(["results_dir=/elsewhere", "force=true"]), {"train": "a"}, {"x": 1})
    assert base != build.run_hash(build.compose(["seed=1"]), {"train": "a"}, {"x": 1})
    assert base != build.run_hash(config, {"train": "b"}, {"x": 1})
    assert base != build.run_hash(config, {"train": "a"}, {"x": 2})
    assert len(base) == 8


def test_help_answers_without_importing_torch() -> None:
    code = "import sys, tokbench.run; assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=build.ROOT, check=False).returncode == 0


def swept(experiment: str) -> list[str]:
    text = (build.ROOT / "experiments" / f"{experiment}.yaml").read_text()
    (line,) = [line for line in text.splitlines() if line.strip().startswith("quantizer:")]
    return line.split(":")[1].strip().split(",")


@pytest.mark.parametrize("name", ["default", "cifar10"])
def test_a_comparison_has_a_strong_vq_its_rotation_twins_and_a_random_codebook(name: str) -> None:
    assert {"vq", "vq_rotation", "vq_tuned", "vq_tuned_rotation", "fsq", "patches"} <= set(swept(name))
    assert "vq_random" in swept(name) or name == "default"  # which must end within its time


def test_discrete_tokenizers_of_a_comparison_have_equal_nominal_bits_within_one_percent() -> None:
    sizes = {}
    for name in swept("default"):
        node = build.compose([f"quantizer={name}"])["quantizer"]
        quantizer = build.construct(node) if node else None
        if quantizer is not None and quantizer.codebook_sizes:
            sizes[name] = sum(torch.tensor(quantizer.codebook_sizes).log2().tolist())
    assert len(sizes) >= 5
    assert max(sizes.values()) <= 1.01 * min(sizes.values())


@pytest.mark.parametrize("name", ["vq", "vq_tuned"])
def test_a_rotation_twin_differs_in_its_estimator_alone(name: str) -> None:
    plain, twin = (build.compose([f"quantizer={option}"])["quantizer"] for option in (name, f"{name}_rotation"))
    assert plain["estimator"] == "straight_through"
    assert plain | {"estimator": "rotation"} == twin


def test_a_comparison_changes_the_tokenizer_alone() -> None:
    configs = [build.compose([f"quantizer={name}"]) for name in swept("default")]
    for key in ("data", "backbone", "generation", "budget", "seed"):
        assert all(config[key] == configs[0][key] for config in configs), key
    trained = [config["tokenizer"] for config in configs if config["quantizer"]]
    assert all(node == trained[0] for node in trained)


def test_a_node_inside_a_node_is_a_maker_of_its_object() -> None:
    stage = {"_target_": "tokbench.quantizers.continuous.Continuous", "dim": 3}
    rvq = {"_target_": "tokbench.quantizers.product.ProductQuantizer", "group": VQ_NODE, "num_groups": 2}
    made = build.construct(rvq)
    assert [type(group).__name__ for group in made.groups] == ["VectorQuantizer"] * 2
    assert not torch.equal(made.groups[0].codebook, made.groups[1].codebook)
    with pytest.raises(ValueError, match="group must have one codebook"):
        build.construct(rvq | {"group": stage})


def test_versions_see_nodes_inside_nodes() -> None:
    config = build.compose(["quantizer=rvq"])
    assert {"quantizers.rvq", "quantizers.vq"} <= set(build.versions([config["quantizer"]], ()))


def test_a_key_younger_than_the_records_is_hashed_only_where_it_says_something_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "LATER", {"tokenizer.layout": "grid", "extra": None})
    before = {"seed": 0, "tokenizer": {"width": 4}}
    grid = {"seed": 0, "extra": None, "tokenizer": {"width": 4, "layout": "grid"}}
    line = {"seed": 0, "extra": None, "tokenizer": {"width": 4, "layout": "queries_causal"}}
    assert build.run_hash(grid, {}, {}) == build.run_hash(before, {}, {})
    assert build.hashed(grid) == before
    assert build.run_hash(line, {}, {}) != build.run_hash(before, {}, {})


@pytest.mark.parametrize(
    "given",
    [
        ["quantizer=fsq", "seed=3"],
        ["quantizer=patches"],
        ["experiments=rotation", "quantizer.beta=4.0", "+quantizer.init=kmeans"],
        ["experiments=fsq_levels", "quantizer.levels=[16,16,16]"],
        ["tuning=equal", "data=cifar10", "quantizer=vq_tuned", "tokenizer.depth=3"],
        ["generation=transfusion", "budget=smoke", "quantizer=vq"],
    ],
)
def test_a_recorded_config_gives_the_overrides_that_compose_it_again(given: list[str]) -> None:
    composed = build.compose(given)
    recorded = build.hashed(composed)
    again = build.compose(build.overrides_of(recorded))
    assert build.hashed(again) == recorded


def test_overrides_leave_out_what_the_record_did_not_have() -> None:
    recorded = build.hashed(build.compose(["quantizer=vq_random"]))
    del recorded["quantizer"]["init"]
    assert "~quantizer.init" in build.overrides_of(recorded)


def test_an_option_that_is_gone_is_named() -> None:
    recorded = build.hashed(build.compose([]))
    recorded["choices"]["quantizer"] = "lost"
    with pytest.raises(ValueError, match="quantizer=lost"):
        build.overrides_of(recorded)
