"""The plot of FLOP parity, from made-up records of the experiment that asks for it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from report_factory import measure, record

from tokbench.records import RunRecord
from tokbench.report.claims import load_claims
from tokbench.report.groups import Group
from tokbench.report.page import render_page
from tokbench.report.parity import WAYS
from tokbench.report.parity_plot import NOTE, _told, comparisons, draw_parity
from tokbench.report.rules import Finding
from tokbench.report.view import View

MEASURES = ("generation/fd_classifier", "understanding/caption_content_bits_per_byte")


def view_of(folder: Path, *, experiment: str | None = "flop_parity", widths: tuple[int, ...] = (32, 64, 128)) -> View:
    """Runs as flop_parity makes them, three seeds each; continuous latents need a quarter of the FLOPs."""
    made = [_run(*settings) for settings in product(("fsq", "continuous_4"), widths, (110, 440), range(3))]
    return View(Group("made", made or [record()], experiment=experiment), folder)


def _run(name: str, width: int, steps: int, seed: int) -> RunRecord:
    budget = {"backbone": {"width": width, "steps": steps}, "evaluation": {"samples": 256}}
    config = {"seed": seed, "choices": {"generation": "both"}, "budget": budget}
    values = _measures(name, 1e5 * width**2 * steps, seed)
    metrics = {key: measure(key, value) for key, value in values.items()}
    return record(name, seed, config=config, metrics=metrics, hash=f"{width:04x}{steps:04x}")


def _measures(name: str, flops: float, seed: int) -> dict[str, float]:
    scale = 0.25 if name == "continuous_4" else 1.0
    found = {"cost/tokenizer_training_flops": 1e11}
    for block in ("common", "native"):
        found |= {f"{block}/{m}": 50 * (flops / scale / 1e10) ** -0.3 * (1 + 0.05 * seed) for m in MEASURES}
        found |= {f"{block}/cost/training_flops_proxy": flops, f"{block}/cost/training_flops": 1.5 * flops}
    return found


def test_each_pair_has_a_line_of_panels_with_its_ratios(tmp_path: Path) -> None:
    view = view_of(tmp_path)
    found = comparisons(view)
    assert [one.claim.name for one in found] == ["C14, images", "C14, text", "C14, the same codes"]
    assert [len(one.findings) for one in found] == [len(WAYS)] * 3
    assert found[0].findings[0].effect.startswith("0.25")
    (path,) = draw_parity(view, tmp_path)
    assert path.name == "made-parity.png"
    assert imread(path).shape[:2] == (3 * 348, 3 * 396)
    assert NOTE in render_page(view, [path])


def test_rows_and_panels_say_what_the_ratio_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("tokbench.report.parity_plot.save", lambda figure, path: (drawn.append(figure), path)[1])
    draw_parity(view_of(tmp_path), tmp_path)
    rows = drawn[0].subfigs
    assert rows[0].get_suptitle() == "Transfusion on latents (A) / Chameleon on FSQ (B)"
    assert all("(A) / " in row.get_suptitle() for row in rows)
    title = rows[0].axes[0].get_title()
    assert title.startswith("FLOPs of A / of B at equal quality:\n0.25, 95 % ")


def test_a_bound_has_no_percentage() -> None:
    known = Finding("a / b", "< 1", "3.99 or more", "a bound", "ratio", 3, agrees=None)
    assert _told(known) == "3.99 or more, a bound"
    assert _told(replace(known, effect="0.5", interval="0.4 to 0.6")) == "0.5, 95 % 0.4 to 0.6"


def test_one_size_or_no_experiment_has_no_picture(tmp_path: Path) -> None:
    assert draw_parity(view_of(tmp_path, experiment=None), tmp_path) == []
    assert draw_parity(view_of(tmp_path, experiment="steps"), tmp_path) == []
    assert draw_parity(view_of(tmp_path, widths=()), tmp_path) == []


def test_the_labels_of_all_pairs_name_both_sides() -> None:
    labels = [pair["label"] for c in load_claims() if c.verdict["rule"] == "parity" for pair in c.verdict["pairs"]]
    assert labels
    assert all(len(label.split(" / ")) == 2 for label in labels)
