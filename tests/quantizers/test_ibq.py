import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tokbench.quantizers import ibq
from tokbench.quantizers.ibq import IndexBackpropagationQuantizer, index_backpropagation

WEIGHTS = {"quantization_weight": 1.0, "beta": 1.0, "codebook_weight": 0.25}
WEIGHTS |= {"entropy_weight": 0.0, "gamma": 1.0, "temperature": 0.01}


def make(**changes: object) -> IndexBackpropagationQuantizer:
    torch.manual_seed(0)
    return IndexBackpropagationQuantizer(**{"dim": 4, "codebook_size": 32} | WEIGHTS | changes)  # type: ignore[arg-type]


def pair(tokens: int = 30, codes: int = 17, dim: int = 5, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = scale * torch.randn(tokens, dim, generator=generator, dtype=torch.float64)
    return z.requires_grad_(), torch.randn(codes, dim, generator=generator, dtype=torch.float64).requires_grad_()


def reference(z: torch.Tensor, codebook: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper's z_q and the code itself by plain autograd over (N, V) matrices."""
    p = (z @ codebook.T).softmax(dim=-1)
    onehot = F.one_hot(p.argmax(dim=-1), len(codebook)).to(p)
    return (onehot + p - p.detach()) @ codebook, onehot @ codebook


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor made inside."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.mark.parametrize("tile", [1, 7 * 17, 2**22])
@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_value_and_gradients_are_those_of_the_naive_form(
    monkeypatch: pytest.MonkeyPatch, tile: int, scale: float
) -> None:
    monkeypatch.setattr(ibq, "TILE", tile)
    z, codebook = pair(scale=scale)
    out, indices = index_backpropagation(z, codebook)
    naive, _ = reference(z, codebook)
    assert torch.equal(out, codebook[indices])
    torch.testing.assert_close(out, naive)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
    for mine, theirs in zip(
        torch.autograd.grad(out, [z, codebook], g), torch.autograd.grad(naive, [z, codebook], g), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_whole_loss_has_the_gradients_of_the_naive_form() -> None:
    quantizer = make()
    z = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    quantized = quantizer(z)
    loss = sum(quantizer.loss_weights[name] * value for name, value in quantized.losses.items())
    loss = loss + (quantized.z_q - 1).square().mean()
    exact = z.detach().double().requires_grad_()
    codebook = quantizer.codebook.detach().double().requires_grad_()
    soft, hard = reference(exact, codebook)
    expected = (soft - exact).square().mean() + (hard.detach() - exact).square().mean()
    expected = expected + 0.25 * (hard - exact.detach()).square().mean() + (soft - 1).square().mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    grads = torch.autograd.grad(loss, [z, quantizer.codebook])
    for mine, theirs in zip(grads, torch.autograd.grad(expected, [exact, codebook]), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_z_is_the_codes_covariance_and_not_the_identity() -> None:
    z, codebook = pair(tokens=1)
    out, _ = index_backpropagation(z, codebook)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
    (grad,) = torch.autograd.grad(out, z, g)
    p = (z @ codebook.T).softmax(dim=-1)[0, :, None].detach()
    centred = codebook.detach() - (p * codebook.detach()).sum(dim=0)
    torch.testing.assert_close(grad[0], (p * centred).T @ centred @ g[0])
    assert not torch.allclose(grad, g)


def test_codes_that_no_token_chose_get_a_gradient() -> None:
    quantizer = make()
    quantized = quantizer(torch.randn(1, 1, 4, generator=torch.Generator().manual_seed(1)))
    quantized.z_q.sum().backward()
    assert (quantizer.codebook.grad.abs().sum(dim=1) > 0).all()


def test_a_token_gets_the_code_of_the_greatest_dot_product_not_the_nearest() -> None:
    quantizer = make(dim=2, codebook_size=2)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[1.0, 0.0], [10.0, 0.0]]))
    quantized = quantizer(torch.tensor([[[1.0, 0.0]]]))
    assert quantized.indices.tolist() == [[1]]
    assert quantized.z_q.tolist() == [[[10.0, 0.0]]]


def test_each_term_moves_what_it_should() -> None:
    quantizer = make()
    z = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    losses = quantizer(z).losses
    for name, moves in {"quantization": (1, 1), "commitment": (1, 0), "codebook": (0, 1)}.items():
        grads = torch.autograd.grad(losses[name], [z, quantizer.codebook], allow_unused=True, retain_graph=True)
        assert tuple(int(grad is not None and bool(grad.any())) for grad in grads) == moves
    assert quantizer.loss_weights == {"quantization": 1.0, "commitment": 1.0, "codebook": 0.25}


def test_forward_and_backward_never_hold_a_tensor_of_tokens_by_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, codes, dim = 512, 4096, 4
    monkeypatch.setattr(ibq, "TILE", 8 * codes)
    quantizer = make(dim=dim, codebook_size=codes)
    z = torch.randn(1, tokens, dim, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with Largest() as largest:
        quantized = quantizer(z)
        (quantized.z_q.sum() + sum(quantized.losses.values())).backward()
    assert largest.elements <= 8 * codes


def test_gradients_are_the_same_under_autocast() -> None:
    quantizer = make()
    z = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (outside,) = torch.autograd.grad(quantizer(z).z_q.sum(), z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (inside,) = torch.autograd.grad(quantizer(z).z_q.sum(), z)
    assert torch.equal(inside, outside)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"codebook_size": 1}, "codebook_size must be >= 2, got 1"), ({"dim": 0}, "dim must be >= 1, got 0")],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_entropies_are_those_of_the_softmax_over_logits_by_temperature() -> None:
    quantizer = make(entropy_weight=0.05, gamma=2.0, temperature=3.0)
    z = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(0))
    losses = quantizer(z).losses
    p = (z.flatten(0, 1) @ quantizer.codebook.T / 3.0).softmax(dim=1)
    torch.testing.assert_close(losses["token_entropy_nats"], -(p * p.log()).sum(dim=1).mean())
    torch.testing.assert_close(losses["codebook_entropy_nats"], -(p.mean(0) * p.mean(0).log()).sum())
    assert quantizer.loss_weights["token_entropy_nats"] == 0.05
    assert quantizer.loss_weights["codebook_entropy_nats"] == -0.1


def test_refuses_a_temperature_of_zero() -> None:
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        make(temperature=0.0)
