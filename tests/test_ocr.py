"""Text kept between two folders of images, with an engine that reads file contents instead of pixels."""

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tokbench.ocr import main


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two folders of "images", and a rapidocr that gives their lines, or None where there are none, as the real one."""

    class RapidOCR:
        def __call__(self, path: str) -> SimpleNamespace:
            text = Path(path).read_text()
            return SimpleNamespace(txts=tuple(text.split("\n")) if text else None)

    module = ModuleType("rapidocr")
    module.RapidOCR = RapidOCR
    monkeypatch.setitem(sys.modules, "rapidocr", module)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return tmp_path / "a", tmp_path / "b"


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.png").write_text(text)


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_kept_counts_edits_against_what_the_original_says(folders: tuple[Path, Path], capsys) -> None:
    write(folders[0], sign="STOP", page="ab\ncdefg", plain="")
    write(folders[1], sign="STOP", page="ab\nxde", plain="ghost")
    (folders[0] / "notes.txt").write_text("no image")
    assert main([str(folder) for folder in folders]) == 0
    assert cells(capsys.readouterr().out) == [
        ["page", "8", "62.5"],  # a substitution and two deletions
        ["sign", "4", "100.0"],
        ["all 2", "12", "75.0"],
    ]


def test_more_wrong_than_there_was_keeps_nothing(folders: tuple[Path, Path], monkeypatch, capsys) -> None:
    write(folders[0], sign="AB")
    write(folders[1], sign="123456")
    monkeypatch.setattr(sys, "argv", ["tokbench.ocr", *map(str, folders)])
    monkeypatch.delitem(sys.modules, "tokbench.ocr")
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("tokbench.ocr", run_name="__main__")
    assert cells(capsys.readouterr().out)[-1] == ["all 1", "2", "0.0"]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"a": "x"}, {"b": "x"}, "one name in both folders, got a in one alone (2 such)"),
        ({}, {}, "folders must hold images, got none"),
        ({"a": ""}, {"a": "x"}, "originals must show text, got 1 images"),
    ],
)
def test_wrong_folders_are_named(folders: tuple[Path, Path], first, second, message: str, capsys) -> None:
    write(folders[0], **first)
    write(folders[1], **second)
    assert main([str(folder) for folder in folders]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_folder_and_a_missing_engine_are_named(folders, tmp_path: Path, monkeypatch, capsys) -> None:
    assert main([str(tmp_path / "nowhere"), str(folders[1])]) == 2
    assert "nowhere, which is no folder" in capsys.readouterr().err
    write(folders[0], a="x")
    write(folders[1], a="x")
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    assert main([str(folder) for folder in folders]) == 2
    assert "pip install 'tokbench[ocr]'" in capsys.readouterr().err
