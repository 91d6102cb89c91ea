import pytest
import torch

from tokbench.quantizers import estimators
from tokbench.quantizers.estimators import ESTIMATORS, rotate, rotation_fallbacks, straight_through


def pair(dim: int = 8, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(64, dim, generator=generator)
    return z, scale * torch.randn(64, dim, generator=generator)


def jacobian(z: torch.Tensor, q: torch.Tensor, name: str = "rotation") -> torch.Tensor:
    return torch.autograd.functional.jacobian(lambda x: ESTIMATORS[name](x, q), z)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_value_is_the_code_exactly(name: str, scale: float, dtype: torch.dtype) -> None:
    z, q = (x.to(dtype) for x in pair(scale=scale))
    assert torch.equal(ESTIMATORS[name](z.requires_grad_(), q), q)


def test_straight_through_copies_the_gradient() -> None:
    z, q = pair()
    z.requires_grad_()
    g = torch.randn_like(q)
    straight_through(z, q).backward(g)
    assert torch.equal(z.grad, g)


def test_rotation_is_a_scaled_rotation_that_takes_z_to_the_code() -> None:
    for z, q in zip(*pair(), strict=True):
        j = jacobian(z, q)
        ratio = q.norm() / z.norm()
        torch.testing.assert_close(j.T @ j, ratio**2 * torch.eye(len(z)), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(j @ z, q, atol=1e-4, rtol=1e-4)
        assert torch.linalg.det(j / ratio).item() == pytest.approx(1, abs=1e-3)


def test_rotation_scales_the_gradient_by_the_ratio_of_norms() -> None:
    z, q = pair(scale=0.1)
    z.requires_grad_()
    g = torch.randn_like(q)
    rotate(z, q).backward(g)
    expected = g.norm(dim=1) * q.norm(dim=1) / z.detach().norm(dim=1)
    torch.testing.assert_close(z.grad.norm(dim=1), expected, rtol=1e-4, atol=1e-5)


def test_the_variants_drop_the_radial_part_or_the_ratio_of_norms() -> None:
    for z, q in zip(*pair(scale=0.1), strict=True):
        full, z_hat = jacobian(z, q), z / z.norm()
        tangent = full @ (torch.eye(len(z)) - z_hat[:, None] * z_hat)
        torch.testing.assert_close(jacobian(z, q, "rotation_no_radial"), tangent, atol=1e-5, rtol=1e-4)
        plain = full * z.norm() / q.norm()
        torch.testing.assert_close(jacobian(z, q, "rotation_no_rescale"), plain, atol=1e-5, rtol=1e-4)


def test_rotation_of_opposite_vectors_is_a_reflection_and_finite() -> None:
    z = torch.randn(5, generator=torch.Generator().manual_seed(0))
    q = -2 * z
    j = jacobian(z, q)
    torch.testing.assert_close(j @ z, q, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(j.T @ j, 4 * torch.eye(5), atol=1e-4, rtol=1e-4)
    assert rotation_fallbacks(z, q)[1].item()


def test_rotation_of_a_zero_vector_is_straight_through() -> None:
    z = torch.zeros(3, 4, requires_grad=True)
    q = torch.ones(3, 4)
    out = rotate(z, q)
    assert torch.equal(out, q)
    out.backward(torch.full((3, 4), 2.0))
    assert torch.equal(z.grad, torch.full((3, 4), 2.0))
    assert rotation_fallbacks(z, q)[0].all()


def test_no_gradient_reaches_the_codes() -> None:
    z, q = pair()
    q.requires_grad_()
    for estimator in ESTIMATORS.values():
        out = estimator(z.clone().requires_grad_(), q)
        assert torch.autograd.grad(out.sum(), q, allow_unused=True)[0] is None


def test_the_rotation_in_parts_is_the_rotation_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    z, codes, grad = torch.randn(3, 5, 7, 4, generator=torch.Generator().manual_seed(0)).unbind()
    z[0, 0], z[1, 1] = 0, -2 * codes[1, 1]  # both special cases
    found = []
    for size in (8, 2**17):
        monkeypatch.setattr(estimators, "CACHED", size)
        latents = z.clone().requires_grad_()
        estimators.rotate(latents, codes).backward(grad)
        found.append((latents.grad, *estimators.rotation_fallbacks(z, codes)))
    parts, whole = found
    assert all(torch.equal(a, b) for a, b in zip(parts, whole, strict=True))
    assert whole[1].sum() == whole[2].sum() == 1
