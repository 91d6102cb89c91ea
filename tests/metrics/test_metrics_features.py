import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from torchmetrics.image.kid import poly_mmd

from tokbench.metrics import features
from tokbench.metrics.features import RandomFeatures, frechet_distance, kid, nearest_distance, sliced_wasserstein
from tokbench.metrics.images import to_float, to_uint8


def normal(count: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(9))
    return torch.randn(count, dim, generator=generator) @ mix + shift


def images(count: int, seed: int, side: int = 16) -> torch.Tensor:
    noise = torch.rand(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return to_uint8(torch.nn.functional.interpolate(noise, size=(side, side), mode="bilinear"))


def noisy(clean: torch.Tensor, amount: float) -> torch.Tensor:
    return to_uint8(to_float(clean) + amount * torch.randn(clean.shape, generator=torch.Generator().manual_seed(5)))


def test_frechet_distance_agrees_with_scipys_matrix_root():
    x, y = normal(200, 12, 0).double().numpy(), normal(300, 12, 1, shift=0.5).double().numpy()
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    root = linalg.sqrtm(cov_x @ cov_y).real
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(cov_x + cov_y - 2 * root)
    assert frechet_distance(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_a_set_to_itself_is_zero_even_with_dead_features():
    x = normal(200, 64, 0)
    x[:, 32:] = 0
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_is_symmetric_and_sees_a_shift_as_its_square():
    x, y = normal(200, 8, 0), normal(200, 8, 1)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))
    assert frechet_distance(x, x + 0.5) == pytest.approx(8 * 0.25, rel=1e-4)


def test_frechet_distance_refuses_fewer_images_than_features():
    with pytest.raises(ValueError, match="more images"):
        frechet_distance(normal(64, 64, 0), normal(500, 64, 1))


def test_kid_agrees_with_torchmetrics_on_sets_of_one_size(monkeypatch):
    monkeypatch.setattr(features, "KERNEL_TILE", 7)
    x, y = normal(50, 6, 0).double(), normal(50, 6, 1, shift=0.3).double()
    assert kid(x, y) == pytest.approx(poly_mmd(x, y, degree=3, gamma=None, coef=1.0).item(), rel=1e-9)


def test_kid_is_unbiased_between_draws_of_one_distribution_and_takes_two_sizes():
    values = [kid(normal(30, 4, seed) / 4, normal(40, 4, seed + 500) / 4) for seed in range(200)]
    assert abs(np.mean(values)) < 3 * stats.sem(values)
    assert kid(normal(30, 4, 0) / 4, normal(40, 4, 1) / 4 + 1) > max(values)


def test_sliced_wasserstein_is_exact_along_its_directions():
    """Against scipy's one-dimensional Wasserstein-1, which equals Wasserstein-2 for a pure shift."""
    x, y = normal(12, 1, 0).double(), normal(18, 1, 1).double()
    repeated = np.sort(np.repeat(x[:, 0], 3)), np.sort(np.repeat(y[:, 0], 2))
    expected = np.square(repeated[0] - repeated[1]).mean()
    assert features._wasserstein_squared(x, y).item() == pytest.approx(expected, rel=1e-9)
    shifted = features._wasserstein_squared(x, x + 0.25).sqrt().item()
    assert shifted == pytest.approx(stats.wasserstein_distance(x[:, 0], x[:, 0] + 0.25), rel=1e-9)


def test_sliced_wasserstein_is_zero_for_a_set_in_another_order_and_depends_on_its_seed_alone():
    x, y = images(20, 0), images(30, 1)
    assert sliced_wasserstein(x, x.flip(0), projections=16, seed=0) == pytest.approx(0, abs=1e-6)
    first, again, other = (sliced_wasserstein(x, y, projections=16, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_nearest_distance_agrees_with_a_loop(monkeypatch):
    monkeypatch.setattr(features, "SAMPLE_TILE", 3)
    monkeypatch.setattr(features, "TRAIN_TILE", 4)
    samples, train = images(7, 0), images(10, 1)
    train[6] = samples[2]
    pixels = train.numpy().astype(np.float64)
    expected = [min(math.sqrt(np.square(pixel - sample).mean()) for pixel in pixels) for sample in samples.numpy()]
    found = nearest_distance(samples, train)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[2] == 0


def test_pixel_distances_refuse_floats_and_other_sizes():
    with pytest.raises(ValueError, match="uint8"):
        nearest_distance(to_float(images(2, 0)), images(2, 1))
    with pytest.raises(ValueError, match="one size"):
        sliced_wasserstein(images(2, 0), images(2, 0, side=32), projections=4, seed=0)
    with pytest.raises(ValueError, match="at least one"):
        nearest_distance(images(2, 0), images(2, 0)[:0])


def test_random_features_are_fixed_by_their_seed_and_not_by_the_batch():
    first, again, other = RandomFeatures(0), RandomFeatures(0), RandomFeatures(1)
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert not any(parameter.requires_grad for parameter in first.parameters())
    whole, parts = (first.features(images(10, 0), batch=batch) for batch in (10, 3))
    assert whole.shape == (10, first.num_features)
    torch.testing.assert_close(whole, parts)


def test_random_features_do_not_touch_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    RandomFeatures(0)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random64_grows_with_noise_blur_and_pixelation(seed):
    network, clean = RandomFeatures(seed), images(300, 0, side=32)
    clean = noisy(clean, 0.05)
    reference = network.features(clean, batch=100)
    pooled = [torch.nn.functional.avg_pool2d(to_float(clean), side) for side in (2, 4, 8)]
    for damaged in (
        [noisy(clean, amount) for amount in (0.05, 0.1, 0.2)],
        [to_uint8(torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear")) for small in pooled],
        [to_uint8(torch.nn.functional.interpolate(small, size=(32, 32))) for small in pooled],
    ):
        distances = [frechet_distance(reference, network.features(image, batch=100)) for image in damaged]
        assert 0 < distances[0] < distances[1] < distances[2]
