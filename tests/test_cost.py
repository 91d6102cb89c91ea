import math

import pytest
import torch

from tokbench import cost
from tokbench.backbone.sequence import encode_text
from tokbench.backbone.transformer import Backbone
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.heads.categorical import Categorical
from tokbench.interfaces import TokenBatch, TokenSpace

GRID, N, D, V, WIDTH, DEPTH, STEPS = (4, 4), 16, 4, 64, 48, 2, 3
SIZES = cost.Sizes(width=WIDTH, depth=DEPTH, dim=D)
CAPTIONS = ["abcdefgh", "abc"]
PROMPT = 8 + cost.PROMPT_SPECIALS


def _schemes():
    codes = torch.randn(V, D)
    space = TokenSpace(GRID, D, (V,), codes.mean(0), codes.std(0), lambda indices: codes[indices])
    backbone = Backbone(dim=D, width=WIDTH, depth=DEPTH, heads=2, grid=GRID, positions="rope_tv", base=100.0)
    rows = {"image_first": 0.2, "caption_dropout": 0.1, "loss_weights": {"text": 1.0, "image": 1.0}}
    head = Categorical(width=WIDTH, codebook_sizes=(V,), top_p=1.0)
    causal = Causal(space, backbone, head, order="raster", temperature=1.0, **rows)
    denoise = Denoise(space, backbone, schedule="cosine", prediction="v", steps=STEPS, sampler="ddim", **rows)
    indices = torch.randint(V, (2, N))
    return causal, denoise, TokenBatch(space.standardize(codes[indices]), indices, *encode_text(CAPTIONS))


def _counted_sample(scheme, guidance):
    text, lengths = encode_text(CAPTIONS)
    generator = torch.Generator().manual_seed(0)
    return cost.counted_flops(lambda: scheme.sample(text, lengths, guidance=guidance, generator=generator))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_analytic_generation_flops_are_those_counted(guidance):
    causal, denoise, _ = _schemes()
    options = {"prompt": PROMPT, "num_tokens": N, "guided": guidance != 1}
    expected = cost.causal_generation_flops(SIZES, codebook_size=V, **options)
    assert _counted_sample(causal, guidance) / 2 == pytest.approx(expected, rel=0.02)
    expected = cost.denoise_generation_flops(SIZES, steps=STEPS, **options)
    snap = 2 * N * V * D
    assert _counted_sample(denoise, guidance) / 2 - snap == pytest.approx(expected, rel=0.02)


def test_analytic_forward_flops_are_those_counted_and_training_is_three_of_them():
    causal, denoise, batch = _schemes()
    for scheme, image_head in ((causal, V), (denoise, D)):
        counted = cost.counted_flops(lambda scheme=scheme: scheme.loss(batch, torch.Generator().manual_seed(0)))
        shape = {"text": 8, "num_tokens": N, "image_head": image_head}
        assert counted / 2 == pytest.approx(cost.forward_flops(SIZES, **shape), rel=0.02)
        assert cost.training_flops(SIZES, **shape) == 3 * cost.forward_flops(SIZES, **shape)


@pytest.mark.parametrize(("depth", "skips"), [(2, 1), (3, 1), (4, 2)])
def test_long_skips_are_in_the_forward_flops(depth, skips):
    backbone = Backbone(
        dim=D, width=WIDTH, depth=depth, heads=2, grid=GRID, positions="rope_tv", base=100.0, long_skips=True
    )
    causal, _, batch = _schemes()
    head = Categorical(width=WIDTH, codebook_sizes=(V,), top_p=1.0)
    rows = {"image_first": 0.2, "caption_dropout": 0.1, "loss_weights": {"text": 1.0, "image": 1.0}}
    scheme = Causal(causal.space, backbone, head, order="raster", temperature=1.0, **rows)
    counted = cost.counted_flops(lambda: scheme.loss(batch, torch.Generator().manual_seed(0)))
    sizes = cost.Sizes(WIDTH, depth, D, skips)
    assert counted / 2 == pytest.approx(cost.forward_flops(sizes, text=8, num_tokens=N, image_head=V), rel=0.02)


def test_training_flops_with_the_backward_pass_are_those_counted():
    causal, _, batch = _schemes()
    counted = cost.counted_flops(lambda: sum(causal.loss(batch, torch.Generator().manual_seed(0)).values()).backward())
    expected = cost.training_flops(SIZES, text=8, num_tokens=N, image_head=V)
    assert counted / 2 == pytest.approx(expected, rel=0.02)


def test_kv_bytes_are_those_a_cache_holds():
    causal, _, _ = _schemes()
    cache, _ = causal.backbone.prefill(torch.full((3, 5), 256), torch.tensor([5, 3, 4]), room=N)
    assert cache.num_bytes == cost.kv_bytes(SIZES, slots=5 + N, rows=3, element_bytes=4)


