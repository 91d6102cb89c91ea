"""Index backpropagation quantization (IBQ, arXiv:2412.02692).

logits = z C^T, p = softmax(logits), k* = argmax (the greatest dot product, not the nearest) -> z_q = (onehot(k*) + p - sg(p)) C:
the straight-through is on the index, so that all codes get a gradient and z gets its own through p, not the identity.

L = |z_q - z|^2 (quantization) + |z - sg(e_k*)|^2 (commitment) + |sg(z) - e_k*|^2 (codebook), means over all elements,
+ w (E_n[H(p_n)] - gamma H(E_n[p_n])) with p_n the softmax of logits / temperature. B images, N tokens, D channels, V codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tokbench.interfaces import Quantized
from tokbench.quantizers.assignment import assignment_entropies
from tokbench.quantizers.latents import check_codebook, check_latents

VERSION = 2
TILE = 2**22  # logits held at once, at least V


class IndexBackpropagationQuantizer(nn.Module):
    """A codebook (V, D), drawn from N(0, 1) as in the paper's code, and the greatest-dot-product rule.

    `beta` multiplies the commitment; the paper's beta is `codebook_weight`, `quantization_weight` and `beta` are 1 there.
    `entropy_weight` is w, 0 leaves the entropies out.
    """

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int,
        quantization_weight: float,
        beta: float,
        codebook_weight: float,
        entropy_weight: float,
        gamma: float,
        temperature: float,
    ) -> None:
        super().__init__()
        check_codebook(dim=dim, codebook_size=codebook_size)
        if not temperature > 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        self.dim, self.temperature = dim, temperature
        self.codebook_sizes = (codebook_size,)
        self.loss_weights = {
            "quantization": float(quantization_weight),
            "commitment": float(beta),
            "codebook": float(codebook_weight),
        }
        if entropy_weight:
            self.loss_weights |= {
                "token_entropy_nats": entropy_weight,
                "codebook_entropy_nats": -entropy_weight * gamma,
            }
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))

    def forward(self, z: Tensor) -> Quantized:
        """(B, N, D) latents to the codes of their greatest logits."""
        check_latents(z, self.dim)
        with torch.autocast(device_type=z.device.type, enabled=False):
            z32 = z.float()
            z_q, indices = index_backpropagation(z32, self.codebook)
            codes = F.embedding(indices, self.codebook)
            losses = {
                "quantization": F.mse_loss(z_q, z32),
                "commitment": F.mse_loss(z32, codes.detach()),
                "codebook": F.mse_loss(codes, z32.detach()),
            }
            if "token_entropy_nats" in self.loss_weights:
                weight = self.codebook / self.temperature
                losses |= assignment_entropies(
                    z32.flatten(0, 1), weight, weight.new_zeros(len(weight)), over_ranks=self.training
                )
        return Quantized(z_q.to(z.dtype), indices, losses)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N) int64 in [0, V) to (B, N, D)."""
        return F.embedding(indices, self.codebook)


def index_backpropagation(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The codes (..., D) of z (..., D), with the gradient of (onehot + p - sg(p)) codebook, and their (...) int64 indices.

    Exact, in the dtype of z; memory of N D + V D + TILE: forward and backward hold the logits of few tokens at a time.
    """
    z_q, indices = _IndexBackpropagation.apply(z.reshape(-1, z.shape[-1]), codebook)
    return z_q.view_as(z), indices.view(z.shape[:-1])


class _IndexBackpropagation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        rows = max(TILE // len(codebook), 1)
        indices = torch.cat([(tokens @ codebook.T).argmax(dim=1) for tokens in z.split(rows)])
        ctx.save_for_backward(z, codebook, indices)
        ctx.mark_non_differentiable(indices)
        return codebook[indices], indices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        z, codebook, indices = ctx.saved_tensors
        rows = max(TILE // len(codebook), 1)
        grad_z = torch.empty_like(z)
        with torch.autocast(device_type=z.device.type, enabled=False):
            grad_codebook = torch.zeros_like(codebook).index_add_(0, indices, grad)
            for start in range(0, len(z), rows):
                tile = slice(start, start + rows)
                p = (z[tile] @ codebook.T).softmax(dim=1)
                grad_p = grad[tile] @ codebook.T
                grad_logits = p * (grad_p - (p * grad_p).sum(dim=1, keepdim=True))
                grad_z[tile] = grad_logits @ codebook
                grad_codebook.addmm_(grad_logits.T, z[tile])
        return grad_z, grad_codebook
