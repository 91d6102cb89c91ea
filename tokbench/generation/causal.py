"""Image tokens one at a time, each given the text and the tokens before it, as in Chameleon (arXiv:2405.09818).

B images, N tokens an image, D channels a token, K stages or groups a token, E width, T text bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from tokbench.backbone.sequence import Sequences, draw_rows, prompt, rows_of_one_kind, with_empty_captions
from tokbench.backbone.transformer import Backbone
from tokbench.interfaces import Head, Quantized, TokenBatch, TokenSpace

VERSION = 1


class Causal(nn.Module):
    """Next-token prediction over text and image; the image head speaks only inside an image, exactly N times.

    So modality masking (Chameleon's at inference) holds by construction.
    """

    def __init__(
        self,
        space: TokenSpace,
        backbone: Backbone,
        head: Head,
        *,
        image_first: float,
        caption_dropout: float,
        loss_weights: Mapping[str, float],
        temperature: float,
    ) -> None:
        """Probabilities: `image_first` that a training row has its image before its caption, `caption_dropout` that one
        of the others loses its caption. `temperature` is of sampling, 0 for the likeliest token."""
        super().__init__()
        self.space, self.backbone, self.head = space, backbone, head
        self.image_first, self.caption_dropout, self.temperature = image_first, caption_dropout, temperature
        self.loss_weights = dict(loss_weights)

    def loss(self, batch: TokenBatch, generator: Generator) -> dict[str, Tensor]:
        """Mean nats a text target and mean loss an image token, both orders alike."""
        rows = draw_rows(
            batch,
            self.space.num_tokens,
            image_first=self.image_first,
            caption_dropout=self.caption_dropout,
            generator=generator,
        )
        states = self.backbone.read(rows, batch.latents, bidirectional=False)
        image = self.head.loss(_before_image(states, rows).flatten(0, 1), _indices(batch).flatten(0, 1), generator)
        return {"text": self.backbone.text_loss(states, rows.targets), "image": image.mean()}

    @torch.no_grad()
    def nll(self, batch: TokenBatch) -> Tensor:
        """(B,) nats of the image tokens given the caption before them; exact."""
        rows = rows_of_one_kind(batch, self.space.num_tokens, image_first=False)
        states = _before_image(self.backbone.read(rows, batch.latents, bidirectional=False), rows)
        nats = self.head.loss(states.flatten(0, 1), _indices(batch).flatten(0, 1), None)
        return nats.view(states.shape[:2]).sum(dim=1)

    @torch.no_grad()
    def caption_nll(self, batch: TokenBatch) -> Tensor:
        """(B,) nats of the caption's bytes and EOS after the image, under the causal mask."""
        rows = rows_of_one_kind(batch, self.space.num_tokens, image_first=True)
        states = self.backbone.read(rows, batch.latents, bidirectional=False)
        return self.backbone.text_nats(states, rows.caption_targets).sum(dim=1)

    @torch.no_grad()
    def sample(
        self, text: Tensor, lengths: Tensor, *, guidance: float, generator: Generator, use_cache: bool = True
    ) -> Quantized:
        """One image a caption (B, T), in N passes; without the cache each pass reads the whole row again.

        Indices are (B, N), or (B, N, K): the head draws all K of a token before the next pass.
        The tokens are the same either way. At guidance 1 the unconditional half of the batch does not exist.
        """
        guided = guidance != 1
        rows_text, rows_lengths = with_empty_captions(text, lengths) if guided else (text, lengths)
        tokens, starts = prompt(rows_text, rows_lengths)
        reader = _Cached(self.backbone, tokens, starts) if use_cache else _Recomputed(self.backbone, tokens, starts)
        state = reader.start()
        indices: list[Tensor] = []
        for step in range(self.space.num_tokens):
            if step:
                latents = self.space.standardize(self.space.indices_to_codes(indices[-1][:, None]))
                state = reader.step(torch.cat((latents, latents)) if guided else latents)
            h, h_uncond = state.chunk(2) if guided else (state, None)
            indices.append(
                self.head.sample(
                    h, h_uncond=h_uncond, guidance=guidance, temperature=self.temperature, generator=generator
                )
            )
        chosen = torch.stack(indices, dim=1)
        return Quantized(self.space.indices_to_codes(chosen), chosen, {})


class _Cached:
    """Reads each token once."""

    def __init__(self, backbone: Backbone, tokens: Tensor, starts: Tensor) -> None:
        self.backbone, self.tokens, self.starts = backbone, tokens, starts
        self.turn = backbone.image_rotation(starts)
        self.count = 0

    def start(self) -> Tensor:
        """(B, E): the state of each prompt's BOI."""
        room = self.turn[0].shape[2]
        self.cache, state = self.backbone.prefill(self.tokens, self.starts, room=room)
        return state

    def step(self, latents: Tensor) -> Tensor:
        """(B, E): the state after one more image token (B, 1, D)."""
        cos, sin = (part[:, :, self.count : self.count + 1] for part in self.turn)
        self.count += 1
        x = self.backbone.embed_image(latents, first=self.count - 1)
        return self.backbone.extend(self.cache, x, (cos, sin))[:, 0]


class _Recomputed:
    """Reads all of the row at every step, laid out as in training."""

    def __init__(self, backbone: Backbone, tokens: Tensor, starts: Tensor) -> None:
        self.backbone, self.tokens, self.starts = backbone, tokens, starts
        self.latents: Tensor | None = None

    def start(self) -> Tensor:
        return self._state(self.tokens, 0)

    def step(self, latents: Tensor) -> Tensor:
        self.latents = latents if self.latents is None else torch.cat((self.latents, latents), dim=1)
        count = self.latents.shape[1]
        return self._state(torch.nn.functional.pad(self.tokens, (0, count)), count)

    def _state(self, tokens: Tensor, count: int) -> Tensor:
        turn = self.backbone.rotation(self.starts, tokens.shape[1])
        x = self.backbone.embed_text(tokens, self.starts)
        if self.latents is not None:
            image = self.backbone.embed_image(self.latents)
            places = self.starts[:, None] + torch.arange(count, device=x.device)
            x = x.scatter(1, places[..., None].expand_as(image), image)
        states = self.backbone(x, turn, mask=None, causal=True)
        last = (self.starts + count - 1)[:, None, None].expand(-1, 1, self.backbone.width)
        return states.gather(1, last)[:, 0]


def _indices(batch: TokenBatch) -> Tensor:
    """(B, N) or (B, N, K)."""
    if batch.indices is None:
        raise ValueError("scheme 'causal' needs batch.indices, got None: the tokenizer is continuous")
    return batch.indices


def _before_image(states: Tensor, rows: Sequences) -> Tensor:
    """(B, N, E): the states that predict image tokens 0..N-1, from BOI to the last but one."""
    places = (rows.image_places - 1)[..., None].expand(-1, -1, states.shape[-1])
    return states.gather(1, places)
