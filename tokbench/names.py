"""Names that exist, and the nearest one to a name that does not."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from tokbench import build

ADVICE = ("Config search path", "Set the environment variable", "full_key:", "object_type=", "reference_type=")
FEW = 12  # options that a line can name
CONF, EXPERIMENTS = build.ROOT / "conf", build.ROOT / "experiments"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, first of all one with its letters in another order; None where none is like it."""
    known = sorted(known)
    swapped = [one for one in known if sorted(one) == sorted(name)]
    return next(iter(swapped or get_close_matches(name, known, n=1, cutoff=0.6)), None)


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


def no_option(group: str, name: str) -> str:
    """The line on an option that a group does not have: the nearest, and all, or where they are many how to see them."""
    known = groups()[group]
    there = f"it has {', '.join(known)}" if len(known) <= FEW else "python -m tokbench.list names them all"
    return f"{group} has no option {name!r}{hint(name, known)} ({there})"


def misspelt(words: Iterable[str]) -> Iterator[str]:
    """A line for each word of a command line (`quantizer=fqs`, `budget.tokenizer.step=3`) whose name is like a known one."""
    known = groups()
    words = [word for word in words if "=" in word]
    good = [w for w in words if _group(w) in known.keys() & _of_a_run() and _value(w) in known[_group(w)]]
    swept = {_group(word) for word in words if "," in _value(word)}
    for word in words:
        if (group := _group(word)) in known:
            for option in _value(word).split(","):
                if option not in (*known[group], "null") and nearest(option, known[group]):
                    yield no_option(group, option)
        elif not word.startswith(("+", "~", "hydra")) and group.partition(".")[0] not in swept:
            try:
                config = build.compose(good)
            except ValueError:  # it has been said
                continue
            keys, part = {*_keys(config), *known}, group.partition(".")[0]
            if part in _of_a_run() & known.keys() - {"experiments"} and part != group and not config.get(part):
                yield f"{part} is null: choose one of its options first, {part}={' or '.join(known[part])}"
            elif group not in keys and (meant := _nearest_key(group, keys)):
                yield f"no setting named {group}; did you mean {meant!r}?"


def complaints(said: str, words: Iterable[str]) -> list[str]:
    """What is wrong with a command line that Hydra cannot compose: what it says of it, and each misspelt name, once."""
    first, others = in_one_line(said), list(misspelt(words))
    told = {line.partition(";")[0] for line in others}
    return others if first.partition(";")[0] in told else [first, *others]


def check_keys(config: Iterable[str]) -> None:
    """ValueError that names the first top-level key of a composed configuration that no run reads."""
    known = _of_a_run()
    for key in config:
        if key not in known:
            raise ValueError(f"no setting named {key}{hint(key, known)}")


def _of_a_run() -> set[str]:
    """The top-level keys of a configuration."""
    base = yaml.safe_load((CONF / "config.yaml").read_text())
    chosen = (next(iter(part)).removeprefix("override ") for part in base["defaults"] if part != "_self_")
    return {*base, *chosen, "about"}


def in_one_line(said: str) -> str:
    """What Hydra says of a command line that it cannot compose: in the words of this suite where it is a common mistake."""
    line = _without_advice(said)
    for pattern, words in PLAIN:
        line = re.sub(pattern, words, line)
    return line


def _without_advice(said: str) -> str:
    """The same in Hydra's words, without its advice and its search path."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if "Traceback (most recent call last):" in lines:
        return [line for line in lines if not line.startswith(ADVICE)][-1].removeprefix("ValueError: ")
    first = next((n for n, line in enumerate(lines) if line.startswith(ADVICE)), len(lines))
    kept = [line for line in lines[:first] if not line.startswith(("To append", "See https"))]
    options = next((n for n, line in enumerate(kept, start=1) if line.startswith("Available options")), len(kept))
    return " ".join([*kept[:options], ", ".join(kept[options:])]).strip()


def _nearest_key(key: str, keys: set[str]) -> str | None:
    """The known key most like `key`: of those beside it where what it is part of exists, such as `budget.tokenizer`."""
    prefix = f"{parent}." if (parent := key.rpartition(".")[0]) in keys else ""
    found = nearest(key.removeprefix(prefix), (one.removeprefix(prefix) for one in keys if one.startswith(prefix)))
    return found and prefix + found


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


def _no_option(said: re.Match[str]) -> str:
    return no_option(said[1], said[2]) if said[1] in groups() else said[0]


PLAIN: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (  # what Hydra says, and how it is said here
    (r"^usage: .* error: (?=argument|unrecognized)", ""),
    (r"^unrecognized arguments: (-\S+).*", r"no argument \1; --help lists them"),
    (r"^unrecognized arguments: (\S+).*", r"-m must come before all KEY=VALUE or after them, got '\1' after it"),
    (r"^Error parsing override '(.+?)' missing EQUAL at '<EOF>'.*", r"arguments must be KEY=VALUE, got '\1'"),
    (r"^(?:In '.+?': )?Could not find '(\w+)/([^/']+)'.*", _no_option),
    (r"^Could not append to config\. An item is already at '(.+?)'.*", r"\1 is set already: leave its + out"),
    (
        r"^Could not override '((?:quantizer|tokenizer|backbone|generation|data)\.[^']+)'\.(?: Key .*)?$",
        r"no setting named \1; an option that its file does not set is added with a +: +\1",
    ),
    (r"^Could not override '([^']+)'\.(?: Key .*)?$", r"no setting named \1"),
)


def piped(main: Callable[[], int]) -> int:
    """The exit code of a command that prints; 0 where its reader, such as `head`, has had enough."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more as it ends
        return 0
    return code
