"""Causal over latents, and in other orders than raster."""

import math

import pytest
import torch

from tokbench.backbone.sequence import encode_text, rows_of_one_kind
from tokbench.backbone.transformer import Backbone
from tokbench.generation.causal import Causal
from tokbench.generation.orders import ORDERS
from tokbench.generation.tokens import log_volume
from tokbench.heads.categorical import Categorical
from tokbench.heads.mixture import Mixture
from tokbench.heads.regression import Regression
from tokbench.interfaces import TokenBatch, TokenSpace

GRID, N, D, V, WIDTH = (2, 3), 6, 2, 5, 32
CAPTIONS = ["red", "a blue one", ""]
CODES = torch.randn(V, D, generator=torch.Generator().manual_seed(1)) * 3 + 1


def space(*, discrete=False, grid=GRID, codes=CODES):
    sizes = (len(codes),) if discrete else ()
    return TokenSpace(grid, D, sizes, torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5]), lambda i: codes[i])


def causal(here, head, *, order="raster", noise=0.3, **changes):
    torch.manual_seed(0)
    heads = {
        "categorical": lambda: Categorical(width=WIDTH, codebook_sizes=here.codebook_sizes, top_p=1.0),
        "regression": lambda: Regression(width=WIDTH, dim=D),
        "mixture": lambda: Mixture(width=WIDTH, dim=D, num_components=3, min_sigma=1e-3, spread=1.0, num_candidates=4),
    }
    backbone = Backbone(dim=D, width=WIDTH, depth=2, heads=2, grid=here.shape, positions="rope_tv", base=100.0)
    options = {"image_first": 0.0, "caption_dropout": 0.1, "temperature": 1.0} | changes
    weights = {"text": 1.0, "image": 1.0}
    scheme = Causal(here, backbone, heads[head](), order=order, loss_weights=weights, **options)
    for parameter in scheme.parameters():
        if parameter.ndim > 1 and noise:
            torch.nn.init.normal_(parameter, std=noise)
    return scheme


def batch(here, captions=CAPTIONS, seed=2):
    generator = torch.Generator().manual_seed(seed)
    text, lengths = encode_text(captions)
    indices = torch.randint(V, (len(captions), here.num_tokens), generator=generator)
    if here.codebook_sizes:
        return TokenBatch(here.standardize(here.indices_to_codes(indices)), indices, text, lengths)
    return TokenBatch(torch.randn(*indices.shape, D, generator=generator), None, text, lengths)


def sample(scheme, captions=CAPTIONS, *, guidance=1.0, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return scheme.sample(*encode_text(captions), guidance=guidance, generator=generator, **options)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (4, 4), (3, 5), (5, 2)])
def test_an_order_draws_every_place_once(name, grid):
    order = ORDERS[name](*grid)
    assert order.sort().values.tolist() == list(range(grid[0] * grid[1]))
    assert torch.equal(order, ORDERS[name](*grid))


def test_orders_are_what_their_names_say():
    assert ORDERS["column"](2, 3).tolist() == [0, 3, 1, 4, 2, 5]
    assert ORDERS["spiral"](3, 4).tolist() == [0, 1, 2, 3, 7, 11, 10, 9, 8, 4, 5, 6]
    assert ORDERS["random"](4, 4).tolist() != list(range(16))


