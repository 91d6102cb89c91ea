"""`fit`: AdamW, one cycle of the learning rate, early stop on validation.

The stream of batches has its own generator, so every model of a comparison sees the same images in the same order,
whether a batch is read at once, in parts, or by several ranks, and whether or not the training was cut short.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Generator, Tensor, nn

from tokbench.checkpoints import Checkpoint
from tokbench.quantizers.ranks import num_ranks, rank
from tokbench.training_callbacks import GoOn, KeepBest
from tokbench.training_module import Batches, Diverged, TrainingModule

VERSION = 1
FLAT_DROP = 0.02
SEVERAL = "ddp_find_unused_parameters_true"  # what "auto" is for several ranks: a loss need not reach every parameter

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


@dataclass(frozen=True)
class Training:
    """What a training was: its curve, and where it stopped."""

    losses: list[float]  # the minimised sum, one a step
    validation: list[tuple[int, float]]  # (steps done, validation loss)
    best_step: int  # the weights kept are those after this many steps
    seconds: float
    micro_batches: int = 1  # parts that each batch was read in, for want of memory

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
    checkpoint: Path | None = None,
    generators: Sequence[Generator] = (),
    micro_batches: int = 1,
    strategy: str = "auto",
) -> Training:
    """Train `model` in place and leave it in eval mode with the weights of the lowest validation loss.

    `loss(batch)` gives weighted scalar terms whose sum is minimised; `draw(generator)` gives a batch on the model's device.
    A logger gets the terms under `name`. A training that takes long keeps its state in `checkpoint`, with that of the
    `generators` that `loss` draws from, and goes on from there; the file stays for whoever called to remove.
    `micro_batches` equal parts of a batch are read one after another, their gradients averaged; so are those of the ranks
    of torch.distributed, each with its share of every batch. Raises `Diverged` at the first non-finite term.
    """
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps}")
    module = TrainingModule(model, loss, steps=steps, lr=lr, weight_decay=weight_decay, name=name, micro=micro_batches)
    keeper = KeepBest(validation, at={max(round(steps * (i + 1) / validations), 1) for i in range(validations)})
    own = torch.Generator().manual_seed(seed)
    state = GoOn(Checkpoint(checkpoint), keeper, (own, *generators))
    device = next(model.parameters()).device
    if state.done < steps:
        trainer = _trainer(
            device,
            strategy,
            max_steps=steps - state.done,
            precision=precision,
            gradient_clip_val=clip,
            accumulate_grad_batches=micro_batches,
            callbacks=[keeper, state],
            logger=logger if logger is not None else False,
        )
        _train(trainer, module, Batches(draw, own, steps=steps - state.done, micro=micro_batches), state)
        history = module.history
    else:
        history = state.finished()
    model.to(device)  # Lightning leaves it on the CPU
    assert keeper.best is not None
    _, best_step, weights = keeper.best
    model.load_state_dict(weights)
    model.eval()
    losses = torch.stack(history).sum(dim=1).cpu().tolist()
    return Training(losses, keeper.seen, best_step, time.perf_counter() - state.start, micro_batches)


def _trainer(device: torch.device, strategy: str, **options: Any) -> lightning.Trainer:
    """One that keeps no files of its own and shows its progress to a person alone."""
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=num_ranks(),
        strategy=SEVERAL if num_ranks() > 1 and strategy == "auto" else strategy,
        plugins=[LightningEnvironment()] if num_ranks() > 1 else None,  # whatever cluster this machine belongs to
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty() and rank() == 0,
        log_every_n_steps=options["max_steps"],
        **options,
    )


def _train(trainer: lightning.Trainer, module: TrainingModule, batches: Batches, state: GoOn) -> None:
    """The steps that are left, and the checkpoint after them: none of a training that diverged."""
    handler = signal.getsignal(signal.SIGINT)
    module.model.train()
    try:
        trainer.fit(module, train_dataloaders=batches)
    except SystemExit:  # what Lightning makes of Ctrl-C, with the signal's handler gone
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
    except Diverged:
        state.checkpoint.remove()
        raise
    if state.worth_keeping:
        state.write(trainer, module)
