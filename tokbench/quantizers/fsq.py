"""Finite scalar quantization (FSQ, arXiv:2309.15505, section 3.1 and appendix A.1), and its symmetric variants.

z -> f(z), bounded -> round(f), scaled to [-1, 1]: channel i takes one of L_i values, no codebook, no loss.
B images, N tokens, D = number of levels. Dimension 0 is the least significant digit of the index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import log2, prod

import torch
from torch import Tensor, nn

from tokbench.interfaces import Quantized
from tokbench.quantizers.estimators import straight_through
from tokbench.quantizers.latents import check_latents

VERSION = 1
EPSILON = 1e-3  # the paper's: keeps the bound inside the outer levels; at 1001 levels it would lose them
MAX_LEVEL = 1000
MAX_TABLE = 2**16  # codes that are looked up; of more each is computed
RECOMMENDED = {  # log2 of the codebook's size wished for: levels, table 1 and appendix A.4 of the paper
    4: (5, 3),
    6: (8, 8),
    8: (8, 6, 5),
    9: (8, 8, 8),
    10: (8, 5, 5, 5),
    11: (8, 8, 6, 5),
    12: (7, 5, 5, 5, 5),
    14: (8, 8, 8, 6, 5),
    16: (8, 8, 8, 5, 5, 5),
}
BOUNDS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": lambda z: 2 * torch.sigmoid(z) - 1,  # kexue.fm/archives/9826: round((L - 1) sigmoid(z))
    "sigmoid_1.6": lambda z: 2 * torch.sigmoid(1.6 * z) - 1,  # arXiv:2601.17124
}


class FiniteScalarQuantizer(nn.Module):
    """A fixed grid of prod(levels) codes; computed in float32, so that every input dtype gives the same indices.

    Either `levels`, or a `codebook_size` whose nearest recommended levels are taken and printed. `bound` is one of BOUNDS.
    `symmetric` puts the levels at 2 k / (L - 1) - 1, k = 0..L-1 (arXiv:2411.19842, section 3.2); the paper's even levels are
    not symmetric, and exist with `bound="tanh"` alone. `noise_dropout`: the share of training images whose rounding is
    replaced by uniform noise one step wide (the same section); their indices are those without noise.
    """

    levels: Tensor
    basis: Tensor
    table: Tensor | None  # (V, D) float32 codes

    def __init__(
        self,
        levels: Sequence[int] | None = None,
        *,
        codebook_size: int | None = None,
        bound: str = "tanh",
        symmetric: bool = False,
        noise_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if (levels is None) == (codebook_size is None):
            raise ValueError(f"give either levels or codebook_size, got levels={levels} and {codebook_size=}")
        levels = _check_levels(recommended_levels(codebook_size) if levels is None else levels)  # type: ignore[arg-type]
        if codebook_size is not None:
            _say(f"fsq: codebook_size={codebook_size} takes levels {levels}, {prod(levels)} codes")
        if bound not in BOUNDS:
            raise ValueError(f"bound must be one of {sorted(BOUNDS)}, got {bound!r}")
        if bound != "tanh" and not symmetric:
            raise ValueError(f"symmetric must be true unless bound is tanh, got bound={bound!r}")
        if not 0 <= noise_dropout <= 1:
            raise ValueError(f"noise_dropout must be in [0, 1], got {noise_dropout}")
        if noise_dropout and not symmetric:
            raise ValueError(f"noise_dropout needs symmetric levels: set symmetric=true, got {noise_dropout=}")
        self.squash, self.symmetric, self.noise_dropout = BOUNDS[bound], symmetric, noise_dropout
        self.dim = len(levels)
        self.codebook_sizes, self.factors = (prod(levels),), (tuple(levels),)
        self.loss_weights: dict[str, float] = {}
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor([prod(levels[:i]) for i in range(self.dim)]), persistent=False)
        every = torch.arange(prod(levels)) if prod(levels) <= MAX_TABLE else None
        self.register_buffer("table", None if every is None else self._codes(every), persistent=False)

    def bound(self, z: Tensor) -> Tensor:
        """(..., D) float32 in steps; rounded, L_i consecutive integers a channel from -(L_i // 2), or from 0 if symmetric."""
        if self.symmetric:
            return (self.levels - 1) * (self.squash(z.float()) + 1) / 2
        half = (self.levels - 1) * (1 - EPSILON) / 2
        offset = torch.where(self.levels % 2 == 1, 0.0, 0.5)
        return self.squash(z.float() + torch.tan(offset / half)) * half - offset

    def forward(self, z: Tensor) -> Quantized:
        """(B, N, D) latents to grid codes in [-1, 1]; unless symmetric, L = 4 gives -1, -.5, 0, .5."""
        check_latents(z, self.dim)
        with torch.autocast(device_type=z.device.type, enabled=False):
            bounded = self.bound(z)
            with torch.no_grad():
                # floor(x + 1/2) sends ties up, round() to even: the symmetric paper's rule, and the first one's
                rounded = (bounded + 0.5).floor_() if self.symmetric else bounded.round()
                indices = ((rounded + self._lowest).long() * self.basis).sum(dim=-1)
            z_q = straight_through(self._scaled(bounded), self._scaled(rounded))
            if self.training and self.noise_dropout:
                z_q = torch.where(self._hit(z), self._noisy(self._scaled(bounded)), z_q)
        return Quantized(z_q.to(z.dtype), indices, {})

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N) int64 in [0, prod(levels)) to (B, N, D) float32."""
        if self.table is None or self.table.dtype != torch.float32:  # a model cast to fewer digits casts its table
            return self._codes(indices)
        return nn.functional.embedding(indices, self.table)

    def _codes(self, indices: Tensor) -> Tensor:
        return self._scaled((indices[..., None] // self.basis % self.levels).float() - self._lowest)

    @property
    def _lowest(self) -> Tensor:
        """(D,) float32: what makes the lowest rounded value 0."""
        return torch.zeros_like(self.levels).float() if self.symmetric else (self.levels // 2).float()

    def _scaled(self, steps: Tensor) -> Tensor:
        """(..., D) from steps to [-1, 1]."""
        if self.symmetric:
            most = (self.levels - 1).float()
            return (2 * steps - most) / most
        return steps / self._lowest

    def _hit(self, z: Tensor) -> Tensor:
        return torch.rand(len(z), 1, 1, device=z.device) < self.noise_dropout

    def _noisy(self, scaled: Tensor) -> Tensor:
        step = 2 / (self.levels - 1)
        return (scaled + (torch.rand_like(scaled) - 0.5) * step).clamp(-1, 1)


def recommended_levels(codebook_size: int) -> tuple[int, ...]:
    """The paper's levels whose product is nearest to `codebook_size` (in log2, within half a bit); ValueError where none is."""
    found = min(RECOMMENDED.values(), key=lambda levels: abs(log2(prod(levels)) - log2(max(codebook_size, 1))))
    if codebook_size < 2 or abs(log2(prod(found)) - log2(codebook_size)) > 0.5:
        sizes = ", ".join(str(2**bits) for bits in RECOMMENDED)
        raise ValueError(f"codebook_size must be near one of {sizes} (the paper's levels), got {codebook_size}")
    return found


@lru_cache  # once a process, however often a run builds its quantizer
def _say(text: str) -> None:
    print(text, flush=True)


def _check_levels(levels: Sequence[int]) -> list[int]:
    levels = list(levels)
    if not levels or not all(isinstance(level, int) and 2 <= level <= MAX_LEVEL for level in levels):
        raise ValueError(f"levels must each be a whole number >= 2 and <= {MAX_LEVEL}, got {levels}")
    if prod(levels) >= 2**63:
        raise ValueError(f"levels must have a product below 2^63, got {levels}")
    return levels
