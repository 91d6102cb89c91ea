import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from tokbench.diffusion import (
    LATEST,
    PREDICTIONS,
    SAMPLERS,
    SCHEDULES,
    add_noise,
    choose,
    ddim_step,
    ddpm_step,
    evaluations,
    flow,
    implied_noise,
    linear,
    posterior,
    process,
    sample,
    shifted,
)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_schedules_keep_variance_fall_and_stay_finite_at_the_end(name):
    alpha, sigma = SCHEDULES[name](torch.linspace(0, 1, 101))
    torch.testing.assert_close(alpha + sigma if name == "flow" else alpha**2 + sigma**2, torch.ones(101))
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
    if schedule is flow and name == "v":
        pytest.skip("refused")
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
        torch.randn(6000, 1, generator=generator),
        schedule=SCHEDULES[schedule],
        prediction=PREDICTIONS["x0"],
        sampler=SAMPLERS[sampler],
        steps=800
        if sampler in ("ddpm", "ddim")
        else 100,  # ancestral sampling is biased towards the mean by O(1 / steps)
        generator=generator,
    )
    assert abs(x.mean().item() - mean) < 0.02
    assert abs(x.std().item() / deviation - 1) < 0.03


MEAN, DEVIATION = 0.7, 0.4


def denoised(schedule):
    """E[x_0 | x_t] of N(MEAN, DEVIATION^2)."""

    def clean(x, time):
        alpha, sigma = (part[:, None] for part in SCHEDULES[schedule](time))
        return MEAN + alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2) * (x - alpha * MEAN)

    return clean


def moved(noise, time, schedule):
    """Where the probability flow takes x_1 = noise by then, exactly."""
    levels = (SCHEDULES[schedule](torch.tensor([t], dtype=torch.float64)) for t in (1.0, time))
    (a, b), (c, d) = ((alpha * MEAN, (alpha**2 * DEVIATION**2 + sigma**2).sqrt()) for alpha, sigma in levels)
    return c + d * (noise - a) / b


def solved(sampler, *, steps, schedule="cosine", calls=None):
    """x_0 of a Gaussian target from five starts, by the sampler with the exact denoiser, and exactly; float64."""
    noise, best = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None], denoised(schedule)

    def clean(x, time):
        if calls is not None:
            calls.append(time[0].item())
        return best(x, time)

    parts = {"schedule": SCHEDULES[schedule], "prediction": PREDICTIONS["x0"], "sampler": SAMPLERS[sampler]}
    found = sample(clean, noise, steps=steps, generator=torch.Generator(), **parts)
    return found, moved(noise, 0.0, schedule)


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("euler", 1), ("heun", 2)], ids=lambda value: str(value))
@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_samplers_converge_to_the_exact_solution_at_their_order(sampler, order, schedule):
    errors = []
    for steps in (40, 80, 160):
        found, exact = solved(sampler, steps=steps, schedule=schedule)
        errors.append((found - exact).abs().max().item())
    ratios = [before / after for before, after in pairwise(errors)]
    assert all(0.88 * 2**order < ratio < 1.15 * 2**order for ratio in ratios), (errors, ratios)


def test_the_multistep_sampler_is_of_second_order_on_its_papers_even_steps_of_log_snr():
    errors, end = [], 0.3
    noise = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    first, last = (math.log(1 / math.tan(t * math.pi / 2)) for t in (LATEST, end))
    for steps in (20, 40, 80):
        rates = torch.linspace(first, last, steps + 1, dtype=torch.float64)
        times = [(2 / math.pi * torch.atan(rate.neg().exp()) / LATEST).expand(5) for rate in rates]
        found = SAMPLERS["dpm_solver_2m"](denoised("cosine"), noise, times, SCHEDULES["cosine"], torch.Generator())
        errors.append((found - moved(noise, end, "cosine")).abs().max().item())
    assert all(3.5 < before / after < 4.5 for before, after in pairwise(errors)), errors


def test_second_order_wins_at_equal_evaluations():
    ddim, heun, multistep = (
        (found - exact).abs().max()
        for found, exact in (solved("ddim", steps=31), solved("heun", steps=16), solved("dpm_solver_2m", steps=31))
    )
    assert max(heun, multistep) < ddim / 2


def test_euler_on_straight_paths_is_ddim_and_elsewhere_is_not():
    found, expected = (solved(name, steps=7, schedule="flow")[0] for name in ("euler", "ddim"))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)  # their grids differ by LATEST
    assert (solved("euler", steps=7)[0] - solved("ddim", steps=7)[0]).abs().max() > 0.01


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_in_one_step_every_sampler_gives_the_first_clean_prediction(sampler):
    found, _ = solved(sampler, steps=1)
    torch.testing.assert_close(found, solved("ddim", steps=1)[0])


