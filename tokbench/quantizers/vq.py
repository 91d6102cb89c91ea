"""Vector quantization with a learned codebook (VQ-VAE, arXiv:1711.00937, section 3).

z -> k* = argmin_k |z - e_k| -> z_q = e_k*;  L = |sg(z) - e_k*|^2 (codebook) + beta |z - sg(e_k*)|^2 (commitment)

Both terms are means over all elements. The gradient past the argmin is the estimator's: straight-through, or the rotation
trick (arXiv:2410.06424). B images, N tokens, D channels, V codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.interfaces import Quantized
from tokbench.quantizers.estimators import ESTIMATORS, Estimator, rotation_fallbacks, straight_through
from tokbench.quantizers.nearest import nearest_code

VERSION = 1
LLOYD_ITERATIONS = 10


class VectorQuantizer(nn.Module):
    """A codebook (V, D) and the nearest-code rule.

    `kmeans_init` fits the codebook to the first training batch; until then it is U(-1/V, 1/V) (arXiv:1711.00937's code).
    `restart_below`: a code whose running count of tokens a batch falls below it moves to a random token of the batch
    (arXiv:2005.00341, section 3.1), its count with it; 0 never restarts. `restart_decay` is the running count's memory.
    `learned=False` freezes the codebook at N(0, 1): a baseline.
    """

    counts: Tensor
    initialized: Tensor
    fallbacks: Tensor

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int,
        beta: float,
        estimator: str | Estimator,
        kmeans_init: bool = False,
        restart_below: float = 0.0,
        restart_decay: float = 0.99,
        learned: bool = True,
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be >= 1, got {dim}")
        if codebook_size < 2:
            raise ValueError(f"codebook_size must be >= 2, got {codebook_size}")
        if isinstance(estimator, str) and estimator not in ESTIMATORS:
            raise ValueError(f"estimator must be one of {sorted(ESTIMATORS)}, got {estimator!r}")
        self.dim = dim
        self.codebook_sizes = (codebook_size,)
        self.loss_weights = {"codebook": 1.0 if learned else 0.0, "commitment": float(beta)}
        self.estimator = ESTIMATORS[estimator] if isinstance(estimator, str) else estimator
        self.restart_below, self.restart_decay = restart_below, restart_decay
        codebook = torch.empty(codebook_size, dim)
        codebook = codebook.uniform_(-1 / codebook_size, 1 / codebook_size) if learned else codebook.normal_()
        self.codebook = nn.Parameter(codebook, requires_grad=learned)
        self.register_buffer("counts", torch.full((codebook_size,), max(restart_below, 1.0)))
        self.register_buffer("initialized", torch.tensor(not kmeans_init))
        self.register_buffer("fallbacks", torch.zeros(2, dtype=torch.int64))

    def forward(self, z: Tensor) -> Quantized:
        """(B, N, D) latents to their nearest codes."""
        if self.training and not self.initialized:
            self._fit(z.detach())
        indices = nearest_code(z, self.codebook)
        codes = F.embedding(indices, self.codebook)
        losses = {"codebook": F.mse_loss(codes, z.detach()), "commitment": F.mse_loss(z, codes.detach())}
        quantized = Quantized(self.estimator(z, codes.to(z.dtype)), indices, losses)
        if self.training:
            self._count(z.detach(), codes.detach(), indices)
        return quantized

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N) int64 in [0, V) to (B, N, D)."""
        return F.embedding(indices, self.codebook)

    @torch.no_grad()
    def _fit(self, z: Tensor) -> None:
        tokens = z.reshape(-1, self.dim).float()
        self.codebook.copy_(kmeans(tokens, self.codebook_sizes[0]))
        self.initialized.fill_(True)

    @torch.no_grad()
    def _count(self, z: Tensor, codes: Tensor, indices: Tensor) -> None:
        if self.estimator is not straight_through:
            self.fallbacks += torch.stack([mask.sum() for mask in rotation_fallbacks(z, codes)])
        if not self.restart_below:
            return
        seen = torch.bincount(indices.flatten(), minlength=len(self.counts)).to(self.counts)
        self.counts.lerp_(seen, 1 - self.restart_decay)
        dead = (self.counts < self.restart_below).nonzero()[:, 0]
        tokens = z.reshape(-1, self.dim)
        dead = dead[: len(tokens)]
        chosen = torch.randperm(len(tokens), device=tokens.device)[: len(dead)]
        self.codebook[dead] = tokens[chosen].to(self.codebook)
        self.counts[dead] = seen.mean()


def kmeans(tokens: Tensor, size: int) -> Tensor:
    """(size, D) centres of tokens (N, D) after Lloyd's iterations from random tokens; an empty cluster keeps its centre."""
    if len(tokens) < size:
        raise ValueError(
            f"kmeans_init needs a first batch of at least codebook_size = {size} tokens, got {len(tokens)}"
        )
    centres = tokens[torch.randperm(len(tokens), device=tokens.device)[:size]].clone()
    for _ in range(LLOYD_ITERATIONS):
        nearest = nearest_code(tokens, centres)
        counts = torch.bincount(nearest, minlength=size)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, tokens)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return centres
