"""The rate of a continuous latent: bits-back from a Gaussian around it to a fitted Gaussian prior (arXiv:1312.6114, equation 3).

KL(q(z | x) || p(z)) nats are what a sample of q costs once the bits that chose it are had back: an upper bound that a coder
can reach, not the entropy of the latent, which is not finite. B images, N tokens, D channels, K latents of one strip.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

VERSION = 1
MOST_LATENTS = 512  # of a strip: larger images are cut into as many consecutive tokens as fit, all with one prior
START_SHARE = 0.1  # of the latents' own deviation: the posterior's width before it is fitted
RIDGE = 1e-4  # of the mean variance, added to the prior's
MIN_STD = 1e-6


class GaussianCode(nn.Module):
    """q = N(latent, diag(width^2)) with a width a channel, p = N(mean, covariance) of the training latents and of the width."""

    mean: Tensor
    covariance: Tensor

    def __init__(self, latents: Tensor, widths: Tensor | None = None) -> None:
        """From the training split's latents (M, N, D); `widths` (M, N, D) where each has its own posterior, which is kept."""
        super().__init__()
        num_tokens, dim = latents.shape[1:]
        strip = max(n for n in range(1, num_tokens + 1) if num_tokens % n == 0 and (n == 1 or n * dim <= MOST_LATENTS))
        self.strip = strip * dim
        rows = self._rows(latents.double())
        mean = rows.mean(dim=0)
        covariance = (rows - mean).T @ (rows - mean) / max(len(rows) - 1, 1)
        covariance += RIDGE * covariance.diagonal().mean().clamp_min(MIN_STD) * torch.eye(len(mean), device=rows.device)
        if widths is not None:
            covariance += torch.diag(self._rows(widths.double()).square().mean(dim=0))
        self.register_buffer("mean", mean)
        self.register_buffer("covariance", covariance)
        start = START_SHARE * latents.double().flatten(0, 1).std(dim=0).clamp_min(MIN_STD)
        self.log_width = nn.Parameter(start.log().float(), requires_grad=widths is None)
        self.fitted = widths is None

    def _rows(self, latents: Tensor) -> Tensor:
        """(B N D / K, K)."""
        return latents.reshape(-1, self.strip)

    def width(self, latents: Tensor) -> Tensor:
        """(B, N, D) fitted widths."""
        return self.log_width.exp().expand_as(latents)

    def kl_nats(self, latents: Tensor, widths: Tensor) -> Tensor:
        """(B,) nats of KL(q || p) for latents and widths (B, N, D), in float64."""
        covariance = self.covariance
        if self.fitted:
            variance = (2 * self.log_width.double()).exp()
            covariance = covariance + torch.diag(variance.repeat(len(self.mean) // len(variance)))
        factor = torch.linalg.cholesky(covariance)
        offset = self._rows(latents.double()) - self.mean
        whitened = torch.linalg.solve_triangular(factor, offset.T, upper=False).square().sum(dim=0)
        precision = torch.cholesky_inverse(factor).diagonal()
        variances = self._rows(widths.double()).square()
        log_det = 2 * factor.diagonal().log().sum()
        nats = (variances @ precision + whitened - len(self.mean) + log_det - variances.log().sum(dim=1)) / 2
        return nats.reshape(len(latents), -1).sum(dim=1)
