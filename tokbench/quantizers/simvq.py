"""Vector quantization with a reparametrised codebook (SimVQ, arXiv:2411.02038).

C ~ N(0, 1 / D) frozen, W learned, e_k = row k of C W: every step of W moves all codes, so none is left behind.

L = |sg(z) - e_k*|^2 (codebook) + beta |z - sg(e_k*)|^2 (commitment), means over all elements. Without the bias that the paper's
code adds to W. B images, N tokens, D channels, V codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.interfaces import Quantized
from tokbench.quantizers.estimators import Estimator, resolve, rotation_fallbacks, straight_through
from tokbench.quantizers.latents import check_codebook, check_latents
from tokbench.quantizers.nearest import nearest_code
from tokbench.quantizers.ranks import sum_over_ranks

VERSION = 1


class SimVQ(nn.Module):
    """The nearest-code rule over the projected codebook; `estimator` as in `VectorQuantizer`, its fallbacks counted."""

    frozen: Tensor
    fallbacks: Tensor

    def __init__(self, *, dim: int, codebook_size: int, beta: float, estimator: str | Estimator) -> None:
        super().__init__()
        check_codebook(dim=dim, codebook_size=codebook_size)
        self.dim = dim
        self.codebook_sizes = (codebook_size,)
        self.loss_weights = {"codebook": 1.0, "commitment": float(beta)}
        self.estimator = resolve(estimator)
        self.register_buffer("frozen", torch.randn(codebook_size, dim) * dim**-0.5)
        self.projection = nn.Linear(dim, dim, bias=False)
        self.register_buffer("fallbacks", torch.zeros(2, dtype=torch.int64))

    @property
    def codebook(self) -> Tensor:
        """(V, D) float32: the projected codes; 2 V D^2 FLOPs."""
        with torch.autocast(device_type=self.frozen.device.type, enabled=False):
            return self.projection(self.frozen)

    def forward(self, z: Tensor) -> Quantized:
        """(B, N, D) latents to their nearest projected codes."""
        check_latents(z, self.dim)
        codebook = self.codebook
        indices = nearest_code(z, codebook)
        codes = F.embedding(indices, codebook)
        losses = {
            "codebook": F.mse_loss(codes, z.detach().float()),
            "commitment": F.mse_loss(z.float(), codes.detach()),
        }
        if self.training and self.estimator is not straight_through:
            self.fallbacks += sum_over_ranks(torch.stack([mask.sum() for mask in rotation_fallbacks(z, codes)]))
        return Quantized(self.estimator(z, codes.to(z.dtype)), indices, losses)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N) int64 in [0, V) to (B, N, D): projected, not the frozen rows that the paper's code returns here."""
        return F.embedding(indices, self.codebook)
