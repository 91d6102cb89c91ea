"""What a reconstruction is compared by in training, where that is more than the default squared error.

L_rec = |x - x^| or (x - x^)^2, + w * a distance on features;  L = L_rec + adversary (VQGAN, arXiv:2012.09841, eq. 5-7).
x (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.interfaces import Tokenizer

VERSION = 1
PIXELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss}


class Perceptual(Protocol):
    """A distance on the features of a network that is not trained."""

    features: str  # the network's name: what is measured on its features does not rank who was trained on them

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """A scalar of (B, 3, H, W) images in [-1, 1]."""
        ...


class Criterion(nn.Module):
    """The terms of a reconstruction, weighted; the adversary, if any, learns as it is asked."""

    def __init__(
        self,
        *,
        pixels: str,
        perceptual: Callable[[], Any] | None,
        perceptual_weight: float,
        adversary: Callable[..., Any] | None,
        steps: int,
    ) -> None:
        """`pixels` is a name of PIXELS; `perceptual` and `adversary` make their objects; `steps` of the whole training."""
        super().__init__()
        if pixels not in PIXELS:
            raise ValueError(f"loss.pixels must be one of {', '.join(PIXELS)}, got {pixels!r}")
        self.pixels, self.perceptual_weight = PIXELS[pixels], perceptual_weight
        self.perceptual = perceptual() if perceptual else None
        self.adversary = adversary(steps=steps) if adversary else None

    @property
    def trained_on(self) -> list[str]:
        """The networks whose features the loss is computed on."""
        return [self.perceptual.features] if self.perceptual is not None else []

    def distances(self, tokenizer: Tokenizer, reconstruction: Tensor, images: Tensor) -> dict[str, Tensor]:
        """L_rec by terms: what is minimised on the validation split."""
        terms = {"reconstruction": self.pixels(reconstruction, images)}
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual_weight * self.perceptual(reconstruction, images)
        return terms

    def forward(self, tokenizer: Tokenizer, reconstruction: Tensor, images: Tensor) -> dict[str, Tensor]:
        """All terms of one step of training."""
        terms = self.distances(tokenizer, reconstruction, images)
        if self.adversary is not None:
            last = getattr(tokenizer, "last_layer", None)
            if last is None:
                raise ValueError(f"loss.adversary needs a tokenizer with last_layer, got {type(tokenizer).__name__}")
            terms["adversary"] = self.adversary(sum(terms.values()), reconstruction, images, last)
        return terms
