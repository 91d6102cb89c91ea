"""A fingerprint changes with every field; orders are fixed by their seed."""

from dataclasses import replace

import pytest
import torch

from tokbench.data.common import check_counts, fingerprint, permutation, subset
from tokbench.interfaces import Split

SPLIT = Split(
    images=torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2),
    captions=("a", "b", "", "ü"),
    labels=torch.tensor([0, 1, 0, 1]),
    groups=torch.arange(4),
)


@pytest.mark.parametrize(
    "change",
    [
        {"images": SPLIT.images + 1},
        {"images": SPLIT.images.reshape(4, 3, 4, 1)},
        {"captions": ("ab", "", "", "ü")},
        {"labels": None},
        {"labels": torch.tensor([0, 1, 1, 1])},
        {"groups": torch.zeros(4, dtype=torch.int64)},
    ],
)
def test_fingerprint_changes_with_every_field(change):
    assert fingerprint(replace(SPLIT, **change)) != fingerprint(SPLIT)


def test_fingerprint_depends_on_values_and_not_on_memory_layout():
    strided = SPLIT.images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert fingerprint(replace(SPLIT, images=strided)) == fingerprint(SPLIT)
    assert len(fingerprint(SPLIT)) == 64


def test_subset_keeps_fields_together_and_in_order():
    part = subset(SPLIT, torch.tensor([3, 0]))
    assert part.captions == ("ü", "a")
    assert part.labels.tolist() == [1, 0]
    assert part.groups.tolist() == [3, 0]
    assert torch.equal(part.images[0], SPLIT.images[3])


def test_permutation_is_complete_and_fixed_by_its_seed():
    assert sorted(permutation(50, seed=1).tolist()) == list(range(50))
    assert permutation(50, seed=1).tolist() == permutation(50, seed=1).tolist() != permutation(50, seed=2).tolist()


def test_counts_below_one_are_refused_by_name():
    check_counts(num_train=1, num_test=None)
    with pytest.raises(ValueError, match=r"data\.num_test must be >= 1, got 0"):
        check_counts(num_train=1, num_test=0)
