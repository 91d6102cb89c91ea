"""How a tokenizer's codes are used, and what quantization loses of the latents.

N tokens counted, V codes, K stages or groups, D channels. H = -sum p log2 p with p = counts / N is the plug-in entropy,
too low by about (observed codes - 1) / (2 N ln 2) bits: Miller and Madow's correction adds that back (Paninski 2003,
doi:10.1162/089976603321780272, section 4). None of these is an achievement by itself: no table ranks on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from tokbench.metrics.definition import usage_cap

VERSION = 1


def code_counts(indices: Tensor, size: int) -> Tensor:
    """(size,) int64 occurrences of each code in int64 indices of any shape, all in [0, size)."""
    flat = indices.flatten()
    if len(flat) and (flat.min() < 0 or flat.max() >= size):
        raise ValueError(f"indices must be in [0, {size}), got {int(flat.min())} to {int(flat.max())}")
    return torch.bincount(flat, minlength=size)


def usage(counts: Tensor) -> float:
    """Share in [0, 1] of the V codes of counts (V,) that occur at all."""
    _check_counts(counts)
    return (counts > 0).double().mean().item()


def rarefaction(counts: Tensor, sizes: Tensor) -> Tensor:
    """(P,) float64 usage expected of sizes (P,) tokens drawn without replacement from the N counted (V,).

    Exactly: sum_v (1 - C(N - c_v, n) / C(N, n)) / V (Hurlbert 1971, doi:10.2307/1934145); 1 / V at n = 1, `usage` at N.
    """
    _check_counts(counts)
    total = int(counts.sum())
    if sizes.min() < 1 or sizes.max() > total:
        raise ValueError(f"sizes must be in [1, {total}], got {int(sizes.min())} to {int(sizes.max())}")
    kinds, codes = torch.unique(counts, return_counts=True)
    c, n = kinds[:, None], sizes.to(kinds)
    left = total - c - n  # the tokens of other codes beside the sample; < 0: no sample leaves the code out
    logs = [_log_factorial(x) for x in (total - c, left.clamp_min(0), total - n, torch.full_like(n, total))]
    seen = -torch.expm1((logs[0] - logs[1] + (logs[2] - logs[3])).clamp_max(0))
    seen = torch.where(left < 0, 1.0, seen)
    return codes.double() @ seen / len(counts)


def rarefaction_sizes(num_tokens: int) -> Tensor:
    """(P,) int64: the powers of two up to num_tokens, and num_tokens."""
    powers = [2**k for k in range(num_tokens.bit_length())]
    return torch.tensor(powers if powers[-1] == num_tokens else [*powers, num_tokens])


def plugin_entropy_bits(counts: Tensor) -> float:
    """-sum p log2 p in bits of p = counts / N; biased low."""
    _check_counts(counts)
    p = counts.double() / counts.sum()
    return -torch.special.xlogy(p, p).sum().item() / math.log(2) + 0.0


def entropy_bits(counts: Tensor) -> float:
    """Entropy in bits of counts (V,): plug-in + Miller-Madow, at most log2 V."""
    observed = int((counts > 0).sum())
    corrected = plugin_entropy_bits(counts) + (observed - 1) / (2 * math.log(2) * counts.sum().item())
    return min(corrected, math.log2(len(counts)))


def perplexity(counts: Tensor) -> float:
    """2^entropy_bits, in codes: V where all V are used alike, 1 where one is."""
    return 2 ** entropy_bits(counts)


def relative_quantization_error(z: Tensor, z_q: Tensor) -> float:
    """sum |z - z_q|^2 / sum |z|^2 of latents (..., D); the sums run over all tokens first."""
    error, energy, _, _ = _latent_sums(z, z_q).tolist()
    return _ratio(error, energy)


def mean_norm(z: Tensor) -> float:
    """Mean Euclidean norm of the tokens (..., D)."""
    return torch.linalg.vector_norm(z.double(), dim=-1).mean().item()


class CodeStatistics(Metric):
    """The statistics above over batches of one fixed split; `codebook_sizes` () for a continuous tokenizer.

    `compute` gives usage_tokens, relative_quantization_error, norm_z, norm_z_q and, with codes: usage and usage_cap
    (means over the K stages), marginal_entropy_bits (a token's, summed over stages as if they were independent) and
    perplexity = 2^marginal_entropy_bits.
    """

    full_state_update = False
    sums: Tensor
    num_tokens: Tensor

    def __init__(self, codebook_sizes: Sequence[int]) -> None:
        super().__init__()
        self.codebook_sizes = tuple(codebook_sizes)
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for stage, size in enumerate(self.codebook_sizes):
            self.add_state(f"counts_{stage}", torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, z: Tensor, z_q: Tensor, indices: Tensor | None) -> None:
        """Add latents and their quantized form (B, N, D) and indices (B, N), (B, N, K) or None."""
        if (indices is None) != (not self.codebook_sizes):
            raise ValueError(
                f"indices must be given iff there are codes, got {self.codebook_sizes=} and {indices is None=}"
            )
        self.sums += _latent_sums(z, z_q).to(self.sums)
        self.num_tokens += z.shape[:-1].numel()
        if indices is None:
            return
        stages = indices.reshape(z.shape[:-1].numel(), -1)
        if stages.shape[1] != len(self.codebook_sizes):
            raise ValueError(f"indices must have {len(self.codebook_sizes)} stages, got shape {tuple(indices.shape)}")
        for counts, column, size in zip(self.counts, stages.unbind(dim=1), self.codebook_sizes, strict=True):
            counts += code_counts(column, size).to(counts)

    @property
    def counts(self) -> list[Tensor]:
        """K tensors (V_k,) of int64."""
        return [getattr(self, f"counts_{stage}") for stage in range(len(self.codebook_sizes))]

    def rarefaction(self) -> tuple[Tensor, Tensor]:
        """(P,) int64 numbers of tokens and (P,) float64 usage expected of so many, mean over stages."""
        sizes = rarefaction_sizes(int(self.num_tokens))
        return sizes, torch.stack([rarefaction(counts.cpu(), sizes) for counts in self.counts]).mean(dim=0)

    def compute(self) -> Mapping[str, float]:
        """Named numbers, as the class says."""
        num_tokens = int(self.num_tokens)
        if not num_tokens:
            raise ValueError("CodeStatistics must see at least one token before compute, got 0")
        error, energy, norm_z, norm_z_q = self.sums.tolist()
        values = {
            "usage_tokens": float(num_tokens),
            "relative_quantization_error": _ratio(error, energy),
            "norm_z": norm_z / num_tokens,
            "norm_z_q": norm_z_q / num_tokens,
        }
        if not self.codebook_sizes:
            return values
        caps = [usage_cap(num_tokens, size) for size in self.codebook_sizes]
        entropy = sum(entropy_bits(counts) for counts in self.counts)
        values["usage"] = sum(usage(counts) for counts in self.counts) / len(caps)
        values["usage_cap"] = sum(caps) / len(caps)
        return values | {"marginal_entropy_bits": entropy, "perplexity": 2**entropy}


def _latent_sums(z: Tensor, z_q: Tensor) -> Tensor:
    """(4,) float64 sums over tokens of |z - z_q|^2, |z|^2, |z| and |z_q|."""
    if z.shape != z_q.shape:
        raise ValueError(f"z and z_q must have one shape, got {tuple(z.shape)} and {tuple(z_q.shape)}")
    z, z_q = z.detach().double(), z_q.detach().double()
    norms = [torch.linalg.vector_norm(value, dim=-1).sum() for value in (z, z_q)]
    return torch.stack([(z - z_q).square().sum(), z.square().sum(), *norms])


def _log_factorial(n: Tensor) -> Tensor:
    return torch.lgamma(n.double() + 1)


def _ratio(error: float, energy: float) -> float:
    if energy == 0:
        raise ValueError("z must not be zero everywhere, got sum |z|^2 = 0")
    return error / energy


def _check_counts(counts: Tensor) -> None:
    if counts.ndim != 1 or counts.min() < 0 or counts.sum() == 0:
        raise ValueError(
            f"counts must be (V,), >= 0 and hold a token, got shape {tuple(counts.shape)}, sum {counts.sum()}"
        )
