"""The strings are where the truth says, in the ink of their font, far enough from what lies below."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from tokbench.data import glyphs, photos
from tokbench.data.common import fingerprint, subset

COUNTS = {"num_train": 300, "num_validation": 60, "num_test": 120}


@pytest.fixture(scope="module", params=[(64, 6), (32, 3)], ids=str)
def dataset(request):
    size, length = request.param
    return glyphs.load(size=size, length=length, seed=0, **COUNTS)


def test_truth_and_captions_agree(dataset):
    side = dataset.train.images.shape[-1]
    for name in ("train", "validation", "test"):
        split = dataset.splits[name]
        assert split.images.shape == (COUNTS[f"num_{name}"], 3, side, side)
        assert split.images.dtype == torch.uint8
        letters = [[glyphs.ALPHABET.index(letter) for letter in caption] for caption in split.captions]
        assert split.truth["characters"].tolist() == letters
        top, left, height, width = split.truth["box"].unbind(1)
        assert min(top.min(), left.min()) >= 0
        assert max((top + height).max(), (left + width).max()) <= side
        for i, font_size in enumerate(split.truth["font_size"].tolist()):
            assert (height[i], width[i] / len(letters[i])) == glyphs.cell(font_size)
    assert dataset.generation is dataset.test


def test_every_choice_occurs_about_as_often(dataset):
    truth = dataset.train.truth
    for column, kinds in (("font_size", 6), ("background", 3), ("characters", 32)):
        counts = truth[column].unique(return_counts=True)[1]
        assert len(counts) == kinds
        expected = truth[column].numel() / kinds
        assert (counts - expected).abs().max() < 5 * expected**0.5


def test_the_ink_is_pillows_own(dataset):
    """Plain images, drawn again by Pillow at the place and in the colours that the image shows."""
    split = dataset.train
    for i in (split.truth["background"] == 0).nonzero()[:12, 0].tolist():
        image = split.images[i].permute(1, 2, 0).numpy().astype(float)
        top, left, height, width = split.truth["box"][i].tolist()
        outside = np.ones(image.shape[:2], dtype=bool)
        outside[top : top + height, left : left + width] = False
        ground = np.unique(image[outside], axis=0)
        assert len(ground) == 1
        size = int(split.truth["font_size"][i])
        drawn = pillow(split.captions[i], size, width // len(split.captions[i]))
        rows = drawn.any(axis=1).nonzero()[0]
        seen = np.abs(image[top : top + height, left : left + width] - ground[0]).max(axis=2)
        first = seen.any(axis=1).nonzero()[0][0]
        part = seen[first : first + len(rows)] / seen.max()
        assert np.abs(part - drawn[rows[0] : rows[-1] + 1] / drawn.max()).max() < 0.02


def pillow(text: str, size: int, pitch: int) -> np.ndarray:
    """(H, W) in [0, 255]: the letters drawn one by one, `pitch` pixels apart."""
    import matplotlib

    path = f"{matplotlib.get_data_path()}/fonts/ttf/{glyphs.FONT}"
    font = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    columns = []
    for letter in text:
        image = Image.new("L", (pitch, 2 * size))
        ImageDraw.Draw(image).text((0, 0), letter, font=font, fill=255)
        columns.append(np.asarray(image).astype(float))
    return np.concatenate(columns, axis=1)


def test_ink_stands_out_from_what_lies_below():
    generator = torch.Generator().manual_seed(0)
    mean = torch.rand(1000, generator=generator) * 255
    colour = glyphs._ink(mean, generator)
    assert ((colour >= 0) & (colour <= 255)).all()
    assert ((colour @ glyphs.LUMINANCE - mean).abs() >= glyphs.CONTRAST - 0.01).all()


def test_no_two_characters_look_alike():
    for size in glyphs.FONT_SIZES:
        flat = glyphs.masks(size).flatten(1)
        distances = torch.cdist(flat, flat) + 9 * torch.eye(len(flat))
        assert distances.min() > 0.4, size
        assert flat.max() > 0.9


def test_photographs_of_the_test_split_are_in_no_other(dataset):
    number = len(photos.TRAINING) + len(photos.HELD_OUT)
    pictured = {
        name: set(split.groups[split.truth["background"] == 2].tolist()) for name, split in dataset.splits.items()
    }
    assert not pictured["test"] & (pictured["train"] | pictured["validation"])
    files = list(photos.TRAINING | photos.HELD_OUT)
    assert {files[i] for i in pictured["train"]} == set(photos.TRAINING) - {"text.png"}
    assert {files[i] for i in pictured["test"]} == set(photos.HELD_OUT) - {"page.png"}
    own = dataset.train.groups[dataset.train.truth["background"] != 2]
    assert len(own.unique()) == len(own)
    assert own.min() >= number


def test_the_seed_fixes_everything_and_no_two_splits_repeat(dataset):
    side, length = dataset.train.images.shape[-1], dataset.train.truth["characters"].shape[1]
    again, other = (glyphs.load(size=side, length=length, seed=seed, **COUNTS) for seed in (0, 1))
    for name in dataset.splits:
        assert fingerprint(again.splits[name]) == fingerprint(dataset.splits[name]) != fingerprint(other.splits[name])
    seen = [
        image.numpy().tobytes() for name in ("train", "validation", "test") for image in dataset.splits[name].images
    ]
    seen += [image.numpy().tobytes() for image in other.validation.images]
    assert len(set(seen)) == len(seen)


def test_truth_is_part_of_the_fingerprint_and_of_a_subset(dataset):
    part = subset(dataset.test, torch.tensor([5, 3]))
    assert torch.equal(part.truth["box"], dataset.test.truth["box"][[5, 3]])
    moved = subset(dataset.test, torch.tensor([5, 3]))
    moved.truth["box"][0, 0] += 1
    assert fingerprint(part) != fingerprint(moved)


def test_entropies_of_text_and_layout():
    text, layout = glyphs.text_bits(size=32, length=3)
    assert text == 15
    places = []
    for size in glyphs.FONT_SIZES:
        height, width = glyphs.cell(size)
        places.append(len(range(0, 32 - height + 1)) * len(range(0, 32 - 3 * width + 1)))
    assert layout == pytest.approx(np.log2(6) + np.mean(np.log2(places)))


@pytest.mark.parametrize(("size", "length", "most"), [(32, 4, 3), (64, 7, 6)])
def test_a_string_that_does_not_fit_is_refused(size, length, most):
    with pytest.raises(ValueError, match=f"data.length must be <= {most} at data.size={size}.*got {length}"):
        glyphs.load(size=size, length=length, seed=0, **COUNTS)
