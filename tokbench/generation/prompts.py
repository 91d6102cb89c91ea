"""What a scheme paints an image after: a cache that has read all before it, up to its BOI. B rows, N places, E width."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tokbench.backbone.attention import Cache
from tokbench.backbone.positions import Rotation
from tokbench.backbone.sequence import prompt, with_empty_captions
from tokbench.backbone.transformer import Backbone

VERSION = 1  # not in a run's hash: a change here raises the VERSION of the schemes


@dataclass(frozen=True, eq=False)
class Prompt:
    """Of B rows; with guidance the second half are those without caption."""

    cache: Cache  # BOI is in it, unless the scheme reads it again with the image
    turn: Rotation  # of BOI and the N places after it
    boi: Tensor  # (B, E) as it is embedded
    state: Tensor  # (B, E): the backbone's at the last token read
    guidance: float  # 1: the rows are all there is

    @property
    def guided(self) -> bool:
        return self.guidance != 1

    @property
    def image_turn(self) -> Rotation:
        """Of the N places alone."""
        cos, sin = self.turn
        return cos[:, :, 1:], sin[:, :, 1:]


def read_prompt(backbone: Backbone, text: Tensor, lengths: Tensor, *, guidance: float, with_boi: bool = True) -> Prompt:
    """Captions (B, T) read once; at guidance 1 the unconditional half of the batch does not exist."""
    tokens, starts = prompt(*(with_empty_captions(text, lengths) if guidance != 1 else (text, lengths)))
    turn = backbone.image_rotation(starts, before=1)
    embedded = backbone.embed_text(tokens, starts)
    boi = embedded.gather(1, (starts - 1)[:, None, None].expand(-1, 1, backbone.width))[:, 0]
    room = turn[0].shape[2] - with_boi
    cache, state = backbone.prefill(tokens, starts if with_boi else starts - 1, room=room)
    return Prompt(cache, turn, boi, state, guidance)


def strengthened(given_and_empty: Tensor, guidance: float) -> Tensor:
    """(B, ...) of predictions (2 B, ...) with and without caption (arXiv:2207.12598)."""
    given, empty = given_and_empty.chunk(2)
    return empty + guidance * (given - empty)


@dataclass(frozen=True, eq=False)
class Known:
    """Tokens of an image that are given: what is painted is the rest."""

    z_q: Tensor  # (B, N, D) in the tokenizer's units
    indices: Tensor | None  # (B, N) or (B, N, K)
    keep: Tensor  # (B, N) bool, as many True in each row
