"""One image file of any common kind to 8-bit RGB, whole or as one square."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
)  # by content; none of them starts another program, as EPS does
MOST_PIXELS = 100_000_000  # of an image: 300 MB once it is read, by as many threads as there are cores
FAILURES = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)  # what Pillow's readers raise


def read_square(path: Path, *, size: int) -> Tensor:
    """(3, size, size) uint8: shorter side brought to `size` (bicubic, antialiased), then a centre crop, in one step.

    The first frame, upright by its EXIF, transparency over white. ValueError naming the file if it is no image.
    """
    return _read(path, lambda rgb: ImageOps.fit(rgb, (size, size), method=Image.Resampling.BICUBIC))


def read_image(path: Path) -> Tensor:
    """(3, H, W) uint8 of the whole image, otherwise as `read_square`."""
    return _read(path, lambda rgb: rgb)


def _read(path: Path, shaped: Callable[[Image.Image], Image.Image]) -> Tensor:
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:  # a small file can say so and fill the memory
                raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")
            pixels = np.array(shaped(to_rgb(ImageOps.exif_transpose(image))))
    except FAILURES as error:
        reason = "no image" if isinstance(error, Image.UnidentifiedImageError) else " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as one of {', '.join(FORMATS)}: {reason}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits: 16-bit grey by v / 257, transparency over white, the rest by Pillow's own conversion."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} pixels have no known range; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
