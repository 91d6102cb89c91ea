"""What the judges share: how one is trained, and where it is kept, under a hash of all that made it.

The same training gives other weights on another processor, and distances are of one judge: those of the sets that results are
shown for are published beside them, and used on every machine.

Whatever changes the weights here raises the VERSION of every judge.
"""

from __future__ import annotations

import hashlib
import io
import math
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from tokbench.locks import held
from tokbench.metrics.features import weights_sha256
from tokbench.records import remove_partial, write_whole

BATCH = 128
LEARNING_RATE = 1e-2  # peak of the one-cycle schedule; tuned on CIFAR-10
WEIGHT_DECAY = 0.05
PUBLISHED = Path(__file__).resolve().parents[1] / "results" / "judges"


class Judge(nn.Module):
    """A small network trained on originals."""

    validation_accuracy = math.nan  # in [0, 1]; set once it is trained

    @property
    def weights_sha256(self) -> str:
        return weights_sha256(self)


AnyJudge = TypeVar("AnyJudge", bound=Judge)


def convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """3 x 3, batch normalisation, ReLU."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def kept_or_trained(judge: AnyJudge, fit: Callable[[], float], *, cache: Path | None, name: str, key: str) -> AnyJudge:
    """The judge in eval mode, published or cached under a hash of `key`, or trained by `fit`, which gives its accuracy.

    Without a cache it is always trained.
    """
    file = f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
    if cache is not None and _load(judge, PUBLISHED / file):
        return judge.eval().requires_grad_(False)
    path = cache / file if cache else None
    with held(path) if path is not None else nullcontext():  # one process trains it, the others wait and read
        if path is not None:
            remove_partial(path.parent, path.name)
        if path is None or not _load(judge, path):
            judge.validation_accuracy = fit()
            if path is not None:
                _save(judge, path)
    return judge.eval().requires_grad_(False)


def fit_judge(
    judge: nn.Module, loss: Callable[[Tensor], Tensor], total: int, *, steps: int, seed: int, device: torch.device
) -> None:
    """AdamW on a one-cycle schedule over shuffled passes of `total` rows; `loss` takes the rows (BATCH,) of a step."""
    generator = torch.Generator().manual_seed(seed)
    passes = math.ceil(steps * BATCH / total)
    order = torch.cat([torch.randperm(total, generator=generator) for _ in range(passes)]).to(device)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    judge.train()
    console = Console(stderr=True)
    for step in track(range(steps), "judge", console=console, disable=not sys.stderr.isatty(), transient=True):
        error = loss(order[step * BATCH : (step + 1) * BATCH])
        if step % 50 == 0 and not error.isfinite():
            raise ValueError(f"a judge's loss must be finite, got {error.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        error.backward()
        optimizer.step()
        schedule.step()
    judge.eval()


def _save(judge: Judge, path: Path) -> None:
    """sha256 of the rest, then torch's own format; written whole or not at all."""
    buffer = io.BytesIO()
    state = {name: value.cpu() for name, value in judge.state_dict().items()}
    torch.save({"state": state, "validation_accuracy": judge.validation_accuracy}, buffer)
    content = buffer.getvalue()
    write_whole(path, hashlib.sha256(content).digest() + content)


def _load(judge: Judge, path: Path) -> bool:
    """True where `path` held the weights; a file that fails its checksum is named in a warning."""
    if not path.exists():
        return False
    digest, content = (data := path.read_bytes())[:32], data[32:]
    if hashlib.sha256(content).digest() != digest:
        warnings.warn(f"the judge {path} is damaged and left out", stacklevel=3)
        return False
    kept = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    judge.load_state_dict(kept["state"])
    judge.validation_accuracy = kept["validation_accuracy"]
    return True
