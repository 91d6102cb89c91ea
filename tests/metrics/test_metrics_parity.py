import numpy as np
import pytest

from tokbench.metrics.parity import parity

SIZES = np.repeat(np.geomspace(1e12, 1e15, 5), 3)
OPTIONS = {"resamples": 500, "level": 0.95, "seed": 0}


def system(scale, slope, noise=0.0, seed=0, sizes=SIZES):
    """A system that needs `scale` times the FLOPs for the same metric."""
    jitter = np.random.default_rng(seed).normal(size=len(sizes)) * noise
    return sizes, 100 * (sizes / scale / 1e12) ** slope * np.exp(jitter)


@pytest.mark.parametrize("ratio", [0.03, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("slope", [-0.2, 0.1], ids=["a loss", "an accuracy"])
def test_a_known_ratio_is_found_exactly_without_noise(ratio, slope):
    found = parity(*system(ratio, slope), *system(1.0, slope), **OPTIONS)
    assert found.ratio == pytest.approx(ratio, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((ratio, ratio), rel=1e-6)
    assert found.extrapolated == (ratio > 1)


def test_a_quality_that_no_run_of_the_first_reached_is_extrapolated():
    flops, a = (
        np.repeat([1e12, 1e13, 1e14], 4),
        np.repeat([10.0, 2.0, 1.9], 4),
    )  # flattens out: its line falls below all of it
    _, b = system(1.0, -0.36, sizes=flops)
    found = parity(flops, a, flops, b / 11, **OPTIONS)
    assert 1e12 < found.ratio * 1e14 < 1e14
    assert b[-1] / 11 < a.min()
    assert found.extrapolated


def test_of_different_slopes_the_ratio_is_that_at_the_second_systems_largest_flops():
    (flops, a), (_, b) = system(1.0, -0.3), system(1.0, -0.1)
    wanted = 1e12 * (b[-1] / 100) ** (1 / -0.3)
    assert parity(flops, a, flops, b, **OPTIONS).ratio == pytest.approx(wanted / 1e15, rel=1e-9)
    assert parity(flops, b, flops, a, **OPTIONS).ratio == pytest.approx(1e6, rel=1e-6)  # (1e3)^(.3/.1) / 1e3


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(60):
        found = parity(
            *system(0.3, -0.2, 0.05, seed), *system(1.0, -0.2, 0.05, 1000 + seed), **OPTIONS | {"resamples": 200}
        )
        held += found.low <= 0.3 <= found.high
        assert found.low < found.ratio < found.high
    assert held >= 49  # of 60; 57 expected


def test_more_noise_makes_a_wider_interval():
    widths = []
    for noise in (0.01, 0.1):
        found = parity(*system(0.3, -0.2, noise), *system(1.0, -0.2, noise, 1), **OPTIONS)
        widths.append(np.log(found.high / found.low))
    assert 5 * widths[0] < widths[1] < 20 * widths[0]


def test_flat_or_opposite_lines_decide_nothing():
    assert parity(*system(1.0, -0.2), *system(1.0, 0.2), **OPTIONS) is None
    for seed in range(10):
        found = parity(*system(1.0, -0.001, 0.5, seed), *system(1.0, -0.001, 0.5, seed + 10), **OPTIONS)
        assert found is None or found.high > 30 * found.low
    assert parity([1.0, 2.0], [3.0, 3.0], *system(1.0, -0.1), **OPTIONS) is None


def test_what_has_no_logarithm_or_no_line_is_refused():
    with pytest.raises(ValueError, match="first system must be finite and > 0"):
        parity([1.0, 2.0], [1.0, 0.0], *system(1.0, -0.1), **OPTIONS)
    with pytest.raises(ValueError, match="second system must have runs at two FLOPs"):
        parity(*system(1.0, -0.1), [1.0, 1.0], [2.0, 3.0], **OPTIONS)
