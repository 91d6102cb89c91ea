"""The fast step is the plain one, bit for bit; of a single row, whose norms are folded into its matrices, to rounding."""

import pytest
import torch
from torch import nn

from tokbench.backbone.decoding import Decoder
from tokbench.backbone.sequence import encode_text, prompt
from tokbench.backbone.transformer import Backbone


@pytest.mark.parametrize("captions", [["abcd", "xy", ""], ["abc", "xyz"]], ids=["ragged", "equal"])
@pytest.mark.parametrize("options", [{}, {"qk_norm": False}, {"long_skips": True}, {"positions": "learned"}], ids=str)
def test_a_decoders_states_are_those_of_extend(captions, options):
    torch.manual_seed(0)
    given = {"positions": "rope_tv", "base": 1e4} | options
    backbone = Backbone(dim=3, width=48, depth=3, heads=2, grid=(3, 4), **given).eval()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    latents = torch.randn(len(captions), 12, 3)
    tokens, starts = prompt(*encode_text(captions))
    with torch.no_grad():
        (plain, _), (fast, _) = (backbone.prefill(tokens, starts, room=12) for _ in range(2))
        turn = backbone.image_rotation(starts)
        decoder = Decoder(backbone, fast, turn)
        for k in range(12):
            here = tuple(part[:, :, k : k + 1] for part in turn)
            x = backbone.embed_image(latents[:, k : k + 1], first=k)
            assert torch.equal(decoder.step(x[:, 0], k), backbone.extend(plain, x, here)[:, 0]), k
    assert fast.filled == plain.filled
    for one, two in zip(plain.layers, fast.layers, strict=True):
        assert all(torch.equal(a[:, :, : plain.filled], b[:, :, : plain.filled]) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("options", [{}, {"qk_norm": False}, {"long_skips": True}, {"positions": "learned"}], ids=str)
def test_a_single_row_has_the_states_of_extend_to_rounding(options):
    torch.manual_seed(0)
    given = {"positions": "rope_tv", "base": 1e4} | options
    backbone = Backbone(dim=3, width=48, depth=3, heads=2, grid=(2, 3), **given).eval()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    tokens, starts = prompt(*encode_text(["abc"]))
    with torch.no_grad():
        (plain, _), (fast, _) = (backbone.prefill(tokens, starts, room=6) for _ in range(2))
        turn = backbone.image_rotation(starts)
        decoder = Decoder(backbone, fast, turn)
        for k in range(6):
            x = backbone.embed_image(torch.randn(1, 1, 3), first=k)
            expected = backbone.extend(plain, x, tuple(part[:, :, k : k + 1] for part in turn))[:, 0]
            torch.testing.assert_close(decoder.step(x[:, 0], k), expected, rtol=1e-5, atol=1e-5)
    assert fast.filled == plain.filled
    for one, two in zip(plain.layers, fast.layers, strict=True):
        for a, b in zip(one, two, strict=True):
            torch.testing.assert_close(a[:, :, : plain.filled], b[:, :, : plain.filled], rtol=1e-5, atol=1e-5)


def test_a_decoder_reads_under_autocast():
    torch.manual_seed(0)
    backbone = Backbone(dim=3, width=32, depth=2, heads=2, grid=(2, 2), positions="rope_tv", base=1e4).eval()
    tokens, starts = prompt(*encode_text(["ab"]))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        cache, _ = backbone.prefill(tokens, starts, room=4)
        x = backbone.embed_image(torch.randn(1, 1, 3))
        assert Decoder(backbone, cache, backbone.image_rotation(starts)).step(x[:, 0], 0).isfinite().all()
    assert cache.layers[0][0].dtype == torch.bfloat16
