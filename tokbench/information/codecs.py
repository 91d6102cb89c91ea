"""Image codecs on the Kodak photographs: bytes, PSNR and SSIM over their settings, measured once and kept as JSON.

`python -m tokbench.information.codecs KODAK` writes results/codecs-kodak.json. Two layouts: "picture", each photograph one
file, as codecs are meant; and "tiles", each of a sample of square tiles a file of its own, as the tokenizers see them. The
header is what the format costs when there is next to nothing to say: the file of a 16 x 16 grey picture at the same setting.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, features
from torch import Tensor

from tokbench.data.kodak import cut, read_kodak
from tokbench.metrics.definition import CODECS_FILE, PSNR_CAP
from tokbench.metrics.images import ssim
from tokbench.records import write_whole

TILE = 32
STRIDE = 17  # of the tiles measured; prime to 24 and 16 columns, so that all columns are met
PROTOCOL = (
    f"24 Kodak photographs; picture: each a file; tiles: every {STRIDE}th {TILE} x {TILE} tile a file of its own;"
    " PSNR and SSIM of each photograph on 8-bit RGB, PSNR over all its pixels that were coded;"
    " header: the file of a 16 x 16 grey picture"
)
GREY = torch.full((3, 16, 16), 128, dtype=torch.uint8)
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Codec:
    """One way to write and read pictures (H, W, 3) uint8."""

    settings: tuple[float, ...]  # from the fewest bits to the most
    write: Callable[[Pixels, float], bytes]
    read: Callable[[bytes], Pixels]
    version: Callable[[], str]
    says: str  # what a setting is


def measure(codec: Codec, photographs: Sequence[Tensor]) -> list[dict[str, Any]]:
    """A point a setting and layout: bytes, header bytes, pixels, PSNR and (of whole pictures) SSIM of each photograph."""
    points = []
    for setting in codec.settings:
        header = len(codec.write(_pixels(GREY), setting))
        for layout in ("picture", "tiles"):
            found = [_measured(codec, setting, photograph, layout) for photograph in photographs]
            columns = {key: [one[key] for one in found] for key in found[0]}
            points.append({"setting": setting, "layout": layout, "header_bytes_a_file": header} | columns)
    return points


def _measured(codec: Codec, setting: float, photograph: Tensor, layout: str) -> dict[str, Any]:
    pictures = photograph[None] if layout == "picture" else cut(photograph, TILE)[::STRIDE]
    files = [codec.write(_pixels(picture), setting) for picture in pictures]
    decoded = torch.stack([torch.from_numpy(codec.read(file)).permute(2, 0, 1) for file in files])
    error = (decoded.double() - pictures.double()).square().mean().item()
    decibels = float(-10 * np.log10(max(error, 1e-12) / 255**2))
    quality = {"psnr_db": round(min(PSNR_CAP, decibels), 4)}
    if layout == "picture":
        quality["ssim"] = round(ssim(decoded, pictures).item(), 5)
    return {"bytes": sum(map(len, files)), "files": len(files), "pixels": pictures[:, 0].numel()} | quality


def _pixels(image: Tensor) -> Pixels:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _pillow(kind: str, **options: Any) -> Callable[[Pixels, float], bytes]:
    """A writer; an option that is a function makes its value from the setting."""

    def write(pixels: Pixels, setting: float) -> bytes:
        buffer = io.BytesIO()
        given = {key: value(setting) if callable(value) else value for key, value in options.items()}
        Image.fromarray(pixels).save(buffer, format=kind, **given)
        return buffer.getvalue()

    return write


def _read(data: bytes) -> Pixels:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def _jxl() -> Any:
    try:
        import imagecodecs
    except ImportError:
        raise ValueError("JPEG XL needs imagecodecs: pip install 'tokbench[codecs]'") from None
    return imagecodecs


def _module(name: str) -> Callable[[], str]:
    return lambda: f"Pillow {Image.__version__}, {name} {features.version(name)}"


def _libjpeg() -> str:
    return f"Pillow {Image.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}"


JPEG = (5, 10, 15, 20, 30, 40, 50, 60, 75, 90)
MODERN = (1, 8, 15, 25, 35, 45, 55, 65, 75, 85)
DECIBELS = (22, 24, 26, 28, 30, 32, 34, 36, 38, 40)
DISTANCES = (18.0, 13.0, 9.0, 6.5, 4.5, 3.2, 2.2, 1.5, 1.0, 0.6)
CODECS = {
    "JPEG 4:2:0": Codec(
        JPEG,
        _pillow("JPEG", quality=int, subsampling=2, optimize=True),
        _read,
        _libjpeg,
        "quality, Huffman tables fitted",
    ),
    "JPEG 4:4:4": Codec(
        JPEG,
        _pillow("JPEG", quality=int, subsampling=0, optimize=True),
        _read,
        _libjpeg,
        "quality, Huffman tables fitted",
    ),
    "WebP": Codec(MODERN, _pillow("WEBP", quality=int, method=6), _read, _module("webp"), "quality, method 6"),
    "AVIF": Codec(MODERN, _pillow("AVIF", quality=int, speed=6), _read, _module("avif"), "quality, speed 6, 4:2:0"),
    "JPEG 2000": Codec(
        DECIBELS,
        _pillow("JPEG2000", quality_mode="dB", quality_layers=lambda db: [db], irreversible=True, mct=1),
        _read,
        _module("jpg_2000"),
        "PSNR aimed at in dB, 9/7 wavelet",
    ),
    "JPEG XL": Codec(
        DISTANCES,
        lambda pixels, distance: _jxl().jpegxl_encode(pixels, distance=distance, effort=7, numthreads=1),
        lambda data: _jxl().jpegxl_decode(data),
        lambda: f"imagecodecs {_jxl().__version__}, {_jxl().jpegxl_version()}",
        "Butteraugli distance, effort 7",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 where the photographs cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m tokbench.information.codecs", description=__doc__.split("\n")[0])
    parser.add_argument("kodak", type=Path, help="folder with kodim01.png to kodim24.png")
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parents[2] / "results")
    options = parser.parse_args(arguments)
    try:
        photographs = read_kodak(options.kodak)
        found = {name: _described(name, codec, photographs) for name, codec in CODECS.items()}
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    path = options.results / CODECS_FILE
    write_whole(path, _one_line_a_point({"protocol": PROTOCOL, "codecs": found}).encode())
    print(f"wrote {path}")
    return 0


def _described(name: str, codec: Codec, photographs: Sequence[Tensor]) -> dict[str, Any]:
    print(f"{name} ...", flush=True)
    return {"version": codec.version(), "setting": codec.says, "points": measure(codec, photographs)}


def _one_line_a_point(content: Any) -> str:
    """JSON whose innermost lists stand on one line."""
    text = json.dumps(content, indent=1)
    return re.sub(r"\[[^\[\]{}]*\]", lambda match: " ".join(match[0].split()), text) + "\n"


if __name__ == "__main__":
    sys.exit(main())
