"""Free runs as pictures: what was said, in its order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.image import imread
from report_factory import arrays, file, record

from tokbench.records import read_records
from tokbench.report.free import NOTE, NOTHING, draw_free, free_runs
from tokbench.report.groups import group_records
from tokbench.report.page import render_page
from tokbench.report.view import View

SIDE = 8
WORDS = np.array(["a cat <image> and <image>", "<image>", "", "dog\x07"])


def view_of(folder: Path, images: np.ndarray, *names: str) -> View:
    for name in names:
        kept = arrays(name, 0) | {"free_native": images, "free_words_native": WORDS}
        file(record(name), folder, kept=kept)
    (group,) = group_records(read_records(folder / "runs"))
    return View(group, folder / "runs")


def test_words_keep_their_order_and_images_never_said_are_white(
    tmp_path: Path,
) -> None:
    images = np.zeros((4, 2, 3, SIDE, SIDE), dtype=np.uint8)
    (run,) = free_runs(view_of(tmp_path, images, "fsq"))
    assert run.label == "fsq\nchameleon"
    assert run.words == ["a cat ▢ and ▢", "▢", NOTHING, "dog\ufffd"]
    assert run.images.max(axis=(2, 3, 4)).tolist() == [[0, 0], [0, 255], [255, 255], [255, 255]]


def test_one_row_of_each_scheme_is_drawn_from_old_records_too(tmp_path: Path) -> None:
    view = view_of(tmp_path / "old", np.zeros((4, 3, SIDE, SIDE), dtype=np.uint8), "continuous_4", "fsq", "vq")
    assert [run.label for run in free_runs(view)] == ["continuous_4\ntransfusion", "fsq\nchameleon"]
    (old,) = draw_free(view, tmp_path)
    assert old.name == "photos32-cpu-free.png"
    old_width = imread(old).shape[1]
    (new,) = draw_free(view_of(tmp_path / "new", np.zeros((4, 2, 3, SIDE, SIDE), dtype=np.uint8), "fsq"), tmp_path)
    assert imread(new).shape[1] - old_width == 4 * 100  # a second image of each sequence
    assert NOTE in render_page(view, [old])


def test_a_scheme_trained_on_rows_of_two_images_is_drawn_beside_the_one_of_one(tmp_path: Path) -> None:
    for n, share in enumerate((0.0, 0.5, 0.5)):
        one = record("fsq", seed=n // 2)
        config = {**one.config, "generation": {"scheme": {"interleaved": share}}}
        kept = arrays("fsq", 0) | {"free_native": np.zeros((4, 2, 3, SIDE, SIDE), np.uint8), "free_words_native": WORDS}
        file(one.model_copy(update={"config": config, "hash": f"{n:08x}"}), tmp_path, kept=kept)
    (group,) = group_records(read_records(tmp_path / "runs"))
    labels = [run.label for run in free_runs(View(group, tmp_path / "runs"))]
    assert len(labels) == 2
    assert all("chameleon" in label for label in labels)


def test_runs_without_free_sequences_have_no_picture(tmp_path: Path) -> None:
    file(record("fsq"), tmp_path)
    (group,) = group_records(read_records(tmp_path / "runs"))
    assert draw_free(View(group, tmp_path / "runs"), tmp_path) == []
