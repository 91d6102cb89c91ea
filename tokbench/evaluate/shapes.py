"""How a scheme reads images of other shapes than trained on: mosaics of images of one class, so that positions alone are new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import log
from typing import Any

import torch
from torch import Tensor

from tokbench.backbone.positions import as_grid
from tokbench.evaluate.measures import Measures, in_batches, mean_of, measured, missing
from tokbench.evaluate.reference import some
from tokbench.evaluate.tokens import TokenTable, encode_split
from tokbench.generation.tokens import grouped
from tokbench.interfaces import Split, Tokenizer, TokenSpace
from tokbench.metrics.standard_shapes import SHAPES

VERSION = 1


def evaluate_shapes(
    block: str, scheme: Any, tokenizer: Tokenizer, space: TokenSpace, split: Split, *, images: int, batch: int
) -> Measures:
    """Bits an image token and caption bits a byte of `images` mosaics in each of SHAPES; the first is the image alone."""
    measures: Measures = {}
    for rows, columns in SHAPES:
        names = [
            f"{block}/shapes/{name}_{rows}x{columns}" for name in ("image_bits_per_token", "caption_bits_per_byte")
        ]
        if split.labels is None:
            measures |= {name: missing(name, "no classes") for name in names}
            continue
        mosaics = mosaic(split, rows, columns, chosen=some(len(split), images))
        size = max(batch // (rows * columns), 1)
        table = encode_split(tokenizer, mosaics, batch=size, device=space.mean.device)
        with at_shape(scheme, tokenizer.shape(*mosaics.images.shape[-2:])) as there:
            measures |= _likelihoods(names, scheme, there, table, size)
    return measures


def _likelihoods(names: list[str], scheme: Any, space: TokenSpace, table: TokenTable, size: int) -> Measures:
    def captions(part: Tensor) -> Tensor:
        return scheme.caption_nll(table.batch(space, part)).cpu()

    def images(part: Tensor) -> Tensor:
        return scheme.nll(table.batch(space, part)).cpu()

    measures: Measures = {}
    if scheme.likelihood != "exact":
        reason = "no exact likelihood" if space.codebook_sizes else "continuous"
        measures[names[0]] = missing(names[0], reason)
    else:
        nats = in_batches(len(table), size, images, what=names[0])
        measures[names[0]] = mean_of(names[0], nats / log(2) / space.num_tokens)
    num_bytes = int(table.lengths.sum())
    if num_bytes:
        nats = in_batches(len(table), size, captions, what=names[1])
        measures[names[1]] = measured(names[1], nats.sum().item() / log(2) / num_bytes, n=len(table))
    else:
        measures[names[1]] = missing(names[1], "no captions")
    return measures


@contextmanager
def at_shape(scheme: Any, shape: tuple[int, ...]) -> Iterator[TokenSpace]:
    """The scheme reads and generates images of this token shape meanwhile; gives the token space of that shape.

    ValueError where the scheme's patches do not fit into it.
    """
    space, grid = scheme.space, scheme.backbone.grid
    there = replace(space, shape=shape)
    _, places = grouped(there, getattr(scheme, "patch", 1))
    scheme.space, scheme.backbone.grid = there, as_grid(places)
    try:
        yield scheme.space
    finally:
        scheme.space, scheme.backbone.grid = space, grid


def mosaic(split: Split, rows: int, columns: int, *, chosen: Tensor) -> Split:
    """Of each chosen image (K,), itself and the next ones of its class, in order, laid out in rows and columns; its caption."""
    assert split.labels is not None
    parts = torch.stack([_next_of_class(split.labels, int(i), rows * columns) for i in chosen])
    tiles = split.images[parts].unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5)  # (K, 3, rows, H, columns, W)
    captions = tuple(split.captions[i] for i in chosen.tolist())
    return Split(tiles.flatten(4).flatten(2, 3), captions, split.labels[chosen], split.groups[chosen])


def _next_of_class(labels: Tensor, index: int, count: int) -> Tensor:
    """(count,): `index` and those after it with its label, around the end."""
    members = (labels == labels[index]).nonzero()[:, 0]
    start = int((members == index).nonzero())
    return members[(start + torch.arange(count)) % len(members)]
