"""A line of queries in place of the grid: its order, its protocol with every quantizer, and the schemes behind it."""

import pytest
import torch
from torch import Tensor, nn

from tokbench import build
from tokbench.backbone.sequence import encode_text
from tokbench.backbone.transformer import Backbone
from tokbench.evaluate.tokens import space_of
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.heads.categorical import Categorical
from tokbench.identity import LINE, ROOMS, rooms_of
from tokbench.interfaces import TokenBatch
from tokbench.job import prepare
from tokbench.quantizers.continuous import Continuous
from tokbench.quantizers.fsq import FiniteScalarQuantizer
from tokbench.tokenizers.autoencoder import CAUSAL, Autoencoder
from tokbench.tokenizers.check import check_tokenizer
from tokbench.tokenizers.line import Line

NAMES = sorted(path.stem for path in (build.ROOT / "conf" / "quantizer").glob("*.yaml"))
WITH_ENCODER = [name for name in NAMES if name not in ("patches", "pixels")]
L = 6


def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def line(*, causal: bool, num_queries: int = L) -> Line:
    """A line whose weights are large enough for every path to show."""
    torch.manual_seed(0)
    made = Line(width=32, num_queries=num_queries, side=4, depth=2, causal=causal)
    for module in made.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3)
    return made


def made(layout: str, quantizer: nn.Module) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(quantizer, width=8, factor=4, depth=1, layout=layout, num_queries=L, size=16)


@pytest.mark.parametrize(
    ("name", "layout"), [(name, "queries_causal") for name in WITH_ENCODER] + [("fsq", "queries_bidirectional")]
)
def test_every_quantizer_has_its_line(name: str, layout: str) -> None:
    config = build.compose(
        [f"quantizer={name}", "budget=smoke", f"tokenizer.layout={layout}", "tokenizer.num_queries=6"]
    )
    torch.manual_seed(0)
    tokenizer = build.construct(config["tokenizer"], quantizer=build.construct(config["quantizer"]), size=16)
    check_tokenizer(tokenizer, size=16)
    tokenizer.eval()
    assert tokenizer.shape(16, 16) == (L,)
    assert tokenizer.decode(tokenizer.encode(images()).z_q).shape == (2, 3, 16, 16)
    assert config["name"] == f"{name}-{layout}"


def test_a_token_of_a_causal_line_depends_on_its_own_query_and_earlier_ones_alone() -> None:
    features = torch.randn(1, 32, 4, 4)
    for causal in (True, False):
        tokens = line(causal=causal)
        reached = []
        for place in range(L):
            (gradient,) = torch.autograd.grad(tokens.read(features)[0, place].square().sum(), tokens.queries)
            reached.append(gradient.abs().sum(dim=1) > 0)
        expected = torch.ones(L, L, dtype=torch.bool)
        assert torch.equal(torch.stack(reached), expected.tril() if causal else expected)


def test_a_causal_line_cut_short_begins_with_the_same_tokens() -> None:
    features = torch.randn(2, 32, 4, 4)
    for causal in (True, False):
        whole, short = line(causal=causal), line(causal=causal, num_queries=4)
        short.load_state_dict({k: v[:4] if k in ("queries", "order") else v for k, v in whole.state_dict().items()})
        same = torch.allclose(whole.read(features)[:, :4], short.read(features), atol=1e-5)
        assert same is causal


