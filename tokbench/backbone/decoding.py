"""One token a row at a time after a prompt: what `Backbone.extend` computes for it, with little between the matrix products.

Weights and tables are looked up once and modules are not called: a step of a small network on a CPU otherwise spends as long in
Python as in arithmetic. The states are bit for bit those of `extend`; of a single row on a CPU (`decoding_row`), to rounding.
B rows, E width, H heads, d = E / H.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.backbone.attention import Block, Cache
from tokbench.backbone.decoding_row import Row
from tokbench.backbone.positions import Rotation
from tokbench.backbone.transformer import Backbone


class Decoder:
    """Reads on from a cache that holds the prompts; to be made anew when weights change."""

    def __init__(self, backbone: Backbone, cache: Cache, turn: Rotation) -> None:
        """`turn`: RoPE tables (B, 1, N, d / 2) of the places that may be read."""
        keys = cache.layers[0][0]
        single = (
            len(keys) == 1 and keys.device.type == "cpu" and keys.dtype == backbone.norm.weight.dtype == torch.float32
        )
        self.row = Row(backbone, cache, turn) if single else None
        if self.row is not None:
            return
        self.cache, self.heads, self.last = cache, backbone.heads, backbone.norm.weight
        self.skips = [skip.weight for skip in backbone.skips if isinstance(skip, nn.Linear)]
        self.weights = [_weights(block) for block in backbone.blocks]
        cos, sin = turn
        self.turns = list(zip(_by_place(cos, cos), _by_place(-sin, sin), strict=True))
        self.half = cos.shape[-1]

    @torch.inference_mode()
    def step(self, x: Tensor, place: int) -> Tensor:
        """(B, E): the states of the next tokens, embedded (B, E), which stand at this of the places; no gradient passes."""
        if self.row is not None:
            return self.row.step(x, place)
        (cos, sin), end = self.turns[place], self.cache.filled + 1
        mask = None if self.cache.visible is None else self.cache.visible[..., :end]
        kept: list[Tensor] = []
        for layer, (before, qkv, scale, out, middle, gates, feed) in enumerate(self.weights):
            if layer < len(self.skips):
                kept.append(x)
            elif layer >= len(self.weights) - len(self.skips):
                x = F.linear(torch.cat((x, kept.pop()), dim=-1), self.skips[layer - len(self.weights)])
            qk, value = (
                F.linear(F.rms_norm(x, x.shape[-1:], before), qkv).view(len(x), 3, self.heads, -1).split((2, 1), dim=1)
            )
            if scale is not None:
                qk = F.rms_norm(qk, qk.shape[-1:]) * scale
            query, key = (qk * cos).add_(qk.roll(self.half, -1).mul_(sin)).to(value.dtype).unbind(1)
            keys, values = self.cache.layers[layer]
            keys.select(2, end - 1).copy_(key)
            values.select(2, end - 1).copy_(value.squeeze(1))
            keys, values = keys.narrow(2, 0, end), values.narrow(2, 0, end)
            mixed = F.scaled_dot_product_attention(query.unsqueeze(2), keys, values, attn_mask=mask)
            x = x + F.linear(mixed.flatten(1), out)
            gate, value = F.linear(F.rms_norm(x, x.shape[-1:], middle), gates).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * value, feed)
        self.cache.filled = end
        return F.rms_norm(x, x.shape[-1:], self.last)


class _Weights(NamedTuple):
    """Of a block, in the order of their use."""

    before: Tensor
    qkv: Tensor
    scale: Tensor | None  # of queries and keys (2, 1, d); None without QK-norm
    out: Tensor
    middle: Tensor
    gates: Tensor
    feed: Tensor


def _weights(block: nn.Module) -> _Weights:
    assert isinstance(block, Block)
    attention, feed = block.attention, block.feed
    scale = None if attention.scale is None else attention.scale[:, 0, 0]
    first = block.attention_norm.weight, attention.qkv.weight, scale, attention.out.weight
    return _Weights(*first, block.feed_norm.weight, feed.gates.weight, feed.out.weight)


def _by_place(first: Tensor, second: Tensor) -> list[Tensor]:
    """(B, 1, 1, d) of each place, both halves (B, 1, N, d / 2) side by side."""
    return list(torch.cat((first, second), dim=-1)[:, None].unbind(3))
