import pytest
import torch
from torch import nn

from tokbench.backbone.base_rule import base_warning, least_base, least_cosine_sum
from tokbench.backbone.learned import LearnedPositions
from tokbench.backbone.positions import (
    LAYOUTS,
    Layout,
    as_grid,
    learned,
    mrope,
    resolve,
    rope1d,
    rope2d,
    rope_tie,
    rope_tie_v2,
    rotate,
    rotation,
    sequence,
)
from tokbench.backbone.sequence import arrange, encode_text
from tokbench.backbone.transformer import Backbone

GRID = (3, 4)
ROTARY = ("rope1d", "rope2d", "rope_tie", "rope_tie_v2", "mrope")


def rows(*starts, grid=GRID, length):
    return Layout(torch.tensor(starts)[:, None], (grid,), length)


@pytest.mark.parametrize("name", [*ROTARY, "learned"])
def test_text_alone_is_rope_1d(name):
    expected = torch.arange(9.0)[None, :, None].expand(2, 9, 2)
    places = LAYOUTS[name](rows(20, 9, length=9))
    assert places.dtype == torch.float32
    assert torch.equal(places, expected)
    assert torch.equal(LAYOUTS[name](sequence(9)), expected[:1])


def _by_hand(name, *parts):
    """A loop over the formulas of SYSTEMS.md S31-S36, in Python numbers."""
    last, places = -1, []
    for part in parts:
        if isinstance(part, int):
            places += [(last + n, last + n) for n in range(1, part + 1)]
            last += part
            continue
        h, w = part
        image, following = {
            "rope1d": (lambda i, j: [last + (i - 1) * w + j] * 2, last + h * w + 1),  # noqa: B023
            "rope2d": (lambda i, j: (i, j), last + h * w + 1),
            "rope_tie": (lambda i, j: (last + i * (w + 1), last + j * (h + 1)), last + (w + 1) * (h + 1)),  # noqa: B023
            "rope_tie_v2": (
                lambda i, j: (last + (w * h - h) / 2 + i, last + (w * h - w) / 2 + j),  # noqa: B023
                last + w * h + 1,
            ),
            "mrope": (lambda i, j: (last + i, last + j), last + max(h, w) + 1),  # noqa: B023
            "learned": (lambda i, j: (i, j), last + 1),
        }[name]
        places += [tuple(image(i, j)) for i in range(1, h + 1) for j in range(1, w + 1)]
        last = following - 1
    return torch.tensor(places, dtype=torch.float32)


@pytest.mark.parametrize("name", [*ROTARY, "learned"])
@pytest.mark.parametrize(
    "parts",
    [(5, (3, 4), 6), (2, (4, 4), 1, (1, 7), 3), ((2, 5), 2), (1, (2, 2), (3, 2), 2), (3, (8, 8))],
    ids=["one", "two", "first", "adjacent", "last"],
)
def test_every_sequence_follows_the_formulas(name, parts):
    assert torch.equal(LAYOUTS[name](sequence(*parts))[0], _by_hand(name, *parts))


@pytest.mark.parametrize("name", ROTARY)
def test_ragged_rows_are_placed_each_for_itself(name):
    places = LAYOUTS[name](rows(2, 5, length=25))
    assert torch.equal(places[0], _by_hand(name, 2, GRID, 11))
    assert torch.equal(places[1], _by_hand(name, 5, GRID, 8))


@pytest.mark.parametrize("layout", [rope_tie, rope_tie_v2])
def test_the_image_is_as_far_from_the_text_on_both_sides_for_all_sizes_below_20(layout):
    for height in range(1, 20):
        for width in range(1, 20):
            places = layout(sequence(3, (height, width), 1))[0]
            assert torch.equal(places[3] - places[2], places[-1] - places[-2]), (height, width)


def test_next_text_of_tv_stands_at_l_plus_wh_plus_1_for_all_sizes_below_20():
    for height in range(1, 20):
        for width in range(1, 20):
            places = rope_tie_v2(sequence(3, (height, width), 1))[0]
            assert places[-1].tolist() == [2 + width * height + 1] * 2
            assert (places[4:-1] - places[3:-2])[: width - 1].tolist() == [[0, 1]] * (
                width - 1
            )  # one apart, at any size


def test_other_layouts_are_not_symmetric_or_not_equivalent():
    last, start, size = 4, 5, 12
    following = {name: LAYOUTS[name](sequence(start, GRID, 1))[0, -1].tolist() for name in ROTARY}
    assert following["rope1d"] == following["rope2d"] == [last + 13] * 2
    assert following["rope_tie"] == [last + 5 * 4] * 2  # L + (w+1)(h+1)
    assert following["mrope"] == [last + 5] * 2  # one after the largest
    places = mrope(sequence(start, GRID, 1))[0]
    assert not torch.equal(places[start] - places[start - 1], places[-1] - places[start + size - 1])


