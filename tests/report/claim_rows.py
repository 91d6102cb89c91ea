"""Made-up records of the runs that the experiments really make: their own configurations, with any measure written in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from report_factory import measure

from tokbench import build
from tokbench.records import SCHEMA_VERSION, DataInfo, RunRecord
from tokbench.report.claims import Claim, load_claims
from tokbench.report.definitions import definition
from tokbench.report.groups import Group, plain_stem, settings
from tokbench.report.rules import ARRAYS, expand
from tokbench.report.toys import STEM
from tokbench.report.view import View
from tokbench.toys.__main__ import plan

Values = dict[str, Any]
Run = tuple[str, Values]  # the experiment that makes it, its configuration without a seed
IMAGES = 8


def all_runs() -> dict[str, list[Run]]:
    """By the stem of their group: of every experiment the runs whose names claims speak of, one a configuration."""
    return _found()[0]


def stems_of(experiment: str) -> set[str]:
    """The groups of an experiment's runs, those among them that another experiment makes too."""
    return _found()[1][experiment]


@lru_cache(maxsize=1)
def _found() -> tuple[dict[str, list[Run]], dict[str, set[str]]]:
    named = frozenset(str(side["name"]).split("-")[0] for claim in load_claims() for side in sides_of(claim))
    found: dict[str, dict[str, Run]] = {}
    stems: dict[str, set[str]] = {"toys": {STEM}}
    with initialize_config_dir(version_base="1.3", config_dir=str(build.ROOT / "conf")):
        for path in sorted((build.ROOT / "experiments").glob("*.yaml")):
            for config in _grid(path, named):
                made = record(config, 0, {})
                found.setdefault(plain_stem(made), {}).setdefault(settings(made), (path.stem, config))
                stems.setdefault(path.stem, set()).add(plain_stem(made))
    toys = build.compose(["+toys=heads"])["toys"]
    own = [build.hashed(config) for config in plan(toys) if config["seed"] == 0]
    runs = {stem: list(runs.values()) for stem, runs in found.items()}
    runs[STEM] = [("toys", {k: v for k, v in config.items() if k != "seed"}) for config in own]
    return runs, stems


def sides_of(claim: Claim) -> list[Mapping[str, Any]]:
    """Every side of the claim's comparisons; [] of a rule that finds its rows by their measures."""
    verdict = claim.verdict
    found = [pair[way] for family in verdict.get("pairs", ()) for pair in expand(family) for way in ("first", "second")]
    found += [*verdict.get("sides", ()), *(row["row"] for row in verdict.get("rows", ()))]
    sides = [{"name": side} if isinstance(side, str) else side for side in found]
    return [part for side in sides for part in parts_of(side)]


def parts_of(side: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The side alone, and what it is an effect over, if anything."""
    own = {key: value for key, value in side.items() if key != "over"}
    return [own, own | side["over"]] if "over" in side else [own]


def _grid(path: Path, named: frozenset[str]) -> Iterator[Values]:
    """The configurations of an experiment as records keep them, without a seed; of the quantizers `named` alone."""
    params = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
    words = [f"{key}={value}" for key, value in params.items() if key != "seed"]
    choices = {}
    for override in OverridesParser.create().parse_overrides(words):
        swept = override.is_sweep_override()
        strings = list(override.sweep_string_iterator()) if swept else [override.get_value_element_as_str()]
        choices[override.input_line.split("=")[0]] = strings  # type: ignore[union-attr]
    groups = {key: values for key, values in choices.items() if (build.ROOT / "conf" / key.split("@")[0]).is_dir()}
    if "quantizer" in groups:
        groups["quantizer"] = [q for q in groups["quantizer"] if q in named]
    others = {key.lstrip("+"): values for key, values in choices.items() if key not in groups}
    composed, whole = None, False  # whole: composed around an option that changes more than the quantizer
    for options in product(*groups.values()):
        given = [f"{key}={value}" for key, value in zip(groups, options, strict=True)]
        if composed is None or whole or not set(groups) <= {"quantizer"} or _elsewhere(options):
            whole = _elsewhere(options)
            composed = compose("config", [f"experiments={path.stem}", *given], return_hydra_config=True)
            OmegaConf.set_struct(composed, value=False)
        elif options:
            composed.quantizer = _node(options[0])
        taken = {**composed.hydra.runtime.choices, **dict(zip(groups, options, strict=True))}
        for values in product(*others.values()):
            for key, value in zip(others, values, strict=True):  # each takes the place of the one before it
                OmegaConf.update(
                    composed,
                    key,
                    OmegaConf.create(f"value: {value.replace(':', ': ').replace(',c', ', c')}").value,
                    merge=False,
                    force_add=True,
                )
            yield _recorded(build.plain(composed, taken, given))


def _elsewhere(options: Sequence[str]) -> bool:
    """Whether a quantizer's conf among them changes more than the quantizer."""
    paths = [build.ROOT / "conf" / "quantizer" / f"{one}.yaml" for one in options]
    return any(path.exists() and "_global_" in path.read_text() for path in paths)


@lru_cache(maxsize=32)
def _node(quantizer: str) -> Any:
    return compose("config", [f"quantizer={quantizer}"]).quantizer


def _recorded(config: Values) -> Values:
    """What a record keeps of a run's configuration (`job`), without the seed."""
    if not build.takes(config["tokenizer"], "quantizer"):
        config = {**config, "quantizer": None, "choices": {**config["choices"], "quantizer": None}}
    sizes = build.construct(config["quantizer"]).codebook_sizes if config["quantizer"] else ()
    if len(sizes) < 2:
        config["generation"] = {k: v for k, v in config["generation"].items() if k != "native_stages"}
    return {key: value for key, value in build.hashed(config).items() if key != "seed"}


def record(config: Values, seed: int, metrics: Mapping[str, float]) -> RunRecord:
    """The record of a run with these values."""
    toy = "budget" not in config
    name = STEM.split("-")[0] if toy else config["choices"]["data"]
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        name=config["name"],
        status="ok",
        stage=config.get("stage", "all"),
        seed=seed,
        budget=STEM.split("-")[1] if toy else config["budget"]["name"],
        hash=build.digest(config, seed)[:8],
        config={**config, "seed": seed},
        data=DataInfo(name=name, ranked=True, fingerprints={"test": "11"}, sizes={"test": IMAGES}, skipped=0),
        blocks={},
        metrics={key: measure(key, value) for key, value in metrics.items()},
        versions={},
        environment={},
        files={},
        created="2025-01-02T03:04:05+00:00",
        seconds={},
    )


def _above_chance(values: Mapping[str, float]) -> dict[str, float]:
    """The same, so far above guessing where a measure tells its chance that all of them are no guesses."""
    guessed = {key for key in values if (known := definition(key)) and "chance: " in known.protocol}
    return {key: value + 1e5 * (key in guessed) for key, value in values.items()}


def view_of(runs: Sequence[Run], values: Callable[[Values, int], Mapping[str, float]], seeds: int = 3) -> View:
    """A group of the runs, with such values of each configuration and seed, and arrays of the measures that have them."""
    made = [record(config, seed, _above_chance(values(config, seed))) for _, config in runs for seed in range(seeds)]
    view = View(Group("made", made), Path("nowhere"))
    noise = np.random.default_rng(0).normal(0, 1, IMAGES)
    for run in made:
        known = {array: run.metrics[key].value for key, array in ARRAYS.items() if key in run.metrics}
        kept = {array: value + 1e-3 * abs(value or 0) * noise for array, value in known.items()}
        view._arrays[run.file_name] = {**kept, "groups": np.arange(IMAGES)} if kept else {}
    return view
