"""One pre-norm transformer block and the memory that lets it read a prompt once.

B rows, S tokens, E width, H heads, d = E / H, P prompt slots.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.backbone.positions import Rotation, rotate
from tokbench.layers import SwiGLU

VERSION = 1


class Cache:
    """Rotated keys and values of what was read so far, in slots.

    A slot is not a position: prompts fill slots 0..P-1, padded on the right, and what follows goes to the same slots
    P, P+1, ... in every row. Attention does not care about the order of keys, and each row's positions are in its keys
    already, so that ragged rows need a mask over their padding and no scatter; rows of one length need no mask.
    """

    def __init__(self, lengths: Tensor, slots: int, capacity: int) -> None:
        """Room for `capacity` slots, the first `slots` of them for prompts of the given lengths (B,)."""
        place = torch.arange(capacity, device=lengths.device)
        padding = (place >= lengths[:, None]) & (place < slots)
        self.visible = ~padding[:, None, None] if bool(padding.any()) else None  # (B, 1, 1, capacity)
        self.capacity = capacity
        self.filled = 0
        self.layers: list[tuple[Tensor, Tensor]] = []

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values (B, H, filled + S, d) of a layer, the new ones (B, H, S, d) after the filled slots."""
        if layer == len(self.layers):
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self.layers.append((keys.new_empty(shape), values.new_empty(shape)))
        end = self.filled + keys.shape[2]
        stored = self.layers[layer]
        stored[0][:, :, self.filled : end] = keys
        stored[1][:, :, self.filled : end] = values
        return stored[0][:, :, :end], stored[1][:, :, :end]

    @property
    def num_bytes(self) -> int:
        """Memory of the stored keys and values."""
        return sum(part.numel() * part.element_size() for layer in self.layers for part in layer)


class Attention(nn.Module):
    """Multi-head attention, no biases, with RoPE and with RMS-normalised queries and keys or without (arXiv:2302.05442)."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        scale = torch.ones(2, 1, 1, 1, width // heads)  # of queries and of keys
        self.scale = nn.Parameter(scale) if qk_norm else None

    def forward(
        self, x: Tensor, turn: Rotation, mask: Tensor | None, causal: bool, cache: Cache | None, layer: int
    ) -> Tensor:
        """(B, S, E); `mask` is True where a query may look."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, H, S, d)
        values = qkv[2]
        queries_keys = qkv[:2]
        if self.scale is not None:
            queries_keys = F.rms_norm(queries_keys, (qkv.shape[-1],)) * self.scale
        queries, keys = rotate(queries_keys, turn).to(values.dtype)
        if cache is not None:
            keys, values = cache.append(layer, keys, values)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm x), then x + SwiGLU(norm x)."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool = True) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = Attention(width, heads, qk_norm=qk_norm)
        self.feed_norm = nn.RMSNorm(width)
        self.feed = SwiGLU(width)

    def forward(
        self,
        x: Tensor,
        turn: Rotation,
        mask: Tensor | None,
        causal: bool,
        cache: Cache | None,
        layer: int,
        modulation: Tensor | None = None,
    ) -> Tensor:
        """(B, S, E). `modulation` (B, S, 6 E) holds, for attention and then SwiGLU, what is added to the input after its norm,
        what scales it (1 + .) and what gates the branch (1 + .): adaLN (arXiv:2212.09748, 3.2), none where it is zero.
        """
        if modulation is None:
            x = x + self.attention(self.attention_norm(x), turn, mask, causal, cache, layer)
            return x + self.feed(self.feed_norm(x))
        first, second = modulation.unflatten(-1, (2, 3, -1)).unbind(-3)
        shift, scale, gate = first.unbind(-2)
        h = (1 + scale) * self.attention_norm(x) + shift
        x = x + (1 + gate) * self.attention(h, turn, mask, causal, cache, layer)
        shift, scale, gate = second.unbind(-2)
        return x + (1 + gate) * self.feed((1 + scale) * self.feed_norm(x) + shift)
