"""What the loaders share: a split's fingerprint, parts of a split, a fixed order, a check of counts."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor

from tokbench.interfaces import Split


def fingerprint(split: Split) -> str:
    """SHA-256 (64 hexadecimal digits) over images (shape and bytes), captions, labels, groups and the truth where known."""
    digest = hashlib.sha256()
    truth = [split.truth[name] for name in sorted(split.truth)] if split.truth else []
    for tensor in (split.images, split.labels, split.groups, *truth):
        digest.update(f"{None if tensor is None else tuple(tensor.shape)};".encode())
        if tensor is not None:
            digest.update(tensor.contiguous().numpy().data)
    digest.update(json.dumps(split.captions).encode())
    return digest.hexdigest()


def subset(split: Split, indices: Tensor) -> Split:
    """The images at `indices` (K,) int64, in that order, with their captions, labels, groups and truth."""
    return Split(
        images=split.images[indices],
        captions=tuple(split.captions[i] for i in indices.tolist()),
        labels=None if split.labels is None else split.labels[indices],
        groups=split.groups[indices],
        truth=None if split.truth is None else {name: column[indices] for name, column in split.truth.items()},
    )


def permutation(total: int, *, seed: int) -> Tensor:
    """(total,) int64: the numbers below `total` in an order fixed by `seed`."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))


def check_counts(**counts: int | None) -> None:
    """ValueError unless each named count is at least 1 (None: all there are)."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"data.{name} must be >= 1, got {count}")
