"""Speed of generation: beside transformers' `generate` on a Llama of the same shape, and per pass beside a bare forward.

256 image tokens of 1000 codes, width 256, depth 6, 4 heads, float32, random weights.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.bench_timing import line, ratio, seconds
from tokbench.backbone.sequence import encode_text
from tokbench.backbone.transformer import Backbone
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.generation.masked import Masked
from tokbench.generation.prompts import read_prompt
from tokbench.heads.categorical import Categorical
from tokbench.interfaces import TokenSpace
from tokbench.quantizers.fsq import FiniteScalarQuantizer

GRID, N, CODES, WIDTH, DEPTH, HEADS = (16, 16), 256, 1000, 256, 6, 4
CAPTION = "a cat"
PASSES = 16
BARS = {1: ">= 1.8 x, aim 3.6 x", 64: ">= 1.4 x, aim 2.8 x"}
ROWS: dict[str, Any] = {"image_first": 0.2, "caption_dropout": 0.1, "loss_weights": {"text": 1.0, "image": 1.0}}


def parts() -> tuple[TokenSpace, Backbone, Categorical]:
    torch.manual_seed(0)
    quantizer = FiniteScalarQuantizer([8, 5, 5, 5])
    space = TokenSpace(GRID, 4, (CODES,), torch.zeros(4), torch.ones(4), quantizer.indices_to_codes)
    backbone = Backbone(dim=4, width=WIDTH, depth=DEPTH, heads=HEADS, grid=GRID, positions="rope_tv", base=1e4)
    return space, backbone, Categorical(width=WIDTH, codebook_sizes=(CODES,), top_p=1.0)


def ready(scheme: Any) -> Any:
    for parameter in scheme.parameters():  # residual branches start at zero: give them something to compute
        nn.init.normal_(parameter, std=0.05) if parameter.ndim == 2 else None
    return scheme.eval()


def sampler(scheme: Any, batch: int, **options: bool) -> Callable[[], Tensor]:
    text, lengths = encode_text([CAPTION] * batch)

    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return scheme.sample(text, lengths, guidance=1.0, generator=generator, **options).z_q

    return draw


def llama(batch: int, cache: str | None) -> Callable[[], object]:
    """transformers' own sampling of as many tokens after as long a prompt."""
    from transformers import LlamaConfig, LlamaForCausalLM  # of the extra `bench`

    torch.manual_seed(0)
    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=CODES, intermediate_size=688, max_position_embeddings=512, **sizes))
    prompt = torch.randint(CODES, (batch, len(CAPTION) + 2))
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": N, "min_new_tokens": N, "pad_token_id": 0}

    def generate() -> object:
        mask = torch.ones_like(prompt)
        return model.eval().generate(
            prompt, attention_mask=mask, cache_implementation=cache, eos_token_id=None, **options
        )

    return generate


def beside_transformers(batch: int) -> None:
    ours = sampler(ready(Causal(*parts(), order="raster", temperature=1.0, **ROWS)), batch)
    theirs = [llama(batch, cache) for cache in (None, "static")]
    for call in (ours, *theirs):
        call()
    rounds = [(seconds(ours), min(seconds(call) for call in theirs)) for _ in range(3)]
    found = statistics.median(other / own for own, other in rounds)
    line(f"{N} tokens, batch {batch}: transformers' generate / ours", f"{found:.2f} x", BARS[batch])


def cached() -> None:
    scheme = ready(Causal(*parts(), order="raster", temperature=1.0, **ROWS))
    with_cache, without = (sampler(scheme, 1, use_cache=used) for used in (True, False))
    line(f"{N} tokens, batch 1: recomputing / KV cache", f"{ratio(without, with_cache, repeats=3):.1f} x", ">= 5 x")
    line("  the same tokens at the same seed", str(torch.equal(with_cache(), without())), "True")


def passes() -> None:
    """Sampling by whole passes, each beside one bare pass of the image's tokens over the cached prompt."""
    space, backbone, head = parts()
    choice = {"ratio": "cosine", "reveal": "confident", "confidence_noise": 4.5, "guidance_schedule": "constant"}
    masked = Masked(space, backbone, head, rounds=PASSES, temperature=1.0, **choice, **ROWS)  # type: ignore[arg-type]
    path = {"schedule": "cosine", "prediction": "v", "sampler": "ddim"}
    denoise = Denoise(space, backbone, steps=PASSES, **path, **ROWS)  # type: ignore[arg-type]
    for name, scheme in (("masked", ready(masked)), ("denoise", ready(denoise))):
        prompt = read_prompt(backbone, *encode_text([CAPTION]), guidance=1)
        x, slots = torch.randn(1, N, WIDTH), prompt.cache.filled

        @torch.no_grad()
        def bare(prompt: Any = prompt, x: Tensor = x, slots: int = slots) -> None:
            for _ in range(PASSES):
                backbone.extend(prompt.cache, x, prompt.image_turn)
                prompt.cache.filled = slots

        found = ratio(sampler(scheme, 1), bare, repeats=5)
        line(f"{name}: {PASSES} passes of {N} tokens / as many bare forwards", f"{found:.3f} x", "<= 1.15 x")


def generation() -> None:
    cached()
    passes()
    for batch in BARS:
        beside_transformers(batch)


if __name__ == "__main__":
    generation()
