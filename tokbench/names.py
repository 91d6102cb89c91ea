"""Names that exist, and the nearest one to a name that does not."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from tokbench import build

ADVICE = ("Config search path", "Set the environment variable", "full_key:", "object_type=", "reference_type=")
CONF, EXPERIMENTS = build.ROOT / "conf", build.ROOT / "experiments"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, first of all one with its letters in another order; None where none is like it."""
    found = get_close_matches(name, sorted(known), n=5, cutoff=0.5)
    return min(found, key=lambda one: sorted(one) != sorted(name), default=None)


def hint(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'fsq'?`, or "" where no known name is like this one."""
    found = nearest(name, known)
    return f"; did you mean {found!r}?" if found else ""


def one_of(known: Iterable[str]) -> Callable[[str], str]:
    """A type for an argument of argparse: one of the known names; another is refused with them all and the nearest."""
    names = list(known)

    def check(name: str) -> str:
        if name not in names:
            raise ArgumentTypeError(f"must be one of {', '.join(names)}, got {name!r}{hint(name, names)}")
        return name

    return check


def groups() -> dict[str, list[str]]:
    """The options of each group of the configuration, `experiments` among them."""
    found = {folder.name: _options(folder) for folder in sorted(CONF.iterdir()) if folder.is_dir()}
    return found | {"experiments": _options(EXPERIMENTS)}


def misspelt(words: Iterable[str]) -> Iterator[str]:
    """A line for each word of a command line (`quantizer=fqs`, `budget.tokenizer.step=3`) whose name is like a known one."""
    known = groups()
    words = [word for word in words if "=" in word]
    good = [w for w in words if _group(w) in known and "," not in w and _value(w) in known[_group(w)]]
    for word in words:
        if (group := _group(word)) in known:
            for option in _value(word).split(","):
                if option not in (*known[group], "null"):
                    yield from _line(f"{group}={option}", option, known[group])
        elif not word.startswith(("+", "~", "hydra")):
            try:
                config = build.compose(good)
            except ValueError:  # it has been said
                continue
            keys, part = {*_keys(config), *known}, group.partition(".")[0]
            if part in _of_a_run() & known.keys() - {"experiments"} and part != group and not config.get(part):
                yield f"{part} is null: choose one of its options first, {part}={' or '.join(known[part])}"
            elif group not in keys:
                yield from _line(group, group, keys)


def check_keys(config: Iterable[str]) -> None:
    """ValueError that names the first top-level key of a composed configuration that no run reads."""
    known = _of_a_run()
    for key in config:
        if key not in known:
            raise ValueError(f"{key} is no key of a run{hint(key, known)}")


def _of_a_run() -> set[str]:
    """The top-level keys of a configuration."""
    base = yaml.safe_load((CONF / "config.yaml").read_text())
    chosen = (next(iter(part)).removeprefix("override ") for part in base["defaults"] if part != "_self_")
    return {*base, *chosen, "about"}


def in_one_line(said: str) -> str:
    """What Hydra says of a command line that it cannot compose, without its advice and its search path."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if "Traceback (most recent call last):" in lines:
        return [line for line in lines if not line.startswith(ADVICE)][-1].removeprefix("ValueError: ")
    first = next((n for n, line in enumerate(lines) if line.startswith(ADVICE)), len(lines))
    kept = [line for line in lines[:first] if not line.startswith(("To append", "See https"))]
    options = next((n for n, line in enumerate(kept, start=1) if line.startswith("Available options")), len(kept))
    return " ".join([*kept[:options], ", ".join(kept[options:])]).strip()


def _line(what: str, name: str, known: Iterable[str]) -> Iterator[str]:
    found = nearest(name, known)
    if found:
        yield f"{what}: did you mean {found!r}?"


def _group(word: str) -> str:
    return word.partition("=")[0].lstrip("+~").partition("@")[0]


def _value(word: str) -> str:
    return word.partition("=")[2].strip("'\"")


def _options(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _keys(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """All dotted keys of a configuration."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def piped(main: Callable[[], int]) -> int:
    """The exit code of a command that prints; 0 where its reader, such as `head`, has had enough."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more as it ends
        return 0
    return code
