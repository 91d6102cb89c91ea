"""What LFQ and BSQ share: the indices of binary codes, and their exact entropies. N tokens, D channels, V = 2^D codes.

The soft assignment of a token is a product over its bits, p_n(code) = prod_i sigmoid(+-logit_ni). So H(p_n) is a sum over
bits, and over the two halves of the bits p_n = a_n (x) b_n, which gives mean_n p_n = A^T B / N: both entropies of the loss of
arXiv:2310.05737 (section 3.1) without an N x V matrix, and without the epsilon that hides the top of a large codebook.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tokbench.quantizers.ranks import mean_over_ranks

VERSION = 1  # not in a run's hash: a change of numbers here raises the VERSION of lfq and bsq
MAX_BITS = 62  # an index is an int64
GROUP_BITS = 8  # of one digit of a factorised head
MAX_ENTROPY_BITS = 24  # mean_n p_n has V elements


def check_options(*, dim: int, entropy_weight: float, temperature: float) -> None:
    """ValueError where no binary code can be made of the options."""
    if not 1 <= dim <= MAX_BITS:
        raise ValueError(f"dim must be >= 1 and <= {MAX_BITS}, got {dim}")
    if entropy_weight and dim > MAX_ENTROPY_BITS:
        raise ValueError(f"entropy_weight must be 0 where dim > {MAX_ENTROPY_BITS}, got {entropy_weight} at dim {dim}")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")


def bit_groups(dim: int) -> tuple[int, ...]:
    """The radices of an index of `dim` bits, least significant first: groups of at most GROUP_BITS bits."""
    return tuple(2 ** min(GROUP_BITS, dim - start) for start in range(0, dim, GROUP_BITS))


def bits_to_indices(bits: Tensor) -> Tensor:
    """(..., D) bool to (...) int64; channel 0 is the most significant bit."""
    return (bits.long() << _shifts(bits.shape[-1], bits.device)).sum(dim=-1)


def indices_to_bits(indices: Tensor, dim: int) -> Tensor:
    """(...) int64 in [0, 2^dim) to (..., dim) bool."""
    return ((indices[..., None] >> _shifts(dim, indices.device)) & 1).bool()


def entropies(logits: Tensor, *, over_ranks: bool) -> dict[str, Tensor]:
    """E_n[H(p_n)] and H(E_n[p_n]) in nats of float logits (..., D): scalars "token_entropy_nats", "codebook_entropy_nats".

    The mean runs over the tokens of all ranks where `over_ranks`, as in training: all of them must then call this.
    """
    logits = logits.reshape(-1, logits.shape[-1])
    of_codebook = codebook_entropy(logits, over_ranks=over_ranks)
    return {"token_entropy_nats": token_entropy(logits), "codebook_entropy_nats": of_codebook}


def token_entropy(logits: Tensor) -> Tensor:
    """Mean over tokens of H(p_n) in nats, for logits (N, D)."""
    size = logits.abs()
    return (F.softplus(-size) + size * torch.sigmoid(-size)).sum(dim=-1).mean()


def codebook_entropy(logits: Tensor, *, over_ranks: bool = False) -> Tensor:
    """H(mean_n p_n) in nats, for logits (N, D): 2 N V FLOPs, and memory of N sqrt(V) + V.

    The value is that of xlogy, whose gradient is NaN where a probability underflows to 0: there it is 0 here, and elsewhere
    -log p, the constant -1 left out because the probabilities sum to one.
    """
    half = logits.shape[-1] // 2
    mean = _assignment(logits[:, :half]).T @ _assignment(logits[:, half:]) / len(logits)
    mean = mean_over_ranks(mean) if over_ranks else mean
    log = torch.where(mean > 0, mean, 1.0).log().detach()
    return -(mean * log).sum()


def _assignment(logits: Tensor) -> Tensor:
    """(N, 2^h) probabilities of all codes of h bits, for logits (N, h)."""
    bits = indices_to_bits(torch.arange(2 ** logits.shape[1], device=logits.device), logits.shape[1]).to(logits.dtype)
    return (F.logsigmoid(logits) @ bits.T + F.logsigmoid(-logits) @ (1 - bits).T).exp()


def _shifts(dim: int, device: torch.device) -> Tensor:
    return torch.arange(dim - 1, -1, -1, device=device)
