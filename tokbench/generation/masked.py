"""Image tokens in a few rounds, many at once, each round given the text and all tokens drawn before: masked prediction.

MaskGIT (arXiv:2202.04200) and Show-o (2408.12528) with a head over indices, MAR (2406.11838) with a per-token diffusion head,
masked GIVT (2312.02116) with a mixture. The published MAR is an encoder of the known tokens and a decoder of all; here one
stack reads known and masked tokens together, as in Show-o. Text is causal, an image sees itself both ways.
B images, N tokens an image, D channels a token, K stages or groups a token, E width, T text bytes, R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from tokbench.backbone.positions import none
from tokbench.backbone.sequence import Sequences, attention_mask, draw_rows, rows_of_one_kind
from tokbench.backbone.transformer import Backbone
from tokbench.diffusion import choose
from tokbench.generation.prompts import Known, Prompt, read_prompt
from tokbench.generation.tokens import by_image, check_guidance, check_head, check_rows, finish, restored, targets
from tokbench.interfaces import Head, Quantized, TokenBatch, TokenSpace

VERSION = 1
BOUND_DRAWS = 8  # masks an image that `nll` averages over


def cosine_ratio(u: Tensor) -> Tensor:
    """Share of masked tokens cos(pi u / 2) of uniform u (B,) (arXiv:2202.04200, 3.3)."""
    return (u * torch.pi / 2).cos()


def mar_ratio(u: Tensor) -> Tensor:
    """Share of masked tokens of uniform u (B,): a normal of mean 1 and deviation .25, cut to [.7, 1] (arXiv:2406.11838, 4)."""
    low = torch.special.ndtr(torch.tensor(-0.3 / 0.25))
    return 1 + 0.25 * torch.special.ndtri(low + u * (0.5 - low))


RATIOS: dict[str, Callable[[Tensor], Tensor]] = {"cosine": cosine_ratio, "mar": mar_ratio}
Guidance = Callable[[float, float], float]
GUIDANCES: dict[str, Guidance] = {  # of the final guidance and the share of tokens known after the round
    "constant": lambda guidance, known: guidance,
    "linear": lambda guidance, known: 1 + (guidance - 1) * known,
}


def still_masked(num_tokens: int, rounds: int) -> list[int]:
    """Of N tokens, how many are masked after each of R rounds: about N cos(pi r / 2 R), at least one fewer each, 0 at last."""
    counts, left = [], num_tokens
    for r in range(1, rounds + 1):
        wanted = math.floor(num_tokens * math.cos(math.pi * r / (2 * rounds)) + 1e-9)
        left = max(min(wanted, left - 1), rounds - r)
        counts.append(left)
    return counts


class Masked(nn.Module):
    """Trained to say the masked tokens of an image, of which it sees the others; sampled in R rounds from all masked."""

    def __init__(
        self,
        space: TokenSpace,
        backbone: Backbone,
        head: Head,
        *,
        rounds: int,
        ratio: str,
        reveal: Literal["confident", "random"],
        confidence_noise: float,
        guidance_schedule: str,
        temperature: float,
        image_first: float,
        caption_dropout: float,
        loss_weights: Mapping[str, float],
        interleaved: float = 0.0,
    ) -> None:
        """`ratio`: names of `RATIOS`, how many tokens a training image has masked. `reveal`: which of the drawn tokens a
        round keeps, those of the largest log p + `confidence_noise` (1 - r / R) Gumbel, or any. `guidance_schedule`: a name
        of `GUIDANCES`. `temperature` is of the head; rows are drawn as in `Causal`. Of a backbone without positions the
        masked tokens would all be the same one: ValueError.
        """
        super().__init__()
        check_head("masked", space, head, temperature=temperature)
        check_rows(image_first=image_first, caption_dropout=caption_dropout, interleaved=interleaved)
        if backbone.layout is none:
            raise ValueError("scheme 'masked' needs positions to tell its masked tokens apart, got positions=none")
        if not 1 <= rounds <= space.num_tokens:
            raise ValueError(f"rounds must be in 1..{space.num_tokens}, the tokenizer's image tokens, got {rounds}")
        if reveal not in ("confident", "random"):
            raise ValueError(f"reveal must be confident or random, got {reveal!r}")
        if reveal == "confident" and not head.exact_nll:
            raise ValueError(
                f"reveal=confident needs a head with exact likelihood, got {type(head).__name__}: use random"
            )
        if confidence_noise < 0:
            raise ValueError(f"confidence_noise must be >= 0, got {confidence_noise}")
        self.space, self.backbone, self.head = space, backbone, head
        self.rounds, self.reveal, self.confidence_noise = rounds, reveal, confidence_noise
        self.ratio = choose(RATIOS, ratio, "ratio")
        self.guidance_at = choose(GUIDANCES, guidance_schedule, "guidance_schedule")
        self.image_first, self.caption_dropout, self.interleaved = image_first, caption_dropout, interleaved
        self.temperature = temperature
        self.loss_weights = dict(loss_weights)
        self.mask_token = nn.Parameter(torch.randn(backbone.width))

    @property
    def likelihood(self) -> Literal["bound"] | None:
        """What `nll` gives: a bound on the nats of the indices, or nothing."""
        return "bound" if self.head.exact_nll and self.head.reads == "indices" else None

    def loss(self, batch: TokenBatch, generator: Generator) -> dict[str, Tensor]:
        """Mean nats a text target; mean loss a masked token over images that follow their caption.

        An image before its caption is whole and only read: its row counts in the text loss alone. Each of two images of a
        row has its own mask.
        """
        rows, batch = draw_rows(
            batch,
            self.space.num_tokens,
            image_first=self.image_first,
            caption_dropout=self.caption_dropout,
            interleaved=self.interleaved,
            generator=generator,
        )
        first = rows.first_images
        uniform = torch.rand(len(first), generator=generator, device=generator.device).to(batch.latents)
        counts = (self.ratio(uniform) * self.space.num_tokens).ceil().clamp(1, self.space.num_tokens)
        masked = (self._draw_masks(counts, generator) & ~first[:, None]).view(batch.latents.shape[:2])
        states = self._read(rows, batch.latents, masked)
        losses = self.head.loss(_image_states(states, rows)[masked], targets(self.head, batch)[masked], generator)
        image = losses.sum() / masked.sum().clamp(min=1)
        return {"text": self.backbone.text_loss(states, rows.targets), "image": image}

    @torch.no_grad()
    def nll(self, batch: TokenBatch) -> Tensor | None:
        """(B,) nats: an upper bound on those of the image given its caption, in expectation over `BOUND_DRAWS` masks an image.

        -log p <= N E[1/k sum over a random set of k masked tokens of -log p(token | the others)], k uniform on 1..N
        (arXiv:2110.02037, equation 3). None where the head's loss is no likelihood of indices.
        """
        if self.likelihood is None:
            return None
        rows, target = rows_of_one_kind(batch, self.space.num_tokens, image_first=False), targets(self.head, batch)
        generator = torch.Generator(batch.latents.device).manual_seed(0)
        total = batch.latents.new_zeros(len(batch.latents))
        for draw in range(BOUND_DRAWS):
            uniform = torch.rand(len(total), generator=generator, device=generator.device)
            counts = 1 + ((draw + uniform) / BOUND_DRAWS * self.space.num_tokens).floor()
            masked = self._draw_masks(counts, generator)
            states = _image_states(self._read(rows, batch.latents, masked), rows)
            nats = total.new_zeros(masked.shape)
            nats[masked] = self.head.loss(states[masked], target[masked], None).to(nats)
            total += self.space.num_tokens / counts * nats.sum(dim=1)
        return total / BOUND_DRAWS

    def caption_nll(self, batch: TokenBatch, *, content: bool = False) -> Tensor:
        """(B,) nats of the caption's bytes and EOS after its whole images, each of which sees itself both ways."""
        images = batch.latents.shape[1] // self.space.num_tokens
        rows = rows_of_one_kind(batch, self.space.num_tokens, image_first=True, images=images)
        nothing = torch.zeros(batch.latents.shape[:2], dtype=torch.bool, device=batch.latents.device)
        states = self._read(rows, batch.latents, nothing)
        return self.backbone.text_nats(states, rows.caption_targets, content=content).sum(dim=1)

    @torch.no_grad()
    def sample(
        self, text: Tensor, lengths: Tensor, *, guidance: float, generator: Generator, known: Known | None = None
    ) -> Quantized:
        """One image a caption (B, T): the caption is read once, then R passes over the image tokens.

        Confidence is log p given the caption, also where guidance draws. At guidance 1 the unconditional half of the batch
        does not exist. Tokens that are `known` are there from the start: the rounds, R or as many as there are tokens
        left, draw the others.
        """
        check_guidance(guidance, self)
        prompt = read_prompt(self.backbone, text, lengths, guidance=guidance)
        return self.paint(prompt, generator=generator, known=known)

    def paint(self, prompt: Prompt, *, generator: Generator, known: Known | None = None) -> Quantized:
        """The image after the prompt, whose cache is left as it was."""
        rows = len(prompt.boi) // (1 + prompt.guided)
        canvas = _Canvas(self.space, rows, known, indices=self.head.reads == "indices", device=prompt.boi.device)
        hidden = self._noise(canvas.masked.shape, generator).to(canvas.masked.device).masked_fill(~canvas.masked, 2)
        order, total = hidden.argsort(dim=1), canvas.num_masked  # of drawing, where any token may come
        rounds = min(self.rounds, total)
        for r, left in enumerate(still_masked(total, rounds), start=1):
            states = self._states(prompt, canvas)
            everything = self.reveal == "confident"
            places = canvas.masked_places if everything else order[:, total - canvas.num_masked : total - left]
            guidance = self.guidance_at(prompt.guidance, 1 - left / self.space.num_tokens)
            drawn, h = self._draw(states, places, prompt.guided, guidance, generator)
            if everything:
                noise = self.confidence_noise * (1 - r / rounds)
                kept = self._most_confident(h, drawn, places.shape[1] - left, noise, generator)
                places, drawn = places.gather(1, kept), drawn[torch.arange(rows, device=kept.device)[:, None], kept]
            canvas.fill(places, drawn)
        return canvas.tokens()

    def remember(self, prompt: Prompt, z_q: Tensor) -> None:
        """Adds the image (B, N, D) to the prompt's cache, for text to follow."""
        self.backbone.extend(prompt.cache, self.backbone.embed_image(self.space.standardize(z_q)), prompt.image_turn)

    def _draw(
        self, states: Tensor, places: Tensor, guided: bool, guidance: float, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """(B, n, ...) drawn at places (B, n), and the states with the caption (B, n, E) that they were drawn from."""
        chosen = places[..., None].expand(-1, -1, states.shape[-1])
        h, *without = (part.gather(1, chosen) for part in states.chunk(1 + guided))
        drawn = self.head.sample(
            h.flatten(0, 1),
            h_uncond=without[0].flatten(0, 1) if without else None,
            guidance=guidance,
            temperature=self.temperature,
            generator=generator,
        )
        return drawn.unflatten(0, places.shape), h

    def _most_confident(self, h: Tensor, drawn: Tensor, count: int, noise: float, generator: Generator) -> Tensor:
        """(B, count) columns of the drawn tokens (B, n, ...) with the largest log p + noise * Gumbel."""
        confidence = -self.head.loss(h.flatten(0, 1), drawn.flatten(0, 1), generator).view(drawn.shape[:2])
        gumbel = -(-self._noise(confidence.shape, generator).log()).log()
        return (confidence + noise * gumbel).topk(count, dim=1).indices

    def _states(self, prompt: Prompt, canvas: _Canvas) -> Tensor:
        """(B, N, E) of the canvas after each prompt; the cache is left as it was."""
        slots = prompt.cache.filled
        x = self._embed(canvas.latents, canvas.masked).repeat(1 + prompt.guided, 1, 1)
        states = self.backbone.extend(prompt.cache, x, prompt.image_turn)
        prompt.cache.filled = slots
        return states

    def _read(self, rows: Sequences, latents: Tensor, masked: Tensor) -> Tensor:
        """States (B, S, E) of rows with the images (B, M N, D), masked (B, M N)."""
        image = self._embed(by_image(latents, rows), by_image(masked, rows)).reshape(*latents.shape[:2], -1)
        return self.backbone.read_embedded(rows, image, mask=attention_mask(rows.image_ids))

    def _embed(self, latents: Tensor, masked: Tensor) -> Tensor:
        """(B, N, E): the tokens (B, N, D), or [MASK] where masked (B, N), each at its place."""
        x = self.backbone.embed_image(latents)
        hidden = self.backbone.embed_hidden(self.mask_token)
        return torch.where(masked.to(x.device)[..., None], hidden.to(x.dtype), x)

    def _draw_masks(self, counts: Tensor, generator: Generator) -> Tensor:
        """(B, N) bool: counts (B,) random places of each row."""
        rank = self._noise((len(counts), self.space.num_tokens), generator).argsort(dim=1).argsort(dim=1)
        return (rank < counts[:, None].to(rank.device)).to(counts.device)

    @staticmethod
    def _noise(shape: tuple[int, ...], generator: Generator) -> Tensor:
        """Uniform, above 0, drawn where the generator lives."""
        return torch.rand(shape, generator=generator, device=generator.device).clamp_min(1e-20)


class _Canvas:
    """The image so far: every place masked or holding a token."""

    def __init__(
        self, space: TokenSpace, rows: int, known: Known | None, *, indices: bool, device: torch.device
    ) -> None:
        self.space, self.of_indices = space, indices
        self.masked = torch.ones(rows, space.num_tokens, dtype=torch.bool, device=device)
        self.z_q = space.mean.to(device).expand(rows, space.num_tokens, space.dim).clone()
        stages = (len(space.codebook_sizes),) if len(space.codebook_sizes) > 1 else ()
        empty = torch.zeros(rows, space.num_tokens, *stages, dtype=torch.int64, device=device)
        self.indices = empty if space.codebook_sizes else None
        if known is not None:
            if len(set(known.keep.sum(dim=1).tolist())) > 1:
                raise ValueError("keep must keep as many tokens in each row")
            given = restored(Quantized(self.z_q, self.indices, {}), known)
            self.z_q, self.indices, self.masked = given.z_q, given.indices, ~known.keep

    @property
    def num_masked(self) -> int:
        """The same in each row."""
        return int(self.masked[0].sum())

    @property
    def masked_places(self) -> Tensor:
        """(B, n) int64, in raster order."""
        return self.masked.nonzero()[:, 1].view(len(self.masked), -1)

    @property
    def latents(self) -> Tensor:
        """(B, N, D) standardised; anything where masked."""
        return self.space.standardize(self.z_q)

    def fill(self, places: Tensor, drawn: Tensor) -> None:
        """Puts what a head drew, (B, n, ...), into its places (B, n)."""
        found = finish(self.space, drawn, indices=self.of_indices)
        row = torch.arange(len(places), device=places.device)[:, None]
        self.z_q[row, places] = found.z_q.to(self.z_q)
        if self.indices is not None and found.indices is not None:
            self.indices[row, places] = found.indices
        self.masked[row, places] = False

    def tokens(self) -> Quantized:
        assert not self.masked.any()
        return Quantized(self.z_q, self.indices, {})


def _image_states(states: Tensor, rows: Sequences) -> Tensor:
    """(B, N, E) at the places of the image."""
    return states.gather(1, rows.image_places[..., None].expand(-1, -1, states.shape[-1]))
