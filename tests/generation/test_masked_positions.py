"""A masked token knows its place in every layout: in training, in the bound, while sampling, and at other shapes."""

import pytest
import torch

from tests.generation.test_masked import CODES, GRID, WIDTH, D, N, V, batch, sample, space
from tokbench import build
from tokbench.backbone.positions import LAYOUTS
from tokbench.backbone.sequence import encode_text, rows_of_one_kind
from tokbench.backbone.transformer import Backbone
from tokbench.generation import masked as module
from tokbench.generation.masked import Masked
from tokbench.generation.prompts import read_prompt

PLACED = [name for name in LAYOUTS if name != "none"]
PRESETS = ("showo", "mar", "givt_masked")


def scheme_of(positions, preset="showo"):
    """A preset of conf/generation whose branches are not zero, so that what is read reaches the states."""
    torch.manual_seed(0)
    node = build.compose([f"generation={preset}", "budget=smoke"])["generation"]
    here = space(discrete=preset == "showo")
    backbone = Backbone(dim=D, width=WIDTH, depth=2, heads=2, grid=GRID, positions=positions, base=100.0)
    known = {"width": WIDTH, "dim": D, "codebook_sizes": (V,)}
    head = build.construct(node["head"], **{k: v for k, v in known.items() if build.takes(node["head"], k)})
    scheme = Masked(
        here, backbone, head, **{k: v for k, v in node["scheme"].items() if k != "_target_"} | {"rounds": 3}
    )
    for parameter in scheme.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return scheme.eval()


def hidden_states(scheme, *, cached):
    """States (N, E) of an image whose tokens are all masked, after a caption."""
    known = batch(["ab"])
    if cached:
        prompt = read_prompt(scheme.backbone, *encode_text(["ab"]), guidance=1.0)
        canvas = module._Canvas(
            scheme.space, 1, None, indices=scheme.head.reads == "indices", device=torch.device("cpu")
        )
        return scheme._states(prompt, canvas)[0]
    rows = rows_of_one_kind(known, N, image_first=False)
    return module._image_states(scheme._read(rows, known.latents, torch.ones(1, N, dtype=torch.bool)), rows)[0]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("positions", PLACED)
def test_no_two_masked_places_are_the_same(positions, preset, cached):
    states = hidden_states(scheme_of(positions, preset), cached=cached)
    apart = (states[:, None] - states[None]).abs().amax(dim=-1) + torch.eye(N)
    assert apart.min() > 1e-4


@pytest.mark.parametrize("positions", PLACED)
def test_a_cached_canvas_has_the_states_of_a_whole_row(positions):
    scheme = scheme_of(positions)
    whole, cached = (hidden_states(scheme, cached=cached) for cached in (False, True))
    torch.testing.assert_close(cached, whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("positions", PLACED)
def test_what_is_read_is_the_mask_with_its_learned_place_and_the_mask_alone_in_other_layouts(positions):
    scheme, known = scheme_of(positions), batch(["ab", "c"])
    hidden = torch.rand(2, N, generator=torch.Generator().manual_seed(0)) < 0.5
    learned = scheme.backbone.learned
    places = 0 if learned is None else learned.image(GRID)
    expected = torch.where(hidden[..., None], scheme.mask_token + places, scheme.backbone.embed_image(known.latents))
    assert torch.equal(scheme._embed(known.latents, hidden), expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_learned_places_learn_from_the_loss_of_masked_tokens(preset):
    scheme = scheme_of("learned", preset)
    hidden = torch.ones(1, N, dtype=torch.bool)
    known = batch(["ab"])
    rows = rows_of_one_kind(known, N, image_first=False)
    states = module._image_states(scheme._read(rows, known.latents, hidden), rows)[hidden]
    scheme.head.loss(
        states, module.targets(scheme.head, known)[hidden], torch.Generator().manual_seed(0)
    ).sum().backward()
    assert all(table.grad.abs().sum() > 0 for table in (scheme.backbone.learned.rows, scheme.backbone.learned.columns))


@pytest.mark.parametrize("positions", ["rope_tv", "learned"])
def test_the_place_of_a_token_is_learned(positions):
    """Images that are one picture whatever the caption: places are all there is to know, in the loss, the bound and samples."""
    scheme = scheme_of(positions)
    pattern = torch.tensor([0, 3, 1, 4, 2, 0])
    known = batch([""] * 8)
    known = type(known)(
        scheme.space.standardize(CODES[pattern.expand(8, -1)]), pattern.expand(8, -1), known.text, known.lengths
    )
    optimizer, generator = torch.optim.AdamW(scheme.parameters(), 3e-3), torch.Generator().manual_seed(0)
    for _ in range(200):
        optimizer.zero_grad()
        loss = scheme.loss(known, generator)["image"]
        loss.backward()
        optimizer.step()
    assert scheme.nll(known).max() < 0.5
    assert (sample(scheme, [""] * 4).indices == pattern).float().mean() > 0.9


def test_another_grid_is_masked_with_its_own_places():
    scheme = scheme_of("learned")
    scheme.backbone.grid = (4, 3)
    x = scheme._embed(torch.zeros(1, 12, D), torch.ones(1, 12, dtype=torch.bool))[0]
    assert torch.equal(x, scheme.mask_token + scheme.backbone.learned.image((4, 3)))


def test_without_positions_the_scheme_is_refused_in_one_line_that_names_both():
    with pytest.raises(ValueError, match=r"scheme 'masked' needs positions .* got positions=none"):
        scheme_of("none")
