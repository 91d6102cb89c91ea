"""Thin training module and `fit`: AdamW, one cycle of the learning rate, early stop on validation.

The stream of batches has its own generator, so every model of a comparison sees the same images in the same order,
whether a batch is read at once, in parts, or by several ranks, and whether or not the training was cut short.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Generator, Tensor, nn

from tokbench.checkpoints import Checkpoint, random_state, restore_random
from tokbench.quantizers.latents import NotFinite
from tokbench.quantizers.ranks import mean_over_ranks, num_ranks, rank

VERSION = 1
CHECK_EVERY = 10  # steps between looks for a non-finite loss; the step named is still the first
FLAT_DROP = 0.02
SEVERAL = "ddp_find_unused_parameters_true"  # what "auto" is for several ranks: a loss need not reach every parameter

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


def shares(batch: Any, count: int) -> list[Any]:
    """The batch, a tensor or a dataclass of tensors, in `count` equal parts; ValueError where it does not divide."""
    if batch is None or count == 1:
        return [batch] * count
    if isinstance(batch, Tensor):
        if len(batch) % count:
            raise ValueError(f"batch must divide into {count} equal parts, got {len(batch)}")
        return list(batch.split(len(batch) // count))
    columns = {name: shares(column, count) for name, column in vars(batch).items()}
    return [replace(batch, **{name: parts[i] for name, parts in columns.items()}) for i in range(count)]


class _Batches:
    """This rank's share of each of the batches drawn by `draw`, in `micro` parts, from a generator of its own."""

    def __init__(self, draw: Callable[[Generator], Any], generator: Generator, *, steps: int, micro: int) -> None:
        self.draw, self.generator, self.steps, self.micro = draw, generator, steps, micro

    def __len__(self) -> int:
        return self.steps * self.micro

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.steps):
            mine = shares(self.draw(self.generator), num_ranks())[rank()]
            yield from shares(mine, self.micro)


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
        micro: int,
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.steps, self.lr, self.weight_decay, self.name, self.micro = steps, lr, weight_decay, name, micro
        self.history: list[Tensor] = []  # the terms of each whole step
        self.parts: list[Tensor] = []  # of the step that goes on

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The sum of the weighted terms."""
        try:
            terms = self.loss(batch)
        except NotFinite as error:  # the step before broke the weights: its loss says more, if it was not finite
            self.check_finite()
            raise Diverged(f"{error} at step {len(self.history) + 1} of {self.steps}") from None
        self.names = list(terms)
        self.parts.append(torch.stack([term.detach().float() for term in terms.values()]))
        if len(self.parts) == self.micro:
            self.history.append(mean_over_ranks(torch.stack(self.parts).mean(dim=0)))
            self.parts.clear()
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
        step = len(pl_module.history)
        if pl_module.parts or step not in self.at:
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


class _GoOn(Callback):
    """Starts from the checkpoint where there is one, and writes one when it is due."""

    def __init__(self, checkpoint: Checkpoint, keeper: _KeepBest, generators: Sequence[Generator]) -> None:
        self.checkpoint, self.keeper, self.generators = checkpoint, keeper, generators
        self.kept, self.start = checkpoint.read(), time.perf_counter()
        if self.kept is not None:
            self.start -= self.kept["seconds"]
            keeper.seen, keeper.best = self.kept["seen"], self.kept["best"]
            if rank() == 0:
                print(f"going on after step {len(self.kept['history'])}: {checkpoint.path}", flush=True)

    @property
    def done(self) -> int:
        """Steps that the checkpoint holds."""
        return len(self.kept["history"]) if self.kept else 0

    def finished(self) -> list[Tensor]:
        """The terms of all steps, where the checkpoint holds them all; the random state is then that of the end."""
        assert self.kept is not None
        restore_random(self.kept["random"], self.generators)
        return list(self.kept["history"])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.kept is None:
            return
        kept, (optimizer,) = self.kept, trainer.optimizers
        pl_module.model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        trainer.lr_scheduler_configs[0].scheduler.load_state_dict(kept["schedule"])
        trainer.precision_plugin.load_state_dict(kept["precision"])
        pl_module.history = list(kept["history"].to(pl_module.device))
        if rank() == 0:
            restore_random(kept["random"], self.generators)
        else:  # the first rank wrote its own: the others share its batches and draw the rest anew
            self.generators[0].set_state(kept["random"]["own"][0])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        filled = all(getattr(module, "initialized", True) for module in pl_module.model.modules())
        if not pl_module.parts and rank() == 0 and self.checkpoint.due and filled:
            self.write(trainer, pl_module)

    @property
    def worth_keeping(self) -> bool:
        """Whether what comes after the training may be cut short long enough to matter, or is done by another process."""
        several = self.checkpoint.path is not None and num_ranks() > 1
        return rank() == 0 and (bool(self.checkpoint.cost) or self.checkpoint.due or several)

    def write(self, trainer: Any, pl_module: Any) -> None:
        """Not while a quantizer collects the tokens that it starts from: they are no part of its state."""
        (optimizer,) = trainer.optimizers
        self.checkpoint.write(
            {
                "model": pl_module.model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
                "precision": trainer.precision_plugin.state_dict(),
                "history": torch.stack(pl_module.history),
                "seen": self.keeper.seen,
                "best": self.keeper.best,
                "random": random_state(self.generators),
                "seconds": time.perf_counter() - self.start,
            }
        )


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
    keeper = _KeepBest(validation, at={max(round(steps * (i + 1) / validations), 1) for i in range(validations)})
    own = torch.Generator().manual_seed(seed)
    state = _GoOn(Checkpoint(checkpoint), keeper, (own, *generators))
    device = next(model.parameters()).device
    if state.done < steps:
        trainer = _trainer(
            max_steps=steps - state.done,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            strategy=SEVERAL if num_ranks() > 1 and strategy == "auto" else strategy,
            precision=precision,
            gradient_clip_val=clip,
            accumulate_grad_batches=micro_batches,
            callbacks=[keeper, state],
            logger=logger if logger is not None else False,
        )
        model.train()
        batches = _Batches(draw, own, steps=steps - state.done, micro=micro_batches)
        try:
            _run(trainer, module, batches)
        except Diverged:
            state.checkpoint.remove()
            raise
        if state.worth_keeping:
            state.write(trainer, module)
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


def _trainer(**options: Any) -> lightning.Trainer:
    """One that keeps no files of its own and shows its progress to a person alone."""
    return lightning.Trainer(
        devices=num_ranks(),
        plugins=[LightningEnvironment()] if num_ranks() > 1 else None,  # whatever cluster this machine belongs to
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty() and rank() == 0,
        log_every_n_steps=options["max_steps"],
        **options,
    )


def _run(trainer: lightning.Trainer, module: TrainingModule, batches: _Batches) -> None:
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, train_dataloaders=batches)
    except SystemExit:  # what Lightning makes of Ctrl-C, with the signal's handler gone
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
