"""Image tokens through a range coder under a causal backbone's probabilities, and back.

Both ways run the same steps of the same process: a network's floats differ in their last bits between machines, batches and
numbers of threads, so what is written here is measured, never kept. B images, N tokens, J digits of a token, V codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from tokbench.generation.causal import Causal
from tokbench.information.coding import Categorical, RangeDecoder, RangeEncoder, integer_table, words_to_bytes
from tokbench.interfaces import TokenBatch

FAMILY = Categorical(perfect=False)  # a table a symbol


def encode_images(scheme: Causal, batch: TokenBatch) -> bytes:
    """One string for the batch's indices given its captions: step by step, at each step image by image."""
    assert batch.indices is not None
    encoder, head = RangeEncoder(), scheme.head
    digits: Tensor = head.split(batch.indices[:, scheme.order].flatten(0, 1))  # type: ignore[attr-defined]
    columns = iter(digits.view(len(batch.indices), -1).unbind(1))

    def pick(logits: Tensor) -> Tensor:
        symbols = next(columns)
        encoder.encode(symbols.cpu().numpy().astype(np.int32), FAMILY, _tables(logits))
        return symbols

    _walk(scheme, batch.text, batch.lengths, pick)
    return words_to_bytes(encoder.get_compressed())


def decode_images(scheme: Causal, data: bytes, text: Tensor, lengths: Tensor) -> Tensor:
    """(B, N) or (B, N, K) int64 that `encode_images` wrote, given the same captions (B, T) in the same batch."""
    decoder = RangeDecoder(np.frombuffer(data, dtype="<u4").astype(np.uint32))

    def pick(logits: Tensor) -> Tensor:
        return torch.from_numpy(decoder.decode(FAMILY, _tables(logits))).to(logits.device, torch.int64)

    return _walk(scheme, text, lengths, pick)


def _tables(logits: Tensor) -> Any:
    """(B, V) whole numbers as float64 of logits (B, V)."""
    return integer_table(logits.double().softmax(dim=-1).cpu().numpy()).astype(np.float64)


def _walk(scheme: Causal, text: Tensor, lengths: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
    """The indices that `pick` gives step by step: the scheme's own sampling, but for where its digits come from."""
    with _head(scheme, _Picked(scheme.head, pick)):
        indices = scheme.sample(text, lengths, guidance=1.0, generator=torch.Generator()).indices
    assert indices is not None
    return indices


@contextmanager
def _head(scheme: Causal, head: Any) -> Iterator[None]:
    own = scheme.head
    scheme.head = head
    try:
        yield
    finally:
        scheme.head = own


class _Picked(nn.Module):
    """A head whose tokens are picked instead of drawn."""

    reads = "indices"

    def __init__(self, head: Any, pick: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self.pick = head, pick

    def sample(
        self, h: Tensor, *, h_uncond: Tensor | None, guidance: float, temperature: float, generator: Generator
    ) -> Tensor:
        """As `Head.sample`."""
        return self.head.choose(h, self.pick)