def _backbone(positions, **changes):
    torch.manual_seed(0)
    made = Backbone(
        **{"dim": 3, "width": 32, "depth": 2, "heads": 2, "grid": GRID, "base": 1e4} | changes, positions=positions
    )
    for parameter in made.parameters():
        if parameter.ndim > 1 and parameter is not getattr(made.learned, "texts", None):
            nn.init.normal_(parameter, std=0.3)
    return made.eval()


def _text_logits(positions):
    made = _backbone(positions)
    tokens, starts = torch.arange(14)[None] * 17, torch.tensor([14])
    states = made(made.embed_text(tokens, starts), made.rotation(starts, 14), mask=None, causal=True)
    return made.text_head(states)


@pytest.mark.parametrize("positions", [*ROTARY[1:], "rope_tv"])
def test_text_only_logits_are_those_of_rope_1d(positions):
    expected = _text_logits("rope1d")
    assert torch.equal(_text_logits(positions), expected)
    assert not torch.allclose(_text_logits("none"), expected, atol=1e-3)


def test_text_after_an_image_is_read_where_it_stands():
    text, lengths = encode_text(["abcd"])
    sequences = arrange(text, lengths, torch.tensor([True]), 12)
    latents = torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(0))
    states = {name: _backbone(name).read(sequences, latents, bidirectional=True)[0, -3:] for name in ROTARY}
    for name in ROTARY[1:]:
        assert not torch.allclose(states["rope1d"], states[name], atol=1e-3), name


@pytest.mark.parametrize("positions", [*LAYOUTS])
@pytest.mark.parametrize("grid", [(3, 4), (3, 8), (6, 4), (6, 8)])
def test_another_grid_is_read_and_generated_after_training(positions, grid):
    made, size = _backbone(positions), grid[0] * grid[1]
    made.grid = grid
    text, lengths = encode_text(["ab", "cde"])
    sequences = arrange(text, lengths, torch.tensor([False, False]), size)
    latents = torch.randn(2, size, 3)
    full = made.read(sequences, latents, bidirectional=False)
    tokens, starts = sequences.tokens[:, :5], sequences.image_start
    cache, _ = made.prefill(tokens, starts, room=size)
    turn = made.image_rotation(starts)
    for k in range(0, size, 5):
        part = latents[:, k : k + 5]
        x = torch.stack([made.embed_image(part[:, i : i + 1], first=k + i)[:, 0] for i in range(part.shape[1])], dim=1)
        cos, sin = (table[:, :, k : k + 1] for table in turn)
        state = made.extend(cache, x[:, :1], (cos, sin))[:, 0]
        torch.testing.assert_close(state, full[torch.arange(2), starts + k], atol=1e-4, rtol=0)
        for i in range(1, part.shape[1]):
            cos, sin = (table[:, :, k + i : k + i + 1] for table in turn)
            made.extend(cache, x[:, i : i + 1], (cos, sin))


def test_learned_places_are_added_once_interpolated_on_other_grids_and_end():
    torch.manual_seed(0)
    table = LearnedPositions(4, (2, 3))
    own = table.image((2, 3))
    torch.testing.assert_close(own[4], table.rows[1] + table.columns[1])
    wide = table.image((4, 3)).view(4, 3, 4)
    torch.testing.assert_close(wide[1, 0], 0.75 * table.rows[0] + 0.25 * table.rows[1] + table.columns[0])
    with pytest.raises(ValueError, match="1024 text places, got text at 1099"):
        table.text(learned(sequence(1100)))
    made = _backbone("learned")
    cos, sin = made.rotation(torch.tensor([3]), 20)
    assert torch.equal(cos, torch.ones_like(cos))
    assert torch.equal(sin, torch.zeros_like(sin))


def test_without_positions_only_the_causal_mask_tells_order():
    text, lengths = encode_text(["ab"])
    sequences = arrange(text, lengths, torch.tensor([False]), 12)
    latents = torch.randn(1, 12, 3)
    shuffled = latents[:, torch.randperm(12)]
    for name, same in (("none", True), ("rope2d", False), ("learned", False)):
        made = _backbone(name)
        first, second = (made.read(sequences, x, bidirectional=True)[0, -1] for x in (latents, shuffled))
        assert torch.allclose(first, second, atol=1e-5) == same, name


LEAST = {  # SYSTEMS.md S39; d = 128 at 1024 is Su's own 4.3e3
    32: (315, 1030, 2170, 12500, 58200),
    64: (156, 463, 1410, 3440, 7750),
    128: (105, 311, 890, 2070, 4290),
}


