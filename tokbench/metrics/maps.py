"""What is lost where: power by spatial frequency, and the entropy of tokens by their place. Arrays beside records, never ranked.

n images, H and W sides, N tokens an image, K stages or groups, b octave bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, log2

import torch
from torch import Tensor

from tokbench.metrics.codes import plugin_entropy_bits

TILE = 500  # images at a time


def octave_bands(height: int, width: int) -> tuple[Tensor, Tensor]:
    """(b,) float64 lower ends in cycles a pixel, ascending, and (H, W) int64 band of each coefficient of `torch.fft.fft2`.

    The first band is the mean alone (0); the others end where the next begins, at 1/4, 1/2, and at the corner's 0.71.
    """
    rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64) for size in (height, width))
    radius = torch.hypot(rows[:, None], columns[None])
    octave = torch.where(radius > 0, radius.log2().floor(), -torch.inf)
    found, band = octave.unique(return_inverse=True)
    return torch.where(found > -torch.inf, 2.0**found, 0.0), band


def band_power(images: Tensor) -> Tensor:
    """(b,) float64 power of (n, 3, H, W) images a coefficient: mean of |DFT|^2 / (H W) over a band, the images and colours.

    White noise of variance s^2 gives s^2 in every band; weighted by the share of the coefficients in each, the bands sum to
    the mean square of the images. Borders are not windowed.
    """
    ends, band = octave_bands(*images.shape[-2:])
    total = torch.zeros(images.shape[-2:], dtype=torch.float64)
    for part in images.split(TILE):
        total += torch.fft.fft2(part.float()).abs().double().square().sum(dim=(0, 1)).cpu()
    total /= images.shape[:2].numel() * band.numel()
    sums = torch.zeros(len(ends), dtype=torch.float64).index_add(0, band.flatten(), total.flatten())
    return sums / torch.bincount(band.flatten(), minlength=len(ends))


def entropy_by_place(indices: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """(N,) float64 bits: entropy over images of the code at each place of indices (n, N) or (n, N, K), summed over stages.

    Plug-in + Miller-Madow, at most log2 V a stage.
    """
    stages = indices.reshape(*indices.shape[:2], len(codebook_sizes))
    bits = torch.zeros(indices.shape[1], dtype=torch.float64)
    for place, of_place in enumerate(stages.unbind(1)):
        for column, size in zip(of_place.unbind(1), codebook_sizes, strict=True):
            counts = column.unique(return_counts=True)[1]
            corrected = plugin_entropy_bits(counts) + (len(counts) - 1) / (2 * log(2) * len(column))
            bits[place] += min(corrected, log2(size))
    return bits
