import pytest
import torch

from tokbench.quantizers.estimators import rotate
from tokbench.quantizers.simvq import SimVQ


def make(**changes: object) -> SimVQ:
    torch.manual_seed(0)
    options = {"dim": 4, "codebook_size": 32, "beta": 0.25, "estimator": "straight_through"} | changes
    return SimVQ(**options)  # type: ignore[arg-type]


def latents(dim: int = 4) -> torch.Tensor:
    return torch.randn(4, 50, dim, generator=torch.Generator().manual_seed(1))


def test_the_codebook_is_frozen_noise_of_deviation_one_over_root_d_through_one_matrix() -> None:
    quantizer = make(dim=64, codebook_size=1000)
    assert quantizer.frozen.std().item() == pytest.approx(64**-0.5, rel=0.02)
    assert quantizer.frozen.mean().item() == pytest.approx(0, abs=2e-3)
    torch.testing.assert_close(quantizer.codebook, quantizer.frozen @ quantizer.projection.weight.T)
    assert [name for name, _ in quantizer.named_parameters()] == ["projection.weight"]


def test_every_token_gets_its_nearest_projected_code() -> None:
    quantizer, z = make(), latents()
    distances = (z[..., None, :] - quantizer.codebook).square().sum(dim=-1)
    assert torch.equal(quantizer(z).indices, distances.argmin(dim=-1))


def test_codes_of_indices_are_projected() -> None:
    quantizer = make()
    codes = quantizer.indices_to_codes(torch.arange(32)[None])[0]
    assert torch.equal(codes, quantizer.codebook)
    assert not torch.allclose(codes, quantizer.frozen, atol=1e-2)


def test_the_commitment_term_moves_z_and_the_codebook_term_the_projection() -> None:
    quantizer, z = make(), latents().requires_grad_()
    weight, losses = quantizer.projection.weight, quantizer(z).losses
    grad = torch.autograd.grad(losses["commitment"], [z, weight], allow_unused=True, retain_graph=True)
    assert grad[0].abs().sum() > 0
    assert grad[1] is None
    grad = torch.autograd.grad(losses["codebook"], [z, weight], allow_unused=True)
    assert grad[0] is None
    assert grad[1].abs().sum() > 0


def test_losses_are_means_over_all_elements_and_weighted_one_and_beta() -> None:
    quantizer, z = make(), latents()
    quantized = quantizer(z)
    expected = (z - quantized.z_q).square().mean()
    torch.testing.assert_close(quantized.losses["codebook"], expected)
    torch.testing.assert_close(quantized.losses["commitment"], expected)
    assert quantizer.loss_weights == {"codebook": 1.0, "commitment": 0.25}


def test_one_step_moves_the_codes_that_no_token_chose() -> None:
    quantizer, z = make(), latents()[:1, :1]
    before, chosen = quantizer.codebook.detach().clone(), quantizer(z).indices.item()
    quantizer(z).losses["codebook"].backward()
    with torch.no_grad():
        quantizer.projection.weight -= 0.1 * quantizer.projection.weight.grad
    moved = (quantizer.codebook - before).abs().sum(dim=1) > 0
    assert moved[chosen]
    assert moved.all()


@pytest.mark.parametrize("estimator", ["straight_through", "rotation"])
def test_the_gradient_is_the_estimators(estimator: str) -> None:
    quantizer, z = make(estimator=estimator), latents().requires_grad_()
    quantized, g = quantizer(z), torch.randn(4, 50, 4, generator=torch.Generator().manual_seed(2))
    (grad,) = torch.autograd.grad(quantized.z_q, z, g)
    if estimator == "rotation":
        (g,) = torch.autograd.grad(rotate(z, quantizer.indices_to_codes(quantized.indices)), z, g)
    assert torch.equal(grad, g)


def test_the_rotation_counts_its_fallbacks() -> None:
    quantizer, z = make(estimator="rotation"), latents()
    z[0, :3] = 0
    quantizer.eval()(z)
    assert quantizer.fallbacks.tolist() == [0, 0]
    quantizer.train()(z)
    assert quantizer.fallbacks.tolist() == [3, 0]


def test_the_frozen_noise_is_saved_with_the_weights() -> None:
    quantizer, other = make(), make()
    torch.manual_seed(7)
    other.frozen.normal_()
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other(latents()).z_q, quantizer(latents()).z_q)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebook_size": 1}, "codebook_size must be >= 2, got 1"),
        ({"dim": 0}, "dim must be >= 1, got 0"),
        ({"estimator": "gumbel"}, "estimator must be one of"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**change)
