"""Random strings in DejaVu Sans Mono Bold on plain, noisy and photographic backgrounds: text whose truth is known.

Each character is uniform over 32 (no 0, O, 1 or I), each font size, background and place uniform over what fits. Columns
of `Split.truth`: `characters` (M, L) places in ALPHABET, `font_size` (M,) pixels, `background` (M,) place in
BACKGROUNDS, `box` (M, 4) top, left, height and width of the string. Captions are the strings.

S side of an image, L characters of a string, A of the alphabet, h x w of one character's cell.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from math import log2
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

from tokbench.data import photos
from tokbench.data.common import check_counts
from tokbench.data.letters import ALPHABET, BACKGROUNDS, FONT_SIZES
from tokbench.interfaces import Dataset, Split

VERSION = 1
FONT = "DejaVuSansMono-Bold.ttf"
WITH_TEXT = ("text.png", "page.png")  # photographs that say something themselves
CONTRAST = 112  # levels at least between the ink's luminance and the mean luminance below it
NOISE = 20.0  # levels, standard deviation of each sub-pixel of `noise`
LUMINANCE = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601


def load(*, size: int, length: int, num_train: int, num_validation: int, num_test: int, seed: int) -> Dataset:
    """Strings of `length` characters on `size` x `size` pixels; `generation` is `test`.

    Photographs of `test` are in no other split. Images on one photograph share a group, all others are their own.
    ValueError where the largest font does not fit.
    """
    check_counts(size=size, length=length, num_train=num_train, num_validation=num_validation, num_test=num_test)
    height, width = cell(FONT_SIZES[-1])
    if length * width > size or height > size:
        raise ValueError(
            f"data.length must be <= {size // width} at data.size={size}, {width} pixels a character at the largest "
            f"font size, {FONT_SIZES[-1]}, got {length}"
        )
    sources = (
        (photos.TRAINING, "train", num_train),
        (photos.TRAINING, "validation", num_validation),
        (photos.HELD_OUT, None, num_test),
    )
    train, validation, test = (
        _split(*source, size=size, length=length, generator=Generator().manual_seed(3 * seed + place))
        for place, source in enumerate(sources)
    )
    return Dataset(
        name="glyphs",
        ranked=True,
        class_names=(),
        train=train,
        validation=validation,
        test=test,
        generation=test,
    )


def text_bits(*, size: int, length: int) -> tuple[float, float]:
    """Entropies in bits of one string and of its layout: font size and place."""
    places = [log2((size - h + 1) * (size - length * w + 1)) for h, w in map(cell, FONT_SIZES)]
    return length * log2(len(ALPHABET)), log2(len(FONT_SIZES)) + sum(places) / len(places)


def cell(font_size: int) -> tuple[int, int]:
    """Height and width in pixels of every character at a font size."""
    return tuple(masks(font_size).shape[1:])  # type: ignore[return-value]


@lru_cache
def masks(font_size: int) -> Tensor:
    """(A, h, w) float32 share of ink in [0, 1] of each character, cut to the rows and columns that any of them uses."""
    matplotlib = importlib.util.find_spec("matplotlib")
    assert matplotlib is not None
    assert matplotlib.origin is not None
    path = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / FONT
    if not path.is_file():
        raise ValueError(f"data=glyphs reads {path}, which is not there: reinstall matplotlib with pip")
    font = ImageFont.truetype(str(path), font_size, layout_engine=ImageFont.Layout.BASIC)
    boxes = [font.getbbox(letter) for letter in ALPHABET]
    top, width, bottom = min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)
    drawn = []
    for letter in ALPHABET:
        image = Image.new("L", (round(width), round(bottom - top)))
        ImageDraw.Draw(image).text((0, -top), letter, font=font, fill=255)
        drawn.append(np.array(image, dtype=np.float32) / 255)
    return torch.from_numpy(np.stack(drawn))


def _split(
    photographs: dict[str, str], tiles: str | None, total: int, *, size: int, length: int, generator: Generator
) -> Split:
    characters = torch.randint(len(ALPHABET), (total, length), generator=generator)
    font = torch.randint(len(FONT_SIZES), (total,), generator=generator)
    background = torch.randint(len(BACKGROUNDS), (total,), generator=generator)
    places = torch.rand(total, 2, generator=generator, dtype=torch.float64)
    coverage, box = write(characters, font, places, size=size)
    images, groups = backgrounds(background, photographs, tiles, size=size, generator=generator)
    for rows in torch.arange(total).split(1000):  # one block of floats at a time
        images[rows] = inked(images[rows], coverage[rows], box[rows], generator)
    captions = tuple("".join(ALPHABET[c] for c in row) for row in characters.tolist())
    truth = {
        "characters": characters,
        "font_size": torch.tensor(FONT_SIZES)[font],
        "background": background,
        "box": box,
    }
    return Split(images, captions, labels=None, groups=groups, truth=truth)


def write(characters: Tensor, font: Tensor, places: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """Share of ink (M, S, S) uint8 (255: all) of each string, and its box (M, 4).

    `characters` (M, L) and `font` (M,) are places in ALPHABET and FONT_SIZES; `places` (M, 2) in [0, 1) choose among
    the rows and columns where the string fits.
    """
    coverage, box = torch.zeros(len(font), size, size, dtype=torch.uint8), torch.empty(len(font), 4, dtype=torch.long)
    for index, font_size in enumerate(FONT_SIZES):
        mine = (font == index).nonzero()[:, 0]
        strings = masks(font_size)[characters[mine]].permute(0, 2, 1, 3).flatten(2)  # (m, h, L w)
        extent = torch.tensor(strings.shape[1:])
        corner = (places[mine] * (size - extent + 1)).long()
        rows = corner[:, :1] + torch.arange(int(extent[0]))
        columns = corner[:, 1:] + torch.arange(int(extent[1]))
        coverage[mine[:, None, None], rows[:, :, None], columns[:, None]] = (strings * 255).round().byte()
        box[mine] = torch.cat((corner, extent.expand(len(mine), 2)), dim=1)
    return coverage, box


def backgrounds(
    kinds: Tensor, photographs: dict[str, str], tiles: str | None, *, size: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """(M, 3, S, S) uint8 of each kind (M,), and groups (M,): a photograph's number, or for other images its own."""
    _, noisy, pictured = ((kinds == kind).nonzero()[:, 0] for kind in range(len(BACKGROUNDS)))
    images = torch.randint(256, (len(kinds), 3, 1, 1), generator=generator).byte().repeat(1, 1, size, size)
    for rows in noisy.split(1000):
        noise = NOISE * torch.randn(len(rows), 3, size, size, generator=generator)
        images[rows] = (images[rows] + noise).round().clamp(0, 255).byte()
    files = [file for file in photographs if file not in WITH_TEXT]
    read = [photos.read_photo(file, size=size) for file in files]
    own = [_tiles(photo, tiles, size=size) for photo in read]
    seed = int(torch.randint(2**31, (1,), generator=generator))
    images[pictured], groups = photos.draw(read, own, size=size, total=len(pictured), seed=seed)
    numbers = [list(photos.TRAINING | photos.HELD_OUT).index(file) for file in files]
    found = len(photos.TRAINING | photos.HELD_OUT) + torch.arange(len(kinds))
    found[pictured] = torch.tensor(numbers)[groups]
    return images, found


