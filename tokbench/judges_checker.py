"""A small network trained on the originals of `data=scenes` that says whether an image shows its caption.

It names relation, shapes and colours; an image shows its caption where all of them are the caption's.

M images, A = 5 attributes: the relation, both shapes, both colours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.data.scenes import BASE, CHOICES, TOLD
from tokbench.interfaces import Split
from tokbench.judges_training import BATCH, LEARNING_RATE, WEIGHT_DECAY, Judge, convolution, fit_judge, kept_or_trained
from tokbench.metrics.images import to_float

VERSION = 1
VALUES = [CHOICES[name][0] for name in TOLD for _ in range(CHOICES[name][1])]  # of each attribute


class Checker(Judge):
    """Logits (M, sum of VALUES) of uint8 images (M, 3, S, S), averaged to BASE pixels a side first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(*convolution(3, width), nn.MaxPool2d(2)),
            *(*convolution(width, 2 * width), nn.MaxPool2d(2)),
            *(*convolution(2 * width, 4 * width), nn.MaxPool2d(2), nn.Flatten()),
        )
        self.head = nn.Linear(4 * width * (BASE // 8) ** 2, sum(VALUES))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(F.avg_pool2d(to_float(images), images.shape[-1] // BASE)))

    @torch.no_grad()
    def attributes(self, images: Tensor) -> Tensor:
        """(M, A) int64 likeliest value of each attribute of uint8 images."""
        device = self.head.weight.device
        parts = [self(part.to(device)).split(VALUES, dim=1) for part in images.split(BATCH)]
        return torch.cat([torch.stack([one.argmax(dim=1) for one in part], dim=1).cpu() for part in parts])


def told(truth: Mapping[str, Tensor]) -> Tensor:
    """(M, A) int64: what the captions say."""
    return torch.cat([truth[name].reshape(len(truth[name]), -1) for name in TOLD], dim=1)


def train_checker(
    train: Split,
    validation: Split,
    *,
    width: int,
    steps: int,
    seed: int,
    fingerprint: str,
    cache: Path | None,
    device: str = "cpu",
) -> Checker:
    """A checker of the training split in eval mode, from the cache where it has been trained before.

    `fingerprint` names the data in the cache's key; `validation_accuracy` is of whole captions.
    """
    assert train.truth is not None
    assert validation.truth is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        checker = Checker(width).to(device)
    images, wanted, known = train.images.to(device), told(train.truth).to(device), told(validation.truth)

    def loss(rows: Tensor) -> Tensor:
        logits = checker(images[rows]).split(VALUES, dim=1)
        return sum(
            (F.cross_entropy(one, own) for one, own in zip(logits, wanted[rows].T, strict=True)), wanted.new_zeros(())
        )

    def fit() -> float:
        fit_judge(checker, loss, len(train), steps=steps, seed=seed, device=images.device)
        return (checker.attributes(validation.images) == known).all(dim=1).double().mean().item()

    recipe = [VERSION, width, steps, seed, BATCH, LEARNING_RATE, WEIGHT_DECAY]
    key = json.dumps([recipe, fingerprint, *train.images.shape])
    return kept_or_trained(checker, fit, cache=cache, name="checker", key=key)
