"""Held by every file of conf/quantizer/, from its birth."""

import copy
import math
from pathlib import Path

import pytest
import torch

from tokbench import build
from tokbench.interfaces import Quantizer

NAMES = sorted(path.stem for path in (build.ROOT / "conf" / "quantizer").glob("*.yaml"))
NODES = {name: build.compose([f"quantizer={name}"])["quantizer"] for name in NAMES}
NAMES = [name for name in NAMES if NODES[name] is not None]  # patches: an alias without a quantizer
B, N = 16, 100
NOISY = {"GaussianLatent", "NoisyLatent"}  # add noise to z_q in training, all of it drawn by torch.randn_like
DITHERED = {"FiniteScalarQuantizer"}  # may replace z_q by noise in training: of every second image, say


def latents(dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(B, N, dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=NAMES)
def quantizer(request: pytest.FixtureRequest):
    """Built from its conf, and initialised by one training batch."""
    torch.manual_seed(0)
    made = build.construct(NODES[request.param])
    made.train()(latents(made.dim))
    return made.eval()


def test_there_is_a_conf_for_each_quantizer_module() -> None:
    used = {node["_target_"].split(".")[2] for node in NODES.values() if node}
    helpers = {"nearest", "estimators", "binary", "assignment", "kmeans", "latents", "parts", "ranks", "__init__"}
    assert used == {path.stem for path in Path(build.ROOT, "tokbench", "quantizers").glob("*.py")} - helpers


def test_shapes_dtypes_and_ranges(quantizer) -> None:
    assert isinstance(quantizer, Quantizer)
    z = latents(quantizer.dim, seed=1)
    quantized = quantizer(z)
    assert quantized.z_q.shape == z.shape
    assert quantized.z_q.dtype == z.dtype
    assert set(quantized.losses) <= set(quantizer.loss_weights)
    assert all(loss.ndim == 0 and loss.isfinite() for loss in quantized.losses.values())
    if quantizer.codebook_sizes:
        assert quantized.indices.dtype == torch.int64
        stages = len(quantizer.codebook_sizes)
        assert quantized.indices.shape == ((B, N) if stages == 1 else (B, N, stages))
        assert quantized.indices.min() >= 0
        assert (quantized.indices.view(B, N, stages) < torch.tensor(quantizer.codebook_sizes)).all()
    else:
        assert quantized.indices is None


def test_codes_of_indices_are_z_q_exactly(quantizer) -> None:
    if not quantizer.codebook_sizes:
        with pytest.raises(ValueError, match="discrete"):
            quantizer.indices_to_codes(torch.zeros(1, 1, dtype=torch.int64))
        return
    quantized = quantizer(latents(quantizer.dim, seed=1))
    assert torch.equal(quantizer.indices_to_codes(quantized.indices), quantized.z_q)


def test_tokens_are_quantized_one_by_one(quantizer) -> None:
    z = latents(quantizer.dim, seed=1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantizer(z[:, order]).z_q, quantizer(z).z_q[:, order])


def test_gradient_reaches_z_and_every_parameter(quantizer) -> None:
    z = latents(quantizer.dim, seed=1).requires_grad_()
    quantized = quantizer.train()(z)
    weighted = sum(quantizer.loss_weights[name] * loss for name, loss in quantized.losses.items())
    (((quantized.z_q - 1) ** 2).sum() + weighted).backward()
    assert z.grad is not None
    assert (z.grad.abs().sum(dim=-1) > 0).all()
    for name, parameter in quantizer.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_training_and_evaluation_give_the_same_tokens_without_noise(quantizer, monkeypatch) -> None:
    if type(quantizer).__name__ in NOISY:
        monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    if type(quantizer).__name__ in DITHERED:
        quantizer.noise_dropout = 0.0
    z = latents(quantizer.dim, seed=1)
    evaluated = quantizer(z)
    trained = copy.deepcopy(quantizer).train()(z)
    assert torch.equal(evaluated.z_q, trained.z_q)
    assert evaluated.indices is None or torch.equal(evaluated.indices, trained.indices)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_same_numbers_give_the_same_indices_in_every_dtype(quantizer, dtype: torch.dtype) -> None:
    if not quantizer.codebook_sizes:
        pytest.skip("continuous: no indices")
    z = latents(quantizer.dim, seed=1).to(torch.bfloat16).to(torch.float32 if dtype != torch.float16 else torch.float16)
    assert torch.equal(quantizer(z.to(dtype)).indices, quantizer(z.float()).indices)


def test_indices_do_not_change_under_autocast(quantizer) -> None:
    if not quantizer.codebook_sizes:
        pytest.skip("continuous: no indices")
    z = latents(quantizer.dim, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = quantizer(z).indices
    assert torch.equal(inside, quantizer(z).indices)


def test_factors_multiply_to_the_codebook_sizes(quantizer) -> None:
    factors = getattr(quantizer, "factors", None)
    if factors is not None:
        assert tuple(math.prod(parts) for parts in factors) == quantizer.codebook_sizes


def test_snapping_finds_the_codes_themselves(quantizer) -> None:
    if not hasattr(quantizer, "snap"):
        pytest.skip("one codebook: the nearest of all codes")
    quantized = quantizer(latents(quantizer.dim, seed=1))
    again = quantizer.indices_to_codes(quantizer.snap(quantized.z_q))
    assert again.shape == quantized.z_q.shape
    assert (again - quantized.z_q).square().mean() <= (again - again.roll(1, dims=1)).square().mean()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_latents_that_are_not_finite(quantizer, value: float) -> None:
    if not quantizer.codebook_sizes:
        pytest.skip("continuous: passed on, and the loss stops the training")
    z = latents(quantizer.dim)
    z[3, 5, 0] = value
    with pytest.raises(ValueError, match=f"z must be finite, got NaN or infinity in 1 of {B * N} tokens"):
        quantizer(z)


def test_latents_of_zeros_and_of_one_token_have_codes(quantizer) -> None:
    for z in (torch.zeros(2, 3, quantizer.dim), torch.ones(1, 1, quantizer.dim)):
        z.requires_grad_()
        quantized = quantizer.train()(z)
        sum(quantized.losses.values(), quantized.z_q.sum()).backward()
        assert quantized.z_q.isfinite().all()
        assert z.grad.isfinite().all()


def test_refuses_latents_of_another_shape(quantizer) -> None:
    if not quantizer.codebook_sizes:
        pytest.skip("continuous: any shape")
    with pytest.raises(ValueError, match=r"z must be \(B, N, \d+\), got shape \(2, 3, 99\)"):
        quantizer(torch.zeros(2, 3, 99))


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_state_is_in_the_state_dict(name: str) -> None:
    """What a checkpoint keeps: another one that takes the state after a step goes on as the first does."""
    first, second = build.construct(NODES[name]).train(), build.construct(NODES[name]).train()
    first(latents(first.dim))
    second.load_state_dict(first.state_dict())
    found = []
    for module in (first, second):
        torch.manual_seed(1)
        found.append((module(latents(first.dim, seed=1)).z_q, *module.state_dict().values()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
