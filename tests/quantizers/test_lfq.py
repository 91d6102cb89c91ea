import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tokbench.quantizers import binary
from tokbench.quantizers.lfq import LookupFreeQuantizer


def make(**changes: object) -> LookupFreeQuantizer:
    options = {"dim": 8, "beta": 0.25, "entropy_weight": 0.1, "gamma": 1.0, "temperature": 1.0} | changes
    return LookupFreeQuantizer(**options)  # type: ignore[arg-type]


def latents(dim: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(4, 25, dim, generator=torch.Generator().manual_seed(0))


def all_codes(dim: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=dim)), dtype=torch.float64)


def enumerated(z: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper's two entropies, from the softmax over all 2^D codes."""
    log_p = (2 * z.flatten(0, 1) @ all_codes(z.shape[-1]).T / temperature).log_softmax(dim=1)
    mean = log_p.exp().mean(dim=0)
    return -(log_p.exp() * log_p).sum(dim=1).mean(), -torch.special.xlogy(mean, mean).sum()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor made inside."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def test_a_code_is_the_sign_and_zero_is_negative() -> None:
    quantized = make(dim=3)(torch.tensor([[[0.5, -2.0, 0.0]]]))
    assert quantized.z_q.tolist() == [[[1.0, -1.0, -1.0]]]


def test_channel_zero_is_the_most_significant_bit() -> None:
    assert make(dim=3)(torch.tensor([[[1.0, -1.0, -1.0]]])).indices.tolist() == [[4]]
    assert torch.equal(make(dim=6).indices_to_codes(torch.arange(64)[None])[0].double(), all_codes(6))


def test_indices_of_36_bits_are_exact_and_round_trip() -> None:
    quantizer, z = make(dim=36, entropy_weight=0.0), latents(36)
    quantized = quantizer(z)
    expected = [[int("".join("1" if x > 0 else "0" for x in token), 2) for token in image] for image in z.tolist()]
    assert quantized.indices.tolist() == expected
    assert max(map(max, expected)) > 2**34
    assert torch.equal(quantizer.indices_to_codes(quantized.indices), quantized.z_q)
    assert set(quantized.losses) == {"commitment"}
    assert quantizer.codebook_sizes == (2**36,)


def test_the_gradient_is_copied() -> None:
    z = latents(8).requires_grad_()
    g = torch.randn_like(z)
    make()(z).z_q.backward(g)
    assert torch.equal(z.grad, g)


def test_the_commitment_is_a_mean_over_all_elements() -> None:
    z = latents(8)
    quantized = make()(z)
    torch.testing.assert_close(quantized.losses["commitment"], (z - quantized.z_q).square().mean())


def test_the_loss_is_token_entropy_less_gamma_codebook_entropy() -> None:
    weights = make(entropy_weight=0.1, gamma=0.5).loss_weights
    assert weights == {"commitment": 0.25, "token_entropy_nats": 0.1, "codebook_entropy_nats": -0.05}


@pytest.mark.parametrize("dim", [1, 2, 7, 8])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
def test_entropies_and_gradients_are_those_of_the_enumeration(dim: int, temperature: float) -> None:
    z = latents(dim, scale=0.1).requires_grad_()
    exact = z.detach().double().requires_grad_()
    losses = make(dim=dim, temperature=temperature)(z).losses
    for name, expected in zip(
        ("token_entropy_nats", "codebook_entropy_nats"), enumerated(exact, temperature), strict=True
    ):
        torch.testing.assert_close(losses[name].double(), expected, rtol=1e-4, atol=1e-6)
        (grad,) = torch.autograd.grad(losses[name], z, retain_graph=True)
        (expected_grad,) = torch.autograd.grad(expected, exact, retain_graph=True)
        torch.testing.assert_close(
            grad.double(), expected_grad, rtol=1e-3, atol=1e-4 * expected_grad.abs().max().item()
        )


def test_halves_in_order_give_the_mean_probability_of_each_index() -> None:
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    one = torch.where(all_codes(5)[:, None] > 0, logits.sigmoid(), 1 - logits.sigmoid()).prod(dim=-1).mean(dim=1)
    halves = binary._assignment(logits[:, :2]).T @ binary._assignment(logits[:, 2:]) / 50
    torch.testing.assert_close(halves.flatten(), one)


def test_uniform_use_of_a_large_codebook_has_its_full_entropy() -> None:
    losses = make(dim=18)(torch.zeros(1, 4, 18)).losses
    assert losses["codebook_entropy_nats"].item() == pytest.approx(18 * math.log(2), rel=1e-5)
    assert losses["token_entropy_nats"].item() == pytest.approx(18 * math.log(2), rel=1e-5)


def test_certain_tokens_have_the_entropy_of_their_histogram_and_finite_gradients() -> None:
    z = latents(10, scale=100.0).requires_grad_()
    quantized = make(dim=10, temperature=0.01)(z)
    counts = torch.bincount(quantized.indices.flatten()).double() / 100
    histogram = -torch.special.xlogy(counts, counts).sum().item()
    assert quantized.losses["codebook_entropy_nats"].item() == pytest.approx(histogram, rel=1e-5)
    assert quantized.losses["token_entropy_nats"].item() == pytest.approx(0, abs=1e-6)
    sum(quantized.losses.values()).backward()
    assert z.grad.isfinite().all()


def test_the_entropies_of_2_to_the_18_codes_never_hold_a_tensor_of_tokens_by_codes() -> None:
    z = torch.randn(1, 64, 18, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with Largest() as largest:
        sum(make(dim=18)(z).losses.values()).backward()
    assert z.grad.isfinite().all()
    assert largest.elements == 2**18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim must be >= 1 and <= 62, got 0"),
        ({"dim": 63}, "dim must be >= 1 and <= 62, got 63"),
        ({"dim": 36}, "entropy_weight must be 0 where dim > 24, got 0.1 at dim 36"),
        ({"temperature": 0.0}, "temperature must be > 0, got 0.0"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**change)
