"""CIFAR-10 (Krizhevsky 2009): 50000 + 10000 photographs of 32 x 32 pixels in ten classes, through torchvision.

Train and test share near duplicates (about 3 % of test).
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.datasets import CIFAR10

from tokbench.data.common import check_counts, permutation, subset
from tokbench.interfaces import Dataset, Split
from tokbench.locks import held

VERSION = 1
NUM_TRAINING, NUM_TEST, SIZE = 50_000, 10_000, 32
HALF = SIZE // 2


def load(
    *, root: str | None, size: int, num_train: int | None, num_validation: int, num_test: int | None, seed: int
) -> Dataset:
    """CIFAR-10, class names as captions; `test` and `generation` are the first `num_test` of the official test set.

    The official training set is permuted by `seed`: its end is `validation`, its start `train`. None: all there are.
    `root` is the folder that holds `cifar-10-batches-py`; None downloads (170 MB, once) to $TOKBENCH_DATA or
    ~/.cache/tokbench. `size` 16: means of 2 x 2 pixels. Every image is its own group.
    """
    check_counts(num_train=num_train, num_validation=num_validation, num_test=num_test)
    if size not in (SIZE, HALF):
        raise ValueError(
            f"data.size must be {SIZE} for cifar10, got {size}; {HALF} is allowed too: means of 2 x 2 pixels"
        )
    if (num_train or 1) + num_validation > NUM_TRAINING:
        raise ValueError(
            f"data.num_train + data.num_validation must be <= {NUM_TRAINING}, got {num_train or 1} + {num_validation}"
        )
    if (num_test or 0) > NUM_TEST:
        raise ValueError(f"data.num_test must be <= {NUM_TEST}, got {num_test}")
    folder = cache() if root is None else Path(root).expanduser()
    with held(folder / CIFAR10.base_folder) if root is None else nullcontext():  # one process downloads
        names, training = read(folder, train=True, download=root is None)
    _, test = read(folder, train=False, download=False)
    kept, rest = permutation(NUM_TRAINING, seed=seed).split([NUM_TRAINING - num_validation, num_validation])
    parts = [
        subset(training, kept[:num_train]),
        subset(training, rest),
        subset(test, torch.arange(NUM_TEST)[:num_test]),
    ]
    if size == HALF:
        parts = [replace(part, images=halved(part.images)) for part in parts]
    return Dataset(
        name="cifar10",
        ranked=True,
        class_names=names,
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        generation=parts[2],
    )


def halved(images: Tensor) -> Tensor:
    """(M, 3, H / 2, W / 2) uint8 means of 2 x 2 pixels of uint8 images (M, 3, H, W), rounded; halves go to the even value."""
    return torch.cat([nn.functional.avg_pool2d(part.float(), 2).round().byte() for part in images.split(5000)])


def cache() -> Path:
    """Where downloads are kept: $TOKBENCH_DATA, or ~/.cache/tokbench."""
    return Path(os.environ.get("TOKBENCH_DATA") or "~/.cache/tokbench").expanduser()


def read(folder: Path, *, train: bool, download: bool) -> tuple[tuple[str, ...], Split]:
    """The class names and the official training or test set in its own order; groups count on from training to test."""
    batches = folder / CIFAR10.base_folder
    if not download and not batches.is_dir():
        raise ValueError(
            f"data.root must be a folder that holds {CIFAR10.base_folder}/, got {folder}: "
            f"unpack {CIFAR10.url} there, or set data.root=null to download it"
        )
    try:
        source = CIFAR10(folder, train=train, download=download)
    except (
        OSError,
        RuntimeError,
    ) as error:  # torchvision: RuntimeError where a checksum differs, URLError (an OSError) without network
        reason = " ".join(str(error).split())
        if download:
            raise ValueError(
                f"data.root=null downloads CIFAR-10 to {folder}, which failed ({reason}): "
                f"set data.root to a folder that holds {CIFAR10.base_folder}/"
            ) from error
        raise ValueError(
            f"data.root: files in {batches} differ from CIFAR-10's by MD5 or are missing ({reason})"
        ) from error
    names, labels = tuple(source.classes), torch.tensor(source.targets)
    split = Split(
        images=torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous(),
        captions=tuple(names[label] for label in source.targets),
        labels=labels,
        groups=torch.arange(len(labels)) + (0 if train else NUM_TRAINING),
    )
    return names, split
