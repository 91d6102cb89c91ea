"""The rate of a continuous latent is a KL divergence between Gaussians."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from tokbench.information.continuous import GaussianCode


def latents(count: int = 200, tokens: int = 3, dim: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(count, tokens * dim, generator=generator) @ torch.randn(6, 6, generator=generator)
    return mixed.reshape(count, tokens, dim)


@pytest.mark.parametrize("own", [False, True])
def test_the_rate_is_the_divergence_to_a_gaussian_of_the_whole_image(own: bool) -> None:
    z = latents()
    widths = torch.rand(z.shape, generator=torch.Generator().manual_seed(1)) + 0.1 if own else None
    code = GaussianCode(z, widths)
    used = code.width(z) if widths is None else widths
    covariance = code.covariance
    if not own:
        covariance = covariance + torch.diag((2 * code.log_width.double()).exp().repeat(3))
    prior = MultivariateNormal(code.mean, covariance)
    for image in range(3):
        posterior = MultivariateNormal(z[image].double().flatten(), torch.diag(used[image].double().flatten() ** 2))
        expected = kl_divergence(posterior, prior)
        assert code.kl_nats(z[image : image + 1], used[image : image + 1]).item() == pytest.approx(
            expected.item(), rel=1e-6
        )


@pytest.mark.parametrize(("most", "strip"), [(1, 1), (4, 2), (11, 3), (12, 6)])
def test_large_images_are_strips_of_tokens_with_one_prior(
    monkeypatch: pytest.MonkeyPatch, most: int, strip: int
) -> None:
    """Six tokens of two channels: the most that divide them and hold no more latents than allowed, but at least one."""
    monkeypatch.setattr("tokbench.information.continuous.MOST_LATENTS", most)
    z = latents(400).reshape(200, 6, 2)
    code = GaussianCode(z)
    assert code.covariance.shape == (2 * strip, 2 * strip)
    strips = z[0].double().reshape(-1, 2 * strip)
    variance = (2 * code.log_width.double()).exp().repeat(strip)
    prior = MultivariateNormal(code.mean, code.covariance + torch.diag(variance))
    width = code.width(z)
    expected = kl_divergence(MultivariateNormal(strips, torch.diag_embed(variance.expand_as(strips))), prior).sum()
    assert code.kl_nats(z[:1], width[:1]).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_wider_posterior_costs_less_and_the_width_is_fitted() -> None:
    z = latents()
    code = GaussianCode(z)
    narrow = code.kl_nats(z, code.width(z)).mean()
    narrow.backward()
    assert code.log_width.grad is not None
    assert (code.log_width.grad < 0).all()
    assert not GaussianCode(z, torch.ones_like(z)).log_width.requires_grad
