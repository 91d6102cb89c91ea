"""Every preset of conf/generation: counted FLOPs are the formula's, the cache is as large as predicted, passes are exact."""

import pytest
import torch

from tokbench import build, cost
from tokbench.backbone.decoding import Decoder
from tokbench.backbone.sequence import encode_text
from tokbench.backbone.transformer import Backbone
from tokbench.evaluate.costs import allocated_cache
from tokbench.interfaces import TokenSpace
from tokbench.roofline import workload

GRID, N, D, V, WIDTH = (4, 4), 16, 4, 60, 64
CAPTION = "abcdef"
PROMPT = len(CAPTION) + cost.PROMPT_SPECIALS
PRESETS = {
    path.stem: preset
    for path in sorted((build.ROOT / "conf" / "generation").glob("*.yaml"))
    if "scheme" in (preset := build.compose([f"generation={path.stem}", "budget=smoke"])["generation"])
}


def scheme_of(preset, *, width=WIDTH):
    torch.manual_seed(0)
    backbone = Backbone(dim=D, width=width, depth=2, heads=2, grid=GRID, positions="rope_tv", base=1e4)
    codes = torch.randn(V, D)
    discrete = TokenSpace(
        GRID, D, (V,), torch.zeros(D), torch.ones(D), lambda indices: codes[indices], factors=((5, 4, 3),)
    )
    space = TokenSpace(GRID, D, (), torch.zeros(D), torch.ones(D), lambda indices: codes[indices])
    parts = [backbone]
    if preset["head"]:
        known = {"width": width, "dim": D, "codebook_sizes": (V,), "factors": ((5, 4, 3),)}
        node = preset["head"]
        parts.append(build.construct(node, **{k: v for k, v in known.items() if build.takes(node, k)}))
        space = discrete if parts[1].reads == "indices" else space
    return build.construct(preset["scheme"], space, *parts).eval(), space


def counting(passes, call):
    def spy(*args, **options):
        passes.append(1)
        return call(*args, **options)

    return spy


@pytest.mark.parametrize("name", PRESETS)
def test_the_formula_is_what_is_counted(name, monkeypatch):
    scheme, space = scheme_of(PRESETS[name])
    text, lengths = encode_text([CAPTION])
    passes = []
    scheme.backbone.forward = counting(passes, scheme.backbone.forward)
    monkeypatch.setattr(Decoder, "step", counting(passes, Decoder.step))

    def generate():
        return scheme.sample(text, lengths, guidance=1.0, generator=torch.Generator().manual_seed(0))

    counted = cost.counted_flops(generate)
    works = workload(scheme, space, prompt=PROMPT)
    assert counted == pytest.approx(sum(work.flops for work in works.values()), rel=0.02)
    assert len(passes) == works["prompt"].passes + works["image"].passes
    sizes = cost.Sizes(WIDTH, 2, D)
    assert allocated_cache(scheme, generate) == cost.kv_bytes(sizes, slots=PROMPT + N, rows=1, element_bytes=4)
    assert "prefill" not in vars(scheme.backbone)


def test_the_formula_knows_the_options_of_denoise():
    from functools import partial

    from tokbench.generation.branches import UNet, Wide
    from tokbench.generation.denoise import Denoise
    from tokbench.generation.tokens import grouped

    space = TokenSpace(GRID, D, (), torch.zeros(D), torch.ones(D), lambda indices: indices)
    for options, skips in (
        ({"patch": 2}, False),
        ({"conditioning": "token"}, False),
        ({"conditioning": "adaln_zero", "sampler": "heun"}, True),
        ({"patch": 2, "branch": partial(UNet, channels=16), "conditioning": "token"}, False),
        ({"patch": 4, "branch": partial(Wide, channels=16)}, True),
    ):
        dim, grid = grouped(space, options.get("patch", 1))
        backbone = Backbone(
            dim=dim, width=WIDTH, depth=2, heads=2, grid=grid, positions="rope_tv", base=1e4, long_skips=skips
        )
        rows = {"image_first": 0.2, "caption_dropout": 0.1, "loss_weights": {}}
        given = {"schedule": "cosine", "prediction": "v", "steps": 3, "sampler": "ddim"} | rows | options
        scheme = Denoise(space, backbone, **given).eval()
        counted = cost.counted_flops(
            lambda s=scheme: s.sample(*encode_text([CAPTION]), guidance=1.0, generator=torch.Generator().manual_seed(0))
        )
        works = workload(scheme, space, prompt=PROMPT)
        assert counted == pytest.approx(sum(work.flops for work in works.values()), rel=0.02), options
