"""Tokens of several codebooks: causal with the factorised head, and denoise with the tokenizer's own snap."""

import math

import pytest
import torch

from tokbench.backbone.sequence import encode_text
from tokbench.backbone.transformer import Backbone
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.generation.tokens import finish
from tokbench.heads.factorised import Factorised
from tokbench.interfaces import TokenBatch, TokenSpace

GRID, N, D, K, SIZES, WIDTH = (2, 3), 6, 2, 2, (4, 3), 32
CAPTIONS = ["red", "a blue one", ""]
ROWS = {"image_first": 0.2, "caption_dropout": 0.1, "loss_weights": {"text": 1.0, "image": 1.0}}
TABLES = [3 * torch.randn(4, D, generator=torch.Generator().manual_seed(1)), torch.eye(3)[:, :D]]


def codes(indices):
    """(B, N, 2) to (B, N, D): a residual quantizer of two stages."""
    return sum(table[part] for table, part in zip(TABLES, indices.unbind(-1), strict=True))


def snap(z):
    indices = []
    for table in TABLES:
        indices.append(torch.cdist(z, table.expand(len(z), -1, -1)).argmin(-1))
        z = z - table[indices[-1]]
    return torch.stack(indices, dim=-1)


def space(grid=GRID, **changes):
    options = {"factors": ((2, 2), (3,)), "snap": snap} | changes
    return TokenSpace(grid, D, SIZES, torch.ones(D), torch.full((D,), 2.0), codes, **options)


def backbone(grid=GRID):
    return Backbone(dim=D, width=WIDTH, depth=2, heads=2, grid=grid, positions="rope_tv", base=100.0)


def causal(*, grid=GRID, noise=0.3, **changes):
    torch.manual_seed(0)
    here = space(grid)
    head = Factorised(width=WIDTH, codebook_sizes=SIZES, factors=here.factors, top_p=1.0)
    scheme = Causal(here, backbone(grid), head, order="raster", temperature=1.0, **ROWS | changes)
    for parameter in scheme.parameters():
        if parameter.ndim > 1 and noise:
            torch.nn.init.normal_(parameter, std=noise)
    return scheme


def batch(captions=CAPTIONS, seed=2):
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randint(size, (len(captions), N), generator=generator) for size in SIZES], dim=-1)
    text, lengths = encode_text(captions)
    return TokenBatch(space().standardize(codes(indices)), indices, text, lengths)


def sample(scheme, captions=CAPTIONS, *, guidance=1.0, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return scheme.sample(*encode_text(captions), guidance=guidance, generator=generator, **options)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_causal_samples_have_all_stages_and_the_cache_changes_nothing(guidance):
    scheme, captions = causal(), CAPTIONS * 20
    drawn = sample(scheme, captions, guidance=guidance)
    assert drawn.indices.shape == (60, N, K)
    assert drawn.indices.dtype == torch.int64
    assert all((drawn.indices[..., k] < size).all() for k, size in enumerate(SIZES))
    assert torch.equal(drawn.z_q, codes(drawn.indices))
    assert torch.equal(drawn.indices, sample(scheme, captions, guidance=guidance, use_cache=False).indices)


def test_causal_nll_is_normalised_and_samples_follow_it():
    scheme = causal(grid=(1, 2), noise=0.5)
    token = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
    pairs = torch.cartesian_prod(torch.arange(12), torch.arange(12))
    every = token[pairs]  # (144, 2 tokens, 2 stages)
    text, lengths = encode_text(["hi"] * 144)
    probabilities = scheme.nll(TokenBatch(space().standardize(codes(every)), every, text, lengths)).neg().exp()
    assert math.isclose(probabilities.sum().item(), 1, rel_tol=1e-4)
    drawn = sample(scheme, ["hi"] * 8000).indices
    flat = (drawn[..., 0] * 3 + drawn[..., 1]) @ torch.tensor([12, 1])
    torch.testing.assert_close(flat.bincount(minlength=144) / 8000, probabilities, atol=0.02, rtol=0)


def test_causal_nll_agrees_with_the_loss():
    scheme = causal(image_first=0.0, caption_dropout=0.0)
    nats = scheme.nll(batch())
    assert nats.shape == (3,)
    torch.testing.assert_close(
        nats.mean() / N, scheme.loss(batch(), torch.Generator().manual_seed(0))["image"].detach()
    )


def test_the_caption_chooses_the_stages():
    scheme = causal(image_first=0.0, caption_dropout=0.0, noise=0)
    captions = ["red", "a blue one", "green", "x"]
    known, generator = batch(captions), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(scheme.parameters(), 3e-3)
    for _ in range(150):
        loss = scheme.loss(known, generator)["image"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert torch.equal(sample(scheme, captions).indices, known.indices)


def denoise(here):
    torch.manual_seed(0)
    return Denoise(here, backbone(), schedule="cosine", prediction="v", steps=3, sampler="ddim", **ROWS)


def test_denoise_samples_snap_stage_by_stage():
    scheme = denoise(space())
    drawn = sample(scheme)
    assert drawn.indices.shape == (3, N, K)
    assert torch.equal(drawn.z_q, codes(drawn.indices))
    z = torch.randn(2, N, D) * 3
    found = finish(space(), space().standardize(z), indices=False)
    assert torch.equal(found.indices, snap(z))


def test_denoise_names_the_method_that_stages_need():
    with pytest.raises(ValueError, match=r"needs the tokenizer's own snap for codebook_sizes = \(4, 3\)"):
        denoise(space(snap=None))


def test_a_space_has_the_factors_it_is_given_or_one_digit_a_codebook():
    assert space(factors=()).factors == ((4,), (3,))
    assert space().factors == ((2, 2), (3,))
    with pytest.raises(ValueError, match=r"factors must multiply to codebook_sizes = \(4, 3\)"):
        space(factors=((2,), (3,)))