@pytest.mark.parametrize("head_dim", LEAST)
def test_the_least_base_is_that_of_the_table(head_dim):
    found = [least_base(head_dim, length) for length in (64, 128, 256, 512, 1024)]
    assert [float(f"{value:.3g}") for value in found] == list(LEAST[head_dim])
    for value, length in zip(found, (64, 128, 256, 512, 1024), strict=True):
        below, above = least_cosine_sum(torch.tensor([0.99, 1.001]) * value, head_dim=head_dim, length=length)
        assert below < 0 <= above + 1e-3


def test_the_least_base_of_two_thousand_is_that_of_su():
    """To the two digits that kexue.fm 10122 prints for heads of 128 channels."""
    assert f"{least_base(128, 2048):.1e}" == "1.2e+04"


def test_su_s_least_base_of_four_thousand_is_one_that_the_search_steps_over():
    """2.7e4 lies in a window of good bases narrower than .1 %: steps of .2 % miss it, and find the next one, 6 % above."""
    tried = torch.tensor([26940.0, 26960.0, 26990.0])
    below, inside, above = least_cosine_sum(tried, head_dim=128, length=4096)
    assert below < 0 < inside
    assert above < 0
    assert least_base(128, 4096) == pytest.approx(2.86e4, rel=2e-3)


def test_too_small_a_base_is_told_with_the_least_one():
    assert base_warning(1e4, head_dim=64, length=1024) is None
    told = base_warning(1e4, head_dim=32, length=512)
    assert told == "backbone.base = 10000 is below b*(512) = 1.249e+04 for heads of 32 channels (kexue.fm 10122)"
    small = {"grid": (16, 16), "base": 100.0}
    assert "b*(266) =" in _backbone("rope1d", **small).base_warning(text=6)
    assert _backbone("none", **small).base_warning(text=6) is None
    assert _backbone("learned", **small).base_warning(text=6) is None


def test_rotation_depends_on_the_difference_of_positions_alone():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    at = torch.tensor([[[3.0, 5.5]]])
    by = torch.tensor([[[2.0, -1.5]]])

    def score(query_at, key_at):
        turns = [tuple(part.double() for part in rotation(p, 16, 100.0)) for p in (query_at, key_at)]
        return (rotate(q, turns[0]) * rotate(k, turns[1])).sum()

    shift = torch.tensor([[[7.0, 4.0]]])
    torch.testing.assert_close(score(at, at + by), score(at + shift, at + by + shift), atol=1e-5, rtol=1e-5)
    assert abs(score(at, at + by) - score(at, at + by.flip(-1))) > 1e-3


def test_the_diagonal_is_rope_1d_with_all_its_frequencies():
    n = torch.tensor([[[7.0, 7.0]]])
    cos, sin = rotation(n, 8, 10.0)
    theta = 10.0 ** (-2 * torch.arange(4) / 8)
    torch.testing.assert_close(cos.flatten(), (7 * theta).cos())
    torch.testing.assert_close(sin.flatten(), (7 * theta).sin())


def test_rotation_keeps_norms_and_turns_a_pair_by_its_angle():
    x = torch.randn(2, 3, 5, 8)
    turn = rotation(torch.rand(2, 5, 2) * 30, 8, 100.0)
    torch.testing.assert_close(rotate(x, turn).norm(dim=-1), x.norm(dim=-1))
    one = torch.zeros(1, 1, 1, 4)
    one[..., 1] = 1  # pair 1 turns along columns
    turned = rotate(one, rotation(torch.tensor([[[9.0, 2.0]]]), 4, 100.0))
    angle = torch.tensor(2.0 * 100 ** (-2 / 4))
    torch.testing.assert_close(turned.flatten(), torch.stack((angle * 0, angle.cos(), angle * 0, angle.sin())))


def test_names_resolve_and_a_wrong_one_lists_the_others():
    assert resolve("rope1d") is rope1d
    assert resolve("rope_tv") is resolve("rope_tie_v2") is rope_tie_v2
    assert resolve(rope2d) is rope2d
    with pytest.raises(
        ValueError, match="rope1d, rope2d, rope_tie, rope_tie_v2, rope_tv, mrope, learned, none, got 'rope'"
    ):
        resolve("rope")


def test_every_token_shape_is_a_grid():
    assert as_grid((4, 6)) == (4, 6)
    assert as_grid((32,)) == (1, 32)
    assert as_grid((8, 8, 3)) == (8, 24)
    with pytest.raises(ValueError, match="grid must be"):
        as_grid((2, 2, 2, 2))