def _tiles(photo: Tensor, name: str | None, *, size: int) -> list[photos.Tile]:
    height, width = photo.shape[1:]
    return [photos.Tile(0, height, 0, width)] if name is None else photos.cut(height, width, size=size)[name]


def inked(images: Tensor, coverage: Tensor, box: Tensor, generator: Generator) -> Tensor:
    """(M, 3, S, S) uint8 images with ink of one random colour each, at least CONTRAST from what lies below the string."""
    weights = LUMINANCE.view(3, 1, 1)
    below = (images.float() * weights).sum(dim=1)
    steps = torch.arange(images.shape[-1])
    rows, columns = (
        (steps >= box[:, axis, None]) & (steps < (box[:, axis] + box[:, axis + 2])[:, None]) for axis in (0, 1)
    )
    inside = rows[:, :, None] & columns[:, None]
    mean = (below * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2))
    ink = _ink(mean, generator)
    share = coverage[:, None].float() / 255
    return (images * (1 - share) + ink[:, :, None, None] * share).round().byte()


def _ink(mean: Tensor, generator: Generator) -> Tensor:
    """(M, 3) colours in [0, 255]: a random one, moved towards black or white until it is CONTRAST from `mean` (M,).

    Towards the farther end of the range, which is at least 127 levels away.
    """
    colour = 255 * torch.rand(len(mean), 3, generator=generator)
    luminance = colour @ LUMINANCE
    end = torch.where(mean > 127.5, 0.0, 255.0)
    wanted = torch.where(mean > 127.5, mean - CONTRAST, mean + CONTRAST)
    missing = torch.where(mean > 127.5, luminance - wanted, wanted - luminance).clamp_min(0)
    share = (missing / (end - luminance).abs().clamp_min(1e-6)).clamp_max(1)
    return colour + share[:, None] * (end[:, None] - colour)
