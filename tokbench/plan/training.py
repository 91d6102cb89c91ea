"""What training a scheme takes, from shapes alone. N image tokens; FLOPs as in `tokbench.cost`."""

from __future__ import annotations

import torch

from tokbench import cost
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.generation.masked import Masked
from tokbench.interfaces import Scheme, TokenSpace
from tokbench.roofline import beside_flops, sizes_of

DRAWS = 2**12  # of a masked scheme's share of masked tokens, evenly spaced


def training_flops(scheme: Scheme, space: TokenSpace, *, text: int) -> float:
    """Of one training row of `text` bytes and an image: three forward passes' worth, long skips, adaLN and branches included.

    The time embedding of denoise is left out; Chameleon's joint vocabulary, one softmax over text and image, counts as two.
    """
    assert isinstance(scheme, Causal | Masked | Denoise), f"no formula for {type(scheme).__name__}"
    sizes = sizes_of(scheme.backbone)
    if isinstance(scheme, Denoise):
        row = cost.forward_flops(sizes, text=text, num_tokens=scheme.num_places, image_head=sizes.dim)
        return 3 * (row + beside_flops(scheme))
    head = getattr(scheme.head, "loss_flops", scheme.head.flops)
    row = cost.forward_flops(sizes, text=text, num_tokens=space.num_tokens, image_head=0)
    return 3 * (row + scored_tokens(scheme, space.num_tokens) * head)


def scored_tokens(scheme: Causal | Masked, num_tokens: int) -> float:
    """How many of an image's N tokens a row's loss asks the head for: of a masked scheme, in the mean, those that are masked.

    Its rows whose image comes first have none.
    """
    if isinstance(scheme, Causal):
        return num_tokens
    uniform = (torch.arange(DRAWS, dtype=torch.float64) + 0.5) / DRAWS
    counts = (scheme.ratio(uniform) * num_tokens).ceil().clamp(1, num_tokens)
    return (1 - scheme.image_first) * float(counts.mean())
