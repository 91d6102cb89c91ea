"""The types every room speaks.

B images a batch, N image tokens an image, D channels a token, V codes, K stages or groups, T text bytes, E backbone width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, Protocol, runtime_checkable

from torch import Generator, Tensor

VERSION = 1


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a dataset, whole in memory."""

    images: Tensor  # (M, 3, H, W) uint8
    captions: tuple[str, ...]  # M; "" where there is none
    labels: Tensor | None  # (M,) int64 class of each image; None where the set has no classes
    groups: Tensor  # (M,) int64: images that share a source photograph share a group (clusters of the bootstrap)
    truth: Mapping[str, Tensor] | None = None  # of drawn images: (M, ...) int64 by name; None where nothing is known

    def __post_init__(self) -> None:
        assert self.images.ndim == 4, self.images.shape
        assert self.images.shape[1] == 3, self.images.shape
        assert self.images.dtype.itemsize == 1, self.images.dtype
        assert len(self.captions) == len(self.groups) == len(self.images)
        assert self.labels is None or len(self.labels) == len(self.images)
        assert all(len(column) == len(self.images) for column in (self.truth or {}).values())

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with captions in four splits; `test` judges reconstruction, `generation` judges generation and understanding."""

    name: str
    ranked: bool  # False: a demonstration, whose tables never rank
    class_names: tuple[str, ...]  # index = label; the caption that names a class; empty where there are no classes
    train: Split
    validation: Split
    test: Split
    generation: Split
    skipped: int = 0  # unreadable files left out on request
    entropy_bits: float | None = None  # of one image, where the process that draws them is known exactly
    caption_bits: float | None = None  # of those, what the caption tells

    @property
    def splits(self) -> dict[str, Split]:
        """The four splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test, "generation": self.generation}


@dataclass(frozen=True, eq=False)
class Quantized:
    """What a quantizer or a tokenizer gives."""

    z_q: Tensor  # (B, N, D) what the decoder reads; its gradient reaches z
    indices: Tensor | None  # (B, N) int64; (B, N, K) for K stages or groups; None where continuous
    losses: Mapping[str, Tensor]  # unweighted scalars by name (codebook, commitment, ...)


@runtime_checkable
class Quantizer(Protocol):
    """Sees only (B, N, dim) latents, never images."""

    dim: int
    codebook_sizes: tuple[int, ...]  # one per stage or group; empty: continuous
    loss_weights: Mapping[str, float]

    def __call__(self, z: Tensor) -> Quantized: ...

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N) int64 to (B, N, dim)."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Images to tokens and back. Images are (B, 3, H, W) floats in [-1, 1].

    May also have `factors`, `snap` (both as in `TokenSpace`) and `tied_channels`, how many neighbouring channels share
    their mean and deviation.
    """

    dim: int
    codebook_sizes: tuple[int, ...]
    loss_weights: Mapping[str, float]

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """(h, w) of a grid, (L,) of a line of queries, (H, W, 3) of pixels; ValueError if the size does not fit."""
        ...

    def encode(self, images: Tensor) -> Quantized: ...

    def latents(self, images: Tensor) -> Tensor:
        """(B, N, D): what the quantizer sees."""
        ...

    def indices_to_codes(self, indices: Tensor) -> Tensor: ...

    def decode(self, z_q: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class TokenSpace:
    """What a generation scheme must know of a frozen tokenizer, and the change of units between them."""

    shape: tuple[int, ...]
    dim: int
    codebook_sizes: tuple[int, ...]
    mean: Tensor  # (D,) over the training split
    std: Tensor  # (D,) over the training split, > 0
    indices_to_codes: Callable[[Tensor], Tensor]  # (B, N) or (B, N, K) int64 to (B, N, D) in the tokenizer's units
    # of each codebook, the radices of its index's digits, least significant first; (): one digit each
    factors: tuple[tuple[int, ...], ...] = ()
    # (B, N, D) in the tokenizer's units to its codes (B, N, K); read where K > 1
    snap: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.factors:
            object.__setattr__(self, "factors", tuple((size,) for size in self.codebook_sizes))
        if [prod(own) for own in self.factors] != list(self.codebook_sizes):
            raise ValueError(f"factors must multiply to codebook_sizes = {self.codebook_sizes}, got {self.factors}")

    @property
    def num_tokens(self) -> int:
        return prod(self.shape)

    def standardize(self, z_q: Tensor) -> Tensor:
        """(..., D) in the tokenizer's units to zero mean and unit deviation a channel."""
        return (z_q - self.mean.to(z_q.device)) / self.std.to(z_q.device)

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of `standardize`."""
        return x * self.std.to(x.device) + self.mean.to(x.device)


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Captioned images as a scheme reads them."""

    latents: Tensor  # (B, N, D) standardised z_q
    indices: Tensor | None  # (B, N) int64; (B, N, K) for K stages or groups
    text: Tensor  # (B, T) int64 bytes, right-padded (any value beyond the length)
    lengths: Tensor  # (B,) int64 bytes of each caption, 0 for none


class Head(Protocol):
    """The distribution of one image token given its backbone state h (M, E)."""

    reads: Literal["indices", "latents"]
    exact_nll: bool

    @property
    def flops(self) -> int:
        """Of sampling one token without guidance: 2 x multiply-accumulates of matrix products."""
        ...

    def loss(self, h: Tensor, target: Tensor, generator: Generator | None) -> Tensor:
        """(M,) nats."""
        ...

    def sample(
        self, h: Tensor, *, h_uncond: Tensor | None, guidance: float, temperature: float, generator: Generator
    ) -> Tensor:
        """As `target`: (M,) or (M, K) int64 for indices, (M, D) for latents."""
        ...


class Scheme(Protocol):
    """In which order the image tokens come to be; owns its backbone."""

    loss_weights: Mapping[str, float]
    interleaved: float  # probability that the rows of a training batch hold two captioned images each

    @property
    def likelihood(self) -> Literal["exact", "bound", "density"] | None:
        """What `nll` gives of the image tokens: nats of codes, an upper bound on them, nats of a density, or nothing."""
        ...

    def loss(self, batch: TokenBatch, generator: Generator) -> Mapping[str, Tensor]:
        """Unweighted scalars "text" and "image"."""
        ...

    def sample(self, text: Tensor, lengths: Tensor, *, guidance: float, generator: Generator) -> Quantized:
        """One image a row of text (B, T); z_q (B, N, D) in the tokenizer's units."""
        ...

    def nll(self, batch: TokenBatch) -> Tensor | None:
        """(B,) nats of the image tokens given the caption, as `likelihood` says; None where it is None."""
        ...

    def caption_nll(self, batch: TokenBatch, *, content: bool = False) -> Tensor:
        """(B,) nats of the caption's bytes and its end token given the clean image; of its `content`, not of the kind of row."""
        ...
