"""Crops of the real photographs inside the scikit-image wheel (no download): sixteen, so a demonstration.

Four whole photographs are held out for `test`. Each of the others is cut into tiles with gutters one crop wide, and the
tiles alternate like a checkerboard: `train`, and in turn `validation` and `generation`. A crop lies inside one tile,
so two crops of different splits share no pixel and lie at least a crop's width apart.

S side of a crop, H x W a photograph as reduced here.
"""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tokbench.data.common import check_counts
from tokbench.interfaces import Dataset, Split

VERSION = 1

TRAINING = {  # file: caption; its place is its label and its group
    "astronaut.png": "astronaut",
    "brick.png": "brick wall",
    "chelsea.png": "cat",
    "coins.png": "coins",
    "grass.png": "grass",
    "gravel.png": "gravel",
    "hubble_deep_field.jpg": "galaxies",
    "ihc.png": "stained tissue",
    "moon.png": "moon",
    "retina.jpg": "retina",
    "rocket.jpg": "rocket",
    "text.png": "handwriting",
}
HELD_OUT = {
    "camera.png": "cameraman",
    "coffee.png": "cup of coffee",
    "motorcycle_left.png": "motorcycle",
    "page.png": "page of text",
}
CROPS_ACROSS = 12  # photographs are reduced until min(H, W) is at most this many crops: a crop then shows something


class Tile(NamedTuple):
    """Rows [top, bottom) and columns [left, right) of a photograph."""

    top: int
    bottom: int
    left: int
    right: int


def load(*, size: int, num_train: int, num_validation: int, num_test: int, num_generation: int, seed: int) -> Dataset:
    """Crops of `size` x `size` pixels at random places, each split spread evenly over its photographs.

    A place is drawn twice only once all of its photograph's places are used. Labels of `test` are None: its photographs
    are of no training class.
    """
    check_counts(size=size, num_train=num_train, num_validation=num_validation)
    check_counts(num_test=num_test, num_generation=num_generation)
    training = [read_photo(file, size=size) for file in TRAINING]
    tiles = [cut(*photo.shape[1:], size=size) for photo in training]
    held_out = [read_photo(file, size=size) for file in HELD_OUT]
    whole = [[Tile(0, photo.shape[1], 0, photo.shape[2])] for photo in held_out]

    def known(name: str, total: int) -> Split:
        images, photos = draw(training, [t[name] for t in tiles], size=size, total=total, seed=seed)
        return Split(images, captions=_names(TRAINING, photos), labels=photos, groups=photos)

    images, photos = draw(held_out, whole, size=size, total=num_test, seed=seed)
    return Dataset(
        name="photos",
        ranked=False,
        class_names=tuple(TRAINING.values()),
        train=known("train", num_train),
        validation=known("validation", num_validation),
        test=Split(images, captions=_names(HELD_OUT, photos), labels=None, groups=photos + len(TRAINING)),
        generation=known("generation", num_generation),
    )


def read_photo(file: str, *, size: int) -> Tensor:
    """(3, H, W) uint8, grey repeated: means of the smallest blocks with which min(H, W) <= CROPS_ACROSS * S."""
    path = files("skimage") / "data" / file
    if not path.is_file():
        raise ValueError(
            f"data=photos reads {file} inside the scikit-image wheel, which this installation lacks: "
            "reinstall scikit-image with pip"
        )
    with path.open("rb") as stream, Image.open(stream) as image:
        photo = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    factor = -(-min(photo.shape[1:]) // (CROPS_ACROSS * size))
    return nn.functional.avg_pool2d(photo.float(), factor).round().byte()


def cut(height: int, width: int, *, size: int) -> dict[str, list[Tile]]:
    """Tiles of each split: at least two of train, one of validation, one of generation, with gutters of `size` pixels.

    ValueError where not even tiles of one crop's side make four.
    """
    for pitch in (3, 2):  # a tile and its gutter, in crops: the finer loses more pixels to gutters
        rows, columns = _spans(height, size=size, pitch=pitch), _spans(width, size=size, pitch=pitch)
        if len(rows) * len(columns) >= 4:
            break
    else:
        raise ValueError(
            "data.size must leave room for four tiles and their gutters in each photograph, "
            f"got {size} for {height} x {width} pixels"
        )
    even = [Tile(*row, *column) for i, row in enumerate(rows) for j, column in enumerate(columns) if (i + j) % 2 == 0]
    odd = [Tile(*row, *column) for i, row in enumerate(rows) for j, column in enumerate(columns) if (i + j) % 2 == 1]
    return {"train": even, "validation": odd[::2], "generation": odd[1::2]}


def draw(photos: list[Tensor], tiles: list[list[Tile]], *, size: int, total: int, seed: int) -> tuple[Tensor, Tensor]:
    """Crops (total, 3, S, S) uint8 inside the tiles, shuffled, and the place (total,) of each one's photograph."""
    generator = torch.Generator().manual_seed(seed)
    images, places = torch.empty(total, 3, size, size, dtype=torch.uint8), torch.arange(total) % len(photos)
    places = places[torch.randperm(total, generator=generator)]
    for place, (photo, own) in enumerate(zip(photos, tiles, strict=True)):
        mine = (places == place).nonzero()[:, 0]
        top, left = choose(windows(own, size=size), num=len(mine), generator=generator).unbind(1)
        views = photo.unfold(1, size, 1).unfold(2, size, 1)  # (3, H - S + 1, W - S + 1, S, S), no copy
        images[mine] = views[:, top, left].transpose(0, 1)
    return images, places


def choose(rows: Tensor, *, num: int, generator: torch.Generator) -> Tensor:
    """`num` rows in random order, each as often as any other to within one."""
    order = [torch.randperm(len(rows), generator=generator) for _ in range(1 + num // len(rows))]
    return rows[torch.cat(order)[:num]]


def windows(tiles: list[Tile], *, size: int) -> Tensor:
    """(K, 2) int64 top and left of every crop that lies inside one tile."""
    rows = [torch.arange(tile.top, tile.bottom - size + 1) for tile in tiles]
    columns = [torch.arange(tile.left, tile.right - size + 1) for tile in tiles]
    return torch.cat([torch.cartesian_prod(r, c) for r, c in zip(rows, columns, strict=True)])


def _spans(length: int, *, size: int, pitch: int) -> list[tuple[int, int]]:
    """[start, stop) of as many spans, from 0 to `length`, as fit at `pitch` crops each, gutter included."""
    num = (length + size) // (pitch * size)
    return [(i * (length + size) // num, (i + 1) * (length + size) // num - size) for i in range(num)]


def _names(photographs: dict[str, str], places: Tensor) -> tuple[str, ...]:
    captions = tuple(photographs.values())
    return tuple(captions[place] for place in places.tolist())
