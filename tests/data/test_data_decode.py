"""Every common kind of image file becomes the same square of 8-bit RGB."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tokbench.data.decode import read_square

RED, WHITE = [255, 0, 0], [255, 255, 255]


def pixel(square, row=0, column=0):
    return square[:, row, column].tolist()


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (255, 0, 0), RED),
        ("L", 77, [77, 77, 77]),
        ("1", 1, WHITE),
        ("LA", (77, 255), [77, 77, 77]),
        ("LA", (77, 0), WHITE),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (255, 0, 0, 51), [255, 204, 204]),
        ("I;16", 77 * 257, [77, 77, 77]),
        ("I;16", 65535, WHITE),
    ],
)
def test_png_modes(tmp_path, mode, colour, expected):
    path = tmp_path / "x.png"
    Image.new(mode, (6, 6), colour).save(path)
    square = read_square(path, size=4)
    assert square.shape == (3, 4, 4)
    assert square.dtype == torch.uint8
    assert square.is_contiguous()
    assert pixel(square, 2, 2) == expected


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((3, 0), 1)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    opaque, clear = (read_square(tmp_path / name, size=4) for name in ("opaque.png", "clear.png"))
    assert (pixel(opaque), pixel(opaque, 0, 3)) == (RED, [0, 0, 255])
    assert (pixel(clear), pixel(clear, 0, 3)) == (RED, WHITE)


def test_a_transparent_colour_of_an_opaque_mode_is_white(tmp_path):
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "x.png", transparency=(255, 0, 0))
    assert pixel(read_square(tmp_path / "x.png", size=4)) == WHITE


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg")
    assert np.allclose(pixel(read_square(tmp_path / "x.jpg", size=8), 4, 4), RED, atol=3)


def test_exif_orientation_turns_the_image_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored with its top at the left: to be turned a quarter clockwise
    stored = Image.new("RGB", (4, 4), "white")
    stored.putpixel((0, 3), (255, 0, 0))  # bottom left as stored, top left when upright
    stored.save(tmp_path / "x.png", exif=exif)
    square = read_square(tmp_path / "x.png", size=4)
    assert pixel(square) == RED
    assert pixel(square, 3, 0) == WHITE


@pytest.mark.parametrize("across", [True, False])
def test_the_centre_of_the_longer_side_is_kept(tmp_path, across):
    pixels = np.zeros((8, 24, 3), dtype=np.uint8)
    pixels[:, 8:16] = RED
    Image.fromarray(pixels if across else pixels.swapaxes(0, 1)).save(tmp_path / "x.png")
    square = read_square(tmp_path / "x.png", size=8)
    assert torch.equal(square, torch.tensor(RED, dtype=torch.uint8)[:, None, None].expand(3, 8, 8))


def test_an_image_of_the_right_size_is_untouched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert np.array_equal(read_square(tmp_path / "x.png", size=9).permute(1, 2, 0).numpy(), pixels)


def test_reduction_is_antialiased(tmp_path):
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "x.png")
    inner = read_square(tmp_path / "x.png", size=8)[:, 1:-1, 1:-1].float()
    assert (inner - 127.5).abs().max() < 4


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n broken", b"%PDF-1.4", b"%!PS-Adobe"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.png cannot be read as one of PNG, JPEG"):
        read_square(path, size=4)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
def test_a_truncated_image_is_named(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"{name} cannot be read"):
        read_square(path, size=4)


def test_pixels_without_a_known_range_are_refused(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="mode F pixels have no known range"):
        read_square(tmp_path / "x.tif", size=4)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_read(tmp_path):
    """A PNG header of 60000 x 60000 pixels in a hundred bytes: nothing of that size may be made."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for side in (60_000, 12_000):  # beyond Pillow's own bound, and below it
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        path = tmp_path / "bomb.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
        with pytest.raises(ValueError, match=r"bomb\.png cannot be read.*pixels"):
            read_square(path, size=8)