def test_every_token_sees_the_whole_image_and_every_pixel_sees_the_whole_line() -> None:
    tokens = line(causal=True)
    features = torch.randn(1, 32, 4, 4, requires_grad=True)
    for place in range(L):
        (gradient,) = torch.autograd.grad(tokens.read(features)[0, place].square().sum(), features)
        assert (gradient.abs().sum(dim=1) > 0).all()
    x = torch.randn(1, L, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(tokens.write(x)[0, :, 0, 0].square().sum(), x)
    assert (gradient.abs().sum(dim=2) > 0).all()


@pytest.mark.parametrize("layout", CAUSAL)
def test_gradient_reaches_every_parameter(layout: str) -> None:
    tokenizer = made(layout, Continuous(4))
    for module in tokenizer.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1)
    tokenizer.decode(tokenizer.encode(images()).z_q).square().mean().backward()
    silent = [name for name, p in tokenizer.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not silent


@pytest.mark.parametrize(
    ("count", "near"),
    [(64, {0: {0}, 9: {9}, 63: {63}}), (16, {0: {0, 1, 8, 9}, 5: {18, 19, 26, 27}, 14: {52, 53, 60, 61}})],
)
def test_queries_begin_by_reading_the_places_they_stand_for(count: int, near: dict[int, set[int]]) -> None:
    """Those of a raster of as many cells over the 8 x 8 places."""
    tokens = Line(width=48, num_queries=count, side=8, depth=1, causal=True)
    assert tokens.queries.shape == (count, 48)
    likeness = (tokens.queries @ tokens.places.T).argmax(dim=1)
    assert all(int(likeness[query]) in places for query, places in near.items())


def test_the_grid_is_as_it_was_and_a_line_leaves_encoder_and_decoder_alone() -> None:
    grid, causal = made("grid", Continuous(4)), made("queries_causal", Continuous(4))
    assert grid.line is None
    assert grid.shape(16, 16) == (4, 4)
    for part in ("encoder", "decoder"):
        states = [getattr(tokenizer, part).state_dict() for tokenizer in (grid, causal)]
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_both_layouts_differ_in_their_mask_alone() -> None:
    states = [made(layout, Continuous(4)).state_dict() for layout in CAUSAL]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "spiral"}, "layout must be grid, queries_causal or queries_bidirectional, got 'spiral'"),
        ({"num_queries": None}, "needs num_queries and size, got None and 16"),
        ({"num_queries": 0}, "num_queries must be >= 1, got 0"),
        ({"size": None}, "needs num_queries and size, got 6 and None"),
        ({"size": 18}, "image size must be divisible by factor = 4, got 18x18"),
        ({"width": 50}, "width of a line must be >= 4 and a multiple of its 3 heads, got 50"),
    ],
)
def test_a_line_says_what_it_needs(options: dict[str, object], message: str) -> None:
    known = {"width": 8, "factor": 4, "depth": 1, "layout": "queries_causal", "num_queries": L, "size": 16}
    with pytest.raises(ValueError, match=message):
        Autoencoder(Continuous(4), **(known | options))


def test_a_line_is_made_for_one_size() -> None:
    with pytest.raises(ValueError, match="made for one image size, 16x16, got 32x32"):
        made("queries_causal", Continuous(4)).latents(torch.zeros(1, 3, 32, 32))


def test_other_shapes_are_refused_before_anything_is_trained() -> None:
    words = ["budget=smoke", "shapes=true", "tokenizer.layout=queries_causal", "tokenizer.num_queries=16"]
    with pytest.raises(ValueError, match="made for one image size, 32x32, got 32x64"):
        prepare(build.compose(words))


def test_causal_and_denoise_generate_lines() -> None:
    tokenizer = made("queries_causal", FiniteScalarQuantizer([4, 3])).eval()
    space = space_of(tokenizer, torch.zeros(2), torch.ones(2), size=16)
    assert space.shape == (L,)
    found = tokenizer.encode(images())
    text, lengths = encode_text(["ab", "c"])
    batch = TokenBatch(space.standardize(found.z_q).detach(), found.indices, text, lengths)
    rows = {"image_first": 0.2, "caption_dropout": 0.1, "loss_weights": {"text": 1.0, "image": 1.0}}
    head = Categorical(width=16, codebook_sizes=(12,), top_p=1.0)

    def backbone() -> Backbone:
        return Backbone(dim=2, width=16, depth=1, heads=1, grid=space.shape, positions="rope_tv", base=100.0)

    causal = Causal(space, backbone(), head, order="raster", temperature=1.0, **rows)
    denoise = Denoise(space, backbone(), schedule="cosine", prediction="v", steps=2, sampler="ddim", **rows)
    for scheme in (causal, denoise):
        assert all(value.isfinite() for value in scheme.loss(batch, torch.Generator().manual_seed(0)).values())
        drawn = scheme.sample(text, lengths, guidance=1.5, generator=torch.Generator().manual_seed(0))
        assert drawn.indices.shape == (2, L)
        assert tokenizer.decode(drawn.z_q).shape == (2, 3, 16, 16)
    assert causal.token_nll(batch).shape == (2, L)
    torch.testing.assert_close(causal.nll(batch), causal.token_nll(batch).sum(dim=1))


def test_a_grid_keeps_the_configuration_of_the_records_and_a_line_adds_its_own() -> None:
    grid, other = build.compose([]), build.compose(["tokenizer.num_queries=16"])
    assert grid["tokenizer"]["num_queries"] is None
    assert not {"layout", "num_queries"} & build.hashed(grid)["tokenizer"].keys()
    assert build.hashed(grid) == build.hashed(other)
    assert rooms_of(grid) == ROOMS
    causal = build.compose(["tokenizer.layout=queries_causal"])
    assert build.hashed(causal)["tokenizer"]["layout"] == "queries_causal"
    assert build.hashed(causal)["tokenizer"]["num_queries"] == 64
    assert LINE in rooms_of(causal)
