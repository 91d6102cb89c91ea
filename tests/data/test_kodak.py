"""The Kodak photographs: found by name, cut into tiles and put together."""

import pytest
import torch
from PIL import Image

from tokbench.data.kodak import assemble, cut, kodak_paths, read_kodak, tile_split


def test_tiles_stand_row_by_row_and_go_together_again():
    photograph = torch.arange(3 * 8 * 12).reshape(3, 8, 12).to(torch.uint8)
    tiles = cut(photograph, 4)
    assert tiles.shape == (6, 3, 4, 4)
    assert torch.equal(tiles[1], photograph[:, :4, 4:8])
    assert torch.equal(tiles[3], photograph[:, 4:, :4])
    assert torch.equal(assemble(tiles, 8, 12), photograph)


def test_a_split_of_tiles_knows_their_photographs():
    split = tile_split([torch.zeros(3, 4, 8, dtype=torch.uint8), torch.ones(3, 8, 4, dtype=torch.uint8)], 4)
    assert split.groups.tolist() == [0, 0, 1, 1]
    assert split.images[2:].eq(1).all()
    assert set(split.captions) == {""}


def test_tiles_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="tiles must divide 8x12, got a size of 5"):
        cut(torch.zeros(3, 8, 12, dtype=torch.uint8), 5)


def test_missing_and_wrong_photographs_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"rd\.root=PATH"):
        kodak_paths(None)
    with pytest.raises(ValueError, match=r"kodim01\.png is missing"):
        kodak_paths(tmp_path)
    for number in range(1, 25):
        Image.new("L", (768, 512) if number < 24 else (70, 50)).save(tmp_path / f"kodim{number:02}.png")
    with pytest.raises(ValueError, match=r"kodim24\.png must be 768x512 or 512x768, got \(50, 70\)"):
        read_kodak(tmp_path)
