"""The figures that README shows: one of each kind, of the group that says most."""

from __future__ import annotations

import re
from pathlib import Path

from report_factory import record

from tokbench.report.figures import FIGURES, figures
from tokbench.report.groups import Group
from tokbench.report.view import View


def views(folder: Path) -> list[View]:
    """A group, and an experiment of it that has more runs."""
    few, many = [record("fsq")], [record("fsq"), record("vq")]
    return [View(Group("a", few), folder), View(Group("a-steps", many, experiment="steps"), folder)]


def shown(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).touch()
    return re.findall(r"!\[[^]]+\]\(results/(.+?)\)", "\n".join(figures(views(folder), folder)))


def test_each_kind_of_figure_is_shown_once_with_a_caption(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    there = [pattern.format(stem=stem).replace("*", "2e+12") for _, pattern in FIGURES for stem in ("a", "a-steps")]
    found = shown(folder, *there)
    assert len(found) == len(FIGURES)
    assert {"a-samples.png", "a-free.png", "heads-toys.png"} <= set(found)  # of the whole group
    text = figures(views(folder), folder)
    assert [line.strip("*.") for line in text if line.startswith("*")] == [title for title, _ in FIGURES]


def test_figures_that_nothing_was_drawn_for_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    assert shown(folder) == []
    assert shown(folder, "a-samples.png", "b-parity.png") == ["a-samples.png"]
