"""A user's folder of images, whole in memory.

Captions come from `metadata.jsonl` at any level (`file_name`, relative to it, and `text`: Hugging Face's ImageFolder
convention), else from class folders (`golden_retriever/`: class and caption "golden retriever"), else there are none.

Split folders are `train`, `val` (or `valid`, `validation`) and `test`. A missing split is taken off `train`; but `val`
without `test` judges, as in ImageNet's own layout: it becomes `test`, and validation is taken off `train`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tokbench.data.common import permutation, subset
from tokbench.data.decode import read_square
from tokbench.interfaces import Dataset, Split

VERSION = 1
METADATA = "metadata.jsonl"
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


def load(
    *,
    root: str,
    size: int,
    on_error: Literal["raise", "skip"],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> Dataset:
    """Every image below `root` as a `size` x `size` square, in an order fixed by `seed`; `generation` is `test`.

    Hidden files are passed over. Another file that is no image is a ValueError naming it, or (`on_error="skip"`) left
    out and counted in `skipped`. A fraction is of the images of `train` (of all, without split folders), and is unused
    where its split is there. Every image is its own group.
    """
    folder = Path(root).expanduser()
    check(folder, size=size, on_error=on_error, fractions=(validation_fraction, test_fraction))
    files, metadata = find(folder)
    texts = read_metadata(folder, metadata, files)
    paths, images = read_images(folder, files, size=size, on_error=on_error)
    names, inner = split_folders(folder, paths)
    captions = described(folder, paths, texts) if metadata else classified(folder, paths, inner)
    class_names = () if metadata else tuple(sorted(set(captions) - {""}))
    everything = Split(
        images=images,
        captions=tuple(captions),
        labels=torch.tensor([class_names.index(caption) for caption in captions]) if class_names else None,
        groups=torch.arange(len(paths)),
    )
    parts = divide(names, validation_fraction=validation_fraction, test_fraction=test_fraction, seed=seed)
    train, validation, test = (subset(everything, parts[name]) for name in ("train", "validation", "test"))
    return Dataset(
        name="folder-" + re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name),
        ranked=True,
        class_names=class_names,
        train=train,
        validation=validation,
        test=test,
        generation=test,
        skipped=len(files) - len(paths),
    )


def check(folder: Path, *, size: int, on_error: str, fractions: tuple[float, float]) -> None:
    """ValueError naming the argument of `load` that is wrong."""
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "is missing"
        raise ValueError(f"data.root must be a folder of images, got {folder}, which {state}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"data.on_error must be raise or skip, got {on_error}")
    if size < 1:
        raise ValueError(f"data.size must be >= 1, got {size}")
    if min(fractions) <= 0 or sum(fractions) >= 1:
        raise ValueError(
            "data.validation_fraction and data.test_fraction must be > 0 with a sum < 1, "
            f"got {fractions[0]} and {fractions[1]}"
        )


def find(folder: Path) -> tuple[list[Path], list[Path]]:
    """Sorted paths, relative to `folder`, of all files but hidden ones; `metadata.jsonl` files apart, second.

    ValueError naming a link that leaves the folder, or leads to a folder above itself.
    """
    files = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found = [Path(parent, name) for name in names if not name.startswith(".")]
        for path in (*found, *(Path(parent, name) for name in folders)):
            if path.is_symlink():
                _check_link(path, folder)
        files += [path.relative_to(folder) for path in found]
    files.sort()
    return [path for path in files if path.name != METADATA], [path for path in files if path.name == METADATA]


def _check_link(path: Path, folder: Path) -> None:
    target = path.resolve()
    if not target.is_relative_to(folder.resolve()):
        raise ValueError(f"{path} is a link that leaves data.root, to {target}: copy what it means, or remove it")
    if path.parent.resolve().is_relative_to(target):
        raise ValueError(f"{path} is a link to a folder that holds it, {target}: remove it")


def read_metadata(folder: Path, metadata: Sequence[Path], files: Sequence[Path]) -> dict[Path, str]:
    """The text of each file in the metadata; ValueError naming a line that is malformed, repeated or about no file."""
    known, texts = set(files), dict[Path, str]()
    for source in metadata:
        for number, line in enumerate((folder / source).read_bytes().split(b"\n"), start=1):
            if not line.strip():
                continue
            where = f"{folder / source} line {number}"
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where} must be one JSON object: {error}") from error
            if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("file_name", "text")):
                raise ValueError(f"{where} must have the strings file_name and text, got {str(entry)[:200]}")
            path = Path(os.path.normpath(source.parent / entry["file_name"]))
            if path not in known:
                raise ValueError(f"{where}: there is no file {entry['file_name']!r}")
            if path in texts:
                raise ValueError(f"{where}: file_name {entry['file_name']!r} has a caption already")
            texts[path] = entry["text"]
    return texts


def read_images(
    folder: Path, files: Sequence[Path], *, size: int, on_error: Literal["raise", "skip"]
) -> tuple[list[Path], Tensor]:
    """The files that are images, and the images (M, 3, size, size) uint8; ValueError if there is none."""

    def attempt(path: Path) -> Tensor | None:
        try:
            return read_square(folder / path, size=size)
        except ValueError as error:
            if on_error == "raise":
                raise ValueError(f"{error}; remove it, or set data.on_error=skip") from error
            return None

    with ThreadPoolExecutor() as pool:
        squares = {
            path: square for path, square in zip(files, pool.map(attempt, files), strict=True) if square is not None
        }
    if not squares:
        raise ValueError(f"data.root must hold images, got {folder} with {len(files)} files and no image among them")
    return list(squares), torch.stack(list(squares.values()))


def split_folders(folder: Path, paths: Sequence[Path]) -> tuple[list[str], list[Path]]:
    """The split each image lies in ("train" for all without split folders), and its path below that."""
    tops = [SPLITS.get(path.parts[0].lower()) if len(path.parts) > 1 else None for path in paths]
    if not any(tops):
        return ["train"] * len(paths), list(paths)
    if "train" not in tops:
        there = ", ".join(sorted({top for top in tops if top}))
        raise ValueError(f"data.root must have images in train/ where it has split folders ({there}), got {folder}")
    if None in tops:
        raise ValueError(f"{folder / paths[tops.index(None)]} lies in none of the split folders that are there")
    return [top for top in tops if top], [path.relative_to(path.parts[0]) for path in paths]


def described(folder: Path, paths: Sequence[Path], texts: dict[Path, str]) -> list[str]:
    """Captions of images by metadata; ValueError naming an image without one."""
    bare = [path for path in paths if path not in texts]
    if bare:
        raise ValueError(f"{folder / bare[0]} has no line in {METADATA} ({len(bare)} such images)")
    return [texts[path] for path in paths]


def classified(folder: Path, paths: Sequence[Path], inner: Sequence[Path]) -> list[str]:
    """Captions of images by class folder, "" where there are none; ValueError naming an image beside class folders."""
    loose = [path for path, place in zip(paths, inner, strict=True) if len(place.parts) == 1]
    if loose and len(loose) < len(paths):
        raise ValueError(f"{folder / loose[0]} lies beside class folders, not in one")
    return ["" if loose else place.parts[0].replace("_", " ").replace("-", " ") for place in inner]


def divide(names: Sequence[str], *, validation_fraction: float, test_fraction: float, seed: int) -> dict[str, Tensor]:
    """Indices of train, validation and test, shuffled by `seed`; ValueError where train cannot spare one image each."""
    parts: dict[str, list[int]] = {name: [] for name in ("train", "validation", "test")}
    for index in permutation(len(names), seed=seed).tolist():
        parts[names[index]].append(index)
    if parts["validation"] and not parts["test"]:
        parts["test"], parts["validation"] = parts["validation"], []
    total = len(parts["train"])
    for name, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if not parts[name]:
            num = max(1, round(fraction * total))
            parts["train"], parts[name] = parts["train"][:-num], parts["train"][-num:]
    if not all(parts.values()):
        raise ValueError(f"data.root must hold enough images for train, validation and test, got {total} to divide")
    return {name: torch.tensor(indices) for name, indices in parts.items()}
