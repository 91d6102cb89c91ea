"""Two coloured shapes with a caption such as "a red circle left of a blue square": images whose entropy is known exactly.

Every image is one of finitely many, all alike likely, and no two of them are the same (so H is a sum of logarithms): the
ground's colour (4), the relation (2), and for each of the two objects its shape (4), colour (6), side (3) and place (35). No
edge is blended, so pixels hold the palette's colours alone. Why no two are the same: a shape's mask tells shape and
side, the middle of its pixels the place, and places of `left of` lie in a band that those of `above` never reach.

Columns of `Split.truth`: `relation` (M,), `shape` and `colour` (M, 2) places in the tuples below, `ground` (M,), `side`
(M, 2) and `place` (M, 2) in [0, 35). The caption tells relation, shapes and colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import log2

import torch
from torch import Generator, Tensor

from tokbench.data.common import check_counts
from tokbench.interfaces import Dataset, Split

VERSION = 1
RELATIONS = ("left of", "above")  # of the first object to the second
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "purple": (160, 50, 190),
    "cyan": (60, 210, 220),
}
GROUNDS = ((0, 0, 0), (100, 100, 100), (175, 175, 175), (255, 255, 255))
SIDES = (8, 10, 12)  # pixels of a shape in an image of BASE
BASE = 32  # other sizes repeat its pixels
ALONG, ACROSS = 5, 7  # places along the relation, and across it
PLACES = ALONG * ACROSS
CHOICES: Mapping[str, tuple[int, int]] = {  # of truth: how many values, and of how many objects
    "relation": (len(RELATIONS), 1),
    "shape": (len(SHAPES), 2),
    "colour": (len(COLOURS), 2),
    "ground": (len(GROUNDS), 1),
    "side": (len(SIDES), 2),
    "place": (PLACES, 2),
}
TOLD = ("relation", "shape", "colour")  # by the caption
ENTROPY_BITS = sum(objects * log2(values) for values, objects in CHOICES.values())
CAPTION_BITS = sum(CHOICES[name][1] * log2(CHOICES[name][0]) for name in TOLD)


def load(*, size: int, num_train: int, num_validation: int, num_test: int, seed: int) -> Dataset:
    """Scenes of `size` x `size` pixels, a multiple of 32; `generation` is `test`. ValueError of another size."""
    check_counts(num_train=num_train, num_validation=num_validation, num_test=num_test)
    if size < BASE or size % BASE:
        raise ValueError(f"data.size must be a multiple of {BASE}, got {size}")
    train, validation, test = (
        _split(total, size=size, generator=Generator().manual_seed(3 * seed + place))
        for place, total in enumerate((num_train, num_validation, num_test))
    )
    return Dataset(
        name="scenes",
        ranked=True,
        class_names=(),
        train=train,
        validation=validation,
        test=test,
        generation=test,
        entropy_bits=ENTROPY_BITS,
        caption_bits=CAPTION_BITS,
    )


def _split(total: int, *, size: int, generator: Generator) -> Split:
    truth = {
        name: torch.randint(values, (total, objects), generator=generator)
        for name, (values, objects) in CHOICES.items()
    }
    truth |= {name: column[:, 0] for name, column in truth.items() if column.shape[1] == 1}
    images = draw(truth).repeat_interleave(size // BASE, 2).repeat_interleave(size // BASE, 3)
    columns = [truth[name].tolist() for name in TOLD]
    captions = tuple(caption(*choices) for choices in zip(*columns, strict=True))
    return Split(images, captions, labels=None, groups=torch.arange(total), truth=truth)


def caption(relation: int, shapes: list[int], colours: list[int]) -> str:
    """What is said of a scene."""
    names = list(COLOURS)
    first, second = (f"a {names[colour]} {SHAPES[shape]}" for shape, colour in zip(shapes, colours, strict=True))
    return f"{first} {RELATIONS[relation]} {second}"


def draw(truth: Mapping[str, Tensor]) -> Tensor:
    """(M, 3, BASE, BASE) uint8 of M choices."""
    images = torch.tensor(GROUNDS, dtype=torch.uint8)[truth["ground"]][:, :, None, None].repeat(1, 1, BASE, BASE)
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.uint8)
    for place in range(2):
        where = _stamps()[truth["shape"][:, place], truth["side"][:, place]]  # (M, 12, 12)
        top, left = corners(truth["relation"], truth["place"][:, place], second=bool(place)).unbind(1)
        rows, columns = (start[:, None] + torch.arange(SIDES[-1]) for start in (top, left))
        covered = torch.zeros(len(images), BASE, BASE, dtype=torch.bool)
        covered[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]] = where
        images = torch.where(covered[:, None], palette[truth["colour"][:, place]][:, :, None, None], images)
    return images


def corners(relation: Tensor, place: Tensor, *, second: bool) -> Tensor:
    """(M, 2) top and left of the box of 12 x 12 that an object stands in the middle of."""
    along = place // ACROSS + (BASE // 2 if second else 0)  # within its half
    across = place % ACROSS + (BASE - SIDES[-1] - ACROSS + 1) // 2  # in a band about the middle
    left_of = (relation == 0)[:, None]
    return torch.where(left_of, torch.stack((across, along), dim=1), torch.stack((along, across), dim=1))


@cache
def _stamps() -> Tensor:
    """(shapes, sides, 12, 12) bool: each shape at each side in the middle of its box."""
    stamps = torch.zeros(len(SHAPES), len(SIDES), SIDES[-1], SIDES[-1], dtype=torch.bool)
    for index, side in enumerate(SIDES):
        start = (SIDES[-1] - side) // 2
        for shape, mask in enumerate(masks(side)):
            stamps[shape, index, start : start + side, start : start + side] = mask
    return stamps


def masks(side: int) -> Tensor:
    """(4, side, side) bool in the order of SHAPES; each reaches all four edges. `side` is even."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    across, down = 2 * x - side + 1, 2 * y - side + 1  # twice the distance to the middle
    arm = 2 * (side // 4)
    circle = across**2 + down**2 <= side**2
    triangle = across.abs() <= y + 1
    return torch.stack((circle, torch.ones_like(circle), triangle, (across.abs() < arm) | (down.abs() < arm)))


def swapped(split: Split, row: int, *, count: int) -> list[str]:
    """Captions of a row that are wrong in little: objects, colours or shapes exchanged, another relation or value."""
    assert split.truth is not None
    relation = int(split.truth["relation"][row])
    (s, t), (c, d) = (split.truth[name][row].tolist() for name in ("shape", "colour"))
    wrong = [(relation, [t, s], [d, c]), (relation, [s, t], [d, c]), (relation, [t, s], [c, d])]
    wrong += [(1 - relation, [s, t], [c, d])]
    wrong += [(relation, [s, t], [(c + step) % len(COLOURS), d]) for step in range(1, len(COLOURS))]
    found = dict.fromkeys(caption(*choices) for choices in wrong)
    return [text for text in found if text != split.captions[row]][:count]
