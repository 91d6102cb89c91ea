"""Small networks trained on originals to judge others' images: what they still say of its class.

Their features carry the distance `fd_classifier`, their predictions the class agreement; neither is an Inception score.
Every trained judge is cached under a hash of all that made it, and its weights' sha256 goes into the record.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.interfaces import Split
from tokbench.judges_training import BATCH, LEARNING_RATE, WEIGHT_DECAY, Judge, convolution, fit_judge, kept_or_trained
from tokbench.layers import VERSION as LAYERS_VERSION
from tokbench.layers import ResidualBlock
from tokbench.metrics.features import in_batches
from tokbench.metrics.images import to_float

VERSION = 1
GRID = 16  # pixels are folded into channels until the shorter side is about this
RIDGE = 1e-4  # penalty of the colour classifier


class Classifier(Judge):
    """Logits of uint8 images (B, 3, H, W); 64 pooled features below them.

    Space-to-depth, convolution, two residual blocks with a pooling before each, a mean over places, a linear layer.
    """

    num_features = 64

    def __init__(self, num_classes: int, *, width: int, height: int, image_width: int) -> None:
        super().__init__()
        fold = folding(height, image_width)
        self.body = nn.Sequential(
            nn.PixelUnshuffle(fold),
            *convolution(3 * fold**2, width),
            *(nn.MaxPool2d(2), ResidualBlock(width)),
            *convolution(width, self.num_features),
            *(nn.MaxPool2d(2), ResidualBlock(self.num_features)),
            *(nn.GroupNorm(1, self.num_features), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.head = nn.Linear(self.num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self._pooled(images))

    @torch.no_grad()
    def features(self, images: Tensor, *, batch: int) -> Tensor:
        """(n, 64) float32 of uint8 (n, 3, H, W)."""
        return in_batches(self._pooled, images, batch=batch, device=self.head.weight.device)

    @torch.no_grad()
    def predict(self, images: Tensor, *, batch: int) -> Tensor:
        """(n,) int64 likeliest classes of uint8 (n, 3, H, W)."""
        return in_batches(self, images, batch=batch, device=self.head.weight.device).argmax(dim=1)

    def _pooled(self, images: Tensor) -> Tensor:
        return self.body(to_float(images).contiguous(memory_format=torch.channels_last))


def folding(height: int, width: int) -> int:
    """Largest factor that divides both sides and leaves the shorter at least 16 pixels; 1 where there is none."""
    if min(height, width) < 4:
        raise ValueError(f"image sides must be >= 4 for a classifier, got {height} x {width}")
    return max(f for f in range(1, max(2, min(height, width) // GRID + 1)) if height % f == 0 and width % f == 0)


def train_classifier(
    train: Split,
    validation: Split,
    num_classes: int,
    *,
    width: int,
    steps: int,
    seed: int,
    fingerprint: str,
    cache: Path | None,
    device: str = "cpu",
) -> Classifier:
    """A classifier of the training split in eval mode, from the cache where it has been trained before.

    `fingerprint` names the data in the cache's key. ValueError where a split has no labels or one is out of range.
    """
    _check_labels(train, num_classes, "train")
    _check_labels(validation, num_classes, "validation")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(
            num_classes, width=width, height=train.images.shape[2], image_width=train.images.shape[3]
        )
    classifier.to(device).to(memory_format=torch.channels_last)
    versions, recipe = [VERSION, LAYERS_VERSION], [width, steps, seed, BATCH, LEARNING_RATE, WEIGHT_DECAY]
    key = json.dumps([versions, recipe, fingerprint, num_classes, *train.images.shape])

    def fit() -> float:
        _fit(classifier, train, steps=steps, seed=seed)
        return accuracy(classifier.predict(validation.images, batch=BATCH), validation)

    return kept_or_trained(classifier, fit, cache=cache, name="classifier", key=key)


def accuracy(predicted: Tensor, split: Split) -> float:
    """Share in [0, 1] of predictions (n,) that name the split's labels."""
    assert split.labels is not None
    return (predicted == split.labels).double().mean().item()


class ColourClassifier:
    """Multinomial logistic regression on mean and deviation of the colours: what a class owes to colour alone."""

    def __init__(self, train: Split, num_classes: int) -> None:
        """Fit to the training split; ValueError where it has no labels."""
        labels = _check_labels(train, num_classes, "train")
        features = colour_features(train.images)
        self.mean, self.std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
        self.weights = torch.zeros(7, num_classes, dtype=torch.float64, requires_grad=True)
        inputs = self._inputs(features)
        optimizer = torch.optim.LBFGS([self.weights], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(inputs @ self.weights, labels) + RIDGE * self.weights[:-1].square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        self.weights.requires_grad_(False)

    def predict(self, images: Tensor) -> Tensor:
        """(n,) int64 likeliest classes of uint8 (n, 3, H, W)."""
        return (self._inputs(colour_features(images)) @ self.weights).argmax(dim=1)

    def accuracy(self, split: Split) -> float:
        """Share in [0, 1] of the split's images whose class is predicted."""
        _check_labels(split, self.weights.shape[1], "split")
        return accuracy(self.predict(split.images), split)

    def _inputs(self, features: Tensor) -> Tensor:
        standardised = (features - self.mean) / self.std
        return torch.cat((standardised, torch.ones_like(standardised[:, :1])), dim=1)


def colour_features(images: Tensor) -> Tensor:
    """(n, 6) float64 mean and deviation of each colour over the pixels of uint8 (n, 3, H, W), levels 0 to 255."""

    def moments(part: Tensor) -> Tensor:
        pixels = part.double().flatten(2)
        return torch.cat((pixels.mean(dim=2), pixels.std(dim=2, correction=0)), dim=1)

    return in_batches(moments, images, batch=1024)


def _check_labels(split: Split, num_classes: int, name: str) -> Tensor:
    if split.labels is None:
        raise ValueError(
            f"{name} must have labels to train or test a classifier, got None: this dataset has no classes"
        )
    if split.labels.min() < 0 or split.labels.max() >= num_classes:
        raise ValueError(
            f"{name} labels must be in [0, {num_classes}), got {int(split.labels.min())} to {int(split.labels.max())}"
        )
    return split.labels


def _fit(classifier: Classifier, train: Split, *, steps: int, seed: int) -> None:
    device = classifier.head.weight.device
    assert train.labels is not None
    images, labels = train.images.to(device), train.labels.to(device)

    def loss(rows: Tensor) -> Tensor:
        return F.cross_entropy(classifier(images[rows]), labels[rows])

    fit_judge(classifier, loss, len(train), steps=steps, seed=seed, device=device)
