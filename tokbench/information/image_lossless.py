"""What lossless image codecs make of the same images: an upper bound on what they hold that anyone can check."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from math import ceil, sqrt

import numpy as np
from PIL import Image, features
from torch import Tensor

VERSION = 1


def png(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as an optimised PNG."""
    return _saved(image, "PNG", optimize=True)


def webp(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as lossless WebP at its slowest."""
    return _saved(image, "WEBP", lossless=True, quality=100, method=6)


def jpeg_xl(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as lossless JPEG XL; ModuleNotFoundError, with the way out, without imagecodecs."""
    try:
        import imagecodecs
    except ModuleNotFoundError:
        raise ModuleNotFoundError("JPEG XL needs imagecodecs: pip install 'tokbench[codecs]'") from None
    return bytes(imagecodecs.jpegxl_encode(image, lossless=True, effort=7, numthreads=1))


CODECS: Mapping[str, Callable[[np.ndarray], bytes]] = {"png": png, "webp": webp, "jpeg_xl": jpeg_xl}


def codec_versions() -> dict[str, str]:
    """Of the libraries behind the codecs that are there."""
    found = {"png": features.version("zlib"), "webp": features.version("webp")}
    try:
        import imagecodecs

        found["jpeg_xl"] = imagecodecs.jpegxl_version()
    except ModuleNotFoundError:
        pass
    return {name: version for name, version in found.items() if version}


def bits_per_subpixel(codec: Callable[[np.ndarray], bytes], images: Tensor, *, tiled: bool) -> float:
    """Of uint8 images (n, 3, H, W): each in a file of its own, headers counted, or all as tiles of one square picture."""
    pixels = images.permute(0, 2, 3, 1).numpy()
    files = [mosaic(pixels)] if tiled else list(pixels)
    return 8 * sum(len(codec(np.ascontiguousarray(file))) for file in files) / images.numel()


def mosaic(pixels: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) images in rows and columns of one picture; places left over repeat the last image."""
    count, height, width, _ = pixels.shape
    columns = ceil(sqrt(count))
    rows = ceil(count / columns)
    filled = np.concatenate([pixels, pixels[-1:].repeat(rows * columns - count, axis=0)])
    grid = filled.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, 3)


def _saved(image: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()
