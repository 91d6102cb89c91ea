"""Every choice is uniform, and distinct choices give distinct images: the entropy is a sum of logarithms."""

from itertools import product
from math import log2, prod

import pytest
import torch

from tokbench.data import scenes
from tokbench.data.common import fingerprint
from tokbench.data.scenes import CHOICES, COLOURS, GROUNDS, PLACES, RELATIONS, SHAPES, SIDES

COUNTS = {"num_train": 3000, "num_validation": 50, "num_test": 100}


@pytest.fixture(scope="module")
def dataset():
    return scenes.load(size=32, seed=0, **COUNTS)


def every(**fixed: torch.Tensor) -> dict[str, torch.Tensor]:
    """Truth columns with one object's choices enumerated and all else at 0."""
    total = len(next(iter(fixed.values())))
    columns = {name: torch.zeros(total, objects, dtype=torch.long) for name, (_, objects) in CHOICES.items()}
    columns |= {name: column[:, 0] for name, column in columns.items() if column.shape[1] == 1}
    return columns | fixed


def different(images: torch.Tensor) -> int:
    return len({image.numpy().tobytes() for image in images})


@pytest.mark.parametrize("place", [0, 1])
def test_distinct_choices_of_an_object_give_distinct_images(place):
    """All of one object's shapes, sides and places in both relations, in one colour (colours are told by the palette)."""
    table = torch.tensor(list(product(range(len(RELATIONS)), range(len(SHAPES)), range(len(SIDES)), range(PLACES))))
    truth = every(relation=table[:, 0])
    for name, column in (("shape", 1), ("side", 2), ("place", 3)):
        truth[name][:, place] = table[:, column]
    assert different(scenes.draw(truth)) == len(table) == 2 * 4 * 3 * 35


def test_each_object_can_be_told_from_its_own_pixels():
    """So the images of two objects are as many as the pairs of choices: no object touches or covers the other."""
    generator = torch.Generator().manual_seed(0)
    total = 4000
    truth = {
        name: torch.randint(values, (total, objects), generator=generator)
        for name, (values, objects) in CHOICES.items()
    }
    truth |= {name: column[:, 0] for name, column in truth.items() if column.shape[1] == 1}
    truth["colour"] = torch.tensor([[0, 2]]).expand(total, 2)  # red first
    images = scenes.draw(truth)
    red, blue = (torch.tensor(COLOURS[name], dtype=torch.uint8)[None, :, None, None] for name in ("red", "blue"))
    areas = scenes._stamps().flatten(2).sum(dim=2)
    for place, colour in enumerate((red, blue)):
        mine = (images == colour).all(dim=1)
        assert torch.equal(mine.flatten(1).sum(dim=1), areas[truth["shape"][:, place], truth["side"][:, place]])
    first, second = ((images == colour).all(dim=1) for colour in (red, blue))
    left_of = truth["relation"] == 0
    assert (reach(first, 1)[1] < reach(second, 1)[0])[left_of].all()
    assert (reach(first, 0)[1] < reach(second, 0)[0])[~left_of].all()


def reach(mask: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last row (0) or column (1) of each mask (M, 32, 32)."""
    line = mask.any(dim=2 - axis)
    places = torch.arange(32).expand_as(line)
    return places.masked_fill(~line, 99).amin(dim=1), places.masked_fill(~line, -1).amax(dim=1)


def test_palette_colours_are_distinct_and_alone(dataset):
    palette = [*COLOURS.values(), *GROUNDS]
    assert len(set(palette)) == len(palette)
    pixels = dataset.train.images[:300].permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0)
    assert {tuple(pixel) for pixel in pixels.tolist()} == set(palette)


def test_shapes_fill_their_side_and_differ_beyond_it():
    seen = set()
    for side in SIDES:
        for mask in scenes.masks(side):
            assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()  # noqa: PT018
            seen.add((side, mask.numpy().tobytes()))
    assert len(seen) == len(SIDES) * len(SHAPES)


def test_entropy_is_the_logarithm_of_the_number_of_images(dataset):
    number = prod(values**objects for values, objects in CHOICES.values())
    assert number == 2 * 4**2 * 6**2 * 4 * 3**2 * 35**2
    assert dataset.entropy_bits == pytest.approx(log2(number))
    assert dataset.caption_bits == pytest.approx(log2(2 * (4 * 6) ** 2))


def test_choices_are_uniform_and_independent(dataset):
    for name, (values, objects) in CHOICES.items():
        column = dataset.train.truth[name].reshape(-1, objects)
        for k in range(objects):
            counts = torch.bincount(column[:, k], minlength=values)
            assert (counts - 3000 / values).abs().max() < 5 * (3000 / values) ** 0.5
        if objects == 2:
            assert ((column[:, 0] == column[:, 1]).double().mean() - 1 / values).abs() < 0.04


def test_captions_say_the_truth(dataset):
    split = dataset.test
    for i in range(40):
        (s, t), (c, d) = (split.truth[name][i].tolist() for name in ("shape", "colour"))
        names = list(COLOURS)
        relation = RELATIONS[int(split.truth["relation"][i])]
        assert split.captions[i] == f"a {names[c]} {SHAPES[s]} {relation} a {names[d]} {SHAPES[t]}"


def test_the_caption_leaves_the_rest_open():
    """One caption, all grounds, sides and places of one object: as many images as choices."""
    table = torch.tensor(list(product(range(4), range(3), range(35))))
    truth = every(ground=table[:, 0])
    truth["side"][:, 0], truth["place"][:, 1] = table[:, 1], table[:, 2]
    assert different(scenes.draw(truth)) == len(table)


def test_swapped_captions_are_wrong_distinct_and_near(dataset):
    split = dataset.test
    known = set()
    for row in range(100):
        wrong = scenes.swapped(split, row, count=5)
        assert len(set(wrong)) == 5
        assert split.captions[row] not in wrong
        known.add(len(wrong))
        same = all(split.truth[name][row, 0] == split.truth[name][row, 1] for name in ("shape", "colour"))
        assert same or wrong[0].split(" a ")[-1] in split.captions[row]
    assert known == {5}


def test_larger_images_are_the_same_pixels_repeated(dataset):
    large = scenes.load(size=64, seed=0, **COUNTS)
    assert torch.equal(large.train.images[:, :, ::2, ::2], dataset.train.images)
    assert torch.equal(large.train.images[:, :, 1::2, 1::2], dataset.train.images)


def test_the_seed_fixes_everything(dataset):
    again, other = (scenes.load(size=32, seed=seed, **COUNTS) for seed in (0, 1))
    for name, split in dataset.splits.items():
        assert fingerprint(again.splits[name]) == fingerprint(split) != fingerprint(other.splits[name])


@pytest.mark.parametrize("size", [16, 48, 0])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"data.size must be a multiple of 32, got {size}"):
        scenes.load(size=size, seed=0, **COUNTS)
