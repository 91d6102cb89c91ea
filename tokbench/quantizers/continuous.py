"""Continuous latents: no quantization. B images, N tokens, D channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokbench.interfaces import Quantized

VERSION = 1
LOGVAR_RANGE = (-30.0, 20.0)  # beyond it the variance stays and its gradient is 0


class Continuous(nn.Module):
    """The identity on (B, N, D): a plain autoencoder's latent."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        _check(dim)
        self.dim = dim
        self.codebook_sizes: tuple[int, ...] = ()
        self.loss_weights: dict[str, float] = {}

    def forward(self, z: Tensor) -> Quantized:
        """z unchanged, no indices."""
        return Quantized(z, None, {})

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Refused: a continuous latent has no codes."""
        raise _no_codes()


class GaussianLatent(nn.Module):
    """A variational autoencoder's latent (arXiv:1312.6114; as in latent diffusion, arXiv:2112.10752): N(mean, var) a channel.

    A linear map C -> 2C gives mean and log var. The KL divergence from N(0, 1) is in nats, summed over all N D latents and
    averaged over the batch, so that its effective weight grows with the image's size.
    """

    def __init__(self, *, dim: int, kl_weight: float) -> None:
        super().__init__()
        _check(dim)
        self.dim = dim
        self.codebook_sizes: tuple[int, ...] = ()
        self.loss_weights = {"kl_nats": float(kl_weight)}
        self.moments = nn.Linear(dim, 2 * dim)

    def forward(self, z: Tensor) -> Quantized:
        """(B, N, D) latents to a sample in training, to the mean in evaluation; computed in float32."""
        with torch.autocast(device_type=z.device.type, enabled=False):
            mean, logvar = self._moments(z)
            kl = (mean.square() + logvar.exp() - 1 - logvar).sum() / (2 * len(z))
            z_q = mean + (logvar / 2).exp() * torch.randn_like(mean) if self.training else mean
        return Quantized(z_q.to(z.dtype), None, {"kl_nats": kl})

    def posterior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, N, D) of latents z (B, N, D)."""
        mean, logvar = self._moments(z)
        return mean, (logvar / 2).exp()

    def _moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.moments(z.float()).chunk(2, dim=-1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Refused: a continuous latent has no codes."""
        raise _no_codes()


class NoisyLatent(nn.Module):
    """z + sigma N(0, 1) in training, z in evaluation: a decoder that forgives small errors of a generator.

    Nothing bounds z: an encoder can outgrow a fixed `sigma`, which is in z's own units.
    """

    def __init__(self, *, dim: int, sigma: float) -> None:
        super().__init__()
        _check(dim)
        if sigma < 0:
            raise ValueError(f"sigma must be >= 0, got {sigma}")
        self.dim, self.sigma = dim, sigma
        self.codebook_sizes: tuple[int, ...] = ()
        self.loss_weights: dict[str, float] = {}

    def forward(self, z: Tensor) -> Quantized:
        """(B, N, D) latents, with noise in training alone."""
        return Quantized(z + self.sigma * torch.randn_like(z) if self.training else z, None, {})

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Refused: a continuous latent has no codes."""
        raise _no_codes()


def _check(dim: int) -> None:
    if dim < 1:
        raise ValueError(f"dim must be >= 1, got {dim}")


def _no_codes() -> ValueError:
    return ValueError("indices_to_codes needs a discrete quantizer, got a continuous one; use z_q instead")
