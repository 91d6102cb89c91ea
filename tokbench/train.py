"""Thin training module and `fit`: AdamW, one cycle of the learning rate, early stop on validation.

The stream of batches has its own generator, so every model of a comparison sees the same images in the same order.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Generator, Tensor, nn

from tokbench.quantizers.latents import NotFinite

VERSION = 1
CHECK_EVERY = 10  # steps between looks for a non-finite loss; the step named is still the first
FLAT_DROP = 0.02

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


class Diverged(RuntimeError):
    """A loss term stopped being finite; the message names the term and the step."""


@dataclass(frozen=True)
class Training:
    """What a training was: its curve, and where it stopped."""

    losses: list[float]  # the minimised sum, one a step
    validation: list[tuple[int, float]]  # (steps done, validation loss)
    best_step: int  # the weights kept are those after this many steps
    seconds: float

    @property
    def flattened(self) -> bool:
        """Whether the second half of the steps lowered the training loss (mean of a tenth) by less than 2 %."""
        tenth, half = max(len(self.losses) // 10, 1), max(len(self.losses) // 2, 1)
        before = fmean(self.losses[max(half - tenth, 0) : half])
        return self.final_loss > before - FLAT_DROP * abs(before)

    @property
    def final_loss(self) -> float:
        """Mean training loss of the last tenth of the steps."""
        return fmean(self.losses[-max(len(self.losses) // 10, 1) :])


class _Batches:
    """`steps` batches drawn by `draw` from a generator of its own."""

    def __init__(self, draw: Callable[[Generator], Any], *, steps: int, seed: int) -> None:
        self.draw, self.steps, self.seed = draw, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            yield self.draw(generator)


class TrainingModule(lightning.LightningModule):
    """The loss and the optimizer of one model."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any], Mapping[str, Tensor]],
        *,
        steps: int,
        lr: float,
        weight_decay: float,
        name: str,
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.steps, self.lr, self.weight_decay, self.name = steps, lr, weight_decay, name
        self.history: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The sum of the weighted terms."""
        try:
            terms = self.loss(batch)
        except NotFinite as error:  # the step before broke the weights: its loss says more, if it was not finite
            self.check_finite()
            raise Diverged(f"{error} at step {len(self.history) + 1} of {self.steps}") from None
        self.names = list(terms)
        self.history.append(torch.stack([term.detach().float() for term in terms.values()]))
        if len(self.history) % CHECK_EVERY == 0 or len(self.history) == self.steps:
            self.check_finite()
        return torch.stack(list(terms.values())).sum()

    def check_finite(self) -> None:
        """`Diverged` if a term of the last steps is not finite."""
        if not self.history:
            return
        recent = torch.stack(self.history[-CHECK_EVERY:]).cpu()
        bad = (~recent.isfinite()).nonzero()
        if len(bad):
            step = len(self.history) - len(recent) + int(bad[0, 0]) + 1
            raise Diverged(f"loss term {self.names[int(bad[0, 1])]!r} is not finite at step {step} of {self.steps}")
        if self.logger is not None:
            means = dict(zip(self.names, recent.mean(0).tolist(), strict=True))
            self.logger.log_metrics({f"{self.name}/{k}": v for k, v in means.items()}, step=len(self.history))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches are made where the data lives: nothing to move."""
        return batch

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate (arXiv:1708.07120), a tenth of it warm-up."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim >= 2]
        others = [p for p in trained if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=self.lr, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.steps + 1, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _KeepBest(Callback):
    """Measures the validation loss at evenly spaced steps and keeps the weights where it was lowest."""

    def __init__(self, validation: Callable[[], float], *, at: set[int]) -> None:
        self.validation, self.at = validation, at
        self.seen: list[tuple[int, float]] = []
        self.best: tuple[float, int, dict[str, Tensor]] | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = batch_idx + 1
        if step not in self.at:
            return
        model = pl_module.model
        model.eval()
        try:
            with torch.no_grad():
                loss = self.validation()
        except NotFinite as error:
            raise Diverged(f"{error} in validation after step {step}") from None
        model.train()
        self.seen.append((step, loss))
        if self.best is None or loss < self.best[0]:
            self.best = (loss, step, {k: v.detach().clone() for k, v in model.state_dict().items()})


def fit(
    model: nn.Module,
    loss: Callable[[Any], Mapping[str, Tensor]],
    draw: Callable[[Generator], Any],
    *,
    validation: Callable[[], float],
    steps: int,
    lr: float,
    weight_decay: float,
    clip: float,
    seed: int,
    validations: int = 5,
    precision: str = "32-true",
    logger: Logger | None = None,
    name: str = "train",
) -> Training:
    """Train `model` in place and leave it in eval mode with the weights of the lowest validation loss.

    `loss(batch)` gives weighted scalar terms whose sum is minimised; `draw(generator)` gives a batch on the model's device.
    A logger gets the terms under `name`. Raises `Diverged` at the first non-finite term.
    """
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps}")
    start = time.perf_counter()
    module = TrainingModule(model, loss, steps=steps, lr=lr, weight_decay=weight_decay, name=name)
    keeper = _KeepBest(validation, at={max(round(steps * (i + 1) / validations), 1) for i in range(validations)})
    device = next(model.parameters()).device
    quiet = not sys.stderr.isatty()
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=clip,
        callbacks=[keeper],
        logger=logger if logger is not None else False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=not quiet,
        log_every_n_steps=max(steps, 1),
    )
    model.train()
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, train_dataloaders=_Batches(draw, steps=steps, seed=seed))
    except SystemExit:  # what Lightning makes of Ctrl-C, with the signal's handler gone
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
    model.to(device)  # Lightning leaves it on the CPU
    assert keeper.best is not None
    _, best_step, weights = keeper.best
    model.load_state_dict(weights)
    model.eval()
    losses = torch.stack(module.history).sum(dim=1).cpu().tolist()
    return Training(losses, keeper.seen, best_step, time.perf_counter() - start)
