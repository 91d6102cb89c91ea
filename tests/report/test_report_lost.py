"""The figure of what is lost first copes with grids, lines, sub-pixels, continuous tokens and runs without its arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from report_factory import arrays, file, record, swept

from tokbench.records import read_records
from tokbench.report.build import build_report
from tokbench.report.groups import group_records
from tokbench.report.lost import CELL, NOTE, PLOT, _flat, _labels, _maps, draw_lost
from tokbench.report.pictures import DPI, MOST_STRIPS
from tokbench.report.rows import Row
from tokbench.report.view import View

BANDS = np.array([0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2])


def lost(shape: tuple[int, ...] | None) -> dict[str, np.ndarray]:
    """What a run keeps, for tokens of that shape; None: continuous."""
    rng = np.random.default_rng(0)
    found = {
        "band_cycles_per_pixel": BANDS,
        "power_originals": 1e5 / 4.0 ** np.arange(6),
        "power_error": np.array([0, 1, 2, 4, 8, 16.0]),
        "error_by_pixel": rng.uniform(0, 9, (32, 32)),
    }
    if shape is None:
        return found
    return found | {
        "entropy_by_position": rng.uniform(0, 9, shape),
        "nll_by_position_native": rng.uniform(0, 9, int(np.prod(shape))),
    }


def view_of(folder: Path) -> View:
    (group,) = group_records(read_records(folder / "runs"))
    return View(group, folder / "runs")


def test_rows_of_every_shape_are_drawn_and_those_without_arrays_left_out(tmp_path: Path) -> None:
    shapes = {"fsq": (8, 8), "vq": (16,), "pixels": (8, 8, 3), "continuous_4": None}
    for name, shape in shapes.items():
        file(record(name), tmp_path, kept=arrays(name, 0, "all") | lost(shape))
    file(record("vq_tuned"), tmp_path)
    (path,) = draw_lost(view_of(tmp_path), tmp_path)
    assert path.name == "photos32-cpu-lost-first.png"
    assert imread(path).shape[0] == pytest.approx(DPI * (PLOT + CELL * len(shapes) + 0.5), abs=1)


def test_a_legend_has_one_line_a_row_by_names_where_they_tell_rows_apart() -> None:
    alike, other = Row("vq (dim=4)", (record("vq"),)), Row("vq (dim=8)", (record("vq"),))
    assert _labels([alike, Row("fsq (depth=1)", (record("fsq"),))]) == ["vq", "fsq"]
    assert _labels([alike, other]) == ["vq (dim=4)", "vq (dim=8)"]


def test_a_legend_of_as_many_rows_as_fit_ends_below_the_top(tmp_path: Path) -> None:
    for codes in range(100, 100 + MOST_STRIPS):
        file(swept("fsq", codes), tmp_path, kept=arrays("fsq", 0, "all") | lost((8, 8)))
    (path,) = draw_lost(view_of(tmp_path), tmp_path)
    above = imread(path)[: int(0.3 * DPI), int(0.8 * 9.5 * DPI) :]
    assert above.min() == 1.0


def test_a_map_keeps_the_shape_of_its_tokens() -> None:
    for shape, flat in {(4, 8): (4, 8), (16,): (1, 16), (4, 4, 3): (4, 4)}.items():
        kept = lost(shape)
        error, entropy, bits = _maps(kept)
        assert error.shape == (32, 32)
        assert entropy is not None
        assert bits is not None
        assert entropy.shape == bits.shape == flat
    np.testing.assert_allclose(_flat(kept["entropy_by_position"]), kept["entropy_by_position"].mean(axis=-1))
    kept = lost((4, 8))
    np.testing.assert_array_equal(_maps(kept)[2][1], kept["nll_by_position_native"][8:16])  # type: ignore[index]
    assert _maps(lost(None))[1:] == (None, None)


@pytest.mark.parametrize("with_maps", [True, False])
def test_the_page_explains_the_figure_where_there_is_one(tmp_path: Path, with_maps: bool) -> None:
    file(record("fsq"), tmp_path, kept=arrays("fsq", 0, "all") | (lost((8, 8)) if with_maps else {}))
    build_report(tmp_path)
    page = (tmp_path / "photos32-cpu.md").read_text()
    assert (NOTE in page) is with_maps
    assert (tmp_path / "photos32-cpu-lost-first.png").exists() is with_maps
