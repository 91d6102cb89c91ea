import pytest
import torch

from tokbench.quantizers.shifted import ShiftedQuantizer
from tokbench.quantizers.vq import VectorQuantizer


def gradients(estimator: str, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    quantizer = ShiftedQuantizer(
        inner=lambda: VectorQuantizer(dim=4, codebook_size=16, beta=0.25, estimator=estimator, init=0.5), offset=offset
    )
    with torch.no_grad():
        quantizer.inner.codebook += offset
    z = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    quantized = quantizer(z)
    quantized.z_q.backward(torch.randn(z.shape, generator=torch.Generator().manual_seed(2)))
    return quantized.z_q.detach(), z.grad


def test_moving_latents_and_codes_together_changes_the_rotation_alone() -> None:
    for estimator, same in (("straight_through", True), ("rotation", False)):
        (z_q, grad), (moved_z_q, moved_grad) = gradients(estimator, 0.0), gradients(estimator, 4.0)
        torch.testing.assert_close(moved_z_q, z_q, atol=1e-5, rtol=1e-5)
        assert torch.allclose(grad, moved_grad, atol=1e-5) is same


def test_far_from_the_origin_the_rotation_becomes_straight_through() -> None:
    _, straight = gradients("straight_through", 0.0)
    _, turned = gradients("rotation", 1000.0)
    assert (turned - straight).abs().max().item() == pytest.approx(0, abs=0.02)
