"""The softmax over a codebook: the head of a tokenizer with one. M tokens, E width, V codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tokbench.heads.sampling import check_discrete, draw, guided, without_caption

VERSION = 1


class Categorical(nn.Module):
    """p(index | h) = softmax(W h); its loss is the exact negative log likelihood."""

    reads: Literal["indices", "latents"] = "indices"
    exact_nll = True

    def __init__(self, *, width: int, codebook_sizes: Sequence[int], top_p: float) -> None:
        """`top_p` in (0, 1]: sampling keeps the smallest set of codes with at least that mass (arXiv:1904.09751)."""
        super().__init__()
        check_discrete("categorical", codebook_sizes, top_p)
        if len(codebook_sizes) > 1:
            raise ValueError(
                f"head 'categorical' reads one codebook, but the tokenizer has {len(codebook_sizes)} "
                f"{tuple(codebook_sizes)}; use generation=causal_factorised"
            )
        self.top_p = top_p
        self.logits = nn.Linear(width, codebook_sizes[0], bias=False)
        nn.init.normal_(self.logits.weight, std=0.02)

    @property
    def flops(self) -> int:
        """Of one token's distribution, 2 x multiply-accumulates: 2 E V."""
        return 2 * self.logits.in_features * self.logits.out_features

    def loss(self, h: Tensor, target: Tensor, generator: Generator | None) -> Tensor:
        """(M,) nats of target (M,) int64 given states (M, E); the generator is not used."""
        return F.cross_entropy(self.logits(h).float(), target, reduction="none")

    def sample(
        self, h: Tensor, *, h_uncond: Tensor | None, guidance: float, temperature: float, generator: Generator
    ) -> Tensor:
        """(M,) int64 drawn given states (M, E): guidance on logits, then temperature (0: the likeliest), then top-p."""
        h_uncond = without_caption(h_uncond, guidance)
        without = None if h_uncond is None else self.logits(h_uncond).float()
        logits = guided(self.logits(h).float(), without, guidance)
        return draw(logits, temperature=temperature, top_p=self.top_p, generator=generator)

    def choose(self, h: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
        """(M,) int64 that `pick` takes given logits (M, V) of states (M, E)."""
        return pick(self.logits(h).float())

    def split(self, indices: Tensor) -> Tensor:
        """(M, 1): the one digit of indices (M,)."""
        return indices[:, None]
