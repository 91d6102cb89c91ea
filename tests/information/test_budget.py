"""The budget of post 9984, against the table of claim C1."""

from __future__ import annotations

import pytest

from tokbench.information.budget import (
    CAVEAT,
    PUBLISHED,
    capacity_bits,
    image_bits,
    imagenet_rows,
    log2_codes_needed,
    main,
    published_rows,
    tokens_needed,
)

CODES = (1024, 8192, 16384, 65536, 2**18)


@pytest.mark.parametrize(
    ("size", "per_byte", "bits", "needed", "by_tokens"),
    [
        (64, 3.00, 36864, (3687, 2836, 2634, 2304, 2048), {1024: 36, 256: 144, 64: 576}),
        (64, 3.44, 42271, (4228, 3252, 3020, 2642, 2349), {1024: 41.3, 256: 165.1, 64: 660.5}),
        (32, 2.80, 8602, (861, 662, 615, 538, 478), {1024: 8.4, 256: 33.6, 64: 134.4}),
    ],
)
def test_the_published_figures_are_reproduced(
    size: int, per_byte: float, bits: int, needed: tuple[int, ...], by_tokens: dict[int, float]
) -> None:
    held = image_bits(size, per_byte)
    assert round(held) == bits
    assert tuple(tokens_needed(held, codes) for codes in CODES) == needed
    for tokens, log2_codes in by_tokens.items():
        assert round(log2_codes_needed(held, tokens), 1) == log2_codes


@pytest.mark.parametrize(
    ("name", "bits", "per_byte"),
    [
        ("SEED", 416, 0.0028),
        ("TiTok", 384, 0.0020),
        ("VQGAN f16", 2560, 0.013),
        ("Show-o", 3328, 0.0169),
        ("Chameleon", 13312, 0.0169),
        ("MAGVIT-v2", 4608, 0.023),
        ("VQGAN f8", 13312, 0.068),
        ("Transfusion", 14336, 0.073),
    ],
)
def test_published_systems_carry_what_the_claim_says(name: str, bits: int, per_byte: float) -> None:
    ((key, system),) = [item for item in PUBLISHED.items() if item[0].startswith(name)]
    carried = capacity_bits(system.tokens, system.codes)
    assert carried == bits
    assert carried / (3 * system.size**2) == pytest.approx(per_byte, rel=0.03)
    (row,) = [row for row in published_rows(3.0) if row[0] == key]
    assert row[4] == f"{bits:,}"


def test_chameleon_is_177_times_short() -> None:
    (row,) = [row for row in published_rows(3.0) if row[0].startswith("Chameleon")]
    assert row[7] == "2,345,984"  # bits of deficit
    assert row[8] == "177.2 times too few"


def test_the_command_prints_the_budget_and_the_caveat(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bits-per-byte", "3", "--size", "64", "--codebook-size", "8192", "--tokens", "1024"]) == 0
    printed = capsys.readouterr().out
    assert "holds 36,864 bits (4,608 bytes)" in printed
    assert "lossless at 8,192 codes: 2,836 tokens" in printed
    assert "lossless at 1,024 tokens: 2^36.0 codes" in printed
    assert CAVEAT in printed


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--bits-per-byte", "9"], "--bits-per-byte must be in (0, 8], got 9"),
        (["--size", "0"], "--size must be in [1, 1000000], got 0"),
        (["--size", str(10**200)], "--size must be in [1, 1000000], got 1"),
        (["--codebook-size", "1"], "--codebook-size must be in [2, 2^1024], got 1"),
        (["--tokens", "0"], "--tokens must be >= 1, got 0"),
    ],
)
def test_wrong_numbers_are_one_line(wrong: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    good = ["--bits-per-byte", "3", "--size", "64", "--codebook-size", "8192"]
    assert main([*good, *wrong]) == 2
    assert capsys.readouterr().err.strip().startswith(f"error: {told}")


@pytest.mark.parametrize(("wrong", "told"), [(["--size", "x"], "invalid int value: 'x'"), ([], "are required")])
def test_words_that_are_no_numbers_and_missing_ones_are_one_line_too(
    wrong: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(wrong)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line


def test_imagenet_at_64_pixels_is_the_table_of_the_post() -> None:
    found = {(row[0], row[2]): (row[6], row[9], row[10]) for row in imagenet_rows()}
    assert found["3 bits/byte", "1,024"] == ("36,864", "2,836", "2^36.0")
    assert found["3 bits/byte", "64"] == ("36,864", "2,836", "2^576.0")
    assert found["3.44 bits/byte", "256"] == ("42,271", "3,252", "2^165.1")
