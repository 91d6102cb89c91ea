"""`python -m tokbench.list`: what there is to choose from, one line each; `python -m tokbench.list data` for one kind.

Exit code 0; 2: no such kind.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from tokbench.build import ROOT
from tokbench.names import hint, piped

OK, BAD_INPUT = 0, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the kinds asked for, or all; the exit code."""
    asked = list(sys.argv[1:] if arguments is None else arguments) or list(KINDS)
    for kind in asked:
        if kind not in KINDS:
            print(f"error: kind must be one of {', '.join(KINDS)}, got {kind!r}{hint(kind, KINDS)}", file=sys.stderr)
            return BAD_INPUT
    for kind in asked:
        folder, describe, use = KINDS[kind]
        paths = [path for path in sorted((ROOT / folder).glob("[!_]*.*")) if chosen(path)]
        width = max(len(path.stem) for path in paths)
        print(f"{kind} ({use})", *(f"  {path.stem:<{width}}  {describe(path)}" for path in paths), "", sep="\n")
    return OK


def chosen(path: Path) -> bool:
    """Whether a file is one to choose: a conf, or a module that a preset names."""
    presets = "".join(preset.read_text() for preset in (ROOT / "conf" / "generation").glob("*.yaml"))
    return path.suffix == ".yaml" or f"_target_: tokbench.generation.{path.stem}." in presets


def commented(path: Path) -> str:
    """The first comment of a YAML file, or where it has none the first line on what its `_target_` makes."""
    lines = path.read_text().splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line]
    if comments:
        return comments[0]
    target = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("_target_:")), "")
    module = ROOT / Path(*target.split(".")[:-1]).with_suffix(".py") if target.startswith("tokbench.") else None
    return documented(module) if module is not None and module.is_file() else ""


def asked(path: Path) -> str:
    """The claims, the question and the minutes of an experiment; where it does not say them all, its first comment."""
    about = (yaml.safe_load(path.read_text()) or {}).get("about", {})
    if not {"claims", "question", "minutes"} <= about.keys():
        return commented(path)
    claims = ", ".join(dict.fromkeys(claim["name"].partition(",")[0] for claim in about["claims"]))
    return f"{claims}: {about['question']} ({about['minutes']} minutes)"


def documented(path: Path) -> str:
    """The first line of a module's docstring, which is read, not imported."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]


KINDS: dict[str, tuple[str, Callable[[Path], str], str]] = {  # kind: folder, first line of a file, how it is chosen
    "quantizers": ("conf/quantizer", commented, "quantizer=NAME"),
    "tokenizers": ("conf/tokenizer", commented, "tokenizer=NAME"),
    "schemes": ("tokbench/generation", documented, "named by a preset"),
    "heads": ("conf/head", commented, "named by a preset"),
    "presets": ("conf/generation", commented, "generation=NAME"),
    "data": ("conf/data", commented, "data=NAME"),
    "budgets": ("conf/budget", commented, "budget=NAME"),
    "experiments": ("experiments", asked, "-m experiments=NAME"),
}


if __name__ == "__main__":
    sys.exit(piped(main))
