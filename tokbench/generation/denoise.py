"""All image tokens at once over noise levels: Transfusion (arXiv:2408.11039), which serves every tokenizer.

On raw patches it is the noisy-patch transformer of kexue.fm 9984. Text is causal, an image sees itself both ways. B images,
N tokens an image, D channels a token, P patch side, V codes, E width, T text bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tokbench.backbone.sequence import Sequences, attention_mask, draw_rows, rows_of_one_kind
from tokbench.backbone.transformer import Backbone, Modulation
from tokbench.diffusion import (
    SAMPLERS,
    add_noise,
    choose,
    evaluations,
    implied_noise,
    normal_like,
    process,
    sample,
    shifted,
)
from tokbench.generation.branches import Memory
from tokbench.generation.prompts import Known, Prompt, read_prompt, strengthened
from tokbench.generation.tokens import by_image, check_guidance, check_rows, check_snap, finish, restored
from tokbench.interfaces import Quantized, TokenBatch, TokenSpace
from tokbench.layers import time_embedding

VERSION = 1
CONDITIONINGS = {name: name for name in ("add", "token", "adaln_zero")}
ATTENTIONS = {"bidirectional": False, "causal": True}


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
        interleaved: float = 0.0,
        scale: float = 1.0,
        noise_cap: float = 0.0,
        conditioning: str = "add",
        image_attention: str = "bidirectional",
        patch: int = 1,
        branch: Callable[..., Any] | None = None,
    ) -> None:
        """Names of `tokbench.diffusion`; `steps` of the sampler; rows are drawn as in `Causal`.

        `scale` of the schedule (`diffusion.shifted`; 1: as it is). `noise_cap`: an image before its caption is noised up to
        this t and predicted too (Transfusion, 4.3.4: .5); at 0 it is clean and only read. `conditioning` on t: "add" to each
        image token; "token": BOI, which joins the image, carries it (as in U-ViT, 2209.12152); "adaln_zero" (DiT,
        2212.09748) at image tokens alone, its gates 1 + 0 since the backbone's branches start at zero themselves.
        `image_attention`: "causal" is Transfusion's ablation. `patch`: P x P tokens are one in the backbone, whose grid is that
        of the patches. `branch` is called with dim, patch and width: what stands beside the linear maps (`branches`).
        """
        super().__init__()
        check_snap("denoise", space)
        check_rows(image_first=image_first, caption_dropout=caption_dropout, interleaved=interleaved)
        if not 0 <= noise_cap <= 1:
            raise ValueError(f"noise_cap must be in [0, 1], got {noise_cap}")
        self.evaluations = evaluations(sampler, steps)  # passes over the image tokens
        self.space, self.backbone, self.steps, self.patch = space, backbone, steps, patch
        self.schedule, self.prediction = process(schedule, prediction)
        if scale != 1:
            self.schedule = shifted(self.schedule, scale=scale)
        self.sampler = choose(SAMPLERS, sampler, "sampler")
        self.conditioning = choose(CONDITIONINGS, conditioning, "conditioning")
        self.causal_image, self.noise_cap = choose(ATTENTIONS, image_attention, "image_attention"), noise_cap
        self.image_first, self.caption_dropout, self.interleaved = image_first, caption_dropout, interleaved
        self.loss_weights = dict(loss_weights)
        width = backbone.width
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.output = nn.Linear(width, space.dim * patch**2, bias=False)
        nn.init.zeros_(self.output.weight)
        self.branch = None if branch is None else branch(dim=space.dim, patch=patch, width=width)
        layers = backbone.depth if conditioning == "adaln_zero" else 0
        self.modulations = nn.ModuleList(nn.Linear(width, 6 * width) for _ in range(layers))
        for parameter in self.modulations.parameters():
            nn.init.zeros_(parameter)

    @property
    def num_places(self) -> int:
        """Places of an image in the sequence."""
        return self.space.num_tokens // self.patch**2

    def loss(self, batch: TokenBatch, generator: Generator) -> dict[str, Tensor]:
        """Mean nats a text target; mean squared error of the predicted quantity over images that follow their caption.

        An image before its caption is clean, at t = 0, and only read: its row counts in the text loss alone, unless there
        is a `noise_cap`. Each of two images of a row has its own t.
        """
        rows, batch = draw_rows(
            batch,
            self.num_places,
            image_first=self.image_first,
            caption_dropout=self.caption_dropout,
            interleaved=self.interleaved,
            generator=generator,
        )
        clean, first = by_image(batch.latents, rows), rows.first_images
        time = torch.rand(len(clean), generator=generator, device=generator.device).to(clean)
        time = torch.where(first, time * self.noise_cap, time)
        level, noise = self.schedule(time), normal_like(clean, generator)
        read_only = first & (self.noise_cap == 0)
        latents = torch.where(read_only[:, None, None], clean, add_noise(clean, noise, level))
        states, memory = self._read(rows, latents, time)
        places = rows.image_places[..., None].expand(-1, -1, states.shape[-1])
        own = by_image(states.gather(1, places), rows)
        error = self._predict(own, memory) - self.prediction.target(clean, noise, level)
        image = (error.square().mean(dim=(1, 2)) * ~read_only).sum() / (~read_only).sum().clamp(min=1)
        return {"text": self.backbone.text_loss(states, rows.targets), "image": image}

    @property
    def likelihood(self) -> None:
        """None: no exact likelihood."""

    def nll(self, batch: TokenBatch) -> None:
        """None: no exact likelihood."""

    def caption_nll(self, batch: TokenBatch, *, content: bool = False) -> Tensor:
        """(B,) nats of the caption's bytes and EOS after its clean images, each of which sees itself both ways."""
        images = batch.latents.shape[1] // self.space.num_tokens
        rows = rows_of_one_kind(batch, self.num_places, image_first=True, images=images)
        clean = by_image(batch.latents, rows)
        states, _ = self._read(rows, clean, clean.new_zeros(len(clean)))
        return self.backbone.text_nats(states, rows.caption_targets, content=content).sum(dim=1)

    @torch.no_grad()
    def sample(
        self, text: Tensor, lengths: Tensor, *, guidance: float, generator: Generator, known: Known | None = None
    ) -> Quantized:
        """One image a caption (B, T): the caption is read once, then `evaluations` passes over the image tokens.

        At guidance 1 the unconditional half of the batch does not exist. Tokens that are `known` stay as they are.
        """
        check_guidance(guidance, self)
        return self.paint(
            read_prompt(self.backbone, text, lengths, guidance=guidance, with_boi=not self.rereads_boi),
            generator=generator,
            known=known,
        )

    def paint(self, prompt: Prompt, *, generator: Generator, known: Known | None = None) -> Quantized:
        """The image after the prompt, whose cache is left as it was."""

        def predict(x: Tensor, time: Tensor) -> Tensor:
            if prompt.guided:
                both = self._pass(prompt, torch.cat((x, x)), torch.cat((time, time)))
                predicted = strengthened(both, prompt.guidance)
            else:
                predicted = self._pass(prompt, x, time)
            return predicted if known is None else self._known(known, predicted, x, time)

        rows = len(prompt.boi) // (1 + prompt.guided)
        start = torch.empty(rows, self.space.num_tokens, self.space.dim, device=prompt.boi.device)
        x = sample(
            predict,
            normal_like(start, generator),
            schedule=self.schedule,
            prediction=self.prediction,
            sampler=self.sampler,
            steps=self.steps,
            generator=generator,
        )
        found = finish(self.space, x, indices=False)
        return found if known is None else restored(found, known)

    def remember(self, prompt: Prompt, z_q: Tensor) -> None:
        """Adds the clean image (B, N, D) to the prompt's cache, for text to follow."""
        x = self.space.standardize(z_q)
        self._extend(prompt, x, x.new_zeros(len(x)))

    def denoiser(self, text: Tensor, lengths: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """x_0 (B, N, D) of x_t (B, N, D) at t (B,), both standardised, given captions (B, T) that are read once."""
        prompt = read_prompt(self.backbone, text, lengths, guidance=1, with_boi=not self.rereads_boi)
        return lambda x, time: self.prediction.clean(self._pass(prompt, x, time), x, self.schedule(time))

    @property
    def rereads_boi(self) -> bool:
        """Whether BOI belongs to the image, which is read with it."""
        return self.conditioning == "token"

    def _known(self, known: Known, predicted: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """The prediction (B, N, D), but the true one for known tokens: they follow the path that ends where they are."""
        level, clean = self.schedule(time), self.space.standardize(known.z_q)
        true = self.prediction.target(clean, implied_noise(clean, x, level), level)
        return torch.where(known.keep[..., None], true, predicted)

    def _pass(self, prompt: Prompt, x: Tensor, time: Tensor) -> Tensor:
        """(B, N, D) predicted for x at time (B,); the cache is left as it was, holding the prompt."""
        slots = prompt.cache.filled
        states, memory = self._extend(prompt, x, time)
        prompt.cache.filled = slots
        return self._predict(states, memory).float()

    def _extend(self, prompt: Prompt, x: Tensor, time: Tensor) -> tuple[Tensor, Memory]:
        """States (B, N', E) of the image's places after the prompt, and what a branch remembers."""
        shift = self._shift(time)
        image, memory = self._embed(x, shift)
        turn = prompt.image_turn
        if self.rereads_boi:
            image, turn = torch.cat(((prompt.boi + shift)[:, None], image), dim=1), prompt.turn
        places = image.shape[1]
        inside = torch.ones(places, places, dtype=torch.bool, device=x.device).tril() if self.causal_image else None
        modulation = self._modulation(shift, None)
        states = self.backbone.extend(prompt.cache, image, turn, inside=inside, modulation=modulation)
        return states[:, -self.num_places :], memory

    def _read(self, rows: Sequences, latents: Tensor, time: Tensor) -> tuple[Tensor, Memory]:
        """States (B, S, E) of rows with their images (B M, N, D) at time (B M,), and what a branch remembers of each image."""
        shift = self._shift(time)
        image, memory = self._embed(latents, shift)
        first = -1 if self.rereads_boi else 0
        if self.rereads_boi:
            boi = self.backbone.embed_text(rows.tokens, rows.image_starts).gather(
                1, (rows.image_starts - 1)[..., None].expand(-1, -1, image.shape[-1])
            )
            image = torch.cat(((boi.flatten(0, 1) + shift)[:, None], image), dim=1)
        mask = None if self.causal_image else attention_mask(rows.ids_from(first))
        modulation = self._modulation(shift, rows.image_ids)
        image = image.reshape(len(rows.tokens), -1, image.shape[-1])
        return self.backbone.read_embedded(rows, image, mask=mask, modulation=modulation), memory

    def _embed(self, x: Tensor, shift: Tensor) -> tuple[Tensor, Memory]:
        """(B, N', E) of tokens (B, N, D) at embedded time (B, E), and what a branch remembers."""
        added = shift if self.conditioning == "add" else None
        if self.patch == 1 and self.branch is None:
            return self.backbone.embed_image(x, added), []
        picture = x.transpose(1, 2).unflatten(2, self._grid)
        patches = F.pixel_unshuffle(picture, self.patch).flatten(2).transpose(1, 2)
        embedded = self.backbone.embed_image(patches, added)
        if self.branch is None:
            return embedded, []
        features, memory = self.branch.encode(picture, shift)
        return embedded + features.flatten(2).transpose(1, 2), memory

    def _predict(self, states: Tensor, memory: Memory) -> Tensor:
        """(B, N, D) of the states (B, N', E) of the image's places."""
        predicted = self.output(states)
        if self.patch == 1 and self.branch is None:
            return predicted
        grid = self.backbone.grid
        picture = F.pixel_shuffle(predicted.transpose(1, 2).unflatten(2, grid), self.patch)
        if self.branch is not None:
            picture = picture + self.branch.decode(states.transpose(1, 2).unflatten(2, grid), memory)
        return picture.flatten(2).transpose(1, 2)

    @property
    def _grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        height, width = self.backbone.grid
        return height * self.patch, width * self.patch

    def _shift(self, time: Tensor) -> Tensor:
        """(B, E) that tells the image tokens their noise level (B,)."""
        return self.time(time_embedding(time, self.backbone.width))

    def _modulation(self, shift: Tensor, ids: Tensor | None) -> Modulation | None:
        """adaLN's parameters of each layer, (B, S, 6 E), by the shifts (B M, E) of the images whose `ids` (B, S) places have.

        They are zero where there is text; without ids every place is of the one image. None: no adaLN.
        """
        if not self.modulations:
            return None
        told = F.silu(shift)[:, None]
        if ids is None:
            return lambda layer: self.modulations[layer](told)

        def modulation(layer: int) -> Tensor:
            found = self.modulations[layer](told).view(len(ids), -1, told.shape[-1] * 6)
            if found.shape[1] > 1:
                found = found.take_along_dim((ids - 1).clamp(min=0)[..., None], dim=1)
            return found * (ids > 0)[..., None]

        return modulation
