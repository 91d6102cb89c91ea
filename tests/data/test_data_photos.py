"""Crops of different splits never come near each other; the rest of the contract of the embedded photographs."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_cdt

from tokbench.data import photos
from tokbench.data.common import fingerprint

COUNTS = {"num_train": 240, "num_validation": 61, "num_test": 47, "num_generation": 80}
TILED = ("train", "validation", "generation")


def gap(first: np.ndarray, second: np.ndarray) -> int:
    """Pixels strictly between the two nearest of two sets (H, W) bool, along the longer axis."""
    return int(distance_transform_cdt(~first, metric="chessboard")[second].min()) - 1


@pytest.fixture(scope="module")
def dataset():
    return photos.load(size=32, seed=0, **COUNTS)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_tiles_of_different_splits_are_a_crop_apart_in_every_photograph(size):
    for file in photos.TRAINING:
        height, width = photos.read_photo(file, size=size).shape[1:]
        owned = {}
        for split, tiles in photos.cut(height, width, size=size).items():
            owned[split] = np.zeros((height, width), dtype=bool)
            for top, bottom, left, right in tiles:
                assert 0 <= top <= bottom - size <= height - size
                assert 0 <= left <= right - size <= width - size
                owned[split][top:bottom, left:right] = True
        assert all(gap(owned[a], owned[b]) >= size for a, b in permutations(TILED, 2)), file


@pytest.mark.parametrize("size", [32, 64])
def test_no_pixel_of_a_drawn_crop_is_within_a_crop_of_another_splits(monkeypatch, size):
    y, x = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    atlas = torch.stack([y, x, 0 * y]).byte()  # every pixel says where it comes from
    monkeypatch.setattr(photos, "read_photo", lambda file, *, size: atlas)
    data = photos.load(size=size, num_train=2400, num_validation=600, num_test=4, num_generation=600, seed=0)
    for photo in range(len(photos.TRAINING)):
        owned = {}
        for name in TILED:
            crops = data.splits[name].images[data.splits[name].groups == photo].long()
            rows, columns = crops[:, 0, :, 0], crops[:, 1, 0, :]
            assert torch.equal(crops[:, 0], rows[:, :, None].expand(-1, -1, size))
            assert torch.equal(crops[:, 1], columns[:, None, :].expand(-1, size, -1))
            assert ((rows.diff() == 1).all() and (columns.diff() == 1).all()).item()
            owned[name] = np.zeros((256, 256), dtype=bool)
            owned[name][crops[:, 0].flatten(), crops[:, 1].flatten()] = True
        assert all(gap(owned[a], owned[b]) >= size for a, b in permutations(TILED, 2))


@pytest.mark.parametrize("size", [32, 64])
def test_shapes_and_fields(size):
    data = photos.load(size=size, seed=0, **COUNTS)
    assert not data.ranked
    assert data.class_names == tuple(photos.TRAINING.values())
    for name, split in data.splits.items():
        assert split.images.shape == (COUNTS[f"num_{name}"], 3, size, size)
        assert split.images.dtype == torch.uint8
        assert split.images.is_contiguous()


def test_every_training_photograph_is_in_every_tiled_split_evenly(dataset):
    for name in TILED:
        split = dataset.splits[name]
        counts = Counter(split.labels.tolist())
        assert sorted(counts) == list(range(len(photos.TRAINING)))
        assert max(counts.values()) - min(counts.values()) <= 1
        assert torch.equal(split.labels, split.groups)
        assert split.captions == tuple(dataset.class_names[label] for label in split.labels.tolist())


def test_held_out_photographs_are_of_no_training_class_or_group(dataset):
    assert dataset.test.labels is None
    assert set(dataset.test.captions) == set(photos.HELD_OUT.values())
    assert not set(dataset.test.captions) & set(dataset.class_names)
    assert not set(dataset.test.groups.tolist()) & set(dataset.train.groups.tolist())


def test_the_seed_fixes_the_crops(dataset):
    again, other = photos.load(size=32, seed=0, **COUNTS), photos.load(size=32, seed=1, **COUNTS)
    for name in dataset.splits:
        assert fingerprint(again.splits[name]) == fingerprint(dataset.splits[name])
        assert fingerprint(other.splits[name]) != fingerprint(dataset.splits[name])


def test_another_budget_of_one_split_leaves_the_others_as_they_were(dataset):
    other = photos.load(size=32, seed=0, **{**COUNTS, "num_train": 24})
    for name in ("validation", "test", "generation"):
        assert fingerprint(other.splits[name]) == fingerprint(dataset.splits[name])


def test_a_place_is_drawn_again_only_after_all_the_others():
    rows = torch.arange(5)[:, None]
    counts = Counter(photos.choose(rows, num=12, generator=torch.Generator().manual_seed(0))[:, 0].tolist())
    assert sorted(counts.values()) == [2, 2, 2, 3, 3]


def test_reduction_is_the_mean_of_whole_blocks():
    full, half = photos.read_photo("brick.png", size=64), photos.read_photo("brick.png", size=32)
    assert full.shape == (3, 512, 512)
    blocks = full.numpy().reshape(3, 256, 2, 256, 2).mean(axis=(2, 4))
    assert np.abs(half.numpy() - blocks).max() <= 0.5


def test_a_size_without_room_for_tiles_is_refused():
    with pytest.raises(ValueError, match=r"data\.size must leave room for four tiles .* got 96 for 172 x 448 pixels"):
        photos.load(size=96, seed=0, **COUNTS)


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match=r"data\.num_test must be >= 1, got 0"):
        photos.load(size=32, seed=0, **{**COUNTS, "num_test": 0})


def test_a_photograph_missing_from_the_wheel_is_named():
    with pytest.raises(ValueError, match=r"no_such\.png .*scikit-image"):
        photos.read_photo("no_such.png", size=32)