def test_passes_and_parameters_are_counted():
    assert cost.causal_passes(64) == 64
    assert cost.denoise_passes(25) == 26
    assert cost.num_parameters(torch.nn.Linear(3, 4)) == 16


EXAMPLE = cost.Sizes(width=768, depth=12, dim=0)  # SYSTEMS.md section 3: 84.9 M parameters, 32 prompt slots, bfloat16
WHOLE = 32  # prompt slots


def _gigaflops(flops):
    return flops / 1e9


@pytest.mark.parametrize(
    ("num_tokens", "codes", "gigaflops", "megabytes"),
    [(12288, 256, 4895, 454), (3072, 256, 706, 114), (256, 8192, 54, 10.6), (64, 8192, 17, 3.5)],
    ids=["pixels 64", "pixels 32", "16 x 16", "8 x 8"],
)
def test_the_worked_example_of_next_token_prediction(num_tokens, codes, gigaflops, megabytes):
    flops = cost.causal_generation_flops(
        EXAMPLE, prompt=WHOLE, num_tokens=num_tokens, codebook_size=codes, guided=False
    )
    last = cost.backbone_flops(EXAMPLE, 1, WHOLE + num_tokens)  # the table reads the last token too
    assert _gigaflops(flops + last) == pytest.approx(gigaflops, abs=0.6)
    assert round(_gigaflops(flops)) in (gigaflops, gigaflops - 1)
    kept = cost.kv_bytes(EXAMPLE, slots=WHOLE + num_tokens, rows=1, element_bytes=2)
    assert kept / 1e6 == pytest.approx(megabytes, abs=0.5 if megabytes > 100 else 0.05)
    assert cost.causal_passes(num_tokens) == num_tokens


@pytest.mark.parametrize(("rounds", "gigaflops"), [(8, 401), (16, 796), (50, 2477)])
def test_the_worked_example_of_masked_prediction(rounds, gigaflops):
    flops = cost.masked_generation_flops(EXAMPLE, prompt=WHOLE, num_tokens=256, rounds=rounds, guided=False)
    heads = rounds * 256 * 2 * 768 * 8192  # the table has every token's softmax in every round
    assert _gigaflops(flops + heads) == pytest.approx(gigaflops, abs=0.6)
    assert cost.kv_bytes(EXAMPLE, slots=WHOLE, rows=1, element_bytes=2) / 1e6 == pytest.approx(1.2, abs=0.05)


@pytest.mark.parametrize(
    ("num_tokens", "steps", "gigaflops"),
    [(256, 10, 514), (256, 50, 2364), (256, 250, 11612), (64, 10, 128), (64, 50, 573), (64, 250, 2801)],
)
def test_the_worked_example_of_patch_diffusion(num_tokens, steps, gigaflops):
    options = {"prompt": WHOLE, "num_tokens": num_tokens, "guided": False}
    sizes = cost.Sizes(width=768, depth=12, dim=48 * 256 // num_tokens)  # patches of 4 or 8 pixels of 64 x 64
    flops = cost.denoise_generation_flops(sizes, steps=steps + 1, **options)  # the table's clean pass for later text
    time = (steps + 1) * 4 * 768**2  # which the table leaves out
    assert _gigaflops(flops - time) == pytest.approx(gigaflops, abs=0.6)
    assert cost.denoise_passes(steps) == steps + 1


def test_the_worked_example_of_a_diffusion_head():
    reading = cost.causal_reading_flops(EXAMPLE, prompt=WHOLE, num_tokens=256)
    head = 256 * 100 * 2 * 6e6
    assert _gigaflops(reading + head) == pytest.approx(358, abs=0.6)
    assert _gigaflops(head) == pytest.approx(307, abs=0.5)


def test_the_worked_example_of_the_published_mar():
    options = {"prompt": WHOLE, "num_tokens": 256, "rounds": 64, "buffer": 64}
    backbone = cost.encoder_decoder_masked_flops(EXAMPLE, **options)
    assert _gigaflops(backbone + 256 * 100 * 2 * 6e6) == pytest.approx(3435, rel=0.005)


def test_an_odd_layer_of_the_published_mar_is_its_encoder_s():
    options = {"prompt": WHOLE, "num_tokens": 256, "rounds": 8, "buffer": 64}
    one, two, three, four = (
        cost.encoder_decoder_masked_flops(cost.Sizes(768, depth, 0), **options) for depth in (1, 2, 3, 4)
    )
    assert two < three < four == 2 * two
    assert three - two == one
    known = [WHOLE + 64 + round(256 * (1 - math.cos(math.pi * k / 16))) for k in range(8)]
    assert one == sum(cost.backbone_flops(cost.Sizes(768, 1, 0), seen, seen) for seen in known)
