import pytest
import torch

from tokbench.quantizers import assignment
from tokbench.quantizers.assignment import assignment_entropies, squared_distance_logits


def dense(z: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    p = (z @ weight.T + bias).softmax(dim=1)
    mean = p.mean(dim=0)
    return -torch.special.xlogy(p, p).sum(dim=1).mean(), -torch.special.xlogy(mean, mean).sum()


def parts(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((50, 4), (30, 4), (30,))
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("tile", [1, 70, 2**22])
def test_values_and_gradients_are_those_of_the_dense_form(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(assignment, "TILE", tile)
    inputs, others = parts(), parts()
    found = assignment_entropies(*inputs, over_ranks=False)
    expected = dense(*others)
    torch.testing.assert_close(found["token_entropy_nats"], expected[0])
    torch.testing.assert_close(found["codebook_entropy_nats"], expected[1])
    (0.3 * found["token_entropy_nats"] - 0.7 * found["codebook_entropy_nats"]).backward()
    (0.3 * expected[0] - 0.7 * expected[1]).backward()
    for mine, other in zip(inputs, others, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_uniform_use_of_a_large_codebook_reaches_its_logarithm() -> None:
    size = 2**16
    found = assignment_entropies(torch.zeros(4, 2), torch.zeros(size, 2), torch.zeros(size), over_ranks=False)
    assert found["codebook_entropy_nats"].item() == pytest.approx(16 * torch.log(torch.tensor(2.0)).item(), rel=1e-4)


def test_sure_assignments_have_no_entropy_and_finite_gradients() -> None:
    codebook = torch.eye(3).requires_grad_()
    z = torch.eye(3).requires_grad_()
    found = assignment_entropies(z, *squared_distance_logits(codebook, 1e-3), over_ranks=False)
    assert found["token_entropy_nats"].item() == pytest.approx(0, abs=1e-6)
    assert found["codebook_entropy_nats"].item() == pytest.approx(torch.log(torch.tensor(3.0)).item())
    sum(found.values()).backward()
    assert z.grad.isfinite().all()
    assert codebook.grad.isfinite().all()


def test_logits_of_distances_differ_from_them_by_a_constant_a_token() -> None:
    generator = torch.Generator().manual_seed(0)
    z, codebook = torch.randn(5, 3, generator=generator), torch.randn(7, 3, generator=generator)
    weight, bias = squared_distance_logits(codebook, 0.5)
    expected = -(z[:, None] - codebook).square().sum(dim=-1) / 0.5
    torch.testing.assert_close((z @ weight.T + bias).softmax(dim=1), expected.softmax(dim=1))
