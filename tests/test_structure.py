"""The rooms and their one-way order: a module imports only from its own room and the rooms above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tokbench import build

ORDER = (
    *(
        "interfaces",
        "records",
        "locks",
        "values",
        "build",
        "layers",
        "data",
        "quantizers",
        "diffusion",
        "heads",
        "metrics",
        "tokenizers",
        "losses",
    ),
    *(
        "backbone",
        "generation",
        "information",
        "sharing",
        "cost",
        "timing",
        "roofline",
        "checkpoints",
        "training_module",
        "training_callbacks",
        "train",
        "processes",
        "memory",
        "judges_training",
        "judges",
        "judges_reader",
        "judges_checker",
    ),
    *("environment", "evaluate", "report", "toys"),
    *(
        "places",
        "identity",
        "job",
        "stages",
        "tune",
        "judging",
        "pairs",
        "blocks",
        "execute",
        "sweeps",
        "names",
        "run",
        "plan",
        "claims",
        "codec",
    ),
    *("advise", "ocr", "list", "compare"),
)
ONLY_IN = {
    "lightning": {"train", "training_callbacks", "training_module"},
    "pandas": {"report"},
    "matplotlib": {"report"},
    "hydra": {"build", "run"},
    "omegaconf": {"build", "run"},
}
PACKAGE = build.ROOT / "tokbench"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of all that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_room_has_its_place() -> None:
    assert {room(path) for path in MODULES} == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = ORDER.index(room(path))
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "tokbench":
            assert ORDER.index(parts[1]) <= own, f"{name} is below {room(path)}"
        elif parts[0] in ONLY_IN:
            assert room(path) in ONLY_IN[parts[0]], f"{parts[0]} belongs in {ONLY_IN[parts[0]]}"


def test_package_inits_are_empty() -> None:
    assert all(path.read_text() == "" for path in PACKAGE.rglob("__init__.py"))


def test_every_module_that_makes_numbers_is_in_the_hash() -> None:
    from tokbench.identity import CODED, JUDGED, ON_DEMAND, ROOMS

    with_version = {
        ".".join(path.relative_to(build.ROOT).with_suffix("").parts)
        for path in MODULES
        if any(line.startswith("VERSION = ") for line in path.read_text().splitlines())
    }
    by_target = (
        "tokbench.data.",
        "tokbench.quantizers.",
        "tokbench.tokenizers.",
        "tokbench.generation.",
        "tokbench.heads.",
        "tokbench.losses.",
        "tokbench.toys.",
        "tokbench.metrics.points",
    )
    named = {name for name in with_version if name.startswith(by_target)}
    judged = {name for names in JUDGED.values() for name in names}
    assert with_version - named <= {*ROOMS, *CODED, *ON_DEMAND.values(), *judged}
    assert set(ROOMS) <= with_version


def test_no_two_test_files_share_a_name() -> None:
    """They are modules of one import: the second would not be collected."""
    names = [path.name for path in (build.ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_tables_are_made_without_torch() -> None:
    code = "import sys, tokbench.report.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
