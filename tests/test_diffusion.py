import math

import pytest
import torch

from tokbench.diffusion import (
    LATEST,
    PREDICTIONS,
    SAMPLERS,
    SCHEDULES,
    add_noise,
    choose,
    ddim_step,
    implied_noise,
    linear,
    posterior,
    sample,
)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_schedules_keep_variance_fall_and_stay_finite_at_the_end(schedule):
    alpha, sigma = schedule(torch.linspace(0, 1, 101))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(101))
    assert (alpha.diff() <= 0).all()
    assert alpha[0] == 1
    assert sigma[0] == 0
    assert 0.003 < alpha[-1] < 0.01


def test_the_linear_schedule_is_the_limit_of_ddpms_product():
    n = torch.arange(1, 1001, dtype=torch.float64)
    alpha_bar = (1 - 0.02 * n / 1000).sqrt().cumprod(0)
    for step in (10, 100, 500, 900, 994):
        alpha, _ = linear(torch.tensor([(step + 0.5) / 1000]))  # the midpoint rule's place
        assert abs(alpha.item() / alpha_bar[step - 1].item() - 1) < 2e-3
    log_snr = 2 * (alpha_bar[-1].log() - (1 - alpha_bar[-1] ** 2).sqrt().log())
    assert abs(log_snr + 10.1) < 0.1


@pytest.mark.parametrize("name", list(PREDICTIONS))
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_predictions_invert_to_data_and_noise(name, schedule):
    torch.manual_seed(0)
    x0, eps = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    level = schedule(torch.tensor([0.05, 0.2, 0.5, 0.8, 0.99, 1.0], dtype=torch.float64))
    x = add_noise(x0, eps, level)
    prediction = PREDICTIONS[name]
    clean = prediction.clean(prediction.target(x0, eps, level), x, level)
    torch.testing.assert_close(clean, x0, atol=1e-8, rtol=0)
    torch.testing.assert_close(implied_noise(clean, x, level), eps, atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", list(PREDICTIONS))
@pytest.mark.parametrize("steps", [1, 7])
def test_samplers_recover_a_point_mass(name, steps):
    point = torch.tensor([[1.5, -0.5]])
    prediction, generator = PREDICTIONS[name], torch.Generator().manual_seed(0)
    schedule = SCHEDULES["cosine"]

    def predict(x, time):
        level = schedule(time)
        target = point.expand_as(x)
        return prediction.target(target, implied_noise(target, x, level), level)

    for sampler in SAMPLERS.values():
        x = sample(
            predict,
            torch.randn(4, 2, generator=generator),
            schedule=schedule,
            prediction=prediction,
            sampler=sampler,
            steps=steps,
            generator=generator,
        )
        torch.testing.assert_close(x, point.expand(4, 2), atol=1e-3, rtol=0)


def test_ddim_moves_along_the_path_of_its_noise():
    x0, eps = torch.randn(2, 3, 4)
    now, then = (SCHEDULES["cosine"](torch.full((3,), t)) for t in (0.7, 0.3))
    moved = ddim_step(add_noise(x0, eps, now), x0, eps, now, then, torch.Generator())
    torch.testing.assert_close(moved, add_noise(x0, eps, then))


def test_the_posterior_is_ddpms_equation_7():
    beta = torch.linspace(1e-3, 0.3, 8, dtype=torch.float64)
    bar = (1 - beta).cumprod(0)
    for t in range(1, 8):
        now, then = ((bar[k : k + 1].sqrt(), (1 - bar[k : k + 1]).sqrt()) for k in (t, t - 1))
        x, x0 = torch.randn(2, 1, 5, dtype=torch.float64)
        mean, variance = posterior(x, x0, now, then)
        expected = (1 - bar[t - 1]) / (1 - bar[t]) * beta[t]
        centre = (bar[t - 1].sqrt() * beta[t] * x0 + (1 - beta[t]).sqrt() * (1 - bar[t - 1]) * x) / (1 - bar[t])
        torch.testing.assert_close(variance.flatten(), expected[None])
        torch.testing.assert_close(mean, centre)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_the_optimal_denoiser_of_a_gaussian_samples_it(sampler, schedule):
    mean, deviation = 0.7, 0.4
    generator = torch.Generator().manual_seed(0)

    def best(x, time):
        alpha, sigma = (part[:, None] for part in SCHEDULES[schedule](time))
        gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    x = sample(
        best,
        torch.randn(20000, 1, generator=generator),
        schedule=SCHEDULES[schedule],
        prediction=PREDICTIONS["x0"],
        sampler=SAMPLERS[sampler],
        steps=800,  # ancestral sampling is biased towards the mean by O(1 / steps)
        generator=generator,
    )
    assert abs(x.mean().item() - mean) < 0.02
    assert abs(x.std().item() / deviation - 1) < 0.03


def test_options_are_listed_when_the_name_is_wrong():
    with pytest.raises(ValueError, match="sampler must be one of ddim, ddpm, got 'euler'"):
        choose(SAMPLERS, "euler", "sampler")
    assert math.isclose(LATEST, 0.995)
