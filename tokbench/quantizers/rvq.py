"""Residual vector quantization (SoundStream, arXiv:2107.03312, section III-C; images: RQ-VAE, arXiv:2203.01941).

r_1 = z;  q_k = Q_k(r_k);  r_{k+1} = r_k - sg(q_k);  z_q = q_1 + ... + q_K, with one estimator around the sum, so that the
encoder's gradient does not grow with K: a straight-through in every stage would give it K times.
B images, N tokens, D channels, K stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokbench.interfaces import Quantized, Quantizer
from tokbench.quantizers.estimators import Estimator, resolve, rotation_fallbacks, straight_through
from tokbench.quantizers.latents import check_latents
from tokbench.quantizers.nearest import nearest_code
from tokbench.quantizers.parts import factors_of, join, make_parts, sizes_of, split
from tokbench.quantizers.ranks import sum_over_ranks

VERSION = 1


class ResidualQuantizer(nn.Module):
    """K stages made by `stage()`, each quantizing what the ones before it left; each has one codebook.

    Losses are sums over stages. `dropout`: the share of training images that are decoded from their first k stages alone,
    k uniform in 1..K; their indices are complete all the same, and all stages learn from them.
    """

    stages: Any  # ModuleList of quantizers
    fallbacks: Tensor

    def __init__(
        self, *, stage: Callable[[], Quantizer], num_stages: int, estimator: str | Estimator, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be in [0, 1], got {dropout}")
        made = make_parts(stage, num_stages, what="stage")
        self.stages = nn.ModuleList(made)
        self.dim, self.dropout, self.estimator = made[0].dim, dropout, resolve(estimator)
        self.register_buffer("fallbacks", torch.zeros(2, dtype=torch.int64))
        self.codebook_sizes, self.factors = sizes_of(made), factors_of(made)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """A stage's, the same for all."""
        return self.stages[0].loss_weights

    def forward(self, z: Tensor) -> Quantized:
        """(B, N, D) latents to sums of codes; indices (B, N, K), or (B, N) where K is 1."""
        check_latents(z, self.dim)
        residual = z.float()
        codes: list[Tensor] = []
        indices: list[Tensor] = []
        losses: dict[str, Tensor] = {}
        for stage in self.stages:
            quantized = stage(residual)
            codes.append(quantized.z_q.detach())  # not looked up again: running means have moved the codebook since
            indices.append(quantized.indices)
            losses = {name: losses.get(name, 0.0) + loss for name, loss in quantized.losses.items()}
            residual = residual - codes[-1]
        total = self._sum(codes, self._kept(z))
        if self.training and self.estimator is not straight_through:
            self.fallbacks += sum_over_ranks(torch.stack([mask.sum() for mask in rotation_fallbacks(z, total)]))
        return Quantized(self.estimator(z, total.to(z.dtype)), join(indices), losses)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N, K) int64, (B, N) where K is 1, to (B, N, D): the sum over stages."""
        parts = zip(self.stages, split(indices, len(self.stages)), strict=True)
        return self._sum([stage.indices_to_codes(part) for stage, part in parts], None)

    @torch.no_grad()
    def snap(self, z: Tensor) -> Tensor:
        """(B, N, K) int64 of z (B, N, D), (B, N) where K is 1: the nearest code of each stage in turn."""
        indices: list[Tensor] = []
        for stage, size in zip(self.stages, self.codebook_sizes, strict=True):
            table = stage.indices_to_codes(torch.arange(size, device=z.device)[None])[0]
            indices.append(nearest_code(z, table))
            z = z - table[indices[-1]]
        return join(indices)

    def _kept(self, z: Tensor) -> Tensor | None:
        """(B, 1, 1) stages that each training image is decoded from; None for all."""
        if not self.training or not self.dropout:
            return None
        count = torch.randint(1, len(self.stages) + 1, (len(z), 1, 1), device=z.device)
        return count.where(torch.rand(count.shape, device=z.device) < self.dropout, len(self.stages))

    @staticmethod
    def _sum(codes: list[Tensor], kept: Tensor | None) -> Tensor:
        total = torch.zeros_like(codes[0])
        for place, code in enumerate(codes):
            total = total + (code if kept is None else code * (kept > place))
        return total
