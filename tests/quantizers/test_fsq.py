import itertools
import math

import pytest
import torch

from tokbench.quantizers.fsq import FiniteScalarQuantizer


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [2, 3], [4, 4, 4], [7, 5]])
def test_every_code_is_reached_and_round_trips(levels: list[int]) -> None:
    quantizer = FiniteScalarQuantizer(levels)
    grid = torch.linspace(-8, 8, 401)[:, None].expand(-1, len(levels))
    for channel, level in enumerate(levels):
        codes = quantizer(grid[None]).z_q[0, :, channel].unique()
        half = level // 2
        assert codes.tolist() == pytest.approx([(k - half) / half for k in range(level)])
    indices = torch.arange(math.prod(levels))[None]
    codes = quantizer.indices_to_codes(indices)
    assert codes[0].unique(dim=0).shape[0] == math.prod(levels)


def test_index_takes_dimension_zero_as_least_significant() -> None:
    quantizer = FiniteScalarQuantizer([4, 3])
    digits = [(b, a) for a, b in itertools.product(range(3), range(4))]
    expected = [((a - 2) / 2, float(b - 1)) for a, b in digits]
    assert [tuple(row) for row in quantizer.indices_to_codes(torch.arange(12)).tolist()] == expected


def test_bound_is_the_papers_formula() -> None:
    levels, z = [8, 5], torch.randn(100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for channel, level in enumerate(levels):
        half = (level - 1) * (1 - 1e-3) / 2
        offset = 0.0 if level % 2 else 0.5
        expected = torch.tanh(z[:, channel] + math.tan(offset / half)) * half - offset
        torch.testing.assert_close(
            FiniteScalarQuantizer(levels).bound(z)[:, channel].double(), expected, atol=1e-5, rtol=1e-5
        )


def test_gradient_is_that_of_the_bound() -> None:
    quantizer = FiniteScalarQuantizer([5, 5])
    z = torch.randn(1, 20, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantizer(z).z_q.sum().backward()
    half = 4 * (1 - 1e-3) / 2
    torch.testing.assert_close(z.grad, half * (1 - torch.tanh(z.detach()) ** 2) / 2)


def test_zero_is_a_code_of_odd_levels() -> None:
    assert FiniteScalarQuantizer([5, 5])(torch.zeros(1, 1, 2)).z_q.tolist() == [[[0.0, 0.0]]]


@pytest.mark.parametrize("levels", [[8, 1, 5], [], [1001], [1000] * 7])
def test_refuses_levels(levels: list[int]) -> None:
    with pytest.raises(ValueError, match="levels must"):
        FiniteScalarQuantizer(levels)
