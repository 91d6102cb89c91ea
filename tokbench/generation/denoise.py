"""All image tokens at once over noise levels: Transfusion (arXiv:2408.11039), which serves every tokenizer.

Text is causal, an image sees itself both ways. B images, N tokens an image, D channels a token, V codes, E width,
T text bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor, nn

from tokbench.backbone.attention import Cache
from tokbench.backbone.positions import Rotation
from tokbench.backbone.sequence import draw_rows, prompt, rows_of_one_kind, with_empty_captions
from tokbench.backbone.transformer import Backbone
from tokbench.diffusion import PREDICTIONS, SAMPLERS, SCHEDULES, add_noise, choose, evaluations, normal_like, sample
from tokbench.generation.tokens import check_guidance, check_rows, check_snap, finish
from tokbench.interfaces import Quantized, TokenBatch, TokenSpace
from tokbench.layers import time_embedding

VERSION = 1


class Denoise(nn.Module):
    """Diffusion on standardised z_q inside the backbone; a discrete tokenizer's finished sample snaps to its codes."""

    def __init__(
        self,
        space: TokenSpace,
        backbone: Backbone,
        *,
        schedule: str,
        prediction: str,
        steps: int,
        sampler: str,
        image_first: float,
        caption_dropout: float,
        loss_weights: Mapping[str, float],
    ) -> None:
        """Names of `tokbench.diffusion`; `steps` of the sampler, `evaluations` passes; rows are drawn as in `Causal`."""
        super().__init__()
        check_snap("denoise", space)
        check_rows(image_first=image_first, caption_dropout=caption_dropout)
        self.space, self.backbone, self.steps = space, backbone, steps
        self.evaluations = evaluations(sampler, steps)
        self.schedule = choose(SCHEDULES, schedule, "schedule")
        self.prediction = choose(PREDICTIONS, prediction, "prediction")
        self.sampler = choose(SAMPLERS, sampler, "sampler")
        self.image_first, self.caption_dropout = image_first, caption_dropout
        self.loss_weights = dict(loss_weights)
        width = backbone.width
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.output = nn.Linear(width, space.dim, bias=False)
        nn.init.zeros_(self.output.weight)

    def loss(self, batch: TokenBatch, generator: Generator) -> dict[str, Tensor]:
        """Mean nats a text target; mean squared error of the predicted quantity over images that follow their caption.

        An image before its caption is clean, at t = 0, and only read: its row counts in the text loss alone.
        """
        rows = draw_rows(
            batch,
            self.space.num_tokens,
            image_first=self.image_first,
            caption_dropout=self.caption_dropout,
            generator=generator,
        )
        time = torch.rand(len(batch.latents), generator=generator, device=generator.device).to(batch.latents)
        level, noise = self.schedule(time), normal_like(batch.latents, generator)
        read_only = rows.image_first[:, None, None]
        latents = torch.where(read_only, batch.latents, add_noise(batch.latents, noise, level))
        states = self.backbone.read(
            rows, latents, bidirectional=True, shift=self._shift(time.masked_fill(rows.image_first, 0))
        )
        places = rows.image_places[..., None].expand(-1, -1, states.shape[-1])
        error = self.output(states.gather(1, places)) - self.prediction.target(batch.latents, noise, level)
        counted = ~rows.image_first
        image = (error.square().mean(dim=(1, 2)) * counted).sum() / counted.sum().clamp(min=1)
        return {"text": self.backbone.text_loss(states, rows.targets), "image": image}

    @property
    def likelihood(self) -> None:
        """None: no exact likelihood."""

    def nll(self, batch: TokenBatch) -> None:
        """None: no exact likelihood."""

    @torch.no_grad()
    def caption_nll(self, batch: TokenBatch) -> Tensor:
        """(B,) nats of the caption's bytes and EOS after the clean image, which sees itself both ways."""
        rows = rows_of_one_kind(batch, self.space.num_tokens, image_first=True)
        clean = self._shift(batch.latents.new_zeros(len(batch.latents)))
        states = self.backbone.read(rows, batch.latents, bidirectional=True, shift=clean)
        return self.backbone.text_nats(states, rows.caption_targets).sum(dim=1)

    @torch.no_grad()
    def sample(self, text: Tensor, lengths: Tensor, *, guidance: float, generator: Generator) -> Quantized:
        """One image a caption (B, T): the caption is read once, then `evaluations` passes over the image tokens.

        At guidance 1 the unconditional half of the batch does not exist.
        """
        check_guidance(guidance, caption_dropout=self.caption_dropout)
        guided = guidance != 1
        tokens, starts = prompt(*(with_empty_captions(text, lengths) if guided else (text, lengths)))
        cache, _ = self.backbone.prefill(tokens, starts, room=self.space.num_tokens)
        turn = self.backbone.image_rotation(starts)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            if not guided:
                return self._predict(cache, turn, x, time)
            given, empty = self._predict(cache, turn, torch.cat((x, x)), torch.cat((time, time))).chunk(2)
            return empty + guidance * (given - empty)

        shape = (len(text), self.space.num_tokens, self.space.dim)
        x = sample(
            predict,
            normal_like(torch.empty(shape, device=text.device), generator),
            schedule=self.schedule,
            prediction=self.prediction,
            sampler=self.sampler,
            steps=self.steps,
            generator=generator,
        )
        return finish(self.space, x, indices=False)

    def denoiser(self, text: Tensor, lengths: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """x_0 (B, N, D) of x_t (B, N, D) at t (B,), both standardised, given captions (B, T) that are read once."""
        tokens, starts = prompt(text, lengths)
        cache, _ = self.backbone.prefill(tokens, starts, room=self.space.num_tokens)
        turn = self.backbone.image_rotation(starts)
        return lambda x, time: self.prediction.clean(self._predict(cache, turn, x, time), x, self.schedule(time))

    def _predict(self, cache: Cache, turn: Rotation, x: Tensor, time: Tensor) -> Tensor:
        """(B, N, D) predicted for x at time (B,); the cache is left as it was, holding the prompt."""
        prompt_slots = cache.filled
        states = self.backbone.extend(cache, self.backbone.embed_image(x, self._shift(time)), turn)
        cache.filled = prompt_slots
        return self.output(states).float()

    def _shift(self, time: Tensor) -> Tensor:
        """(B, E) that tells the image tokens their noise level (B,)."""
        return self.time(time_embedding(time, self.backbone.width))
