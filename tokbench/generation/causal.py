"""Image tokens one at a time, each given the text and the tokens before it: a scheme for every head.

Over indices as in Chameleon (arXiv:2405.09818), over latents as in GIVT (2312.02116) and the causal rows of MAR (2406.11838).
B images, N tokens an image, D channels a token, K stages or groups a token, E width, T text bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tokbench.backbone.decoding import Decoder
from tokbench.backbone.sequence import (
    IGNORE,
    Sequences,
    arrange,
    draw_rows,
    ordered_mask,
    rows_of_one_kind,
    with_empty_captions,
)
from tokbench.backbone.transformer import Backbone
from tokbench.diffusion import choose
from tokbench.generation.orders import ORDERS
from tokbench.generation.prompts import Prompt, read_prompt
from tokbench.generation.tokens import (
    by_image,
    check_guidance,
    check_head,
    check_rows,
    finish,
    joined,
    log_volume,
    targets,
)
from tokbench.heads.categorical import Categorical
from tokbench.interfaces import Head, Quantized, TokenBatch, TokenSpace

VERSION = 1


class Causal(nn.Module):
    """Next-token prediction over text and image; the image head speaks only inside an image, exactly N times.

    So modality masking (Chameleon's at inference) holds by construction. In another order than raster the tokens keep their
    places and positions: the attention mask follows the order, and each token is told which place comes next (as in
    arXiv:2404.09562), which raster order need not.
    """

    def __init__(
        self,
        space: TokenSpace,
        backbone: Backbone,
        head: Head,
        *,
        order: str,
        image_first: float,
        caption_dropout: float,
        loss_weights: Mapping[str, float],
        temperature: float,
        interleaved: float = 0.0,
        joint_vocabulary: bool = False,
        z_loss: float = 0.0,
    ) -> None:
        """`order` is a name of `orders`. Probabilities: `image_first` that a training row has its image before its caption,
        `caption_dropout` that one of the others loses its caption, `interleaved` that a batch's rows hold two captions and
        their images each. `temperature` is of sampling, 0 for the likeliest index.
        Chameleon's training (2.3): `joint_vocabulary`, one softmax over text and image tokens; `z_loss`, the weight of log^2 Z.
        """
        super().__init__()
        check_head("causal", space, head, temperature=temperature)
        check_rows(image_first=image_first, caption_dropout=caption_dropout, interleaved=interleaved)
        self.space, self.backbone, self.head = space, backbone, head
        self.image_first, self.caption_dropout, self.interleaved = image_first, caption_dropout, interleaved
        self.temperature = temperature
        self.loss_weights = {**loss_weights, **({"z": z_loss} if z_loss else {})}
        self.joint_vocabulary = joint_vocabulary
        if (joint_vocabulary or z_loss) and not isinstance(head, Categorical):
            raise ValueError(f"joint_vocabulary and z_loss need head Categorical, got {type(head).__name__}")
        self._order = choose(ORDERS, order, "order")
        following = 0.02 * torch.randn(space.num_tokens, backbone.width) if order != "raster" else None
        self.following = None if following is None else nn.Parameter(following)

    @property
    def order(self) -> Tensor:
        """(N,) places in the order of their drawing, of the backbone's present grid."""
        return self._order(*self.backbone.grid).to(self.backbone.image.weight.device)

    @property
    def likelihood(self) -> Literal["exact", "density"] | None:
        """What `nll` gives: nats of the indices, of a density in the tokenizer's units, or nothing."""
        if not self.head.exact_nll:
            return None
        if self.head.reads == "indices":
            return "exact"
        return None if self.space.codebook_sizes else "density"  # of codes a density has no upper limit

    def loss(self, batch: TokenBatch, generator: Generator) -> dict[str, Tensor]:
        """Mean nats a text target and mean loss an image token, both orders alike."""
        rows, batch = draw_rows(
            batch,
            self.space.num_tokens,
            image_first=self.image_first,
            caption_dropout=self.caption_dropout,
            interleaved=self.interleaved,
            generator=generator,
        )
        states = self._read(rows, batch.latents)
        target = targets(self.head, batch)
        if self.joint_vocabulary or "z" in self.loss_weights:
            return self._chameleon_loss(states, rows, target)
        image = self.head.loss(self._before_image(states, rows).flatten(0, 1), target.flatten(0, 1), generator)
        return {"text": self.backbone.text_loss(states, rows.targets), "image": image.mean()}

    def _chameleon_loss(self, states: Tensor, rows: Sequences, target: Tensor) -> dict[str, Tensor]:
        """As `loss`, with one softmax over both vocabularies, or log^2 Z of each of the two, or both."""
        heads = (self.backbone.text_head, cast(Categorical, self.head).logits)
        spoken = rows.targets != IGNORE
        parts = (
            (states[spoken], rows.targets[spoken]),
            (self._before_image(states, rows).flatten(0, 1), target.flatten()),
        )
        terms, squares = [], []
        for own, (h, said) in enumerate(parts):
            used = heads if self.joint_vocabulary else heads[own : own + 1]
            logits = torch.cat([head(h) for head in used], dim=-1).float()
            offset = heads[0].out_features if self.joint_vocabulary and own else 0
            terms.append(F.cross_entropy(logits, said + offset))
            squares.append(logits.logsumexp(dim=-1).square())
        losses = {"text": terms[0], "image": terms[1], "z": torch.cat(squares).mean()}
        return {name: losses[name] for name in self.loss_weights}

    @torch.no_grad()
    def nll(self, batch: TokenBatch) -> Tensor | None:
        """(B,) nats of the image tokens given the caption before them, exact; None where the head's loss is not.

        Of latents: of their density in the tokenizer's units, which can be negative.
        """
        if self.likelihood is None:
            return None
        units = log_volume(self.space) if self.likelihood == "density" else 0.0
        return self.token_nll(batch).sum(dim=1) + units

    @torch.no_grad()
    def token_nll(self, batch: TokenBatch) -> Tensor:
        """(B, N) the head's loss at each place of the image, given the caption and the tokens drawn before it."""
        rows = rows_of_one_kind(batch, self.space.num_tokens, image_first=False)
        states = self._before_image(self._read(rows, batch.latents), rows)
        nats = self.head.loss(states.flatten(0, 1), targets(self.head, batch).flatten(0, 1), None)
        return nats.view(states.shape[:2])

    def caption_nll(self, batch: TokenBatch, *, content: bool = False) -> Tensor:
        """(B,) nats of the caption's bytes and EOS after its images, under the causal mask."""
        images = batch.latents.shape[1] // self.space.num_tokens
        rows = rows_of_one_kind(batch, self.space.num_tokens, image_first=True, images=images)
        states = self._read(rows, batch.latents)
        return self.backbone.text_nats(states, rows.caption_targets, content=content).sum(dim=1)

    @torch.no_grad()
    def sample(
        self, text: Tensor, lengths: Tensor, *, guidance: float, generator: Generator, use_cache: bool = True
    ) -> Quantized:
        """One image a caption (B, T), in N passes; without the cache each pass reads the whole row again.

        Indices are (B, N), or (B, N, K): the head draws all K of a token before the next pass. A discrete tokenizer's latents
        snap to their codes before they are read. The tokens are the same with and without the cache. At guidance 1 the
        unconditional half of the batch does not exist.
        """
        check_guidance(guidance, self)
        if use_cache:
            return self.paint(read_prompt(self.backbone, text, lengths, guidance=guidance), generator=generator)
        rows = with_empty_captions(text, lengths) if guidance != 1 else (text, lengths)
        return self._draw(_Recomputed(self, *rows), guidance, generator)

    @torch.no_grad()
    def paint(self, prompt: Prompt, *, generator: Generator) -> Quantized:
        """The image after the prompt, whose cache is left as it was."""
        slots = prompt.cache.filled
        found = self._draw(_Cached(self, prompt), prompt.guidance, generator)
        prompt.cache.filled = slots
        return found

    def remember(self, prompt: Prompt, z_q: Tensor) -> None:
        """Adds the image (B, N, D) to the prompt's cache, for text to follow."""
        rank = self.order.argsort()
        x = self.embed(self.space.standardize(z_q))
        self.backbone.extend(prompt.cache, x, prompt.image_turn, inside=rank[None] <= rank[:, None])

    def _draw(self, reader: _Cached | _Recomputed, guidance: float, generator: Generator) -> Quantized:
        guided, state = guidance != 1, reader.start()
        drawn: list[Quantized] = []
        for place in (None, *self.order[:-1].tolist()):
            if place is not None:
                latents = self.space.standardize(drawn[-1].z_q)
                state = reader.step(torch.cat((latents, latents)) if guided else latents, place)
            h, h_uncond = state.chunk(2) if guided else (state, None)
            token = self.head.sample(
                h, h_uncond=h_uncond, guidance=guidance, temperature=self.temperature, generator=generator
            )
            drawn.append(finish(self.space, token[:, None], indices=self.head.reads == "indices"))
        return joined(drawn, self.order.argsort())

    def embed(self, latents: Tensor, *, first: int = 0) -> Tensor:
        """(B, n, E) of the tokens (B, n, D) at places first, first + 1, ... of their image."""
        x = self.backbone.embed_image(latents, first=first)
        return x if self.following is None else x + self.following[first : first + x.shape[1]]

    def _read(self, rows: Sequences, latents: Tensor) -> Tensor:
        """States (B, S, E) of rows with the images (B, M n, D), n of the places of each."""
        image = self.embed(by_image(latents, rows)).reshape(*latents.shape[:2], self.backbone.width)
        mask = None if self.following is None else ordered_mask(rows, self.order.argsort()[: rows.num_image])
        return self.backbone.read_embedded(rows, image, mask=mask)

    def _before_image(self, states: Tensor, rows: Sequences) -> Tensor:
        """(B, M N, E): the states that predict the image tokens, each that of the token before it, or of BOI."""
        order = self.order
        before = torch.cat((order.new_tensor([-1]), order[:-1]))[order.argsort()]  # the place drawn before; -1: BOI's
        places = (rows.image_starts[..., None] + before).flatten(1)[..., None].expand(-1, -1, states.shape[-1])
        return states.gather(1, places)


class _Cached:
    """Reads each token once."""

    def __init__(self, scheme: Causal, prompt: Prompt) -> None:
        self.scheme, self.prompt = scheme, prompt
        self.decoder = Decoder(scheme.backbone, prompt.cache, prompt.image_turn)

    def start(self) -> Tensor:
        """(B, E): the state of each prompt's BOI."""
        return self.prompt.state

    def step(self, latents: Tensor, place: int) -> Tensor:
        """(B, E): the state after one more image token (B, 1, D), that of `place`."""
        return self.decoder.step(self.scheme.embed(latents, first=place)[:, 0], place)


class _Recomputed:
    """Reads all of the row at every step, laid out as in training, up to the last place that is filled."""

    def __init__(self, scheme: Causal, text: Tensor, lengths: Tensor) -> None:
        self.scheme, self.text, self.lengths = scheme, text, lengths
        self.latents = torch.zeros(len(text), scheme.space.num_tokens, scheme.space.dim, device=text.device)
        self.count = 0

    def start(self) -> Tensor:
        return self._state(-1)

    def step(self, latents: Tensor, place: int) -> Tensor:
        self.latents[:, place] = latents[:, 0]
        self.count = max(self.count, place + 1)
        return self._state(place)

    def _state(self, place: int) -> Tensor:
        rows = arrange(self.text, self.lengths, torch.zeros_like(self.lengths, dtype=torch.bool), self.count)
        states = self.scheme._read(rows, self.latents[:, : self.count])
        last = (rows.image_start + place)[:, None, None].expand(-1, 1, states.shape[-1])
        return states.gather(1, last)[:, 0]
