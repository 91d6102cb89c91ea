import pytest
import torch

from tokbench.quantizers.fsq import FiniteScalarQuantizer
from tokbench.quantizers.product import ProductQuantizer
from tokbench.quantizers.vq import VectorQuantizer


def group() -> VectorQuantizer:
    return VectorQuantizer(dim=3, codebook_size=16, beta=0.25, estimator="rotation")


def latents(dim: int = 6) -> torch.Tensor:
    return torch.randn(4, 50, dim, generator=torch.Generator().manual_seed(1))


def test_each_group_sees_its_own_channels_alone() -> None:
    torch.manual_seed(0)
    quantizer, z = ProductQuantizer(group=group, num_groups=2), latents()
    quantized = quantizer(z)
    for place, part in enumerate(quantizer.groups):
        alone = part(z[..., 3 * place : 3 * place + 3])
        assert torch.equal(quantized.indices[..., place], alone.indices)
        assert torch.equal(quantized.z_q[..., 3 * place : 3 * place + 3], alone.z_q)


def test_losses_are_means_over_all_elements() -> None:
    torch.manual_seed(0)
    quantizer, z = ProductQuantizer(group=group, num_groups=2), latents()
    quantized = quantizer(z)
    torch.testing.assert_close(quantized.losses["commitment"], (z - quantized.z_q).square().mean())


def test_groups_of_fsq_are_fsq() -> None:
    quantizer = ProductQuantizer(group=lambda: FiniteScalarQuantizer([8, 5]), num_groups=2)
    z = latents(4)
    assert quantizer.codebook_sizes == (40, 40)
    assert quantizer.factors == ((8, 5), (8, 5))
    assert torch.equal(quantizer(z).z_q, FiniteScalarQuantizer([8, 5, 8, 5])(z).z_q)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_groups": 0}, "num_groups must be >= 1, got 0"),
        (
            {"group": lambda: ProductQuantizer(group=group, num_groups=2)},
            "group must have one codebook, got codebook sizes",
        ),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProductQuantizer(**({"group": group, "num_groups": 2} | change))
