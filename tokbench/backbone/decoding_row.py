"""A single row on a CPU, read token by token: `decoding.Decoder` where to launch an operation costs more than to compute it.

Matrices are kept by columns, which a CPU reads in two thirds of the time. What a norm or a rotation multiplies by is in the
matrix or the table that follows it, so that x / sqrt(|x|^2 + E eps) is left of an RMSNorm. The states are those of
`Backbone.extend` to rounding. E width, H heads, d = E / H, F hidden width of SwiGLU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.backbone.attention import Block, Cache
from tokbench.backbone.positions import Rotation
from tokbench.backbone.transformer import Backbone

EPSILON = torch.finfo(torch.float32).eps  # what torch's RMSNorm adds to the mean square of float32


class Row:
    """Reads on from the cache of one prompt, float32 on a CPU."""

    def __init__(self, backbone: Backbone, cache: Cache, turn: Rotation) -> None:
        """`turn`: RoPE tables (1, 1, N, d / 2) of the places that may be read."""
        self.cache, self.heads, self.width = cache, backbone.heads, backbone.width
        self.layers = [_layer(block, turn) for block in backbone.blocks]
        self.skips = [_columns(skip.weight) for skip in backbone.skips if isinstance(skip, nn.Linear)]
        self.last = backbone.norm.weight * self.width**0.5
        self.least, self.least_of_head = (
            torch.tensor((size * EPSILON) ** 0.5) for size in (self.width, turn[0].shape[-1] * 2)
        )

    def step(self, x: Tensor, place: int) -> Tensor:
        """(1, E): the state of the next token, embedded (1, E), which stands at this of the places."""
        end = self.cache.filled + 1
        mask = None if self.cache.visible is None else self.cache.visible[..., :end]
        kept: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if index < len(self.skips):
                kept.append(x)
            elif index >= len(self.layers) - len(self.skips):
                x = torch.mm(torch.cat((x, kept.pop()), dim=-1), self.skips[index - len(self.layers)])
            parts = torch.mm(_unit(x, self.least), layer.qkv).view(3, self.heads, -1)
            heads, value = parts[:2], parts[2]
            if layer.norm:
                heads = _unit(heads, self.least_of_head)
            cos, sin = layer.turns[place]
            query, key = (heads * cos).addcmul_(heads.roll(heads.shape[-1] // 2, -1), sin).unbind()
            keys, values = self.cache.layers[index]
            keys.select(2, end - 1).copy_(key)
            values.select(2, end - 1).copy_(value)
            keys, values = keys.narrow(2, 0, end), values.narrow(2, 0, end)
            mixed = F.scaled_dot_product_attention(query[None, :, None], keys, values, attn_mask=mask)
            x = torch.addmm(x, mixed.flatten(1), layer.out)
            gate, value = torch.mm(_unit(x, self.least), layer.gates).chunk(2, dim=-1)
            x = torch.addmm(x, F.silu(gate).mul_(value), layer.feed)
        self.cache.filled = end
        return _unit(x, self.least).mul_(self.last)


def _unit(x: Tensor, least: Tensor) -> Tensor:
    """x (..., n) over the root of |x|^2 + least^2."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot(least)


class _Layer(NamedTuple):
    """Of a block, in the order of their use."""

    qkv: Tensor  # (E, 3 E)
    norm: bool  # of queries and keys
    turns: list[tuple[Tensor, Tensor]]  # of each place: factors of heads, and of heads rolled by half, (1 or 2, 1, d)
    out: Tensor  # (E, E)
    gates: Tensor  # (E, 2 F)
    feed: Tensor  # (F, E)


def _layer(block: nn.Module, turn: Rotation) -> _Layer:
    assert isinstance(block, Block)
    attention, feed = block.attention, block.feed
    cos, sin = (part[0, 0, :, None, None] for part in turn)  # (N, 1, 1, d / 2)
    straight, rolled = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
    if attention.scale is not None:
        scale = attention.scale[:, 0, 0] * cos.shape[-1] ** 0.5 * 2**0.5  # (2, 1, d)
        straight, rolled = straight * scale, rolled * scale.roll(cos.shape[-1], -1)
    return _Layer(
        _columns(attention.qkv.weight, block.attention_norm.weight),
        attention.scale is not None,
        list(zip(straight.unbind(), rolled.unbind(), strict=True)),
        _columns(attention.out.weight),
        _columns(feed.gates.weight, block.feed_norm.weight),
        _columns(feed.out.weight),
    )


def _columns(matrix: Tensor, norm: Tensor | None = None) -> Tensor:
    """(n, m) of a linear map (m, n), that of inputs of unit length if a norm of these weights (n,) is before it."""
    columns = matrix.t().contiguous()
    return columns if norm is None else columns * (norm * len(columns) ** 0.5)[:, None]
