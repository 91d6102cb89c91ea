"""Quality at equal bits, its intervals, and BD-rate, on curves whose answer is known."""

import numpy as np
import pytest

from tokbench.metrics.statistics import Resamples
from tokbench.report.equal_bits import Curve, at_equal_bits, bd_rate, front, quality_at, round_targets, stretches

LEVEL = 0.95


def curve(
    shift, *, bits=(100, 200, 300, 400), seeds=3, images=60, noise=0.1, hard=3.0, draw=0, wobble=0.0, clusters=range(60)
):
    """PSNR = bits / 20 + shift, with noise by image (shared by all curves), by seed, and by both."""
    rng = np.random.default_rng(draw)
    rate = np.asarray(bits, float)[:, None, None]
    shared = hard * np.random.default_rng(99).standard_normal(images)
    quality = rate / 20 + shift + shared + noise * rng.standard_normal((len(bits), seeds, images))
    return made(np.broadcast_to(rate + wobble, quality.shape), quality - shared.mean(), clusters)


def made(bits, quality, clusters):
    """A curve of bits and quality (P, S, n) of images."""
    many = len(set(clusters)) > 1
    resamples = Resamples(clusters, resamples=300, seed=0) if many else None
    draws = [
        [resamples.over_seeds(resamples.over_clusters(point)) if many else np.empty(0) for point in table]
        for table in (bits, quality)
    ]
    seeds = bits.mean(axis=2), quality.mean(axis=2)
    return Curve(bits.mean(axis=(1, 2)), quality.mean(axis=(1, 2)), *map(np.stack, draws), *seeds)


def test_the_monotone_cubic_passes_through_points_and_lines_and_does_not_extrapolate():
    bits, quality = np.array([1.0, 2.0, 4.0]), np.array([10.0, 12.0, 16.0])
    assert quality_at(bits, quality, [1.0, 2.0, 3.0, 4.0]) == pytest.approx([10, 12, 14, 16])
    assert np.isnan(quality_at(bits, quality, [0.99, 4.01])).all()
    assert np.isnan(quality_at(bits[::-1], quality[::-1], [2.0])).all()


def test_points_that_buy_nothing_are_left_out():
    """A codebook that collapses: the third has more bits and less quality; the fourth fewer bits than the second."""
    assert front(np.array([1.0, 3.0, 4.0, 2.0]), np.array([10.0, 14.0, 13.0, 11.0])) == [0, 3, 1]
    assert front(np.array([1.0, 1.0]), np.array([10.0, 11.0])) == [1]


def test_the_better_family_leads_by_its_shift_whatever_the_images_are():
    """Images differ by 3 dB, families by .2: paired resamples separate them, their own intervals overlap."""
    curves = {"low": curve(0.0), "high": curve(0.2, bits=(80, 150, 260, 500), draw=1)}
    (found,) = at_equal_bits(curves, [250], level=LEVEL)
    assert list(found) == ["high", "low"]
    assert found["high"].mean - found["low"].mean == pytest.approx(0.2, abs=0.05)
    assert not found["low"].best
    assert 0.1 < found["low"].behind < 0.2
    assert found["high"].best
    assert found["low"].high > found["high"].low


def test_equal_families_are_not_separable():
    (found,) = at_equal_bits({"a": curve(0.0), "b": curve(0.0, draw=1)}, [250], level=LEVEL)
    assert all(one.best for one in found.values())


def test_bits_that_vary_with_the_seed_widen_the_interval():
    steady = curve(0.0, hard=0.0, noise=0.01)
    wobble = np.array([-30.0, 0.0, 30.0])[None, :, None]
    shaky = curve(0.0, hard=0.0, noise=0.01, wobble=wobble)
    (found,) = at_equal_bits({"steady": steady, "shaky": shaky}, [250], level=LEVEL)
    widths = {label: one.high - one.low for label, one in found.items()}
    assert widths["shaky"] > 10 * widths["steady"]


def test_a_family_that_does_not_reach_the_bits_has_no_place():
    curves = {"a": curve(0.0), "short": curve(5.0, bits=(10, 20))}
    found = at_equal_bits(curves, [15, 250, 1000], level=LEVEL)
    assert [list(one) for one in found] == [["short"], ["a"], []]


def test_one_cluster_gives_no_interval():
    (found,) = at_equal_bits(
        {"a": curve(1.0, clusters=[0] * 60), "b": curve(0.0, clusters=[0] * 60)}, [250], level=LEVEL
    )
    assert found["a"].low is None
    assert [one.best for one in found.values()] == [True, False]


def test_where_resamples_fall_out_of_the_range_there_is_no_interval():
    wobble = np.array([-30.0, 0.0, 30.0])[None, :, None]
    (found,) = at_equal_bits({"a": curve(0.0, wobble=wobble)}, [101], level=LEVEL)
    assert found["a"].mean == pytest.approx(5, abs=0.2)
    assert found["a"].low is None


def test_bd_rate_of_a_curve_at_half_the_bits_is_minus_fifty_percent():
    bits, quality = [1.0, 2.0, 4.0, 8.0, 16.0], [20.0, 23.0, 26.0, 29.0, 32.0]
    assert bd_rate((bits, quality), ([b / 2 for b in bits], quality)) == pytest.approx(-50, abs=0.1)
    assert bd_rate((bits, quality), ([b * 1.2 for b in bits], quality)) == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize(
    "test",
    [
        ([1.0, 2.0, 3.0], [20.0, 21.0, 22.0]),  # three points
        ([1.0, 2.0, 3.0, 4.0], [20.0, 21.0, 22.0, 21.5]),  # four, one of which buys nothing
        ([1.0, 2.0, 3.0, 4.0], [40.0, 41.0, 42.0, 43.0]),  # no quality in common
    ],
)
def test_bd_rate_without_points_or_overlap_is_none(test):
    assert bd_rate(([1.0, 2.0, 4.0, 8.0], [20.0, 23.0, 26.0, 29.0]), test) is None


def test_nothing_is_read_between_points_far_apart():
    bits, quality = np.array([1.0, 1.9, 4.0, 6.0]), np.array([10.0, 12.0, 15.0, 16.0])
    assert stretches(bits) == [(1.0, 1.9), (4.0, 6.0)]
    found = quality_at(bits, quality, [0.9, 1.5, 1.9, 3.0, 4.0, 5.0, 6.1])
    assert np.isfinite(found).tolist() == [False, True, True, False, True, True, False]
    assert np.isnan(quality_at(np.array([1.0, 3.0]), np.array([1.0, 2.0]), [1.0, 2.0])).all()


def test_targets_are_round_and_reached_by_two():
    assert round_targets([(0.29, 0.64), (0.3, 0.64)], most=8) == [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6]
    assert round_targets([(0.2, 0.9), (0.3, 1.4), (0.35, 0.7)], most=8) == [0.3, 0.4, 0.5, 0.6, 0.8]
    wide = [(0.04, 0.5), (0.14, 1.7), (0.5, 4.9), (0.3, 0.65), (0.11, 0.4)]
    assert round_targets(wide, most=4) == [
        0.15,
        0.3,
        0.4,
        0.5,
    ]  # 0.3 to 0.5 four hold; of those that three do the lowest
    assert round_targets([(0.2, 0.9)], most=8) == []
    assert round_targets([], most=8) == []
