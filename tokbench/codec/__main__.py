"""`python -m tokbench.codec`: images to `.tok` files and back with a trained tokenizer.

Exit code 0: done; 2: bad input, named in one line on stderr, and nothing written.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from tokbench import build
from tokbench.codec import exported as shelf
from tokbench.codec.exported import check_codable, read_exported, write_exported
from tokbench.codec.images import image_to_indices, indices_to_image, read_file, write_file
from tokbench.data.decode import read_image
from tokbench.information.coding import HEADER_BYTES, fit_tables, unpack
from tokbench.metrics.images import psnr
from tokbench.records import write_whole

DONE, BAD_INPUT = 0, 2
TOKENIZER = "folder of an exported tokenizer; left out: the one in .cache/codec that fits"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    options = _parser().parse_args(arguments)
    try:
        if "image" in options and options.image.resolve() == options.file.resolve():
            raise ValueError(f"what is written must not be what is read, got {options.image} twice")
        print(options.call(options))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tokbench.codec", description="Images to tokens, as files.")
    commands = parser.add_subparsers(required=True)
    export = commands.add_parser("export", help="train a tokenizer, or take it from the cache, and put it in a folder")
    export.add_argument("--to", type=Path, help="the folder (default: .cache/codec/HASH)")
    export.add_argument("overrides", nargs="*", help="as of tokbench.run: quantizer=fsq data=cifar10 seed=1")
    export.set_defaults(call=_export)
    encode = commands.add_parser("encode", help="an image of any common kind to a .tok file")
    decode = commands.add_parser("decode", help="a .tok file to an image, its kind by the ending")
    for command, names, call in ((encode, ("image", "file"), _encode), (decode, ("file", "image"), _decode)):
        for name in names:
            command.add_argument(name, type=Path)
        command.add_argument("--tokenizer", type=Path, help=TOKENIZER)
        command.set_defaults(call=call)
    return parser


def _export(options: argparse.Namespace) -> str:
    from tokbench.evaluate.tokens import encode_split  # here, so that coding need not wait for what trains
    from tokbench.job import prepare
    from tokbench.stages import trained_tokenizer

    job = prepare(build.compose([*options.overrides, "stage=tokenizer"]))
    size = job.dataset.train.images.shape[-1]
    check_codable(job.tokenizer(), size=size)
    tokenizer, _ = trained_tokenizer(job)
    batch = job.config["budget"]["evaluation"]["batch"]
    indices = encode_split(tokenizer, job.dataset.train, batch=batch, device=job.device).indices
    assert indices is not None
    tables = fit_tables(indices, tokenizer.codebook_sizes)
    folder = write_exported(job.config, tokenizer, tables, size=size, folder=options.to)
    return f"{folder}: tokenizer {read_exported(folder).hash}"


def _encode(options: argparse.Namespace) -> str:
    exported = read_exported(options.tokenizer or _only())
    image = read_image(options.image)
    height, width = image.shape[1:]
    indices = image_to_indices(image, exported)
    content = write_file(indices, exported, height=height, width=width)
    if not np.array_equal(read_file(unpack(content), exported), indices):
        raise AssertionError("decoded tokens differ from the encoded ones")
    decoded = indices_to_image(indices, exported, height=height, width=width)
    write_whole(options.file, content)
    coded, pixels = len(content) - HEADER_BYTES, height * width
    return (
        f"{options.file}: {len(indices)} tokens of {exported.name} in {coded} bytes + {HEADER_BYTES} of header, "
        f"{8 * coded / pixels:.4f} bits per pixel ({8 * len(content) / pixels:.4f} with header), "
        f"PSNR {psnr(decoded[None], image[None]).item():.2f} dB"
    )


def _decode(options: argparse.Namespace) -> str:
    try:
        file = unpack(options.file.read_bytes())
        exported = read_exported(options.tokenizer or _by_hash(file.tokenizer))
        image = indices_to_image(read_file(file, exported), exported, height=file.height, width=file.width)
    except ValueError as error:
        raise ValueError(f"{options.file}: {error}") from None
    write_whole(options.image, _as_image(image, options.image))
    return f"{options.image}: {file.width} x {file.height} pixels by {exported.name}"


def _by_hash(hash: str) -> Path:
    folder = shelf.SHELF / hash
    if not folder.is_dir():
        raise ValueError(f"--tokenizer must name tokenizer {hash}, which is not in {shelf.SHELF}")
    return folder


def _only() -> Path:
    """The one exported tokenizer on the shelf."""
    found = sorted(shelf.SHELF.glob(f"*/{shelf.CONFIG}"))
    if len(found) != 1:
        raise ValueError(
            f"--tokenizer must name one, as {shelf.SHELF} holds {len(found)}; `python -m tokbench.codec export "
            "quantizer=fsq data=cifar10` makes one"
        )
    return found[0].parent


def _as_image(image: Tensor, path: Path) -> bytes:
    """The image file's bytes, in the format that the path's ending names."""
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"{path} must end in the name of an image format, such as .png")
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format=kind)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
