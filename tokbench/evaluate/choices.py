"""Understanding of images whose truth is known: is the right caption likelier than captions that are wrong somewhere?

M images, C captions to choose from, the right one first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from tokbench.backbone.sequence import encode_text
from tokbench.data.scenes import swapped
from tokbench.evaluate.measures import Measures, in_batches, mean_of
from tokbench.evaluate.reference import some
from tokbench.evaluate.tokens import TokenTable
from tokbench.interfaces import Scheme, Split, TokenBatch, TokenSpace
from tokbench.metrics.standard_truth import DISTRACTORS, SWAPPED

VERSION = 1


@torch.no_grad()
def evaluate_choices(
    block: str, scheme: Scheme, space: TokenSpace, table: TokenTable, split: Split, *, images: int, batch: int
) -> Measures:
    """understanding/reading_accuracy (glyphs) or caption_exactness (scenes) of at most so many images, with tokens `table`."""
    rows = some(len(table), images)
    assert split.truth is not None
    if "characters" in split.truth:
        name, wrong = "reading_accuracy", distractors(split, rows)
    else:
        name, wrong = "caption_exactness", [swapped(split, row, count=SWAPPED) for row in rows.tolist()]
    key = f"{block}/understanding/{name}"
    captions = [[split.captions[i], *others] for i, others in zip(rows.tolist(), wrong, strict=True)]

    def right(part: Tensor) -> Tensor:
        own = [captions[i] for i in part.tolist()]
        return chosen(scheme, table.batch(space, rows[part]), own) == 0

    return {key: mean_of(key, in_batches(len(rows), batch, right, what=f"{block}: choices").double())}


@torch.no_grad()
def chosen(scheme: Scheme, batch: TokenBatch, captions: Sequence[Sequence[str]]) -> Tensor:
    """(B,) int64: which of its C captions each image finds likeliest; equals go to the last, so that chance is no merit."""
    nats = []
    for choice in zip(*captions, strict=True):
        text, lengths = (part.to(batch.latents.device) for part in encode_text(choice))
        nats.append(scheme.caption_nll(TokenBatch(batch.latents, batch.indices, text, lengths)).cpu())
    return len(nats) - 1 - torch.stack(nats[::-1], dim=1).argmin(dim=1)


def distractors(split: Split, rows: Tensor) -> list[list[str]]:
    """DISTRACTORS strings for each of the rows: those of other images, always the same."""
    generator = Generator().manual_seed(0)
    found = []
    for row in rows.tolist():
        order = torch.randperm(len(split), generator=generator).tolist()
        others = dict.fromkeys(split.captions[i] for i in order if split.captions[i] != split.captions[row])
        found.append(list(others)[:DISTRACTORS])
    return found
