"""Same or different (C22): two images in one row, alike or but for one small square, and the caption that says which.

Each image is made into tokens by itself: a difference that a tokenizer loses no backbone can find, raw patches keep all.
The trained scheme goes on training on such pairs alone, and is asked for the likelier of the two captions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from tokbench.backbone.sequence import encode_text
from tokbench.evaluate.choices import chosen
from tokbench.evaluate.measures import Measures, in_batches, mean_of
from tokbench.evaluate.reference import some
from tokbench.evaluate.tokens import TokenTable, encode_split
from tokbench.interfaces import Split, TokenBatch, Tokenizer, TokenSpace
from tokbench.job import Job
from tokbench.metrics.standard_systems import PAIR_SEED
from tokbench.train import fit

VERSION = 1
WORDS = ("same", "different")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Tokens of images and of their changed copies; pair i differs where differs[i]."""

    first: TokenTable
    second: TokenTable
    differs: Tensor  # (M,) bool

    def __len__(self) -> int:
        return len(self.first)

    def batch(self, space: TokenSpace, rows: Tensor) -> TokenBatch:
        """The rows (B,) with their captions; tokens are (B, 2 N, ...)."""
        rows = rows.to(self.first.z_q.device)
        differs = self.differs[rows.cpu()].tolist()
        text, lengths = (x.to(rows.device) for x in encode_text([WORDS[int(d)] for d in differs]))
        parts = [table.batch(space, rows) for table in (self.first, self.second)]
        indices = None if parts[0].indices is None else torch.cat([p.indices for p in parts], dim=1)  # type: ignore[misc]
        return TokenBatch(torch.cat([p.latents for p in parts], dim=1), indices, text, lengths)

    @property
    def told_apart(self) -> Tensor:
        """(k,) of the pairs that differ: whether their tokens do."""
        changed = (self.first.z_q != self.second.z_q).flatten(1).any(dim=1).cpu()
        return changed[self.differs]


def changed(images: Tensor, differs: Tensor, *, side: int, generator: Generator) -> Tensor:
    """(M, 3, H, W) uint8: images that get a square of `side` pixels of a random colour at a random place where differs (M,)."""
    found = images.clone()
    height, width = images.shape[-2:]
    for i in differs.nonzero()[:, 0].tolist():
        y, x = (int(torch.randint(size - side + 1, (1,), generator=generator)) for size in (height, width))
        colour = torch.randint(256, (3, 1, 1), generator=generator)
        found[i, :, y : y + side, x : x + side] = colour.to(found)
    return found


def make_pairs(tokenizer: Tokenizer, split: Split, *, side: int, seed: int, batch: int, device: torch.device) -> Pairs:
    """A pair for each image of the split, half of them different."""
    generator = Generator().manual_seed(seed)
    differs = torch.randperm(len(split), generator=generator) % 2 == 0
    other = changed(split.images, differs, side=side, generator=generator)
    second = Split(other, split.captions, split.labels, split.groups)
    tables = [encode_split(tokenizer, part, batch=batch, device=device) for part in (split, second)]
    return Pairs(tables[0], tables[1], differs)


def evaluate_pairs(block: str, job: Job, scheme: Any, tokenizer: Tokenizer, space: TokenSpace) -> Measures:
    """Measures of the scheme, which is trained on pairs of the training split first; `job.config["pairs"]` says how."""
    options: Mapping[str, Any] = job.config["pairs"]
    budget = job.config["budget"]
    batch, seed = budget["backbone"]["batch"], job.config["seed"]
    made = {"side": options["side"], "batch": budget["evaluation"]["batch"], "device": job.device}
    splits = job.dataset.splits
    train, validation, held_out = (
        make_pairs(tokenizer, splits[name], seed=PAIR_SEED + n, **made)
        for n, name in enumerate(("train", "validation", "generation"))
    )

    def loss(rows: TokenBatch) -> dict[str, Tensor]:
        return {"text": (scheme.caption_nll(rows) / (rows.lengths + 1)).mean()}

    def held_out_loss() -> float:
        parts = torch.arange(len(validation)).split(batch)
        total = sum(loss(validation.batch(space, part))["text"] * len(part) for part in parts)
        return float(total) / len(validation)

    fit(
        scheme,
        loss,
        lambda generator: train.batch(space, torch.randint(len(train), (batch,), generator=generator)),
        validation=held_out_loss,
        steps=options["steps"],
        **{name: budget["backbone"][name] for name in ("lr", "weight_decay", "clip")},
        seed=seed,
        precision=budget["precision"],
        name="pairs",
    )
    rows = some(len(held_out), budget["evaluation"]["understanding"])

    @torch.no_grad()
    def right(part: Tensor) -> Tensor:
        found = chosen(scheme, held_out.batch(space, rows[part]), [WORDS] * len(part))
        return found == held_out.differs[rows[part]]

    key = f"{block}/understanding/"
    accuracy = in_batches(len(rows), budget["evaluation"]["batch"], right, what=f"{block}: pairs")
    return {
        key + "same_different_accuracy": mean_of(key + "same_different_accuracy", accuracy.double()),
        key + "pairs_told_apart_by_tokens": mean_of(key + "pairs_told_apart_by_tokens", held_out.told_apart.double()),
    }
