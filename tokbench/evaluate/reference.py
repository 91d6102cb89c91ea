"""The originals as the judges see them, computed once a dataset, and the baseline rows that need no tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from pydantic import JsonValue
from torch import Tensor

from tokbench.interfaces import Dataset, Split
from tokbench.judges import Classifier, ColourClassifier
from tokbench.judges_checker import Checker
from tokbench.judges_reader import Reader
from tokbench.metrics.features import RandomFeatures
from tokbench.metrics.standard import RANDOM_SEED

VERSION = 1
BATCH = 500


class Features(Protocol):
    """(n, 3, H, W) uint8 to (n, num_features)."""

    num_features: int

    @property
    def weights_sha256(self) -> str: ...

    def features(self, images: Tensor, *, batch: int) -> Tensor: ...


class _Call:
    def __init__(self, network: Features) -> None:
        self.network, self.num_features = network, network.num_features

    def __call__(self, images: Tensor) -> Tensor:
        return self.network.features(images, batch=BATCH).cpu()


@dataclass
class Reference:
    """A dataset with its judges; features of its own splits are kept."""

    dataset: Dataset
    classifier: Classifier | None  # None where the set has no classes
    colour: ColourClassifier | None
    reader: Reader | None = None  # of sets whose images show known strings
    checker: Checker | None = None  # of sets whose images show known scenes
    _kept: dict[tuple[str, str, int], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._networks = {"fd_random64": _Call(RandomFeatures(RANDOM_SEED))}
        if self.classifier is not None:
            self._networks["fd_classifier"] = _Call(self.classifier)

    def features(self, name: str) -> _Call | None:
        """The feature function behind a distance; None where the set has no classes to train it on."""
        return self._networks.get(name)

    def judges(self) -> dict[str, JsonValue]:
        """sha256 of the weights behind each distance, and how good the classifier is, for the record."""
        found: dict[str, JsonValue] = {
            f"{name}_weights_sha256": call.network.weights_sha256 for name, call in self._networks.items()
        }
        if self.classifier is not None:
            found["classifier_validation_accuracy"] = round(self.classifier.validation_accuracy, 4)
        if self.reader is not None:
            found["reader_weights_sha256"] = self.reader.weights_sha256
            found["reader_validation_accuracy"] = round(self.reader.validation_accuracy, 4)
        if self.checker is not None:
            found["checker_weights_sha256"] = self.checker.weights_sha256
            found["checker_validation_accuracy"] = round(self.checker.validation_accuracy, 4)
        return found

    def read(self, images: Tensor) -> Tensor:
        """(M, L) bool: which characters of the test split's strings are read right from `images` (M, 3, H, W) uint8."""
        truth = self.dataset.test.truth
        assert self.reader is not None
        assert truth is not None
        return self.reader.read(images, truth["box"], length=truth["characters"].shape[1]) == truth["characters"]

    @cached_property
    def read_originals(self) -> Tensor:
        """(M, L) bool: which are read right from the originals."""
        return self.read(self.dataset.test.images)

    def known(self, name: str, split: str, n: int | None = None) -> Tensor:
        """(n, d) features of the originals of a split; `n` limits it to `some` of them."""
        images = self.dataset.splits[split].images
        key = (name, split, len(images) if n is None else n)
        if key not in self._kept:
            function = self.features(name)
            assert function is not None
            self._kept[key] = function(images if n is None else images[some(len(images), n)])
        return self._kept[key]


def some(total: int, n: int) -> Tensor:
    """min(n, total) distinct rows of range(total), always the same."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:n]


def mean_colour(split: Split) -> Tensor:
    """(M, 3, H, W) uint8: each image replaced by its mean colour."""
    flat = split.images.float().mean(dim=(2, 3), keepdim=True).round().to(torch.uint8)
    return flat.expand_as(split.images).contiguous()
