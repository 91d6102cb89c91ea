import itertools

import pytest
import torch

from tokbench.quantizers.bsq import BinarySphericalQuantizer


def make(**changes: object) -> BinarySphericalQuantizer:
    options = {"dim": 8, "beta": 0.0, "entropy_weight": 0.1, "gamma": 1.0, "temperature": 1.0} | changes
    return BinarySphericalQuantizer(**options)  # type: ignore[arg-type]


def latents(dim: int) -> torch.Tensor:
    return torch.randn(4, 25, dim, generator=torch.Generator().manual_seed(0))


def test_codes_are_signs_on_the_unit_sphere_and_nearest_to_the_direction() -> None:
    quantizer, z = make(), latents(8)
    quantized = quantizer(z)
    assert torch.equal(quantized.z_q.sign(), z.sign())
    torch.testing.assert_close(quantized.z_q.norm(dim=-1), torch.ones(4, 25))
    u = torch.nn.functional.normalize(z, dim=-1)
    codes = quantizer.indices_to_codes(torch.arange(256))
    assert torch.equal((u @ codes.T).argmax(dim=-1), quantized.indices)
    assert ((u - quantized.z_q).norm(dim=-1) < 2**0.5).all()


def test_channel_zero_is_the_most_significant_bit() -> None:
    assert make(dim=3)(torch.tensor([[[1.0, -1.0, -1.0]]])).indices.tolist() == [[4]]


def test_indices_of_36_bits_are_exact_and_round_trip() -> None:
    quantizer, z = make(dim=36, entropy_weight=0.0), latents(36)
    quantized = quantizer(z)
    expected = [[int("".join("1" if x > 0 else "0" for x in token), 2) for token in image] for image in z.tolist()]
    assert quantized.indices.tolist() == expected
    assert torch.equal(quantizer.indices_to_codes(quantized.indices), quantized.z_q)
    assert set(quantized.losses) == {"commitment"}


def test_the_scale_of_z_changes_nothing() -> None:
    quantizer, z = make(), latents(8)
    small, large = quantizer(z), quantizer(100 * z)
    assert torch.equal(small.z_q, large.z_q)
    assert torch.equal(small.indices, large.indices)
    for name, loss in small.losses.items():
        torch.testing.assert_close(loss, large.losses[name])


def test_the_gradient_is_copied_at_the_final_scale_and_passes_the_normalisation() -> None:
    z = latents(8).requires_grad_()
    g = torch.randn_like(z)
    make()(z).z_q.backward(g)
    norm = z.detach().norm(dim=-1, keepdim=True)
    u = z.detach() / norm
    torch.testing.assert_close(z.grad, (g - u * (u * g).sum(dim=-1, keepdim=True)) / norm)


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-30])
def test_a_vanishing_token_has_a_code_and_a_finite_gradient(scale: float) -> None:
    z = torch.full((1, 2, 4), -scale).requires_grad_()
    quantized = make(dim=4)(z)
    assert quantized.indices.tolist() == [[0, 0]]
    assert torch.equal(quantized.z_q, torch.full((1, 2, 4), -0.5))
    assert all(loss.isfinite() for loss in quantized.losses.values())
    quantized.z_q.backward(torch.full((1, 2, 4), 3.0), retain_graph=True)
    assert torch.equal(z.grad, torch.full((1, 2, 4), 3.0))
    sum(quantized.losses.values()).backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("dim", [3, 8])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_entropies_and_gradients_are_those_of_a_softmax_over_distances(dim: int, temperature: float) -> None:
    z = latents(dim).requires_grad_()
    exact = z.detach().double().requires_grad_()
    codes = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=dim)), dtype=torch.float64) / dim**0.5
    u = torch.nn.functional.normalize(exact.flatten(0, 1), dim=-1)
    log_p = (-(u[:, None] - codes).square().sum(dim=-1) / temperature).log_softmax(dim=1)
    mean = log_p.exp().mean(dim=0)
    expected = {
        "token_entropy_nats": -(log_p.exp() * log_p).sum(dim=1).mean(),
        "codebook_entropy_nats": -torch.special.xlogy(mean, mean).sum(),
    }
    losses = make(dim=dim, temperature=temperature)(z).losses
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].double(), value, rtol=1e-4, atol=1e-6)
        (grad,) = torch.autograd.grad(losses[name], z, retain_graph=True)
        (expected_grad,) = torch.autograd.grad(value, exact, retain_graph=True)
        torch.testing.assert_close(
            grad.double(), expected_grad, rtol=1e-3, atol=1e-4 * expected_grad.abs().max().item()
        )


def test_the_commitment_is_on_the_sphere_and_moves_z_alone() -> None:
    z = latents(8)
    quantized = make(beta=0.5)(z)
    u = torch.nn.functional.normalize(z, dim=-1)
    torch.testing.assert_close(quantized.losses["commitment"], (u - quantized.z_q).square().mean())
    assert make(beta=0.5).loss_weights["commitment"] == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim must be >= 1 and <= 62, got 0"),
        ({"dim": 36}, "entropy_weight must be 0 where dim > 24"),
        ({"temperature": -1.0}, "temperature must be > 0, got -1.0"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**change)
