"""One step of a training: this rank's share of a batch, its loss, the optimizer, and the end of a loss that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import lightning
import torch
from torch import Generator, Tensor, nn

from tokbench.quantizers.latents import NotFinite
from tokbench.quantizers.ranks import mean_over_ranks, num_ranks, rank

CHECK_EVERY = 10  # steps between looks for a non-finite loss; the step named is still the first


class Diverged(RuntimeError):
    """A loss term stopped being finite; the message names the term and the step."""


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


class Batches:
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
