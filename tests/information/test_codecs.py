"""Image codecs over their settings: more bits, less lost, header apart."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tokbench.data.kodak import cut
from tokbench.information import codecs
from tokbench.information.codecs import CODECS, STRIDE, TILE, main, measure
from tokbench.metrics.images import psnr


def photograph(height=128, width=192):
    """Smooth shapes with some grain."""
    y, x = torch.meshgrid(torch.arange(height) / 9.0, torch.arange(width) / 13.0, indexing="ij")
    waves = torch.stack([(y + x).sin(), (y * 2 - x).cos(), (x * y / 8).sin()])
    grain = torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))
    return (128 + 80 * waves + 6 * grain).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("name", CODECS)
def test_more_bits_lose_less_and_the_header_is_apart(name):
    if name == "JPEG XL":
        pytest.importorskip("imagecodecs")
    codec = replace(CODECS[name], settings=tuple(CODECS[name].settings[place] for place in (0, 4, 8)))
    points = measure(codec, [photograph(), photograph(192, 128)])
    pictures = [point for point in points if point["layout"] == "picture"]
    assert [point["setting"] for point in pictures] == list(codec.settings)
    for key in ("bytes", "psnr_db", "ssim"):
        values = [np.mean(point[key]) for point in pictures]
        assert values == sorted(values)
        assert values[0] < values[-1]
    assert all(0 < point["header_bytes_a_file"] < min(point["bytes"]) for point in points)
    assert pictures[0]["pixels"] == [128 * 192, 192 * 128]
    tiles = next(point for point in points if point["layout"] == "tiles")
    assert tiles["files"] == [2, 2]  # 24 tiles, every 17th
    assert tiles["pixels"] == [2 * TILE**2] * 2
    assert codec.version()


def test_psnr_is_that_of_the_decoded_picture():
    codec = replace(CODECS["JPEG 4:4:4"], settings=(75,))
    picture, tiles = measure(codec, [photograph()])
    shown = codec.read(codec.write(photograph().permute(1, 2, 0).numpy(), 75))
    decoded = torch.from_numpy(shown).permute(2, 0, 1)[None]
    assert picture["psnr_db"][0] == pytest.approx(psnr(decoded, photograph()[None]).item(), abs=1e-3)
    assert picture["bytes"] == [len(codec.write(photograph().permute(1, 2, 0).numpy(), 75))]
    sample = cut(photograph(), TILE)[::STRIDE]
    assert tiles["bytes"] == [sum(len(codec.write(tile.permute(1, 2, 0).numpy(), 75)) for tile in sample)]


def test_chroma_subsampling_is_what_the_names_say():
    pixels = photograph().permute(1, 2, 0).numpy()
    for name, factors in (("JPEG 4:2:0", b"\x22"), ("JPEG 4:4:4", b"\x11")):
        data = CODECS[name].write(pixels, 75)
        place = data.index(b"\xff\xc0")  # the frame header: ... height, width, 3, then id and sampling of luma
        assert data[place + 11 : place + 12] == factors


def test_the_command_writes_one_file_or_says_what_is_missing(tmp_path, monkeypatch, capsys):
    assert main([str(tmp_path), "--results", str(tmp_path)]) == 2
    assert "kodim01.png is missing" in capsys.readouterr().err
    monkeypatch.setattr(codecs, "read_kodak", lambda root: [photograph(64, 64)])
    monkeypatch.setattr(codecs, "CODECS", {"WebP": replace(CODECS["WebP"], settings=(10, 50))})
    assert main([str(tmp_path), "--results", str(tmp_path)]) == 0
    found = json.loads((tmp_path / codecs.CODECS_FILE).read_text())
    assert len(found["codecs"]["WebP"]["points"]) == 4
    assert "webp" in found["codecs"]["WebP"]["version"]
    assert "Kodak" in found["protocol"]
