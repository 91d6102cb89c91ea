"""Real bytes: under the training split's tables, and under the backbone, where they must come to its likelihood."""

import math

import numpy as np
import pytest
import torch

from tokbench.backbone.sequence import encode_text
from tokbench.backbone.transformer import Backbone
from tokbench.evaluate.coded import evaluate_backbone_coding, evaluate_tables
from tokbench.evaluate.tokens import TokenTable
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.heads.categorical import Categorical
from tokbench.heads.factorised import Factorised
from tokbench.information.backbone_coding import decode_images, encode_images
from tokbench.information.coding import integer_table
from tokbench.interfaces import TokenSpace

GRID, N, D, WIDTH = (7, 7), 49, 2, 32
CAPTIONS = ["red", "a blue one", "", "x"] * 6
SIZES = {"categorical": (40,), "factorised": (12,), "stages": (8, 5)}
FACTORS = {"categorical": ((40,),), "factorised": ((4, 3),), "stages": ((4, 2), (5,))}


def codes(indices):
    """(B, N) or (B, N, K) to (B, N, 2)."""
    first = indices[..., None].float() if indices.ndim == 2 else indices.float()
    return torch.cat((first.sum(-1, keepdim=True), first[..., -1:].sin()), dim=-1)


def scheme_of(kind, order="raster"):
    """A causal scheme with noise for weights, so that its probabilities are neither flat nor certain."""
    torch.manual_seed(0)
    space = TokenSpace(GRID, D, SIZES[kind], torch.ones(D), torch.full((D,), 2.0), codes, factors=FACTORS[kind])
    backbone = Backbone(dim=D, width=WIDTH, depth=2, heads=2, grid=GRID, positions="rope_tv", base=100.0)
    made = {"width": WIDTH, "codebook_sizes": SIZES[kind], "top_p": 0.9}
    head = Categorical(**made) if kind == "categorical" else Factorised(**made, factors=FACTORS[kind])
    options = {"order": order, "image_first": 0.2, "caption_dropout": 0.1, "loss_weights": {"text": 1.0, "image": 1.0}}
    scheme = Causal(space, backbone, head, temperature=0.7, **options)
    for parameter in scheme.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return scheme.eval(), space


def table_of(kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(CAPTIONS), N)
    # squared: small codes are more frequent
    draws = [(torch.rand(shape, generator=generator).square() * size).long() for size in SIZES[kind]]
    indices = torch.stack(draws, dim=-1) if kind == "stages" else draws[0]
    text, lengths = encode_text(CAPTIONS)
    return TokenTable(codes(indices), indices, text, lengths)


@pytest.mark.parametrize("kind", SIZES)
def test_the_backbone_codes_images_within_a_percent_of_its_likelihood(kind):
    scheme, space = scheme_of(kind)
    found = evaluate_backbone_coding("native", scheme, space, table_of(kind))
    assert abs(found["native/bits/coded_excess"].value) < 0.01
    assert found["native/bits/coded_bits_per_image"].n == 16


@pytest.mark.parametrize(("kind", "order"), [*((kind, "raster") for kind in SIZES), ("stages", "spiral")])
def test_coded_images_come_back_and_the_scheme_keeps_its_head(kind, order):
    scheme, space = scheme_of(kind, order)
    head, batch = scheme.head, table_of(kind).batch(space, torch.arange(5))
    data = encode_images(scheme, batch)
    found = decode_images(scheme, data, batch.text, batch.lengths)
    assert torch.equal(found, batch.indices)
    assert scheme.head is head
    try:
        other = decode_images(scheme, data, batch.text, torch.zeros_like(batch.lengths))
    except AssertionError:  # the coder has seen that these are no such tokens
        return
    assert not torch.equal(other, batch.indices)


@pytest.mark.parametrize("order", ["raster", "spiral"])
def test_the_steps_probabilities_are_those_of_the_likelihood(order):
    """The bits add up over captions of one batch: ideal bits of each token from a full pass, not from the coder's steps."""
    scheme, space = scheme_of("categorical", order)
    batch = table_of("categorical").batch(space, torch.arange(20))
    ideal = scheme.nll(batch).sum().item() / math.log(2)
    assert 8 * len(encode_images(scheme, batch)) == pytest.approx(ideal, abs=80)


def test_other_schemes_and_continuous_tokens_have_no_coded_bits():
    table = table_of("categorical")
    continuous = TokenTable(table.z_q, None, table.text, table.lengths)
    scheme, space = scheme_of("categorical")
    assert evaluate_tables(space, continuous, continuous) == {}
    assert evaluate_backbone_coding("native", scheme, space, continuous) == {}
    assert evaluate_backbone_coding("common", Denoise.__new__(Denoise), space, table) == {}


@pytest.mark.parametrize("kind", ["categorical", "stages"])
def test_bits_by_table_are_the_cross_entropy_of_the_splits(kind):
    _, space = scheme_of(kind)
    train, held_out = table_of(kind), table_of(kind, seed=1)
    bits = evaluate_tables(space, train, held_out)["bits/table_bits_per_image"].value
    expected = 0.0
    for stage, size in enumerate(SIZES[kind]):
        seen, coded = (t.indices.reshape(-1, len(SIZES[kind]))[:, stage].numpy() for t in (train, held_out))
        p = integer_table(np.bincount(seen, minlength=size)) / 2**22
        expected -= np.log2(p[coded]).sum()
    assert bits == pytest.approx(expected / len(CAPTIONS), abs=64 / len(CAPTIONS))
