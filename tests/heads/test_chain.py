"""Heads that read a token's channels one after another: bins, and the Fourier basis density with its corrected CDF."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from tokbench.heads.bins import Bins
from tokbench.heads.chain import Chain
from tokbench.heads.fourier import FLOOR, Channel, Fourier, autocorrelation, density, distribution, roughness

E = 12


def coefficients(size, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, dtype=torch.complex128, generator=generator)


def test_a_channel_sees_the_channels_before_it_and_no_other():
    torch.manual_seed(0)
    chain, h, x = Chain(width=E, dim=4, num_outputs=5), torch.randn(3, E), torch.randn(3, 4)
    torch.nn.init.normal_(chain.mix[-1].weight)
    before = chain(h, x)
    for place in range(4):
        moved = x.clone()
        moved[:, place] += 1
        same = [
            torch.allclose(a, b, atol=1e-5) for a, b in zip(before.unbind(1), chain(h, moved).unbind(1), strict=True)
        ]
        assert same == [j <= place for j in range(4)]


def test_walking_sees_what_teacher_forcing_sees():
    torch.manual_seed(0)
    chain, (h, other) = Chain(width=E, dim=3, num_outputs=4), torch.randn(2, 5, E)
    seen = []

    def pick(parameters, without):
        seen.append((parameters, without))
        return parameters[:, 0] - parameters[:, 1]

    x = chain.walk(h, other, pick)
    torch.testing.assert_close(torch.stack([p for p, _ in seen], 1), chain(h, x))
    torch.testing.assert_close(torch.stack([w for _, w in seen], 1), chain(other, x))


def test_the_coefficients_are_sus_double_sum():
    a = coefficients(6)
    expected = [sum(a[k] * a[k + n].conj() for k in range(6 - n)) for n in range(6)]
    torch.testing.assert_close(autocorrelation(a), torch.stack(expected))


def test_the_density_is_positive_and_its_two_forms_agree():
    a, x = coefficients(6), torch.linspace(-1, 1, 200, dtype=torch.float64)
    c = autocorrelation(a)
    n = torch.arange(1, 6, dtype=torch.float64)
    series = 0.5 + (c[1:] / c[0] * torch.exp(1j * math.pi * n * x[:, None])).sum(-1).real
    found = density(a.expand(200, -1), x)
    torch.testing.assert_close(found, series)
    assert (found >= 0).all()


@pytest.mark.parametrize("size", [2, 9])
def test_the_corrected_distribution_is_the_densitys_integral(size):
    a = coefficients(size, seed=3)
    c = autocorrelation(a)
    for x in (-1.0, -0.7, 0.1, 0.55, 1.0):
        point = torch.tensor(x, dtype=torch.float64)
        expected, _ = quad(lambda t: density(a, torch.tensor(t, dtype=torch.float64)).item(), -1, x, epsabs=1e-12)
        assert abs(distribution(c, point).item() - expected) < 1e-10


def test_roughness_is_the_integral_of_the_squared_slope():
    a = coefficients(5)

    def slope(t, step=1e-5):
        ends = torch.tensor([t - step, t + step], dtype=torch.float64)
        low, high = density(a.expand(2, -1), ends)
        return (high - low).item() / (2 * step)

    expected, _ = quad(lambda t: slope(t) ** 2, -1, 1, limit=200)
    assert roughness(a).item() == pytest.approx(expected, rel=1e-5)


def test_draws_on_the_line_follow_the_distribution_function():
    a, count = coefficients(7, seed=1).to(torch.complex64), 5000
    channel = Channel(a.expand(count, -1), torch.full((count,), 0.5), torch.full((count,), 0.8))
    y = channel.draw(1, torch.Generator().manual_seed(0))[0].sort().values.double()
    x = ((y - 0.5) / 0.8).tanh()
    expected = (1 - FLOOR) * distribution(autocorrelation(a.to(torch.complex128)), x) + FLOOR * (x + 1) / 2
    assert (expected - (torch.arange(count) + 0.5) / count).abs().max() < 1.8 / math.sqrt(count)


def test_a_zero_of_the_series_costs_no_more_than_the_floor():
    a = torch.tensor([[1.0, 1.0]], dtype=torch.complex64)  # p vanishes at +-1 and at no other place
    channel = Channel(a, torch.zeros(1), torch.ones(1))
    far = channel.log_density(torch.tensor([30.0]))
    assert far.item() == pytest.approx(math.log(FLOOR / 2) + 2 * math.log(2) - 60, abs=1e-3)


def fourier(**options):
    torch.manual_seed(0)
    defaults = {"num_frequencies": 8, "min_sigma": 0.05, "gamma": 0.0, "num_candidates": 150}
    return Fourier(width=E, dim=1, **defaults | options)


def test_it_starts_as_the_logistic_density_of_scale_one_half():
    x, h = torch.linspace(-4, 4, 9)[:, None], torch.zeros(9, E)
    expected = -2 * torch.cosh(x[:, 0]).log() - math.log(2)
    torch.testing.assert_close(fourier(min_sigma=1e-6).loss(h, x, None), -expected, atol=2e-2, rtol=0)


def test_the_regulariser_is_added_in_training_alone():
    head, h, x = fourier(gamma=0.1), torch.randn(4, E), torch.randn(4, 1)
    torch.nn.init.normal_(head.chain.output.weight, std=0.3)
    rough = roughness(head.channel(head.chain(h, x)).a)[:, 0]
    plain = head.eval().loss(h, x, None)
    torch.testing.assert_close(head.train().loss(h, x, None), plain + 0.1 * rough)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_guidance_and_temperature_draw_from_the_power_they_state(temperature):
    head, (h, other), g = fourier(), torch.randn(2, 1, E), 1.5
    torch.nn.init.normal_(head.chain.output.weight, std=0.1)
    grid = torch.linspace(-12, 12, 6001)
    given, empty = (-head.loss(state.expand(6001, -1), grid[:, None], None).detach().double() for state in (h, other))
    mass = ((g * given + (1 - g) * empty) / temperature).softmax(0)
    with torch.no_grad():
        h, other = (state.expand(500, -1) for state in (h, other))
        x = head.sample(
            h, h_uncond=other, guidance=g, temperature=temperature, generator=torch.Generator().manual_seed(0)
        )
    found = torch.searchsorted(x[:, 0].sort().values, grid) / len(x)
    assert (found - mass.cumsum(0)).abs().max() < 1.8 / math.sqrt(500)


def test_bins_know_their_width_and_their_tails():
    head = Bins(width=E, dim=1, num_bins=4, limit=2.0)
    logits = torch.tensor([0.1, 1.0, 2.0, 3.0, 4.0, 0.5]).log()
    head.chain.output.bias.data, p = logits, logits.softmax(0)
    head.chain.output.weight.data.zero_()
    x = torch.tensor([-3.5, -2.0, -0.01, 0.0, 1.99, 2.0, 5.0])
    expected = torch.stack([p[0] * math.exp(-1.5), p[1], p[2], p[3], p[4], p[5], p[5] * math.exp(-3.0)])
    torch.testing.assert_close(head.loss(torch.zeros(7, E), x[:, None], None), -expected.log())
    narrow = Bins(width=E, dim=1, num_bins=64, limit=2.0)
    narrow.chain.output.weight.data.zero_()
    assert narrow.loss(torch.zeros(1, E), torch.zeros(1, 1), None).item() == pytest.approx(math.log(66 / 16))


def test_guidance_of_bins_is_of_logits():
    torch.manual_seed(0)
    head, (h, other) = Bins(width=E, dim=1, num_bins=6, limit=3.0), torch.randn(2, 1, E)
    torch.nn.init.normal_(head.chain.output.weight, std=0.3)
    given, empty = (head.chain(state, torch.zeros(1, 1))[0, 0] for state in (h, other))
    expected = ((empty + 2.5 * (given - empty)) / 0.8).softmax(0)
    x = head.sample(
        h.expand(20000, -1),
        h_uncond=other.expand(20000, -1),
        guidance=2.5,
        temperature=0.8,
        generator=torch.Generator().manual_seed(0),
    )
    found = np.histogram(x.detach().numpy(), [-np.inf, *range(-3, 4), np.inf])[0] / 20000
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=0.015)


def test_two_channels_that_are_one_are_learnt_as_such():
    """x_2 = -x_1 + noise: read independently it would cost the entropy of x_2 again."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    head = Bins(width=16, dim=2, num_bins=32, limit=4.0)
    optimizer = torch.optim.AdamW(head.parameters(), 2e-2)
    for _ in range(120):
        first = torch.randn(128, 1, generator=generator)
        x = torch.cat((first, -first + 0.2 * torch.randn(128, 1, generator=generator)), dim=1)
        loss = head.loss(torch.zeros(128, 16), x, None).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    entropy = math.log(2 * math.pi * math.e) + math.log(0.2)
    independent = math.log(2 * math.pi * math.e) + math.log(1.04**0.5)
    assert loss.item() < entropy + 0.35 < independent


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bins(width=E, dim=1, num_bins=0, limit=1.0), "num_bins must be >= 1 and limit > 0, got 0 and 1.0"),
        (lambda: fourier(num_frequencies=0), "num_frequencies and num_candidates must be >= 1"),
        (lambda: fourier(gamma=-1.0), "gamma >= 0"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
