"""Statistics over the ranks of a distributed training, so that N ranks give what one process with all tokens would.

Without torch.distributed every function returns its argument itself. All ranks are taken to hold batches of one size.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def num_ranks() -> int:
    """Processes of the training, 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's place among them, 0 outside torch.distributed."""
    return dist.get_rank() if num_ranks() > 1 else 0


@torch.no_grad()
def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all ranks, on each; no gradient passes."""
    if num_ranks() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all ranks, on each, with the gradient of `values`.

    Averaged over ranks, as distributed data parallel does, that gradient is the one of a single process.
    """
    if num_ranks() == 1:
        return values
    return sum_over_ranks(values) / num_ranks() + (values - values.detach())


@torch.no_grad()
def gather_tokens(tokens: Tensor) -> Tensor:
    """(R N, D) the tokens (N, D) of all R ranks, in rank order; no gradient passes."""
    if num_ranks() == 1:
        return tokens
    parts = [torch.empty_like(tokens, memory_format=torch.contiguous_format) for _ in range(num_ranks())]
    dist.all_gather(parts, tokens.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def from_first_rank(values: Tensor) -> Tensor:
    """The first rank's `values` on all ranks, in place: what was drawn at random is then the same everywhere."""
    if num_ranks() > 1:
        dist.broadcast(values, src=0)
    return values
