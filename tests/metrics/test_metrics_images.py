import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tokbench.metrics.images import PSNR_CAP, TILE, psnr, ssim, to_float, to_uint8


def smooth_images(count: int, side: int, seed: int) -> torch.Tensor:
    noise = torch.rand(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic")


def pair(count: int = 4, side: int = 32, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    images = smooth_images(count, side, 0)
    noisy = images + noise * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return to_uint8(images), to_uint8(noisy)


def channels_last(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def test_conversion_clamps_scales_and_rounds():
    values = torch.tensor([-1.5, -1.0, 0.0, 0.999, 1.0, 1.02]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_uint8(values)[0, 0, 0].tolist() == [0, 0, 128, 255, 255, 255]


def test_every_byte_survives_the_way_to_floats_and_back():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    floats = to_float(values)
    assert floats.min() == -1
    assert floats.max() == 1
    assert torch.equal(to_uint8(floats), values)


def test_half_precision_is_converted_as_float32():
    images = smooth_images(2, 16, 3).bfloat16()
    assert torch.equal(to_uint8(images), to_uint8(images.float()))


def test_conversion_refuses_what_has_no_byte():
    with pytest.raises(ValueError, match="finite"):
        to_uint8(torch.full((1, 3, 2, 2), torch.nan))
    with pytest.raises(ValueError, match="floats"):
        to_uint8(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="uint8"):
        to_float(torch.zeros(1, 3, 2, 2))


def test_psnr_agrees_with_scikit_image():
    a, b = pair(TILE + 3)
    expected = [peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=255) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(psnr(a, b), expected, rtol=1e-12)


def test_psnr_of_identical_images_is_the_cap():
    a, _ = pair()
    assert psnr(a, a).tolist() == [PSNR_CAP] * 4


def test_ssim_agrees_with_scikit_image_on_reflected_borders():
    """torchmetrics reflects 5 pixels and counts every place; scikit-image counts the inside of what it is given."""
    a, b = pair(3)
    padded = [np.pad(channels_last(x), ((5, 5), (5, 5), (0, 0)), mode="reflect") for x in (*a, *b)]
    expected = [reference_ssim(x, y) for x, y in zip(padded[:3], padded[3:], strict=True)]
    np.testing.assert_allclose(ssim(a, b), expected, atol=1e-4)


def test_ssim_differs_from_scikit_image_only_by_its_border():
    a, b = pair(3)
    expected = [reference_ssim(channels_last(x), channels_last(y)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ssim(a, b), expected, atol=0.02)


def reference_ssim(x: np.ndarray, y: np.ndarray) -> float:
    weights = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return structural_similarity(x, y, channel_axis=2, data_range=255, **weights)


def test_ssim_of_an_image_with_itself_is_one():
    a, _ = pair()
    flat = torch.full_like(a, 77)
    np.testing.assert_allclose(ssim(a, a), 1, atol=1e-5)
    np.testing.assert_allclose(ssim(flat, flat), 1, atol=1e-3)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_paired_measures_fall_with_noise_and_keep_one_value_an_image(measure):
    values = [measure(*pair(1, noise=noise)) for noise in (0.02, 0.1, 0.4)]
    assert all(value.shape == (1,) and value.dtype == torch.float64 for value in values)
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_paired_measures_refuse_floats_and_other_shapes(measure):
    a, b = pair()
    with pytest.raises(ValueError, match="shape"):
        measure(a, b[:2])
    with pytest.raises(ValueError, match="uint8"):
        measure(to_float(a), to_float(b))
    with pytest.raises(ValueError, match="at least one"):
        measure(a[:0], b[:0])


def test_ssim_refuses_images_smaller_than_its_window():
    a, b = pair(side=8)
    with pytest.raises(ValueError, match="11"):
        ssim(a, b)
