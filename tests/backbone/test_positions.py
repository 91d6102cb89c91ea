import pytest
import torch

from tokbench.backbone.positions import LAYOUTS, as_grid, m_rope, resolve, rope_1d, rope_tie, rope_tv, rotate, rotation

GRID = (3, 4)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_text_alone_is_rope_1d(layout):
    places = layout(torch.tensor([20, 9]), GRID, 9)
    expected = torch.arange(9.0)[None, :, None].expand(2, 9, 2)
    assert places.shape == (2, 9, 2)
    assert places.dtype == torch.float32
    assert torch.equal(places, expected)


def _tv_by_hand(start, grid, length):
    """A loop over the formulas of SYSTEMS.md S35."""
    (height, width), last, rows = grid, start - 1, []
    for n in range(length):
        k = n - start
        if 0 <= k < height * width:
            i, j = k // width + 1, k % width + 1
            rows.append((last + (height * width - height) / 2 + i, last + (height * width - width) / 2 + j))
        else:
            rows.append((n, n) if k < 0 else (last + width * height + 1 + k - width * height,) * 2)
    return torch.tensor(rows, dtype=torch.float32)


@pytest.mark.parametrize("grid", [(3, 4), (4, 4), (1, 7), (2, 5)])
def test_tv_follows_its_formula_in_ragged_rows(grid):
    places = rope_tv(torch.tensor([2, 5]), grid, 25)
    for row, start in enumerate((2, 5)):
        assert torch.equal(places[row], _tv_by_hand(start, grid, 25))


@pytest.mark.parametrize("layout", [rope_tv, rope_tie])
@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (8, 8), (1, 5)])
def test_the_image_is_as_far_from_the_text_on_both_sides(layout, grid):
    start, size = 6, grid[0] * grid[1]
    places = layout(torch.tensor([start]), grid, start + size + 1)[0]
    left = places[start] - places[start - 1]
    right = places[start + size] - places[start + size - 1]
    assert torch.equal(left, right)


def test_next_text_stands_where_each_layout_says():
    start = 5
    last = start - 1
    following = {name: layout(torch.tensor([start]), GRID, 18)[0, start + 12] for name, layout in LAYOUTS.items()}
    assert following["rope_tv"].tolist() == [last + 13] * 2  # L + wh + 1
    assert following["rope_1d"].tolist() == [last + 13] * 2
    assert following["rope_tie"].tolist() == [last + 5 * 4] * 2  # L + (w+1)(h+1)
    assert following["m_rope"].tolist() == [last + 5] * 2  # one after the largest


def test_tie_and_m_rope_place_the_first_and_last_token():
    start, last = 5, 4
    tie, m = (layout(torch.tensor([start]), GRID, 17)[0] for layout in (rope_tie, m_rope))
    assert tie[start].tolist() == [last + 5, last + 4]
    assert tie[start + 11].tolist() == [last + 15, last + 16]
    assert m[start].tolist() == [last + 1, last + 1]
    assert m[start + 11].tolist() == [last + 3, last + 4]


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
    assert resolve("rope_1d") is rope_1d
    assert resolve(rope_tv) is rope_tv
    with pytest.raises(ValueError, match="rope_1d, rope_tie, rope_tv, m_rope, got 'rope'"):
        resolve("rope")


def test_every_token_shape_is_a_grid():
    assert as_grid((4, 6)) == (4, 6)
    assert as_grid((32,)) == (1, 32)
    assert as_grid((8, 8, 3)) == (8, 24)
    with pytest.raises(ValueError, match="grid must be"):
        as_grid((2, 2, 2, 2))
