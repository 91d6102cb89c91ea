"""The planner's training FLOPs are those counted: of every preset, and of every option that adds layers."""

from functools import partial

import pytest
import torch

from tests.generation.test_preset_costs import GRID, PRESETS, WIDTH, D, N, V, scheme_of
from tokbench import cost
from tokbench.backbone.sequence import encode_text
from tokbench.backbone.transformer import Backbone
from tokbench.generation.branches import UNet, Wide
from tokbench.generation.denoise import Denoise
from tokbench.generation.masked import Masked
from tokbench.generation.tokens import grouped
from tokbench.interfaces import TokenBatch, TokenSpace
from tokbench.plan.training import scored_tokens, training_flops

TEXT, ROWS = 6, 8
DENOISE = {"schedule": "cosine", "prediction": "v", "steps": 3, "sampler": "ddim", "image_first": 0.2}
DENOISE |= {"caption_dropout": 0.1, "loss_weights": {}}
OPTIONS = {
    "plain": ({}, False),
    "long skips": ({}, True),
    "adaLN": ({"conditioning": "adaln_zero"}, False),
    "adaLN, long skips": ({"conditioning": "adaln_zero"}, True),
    "token, long skips": ({"conditioning": "token"}, True),
    "U-Net": ({"patch": 2, "branch": partial(UNet, channels=16)}, False),
    "wide": ({"patch": 2, "branch": partial(Wide, channels=16)}, False),
}


def denoise(options, skips):
    space = TokenSpace(GRID, D, (), torch.zeros(D), torch.ones(D), lambda indices: indices)
    dim, grid = grouped(space, options.get("patch", 1))
    backbone = Backbone(
        dim=dim, width=WIDTH, depth=2, heads=2, grid=grid, positions="rope_tv", base=1e4, long_skips=skips
    )
    return Denoise(space, backbone, **DENOISE | options)


def batch(*, rows=ROWS):
    indices = torch.randint(V, (rows, N), generator=torch.Generator().manual_seed(0))
    return TokenBatch(torch.randn(rows, N, D), indices, *encode_text(["abcdef"] * rows))


def counted(scheme, *, backward):
    """Of one row; the head is asked for as many tokens as it is in the mean."""
    asked = []
    head = getattr(scheme, "head", None)
    if head is not None:
        loss = head.loss
        head.loss = lambda h, *rest: asked.append(len(h)) or loss(h, *rest)

    def step():
        total = sum(scheme.loss(batch(), torch.Generator().manual_seed(0)).values())
        return total.backward() if backward else total

    flops = cost.counted_flops(step) / ROWS
    if isinstance(scheme, Masked):
        drawn = sum(asked) / ROWS - scored_tokens(scheme, N)
        flops -= (3 if backward else 1) * drawn * getattr(head, "loss_flops", head.flops)
    return flops


@pytest.mark.parametrize("name", PRESETS)
def test_the_formula_of_every_preset_is_what_is_counted(name):
    scheme, space = scheme_of(PRESETS[name])
    expected = training_flops(scheme, space, text=TEXT)
    assert counted(scheme, backward=False) == pytest.approx(expected / 3, rel=0.02)


@pytest.mark.parametrize("name", OPTIONS)
def test_layers_that_an_option_adds_are_in_the_formula(name):
    scheme = denoise(*OPTIONS[name])
    expected = training_flops(scheme, scheme.space, text=TEXT)
    assert counted(scheme, backward=False) == pytest.approx(expected / 3, rel=0.02)
    assert counted(scheme, backward=True) == pytest.approx(expected, rel=0.02)


def test_each_of_them_costs_more_than_none():
    flops = {name: training_flops((made := denoise(*given)), made.space, text=TEXT) for name, given in OPTIONS.items()}
    patches = denoise({"patch": 2}, False)
    assert all(flops[name] > flops["plain"] for name in OPTIONS if name not in ("plain", "U-Net", "wide"))
    assert min(flops["U-Net"], flops["wide"]) > training_flops(patches, patches.space, text=TEXT)


@pytest.mark.parametrize("name", ["showo", "mar", "givt_masked"])
def test_a_masked_scheme_scores_its_masked_tokens_alone_and_none_of_images_before_their_caption(name, monkeypatch):
    scheme, _ = scheme_of(PRESETS[name])
    asked = []
    monkeypatch.setattr(scheme.head, "loss", lambda h, *rest: asked.append(len(h)) or h.sum(dim=-1))
    scheme.loss(batch(rows=4000), torch.Generator().manual_seed(0))
    expected = scored_tokens(scheme, N)
    assert asked[0] / 4000 == pytest.approx(expected, rel=0.03)
    assert expected < (1 - scheme.image_first) * N
    causal, _ = scheme_of(PRESETS["chameleon"])
    assert scored_tokens(causal, N) == N
