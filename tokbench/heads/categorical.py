"""The softmax over a codebook: the head of every discrete tokenizer. M tokens, E width, V codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

VERSION = 1


class Categorical(nn.Module):
    """p(index | h) = softmax(W h); its loss is the exact negative log likelihood."""

    reads: Literal["indices", "latents"] = "indices"
    exact_nll = True

    def __init__(self, *, width: int, codebook_sizes: Sequence[int], top_p: float) -> None:
        """`top_p` in (0, 1]: sampling keeps the smallest set of codes with at least that mass (arXiv:1904.09751)."""
        super().__init__()
        if not codebook_sizes:
            raise ValueError(
                "head 'categorical' needs indices, but the tokenizer is continuous; use generation=transfusion"
            )
        if len(codebook_sizes) > 1:
            raise ValueError(
                f"head 'categorical' reads one codebook, but the tokenizer has {len(codebook_sizes)} "
                f"{tuple(codebook_sizes)}: stages and groups are not supported yet; use a quantizer of one codebook"
            )
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {top_p}")
        self.top_p = top_p
        self.logits = nn.Linear(width, codebook_sizes[0], bias=False)
        nn.init.normal_(self.logits.weight, std=0.02)

    def loss(self, h: Tensor, target: Tensor, generator: Generator | None) -> Tensor:
        """(M,) nats of target (M,) int64 given states (M, E); the generator is not used."""
        return F.cross_entropy(self.logits(h).float(), target, reduction="none")

    def sample(
        self, h: Tensor, *, h_uncond: Tensor | None, guidance: float, temperature: float, generator: Generator
    ) -> Tensor:
        """(M,) int64 drawn given states (M, E): guidance on logits, then temperature (0: the likeliest), then top-p."""
        logits = self.logits(h).float()
        if h_uncond is not None:
            without = self.logits(h_uncond).float()
            logits = without + guidance * (logits - without)
        if temperature == 0:
            return logits.argmax(dim=-1)
        probabilities = (logits / temperature).softmax(dim=-1)
        if self.top_p < 1:
            probabilities = nucleus(probabilities, self.top_p)
        waits = torch.empty(probabilities.shape, device=generator.device).exponential_(generator=generator)
        return (probabilities / waits.to(h.device)).argmax(dim=-1)  # the first of V exponential clocks


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """(M, V) with all but the smallest set of at least `top_p` mass set to zero; not renormalised."""
    ordered, order = probabilities.sort(dim=-1, descending=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0))
