"""A small network trained on the originals of `data=glyphs` that reads others' images, told where each character stands.

It sees one character at a time and knows neither the font size nor the rest of the string, so it cannot guess from context.

M images, L characters of a string, A of the alphabet.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.data.glyphs import ALPHABET
from tokbench.interfaces import Split
from tokbench.judges_training import BATCH, LEARNING_RATE, WEIGHT_DECAY, Judge, convolution, fit_judge, kept_or_trained
from tokbench.metrics.images import to_float

VERSION = 1
CROP = 16  # side in pixels that a character's surroundings are brought to
MARGIN = 1  # pixels around a character's cell
FLAT = 1e-3  # added to the deviation of a crop


class Reader(Judge):
    """Logits (n, A) of square crops (n, 3, CROP, CROP), each brought to mean 0 and deviation 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(*convolution(3, width), *convolution(width, width), nn.MaxPool2d(2)),
            *(*convolution(width, 2 * width), nn.MaxPool2d(2)),
            *(*convolution(2 * width, 4 * width), nn.MaxPool2d(2), nn.Flatten()),
        )
        self.head = nn.Linear(4 * width * (CROP // 8) ** 2, len(ALPHABET))

    def forward(self, crops: Tensor) -> Tensor:
        flat = crops.flatten(1)
        spread = flat.std(dim=1, correction=0)[:, None, None, None] + FLAT
        return self.head(self.body((crops - flat.mean(dim=1)[:, None, None, None]) / spread))

    @torch.no_grad()
    def read(self, images: Tensor, truth: Tensor, *, length: int) -> Tensor:
        """(M, L) int64 places in ALPHABET of uint8 images (M, 3, S, S), whose strings stand in the boxes `truth` (M, 4)."""
        device = self.head.weight.device
        parts = zip(images.split(BATCH), truth.split(BATCH), strict=True)
        found = [self(crops(i.to(device), b.to(device), length=length)).argmax(dim=1).cpu() for i, b in parts]
        return torch.cat(found).unflatten(0, (-1, length))


def crops(images: Tensor, box: Tensor, *, length: int) -> Tensor:
    """(M L, 3, CROP, CROP) in [-1, 1]: around each of the `length` cells of the box (M, 4), bilinear, edges repeated."""
    top, left, height, width = box.float().unbind(1)
    cell = width / length
    half = torch.maximum(height, cell) / 2 + MARGIN  # of the square that is cut out
    steps = (torch.arange(CROP, device=images.device) + 0.5) * 2 / CROP - 1  # of a crop's pixels, in halves
    centres = left[:, None] + (torch.arange(length, device=images.device) + 0.5) * cell[:, None]
    across = centres[:, :, None] + half[:, None, None] * steps
    down = (top + height / 2)[:, None] + half[:, None] * steps
    grid = torch.stack(
        torch.broadcast_tensors(across[:, :, None, :], down[:, None, :, None]), dim=-1
    )  # (M, L, CROP, CROP, 2)
    places = grid * 2 / images.shape[-1] - 1
    cut = F.grid_sample(to_float(images), places.flatten(1, 2), padding_mode="border", align_corners=False)
    return cut.unflatten(2, (length, CROP)).transpose(1, 2).flatten(0, 1)


def train_reader(
    train: Split,
    validation: Split,
    *,
    width: int,
    steps: int,
    seed: int,
    fingerprint: str,
    cache: Path | None,
    device: str = "cpu",
) -> Reader:
    """A reader of the training split in eval mode, from the cache where it has been trained before.

    `fingerprint` names the data in the cache's key; `validation_accuracy` is of single characters.
    """
    assert train.truth is not None
    assert validation.truth is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader(width).to(device)
    images, box, characters = (x.to(device) for x in (train.images, train.truth["box"], train.truth["characters"]))
    length, known = characters.shape[1], validation.truth

    def loss(rows: Tensor) -> Tensor:
        logits = reader(crops(images[rows], box[rows], length=length))
        return F.cross_entropy(logits, characters[rows].flatten())

    def fit() -> float:
        fit_judge(reader, loss, len(train), steps=steps, seed=seed, device=images.device)
        right = reader.read(validation.images, known["box"], length=length) == known["characters"]
        return right.double().mean().item()

    recipe = [VERSION, width, steps, seed, BATCH, LEARNING_RATE, WEIGHT_DECAY]
    key = json.dumps([recipe, fingerprint, *train.images.shape])
    return kept_or_trained(reader, fit, cache=cache, name="reader", key=key)
