"""A line of L tokens in place of the grid: learned queries read the features, places of the grid read the line back.

features (B, E, h, w) -> L queries: attention among them, to the features, feed-forward -> (B, L, E) -> quantizer ->
(B, L, E) -> h w place queries: attention to the line, feed-forward -> features (B, E, h, w)

Full attention among the queries is TiTok's line (arXiv:2406.07550, section 3.2), causal attention SEED's (arXiv:2307.08041,
section 3.1): there token i is a function of the whole image and of queries 0..i, so that the first k tokens of L are those of
a line cut after k. It is an order among tokens, not among pixels: every token sees the whole image. The decoder reads all L.
"""

from __future__ import annotations

from math import isqrt, pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.layers import SwiGLU

VERSION = 1
HEAD = 16  # channels of an attention head, about
SHARP = 1.5  # of queries and keys at the start: attention is on a few places, not on all


class Line(nn.Module):
    """Features of a `side` x `side` grid to `num_queries` tokens of the same `width`, and back, in `depth` blocks a side.

    Both papers start from random queries and train for days. Here query i starts at place i of a raster of L cells over the
    image, and attention at what is near (measured at 600 steps on CIFAR-10: 22 dB instead of 16, the grid's 23).
    """

    def __init__(self, *, width: int, num_queries: int, side: int, depth: int, causal: bool) -> None:
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"num_queries must be >= 1, got {num_queries}")
        if width < 4 or width % heads_of(width):
            raise ValueError(f"width of a line must be >= 4 and a multiple of its {heads_of(width)} heads, got {width}")
        self.num_queries, self.side, self.causal = num_queries, side, causal
        places, queries = (_code(_points(count), width) for count in (side**2, num_queries))
        self.places, self.asking = nn.Parameter(places), nn.Parameter(places.clone())  # to be read, and to write
        self.queries, self.order = nn.Parameter(queries), nn.Parameter(queries.clone())
        self.reading = nn.ModuleList(Block(width, among=True) for _ in range(depth))
        self.writing = nn.ModuleList(Block(width, among=False) for _ in range(depth))

    def read(self, features: Tensor) -> Tensor:
        """(B, L, E) of features (B, E, h, w)."""
        seen = features.flatten(2).transpose(1, 2) + self.places
        x = self.queries.expand(len(features), -1, -1)
        for block in self.reading:
            x = block(x, seen, causal=self.causal)
        return x

    def write(self, x: Tensor) -> Tensor:
        """(B, E, h, w) of tokens (B, L, E)."""
        seen = x + self.order
        grid = self.asking.expand(len(x), -1, -1)
        for block in self.writing:
            grid = block(grid, seen, causal=False)
        return grid.transpose(1, 2).unflatten(2, (self.side, self.side))


class Block(nn.Module):
    """x + attention among x (where asked for), + attention to `seen`, + feed-forward; the norm comes first in each."""

    def __init__(self, width: int, *, among: bool) -> None:
        super().__init__()
        self.among = nn.ModuleList((nn.RMSNorm(width), Attention(width))) if among else None
        self.norm, self.seen_norm, self.cross = nn.RMSNorm(width), nn.RMSNorm(width), Attention(width)
        self.feed = nn.Sequential(nn.RMSNorm(width), SwiGLU(width))

    def forward(self, x: Tensor, seen: Tensor, *, causal: bool) -> Tensor:
        """(B, S, E) of x (B, S, E) and what it looks at (B, T, E)."""
        if self.among is not None:
            norm, attention = self.among
            own = norm(x)
            x = x + attention(own, own, causal=causal)
        x = x + self.cross(self.norm(x), self.seen_norm(seen), causal=False)
        return x + self.feed(x)


def heads_of(width: int) -> int:
    """Attention heads of about HEAD channels."""
    return max(width // HEAD, 1)


class Attention(nn.Module):
    """Multi-head attention of x to `seen`, without biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.ask = nn.Linear(width, width, bias=False)
        self.answer = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            for weight in (self.ask.weight, self.answer.weight[:width]):
                weight.copy_(SHARP * torch.eye(width))

    def forward(self, x: Tensor, seen: Tensor, *, causal: bool) -> Tensor:
        """(B, S, E) of x (B, S, E); where `causal`, place i sees 0..i alone."""
        queries = self.ask(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        keys, values = self.answer(seen).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


def _points(count: int) -> Tensor:
    """(count, 2): centres of a raster of equal cells of the unit square, as near to square as count's divisors allow."""
    rows = max(n for n in range(1, isqrt(count) + 1) if count % n == 0)
    columns = count // rows
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack(((row + 0.5) / rows, (column + 0.5) / columns), dim=-1).flatten(0, 1)


def _code(points: Tensor, width: int) -> Tensor:
    """(S, E): sines and cosines of points (S, 2), wavelengths 2, 1, 1/2, ..., the same in each attention head."""
    rates = pi * 2.0 ** torch.arange(width // heads_of(width) // 4)
    angles = (points[:, None] * rates[:, None]).flatten(1)
    code = torch.cat((angles.sin(), angles.cos()), dim=1)
    return code.repeat(1, -(-width // code.shape[1]))[:, :width]
