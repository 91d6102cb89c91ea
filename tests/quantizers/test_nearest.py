import pytest
import torch

from tokbench.quantizers import nearest
from tokbench.quantizers.nearest import nearest_code


@pytest.mark.parametrize(
    ("tokens", "codes", "dim"), [(5, 3, 2), (1500, 2100, 8), (1024, 1024, 4), (1, 5000, 16), (300, 8200, 8)]
)
def test_agrees_with_all_distances_in_float64(tokens: int, codes: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    z, codebook = torch.randn(tokens, dim, generator=generator), torch.randn(codes, dim, generator=generator)
    distances = (z.double()[:, None] - codebook.double()).square().sum(dim=-1)
    assert torch.equal(nearest_code(z, codebook), distances.argmin(dim=1))


def test_keeps_leading_shape_and_takes_empty_input() -> None:
    codebook = torch.eye(3)
    assert torch.equal(nearest_code(torch.eye(3).expand(2, 3, 3), codebook), torch.arange(3).expand(2, 3))
    assert nearest_code(torch.zeros(0, 4, 3), codebook).shape == (0, 4)


def test_a_tie_goes_to_the_lower_index_within_and_across_tiles() -> None:
    codebook = torch.ones(2 * nearest.LARGE_CODEBOOK + 1, 2)
    assert nearest_code(torch.zeros(3, 2), codebook).tolist() == [0, 0, 0]


@pytest.mark.parametrize("codes", [3, 100, 1025, 9000])
def test_the_batch_does_not_change_an_index_nor_the_lower_of_equal_codes(codes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    z, codebook = torch.randn(700, 2, generator=generator), torch.randn(codes, 2, generator=generator).repeat(2, 1)
    together = nearest_code(z, codebook)
    assert int(together.max()) < codes
    assert torch.equal(torch.cat([nearest_code(token[None], codebook) for token in z[:50]]), together[:50])


@pytest.mark.parametrize(("tokens", "codes"), [(1, 5), (700, 1025), (3000, 9000)])
def test_one_pass_finds_what_the_groups_find(monkeypatch: pytest.MonkeyPatch, tokens: int, codes: int) -> None:
    monkeypatch.setattr(nearest, "GPU_TILE", 2**20)
    generator = torch.Generator().manual_seed(0)
    z, codebook = torch.randn(tokens, 8, generator=generator), torch.randn(codes, 8, generator=generator)
    grouped = nearest_code(z, codebook)
    monkeypatch.setattr(nearest, "_search_groups", nearest._search_at_once)
    assert torch.equal(nearest_code(z, codebook), grouped)


def test_full_float32_inside_and_the_settings_of_before_after_it() -> None:
    matmul, before = torch.backends.cuda.matmul, torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with nearest._full_float32():
            assert (matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision) == ("ieee", "ieee")
        assert torch.get_float32_matmul_precision() == "medium"
        assert (matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision) == ("tf32", "bf16")
    finally:
        torch.set_float32_matmul_precision(before)


def test_features_far_from_the_origin_keep_their_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    z, codebook = torch.randn(256, 8, generator=generator), torch.randn(512, 8, generator=generator)
    exact = nearest_code(z, codebook)
    z, codebook = z + 100, codebook + 100
    moved = (z.double()[:, None] - codebook.double()).square().sum(dim=-1).argmin(dim=1)
    assert torch.equal(nearest_code(z, codebook), moved)
    assert (moved == exact).float().mean() > 0.99


def test_says_which_shapes_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"last size, got \(4, 3\) and \(5, 2\)"):
        nearest_code(torch.zeros(4, 3), torch.zeros(5, 2))
