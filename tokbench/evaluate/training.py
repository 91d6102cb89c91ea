"""What a training says of itself: where it ended, whether it had flattened, and its curve."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from tokbench.evaluate.measures import Measures, measured
from tokbench.interfaces import Tokenizer
from tokbench.train import Training

CURVE_POINTS = 200


def training_measures(prefix: str, training: Training) -> Measures:
    """Its final loss, whether it flattened, its best step, and the parts of a batch where memory asked for several."""
    values = {
        "final_loss": training.final_loss,
        "flattened": float(training.flattened),
        "best_step": float(training.best_step),
    } | ({"micro_batches": float(training.micro_batches)} if training.micro_batches > 1 else {})
    return {f"{prefix}training/{k}": measured(f"{prefix}training/{k}", v) for k, v in values.items()}


def fallbacks(tokenizer: Tokenizer) -> Measures:
    """Tokens of the training that the rotation trick could not rotate, where it was used."""
    modules = tokenizer.modules() if isinstance(tokenizer, nn.Module) else ()
    counts = [int(found.sum()) for module in modules if isinstance(found := getattr(module, "fallbacks", None), Tensor)]
    key = "training/rotation_fallbacks"
    return {key: measured(key, sum(counts))} if counts else {}


def curve(training: Training) -> np.ndarray:
    """(k, 2) float32 step and mean loss of the steps since the last point."""
    losses = np.array(training.losses, dtype=np.float32)
    parts = np.array_split(np.arange(len(losses)), min(CURVE_POINTS, len(losses)))
    return np.array([(part[-1] + 1, losses[part].mean()) for part in parts], dtype=np.float32)
