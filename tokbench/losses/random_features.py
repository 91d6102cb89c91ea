"""A distance on the maps of the random network behind `random64`: what a perceptual loss is, without anyone's weights.

It exists to show that a measure on features that were trained on flatters (C40), not to make images look better.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.metrics.features import RandomFeatures
from tokbench.metrics.standard import RANDOM_SEED

VERSION = 1


class RandomPerceptual(nn.Module):
    """Mean squared difference of the network's last maps, whose means and deviations are the features."""

    features = "random64"

    def __init__(self) -> None:
        super().__init__()
        self.network = RandomFeatures(RANDOM_SEED)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """A scalar of (B, 3, H, W) images in [-1, 1]."""
        return F.mse_loss(self.network.layers(a), self.network.layers(b))
