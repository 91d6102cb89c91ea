"""Tokens of one channel: their size must get past the norm, and sub-pixels must know their colour."""

import pytest
import torch

from tokbench.backbone.sequence import encode_text, prompt, rows_of_one_kind
from tokbench.backbone.transformer import Backbone
from tokbench.interfaces import TokenBatch

SHAPE, N = (2, 3, 3), 18


def made(*, dim: int = 1, grid: tuple[int, ...] = SHAPE) -> Backbone:
    torch.manual_seed(0)
    backbone = Backbone(dim=dim, width=32, depth=2, heads=2, grid=grid, positions="rope_tv", base=100.0)
    for parameter in backbone.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return backbone.eval()


def test_the_size_of_a_single_channel_is_read_and_not_its_sign_alone():
    backbone = made(grid=(1, 3))
    one, half, none = backbone.embed_image(torch.tensor([[[1.0], [0.5], [0.0]]]))[0]
    assert (one - half).abs().max() > 0.05
    assert (half - none).abs().max() > 0.05


def test_a_subpixel_is_read_with_its_colour():
    x = made().embed_image(torch.full((1, N, 1), 0.3))[0]
    assert torch.equal(x[0], x[3])
    assert torch.equal(x[2], x[17])
    assert not torch.allclose(x[0], x[1], atol=1e-2)
    assert not torch.allclose(x[1], x[2], atol=1e-2)


def test_more_channels_are_read_as_they_were():
    assert made(dim=4, grid=(2, 3)).offset is None
    assert "offset.weight" not in made(dim=4, grid=(2, 3)).state_dict()


@pytest.mark.parametrize("captions", [["abcd", "xy", ""], ["abc", "xyz", "klm"]], ids=["ragged", "equal"])
def test_a_cache_gives_the_states_of_a_full_read(captions):
    backbone, latents = made(), torch.randn(3, N, 1)
    text, lengths = encode_text(captions)
    rows = rows_of_one_kind(TokenBatch(latents, None, text, lengths), N, image_first=False)
    full = backbone.read(rows, latents, bidirectional=False)
    tokens, starts = prompt(text, lengths)
    cache, _ = backbone.prefill(tokens, starts, room=N)
    turn = backbone.image_rotation(starts)
    for k in range(N):
        cos, sin = (part[:, :, k : k + 1] for part in turn)
        x = backbone.embed_image(latents[:, k : k + 1], first=k)
        state = backbone.extend(cache, x, (cos, sin))[:, 0]
        torch.testing.assert_close(state, full[torch.arange(3), starts + k], atol=1e-4, rtol=0)


def test_subpixels_of_one_pixel_stand_side_by_side():
    backbone = made()
    assert backbone.grid == (2, 9)
    places = backbone.places(torch.tensor([2]), 2 + N)[0, 2:]
    steps = places.diff(dim=0)
    assert steps[:8].tolist() == [[0.0, 1.0]] * 8
    assert (places[9] - places[0]).tolist() == [1.0, 0.0]
