import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from tokbench.quantizers.continuous import GaussianLatent, NoisyLatent


def make(mean: float | None = None, logvar: float | None = None) -> GaussianLatent:
    """Untrained; or with moments that do not depend on z."""
    torch.manual_seed(0)
    quantizer = GaussianLatent(dim=4, kl_weight=1e-6)
    if mean is not None and logvar is not None:
        with torch.no_grad():
            quantizer.moments.weight.zero_()
            quantizer.moments.bias.copy_(torch.tensor([mean] * 4 + [logvar] * 4))
    return quantizer


def latents(tokens: int = 50) -> torch.Tensor:
    return torch.randn(3, tokens, 4, generator=torch.Generator().manual_seed(1))


def test_the_kl_is_that_of_normals_summed_over_latents_and_averaged_over_the_batch() -> None:
    quantizer, z = make(), latents()
    mean, logvar = quantizer.moments(z).chunk(2, dim=-1)
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(dim=(1, 2)).mean()
    torch.testing.assert_close(quantizer(z).losses["kl_nats"], expected)
    assert quantizer.loss_weights == {"kl_nats": 1e-6}


def test_a_standard_normal_latent_has_no_kl_and_a_shift_of_one_half_a_nat_a_latent() -> None:
    assert make(0.0, 0.0)(latents()).losses["kl_nats"].item() == 0
    assert make(1.0, 0.0)(latents()).losses["kl_nats"].item() == pytest.approx(0.5 * 50 * 4)


def test_training_samples_the_latent_and_evaluation_gives_its_mean() -> None:
    quantizer, z = make(2.0, 2 * math.log(0.5)), latents(5000)
    sampled = quantizer.train()(z).z_q
    assert sampled.mean().item() == pytest.approx(2.0, abs=0.01)
    assert sampled.std().item() == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(quantizer(z).z_q, sampled)
    assert torch.equal(quantizer.eval()(z).z_q, torch.full_like(z, 2.0))


def test_the_log_variance_is_held_in_range_without_gradient_outside() -> None:
    for logvar, held in ((100.0, 20.0), (-100.0, -30.0)):
        quantizer = make(0.0, logvar)
        kl = quantizer(latents()).losses["kl_nats"]
        assert kl.item() == pytest.approx(0.5 * (math.exp(held) - 1 - held) * 50 * 4, rel=1e-5)
        kl.backward()
        assert torch.equal(quantizer.moments.bias.grad[4:], torch.zeros(4))


def test_the_moments_are_float32_under_autocast() -> None:
    quantizer, z = make().eval(), latents()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = quantizer(z)
    assert torch.equal(inside.z_q, quantizer(z).z_q)
    assert torch.equal(inside.losses["kl_nats"], quantizer(z).losses["kl_nats"])


def test_noise_has_its_sigma_in_training_and_is_absent_in_evaluation() -> None:
    torch.manual_seed(0)
    quantizer, z = NoisyLatent(dim=4, sigma=0.3), latents(5000)
    noise = quantizer.train()(z).z_q - z
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert quantizer.eval()(z).z_q is z


def test_noise_leaves_the_gradient_alone() -> None:
    z = latents().requires_grad_()
    g = torch.randn_like(z)
    NoisyLatent(dim=4, sigma=0.3).train()(z).z_q.backward(g)
    assert torch.equal(z.grad, g)


def test_refuses() -> None:
    with pytest.raises(ValueError, match="sigma must be >= 0, got -1"):
        NoisyLatent(dim=4, sigma=-1.0)
    for kind in (NoisyLatent(dim=4, sigma=0.1), make()):
        with pytest.raises(ValueError, match="needs a discrete quantizer"):
            kind.indices_to_codes(torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="dim must be >= 1, got 0"):
        GaussianLatent(dim=0, kl_weight=1.0)
