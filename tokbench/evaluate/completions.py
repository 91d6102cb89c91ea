"""Pictures of what a scheme does beside sampling: the other half of an image, and text and images said in one sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokbench.evaluate.reference import some
from tokbench.evaluate.tokens import TokenTable
from tokbench.generation.free import free_run
from tokbench.generation.prompts import Known
from tokbench.interfaces import Quantized, Tokenizer, TokenSpace
from tokbench.metrics.images import to_uint8

SEQUENCES, MOST_IMAGES, MOST_BYTES = 4, 2, 160


@torch.no_grad()
def complete(
    scheme: Any, tokenizer: Tokenizer, space: TokenSpace, table: TokenTable, *, seed: int, count: int
) -> Tensor:
    """(count, 3, H, W) uint8: images whose left half of the tokens (of a line the first half) is known, at guidance 1."""
    rows = some(len(table), count).to(table.z_q.device)
    index = torch.arange(space.num_tokens, device=rows.device)
    left = index % space.shape[1] < space.shape[1] // 2 if len(space.shape) == 2 else index < space.num_tokens // 2
    known = Known(
        table.z_q[rows], None if table.indices is None else table.indices[rows], left.expand(len(rows), -1).contiguous()
    )
    generator = torch.Generator(rows.device).manual_seed(seed)
    text, lengths = table.text[rows], table.lengths[rows]
    found = scheme.sample(text, lengths, guidance=1.0, generator=generator, known=known)
    return to_uint8(tokenizer.decode(found.z_q).float()).cpu()


@torch.no_grad()
def say(scheme: Any, tokenizer: Tokenizer, *, seed: int, size: int, device: torch.device) -> tuple[Tensor, list[str]]:
    """What `SEQUENCES` free runs say: (SEQUENCES, MOST_IMAGES, 3, H, W) uint8, black where there is none, and all in words."""
    images, words = torch.zeros(SEQUENCES, MOST_IMAGES, 3, size, size, dtype=torch.uint8), []
    generator = torch.Generator(device).manual_seed(seed)
    for run in range(SEQUENCES):
        pieces = free_run(
            scheme, b"", most_images=MOST_IMAGES, most_bytes=MOST_BYTES, temperature=1.0, generator=generator
        )
        shown = [piece for piece in pieces if isinstance(piece, Quantized)]
        for place, piece in enumerate(shown):
            images[run, place] = to_uint8(tokenizer.decode(piece.z_q).float()).cpu()[0]
        said = [piece.decode(errors="replace") if isinstance(piece, bytes) else "<image>" for piece in pieces]
        words.append(" ".join(said))
    return images, words
