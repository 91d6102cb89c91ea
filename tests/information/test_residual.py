"""The discretised logistic is a distribution over 256 levels, and the residual model a code."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import logistic

from tokbench.information.residual import HALF_BIN, UNIFORM, ResidualModel, discretised_logistic

LEVELS = torch.arange(256)


@pytest.mark.parametrize("mean", [-1.3, -1.0, 0.01, 0.7, 1.2])
@pytest.mark.parametrize("log_scale", [-10.0, -7.0, -3.0, 0.0, 3.0])
def test_the_probabilities_of_the_levels_add_to_one(mean: float, log_scale: float) -> None:
    log_p = discretised_logistic(LEVELS, torch.full((256,), mean), torch.full((256,), log_scale))
    assert log_p.isfinite().all()
    assert log_p.double().exp().sum().item() == pytest.approx(1, abs=2e-4)


def test_a_level_has_the_mass_of_its_bin() -> None:
    """Against scipy's logistic distribution."""
    mean, scale = 0.2, 0.1
    levels = torch.tensor([0, 1, 100, 150, 254, 255])
    log_p = discretised_logistic(levels, torch.full((6,), mean), torch.full((6,), math.log(scale)))
    x = levels.numpy() / 127.5 - 1
    upper, lower = logistic.cdf(x + HALF_BIN, mean, scale), logistic.cdf(x - HALF_BIN, mean, scale)
    upper[-1], lower[0] = 1, 0
    assert log_p.exp().numpy() == pytest.approx(upper - lower, rel=1e-3)


def test_the_model_starts_as_the_reconstruction_with_a_scale_a_colour() -> None:
    images = torch.randint(256, (2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    decoded = torch.rand(2, 3, 4, 4) * 2 - 1
    model = ResidualModel()
    model.start(images, decoded)
    mean_error = (images / 127.5 - 1 - decoded).abs().mean(dim=(0, 2, 3))
    log_scale = (mean_error / (2 * math.log(2))).log()[:, None, None].expand_as(decoded)
    p = (1 - UNIFORM) * discretised_logistic(images, decoded, log_scale).exp() + UNIFORM / 256
    expected = -p.log().flatten(1).sum(1)
    assert torch.allclose(model.nats(images, decoded), expected)


def test_a_later_colour_may_use_the_earlier_ones_and_no_other() -> None:
    """Changing blue moves no nats of red and green; changing red moves those of all three."""
    torch.manual_seed(0)
    model = ResidualModel()
    torch.nn.init.normal_(model.body[-1].weight, std=0.5)
    decoded = torch.rand(1, 3, 4, 4) * 2 - 1
    images = torch.randint(256, (1, 3, 4, 4))

    def per_colour(changed: int | None) -> torch.Tensor:
        """(3,) nats of each colour at the first pixel: the total with and without its gradient is not needed."""
        x = images.clone()
        if changed is not None:
            x[0, changed] = (x[0, changed] + 100) % 256
        captured: list[torch.Tensor] = []
        import tokbench.information.residual as module

        original = module.discretised_logistic

        def keep(levels: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
            captured.append(mean)
            return original(levels, mean, log_scale)

        module.discretised_logistic = keep
        try:
            model.nats(x, decoded)
        finally:
            module.discretised_logistic = original
        return captured[0][0].flatten(1).mean(dim=1)

    base = per_colour(None)
    assert torch.equal(per_colour(2), base)
    moved = per_colour(0)
    assert moved[0] == base[0]
    assert moved[1] != base[1]
    assert moved[2] != base[2]
    moved = per_colour(1)
    assert torch.equal(moved[:2], base[:2])
    assert moved[2] != base[2]


def test_a_sure_model_of_its_own_reconstruction_needs_next_to_nothing() -> None:
    """Exactly reconstructed images at the smallest scale: next to no bits an image, and never less than nothing."""
    images = torch.randint(256, (2, 3, 8, 8))
    model = ResidualModel()
    model.start(images, images / 127.5 - 1)
    with torch.no_grad():
        nats = model.nats(images, images / 127.5 - 1)
    assert (nats >= 0).all()
    assert (nats / math.log(2) < 0.1).all()


def test_a_sure_model_that_is_wrong_pays_a_bounded_price() -> None:
    """What it was sure of is black, and the image is white: log2(256 / UNIFORM) bits a sub-pixel and no more."""
    model, black = ResidualModel(), torch.full((1, 3, 4, 4), -1.0)
    model.start(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), black)
    with torch.no_grad():
        nats = model.nats(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8), black)
    assert nats.item() / 48 == pytest.approx(math.log(256 / UNIFORM), rel=1e-4)
