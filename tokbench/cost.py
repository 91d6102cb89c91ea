"""What generation costs, from the shapes alone: parameters, FLOPs, passes, bytes of keys and values; and FLOPs counted.

FLOPs are 2 x multiply-accumulates of matrix products, attention counted dense, as it is executed: norms, activations,
RoPE and draws are left out. Analytic counts are of one image in the backbone and its heads. w width, P prompt slots
(padding, BOS and BOI included), N image tokens, D channels a token, V codes.

`python -m tokbench.cost generation=chameleon,transfusion image_size=256 width=4096 depth=32` plans a system: see `plan`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokbench.backbone.sequence import SPECIALS
from tokbench.backbone.sequence import VOCABULARY as TEXT_VOCABULARY
from tokbench.layers import hidden_size

VERSION = 1
PROMPT_SPECIALS = 2  # BOS and BOI


@dataclass(frozen=True)
class Sizes:
    """The plain numbers of a backbone: w, layers, D channels an image token, and layers that also read their mirror."""

    width: int
    depth: int
    dim: int
    skips: int = 0


def backbone_flops(sizes: Sizes, queries: int, keys: int) -> int:
    """Of all blocks and long skips, for `queries` tokens that attend to `keys` tokens (themselves included)."""
    width = sizes.width
    weights = 4 * width**2 + 3 * width * hidden_size(width)
    return 2 * queries * (sizes.depth * (weights + 2 * keys * width) + sizes.skips * 2 * width**2)


def causal_generation_flops(sizes: Sizes, *, prompt: int, num_tokens: int, codebook_size: int, guided: bool) -> int:
    """One image: the prompt once, N - 1 cached steps, N softmaxes over V; guidance reads everything twice."""
    heads = 2 * num_tokens * sizes.width * codebook_size
    return (1 + guided) * (causal_reading_flops(sizes, prompt=prompt, num_tokens=num_tokens) + heads)


def causal_reading_flops(sizes: Sizes, *, prompt: int, num_tokens: int) -> int:
    """The prompt once and N - 1 cached steps of one image, without its heads."""
    steps = sum(backbone_flops(sizes, 1, prompt + count) for count in range(1, num_tokens))
    return backbone_flops(sizes, prompt, prompt) + steps + 2 * (num_tokens - 1) * sizes.dim * sizes.width


def masked_generation_flops(sizes: Sizes, *, prompt: int, num_tokens: int, rounds: int, guided: bool) -> int:
    """One image without its heads: the prompt once, `rounds` passes of all N tokens; guidance reads all twice."""
    one = backbone_flops(sizes, num_tokens, prompt + num_tokens) + 2 * num_tokens * sizes.dim * sizes.width
    return (1 + guided) * (backbone_flops(sizes, prompt, prompt) + rounds * one)


def encoder_decoder_masked_flops(sizes: Sizes, *, prompt: int, num_tokens: int, rounds: int, buffer: int) -> int:
    """As MAR is published (arXiv:2406.11838): half the layers read the known tokens and `buffer` more, half read all; no cache.

    One image without its head. Known after round k of R: L (1 - cos(pi k / 2R)) tokens. Of an odd number of layers, which no
    published MAR has, the encoder has one more than the decoder.
    """
    encoder, decoder = (Sizes(sizes.width, (sizes.depth + more) // 2, sizes.dim) for more in (1, 0))
    known = [prompt + buffer + round(num_tokens * (1 - math.cos(math.pi * k / (2 * rounds)))) for k in range(rounds)]
    whole = prompt + buffer + num_tokens
    return sum(backbone_flops(encoder, seen, seen) for seen in known) + rounds * backbone_flops(decoder, whole, whole)


def denoise_generation_flops(sizes: Sizes, *, prompt: int, num_tokens: int, steps: int, guided: bool) -> int:
    """One image: the prompt once, `steps` passes of all N tokens; guidance reads all twice. The snap is left out."""
    one = backbone_flops(sizes, num_tokens, prompt + num_tokens) + denoise_adapters_flops(sizes, num_tokens)
    return (1 + guided) * (backbone_flops(sizes, prompt, prompt) + steps * one)


def denoise_adapters_flops(sizes: Sizes, num_tokens: int) -> int:
    """Into the backbone, out of it, and the time embedding of one image."""
    return 4 * num_tokens * sizes.dim * sizes.width + 4 * sizes.width**2


def forward_flops(sizes: Sizes, *, text: int, num_tokens: int, image_head: int) -> int:
    """Reading one training row of `text` bytes (padding included) and an image; `image_head` is V, or D for denoise.

    The time embedding of denoise, 4 w^2, is left out; its adaLN and branches are in `plan.training`.
    """
    row = text + num_tokens + SPECIALS
    heads = 2 * sizes.width * (row * TEXT_VOCABULARY + num_tokens * (sizes.dim + image_head))
    return backbone_flops(sizes, row, row) + heads


def training_flops(sizes: Sizes, *, text: int, num_tokens: int, image_head: int) -> int:
    """One training row: three forward passes' worth (forward, gradient of inputs, gradient of weights)."""
    return 3 * forward_flops(sizes, text=text, num_tokens=num_tokens, image_head=image_head)


def kv_bytes(sizes: Sizes, *, slots: int, rows: int, element_bytes: int) -> int:
    """Keys and values of all layers for `rows` sequences of `slots` tokens (prompt + N; guidance doubles the rows)."""
    return 2 * sizes.depth * sizes.width * slots * rows * element_bytes


def causal_passes(num_tokens: int) -> int:
    """Sequential backbone passes an image: the prompt's gives the first token."""
    return num_tokens


def denoise_passes(steps: int) -> int:
    """Sequential backbone passes an image, the prompt's included."""
    return steps + 1


def num_parameters(module: nn.Module) -> int:
    """All parameters, each once."""
    return sum(parameter.numel() for parameter in module.parameters())


def counted_flops(run: Callable[[], object]) -> int:
    """FLOPs of one call by torch's counter; attention runs in its plain form, which the counter sees on a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


if __name__ == "__main__":
    import runpy

    runpy.run_module("tokbench.plan", run_name="__main__")  # by name: a room further down
