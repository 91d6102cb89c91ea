"""How text and one image become one sequence, and which token may see which.

Text first:  BOS text BOI image EOI EOS    (generation)
Image first: BOS BOI image EOI text EOS    (understanding)
Interleaved: BOS text BOI image EOI text BOI image EOI EOS
Several images of one caption follow each other, each between BOI and EOI. Text is bytes and four special tokens. Rows are
ragged: each is contiguous from place 0 and padded on the right.
B rows, T bytes of the longest caption, M images, N tokens an image, S = T + M (N + 2) + 2 places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from tokbench.interfaces import TokenBatch

VERSION = 1
BOS, BOI, EOI, EOS = 256, 257, 258, 259
VOCABULARY = 260
IGNORE = -100  # a place whose next token is forced or is no text: no text loss
SPECIALS = 4
MOST_TEXT_BYTES = 1000  # of a caption or prompt


def encode_text(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """UTF-8 bytes (B, T) int64, zero beyond each length, and the lengths (B,) int64 in bytes.

    An empty caption is no caption: what guidance compares with. ValueError beyond `MOST_TEXT_BYTES`.
    """
    rows = [caption.encode() for caption in captions]
    check_text(rows)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([list(row.ljust(width, b"\0")) for row in rows], dtype=torch.int64).view(
        len(rows), width
    ), lengths


def check_text(rows: Sequence[bytes]) -> None:
    """ValueError where a caption is too long."""
    longest = max(rows, key=len, default=b"")
    if len(longest) > MOST_TEXT_BYTES:
        start = longest[:20].decode(errors="ignore")
        raise ValueError(f"captions must be <= {MOST_TEXT_BYTES} bytes of UTF-8, got {len(longest)} in {start!r}...")


@dataclass(frozen=True, eq=False)
class Sequences:
    """A batch of rows; both orders can be in it."""

    tokens: Tensor  # (B, S) int64 text tokens; EOS in image places and in the padding
    targets: Tensor  # (B, S) int64: the text token that each place is trained to say next, or IGNORE
    image_first: Tensor  # (B,) bool
    image_starts: Tensor  # (B, M) int64: place of the first token of each image
    num_image: int

    @property
    def image_start(self) -> Tensor:
        """(B,) int64: place of the first token of the first image."""
        return self.image_starts[:, 0]

    @property
    def first_images(self) -> Tensor:
        """(B M,) bool: `image_first` of each image's row."""
        return self.image_first.repeat_interleave(self.image_starts.shape[1])

    @property
    def image_places(self) -> Tensor:
        """(B, M N) int64."""
        return self.places_from(0)

    def places_from(self, first: int) -> Tensor:
        """(B, M (N - first)) int64: of each image, from its token `first` on; -1 is its BOI."""
        index = torch.arange(first, self.num_image, device=self.image_starts.device)
        return (self.image_starts[..., None] + index).flatten(1)

    @property
    def image_ids(self) -> Tensor:
        """(B, S) int64: 1, 2, ... at the places of the first image, the second, ..., 0 elsewhere."""
        return self.ids_from(0)

    def ids_from(self, first: int) -> Tensor:
        """(B, S) int64: as `image_ids`, each image from its token `first` on; -1 is its BOI."""
        place = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        index = place[None, :, None] - self.image_starts[:, None]
        number = torch.arange(1, index.shape[-1] + 1, device=place.device)
        return (((index >= first) & (index < self.num_image)) * number).sum(dim=-1)

    @property
    def caption_targets(self) -> Tensor:
        """(B, S): `targets` after the last image alone; in an image-first row the caption's bytes and EOS."""
        place = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return self.targets.masked_fill(place < self.image_starts[:, -1:] + self.num_image, IGNORE)


def arrange(text: Tensor, lengths: Tensor, image_first: Tensor, num_image: int, *, images: int = 1) -> Sequences:
    """Rows of bytes (B, T), lengths (B,) and image_first (B,) bool, laid out with so many images of num_image tokens each.

    Forced and so not trained: the first image token after BOI, EOI after the last image token.
    """
    block = images * (num_image + 2)
    place = torch.arange(text.shape[1] + block + 2, device=text.device)[None]
    first = torch.where(image_first, 2, lengths + 2)
    starts = first[:, None] + (num_image + 2) * torch.arange(images, device=text.device)
    index = place - torch.where(image_first, block + 1, 1)[:, None]
    padded = torch.nn.functional.pad(text, (0, 1))  # so that T = 0 has a column to read
    letters = padded.gather(1, index.clamp(0, text.shape[1]))
    tokens = torch.where((index >= 0) & (index < lengths[:, None]), letters, EOS)
    tokens = tokens.scatter(1, starts - 1, BOI).scatter(1, starts + num_image, EOI)
    tokens[:, 0] = BOS
    return Sequences(
        tokens, next_tokens(tokens, starts, num_image, lengths + block + 2), image_first, starts, num_image
    )


