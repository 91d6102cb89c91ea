"""The legibility table, its picture and its rules follow from records and arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from report_factory import file, measure, record, swept, swept_arrays

from tokbench.data.letters import FONT_SIZES
from tokbench.metrics.statistics import Difference
from tokbench.records import RunRecord, read_records
from tokbench.report.build import build_report
from tokbench.report.groups import group_records
from tokbench.report.legibility import legibility_strips
from tokbench.report.legibility_plot import draw_reading, readings
from tokbench.report.levels import collapse, levels
from tokbench.report.rules import agrees, find_row
from tokbench.report.view import View

RELATIVE, HAS, NEEDS = (
    "legibility/char_accuracy_relative",
    "legibility/bits_per_glyph",
    "legibility/text_bits_per_glyph",
)
WORDS = np.array([f"WORD{i}" for i in range(16)])


def written(
    folder: Path, name: str, read: float, seed: int = 0, bits: float | None = 10.0, **changes: float
) -> RunRecord:
    """A record of a run on words, of whose characters the share `read` is read; it is on file."""
    made = swept(name, 1000, seed)
    values = {
        "legibility/char_accuracy": read,
        "legibility/string_accuracy": read**6,
        RELATIVE: read / 0.95,
        NEEDS: 7.1,
        "baseline/real/legibility/char_accuracy": 0.95,
        "baseline/real/legibility/string_accuracy": 0.9,
    } | changes
    found = {key: measure(key, value) for key, value in values.items()} | {HAS: measure(HAS, bits, "continuous")}
    made = made.model_copy(update={"metrics": made.metrics | found})
    kept = swept_arrays(made) | {"char_accuracy": np.full(24, read), "words": WORDS}
    file(made, folder, kept=kept)
    return made


def view_of(folder: Path) -> View:
    (group,) = group_records(read_records(folder / "runs"))
    return View(group, folder / "runs")


def test_the_picture_has_the_most_legible_first_and_the_words_above(tmp_path: Path) -> None:
    for name, read in (("vq", 0.3), ("fsq", 0.6), ("kl", 0.9)):
        written(tmp_path, name, read)
    strips, words = legibility_strips(view_of(tmp_path))
    assert [label.split("\n")[0] for label, _ in strips] == ["originals", "kl", "fsq", "vq"]
    assert strips[0][0].endswith("strings read 90.0 %")
    assert strips[2][0].endswith(f"dB, strings read {100 * 0.6**6:.1f} %")
    assert words == WORDS[:8].tolist()
    names = {path.name for path in build_report(tmp_path)}
    (picture,) = (name for name in names if name.endswith("-legibility.png"))
    assert imread(tmp_path / picture).shape[0] > 4 * 64
    page = (tmp_path / picture.replace("-legibility.png", ".md")).read_text()
    assert f"({picture})" in page
    assert "### Legibility" in page


def test_what_is_read_is_drawn_against_used_bits_where_a_name_has_two_rates(tmp_path: Path) -> None:
    sizes = {f"legibility/char_accuracy_{size}_px": 0.1 * place for place, size in enumerate(FONT_SIZES)}
    written(tmp_path, "kl", 0.9, bits=None, **sizes)
    few = written(tmp_path, "fsq", 0.6, bits=10.0, **sizes)
    assert draw_reading(view_of(tmp_path), tmp_path) == []
    more = swept("fsq", 4375, 0)
    values = {RELATIVE: 0.8, "legibility/string_accuracy_relative": 0.2, HAS: 20.0, "legibility/char_accuracy": 0.7}
    more = more.model_copy(
        update={"metrics": more.metrics | {key: measure(key, value) for key, value in values.items()}}
    )
    file(more, tmp_path, kept=swept_arrays(more))
    first, second, kl = readings(view_of(tmp_path))
    assert (first.name, second.name, kl.name) == ("fsq", "fsq", "kl")
    assert kl.bits is None
    assert kl.by_size == pytest.approx([0.1 * place for place in range(len(FONT_SIZES))])
    used = few.metrics["bits/marginal_bits_per_image"].value / few.metrics["bits/nominal_bits_per_image"].value
    assert {round(one.bits or 0, 6) for one in (first, second)} >= {round(10 * used, 6)}
    assert {one.shares.get("strings") for one in (first, second)} == {None, 0.2}
    (path,) = draw_reading(view_of(tmp_path), tmp_path)
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_many_rows_are_thinned_evenly_and_keep_both_ends(tmp_path: Path) -> None:
    for i in range(30):
        written(tmp_path, f"row{i}", 1 - i / 40)
    strips, _ = legibility_strips(view_of(tmp_path))
    labels = [label.split("\n")[0] for label, _ in strips[1:]]
    assert len(labels) == 24
    assert (labels[0], labels[-1]) == ("row0", "row29")


def test_runs_without_words_have_no_picture(tmp_path: Path) -> None:
    file(record("fsq"), tmp_path)
    assert not any(path.name.endswith("-legibility.png") for path in build_report(tmp_path))


@pytest.mark.parametrize(
    ("interval", "vote"),
    [((0.0, -0.01, 0.01), True), ((0.3, 0.1, 0.5), True), ((-0.3, -0.4, -0.1), False), ((-0.03, -0.1, 0.01), None)],
)
def test_not_below_agrees_where_the_interval_holds_no_loss_that_counts(
    interval: tuple[float, float, float], vote: bool | None
) -> None:
    mean, low, high = interval
    assert agrees(Difference(mean, low, high, separable=False), "not below", 0.02) is vote


@pytest.mark.parametrize(
    ("read", "bits", "seeds", "votes"),
    [
        (0.2, 5.0, 3, [True]),
        (0.9, 5.0, 3, [False]),
        (0.2, 5.0, 2, [None]),
        (0.2, 9.0, 3, None),  # has what it needs: the claim says nothing
        (0.2, None, 3, None),
    ],
)
def test_collapse_looks_at_rows_with_too_few_bits_alone(
    tmp_path: Path, read: float, bits: float | None, seeds: int, votes: list[bool | None] | None
) -> None:
    for seed in range(seeds):
        written(tmp_path, "fsq", read, seed, bits)
    found = collapse(view_of(tmp_path), RELATIVE, 0.5, has=HAS, needs=NEEDS)
    assert found == [None] if votes is None else [finding.agrees for finding in found if finding] == votes


def test_seeds_that_disagree_leave_a_collapse_open(tmp_path: Path) -> None:
    for seed, read in enumerate((0.2, 0.2, 0.9)):
        written(tmp_path, "fsq", read, seed, 5.0)
    (finding,) = collapse(view_of(tmp_path), RELATIVE, 0.5, has=HAS, needs=NEEDS)
    assert finding is not None
    assert finding.agrees is None


@pytest.mark.parametrize(("read", "vote"), [(0.95, True), (0.949, False)])
def test_a_level_is_met_to_what_counts(tmp_path: Path, read: float, vote: bool) -> None:
    for seed in range(3):
        written(tmp_path, "fsq", read, seed)
    view = view_of(tmp_path)
    (finding, absent) = levels(
        view, RELATIVE, 1e-4, sides=[{"name": "fsq", "quantizer.codebook_size": 1000}, "kl"], level=1
    )
    assert finding is not None
    assert finding.agrees is vote
    assert absent is None


def test_a_tokenizer_without_depth_is_found(tmp_path: Path) -> None:
    config = {"budget": {"tokenizer": {"depth": 1}}, "tokenizer": {"patch": 4}, "data": {"name": "glyphs"}, "seed": 0}
    file(swept("patches", 1000, config=config), tmp_path)
    assert find_row(view_of(tmp_path), "patches") is not None
