"""How text and one image become one sequence, and which token may see which.

Text first:  BOS text BOI image EOI EOS    (generation)
Image first: BOS BOI image EOI text EOS    (understanding)
Text is bytes and four special tokens. Rows are ragged: each is contiguous from place 0 and padded on the right.
B rows, T bytes of the longest caption, N image tokens, S = T + N + 4 places.
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
    image_start: Tensor  # (B,) int64: place of the first image token
    num_image: int

    @property
    def image_places(self) -> Tensor:
        """(B, N) int64."""
        return self.image_start[:, None] + torch.arange(self.num_image, device=self.image_start.device)

    @property
    def image_ids(self) -> Tensor:
        """(B, S) int64: 1 at the places of the image, 0 elsewhere."""
        index = torch.arange(self.tokens.shape[1], device=self.tokens.device) - self.image_start[:, None]
        return ((index >= 0) & (index < self.num_image)).long()

    @property
    def caption_targets(self) -> Tensor:
        """(B, S): `targets` after the image alone; in an image-first row the caption's bytes and EOS."""
        after = (
            torch.arange(self.tokens.shape[1], device=self.tokens.device) >= self.image_start[:, None] + self.num_image
        )
        return self.targets.masked_fill(~after, IGNORE)


def arrange(text: Tensor, lengths: Tensor, image_first: Tensor, num_image: int) -> Sequences:
    """Rows of bytes (B, T), lengths (B,) and image_first (B,) bool, laid out.

    Forced and so not trained: the first image token after BOI, EOI after the last image token.
    """
    place = torch.arange(text.shape[1] + num_image + SPECIALS, device=text.device)[None]
    image_start = torch.where(image_first, 2, lengths + 2)
    index = place - torch.where(image_first, num_image + 3, 1)[:, None]
    padded = torch.nn.functional.pad(text, (0, 1))  # so that T = 0 has a column to read
    letters = padded.gather(1, index.clamp(0, text.shape[1]))
    tokens = torch.where((index >= 0) & (index < lengths[:, None]), letters, EOS)
    tokens = torch.where(place == image_start[:, None] - 1, BOI, tokens)
    tokens = torch.where(place == image_start[:, None] + num_image, EOI, tokens)
    tokens[:, 0] = BOS
    return Sequences(tokens, _targets(tokens, lengths, image_start, num_image), image_first, image_start, num_image)


def draw_rows(
    batch: TokenBatch, num_image: int, *, image_first: float, caption_dropout: float, generator: Generator
) -> Sequences:
    """Training rows: each puts its image first with one probability; the others lose their captions with the other."""
    draws = torch.rand(2, len(batch.text), generator=generator, device=generator.device).to(batch.text.device)
    first = draws[0] < image_first
    lengths = batch.lengths.masked_fill(~first & (draws[1] < caption_dropout), 0)
    return arrange(batch.text, lengths, first, num_image)


def rows_of_one_kind(batch: TokenBatch, num_image: int, *, image_first: bool) -> Sequences:
    """Every row in the same order, with its caption: what is judged."""
    return arrange(batch.text, batch.lengths, torch.full_like(batch.lengths, image_first, dtype=torch.bool), num_image)


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


def ordered_mask(image_ids: Tensor, rank: Tensor) -> Tensor:
    """(B, 1, S, S) bool: j <= i, and inside the one image rank[j] <= rank[i] instead, of when each token comes (N,)."""
    index = (image_ids.cumsum(dim=1) - 1).clamp(min=0)
    ranks = rank[index]
    size = image_ids.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=image_ids.device).tril()
    inside = (image_ids[:, :, None] > 0) & (image_ids[:, None, :] > 0)
    return torch.where(inside, ranks[:, None, :] <= ranks[:, :, None], causal)[:, None]


def _targets(tokens: Tensor, lengths: Tensor, image_start: Tensor, num_image: int) -> Tensor:
    following = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)[None]
    index = following - image_start[:, None]
    forced = (index >= 0) & (index <= num_image)
    beyond = following >= (lengths + num_image + SPECIALS)[:, None]
    shifted = torch.cat((tokens[:, 1:], tokens[:, :1]), dim=1)
    return shifted.masked_fill(forced | beyond, IGNORE)
