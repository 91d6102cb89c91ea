"""Where a training that is cut short goes on from: its whole state in one file, written whole, read as data alone.

Writing draws nothing at random, so that a training with a checkpoint gives the weights of one without.
"""

from __future__ import annotations

import io
import pickle
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from tokbench.records import remove_partial, write_whole

SECONDS = 30.0  # between two writes, at least: a short training writes none
SHARE = 0.05  # of the time that writing may take


class Checkpoint:
    """The file of one training; `path` None keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.last, self.cost = path, time.perf_counter(), 0.0

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last write, or the start."""
        return self.path is not None and time.perf_counter() - self.last >= max(SECONDS, self.cost / SHARE)

    def write(self, state: Mapping[str, Any]) -> None:
        """Keep tensors, numbers, strings, lists and mappings of them."""
        assert self.path is not None
        start, buffer = time.perf_counter(), io.BytesIO()
        torch.save(dict(state), buffer)
        write_whole(self.path, buffer.getvalue())
        self.last = time.perf_counter()
        self.cost = self.last - start

    def read(self) -> dict[str, Any] | None:
        """What was kept, on the CPU; None where there is nothing, or, said on stderr, nothing that can be read."""
        if self.path is None or not self.path.exists():
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(
                f"checkpoint {self.path} cannot be read, training starts again: {reason}", file=sys.stderr, flush=True
            )
            return None

    def remove(self) -> None:
        """Forget what was kept, and what a killed writer left."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            remove_partial(self.path.parent, self.path.name)


def random_state(generators: Sequence[Generator]) -> dict[str, Any]:
    """The state of torch's own generators, and of those given."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda, "own": [generator.get_state() for generator in generators]}


def restore_random(state: Mapping[str, Any], generators: Sequence[Generator]) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    for generator, own in zip(generators, state["own"], strict=True):
        generator.set_state(own)
