"""A trained tokenizer and backbone on the Kodak photographs, tile by tile: where their rate and distortion meet image codecs.

Neither has seen such images, and no tile knows of its neighbours: tiles are of the training size, for the backbone reads one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, log2

import numpy as np
import torch
from torch import Tensor

from tokbench.data.kodak import assemble, tile_split
from tokbench.evaluate.measures import Measures, mean_of
from tokbench.evaluate.tokens import TokenTable, encode_split
from tokbench.information.coding import encode_tokens, fit_tables
from tokbench.interfaces import Scheme, Tokenizer, TokenSpace
from tokbench.metrics.images import psnr, ssim, to_uint8

VERSION = 1
Found = tuple[Measures, dict[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Photographs:
    """The photographs as whole images and as the tokens of their tiles."""

    images: Sequence[Tensor]  # (3, H, W) uint8 each
    size: int  # of a tile
    table: TokenTable  # of all tiles
    owner: Tensor  # (M,) photograph of each tile

    @property
    def pixels(self) -> Tensor:
        """(P,) of each photograph."""
        return torch.tensor([image[0].numel() for image in self.images], dtype=torch.float64)

    def totals(self, values: Tensor) -> Tensor:
        """(P,) float64 sums of a photograph's tiles, from values (M,)."""
        sums = torch.zeros(len(self.images), dtype=torch.float64)
        return sums.index_add_(0, self.owner, values.double().cpu())


@torch.no_grad()
def tokenize(
    tokenizer: Tokenizer, images: Sequence[Tensor], *, size: int, batch: int, device: torch.device
) -> Photographs:
    """Photographs (3, H, W) uint8 through the tokenizer, in tiles of `size`."""
    split = tile_split(images, size)
    return Photographs(images, size, encode_split(tokenizer, split, batch=batch, device=device), split.groups)


@torch.no_grad()
def evaluate_photographs(
    tokenizer: Tokenizer, photographs: Photographs, space: TokenSpace, train: TokenTable, *, batch: int
) -> Found:
    """Quality of each photograph put together from its tiles; bits by N log2 V and as coded by the training split's tables."""
    tiles = torch.cat([to_uint8(tokenizer.decode(z_q).float()).cpu() for z_q in photographs.table.z_q.split(batch)])
    pairs = [
        (assemble(tiles[photographs.owner == place], *image.shape[1:])[None], image[None])
        for place, image in enumerate(photographs.images)
    ]
    values = {"psnr_db": torch.cat([psnr(*pair) for pair in pairs]), "ssim": torch.cat([ssim(*pair) for pair in pairs])}
    if photographs.table.indices is not None and train.indices is not None:
        nominal = space.num_tokens * sum(log2(size) for size in space.codebook_sizes)
        values["nominal_bpp"] = torch.full((len(pairs),), nominal / photographs.size**2, dtype=torch.float64)
        tables = fit_tables(train.indices, space.codebook_sizes)
        indices = photographs.table.indices.flatten(2) if len(tables) > 1 else photographs.table.indices[..., None]
        strings = [
            encode_tokens(indices[photographs.owner == place].flatten(0, 1).cpu().numpy(), tables)
            for place in range(len(pairs))
        ]
        values["table_bpp"] = (
            torch.tensor([8.0 * len(own) for own in strings], dtype=torch.float64) / photographs.pixels
        )
    return _filed("kodak", values)


@torch.no_grad()
def evaluate_photograph_bits(
    block: str, scheme: Scheme, space: TokenSpace, photographs: Photographs, *, batch: int
) -> Found:
    """Bits per pixel of each photograph under the backbone, without a caption; nothing where its likelihood is not exact."""
    if scheme.likelihood != "exact":
        return {}, {}
    table = photographs.table
    nats = [scheme.nll(table.batch(space, rows)) for rows in torch.arange(len(table)).split(batch)]
    bits = photographs.totals(torch.cat([own for own in nats if own is not None])) / log(2)
    return _filed(f"{block}/kodak", {"model_bpp": bits / photographs.pixels})


def _filed(prefix: str, values: dict[str, Tensor]) -> Found:
    measures = {f"{prefix}/{key}": mean_of(f"{prefix}/{key}", own) for key, own in values.items()}
    *block, group = prefix.split("/")
    return measures, {"_".join((group, key, *block)): own.numpy() for key, own in values.items()}