def interleave(text: Tensor, lengths: Tensor, num_image: int) -> Sequences:
    """Rows of bytes (B, M, T) and lengths (B, M), an image of num_image tokens after each of the M texts."""
    ends = (lengths + num_image + 2).cumsum(dim=1)  # place of each EOI
    starts = ends - num_image
    size = text.shape[1] * (text.shape[2] + num_image + 2) + 2
    index = torch.arange(size, device=text.device) - (starts - 1 - lengths)[..., None]
    inside = (index >= 0) & (index < lengths[..., None])
    letters = torch.nn.functional.pad(text, (0, 1)).gather(2, index.clamp(0, text.shape[2]))
    tokens = torch.where(inside.any(dim=1), (letters * inside).sum(dim=1), EOS)
    tokens = tokens.scatter(1, starts - 1, BOI).scatter(1, ends, EOI)
    tokens[:, 0] = BOS
    none = torch.zeros(len(text), dtype=torch.bool, device=text.device)
    return Sequences(tokens, next_tokens(tokens, starts, num_image, ends[:, -1] + 2), none, starts, num_image)


def draw_rows(
    batch: TokenBatch,
    num_image: int,
    *,
    image_first: float,
    caption_dropout: float,
    interleaved: float = 0.0,
    generator: Generator,
) -> tuple[Sequences, TokenBatch]:
    """Training rows, and the batch as they hold it: each row puts its image first with one probability; the others lose
    their captions with the next. With the last probability the batch is joined two by two instead, to rows of two captions,
    each with its image after it: (B / 2, 2 N, D) latents, (B / 2, 2, T) bytes.
    """
    if interleaved and len(batch.text) > 1 and _drawn(generator) < interleaved:
        both = _two_by_two(batch)
        return interleave(both.text, both.lengths, num_image), both
    draws = torch.rand(2, len(batch.text), generator=generator, device=generator.device).to(batch.text.device)
    first = draws[0] < image_first
    lengths = batch.lengths.masked_fill(~first & (draws[1] < caption_dropout), 0)
    return arrange(batch.text, lengths, first, num_image), batch


def _drawn(generator: Generator) -> float:
    return float(torch.rand((), generator=generator, device=generator.device))


def _two_by_two(batch: TokenBatch) -> TokenBatch:
    """Rows 0 and 1 as one, 2 and 3, ...; an odd last one is left out."""

    def paired(part: Tensor) -> Tensor:
        return part[: len(part) // 2 * 2].unflatten(0, (-1, 2))

    indices = None if batch.indices is None else paired(batch.indices).flatten(1, 2)
    return TokenBatch(paired(batch.latents).flatten(1, 2), indices, paired(batch.text), paired(batch.lengths))


def rows_of_one_kind(batch: TokenBatch, num_image: int, *, image_first: bool, images: int = 1) -> Sequences:
    """Every row in the same order, with its caption: what is judged."""
    order = torch.full_like(batch.lengths, image_first, dtype=torch.bool)
    return arrange(batch.text, batch.lengths, order, num_image, images=images)


def with_empty_captions(text: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(2B, T) and (2B,): the rows, then as many without text, for classifier-free guidance (arXiv:2207.12598)."""
    return torch.cat((text, text)), torch.cat((lengths, torch.zeros_like(lengths)))


def prompt(text: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """BOS text BOI as (B, P) int64, padded on the right, with the lengths (B,): what an image is generated after."""
    longest = int(lengths.max()) if len(lengths) else 0
    rows = arrange(text[:, :longest], lengths, torch.zeros_like(lengths, dtype=torch.bool), 0)
    return rows.tokens[:, : longest + 2], rows.image_start


def attention_mask(image_ids: Tensor) -> Tensor:
    """(B, 1, S, S) bool, True where place i sees place j: j <= i, or both belong to one image (arXiv:2408.11039, 3.1).

    `image_ids` (B, S): 0 for text, one positive number an image; an image never sees a later one.
    """
    size = image_ids.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=image_ids.device).tril()
    same = (image_ids[:, :, None] == image_ids[:, None, :]) & (image_ids[:, :, None] > 0)
    return (causal | same)[:, None]


def ordered_mask(rows: Sequences, rank: Tensor) -> Tensor:
    """(B, 1, S, S) bool: j <= i, and inside an image rank[j] <= rank[i] instead, of when each of its tokens comes (N,)."""
    ids = rows.image_ids
    ranks = torch.zeros_like(ids).scatter(1, rows.image_places, rank.repeat(len(ids), rows.image_starts.shape[1]))
    size = ids.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=ids.device).tril()
    same = (ids[:, :, None] == ids[:, None, :]) & (ids[:, :, None] > 0)
    return torch.where(same, ranks[:, None, :] <= ranks[:, :, None], causal)[:, None]


def next_tokens(tokens: Tensor, starts: Tensor, num_image: int, ends: Tensor) -> Tensor:
    """(B, S): what each place is trained to say next, IGNORE where the images at starts (B, M) force it or beyond ends (B,)."""
    following = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)[None]
    index = following[..., None] - starts[:, None]
    forced = ((index >= 0) & (index <= num_image)).any(dim=-1)
    shifted = torch.cat((tokens[:, 1:], tokens[:, :1]), dim=1)
    return shifted.masked_fill(forced | (following >= ends[:, None]), IGNORE)
