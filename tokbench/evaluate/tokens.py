"""A split as frozen, standardised tokens: encoded once, kept in memory.

M images, N tokens, D channels, K stages or groups, T text bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from tokbench.backbone.sequence import encode_text
from tokbench.interfaces import Split, TokenBatch, Tokenizer, TokenSpace
from tokbench.metrics.images import to_float

VERSION = 1
MIN_STD = 1e-4  # a channel that never moves stays at zero instead of growing without bound


@dataclass(frozen=True, eq=False)
class TokenTable:
    """All tokens of a split, row by row with its images."""

    z_q: Tensor  # (M, N, D) float32 in the tokenizer's units
    indices: Tensor | None  # (M, N) int64; (M, N, K) for K stages or groups
    text: Tensor  # (M, T) int64
    lengths: Tensor  # (M,) int64

    def __len__(self) -> int:
        return len(self.z_q)

    def batch(self, space: TokenSpace, rows: Tensor) -> TokenBatch:
        """The rows (B,) as a scheme reads them."""
        rows = rows.to(self.z_q.device)
        indices = None if self.indices is None else self.indices[rows]
        return TokenBatch(space.standardize(self.z_q[rows]), indices, self.text[rows], self.lengths[rows])

    def draw(self, space: TokenSpace, size: int, generator: Generator) -> TokenBatch:
        """A batch of `size` rows, drawn with replacement."""
        return self.batch(space, torch.randint(len(self), (size,), generator=generator))


@torch.no_grad()
def encode_split(tokenizer: Tokenizer, split: Split, *, batch: int, device: torch.device) -> TokenTable:
    """The split's tokens on `device`; the tokenizer must be in eval mode."""
    z_q, indices = [], []
    for images in split.images.split(batch):
        quantized = tokenizer.encode(to_float(images.to(device)))
        z_q.append(quantized.z_q.float())
        if quantized.indices is not None:
            indices.append(quantized.indices)
    text, lengths = encode_text(split.captions)
    return TokenTable(torch.cat(z_q), torch.cat(indices) if indices else None, text.to(device), lengths.to(device))


def token_space(tokenizer: Tokenizer, table: TokenTable, *, size: int) -> TokenSpace:
    """The change of units fitted to the training split's `table`; channels that a tokenizer ties share theirs."""
    tied = int(getattr(tokenizer, "tied_channels", 1))
    values = table.z_q.flatten(0, 1).unflatten(1, (-1, tied))
    mean = values.mean(dim=(0, 2)).repeat_interleave(tied)
    std = values.transpose(1, 2).flatten(0, 1).std(dim=0).clamp_min(MIN_STD).repeat_interleave(tied)
    return space_of(tokenizer, mean, std, size=size)


def space_of(tokenizer: Tokenizer, mean: Tensor, std: Tensor, *, size: int) -> TokenSpace:
    """What schemes must know of the tokenizer for square images of `size`, given the statistics (D,) of its tokens."""
    return TokenSpace(
        shape=tokenizer.shape(size, size),
        dim=tokenizer.dim,
        codebook_sizes=tuple(tokenizer.codebook_sizes),
        mean=mean,
        std=std,
        indices_to_codes=tokenizer.indices_to_codes,
        factors=tuple(tuple(own) for own in getattr(tokenizer, "factors", ())),
        snap=getattr(tokenizer, "snap", None),
    )
