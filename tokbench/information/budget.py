"""How many bits images hold and how many a grid of codes can carry (kexue.fm/archives/9984; SYSTEMS C1).

`python -m tokbench.information.budget --bits-per-byte 3 --size 64 --codebook-size 8192`. N tokens, V codes, H bits an image.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2

BITS_PER_BYTE = (3.0, 3.44)  # ImageNet at 64 x 64: round, and of the Sparse Transformer (arXiv:1904.10509)
IMAGENET_TOKENS = 64, 256, 1024  # of an image of 64 x 64
MOST_SIZE, MOST_BITS = 10**6, 1024  # of a side in pixels, and of a code
MOST_DIGITS = 10**9  # of a number that is written out
CAVEAT = (
    "Bits a byte fall with resolution: neighbouring pixels of a larger image say more of each other, so a figure measured at"
    " 64 x 64 overstates what a larger image holds."
)


@dataclass(frozen=True)
class System:
    """A published tokenizer: image side, tokens and codes."""

    size: int
    tokens: int
    codes: int


PUBLISHED: Mapping[str, System] = {
    "SEED (arXiv:2307.08041)": System(224, 32, 8192),
    "TiTok-L-32 (arXiv:2406.07550)": System(256, 32, 4096),
    "VQGAN f16 (arXiv:2012.09841)": System(256, 256, 1024),
    "Show-o (arXiv:2408.12528)": System(256, 256, 8192),
    "Chameleon (arXiv:2405.09818)": System(512, 1024, 8192),
    "MAGVIT-v2 f16 (arXiv:2310.05737)": System(256, 256, 2**18),
    "VQGAN f8 (arXiv:2012.09841)": System(256, 1024, 8192),
    "Transfusion's control (arXiv:2408.11039)": System(256, 1024, 16384),
}


def image_bits(size: int, bits_per_byte: float) -> float:
    """H = 3 size^2 bits_per_byte of a square RGB image."""
    return 3 * size**2 * bits_per_byte


def capacity_bits(tokens: int, codes: int) -> float:
    """N log2 V."""
    return tokens * log2(codes)


def tokens_needed(bits: float, codes: int) -> int:
    """The N at which codes of this V can carry so many bits."""
    return ceil(bits / log2(codes))


def log2_codes_needed(bits: float, tokens: int) -> float:
    """log2 of the V at which so many tokens can carry so many bits."""
    return bits / tokens


def report(bits_per_byte: float, size: int, codes: int, tokens: int) -> list[str]:
    """Lines: what an image holds, what N tokens of V codes carry, and what a lossless code would take."""
    bits, carried = image_bits(size, bits_per_byte), capacity_bits(tokens, codes)
    return [
        f"an image of {size} x {size} at {bits_per_byte:g} bits/byte holds {bits:,.0f} bits ({bits / 8:,.0f} bytes)",
        f"{tokens:,} tokens of {codes:,} codes carry {carried:,.0f} bits: {short(carried, bits)}",
        f"lossless at {codes:,} codes: {tokens_needed(bits, codes):,} tokens",
        f"lossless at {tokens:,} tokens: 2^{log2_codes_needed(bits, tokens):,.1f} codes",
        CAVEAT,
    ]


def short(carried: float, bits: float) -> str:
    """By how much a capacity misses what is held."""
    return f"{bits / carried:,.1f} times too few" if carried < bits else f"enough, by {carried - bits:,.0f} bits"


def published_rows(bits_per_byte: float) -> list[list[str]]:
    """A row a published system: tokens, codes, bits it carries, bits a byte of image, how far below what images hold."""
    return [budget_row(name, s.size, s.tokens, s.codes, bits_per_byte) for name, s in PUBLISHED.items()]


def code_count(codes: int) -> str:
    """A number of codes as text, a large one as a power of two."""
    return f"{codes:,}" if codes < MOST_DIGITS else f"2^{log2(codes):.4g}"


def imagenet_rows() -> list[list[str]]:
    """A row for ImageNet at 64 x 64 at each of the bits a byte and each N of post 9984, of 8192 codes."""
    return [
        budget_row(f"{bits:g} bits/byte", 64, tokens, 8192, bits)
        for bits in BITS_PER_BYTE
        for tokens in IMAGENET_TOKENS
    ]


def budget_row(name: str, size: int, tokens: int, codes: int, bits_per_byte: float) -> list[str]:
    """One line of the budget table, of any system: N tokens of V codes against an image at so many bits a byte."""
    held, carried = image_bits(size, bits_per_byte), capacity_bits(tokens, codes)
    return [
        name,
        f"{size} x {size}",
        f"{tokens:,}",
        code_count(codes),
        f"{carried:,.0f}",
        f"{carried / (3 * size**2):.4f}",
        f"{held:,.0f}",
        f"{max(held - carried, 0):,.0f}",
        short(carried, held),
        f"{tokens_needed(held, codes):,}",
        f"2^{log2_codes_needed(held, tokens):,.1f}",
    ]


HEADINGS = [
    *("system", "image", "N", "V", "N log2 V (bits)", "bits/byte", "image holds (bits)", "deficit (bits)", "carries"),
    *("N needed at this V", "V needed at this N"),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the budget; 0, or 2 with one line on bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m tokbench.information.budget",
        description="Bits held and carried.",
        usage=argparse.SUPPRESS,  # errors are one line
    )
    parser.add_argument("--bits-per-byte", type=float, required=True, help="of a lossless model of such images, 0 to 8")
    parser.add_argument("--size", type=int, required=True, help="side of the image in pixels")
    parser.add_argument("--codebook-size", type=int, required=True, help="V, at least 2")
    parser.add_argument("--tokens", type=int, help="N (default: a grid of a token for 16 x 16 pixels)")
    given = parser.parse_args(arguments)
    tokens = given.tokens if given.tokens is not None else max(1, (given.size // 16) ** 2)
    rules = [
        ("--bits-per-byte must be in (0, 8]", 0 < given.bits_per_byte <= 8, given.bits_per_byte),
        (f"--size must be in [1, {MOST_SIZE}]", 1 <= given.size <= MOST_SIZE, given.size),
        (
            f"--codebook-size must be in [2, 2^{MOST_BITS}]",
            2 <= given.codebook_size <= 2**MOST_BITS,
            given.codebook_size,
        ),
        ("--tokens must be >= 1", tokens >= 1, tokens),
    ]
    for rule, holds, value in rules:
        if not holds:
            print(f"error: {rule}, got {value}", file=sys.stderr)
            return 2
    lines = [*report(given.bits_per_byte, given.size, given.codebook_size, tokens), ""]
    lines.append(f"published, at {given.bits_per_byte:g} bits/byte:")
    for row in published_rows(given.bits_per_byte):
        lines.append(f"  {row[0]:42} {row[2]:>5} x {row[3]:>7} codes: {row[4]:>7} bits, {row[5]} bits/byte, {row[8]}")
    print("\n".join(lines))  # at once: a reader such as `head` may leave after a line
    return 0


if __name__ == "__main__":
    sys.exit(main())
