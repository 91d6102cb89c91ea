"""What a training does between its steps: keep the best weights, and its state for when it is cut short."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Generator, Tensor

from tokbench.checkpoints import Checkpoint, random_state, restore_random
from tokbench.quantizers.latents import NotFinite
from tokbench.quantizers.ranks import num_ranks, rank
from tokbench.training_module import Diverged


class KeepBest(Callback):
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


class GoOn(Callback):
    """Starts from the checkpoint where there is one, and writes one when it is due."""

    def __init__(self, checkpoint: Checkpoint, keeper: KeepBest, generators: Sequence[Generator]) -> None:
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
