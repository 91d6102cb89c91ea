import pytest
import torch

from tokbench.quantizers.latents import check_codebook, check_latents, on_sphere


def test_large_finite_latents_pass() -> None:
    check_latents(torch.full((1, 100, 2), 6e4, dtype=torch.float16), 2)
    check_latents(torch.full((1, 100, 2), 3e38), 2)


def test_names_how_many_tokens_are_not_finite() -> None:
    z = torch.zeros(2, 5, 3)
    z[0, 0, 0], z[0, 0, 1], z[1, 2, 2] = torch.inf, torch.nan, -torch.inf
    with pytest.raises(ValueError, match="z must be finite, got NaN or infinity in 2 of 10 tokens"):
        check_latents(z, 3)


def test_on_sphere_has_norm_one_and_leaves_zero_alone() -> None:
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).requires_grad_()
    u = on_sphere(z)
    torch.testing.assert_close(u.detach(), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    u.sum().backward()
    assert z.grad.isfinite().all()


def test_a_codebook_beyond_memory_is_refused_with_its_size() -> None:
    check_codebook(dim=64, codebook_size=65536)
    with pytest.raises(
        ValueError, match=r"codebook_size must fit into memory: 1099511627776 codes of 64 channels take 1,688,"
    ):
        check_codebook(dim=64, codebook_size=2**40)
