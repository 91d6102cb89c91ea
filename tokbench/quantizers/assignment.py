"""Exact entropies of soft code assignments, without an (N, V) matrix in either pass (the entropy loss of arXiv:2310.05737).

p_n = softmax(z_n W^T + b) over V codes. Forward and backward hold the logits of few tokens at a time; the backward pass
computes them again. N tokens, D channels, V codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokbench.quantizers.ranks import mean_over_ranks

TILE = 2**22  # logits held at once, at least V


def assignment_entropies(z: Tensor, weight: Tensor, bias: Tensor, *, over_ranks: bool) -> dict[str, Tensor]:
    """E_n[H(p_n)] and H(E_n[p_n]) in nats: scalars "token_entropy_nats", "codebook_entropy_nats".

    z (N, D), weight (V, D) and bias (V,) float32. Exact: p log p is 0 at p = 0, no epsilon hides rare codes. The mean runs
    over the tokens of all ranks where `over_ranks`, as in training: all of them must then call this.
    """
    tokens, codebook = _AssignmentEntropies.apply(z, weight, bias, over_ranks)
    return {"token_entropy_nats": tokens, "codebook_entropy_nats": codebook}


def squared_distance_logits(codebook: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(V, D) weight and (V,) bias whose softmax is that of -|z - e|^2 / temperature: |z|^2 is the same for every code."""
    return 2 * codebook / temperature, -codebook.square().sum(dim=1) / temperature


def _tiles(num_tokens: int, num_codes: int) -> Iterator[slice]:
    rows = max(TILE // num_codes, 1)
    return (slice(start, start + rows) for start in range(0, num_tokens, rows))


class _AssignmentEntropies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, over_ranks: bool) -> tuple[Tensor, Tensor]:
        with torch.autocast(device_type=z.device.type, enabled=False):
            mean, token_entropy = torch.zeros_like(bias), z.new_zeros(())
            for tile in _tiles(len(z), len(weight)):
                log_p = torch.addmm(bias, z[tile], weight.T).log_softmax(dim=1)
                p = log_p.exp()
                mean += p.sum(dim=0) / len(z)
                token_entropy -= torch.where(p > 0, p * log_p, 0.0).sum() / len(z)
            mean = mean_over_ranks(mean) if over_ranks else mean
        ctx.save_for_backward(z, weight, bias, mean)
        return token_entropy, -torch.special.xlogy(mean, mean).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_tokens: Tensor, grad_codebook: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        z, weight, bias, mean = ctx.saved_tensors
        log_mean = torch.where(mean > 0, mean, 1.0).log()
        grad_z, grad_weight, grad_bias = torch.empty_like(z), torch.zeros_like(weight), torch.zeros_like(bias)
        with torch.autocast(device_type=z.device.type, enabled=False):
            for tile in _tiles(len(z), len(weight)):
                log_p = torch.addmm(bias, z[tile], weight.T).log_softmax(dim=1)
                p = log_p.exp()
                # dH(p_n)/dp = -log p_n, dH(mean)/dp_n = -log(mean) / N, both up to a constant that the softmax ignores
                slope = -(grad_tokens * torch.where(p > 0, log_p, 0.0) + grad_codebook * log_mean) / len(z)
                grad_logits = p * (slope - (p * slope).sum(dim=1, keepdim=True))
                grad_z[tile] = grad_logits @ weight
                grad_weight.addmm_(grad_logits.T, z[tile])
                grad_bias += grad_logits.sum(dim=0)
        return grad_z, grad_weight, grad_bias, None
