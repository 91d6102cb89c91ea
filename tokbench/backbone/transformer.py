"""The one transformer for text and image tokens: decoder-only, pre-norm, RMSNorm, SwiGLU, RoPE, QK-norm.

B rows, S places, N image tokens, D channels a token, E width, P prompt places.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.backbone.attention import Block, Cache
from tokbench.backbone.base_rule import base_warning
from tokbench.backbone.learned import LearnedPositions
from tokbench.backbone.positions import Layout, Positions, Rotation, as_grid, learned, resolve, rotation
from tokbench.backbone.sequence import BOS, IGNORE, SPECIALS, VOCABULARY, Sequences, attention_mask

VERSION = 1
Modulation = Callable[[int], Tensor]  # layer to (B, S, 6 E), as in `Block`


class Backbone(nn.Module):
    """Reads text by a table and image tokens by a linear map of standardised z_q and a norm; text has its own head."""

    def __init__(
        self,
        *,
        dim: int,
        width: int,
        depth: int,
        heads: int,
        grid: tuple[int, ...],
        positions: str | Positions,
        base: float,
        qk_norm: bool = True,
        long_skips: bool = False,
    ) -> None:
        """`dim` D of a token, `grid` the tokenizer's shape, `positions` a layout (or its name), `base` of RoPE.

        `qk_norm` False: the norm recipe without it (arXiv:2405.09818, 2.3 has it). `long_skips`: each layer of the second half
        also reads what went into its mirror in the first, by a linear map of both (U-ViT, 2209.12152), which starts as if it
        did not.

        `self.grid` may be set to another one after training: what is read and generated then has that shape.
        """
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width must be a multiple of 2 * heads, got width {width} and heads {heads}")
        self.dim, self.width, self.depth, self.heads, self.base = dim, width, depth, heads, base
        self.grid = as_grid(grid)
        self.layout = resolve(positions)
        self.text = nn.Embedding(VOCABULARY, width)
        self.image_norm = nn.RMSNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, qk_norm=qk_norm) for _ in range(depth))
        self.norm = nn.RMSNorm(width)
        self.text_head = nn.Linear(width, VOCABULARY, bias=False)
        self._initialise()
        self.image = nn.Linear(
            dim, width, bias=False
        )  # drawn last: the rest starts the same whatever the tokenizer's D
        nn.init.normal_(self.image.weight, std=dim**-0.5)
        self.num_colours = grid[2] if len(grid) == 3 else 1
        self.offset = nn.Embedding(self.num_colours, width) if dim == 1 else None
        self.learned = LearnedPositions(width, self.grid) if self.layout is learned else None
        self.skips = nn.ModuleList(nn.Linear(2 * width, width, bias=False) for _ in range(depth // 2 * long_skips))
        for skip in self.skips:
            assert isinstance(skip, nn.Linear)
            skip.weight.data.copy_(torch.eye(width, 2 * width))

    def _initialise(self) -> None:
        """Normal matrices of deviation 1/sqrt(fan in); residual branches start at zero, text logits near zero.

        Text embeddings keep their unit deviation: image tokens enter with a root mean square of one.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.feed.out.weight)
        nn.init.normal_(self.text_head.weight, std=0.02)

    def forward(
        self,
        x: Tensor,
        turn: Rotation,
        *,
        mask: Tensor | None,
        causal: bool,
        cache: Cache | None = None,
        modulation: Modulation | None = None,
    ) -> Tensor:
        """States (B, S, E) of embedded tokens (B, S, E), normalised. With a cache, x follows what it holds."""
        kept: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            if layer < len(self.skips):
                kept.append(x)
            elif layer >= len(self.blocks) - len(self.skips):
                x = self.skips[layer - len(self.blocks)](torch.cat((x, kept.pop()), dim=-1))
            x = block(x, turn, mask, causal, cache, layer, modulation and modulation(layer))
        if cache is not None:
            cache.filled += x.shape[1]
        return self.norm(x)

    def read(self, rows: Sequences, latents: Tensor, *, bidirectional: bool, shift: Tensor | None = None) -> Tensor:
        """States (B, S, E) of whole rows with their images (B, N, D).

        `shift` (B, E) is added to each image token's input. Tokens of one image see each other if `bidirectional`, else
        only what came before.
        """
        mask = attention_mask(rows.image_ids) if bidirectional else None
        return self.read_embedded(rows, self.embed_image(latents, shift), mask=mask)

    def read_embedded(
        self, rows: Sequences, image: Tensor, *, mask: Tensor | None, modulation: Modulation | None = None
    ) -> Tensor:
        """States (B, S, E) of whole rows with embedded images (B, M N, E) under a mask (B, 1, S, S); None: causal.

        `image` may hold each image's BOI too, before its tokens: (B, M (N + 1), E).
        """
        x = self.embed_text(rows.tokens, rows.image_starts)
        places = rows.places_from(rows.num_image - image.shape[1] // rows.image_starts.shape[1])
        x = x.scatter(1, places[..., None].expand_as(image), image.to(x.dtype))
        turn = self.rotation(rows.image_starts, x.shape[1])
        return self(x, turn, mask=mask, causal=mask is None, modulation=modulation)

    def prefill(self, tokens: Tensor, lengths: Tensor, *, room: int) -> tuple[Cache, Tensor]:
        """A cache that has read right-padded prompts (B, P), with `room` for more; each row's last state (B, E)."""
        cache = Cache(lengths, tokens.shape[1], tokens.shape[1] + room)
        turn = self.rotation(lengths, tokens.shape[1])
        states = self(self.embed_text(tokens, lengths), turn, mask=None, causal=True, cache=cache)
        last = (lengths - 1)[:, None, None].expand(-1, 1, self.width)
        return cache, states.gather(1, last)[:, 0]

    def extend(
        self,
        cache: Cache,
        x: Tensor,
        turn: Rotation,
        *,
        inside: Tensor | None = None,
        modulation: Modulation | None = None,
    ) -> Tensor:
        """States (B, S, E) of embedded tokens (B, S, E), added to the cache, that see all in it and each other.

        `inside` (S, S) bool: which of each other they see; None: all.
        """
        size, mask = cache.filled + x.shape[1], cache.visible
        mask = None if mask is None else mask[..., :size]
        if inside is not None:
            seen = F.pad(inside, (cache.filled, 0), value=True)[None, None]
            mask = seen if mask is None else mask & seen
        return self(x, turn, mask=mask, causal=False, cache=cache, modulation=modulation)

    def embed_text(self, tokens: Tensor, image_start: Tensor) -> Tensor:
        """(B, S, E) of text tokens (B, S), whatever stands in the places of the images that start at (B,) or (B, M)."""
        x = self.text(tokens)
        return x if self.learned is None else x + self.learned.text(self.places(image_start, tokens.shape[1]))

    def embed_image(self, latents: Tensor, shift: Tensor | None = None, *, first: int = 0) -> Tensor:
        """(B, N, E) of standardised z_q (B, N, D), with shift (B, E) added after the norm.

        Tokens of one channel are told apart by their sign alone once they are normalised; they get an offset before it, one
        a colour where the tokens are sub-pixels. `first` is the place of the first token in its image.
        """
        x = self.image(latents).float()
        if self.offset is not None:
            x = x + self.offset(torch.arange(first, first + x.shape[1], device=x.device) % self.num_colours)
        x = self.image_norm(x)
        if self.learned is not None:
            x = x + self.learned.image(self.grid)[first : first + x.shape[1]]
        return x if shift is None else x + shift[:, None]

    def embed_hidden(self, vector: Tensor) -> Tensor:
        """(N, E) of one vector (E,) that stands for every hidden token of an image, at its learned place; (E,) without those."""
        return vector if self.learned is None else vector + self.learned.image(self.grid)

    def text_nats(self, states: Tensor, targets: Tensor, *, content: bool = False) -> Tensor:
        """(B, S) nats of each text target given states (B, S, E), zero where it is IGNORE.

        `content`: what a caption says alone. A row's first byte is given to be one, and a caption ends in any special token: else
        it pays for the kind of row that it is in, which depends on the orders of rows and on the captions dropped in training.
        """
        logits = self.text_head(states).float()
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        if not content:
            return nats
        text, special = (logits[..., part].logsumexp(dim=-1) for part in (slice(BOS), slice(BOS, None)))
        spoken, every = targets != IGNORE, torch.logaddexp(text, special)
        nats = torch.where(targets >= BOS, every - special, nats)
        return torch.where(spoken & (spoken.cumsum(dim=1) == 1) & (targets < BOS), nats + text - every, nats)

    def text_loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """Mean nats a text target."""
        return self.text_nats(states, targets).sum() / (targets != IGNORE).sum().clamp(min=1)

    def places(self, image_start: Tensor, length: int) -> Tensor:
        """Positions (B, S, 2) of rows of `length` places with images of `grid` that start at (B,), or at (B, M)."""
        starts = image_start if image_start.ndim == 2 else image_start[:, None]
        return self.layout(Layout(starts, (self.grid,) * starts.shape[1], length))

    def base_warning(self, *, text: int) -> str | None:
        """What is wrong with the base for rows of `text` bytes and an image; None where nothing is."""
        length = text + self.grid[0] * self.grid[1] + SPECIALS
        positions = self._turning(torch.tensor([text + 2]), length)
        farthest = int(positions.max() - positions.min()) + 1
        return base_warning(self.base, head_dim=self.width // self.heads, length=farthest)

    def rotation(self, image_start: Tensor, length: int) -> Rotation:
        """RoPE tables of rows of `length` places whose images start at image_start (B,), or at (B, M)."""
        return rotation(self._turning(image_start, length), self.width // self.heads, self.base)

    def image_rotation(self, image_start: Tensor, *, before: int = 0) -> Rotation:
        """RoPE tables of `before` places and the N image tokens that follow them alone, at each row's own positions."""
        num_image = self.grid[0] * self.grid[1]
        places = image_start[:, None] + torch.arange(-before, num_image, device=image_start.device)
        positions = self._turning(image_start, int(image_start.max()) + num_image)
        chosen = positions.gather(1, places[..., None].expand(-1, -1, 2))
        return rotation(chosen, self.width // self.heads, self.base)

    def _turning(self, image_start: Tensor, length: int) -> Tensor:
        """(B, S, 2): by how much RoPE turns each token."""
        places = self.places(image_start, length)
        return places if self.learned is None else torch.zeros_like(places)