def test_three_steps_of_the_multistep_sampler_by_hand():
    """The middle one goes towards x_0 extrapolated in log(alpha / sigma), the others towards x_0."""
    seen = []
    schedule = SCHEDULES["cosine"]
    values = {3: 1.0, 2: -0.5, 1: 2.0}

    def clean(x, time):
        seen.append(x.clone())
        return torch.full_like(x, values[round(time[0].item() / LATEST * 3)])

    start = torch.tensor([[0.3]], dtype=torch.float64)
    sample(
        clean,
        start,
        schedule=schedule,
        prediction=PREDICTIONS["x0"],
        sampler=SAMPLERS["dpm_solver_2m"],
        steps=3,
        generator=torch.Generator(),
    )
    a, s = zip(
        *((float(x) for x in schedule(torch.tensor([LATEST * t / 3], dtype=torch.float64))) for t in (3, 2, 1)),
        strict=True,
    )
    rate = [math.log(a[k] / s[k]) for k in range(3)]
    ratio = (rate[1] - rate[0]) / (rate[2] - rate[1])
    towards = (1 + 1 / (2 * ratio)) * values[2] - values[3] / (2 * ratio)
    x1 = s[1] / s[0] * start.item() - a[1] * math.expm1(rate[0] - rate[1]) * values[3]
    x2 = s[2] / s[1] * x1 - a[2] * math.expm1(rate[1] - rate[2]) * towards
    assert [x.item() for x in seen] == pytest.approx([0.3, x1, x2])


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_evaluations_are_the_calls_that_are_made(sampler, steps):
    calls = []
    solved(sampler, steps=steps, calls=calls)
    assert len(calls) == evaluations(sampler, steps)
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        evaluations(sampler, 0)


def test_an_ancestral_step_has_the_posteriors_moments_and_temperature_scales_its_noise():
    now, then = (SCHEDULES["cosine"](torch.full((20000,), t)) for t in (0.7, 0.4))
    x, x0 = torch.full((20000, 1), 0.8), torch.full((20000, 1), -0.3)
    mean, variance = posterior(x, x0, now, then)
    (alpha, sigma), (alpha_s, sigma_s) = ((float(part[0]) for part in level) for level in (now, then))
    gain = (alpha / alpha_s) * sigma_s**2 / sigma**2  # of a Gaussian x_s given x_0, seen through x_t
    expected = sigma_s**2 * (1 - gain * alpha / alpha_s)
    assert variance[0].item() == pytest.approx(expected, rel=1e-4)
    for temperature in (1.0, 0.5):
        generator = torch.Generator().manual_seed(0)
        drawn = ddpm_step(x, x0, implied_noise(x0, x, now), now, then, generator, temperature=temperature)
        assert abs(drawn.mean().item() - mean[0].item()) < 0.02
        assert drawn.std().item() == pytest.approx(temperature * expected**0.5, rel=0.02)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
@pytest.mark.parametrize("side", [2, 3])
def test_averaging_pixels_of_the_shifted_schedule_gives_the_small_images_noise(schedule, side):
    """The pooling identity: SNR of the averaged image = SNR x s^2, here exact, as averaging is linear."""
    time = torch.tensor([0.05, 0.3, 0.5, 0.9], dtype=torch.float64)
    alpha, sigma = shifted(schedule, scale=1 / side)(time)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    pooling = F.avg_pool2d(torch.eye(side * side, dtype=torch.float64).view(-1, 1, side, side), side).flatten()
    pooled_noise, pooled_ones = pooling.square().sum().sqrt(), pooling.sum()  # deviation of noise, gain of a flat image
    small = schedule(time)
    torch.testing.assert_close((alpha * pooled_ones) / (sigma * pooled_noise), small[0] / small[1])


def test_a_shift_by_one_is_none_and_shifts_compose():
    time = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    cosine = SCHEDULES["cosine"]
    torch.testing.assert_close(shifted(cosine, scale=1.0)(time), cosine(time))
    torch.testing.assert_close(shifted(shifted(cosine, scale=0.5), scale=0.5)(time), shifted(cosine, scale=0.25)(time))
    with pytest.raises(ValueError, match="scale must be > 0, got 0"):
        shifted(cosine, scale=0)


def test_v_is_refused_where_variance_is_not_kept():
    assert process("cosine", "v") == (SCHEDULES["cosine"], PREDICTIONS["v"])
    with pytest.raises(ValueError, match=r"prediction 'v' needs alpha\^2 \+ sigma\^2 = 1"):
        process("flow", "v")


def test_options_are_listed_when_the_name_is_wrong():
    with pytest.raises(ValueError, match="sampler must be one of ddim, ddpm, euler, heun, dpm_solver_2m, got 'plms'"):
        choose(SAMPLERS, "plms", "sampler")
    assert math.isclose(LATEST, 0.995)
