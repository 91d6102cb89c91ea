"""The standard measures of images of other shapes than those trained on, part of `standard.STANDARD`."""

from __future__ import annotations

from tokbench.metrics.definition import Direction, group

SHAPES_VERSION = 1
SHAPES = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 16))  # mosaics: rows and columns of images

_MEASURES: tuple[tuple[str, str, str, Direction, str], ...] = (
    ("image_bits_per_token", "image bits/token", "bits/token", None, "mean -log2 p(image tokens | caption) / tokens"),
    ("caption_bits_per_byte", "caption bits/byte", "bits/byte", "down", "-log2 p(caption and its end | image) / bytes"),
)
SHAPED = group(
    "shapes",
    SHAPES_VERSION,
    {
        (f"{name}_{rows}x{columns}", f"{label}, {rows}x{columns}", unit, direction): (
            f"{protocol}; mosaics of {rows} x {columns} images of one class of the generation split under one caption; trained on 1x1"
        )
        for rows, columns in SHAPES
        for name, label, unit, direction, protocol in _MEASURES
    },
)
