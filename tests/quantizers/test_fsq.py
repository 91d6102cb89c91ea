import itertools
import math

import pytest
import torch

from tokbench.quantizers.fsq import FiniteScalarQuantizer, _say


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


@pytest.mark.parametrize("levels", [[8, 1, 5], [], [1001], [1000] * 7, [8.9, 5]])
def test_refuses_levels(levels: list[int]) -> None:
    with pytest.raises(ValueError, match="levels must"):
        FiniteScalarQuantizer(levels)


@pytest.mark.parametrize("bound", ["tanh", "sigmoid", "sigmoid_1.6"])
@pytest.mark.parametrize("level", [2, 3, 4, 5, 8])
def test_symmetric_levels_are_even_steps_from_minus_one_to_one(level: int, bound: str) -> None:
    quantizer = FiniteScalarQuantizer([level], symmetric=True, bound=bound)
    z = torch.linspace(-9, 9, 2001)[None, :, None]
    codes = quantizer(z).z_q.unique()
    torch.testing.assert_close(codes, torch.linspace(-1, 1, level))
    assert torch.equal(quantizer(-z).z_q.unique(), -codes.flip(0))


def test_symmetric_codes_are_the_papers_formula() -> None:
    z = torch.randn(1, 200, 2, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([8, 5])
    expected = 2 / (levels - 1) * ((levels - 1) * (torch.tanh(z) + 1) / 2 + 0.5).floor() - 1
    torch.testing.assert_close(FiniteScalarQuantizer([8, 5], symmetric=True)(z).z_q, expected)


def test_the_sigmoid_bound_rounds_the_scaled_sigmoid() -> None:
    z = torch.randn(1, 200, 1, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantized = FiniteScalarQuantizer([8], symmetric=True, bound="sigmoid")(z)
    assert torch.equal(quantized.indices, (7 * torch.sigmoid(z[..., 0])).round().long())
    quantized.z_q.sum().backward()
    s = torch.sigmoid(z.detach())
    torch.testing.assert_close(z.grad, 2 * s * (1 - s))


def test_noise_replaces_rounding_in_training_by_one_step_and_leaves_the_indices() -> None:
    quantizer = FiniteScalarQuantizer([5, 4], symmetric=True, noise_dropout=1.0).train()
    z = torch.randn(50, 40, 2, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    noisy, clean = quantizer(z), quantizer.eval()(z)
    assert torch.equal(noisy.indices, clean.indices)
    steps = (noisy.z_q - torch.tanh(z)) * torch.tensor([4, 3]) / 2
    inside = torch.tanh(z).abs() < 0.6  # never clamped
    assert steps.abs().max() <= 0.5 + 1e-5
    assert steps[inside].std().item() == pytest.approx(12**-0.5, rel=0.03)
    assert noisy.z_q.abs().max() <= 1


def test_noise_hits_the_given_share_of_images() -> None:
    quantizer = FiniteScalarQuantizer([5, 4], symmetric=True, noise_dropout=0.25).train()
    z = torch.randn(2000, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    noisy = quantizer(z)
    hit = (quantizer.indices_to_codes(noisy.indices) != noisy.z_q).flatten(1).any(dim=1)
    assert hit.float().mean().item() == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(
    ("wished", "levels"), [(16, [5, 3]), (1024, [8, 5, 5, 5]), (4096, [7, 5, 5, 5, 5]), (65536, [8, 8, 8, 5, 5, 5])]
)
def test_a_codebook_size_takes_the_recommended_levels_and_says_their_product(
    capsys: pytest.CaptureFixture[str], wished: int, levels: list[int]
) -> None:
    _say.cache_clear()
    quantizer = FiniteScalarQuantizer(codebook_size=wished)
    FiniteScalarQuantizer(codebook_size=wished)
    assert quantizer.levels.tolist() == levels
    said = capsys.readouterr().out
    assert said == f"fsq: codebook_size={wished} takes levels {levels}, {math.prod(levels)} codes\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either levels or codebook_size"),
        ({"levels": [5, 5], "codebook_size": 25}, "give either levels or codebook_size"),
        ({"codebook_size": 2**20}, "codebook_size must be near one of 16, .* got 1048576"),
        ({"codebook_size": 0}, "codebook_size must be near one of"),
        ({"levels": [5], "bound": "relu"}, "bound must be one of .* got 'relu'"),
        ({"levels": [5], "bound": "sigmoid"}, "symmetric must be true unless bound is tanh, got bound='sigmoid'"),
        ({"levels": [5], "noise_dropout": 0.5}, "noise_dropout needs symmetric levels"),
        ({"levels": [5], "symmetric": True, "noise_dropout": 2.0}, r"noise_dropout must be in \[0, 1\], got 2.0"),
    ],
)
def test_refuses_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FiniteScalarQuantizer(**options)


@pytest.mark.parametrize("symmetric", [False, True])
def test_codes_that_are_looked_up_are_those_of_the_formula(symmetric):
    quantizer = FiniteScalarQuantizer([8, 5, 4, 3], symmetric=symmetric)
    indices = torch.randint(480, (7, 9))
    assert torch.equal(quantizer.indices_to_codes(indices), quantizer._codes(indices))
    assert FiniteScalarQuantizer([65, 32, 32], symmetric=symmetric).table is None


def test_codes_keep_their_digits_in_a_model_of_fewer():
    """Weights may be cast to bf16; 1 / 500 has no such number, and codes are float32 of the grid whatever the model is."""
    quantizer, indices = FiniteScalarQuantizer([1000, 3]), torch.arange(3000)
    expected = quantizer.indices_to_codes(indices)
    assert torch.equal(quantizer.bfloat16().indices_to_codes(indices), expected)
