"""Measures of one image against another, on 8-bit images. B images, H and W sides.

The one conversion between floats and 8 bits is here: clamp, scale, round. Truncating would cost .17 dB at 40 dB, and an
unclamped conversion wraps around.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from tokbench.metrics.definition import PSNR_CAP

VERSION = 1
SSIM_WINDOW = 11  # pixels; Gaussian of sigma 1.5 cut at 3.5 sigma (Wang et al. 2004, doi:10.1109/TIP.2003.819861)
TILE = 64  # images at a time


def to_uint8(images: Tensor) -> Tensor:
    """(B, 3, H, W) floats in [-1, 1] to uint8, clamped and rounded; ValueError where a value is not finite."""
    if not images.is_floating_point():
        raise ValueError(f"images must be floats in [-1, 1], got {images.dtype}")
    if not images.isfinite().all():
        raise ValueError(f"images must be finite, got {int((~images.isfinite()).sum())} values that are not")
    return (images.float().clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]; `to_uint8` gives the same bytes back."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    return images.float() / 127.5 - 1


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """(B,) float64 dB of each pair of uint8 images (B, 3, H, W), at most `PSNR_CAP`."""
    _check_pair(a, b)
    pairs = zip(a.split(TILE), b.split(TILE), strict=True)
    errors = [(x.double() - y.double()).square().flatten(1).mean(dim=1) for x, y in pairs]
    return (10 * torch.log10(255**2 / torch.cat(errors))).clamp_max(PSNR_CAP)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """(B,) float64 (from float32) mean structural similarity of each pair of uint8 images (B, 3, H, W), sides >= 11.

    Gaussian window of sigma 1.5, each colour by itself, range 255; borders are reflected and counted (scikit-image and
    the paper leave out the outer 5 pixels).
    """
    _check_pair(a, b)
    if min(a.shape[2:]) < SSIM_WINDOW:
        raise ValueError(f"image sides must be >= {SSIM_WINDOW} for SSIM, got {tuple(a.shape[2:])}")
    pairs = zip(a.split(TILE), b.split(TILE), strict=True)
    return torch.cat([_ssim(x, y) for x, y in pairs]).double()


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    a, b = (
        x.contiguous(memory_format=torch.channels_last).float() / 255 for x in (a, b)
    )  # three times faster on a CPU
    values = structural_similarity_index_measure(a, b, sigma=1.5, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return values.reshape(-1)  # torchmetrics drops the axis of a single image


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"a and b must have one shape (B, 3, H, W), got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.dtype != torch.uint8 or b.dtype != torch.uint8:
        raise ValueError(f"a and b must be uint8, got {a.dtype} and {b.dtype}")
    if not len(a):
        raise ValueError("a and b must hold at least one image, got 0")
