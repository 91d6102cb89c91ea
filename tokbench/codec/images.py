"""Images of any size to codes and back. H, W sides in pixels, (h, w) of the grid of N tokens, K stages or groups."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokbench.codec.exported import Exported
from tokbench.information.coding import Integers, TokenFile, decode_tokens, encode_tokens
from tokbench.metrics.images import to_float, to_uint8


@torch.no_grad()
def image_to_indices(image: Tensor, exported: Exported) -> Integers:
    """(N, K) int64 of a (3, H, W) uint8 image: one grid for all of it, its edge repeated to whole tokens."""
    height, width = image.shape[1:]
    factor = exported.tokenizer.factor
    padded = pad(to_float(image[None]), (0, -width % factor, 0, -height % factor), mode="replicate")
    indices = exported.tokenizer.encode(padded).indices
    assert indices is not None
    return indices[0].reshape(-1, len(exported.tables)).numpy()


@torch.no_grad()
def indices_to_image(indices: Integers, exported: Exported, *, height: int, width: int) -> Tensor:
    """(3, H, W) uint8 decoded from indices (N, K)."""
    found = torch.from_numpy(indices)[None]
    z_q = exported.tokenizer.indices_to_codes(found[..., 0] if found.shape[-1] == 1 else found)
    image = to_uint8(exported.tokenizer.decode(z_q, _grid(exported, height, width)).float())[0]
    return image[:, :height, :width]


def write_file(indices: Integers, exported: Exported, *, height: int, width: int) -> bytes:
    """The `.tok` file of an image's indices (N, K)."""
    return TokenFile(exported.hash, height, width, encode_tokens(indices, exported.tables)).pack()


def read_file(file: TokenFile, exported: Exported) -> Integers:
    """(N, K) int64; ValueError where another tokenizer has written the file."""
    if file.tokenizer != exported.hash:
        raise ValueError(f"written with tokenizer {file.tokenizer}, not with {exported.hash} ({exported.name})")
    rows, columns = _grid(exported, file.height, file.width)
    return decode_tokens(file.payload, exported.tables, rows * columns)


def _grid(exported: Exported, height: int, width: int) -> tuple[int, int]:
    factor = exported.tokenizer.factor
    return -(-height // factor), -(-width // factor)
