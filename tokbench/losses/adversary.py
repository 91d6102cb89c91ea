"""A patch discriminator and its adaptive weight: VQGAN (arXiv:2012.09841, eq. 6 and 7), hinge loss as in its code.

L_D = (max(0, 1 - D(x)) + max(0, 1 + D(x^))) / 2,  L_GAN = -D(x^), means over patches
lambda = |dL_rec / dG_L| / (|dL_GAN / dG_L| + delta), G_L the last layer of the decoder

Departures: no batch norm (batches here are small; group norm instead), and the discriminator takes its step before the
decoder's on the same batch, so that one pass of the decoder serves both.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VERSION = 1
DELTA = 1e-6  # of equation 7
MOST = 1e4  # of lambda, the code's
BETAS = (0.5, 0.9)  # of Adam, the code's


class PatchDiscriminator(nn.Sequential):
    """(B, 3, H, W) to (B, 1, h, w) logits, one a patch (arXiv:1611.07004, section 3.2.2): `layers` halvings of the sides."""

    def __init__(self, *, width: int, layers: int) -> None:
        widths = [width * 2 ** min(layer, 3) for layer in range(layers)]
        parts: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            parts += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.GroupNorm(1, after), nn.LeakyReLU(0.2)]
        super().__init__(*parts, nn.Conv2d(widths[-1], 1, 3, padding=1))


class Adversary(nn.Module):
    """The generator's term, weighted; its discriminator has its own optimizer. They begin after the share `start` of `steps`."""

    def __init__(self, *, width: int, layers: int, lr: float, weight: float, start: float, steps: int) -> None:
        super().__init__()
        if width < 1 or layers < 1:
            raise ValueError(f"loss.adversary.width and layers must be >= 1, got {width} and {layers}")
        if not 0 <= start < 1:
            raise ValueError(f"loss.adversary.start must be in [0, 1), a share of the steps, got {start}")
        self.network = PatchDiscriminator(width=width, layers=layers)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr, betas=BETAS)
        self.weight, self.begin, self.calls = weight, round(start * steps), 0

    def forward(self, distance: Tensor, reconstruction: Tensor, images: Tensor, last: Tensor) -> Tensor:
        """weight * lambda * L_GAN of (B, 3, H, W), given L_rec and the decoder's last weights; 0 before the start."""
        self.calls += 1
        if self.calls <= self.begin:
            return distance.new_zeros(())
        self._learn(reconstruction.detach(), images)
        generated = -self.network(reconstruction).float().mean()
        return self.weight * adaptive_weight(distance, generated, last) * generated

    def _learn(self, reconstruction: Tensor, images: Tensor) -> None:
        self.network.requires_grad_(True)
        self.optimizer.zero_grad()
        hinge(self.network(images).float(), self.network(reconstruction).float()).backward()
        self.optimizer.step()
        self.network.requires_grad_(False)  # the decoder's gradient passes through it and leaves none behind


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """L_D of the discriminator's logits of originals and of reconstructions."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adaptive_weight(distance: Tensor, generated: Tensor, last: Tensor) -> Tensor:
    """lambda, without gradient, at most MOST."""
    wanted, found = (_gradient(term, last).norm() for term in (distance, generated))
    return (wanted / (found + DELTA)).clamp(max=MOST)


def _gradient(term: Tensor, last: Tensor) -> Tensor:
    """dterm / dlast; not by `autograd.grad`, which a count of FLOPs cannot follow."""
    kept, last.grad = last.grad, None
    term.backward(inputs=[last], retain_graph=True)
    assert last.grad is not None
    found, last.grad = last.grad, kept
    return found
