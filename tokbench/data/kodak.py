"""The 24 photographs of Kodak's Photo CD sampler, which no lossy codec has touched, whole and as square tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tokbench.data.decode import read_image
from tokbench.interfaces import Split

NUM_PHOTOGRAPHS = 24
SIDES = {(512, 768), (768, 512)}


def kodak_paths(root: str | Path | None) -> list[Path]:
    """kodim01.png to kodim24.png in `root`; ValueError names the first that is missing."""
    if root is None:
        raise ValueError(
            "the folder of the Kodak photographs must be given: rd.root=PATH, with kodim01.png to kodim24.png"
        )
    paths = [Path(root) / f"kodim{number:02}.png" for number in range(1, NUM_PHOTOGRAPHS + 1)]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{root} must hold kodim01.png to kodim24.png, but {path.name} is missing")
    return paths


def read_kodak(root: str | Path | None) -> list[Tensor]:
    """24 photographs (3, 512, 768) or (3, 768, 512) uint8."""
    photographs = [read_image(path) for path in kodak_paths(root)]
    for number, photograph in enumerate(photographs, 1):
        if tuple(photograph.shape[1:]) not in SIDES:
            raise ValueError(f"kodim{number:02}.png must be 768x512 or 512x768, got {tuple(photograph.shape[1:])}")
    return photographs


def cut(photograph: Tensor, size: int) -> Tensor:
    """(T, 3, size, size) tiles of (3, H, W), row by row; sides that size does not divide are a ValueError."""
    height, width = photograph.shape[1:]
    if height % size or width % size:
        raise ValueError(f"tiles must divide {height}x{width}, got a size of {size}")
    tiles = photograph.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (3, rows, size, columns, size)
    return tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)


def assemble(tiles: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `cut`."""
    size = tiles.shape[-1]
    grid = tiles.unflatten(0, (height // size, width // size))
    return grid.permute(2, 0, 3, 1, 4).reshape(3, height, width)


def tile_split(photographs: Sequence[Tensor], size: int) -> Split:
    """All tiles as a split without captions; the group of a tile is its photograph."""
    tiles = [cut(photograph, size) for photograph in photographs]
    images = torch.cat(tiles)
    groups = torch.arange(len(tiles)).repeat_interleave(torch.tensor([len(own) for own in tiles]))
    return Split(images, ("",) * len(images), None, groups)
