"""Power by octave of frequency, and entropy by place."""

import numpy as np
import pytest
import torch
from scipy import stats

from tokbench.metrics.maps import band_power, entropy_by_place, octave_bands


def test_octaves_begin_at_the_mean_and_end_in_the_corner() -> None:
    ends, band = octave_bands(32, 32)
    assert ends.tolist() == [0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
    assert band.shape == (32, 32)
    assert int((band == 0).sum()) == 1
    for (row, column), expected in {
        (0, 1): 1,
        (1, 1): 1,
        (0, 2): 2,
        (31, 31): 1,
        (0, 15): 4,
        (16, 0): 5,
        (12, 12): 5,
    }.items():
        assert band[row, column] == expected, (row, column)


@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_the_bands_hold_all_the_power_of_the_images(size: tuple[int, int]) -> None:
    """Parseval, on any images."""
    images = torch.randn(7, 3, *size).cumsum(dim=3) * 9
    _, band = octave_bands(*size)
    share = torch.bincount(band.flatten()).double() / band.numel()
    assert float(band_power(images) @ share) == pytest.approx(float(images.double().square().mean()), rel=1e-5)


def test_a_wave_lies_in_its_octave_alone_and_white_noise_in_all_alike() -> None:
    columns = torch.arange(32)
    wave = torch.cos(2 * torch.pi * 5 * columns / 32).expand(1, 3, 32, 32)  # 5/32 cycles a pixel: the third octave
    power = band_power(wave)
    count = int((octave_bands(32, 32)[1] == 3).sum())
    assert power[3].item() == pytest.approx(0.5 * 32**2 / count, rel=1e-5)
    assert float(torch.cat((power[:3], power[4:])).max()) < 1e-8
    noise = 2 * torch.randn(600, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert band_power(noise).tolist() == pytest.approx([4.0] * 6, rel=0.1)


def test_power_is_that_of_a_numpy_loop_and_takes_bytes() -> None:
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    _, band = octave_bands(8, 8)
    square = np.mean(
        [[np.abs(np.fft.fft2(colour)) ** 2 / 64 for colour in image] for image in images.numpy()], axis=(0, 1)
    )
    expected = [square[band.numpy() == k].mean() for k in range(int(band.max()) + 1)]
    assert band_power(images).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stages", [1, 2])
def test_entropy_by_place_is_scipys_with_the_correction(stages: int) -> None:
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(0, 6, (200, 4, stages), generator=generator)
    indices[:, 0] = 3
    shaped = indices[..., 0] if stages == 1 else indices
    bits = entropy_by_place(shaped, (6,) * stages)
    assert bits[0] == 0
    for place in range(1, 4):
        expected = 0.0
        for stage in range(stages):
            _, counts = np.unique(indices[:, place, stage], return_counts=True)
            expected += min(stats.entropy(counts, base=2) + (len(counts) - 1) / (2 * np.log(2) * 200), np.log2(6))
        assert bits[place].item() == pytest.approx(expected)
