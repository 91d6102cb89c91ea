"""A token's index digit by digit: for codebooks too large for a softmax, and for tokens of several stages or groups.

p(index | h) = prod_j p(d_j | h, d_0..d_{j-1}), an exact chain rule over digits with radices f_j:

    x_0 = h,  x_{j+1} = x_j + E_j[d_j];    s_0 = x_0,  s_j = x_j + MLP_j(norm x_j);    p(d_j | ...) = softmax(W_j s_j)

The digits of one codebook are those of its index, least significant first: d_0 + f_0 (d_1 + f_1 (d_2 + ...)), one a channel for
FSQ, one a group of bits for LFQ and BSQ; those of K codebooks follow each other, as in the depth transformer of
arXiv:2203.01941 (section 3.2.2), whose attention over depth is here a sum and a small network: the cost grows with sum f_j, not
with their product. The sub-tokens of arXiv:2409.04410 (section 3.2) are the same idea. With one digit it is `Categorical`.
M tokens, E width, J digits, K codebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tokbench.heads.sampling import check_discrete, draw, guided, without_caption

VERSION = 1


class Factorised(nn.Module):
    """One softmax a digit, each given the digits before it; its loss is the exact negative log likelihood."""

    reads: Literal["indices", "latents"] = "indices"
    exact_nll = True
    codebook: Tensor  # (J,) which codebook a digit belongs to
    radix: Tensor  # (J,)
    place: Tensor  # (J,) what a digit counts in its codebook's index

    def __init__(
        self,
        *,
        width: int,
        codebook_sizes: Sequence[int],
        top_p: float,
        factors: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """`factors`: the radices of each codebook's digits; None: every codebook is one digit. `top_p` is of each digit."""
        super().__init__()
        check_discrete("factorised", codebook_sizes, top_p)
        factors = [[size] for size in codebook_sizes] if factors is None else factors
        if [prod(own) for own in factors] != list(codebook_sizes):
            raise ValueError(f"factors must multiply to codebook_sizes = {tuple(codebook_sizes)}, got {factors}")
        self.width, self.top_p, self.num_codebooks = width, top_p, len(codebook_sizes)
        self.radices = [radix for own in factors for radix in own]
        places = [prod(own[:digit]) for own in factors for digit in range(len(own))]
        owners = [k for k, own in enumerate(factors) for _ in own]
        for name, values in (("codebook", owners), ("radix", self.radices), ("place", places)):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self.logits = nn.ModuleList(_linear(width, radix, std=0.02) for radix in self.radices)
        self.digits = nn.ModuleList(nn.Embedding(radix, width) for radix in self.radices[:-1])
        self.mixes = nn.ModuleList(_mix(width) for _ in self.radices[:-1])

    @property
    def flops(self) -> int:
        """Of one token's distribution, 2 x multiply-accumulates: 2 E sum f_j + 4 E^2 (J - 1)."""
        return 2 * self.width * sum(self.radices) + 4 * self.width**2 * len(self.mixes)

    def loss(self, h: Tensor, target: Tensor, generator: Generator | None) -> Tensor:
        """(M,) nats of target int64, (M,) of one codebook or (M, K), given states (M, E); the generator is not used."""
        digits = self.split(target)
        nats = h.new_zeros(len(h), dtype=torch.float32)
        for digit, logits in zip(digits.unbind(-1), self._teacher_forced(h, digits), strict=True):
            nats = nats + F.cross_entropy(logits, digit, reduction="none")
        return nats

    def sample(
        self, h: Tensor, *, h_uncond: Tensor | None, guidance: float, temperature: float, generator: Generator
    ) -> Tensor:
        """(M,) or (M, K) int64 drawn digit by digit given states (M, E), as `Categorical` draws an index.

        Guidance compares the two states given the same earlier digits; at temperature 0 each digit is its likeliest.
        """

        def pick(logits: Tensor) -> Tensor:
            return draw(logits, temperature=temperature, top_p=self.top_p, generator=generator)

        return self._walk(h, without_caption(h_uncond, guidance), guidance, pick)

    def choose(self, h: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
        """(M,) or (M, K) int64 of the digits that `pick` takes in turn, given logits (M, f_j), of states (M, E)."""
        return self._walk(h, None, 1.0, pick)

    def _walk(self, h: Tensor, h_uncond: Tensor | None, guidance: float, pick: Callable[[Tensor], Tensor]) -> Tensor:
        digits: list[Tensor] = []
        for step in range(len(self.radices)):
            if step:
                read = self.digits[step - 1](digits[-1])
                h, h_uncond = h + read, None if h_uncond is None else h_uncond + read
            without = None if h_uncond is None else self._logits(step, h_uncond)
            digits.append(pick(guided(self._logits(step, h), without, guidance)))
        return self.join(torch.stack(digits, dim=-1))

    def split(self, indices: Tensor) -> Tensor:
        """(M, J) digits of indices (M,) or (M, K)."""
        columns = indices[:, None] if indices.ndim == 1 else indices
        return columns[:, self.codebook] // self.place % self.radix

    def join(self, digits: Tensor) -> Tensor:
        """The inverse of `split`: (M,) of one codebook, else (M, K)."""
        indices = digits.new_zeros(len(digits), self.num_codebooks)
        indices.index_add_(1, self.codebook, digits * self.place)
        return indices[:, 0] if self.num_codebooks == 1 else indices

    def _teacher_forced(self, h: Tensor, digits: Tensor) -> Iterator[Tensor]:
        """(M, f_j) logits of each digit in turn, given the true ones (M, J) before it."""
        for step in range(len(self.radices)):
            h = h + self.digits[step - 1](digits[:, step - 1]) if step else h
            yield self._logits(step, h)

    def _logits(self, step: int, x: Tensor) -> Tensor:
        """(M, f_j) float32 of the digit `step`, given x (M, E): the state and the digits before it."""
        return self.logits[step](x + self.mixes[step - 1](x) if step else x).float()


def _mix(width: int) -> nn.Sequential:
    """A residual branch that starts at zero."""
    first, second = _linear(width, width, std=width**-0.5), _linear(width, width, std=0.0)
    return nn.Sequential(nn.RMSNorm(width), first, nn.SiLU(), second)


def _linear(width: int, out: int, *, std: float) -> nn.Linear:
    made = nn.Linear(width, out, bias=False)
    nn.init.normal_(made.weight, std=std)
    return made
