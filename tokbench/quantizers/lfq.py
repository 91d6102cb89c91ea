"""Lookup-free quantization (LFQ, MAGVIT-v2, arXiv:2310.05737, section 3.1).

z -> sign(z) in {-1, 1}^D, no codebook;  L = beta |z - sg(z_q)|^2 + w (E_n[H(p_n)] - gamma H(E_n[p_n])) where p_n is the softmax
over codes c of 2 z_n.c / temperature: a bit is set with probability sigmoid(4 z / temperature).

B images, N tokens, D channels, V = 2^D codes. Channel 0 is the most significant bit of the index.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.interfaces import Quantized
from tokbench.quantizers.binary import bit_groups, bits_to_indices, check_options, entropies, indices_to_bits
from tokbench.quantizers.estimators import straight_through
from tokbench.quantizers.latents import check_latents

VERSION = 1


class LookupFreeQuantizer(nn.Module):
    """One bit a channel; the commitment is a mean over all elements, the entropies are exact and in nats.

    `entropy_weight` is w, 0 leaves the entropies out; `gamma` weighs the entropy of the codebook's use (diversity).
    """

    def __init__(self, *, dim: int, beta: float, entropy_weight: float, gamma: float, temperature: float) -> None:
        super().__init__()
        check_options(dim=dim, entropy_weight=entropy_weight, temperature=temperature)
        self.dim = dim
        self.codebook_sizes, self.factors = (2**dim,), (bit_groups(dim),)
        self.entropy_weight, self.temperature = entropy_weight, temperature
        self.loss_weights = {
            "commitment": float(beta),
            "token_entropy_nats": float(entropy_weight),
            "codebook_entropy_nats": -float(entropy_weight * gamma),
        }

    def forward(self, z: Tensor) -> Quantized:
        """(B, N, D) latents to their signs; 0 counts as negative."""
        check_latents(z, self.dim)
        bits = z > 0
        codes = self._codes(bits)
        with torch.autocast(device_type=z.device.type, enabled=False):
            losses = {"commitment": F.mse_loss(z.float(), codes)}
            if self.entropy_weight:
                losses |= entropies(4 * z.float() / self.temperature, over_ranks=self.training)
        return Quantized(straight_through(z, codes.to(z.dtype)), bits_to_indices(bits), losses)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N) int64 in [0, 2^D) to (B, N, D) float32 in {-1, 1}."""
        return self._codes(indices_to_bits(indices, self.dim))

    def _codes(self, bits: Tensor) -> Tensor:
        return bits.float() * 2 - 1
