"""Where each token of a text+image sequence stands for RoPE (arXiv:2104.09864): one pure function a layout.

All take a `Layout` and give (B, S, 2) float32. All but `learned` and `none` share one contract: text before any image stands at
(n, n), n its place in the sequence, so that text alone is RoPE-1D. In the formulas token (i, j) of an image of h rows and w
columns is counted from 1, and L is where the last text before it stands. B rows, S places, M images, d = head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

VERSION = 1
Grid = tuple[int, int]  # rows and columns
Rotation = tuple[Tensor, Tensor]  # cosines and sines, each (B, 1, S, d / 2) float32
Place = Callable[
    [Tensor, Tensor, int, int], tuple[Tensor, Tensor]
]  # L (B, 1, 1), (i, j) (B, S, 2), h, w: image, next text


@dataclass(frozen=True, eq=False)
class Layout:
    """Rows of one length whose images have the same grids, at each row's own places; all else is text."""

    starts: Tensor  # (B, M) int64: place of the first token of each image, in order
    grids: tuple[Grid, ...]  # M
    length: int  # S


def sequence(*parts: int | Grid) -> Layout:
    """One row: a number of text tokens or the grid of an image each, as in sequence(5, (8, 8), 3)."""
    sizes = [part if isinstance(part, int) else part[0] * part[1] for part in parts]
    starts = [sum(sizes[:k]) for k, part in enumerate(parts) if not isinstance(part, int)]
    grids = tuple(part for part in parts if not isinstance(part, int))
    return Layout(torch.tensor([starts], dtype=torch.int64), grids, sum(sizes))


Positions = Callable[[Layout], Tensor]


def rope1d(layout: Layout) -> Tensor:
    """Every token at (n, n), images flattened in raster order (Fuyu, Chameleon)."""
    places = torch.arange(layout.length, device=layout.starts.device, dtype=torch.float32)
    return places[None, :, None].expand(len(layout.starts), -1, 2)


def rope2d(layout: Layout) -> Tensor:
    """Image tokens at (i, j), whatever is before them; text at (n, n). For images alone: else they meet text there."""
    return _walk(layout, lambda last, ij, h, w: (ij, last + h * w + 1))


def rope_tie(layout: Layout) -> Tensor:
    """(L + i (w+1), L + j (h+1)), next text at L + (w+1)(h+1): the integer variant of kexue.fm 10040."""
    return _walk(layout, lambda last, ij, h, w: (last + ij * ij.new_tensor((w + 1, h + 1)), last + (w + 1) * (h + 1)))


def rope_tie_v2(layout: Layout) -> Tensor:
    """(L + (wh-h)/2 + i, L + (wh-w)/2 + j), next text at L + wh + 1: RoPE-Tie-v2, or RoPE-TV, of kexue.fm 10352.

    An image is as far from the text before it as from the text after it; positions can be half-integers.
    """
    return _walk(
        layout,
        lambda last, ij, h, w: (last + ij.new_tensor(((h * w - h) / 2, (h * w - w) / 2)) + ij, last + h * w + 1),
    )


def mrope(layout: Layout) -> Tensor:
    """(L + i, L + j), next text one after the largest (M-RoPE of Qwen2-VL, arXiv:2409.12191, 2.1)."""
    return _walk(layout, lambda last, ij, h, w: (last + ij, last + max(h, w) + 1))


def learned(layout: Layout) -> Tensor:
    """Image tokens at (i, j); text counted as if there were no image, at (m, m): places in `LearnedPositions`, not for RoPE."""
    return _walk(layout, lambda last, ij, h, w: (ij, last + 1))


def none(layout: Layout) -> Tensor:
    """All at (0, 0): RoPE turns nothing; order is known from the causal mask alone (NoPE, arXiv:2305.19466)."""
    return torch.zeros(len(layout.starts), layout.length, 2, device=layout.starts.device)


LAYOUTS: dict[str, Positions] = {
    "rope1d": rope1d,
    "rope2d": rope2d,
    "rope_tie": rope_tie,
    "rope_tie_v2": rope_tie_v2,
    "rope_tv": rope_tie_v2,  # its short name, which is in all records
    "mrope": mrope,
    "learned": learned,
    "none": none,
}


def resolve(positions: str | Positions) -> Positions:
    """The layout of that name, or the function itself; ValueError lists the names."""
    if callable(positions):
        return positions
    if positions not in LAYOUTS:
        raise ValueError(f"positions must be one of {', '.join(LAYOUTS)}, got {positions!r}")
    return LAYOUTS[positions]


def as_grid(shape: tuple[int, ...]) -> Grid:
    """(rows, columns) of a token shape: (h, w) as it is, (L,) queries as one row, (H, W, 3) pixels as (H, 3 W)."""
    sizes = tuple(int(size) for size in shape)
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise ValueError(f"grid must be (h, w), (L,) or (H, W, 3) with sizes >= 1, got {tuple(shape)}")
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1] * (sizes[2] if len(sizes) == 3 else 1))


def rotation(positions: Tensor, head_dim: int, base: float) -> Rotation:
    """Cosines and sines (B, 1, S, d/2) of positions (B, S, 2): pair i turns by theta_i = base^(-2i/d) a step.

    Even i turn with the row and odd i with the column: interleaved, because only then is the rotation at (n, n) exactly
    RoPE-1D at n (kexue.fm 10352).
    """
    pair = torch.arange(head_dim // 2, device=positions.device)
    angles = positions[..., pair % 2].float() * base ** (-2.0 * pair / head_dim)
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """Queries or keys (..., B, H, S, d), turned; pair i is channels (i, i + d/2)."""
    cos, sin = turn
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _walk(layout: Layout, place: Place) -> Tensor:
    """Text counts on by one a token; `place` says where an image's tokens stand and where the text after it goes on."""
    index = torch.arange(layout.length, device=layout.starts.device)[None, :, None]
    text = index.float().expand(len(layout.starts), -1, -1)
    positions = text.expand(-1, -1, 2)
    for start, (height, width) in zip(layout.starts.T[..., None, None], layout.grids, strict=True):
        k = index - start
        last = torch.where(start > 0, text.gather(1, (start - 1).clamp(0, layout.length - 1)), -1.0)
        ij = torch.cat((k // width + 1, k % width + 1), dim=-1).float()
        image, following = place(last, ij, height, width)
        area = height * width
        text = torch.where(
            k >= area - 1, following + k - area, text
        )  # from the last token on: an image may follow at once
        positions = torch.where((k >= 0) & (k < area), image, torch.where(k >= area, text, positions))
    return positions
