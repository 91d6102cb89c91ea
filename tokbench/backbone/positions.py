"""Where each token of a text+image sequence stands for RoPE (arXiv:2104.09864): one pure function a layout.

All share one contract: text before the image stands at (n, n), n its place in the sequence, so that text alone is
RoPE-1D in every layout. B rows, S places, h x w image tokens in raster order, L = image_start - 1 the last text before
the image, d = head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

VERSION = 1
Positions = Callable[[Tensor, tuple[int, int], int], Tensor]
Rotation = tuple[Tensor, Tensor]  # cosines and sines, each (B, 1, S, d / 2) float32


def rope_1d(image_start: Tensor, grid: tuple[int, int], length: int) -> Tensor:
    """(B, S, 2) float32: every token at (n, n), the image flattened in raster order; image_start (B,) is not used."""
    places = torch.arange(length, device=image_start.device, dtype=torch.float32)
    return places[None, :, None].expand(len(image_start), -1, 2)


def rope_tie(image_start: Tensor, grid: tuple[int, int], length: int) -> Tensor:
    """(B, S, 2): token (i, j), 1-based, at (L + i (w+1), L + j (h+1)), next text at L + (w+1)(h+1) (kexue.fm 10040)."""
    height, width = grid
    return _affine(image_start, grid, length, (0, 0), (width + 1, height + 1), (width + 1) * (height + 1))


def rope_tv(image_start: Tensor, grid: tuple[int, int], length: int) -> Tensor:
    """(B, S, 2): token (i, j), 1-based, at (L + (wh-h)/2 + i, L + (wh-w)/2 + j), next text at L + wh + 1.

    RoPE-Tie-v2 of kexue.fm 10352. The image is as far from the text before it as from the text after it; positions can
    be half-integers.
    """
    height, width = grid
    area = height * width
    return _affine(image_start, grid, length, ((area - height) / 2, (area - width) / 2), (1, 1), area + 1)


def m_rope(image_start: Tensor, grid: tuple[int, int], length: int) -> Tensor:
    """(B, S, 2): token (i, j), 1-based, at (L + i, L + j), next text one after the largest (arXiv:2409.12191, 2.1)."""
    return _affine(image_start, grid, length, (0, 0), (1, 1), max(grid) + 1)


LAYOUTS: dict[str, Positions] = {"rope_1d": rope_1d, "rope_tie": rope_tie, "rope_tv": rope_tv, "m_rope": m_rope}


def resolve(positions: str | Positions) -> Positions:
    """The layout of that name, or the function itself; ValueError lists the names."""
    if callable(positions):
        return positions
    if positions not in LAYOUTS:
        raise ValueError(f"positions must be one of {', '.join(LAYOUTS)}, got {positions!r}")
    return LAYOUTS[positions]


def as_grid(shape: tuple[int, ...]) -> tuple[int, int]:
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


def _affine(
    image_start: Tensor,
    grid: tuple[int, int],
    length: int,
    offset: tuple[float, float],
    step: tuple[float, float],
    span: int,
) -> Tensor:
    """Token (i, j) at L + offset + (i, j) * step; the first text after the image at L + span."""
    height, width = grid
    place = torch.arange(length, device=image_start.device)[None]
    index = place - image_start[:, None]
    after = place + (index >= height * width) * (span - height * width - 1)
    inside = (index >= 0) & (index < height * width)
    ij = torch.stack((index // width + 1, index % width + 1), dim=-1)
    image = (image_start - 1)[:, None, None] + ij * ij.new_tensor(step) + torch.tensor(offset, device=ij.device)
    return torch.where(inside[..., None], image.float(), after[..., None].float())
