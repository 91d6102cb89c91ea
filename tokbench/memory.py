"""A training that does not fit into memory is tried once more, each batch in parts whose gradients are averaged."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from tokbench.train import Training

M = TypeVar("M")
SIGNS = ("out of memory", "not enough memory", "allocate memory")  # of CUDA, and of the CPU's allocator
PARTS = 4  # at least, of a batch of so many images or more


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was what failed: of a GPU, of the machine, or of the allocator between."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    )


def parts_of(size: int) -> int:
    """The fewest equal parts, but at least `PARTS` where there are so many, that a batch of `size` divides into."""
    return next(count for count in range(min(PARTS, size), size + 1) if size % count == 0)


def trained_in_memory(make: Callable[[], M], fit: Callable[[M, int], Training], *, batch: int) -> tuple[M, Training]:
    """What `make` makes, trained by fit(model, 1), or where memory fails, made anew, by fit(model, parts_of(batch)).

    The effective batch is the same; what a quantizer takes from a batch as a whole (k-means, running means, batch
    entropies) it then takes from a part. The training's `micro_batches` says so.
    """
    model = make()
    try:
        return model, fit(model, 1)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) or batch == 1:
            raise
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'out of memory'}"
    del model  # the error is gone as well, and with it the frames that held what filled the memory
    gc.collect()
    torch.cuda.empty_cache()
    parts = parts_of(batch)
    print(f"out of memory ({reason}): once more, each batch in {parts} parts", file=sys.stderr, flush=True)
    model = make()
    return model, fit(model, parts)
