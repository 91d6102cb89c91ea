"""What a value of the configuration must be: by the annotation of the argument that takes it, and by its key where none does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


@dataclass(frozen=True)
class Rule:
    """What holds of a good value, and how to say so."""

    words: str
    holds: Callable[[Any], bool]


def is_whole(value: Any) -> bool:
    """Whether it is an int, which neither True nor 2.0 is."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite int or float."""
    return is_whole(value) or (isinstance(value, float) and isfinite(value))


def _or_null(rule: Rule) -> Rule:
    return Rule(f"{rule.words} or null", lambda value: value is None or rule.holds(value))


COUNT = Rule("a whole number >= 1", lambda value: is_whole(value) and value >= 1)
FROM_ZERO = Rule("a whole number >= 0", lambda value: is_whole(value) and value >= 0)
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
POSITIVE = Rule("a number > 0", lambda value: is_number(value) and value > 0)
NOT_NEGATIVE = Rule("a number >= 0", lambda value: is_number(value) and value >= 0)
NUMBERS = Rule("a list of one number or more", lambda v: isinstance(v, list) and bool(v) and all(map(is_number, v)))
TEXT = Rule("text", lambda value: isinstance(value, str))
PAIRS = Rule("null or have the keys steps and side", lambda v: isinstance(v, Mapping) and {*v} == {"steps", "side"})
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true")  # and Lightning's shorter names:
SHORTER = ("32", "16", "bf16", "64")
PRECISION = Rule(f"one of {', '.join(PRECISIONS)}", lambda value: str(value) in (*PRECISIONS, *SHORTER))
TRAINING = ("width", "depth", "steps", "batch", "lr", "weight_decay", "clip")
PARTS = {  # of a budget, and the keys that each must have
    **{"images": ("train", "validation", "test"), "tokenizer": TRAINING, "backbone": TRAINING, "judge": ("steps",)},
    "evaluation": ("batch", "samples", "tuning_samples", "guidances", "understanding", "throughput_batch"),
}
BUDGET = {  # by the last part of a key
    **dict.fromkeys(("width", "heads", "steps", "batch", "denoise_steps", "samples", "tuning_samples"), COUNT),
    **dict.fromkeys(("understanding", "throughput_batch"), COUNT),
    **dict.fromkeys(("train", "validation", "test"), _or_null(COUNT)),  # null: all images of the split
    **{"name": TEXT, "precision": PRECISION},
    **{"depth": FROM_ZERO, "training_flops": POSITIVE, "guidances": NUMBERS},
    **{"lr": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE, "clip": _or_null(NOT_NEGATIVE)},
}
TYPES: dict[Any, Rule] = {
    **{int: Rule("a whole number", is_whole), float: Rule("a finite number", is_number), bool: FLAG},
    **{str: TEXT, NoneType: Rule("null", lambda value: value is None)},
}
BACKBONE = {"width": COUNT, "depth": COUNT, "heads": COUNT, "base": POSITIVE}


def check_config(config: Mapping[str, Any]) -> None:
    """ValueError naming the key, the rule and the value of the first value that no constructor takes and that means nothing."""
    budget = config["budget"]
    for part, names in PARTS.items():
        given = budget.get(part)
        if not isinstance(given, Mapping) or not {*names} <= {*given}:
            raise ValueError(f"budget.{part} must have {', '.join(names)}, got {given!r}")
    for key, value in _leaves(budget, "budget."):
        paid = key == "budget.backbone.steps" and value is None and "training_flops" in budget["backbone"]
        rule = COUNT if key == "budget.backbone.depth" else BUDGET.get(key.rpartition(".")[2])
        if rule is not None and not paid:
            _hold(rule, key, value)
    for name, rule in BACKBONE.items():
        if name in config["backbone"]:
            _hold(rule, f"backbone.{name}", config["backbone"][name])
    _hold(FROM_ZERO, "seed", config["seed"])
    _hold(FLAG, "force", config["force"])
    _hold(FLAG, "shapes", config.get("shapes", False))
    _hold(_or_null(COUNT), "few_steps", config.get("few_steps"))
    if (pairs := config.get("pairs")) is not None:
        _hold(PAIRS, "pairs", pairs)
        for name, value in pairs.items():
            _hold(COUNT, f"pairs.{name}", value)
    if {"scheme", "head"} & {*config["generation"]} and "name" not in config["generation"]:
        blocks = ", ".join(config["generation"])
        raise ValueError(
            f"generation must be one preset, such as chameleon, where scheme or head is given, got {blocks}"
        )
    for key, value in _leaves(config["generation"], "generation."):
        if key.endswith(".name"):
            _hold(TEXT, key, value)
    if config.get("rd"):
        _hold(_or_null(TEXT), "rd.root", config["rd"]["root"])
    if config.get("tuning"):
        _hold(POSITIVE, "tuning.fraction", config["tuning"]["fraction"])


def check_arguments(call: Callable[..., Any], target: str, given: Iterable[str], *, num_args: int) -> None:
    """ValueError unless `call` takes the arguments of these names, after so many without one, and needs no other."""
    parameters = list(inspect.signature(call).parameters.values())[num_args:]
    known = {p.name for p in parameters}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in given:
            if key not in known:
                near = "".join(f"; did you mean {one!r}?" for one in get_close_matches(key, known, n=1))
                takes = ", ".join(sorted(known)) or "none"
                raise ValueError(f"{target} has no argument {key!r}; it takes: {takes}{near}")
    missing = [p.name for p in parameters if p.default is p.empty and p.kind not in VARIADIC and p.name not in given]
    if missing:
        raise ValueError(f"{target} needs {', '.join(missing)}")


def check_types(call: Callable[..., Any], target: str, given: Mapping[str, Any]) -> None:
    """ValueError unless each value is what the annotation of its argument in `call` says, as far as that can be read."""
    try:
        hints = get_type_hints(call.__init__ if inspect.isclass(call) else call)
    except (NameError, TypeError, AttributeError):  # names that are there for type checkers alone
        return
    for key, value in given.items():
        hint = hints.get(key, Any)
        _hold(Rule(_words(hint), partial(_fits, hint)), f"{key} of {target}", value)


def _fits(hint: Any, value: Any) -> bool:
    """Whether the value is what the hint says; True for hints that are not looked into."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(one, value) for one in inner)
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(_fits(inner[0], one) for one in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(inner[1], one) for one in value.values())
    if origin is Callable:
        return callable(value)
    return hint not in TYPES or TYPES[hint].holds(value)


def _words(hint: Any) -> str:
    """What `_fits` asks for."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_words, inner))
    if origin in (Sequence, Mapping):
        kind, each = ("a list", inner[0]) if origin is Sequence else ("a mapping", inner[1])
        return f"{kind} of which each is {TYPES[each].words}" if each in TYPES else kind
    if origin is Callable:
        return "a node with a _target_"
    return TYPES[hint].words if hint in TYPES else str(hint)


def _hold(rule: Rule, key: str, value: Any) -> None:
    if not rule.holds(value):
        raise ValueError(f"{key} must be {rule.words}, got {value!r}")


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Values that are no mappings, by their dotted keys."""
    if not isinstance(value, Mapping):
        yield key.removesuffix("."), value
        return
    for name, inner in value.items():
        yield from _leaves(inner, f"{key}{name}.")