@pytest.mark.parametrize("order", ["raster", "column", "spiral", "random"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_cache_changes_nothing_in_any_order(order, guidance):
    scheme = causal(space(discrete=True), "categorical", order=order)
    drawn = sample(scheme, CAPTIONS * 10, guidance=guidance)
    again = sample(scheme, CAPTIONS * 10, guidance=guidance, use_cache=False)
    assert torch.equal(drawn.indices, again.indices)
    assert torch.equal(drawn.z_q, CODES[drawn.indices])


@pytest.mark.parametrize("order", ["raster", "column", "spiral", "random"])
def test_a_prediction_reads_the_tokens_drawn_before_it_and_no_other(order):
    here = space()
    scheme, known = causal(here, "regression", order=order), batch(here, ["ab"])
    rows = rows_of_one_kind(known, N, image_first=False)

    def predictions(latents):
        return scheme._before_image(scheme._read(rows, latents), rows)[0].detach()

    plain, rank = predictions(known.latents), scheme.order.argsort()
    for place in range(N):
        moved = known.latents.clone()
        moved[:, place] += 1
        changed = (predictions(moved) - plain).abs().amax(dim=-1) > 1e-5
        assert changed.tolist() == (rank > rank[place]).tolist(), place


def test_text_after_the_image_reads_all_of_it_in_any_order():
    here = space()
    scheme, known = causal(here, "regression", order="random"), batch(here, ["abc"])
    plain = scheme.caption_nll(known)
    for place in range(N):
        moved = known.latents.clone()
        moved[:, place] += 1
        other = TokenBatch(moved, None, known.text, known.lengths)
        assert (scheme.caption_nll(other) - plain).abs().min() > 1e-4, place


def test_in_random_order_samples_follow_the_nll_which_is_normalised():
    codes = CODES[:3]
    here = space(discrete=True, grid=(2, 2), codes=codes)
    scheme = causal(here, "categorical", order="random", noise=0.5)
    assert scheme.order.tolist() != [0, 1, 2, 3]
    every = torch.cartesian_prod(*[torch.arange(3)] * 4)
    text, lengths = encode_text(["hi"] * 81)
    probabilities = scheme.nll(TokenBatch(here.standardize(codes[every]), every, text, lengths)).neg().exp()
    assert math.isclose(probabilities.sum().item(), 1, rel_tol=1e-4)
    drawn = sample(scheme, ["hi"] * 8000).indices @ torch.tensor([27, 9, 3, 1])
    torch.testing.assert_close(drawn.bincount(minlength=81) / 8000, probabilities, atol=0.02, rtol=0)


def test_a_density_is_told_in_the_tokenizers_units():
    """An untrained regression says N(0, 1) of standardised tokens: N(mean, std) of the tokens themselves."""
    here = space()
    scheme, known = causal(here, "regression", noise=0), batch(here)
    torch.nn.init.zeros_(scheme.head.mean.weight)
    expected = -torch.distributions.Normal(here.mean, here.std).log_prob(here.restore(known.latents)).sum(dim=(1, 2))
    assert scheme.likelihood == "density"
    torch.testing.assert_close(scheme.nll(known), expected, atol=1e-3, rtol=1e-5)
    assert log_volume(here) == pytest.approx(N * math.log(3.0 * 0.5))


@pytest.mark.parametrize("order", ["raster", "random"])
def test_latent_samples_follow_the_density_that_nll_states(order):
    """The mean of -log p over samples of the model is its entropy, known by Monte Carlo from either side."""
    here = space(grid=(1, 2))
    scheme = causal(here, "mixture", order=order, noise=0.2)
    drawn = sample(scheme, ["hi"] * 4000)
    assert drawn.indices is None
    text, lengths = encode_text(["hi"] * 4000)
    known = TokenBatch(here.standardize(drawn.z_q), None, text, lengths)
    shifted = TokenBatch(known.latents * 1.15 + 0.15, None, text, lengths)
    density, other = -scheme.nll(known), -scheme.nll(shifted)
    # Gibbs: E_p[p(g(x)) |det g| / p(x)] = 1 for any bijection g, here of volume 1.15^4
    ratio = (other - density).exp() * 1.15**4
    assert abs(ratio.mean().item() - 1) < 4 * ratio.std().item() / math.sqrt(4000)
    assert ratio.std() > 0.1


def test_latents_of_a_discrete_tokenizer_snap_to_its_codes_and_have_no_likelihood():
    here = space(discrete=True)
    scheme = causal(here, "mixture")
    drawn = sample(scheme)
    assert torch.equal(drawn.z_q, CODES[drawn.indices])
    assert scheme.likelihood is None
    assert scheme.nll(batch(here)) is None
    assert torch.equal(drawn.indices, sample(scheme, use_cache=False).indices)


def test_a_mixture_learns_which_latents_a_caption_names():
    here = space(grid=(1, 2))
    scheme = causal(here, "mixture", noise=0, caption_dropout=0.0)
    captions = ["red", "a blue one", "green", "x"]
    known, generator = batch(here, captions), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(scheme.parameters(), 3e-3)
    for _ in range(120):
        loss = scheme.loss(known, generator)["image"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = here.standardize(sample(scheme, captions * 5).z_q)
    nearest = torch.cdist(drawn.flatten(1), known.latents.flatten(1)).argmin(dim=1)
    assert (nearest == torch.arange(4).repeat(5)).float().mean() > 0.7


@pytest.mark.parametrize("order", ["raster", "random"])
@pytest.mark.parametrize("head", ["mixture", "regression"])
def test_every_parameter_gets_a_gradient(order, head):
    here = space()
    scheme = causal(here, head, order=order, image_first=0.3)
    sum(scheme.loss(batch(here, CAPTIONS * 4), torch.Generator().manual_seed(0)).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in scheme.parameters())
