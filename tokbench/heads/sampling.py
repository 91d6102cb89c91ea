"""What heads share when they draw: from logits to an index, from weighted candidates to one. M tokens, V codes."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Generator, Tensor

VERSION = 1  # not in a run's hash: a change of numbers here raises the VERSION of the heads that draw


def check_discrete(head: str, codebook_sizes: Sequence[int], top_p: float) -> None:
    """ValueError unless there are codes to draw and `top_p` is in (0, 1]."""
    if not codebook_sizes:
        raise ValueError(
            f"head {head!r} needs indices, but the tokenizer is continuous; use generation=transfusion, mar or givt"
        )
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")


def check_temperature(head: str, temperature: float) -> None:
    """ValueError unless a density can be drawn from at this temperature: its limit 0 is a point without a density."""
    if not 0 < temperature < inf:
        raise ValueError(f"head {head!r} needs a temperature > 0, got {temperature}")


def without_caption(h_uncond: Tensor | None, guidance: float) -> Tensor | None:
    """The states without the caption, None at guidance 1, which reads none; ValueError where guidance lacks them."""
    if guidance == 1:
        return None
    if h_uncond is None:
        raise ValueError(
            f"guidance other than 1 needs h_uncond, the states without the caption; got guidance {guidance}"
        )
    return h_uncond


def guided(logits: Tensor, without: Tensor | None, guidance: float) -> Tensor:
    """Logits (M, V) moved away from those `without` the caption (arXiv:2207.12598); None: there is no guidance."""
    return logits if without is None else without + guidance * (logits - without)


def draw(logits: Tensor, *, temperature: float, top_p: float, generator: Generator) -> Tensor:
    """(M,) int64 drawn from logits (M, V): temperature (0: the likeliest), then the nucleus of mass `top_p`."""
    if not 0 <= temperature < inf:
        raise ValueError(f"temperature must be >= 0, got {temperature}")
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = (logits / temperature).softmax(dim=-1)
    if top_p < 1:
        probabilities = nucleus(probabilities, top_p)
    waits = exponential(probabilities.shape, generator).to(logits.device)
    return (probabilities / waits).argmax(dim=-1)  # the first of V exponential clocks


def exponential(shape: Sequence[int], generator: Generator) -> Tensor:
    """float32 exponentials of rate 1: the numbers of torch's `exponential_`, which on a CPU takes its logarithms one by one."""
    if generator.device.type != "cpu":
        return torch.empty(shape, device=generator.device).exponential_(generator=generator)
    uniform = torch.empty(shape, dtype=torch.float64).uniform_(generator=generator)
    return uniform.neg_().log1p_().neg_().float()


def resample(candidates: Tensor, log_weights: Tensor, generator: Generator) -> Tensor:
    """(M, ...): of each token's n candidates (n, M, ...), one drawn with odds exp(log_weights (n, M)).

    Candidates of density q with weights p / q follow p as n grows (importance resampling, Rubin 1988).
    """
    chosen = draw(log_weights.t(), temperature=1.0, top_p=1.0, generator=generator)
    return candidates[chosen, torch.arange(len(chosen), device=chosen.device)]


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """(M, V) with all but the smallest set of at least `top_p` mass set to zero (arXiv:1904.09751); not renormalised."""
    ordered, order = probabilities.sort(dim=-1, descending=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0))
