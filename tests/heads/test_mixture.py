"""The mixture and the regression head against scipy, and guidance of a density against its closed form."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from tokbench.heads.mixture import Mixture
from tokbench.heads.regression import Regression

E, D, K = 8, 3, 4


def mixture(*, noise=0.5, dim=D, num_components=K, num_candidates=8, min_sigma=0.05):
    torch.manual_seed(0)
    head = Mixture(
        width=E,
        dim=dim,
        num_components=num_components,
        min_sigma=min_sigma,
        spread=1.0,
        num_candidates=num_candidates,
    )
    torch.nn.init.normal_(head.parameters_of.weight, std=noise)
    return head


def drawn(head, h, **options):
    defaults = {"h_uncond": None, "guidance": 1.0, "temperature": 1.0}
    with torch.no_grad():
        return head.sample(h, **defaults | options, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_scipys_mixture():
    head, h, x = mixture(), torch.randn(5, E), torch.randn(5, D)
    parts = head.components(h)
    logits, mean, sigma = (part.detach().double().numpy() for part in (parts.logits, parts.mean, parts.sigma))
    each = stats.norm.logpdf(x.numpy()[:, None], mean, sigma).sum(-1)
    expected = logsumexp(logits + each, axis=1) - logsumexp(logits, axis=1)
    np.testing.assert_allclose(head.loss(h, x, None).detach().numpy(), -expected, rtol=1e-5)
    assert (sigma > 0.05).all()


def test_no_likelihood_exceeds_that_of_the_floor():
    head = mixture(noise=0.0, min_sigma=0.1)
    head.parameters_of.bias.data[-K * D :] = -50.0
    mean = head.components(torch.zeros(1, E)).mean[:, 0]
    least = head.loss(torch.zeros(1, E), mean, None).item()
    peak = -D * np.log(0.1 * np.sqrt(2 * np.pi))
    assert -peak <= least <= -peak + np.log(K) + 1e-4


def test_components_start_apart_and_as_wide_as_the_tokens():
    parts = mixture(noise=0.0, num_components=500).components(torch.zeros(1, E))
    assert abs(parts.mean.std().item() - 1) < 0.05
    torch.testing.assert_close(parts.sigma, torch.full_like(parts.sigma, 1.05))


def test_temperature_scales_the_deviation_within_a_component():
    head, h = mixture(num_components=1), torch.randn(1, E)
    parts = head.components(h)
    x = drawn(head, h.expand(20000, -1), temperature=0.5)
    torch.testing.assert_close(x.mean(0), parts.mean[0, 0], atol=0.03, rtol=0)
    torch.testing.assert_close(x.std(0), 0.5 * parts.sigma[0, 0], atol=0, rtol=0.03)


def test_guidance_draws_from_the_product_of_powers():
    """Of two Gaussians N(a, s), N(b, t): precision g / s^2 + (1 - g) / t^2, and the mean that goes with it."""
    torch.manual_seed(1)
    head, (h, other), g = mixture(noise=0.2, dim=1, num_components=1, num_candidates=200), torch.randn(2, 1, E), 1.7
    (a, s), (b, t) = ((p.mean.item(), p.sigma.item()) for p in (head.components(x) for x in (h, other)))
    precision = g / s**2 + (1 - g) / t**2
    assert precision > 0
    x = drawn(head, h.expand(6000, -1), h_uncond=other.expand(6000, -1), guidance=g)
    centre = (g * a / s**2 + (1 - g) * b / t**2) / precision
    assert abs(x.mean().item() - centre) < 0.06
    assert abs(x.std().item() * precision**0.5 - 1) < 0.06
    assert abs(centre - a) > 0.15


def test_guidance_of_the_regression_moves_the_mean_alone():
    torch.manual_seed(0)
    head, (h, other) = Regression(width=E, dim=D), torch.randn(2, 1, E)
    torch.nn.init.normal_(head.mean.weight)
    head.log_sigma.data = torch.tensor([-1.0, 0.0, 0.5])
    x = drawn(head, h.expand(20000, -1), h_uncond=other.expand(20000, -1), guidance=3.0)
    a, b = head.mean(h)[0], head.mean(other)[0]
    torch.testing.assert_close(x.mean(0), b + 3 * (a - b), atol=0.05, rtol=0)
    torch.testing.assert_close(x.std(0), head.log_sigma.exp(), atol=0, rtol=0.03)


def test_the_regression_is_least_squares_with_the_residuals_own_deviation():
    torch.manual_seed(0)
    head, h = Regression(width=2, dim=1), torch.eye(2).repeat(200, 1)
    x = torch.where(torch.rand(400, 1) < 0.5, -1.0, 1.0) + 0.1 * torch.randn(400, 1)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100)

    def closure():
        optimizer.zero_grad()
        loss = head.loss(h, x, None).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = x.view(200, 2).mean(0)
    torch.testing.assert_close(head.mean(torch.eye(2))[:, 0], expected, atol=1e-3, rtol=0)
    residual = (x.view(200, 2) - expected).square().mean().sqrt()
    torch.testing.assert_close(head.log_sigma.exp()[0], residual, atol=1e-3, rtol=0)


@pytest.mark.parametrize("wrong", [{"num_components": 0}, {"num_candidates": 0}, {"min_sigma": 0.0}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="num_components and num_candidates must be >= 1 and min_sigma > 0, got"):
        mixture(**wrong)
