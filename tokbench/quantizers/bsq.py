"""Binary spherical quantization (BSQ, arXiv:2406.07548, section 4).

u = z / |z| -> q = sign(u) / sqrt(D), |q| = 1;  L = beta |u - sg(q)|^2 + w (E_n[H(p_n)] - gamma H(E_n[p_n])) where a bit is set
with probability sigmoid(4 u / (temperature sqrt(D))): the softmax over codes of -|u - q|^2 / temperature, as in the paper's code.

The straight-through is at the final scale, dL/du = dL/dq; the paper's code has another 1 / sqrt(D). The entropies are exact; the
paper's code sums the codebook's over groups of bits. B images, N tokens, D channels, V = 2^D codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.interfaces import Quantized
from tokbench.quantizers.binary import bit_groups, bits_to_indices, check_options, entropies, indices_to_bits
from tokbench.quantizers.estimators import straight_through
from tokbench.quantizers.latents import check_latents, on_sphere

VERSION = 1


class BinarySphericalQuantizer(nn.Module):
    """One bit a channel on the unit sphere; channel 0 is the most significant bit of the index.

    `entropy_weight` is w, 0 leaves the entropies out; `gamma` weighs the entropy of the codebook's use; the commitment is a
    mean over all elements.
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
        """(B, N, D) latents to codes of norm 1; 0 counts as negative, so z = 0 has the code -1 / sqrt(D), index 0."""
        check_latents(z, self.dim)
        bits = z > 0
        codes = self._codes(bits)
        with torch.autocast(device_type=z.device.type, enabled=False):
            u = on_sphere(z.float())
            losses = {"commitment": F.mse_loss(u, codes)}
            if self.entropy_weight:
                losses |= entropies(4 * u / (self.temperature * self.dim**0.5), over_ranks=self.training)
            z_q = straight_through(u, codes)
        return Quantized(z_q.to(z.dtype), bits_to_indices(bits), losses)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N) int64 in [0, 2^D) to (B, N, D) float32 in {-1, 1} / sqrt(D)."""
        return self._codes(indices_to_bits(indices, self.dim))

    def _codes(self, bits: Tensor) -> Tensor:
        return (bits.float() * 2 - 1) * self.dim**-0.5
