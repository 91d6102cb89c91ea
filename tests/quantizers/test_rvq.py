import pytest
import torch

from tokbench.quantizers.fsq import FiniteScalarQuantizer
from tokbench.quantizers.lfq import LookupFreeQuantizer
from tokbench.quantizers.nearest import nearest_code
from tokbench.quantizers.rvq import ResidualQuantizer
from tokbench.quantizers.simvq import SimVQ
from tokbench.quantizers.vq import VectorQuantizer


def stage() -> VectorQuantizer:
    quantizer = VectorQuantizer(dim=4, codebook_size=16, beta=0.25, estimator="straight_through")
    torch.nn.init.normal_(quantizer.codebook)
    return quantizer


def make(num_stages: int = 3, dropout: float = 0.0, estimator: str = "straight_through") -> ResidualQuantizer:
    torch.manual_seed(0)
    return ResidualQuantizer(stage=stage, num_stages=num_stages, estimator=estimator, dropout=dropout)


def latents() -> torch.Tensor:
    return torch.randn(8, 50, 4, generator=torch.Generator().manual_seed(1))


def test_each_stage_quantizes_what_the_others_left() -> None:
    quantizer, residual = make(), latents()
    quantized, total = quantizer(residual), torch.zeros_like(residual)
    for place, part in enumerate(quantizer.stages):
        indices = nearest_code(residual, part.codebook)
        assert torch.equal(quantized.indices[..., place], indices)
        total, residual = total + part.codebook[indices], residual - part.codebook[indices]
    assert torch.equal(quantized.z_q, total)


def test_losses_are_sums_over_stages_of_their_residuals() -> None:
    quantizer, residual, expected = make(), latents(), 0.0
    losses = quantizer(residual).losses
    for part in quantizer.stages:
        code = part.codebook[nearest_code(residual, part.codebook)]
        expected, residual = expected + (residual - code).square().mean(), residual - code
    torch.testing.assert_close(losses["commitment"], expected)


@pytest.mark.parametrize("num_stages", [1, 3])
def test_the_gradient_of_the_output_does_not_grow_with_the_stages(num_stages: int) -> None:
    z = latents().requires_grad_()
    grad = torch.randn(z.shape, generator=torch.Generator().manual_seed(2))
    make(num_stages)(z).z_q.backward(grad)
    assert torch.equal(z.grad, grad)


def test_rotation_turns_z_onto_the_sum() -> None:
    z = latents().requires_grad_()
    quantized = make(estimator="rotation")(z)
    quantized.z_q.backward(quantized.z_q.detach())
    ratio = z.grad.norm(dim=-1) / quantized.z_q.norm(dim=-1)
    torch.testing.assert_close(ratio, (quantized.z_q.norm(dim=-1) / z.norm(dim=-1)).detach())


def test_dropout_shortens_the_sum_and_never_the_indices() -> None:
    plain, dropped = make().eval(), make(dropout=1.0).train()
    z = latents()
    full, short = plain(z), dropped(z)
    assert torch.equal(full.indices, short.indices)
    codes = [part.indices_to_codes(full.indices[..., place]) for place, part in enumerate(plain.stages)]
    partial = torch.stack(codes).cumsum(dim=0)
    errors = (partial - short.z_q).flatten(2).abs().amax(dim=2)  # (stages, images)
    assert (errors.min(dim=0).values < 1e-6).all()
    assert len(errors.argmin(dim=0).unique()) > 1
    assert torch.equal(dropped.eval()(z).z_q, full.z_q)


def test_more_stages_leave_less() -> None:
    z = latents()
    errors = [(make(count)(z).z_q - z).square().mean().item() for count in (1, 2, 4)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    "inner",
    [
        lambda: FiniteScalarQuantizer([5, 5]),
        lambda: LookupFreeQuantizer(dim=2, beta=0.25, entropy_weight=0.1, gamma=1.0, temperature=0.1),
        lambda: SimVQ(dim=2, codebook_size=8, beta=0.25, estimator="straight_through"),
    ],
)
def test_takes_any_inner_quantizer(inner) -> None:
    quantizer = ResidualQuantizer(stage=inner, num_stages=2, estimator="straight_through").train()
    z = torch.randn(2, 9, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantized = quantizer(z)
    assert torch.equal(quantizer.indices_to_codes(quantized.indices), quantized.z_q)
    quantized.z_q.sum().backward()
    assert (z.grad == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_stages": 0}, "num_stages must be >= 1, got 0"),
        ({"dropout": 1.5}, r"dropout must be in \[0, 1\], got 1.5"),
        ({"stage": make}, "stage must have one codebook, got codebook sizes"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    options = {"stage": stage, "num_stages": 2, "estimator": "straight_through"} | change
    with pytest.raises(ValueError, match=message):
        ResidualQuantizer(**options)


def test_one_stage_is_the_stage_itself() -> None:
    quantizer, z = make(num_stages=1), latents()
    quantized, alone = quantizer(z), quantizer.stages[0](z)
    assert torch.equal(quantized.indices, alone.indices)
    assert torch.equal(quantizer.indices_to_codes(quantized.indices), alone.z_q)
    assert torch.equal(quantizer.snap(alone.z_q), alone.indices)
