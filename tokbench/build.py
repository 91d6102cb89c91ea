"""From conf/ to plain values, from plain values to objects, from both to the hash of a run."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tokbench.values import check_arguments, check_types

ROOT = Path(__file__).resolve().parents[1]
os.environ["TOKBENCH_ROOT"] = str(ROOT)  # conf/config.yaml anchors its paths here
NOT_HASHED = ("results_dir", "cache_dir", "force", "reuse", "logger", "experiment")
GROUPS = ("data", "tokenizer", "quantizer", "backbone", "generation", "budget")
# Keys younger than the first records, with the value that says what runs did before: left out of the hash at that value.
LATER: dict[str, Any] = {
    **{"shapes": False, "few_steps": None, "pairs": None, "devices": 1, "strategy": "auto"},
    **{"tokenizer.layout": "grid", "tokenizer.num_queries": None},
    **{f"generation.{block}.scheme.order": "raster" for block in ("native_discrete", "native_stages")},
}


def compose(overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The configuration of one run as plain values, composed from conf/ with Hydra overrides such as "quantizer=vq"."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    overrides = list(overrides)
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        config = hydra_compose("config", overrides, return_hydra_config=True)
        return plain(config, config.hydra.runtime.choices, overrides)


def plain(config: Any, options: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A Hydra config as plain resolved values, plus `choices`: the option taken of each group.

    A `tokenizer._target_` given by hand starts from an empty list of arguments: only keys also given by hand are kept.
    """
    from omegaconf import OmegaConf

    container: Any = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]), resolve=True
    )
    values: dict[str, Any] = container
    values |= {key: str(values[key]) for key in ("results_dir", "cache_dir")}  # a folder may be called 2024
    for note in ("experiments", "about"):  # what a file of experiments/ says of itself
        values.pop(note, None)
    given = {o.lstrip("+").split("=")[0] for o in overrides}
    if "tokenizer._target_" in given:
        values["tokenizer"] = {k: v for k, v in values["tokenizer"].items() if f"tokenizer.{k}" in given}
    if values["tokenizer"].get("layout") == "grid":
        values["tokenizer"]["num_queries"] = None  # says nothing of a grid, and makes no other run of it
    chosen = (*GROUPS, *(["loss"] if values.get("loss") else []))
    values["choices"] = {group: str(options[group]) for group in chosen}
    values["name"] = str(values["name"] or _name(values))
    return values


def _name(values: Mapping[str, Any]) -> str:
    target = str(values["tokenizer"]["_target_"])
    if not target.startswith("tokbench."):
        return target.rsplit(".", 1)[-1].lower()
    choices = values["choices"]
    name = choices["quantizer"] if choices["tokenizer"] == "autoencoder" else choices["tokenizer"]
    layout = values["tokenizer"].get("layout", "grid")
    told = [None if layout == "grid" else layout, choices.get("loss"), "searched" if values.get("tuning") else None]
    return "-".join([name, *(part for part in told if part)])


def construct(node: Mapping[str, Any], *args: Any, **extra: Any) -> Any:
    """The object that `node` describes: its `_target_` called with `args`, its other keys and `extra`.

    A value that is itself a node becomes a function without arguments that makes its object. ValueError names an unknown
    key with the valid ones, a missing one, a value of a wrong type, or a target that cannot be imported.
    """
    call = _locate(node)
    given = {key: _maker(value) for key, value in node.items() if key != "_target_"} | extra
    check_arguments(call, node["_target_"], given, num_args=len(args))
    check_types(call, node["_target_"], {key: value for key, value in given.items() if key not in extra})
    return call(*args, **given)


def _maker(value: Any) -> Any:
    return partial(construct, value) if isinstance(value, Mapping) and "_target_" in value else value


def takes(node: Mapping[str, Any], argument: str) -> bool:
    """Whether the target of `node` has an argument of that name."""
    return argument in inspect.signature(_locate(node)).parameters


def _locate(node: Mapping[str, Any]) -> Any:
    target = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(target, str):
        raise ValueError(f"what is built must be a mapping with a _target_, got {node!r}")
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"_target_ must be an importable name such as my.module.Class, got {target!r}: {error}"
        ) from None


def versions(nodes: Iterable[Mapping[str, Any] | None], rooms: Iterable[str]) -> dict[str, int]:
    """VERSION by module name, of the modules that the nodes' targets live in and of `rooms`, where they have one."""
    modules = {target.rpartition(".")[0] for node in nodes for target in _targets(node)} | set(rooms)
    found = {name: getattr(importlib.import_module(name), "VERSION", None) for name in modules}
    return {name.removeprefix("tokbench."): version for name, version in sorted(found.items()) if version is not None}


def _targets(node: Any) -> Iterator[str]:
    """The target of a node and of the nodes inside it."""
    if isinstance(node, Mapping):
        yield from [node["_target_"]] if node.get("_target_") else []
        for value in node.values():
            yield from _targets(value)


def digest(*parts: Any) -> str:
    """The first 16 hex digits of the sha256 of JSON-like values; key order does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def hashed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of the config makes a run what it is: not where files lie, nor how it is logged."""
    return _without_root(_without_later({key: value for key, value in config.items() if key not in NOT_HASHED}))


def run_hash(config: Mapping[str, Any], fingerprints: Mapping[str, str], used: Mapping[str, int]) -> str:
    """8 hex digits over the resolved config, the data's fingerprints and the versions used, never the commit."""
    return digest(hashed(config), dict(fingerprints), dict(used))[:8]


def overrides_of(config: Mapping[str, Any]) -> list[str]:
    """The Hydra overrides that compose a recorded config again: its options, then the values that differ from theirs.

    Files of data lie elsewhere on every machine: `data.root` is not among them. ValueError where an option is gone.
    """
    options = [f"{group}={option}" for group, option in config["choices"].items() if option is not None]
    options += ["tuning=equal"] if config.get("tuning") else []
    own = {k: v for k, v in _flat(config).items() if k not in GROUPS and not k.startswith(("choices.", "tuning."))}
    base = _composed(tuple(options))
    changed = [(key, value) for key, value in own.items() if key not in base or base[key] != value]
    without = ("choices.", "tuning.", "generation.native_stages.", *(["quantizer."] if not config["quantizer"] else []))
    gone = [key for key in base if key not in own and key not in GROUPS and not key.startswith(without)]
    return [
        *(o for o in options if o.split("=")[1] != _composed(()).get(f"choices.{o.split('=')[0]}")),
        *(f"{'' if key in base else '+'}{key}={_written(value)}" for key, value in changed),
        *(f"~{key}" for key in gone),
    ]


@lru_cache(maxsize=256)
def _composed(options: tuple[str, ...]) -> dict[str, Any]:
    try:
        return _flat(hashed(compose(options)))
    except Exception as error:  # Hydra has no common class of its own errors
        raise ValueError(f"options must be in conf/, got {' '.join(options)}: {str(error).splitlines()[0]}") from None


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves by dotted key; an empty mapping and a list are leaves."""
    if not isinstance(value, dict) or not value:
        return {path[:-1]: value}
    return {key: leaf for k, v in value.items() for key, leaf in _flat(v, f"{path}{k}.").items()}


def _written(value: Any) -> str:
    """A value in Hydra's grammar."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _without_later(value: Any, path: str = "") -> Any:
    if not isinstance(value, Mapping):
        return value
    inner = {k: _without_later(v, f"{path}{k}.") for k, v in value.items()}
    return {k: v for k, v in inner.items() if f"{path}{k}" not in LATER or v != LATER[f"{path}{k}"]}


def _without_root(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_root(v) for k, v in value.items() if k != "root"}
    return value
