"""The lossless total against data whose entropy is known: never below it, and near it where tokens and model are right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tokbench.information.image_lossless import CODECS, bits_per_subpixel, mosaic
from tokbench.information.lossless import fit_code, measure_code
from tokbench.interfaces import Quantized
from tokbench.metrics.images import psnr, to_float, to_uint8
from tokbench.quantizers.continuous import GaussianLatent

SIDE, BLOCK, COLOURS = 8, 4, 4
BLOCKS = (SIDE // BLOCK) ** 2
CPU = torch.device("cpu")
PALETTE = torch.tensor([[0, 0, 0], [255, 40, 0], [30, 200, 90], [128, 128, 255]], dtype=torch.uint8)
ENTROPY_BITS = BLOCKS * math.log2(COLOURS)


def blocks(count: int, seed: int) -> Tensor:
    """(count, 3, 8, 8) images of four blocks, each of one of four colours: 8 bits an image, exactly."""
    colours = torch.randint(
        COLOURS, (count, SIDE // BLOCK, SIDE // BLOCK), generator=torch.Generator().manual_seed(seed)
    )
    return PALETTE[colours].permute(0, 3, 1, 2).repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)


class BlockTokenizer:
    """A token a block: its colour, by index or as three numbers."""

    loss_weights: Mapping[str, float] = {}

    def __init__(self, *, discrete: bool) -> None:
        self.dim, self.codebook_sizes = 3, (COLOURS,) if discrete else ()
        self.quantizer = SimpleNamespace()

    def latents(self, images: Tensor) -> Tensor:
        return images[:, :, ::BLOCK, ::BLOCK].flatten(2).transpose(1, 2)

    def encode(self, images: Tensor) -> Quantized:
        return Quantized(self.latents(images), None, {})

    def decode(self, z_q: Tensor) -> Tensor:
        grid = z_q.transpose(1, 2).unflatten(2, (SIDE // BLOCK, SIDE // BLOCK))
        return grid.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)


SPLITS = {"train": blocks(400, 0), "validation": blocks(64, 1)}


@pytest.fixture(scope="module")
def held_out() -> Tensor:
    return blocks(64, 2)


def test_codes_that_say_all_leave_next_to_nothing_open(held_out: Tensor) -> None:
    code = fit_code(BlockTokenizer(discrete=True), SPLITS, steps=40, batch=64, seed=0, device=CPU)
    found = measure_code(code, held_out, batch=64, seed=0, device=CPU)
    assert found.tokens is None
    assert (found.residual >= 0).all()
    total = found.residual + ENTROPY_BITS  # the best model of uniform tokens
    assert ENTROPY_BITS <= total.mean().item() < ENTROPY_BITS + 1


def test_a_continuous_latent_costs_more_than_the_entropy_and_the_width_is_fitted(held_out: Tensor) -> None:
    code = fit_code(BlockTokenizer(discrete=False), SPLITS, steps=40, batch=64, seed=0, device=CPU)
    found = measure_code(code, held_out, batch=64, seed=0, device=CPU)
    assert found.tokens is not None
    assert (found.tokens + found.residual).mean().item() > ENTROPY_BITS
    assert code.code is not None
    assert not torch.equal(code.code.log_width[0], code.code.log_width[1])


def test_the_quality_is_that_of_the_sample_that_the_bits_pay_for(held_out: Tensor) -> None:
    code = fit_code(BlockTokenizer(discrete=False), SPLITS, steps=2, batch=64, seed=0, device=CPU)
    assert code.code is not None
    quality = []
    for width in (-9.0, -3.0, -1.0):  # logarithms
        with torch.no_grad():
            code.code.log_width.fill_(width)
        quality.append(measure_code(code, held_out, batch=64, seed=0, device=CPU).psnr)
    with torch.no_grad():
        tokenizer = BlockTokenizer(discrete=False)
        again = to_uint8(tokenizer.decode(tokenizer.encode(to_float(held_out)).z_q))
    assert torch.equal(quality[0], psnr(held_out, again))
    assert (quality[0] > quality[1]).all()
    assert (quality[1] > quality[2]).all()


def test_the_fitted_width_does_not_depend_on_where_it_starts(held_out: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.randint(-20, 21, held_out.shape, generator=torch.Generator().manual_seed(3))

    def noisy(images: Tensor) -> Tensor:
        return (images + noise[torch.arange(len(images)) % len(noise)]).clamp(0, 255).to(torch.uint8)

    splits, totals = {name: noisy(images) for name, images in SPLITS.items()}, []
    for start in (0.02, 0.8):
        monkeypatch.setattr("tokbench.information.continuous.START_SHARE", start)
        code = fit_code(BlockTokenizer(discrete=False), splits, steps=100, batch=64, seed=0, device=CPU)
        found = measure_code(code, noisy(held_out), batch=64, seed=0, device=CPU)
        assert found.tokens is not None
        totals.append((found.tokens + found.residual).mean().item())
    assert totals[0] == pytest.approx(totals[1], rel=0.03)


def test_a_latent_with_its_own_posterior_is_decoded_from_a_sample_of_it(held_out: Tensor) -> None:
    tokenizer = BlockTokenizer(discrete=False)
    tokenizer.quantizer = GaussianLatent(dim=3, kl_weight=0.0)  # type: ignore[assignment]
    nn.init.zeros_(tokenizer.quantizer.moments.weight)
    nn.init.zeros_(tokenizer.quantizer.moments.bias)
    code = fit_code(tokenizer, SPLITS, steps=2, batch=64, seed=0, device=CPU)
    assert [name for name, p in code.named_parameters() if "residual" not in name] == ["code.log_width"]
    found = measure_code(code, held_out, batch=64, seed=0, device=CPU)
    assert found.tokens is not None
    assert found.tokens.mean().item() == pytest.approx(0, abs=1e-3)  # posterior and prior are both N(0, 1)
    other = measure_code(code, held_out, batch=64, seed=1, device=CPU)
    assert not torch.equal(other.residual, found.residual)


def test_the_same_seed_gives_the_same_code(held_out: Tensor) -> None:
    a, b = (
        measure_code(
            fit_code(BlockTokenizer(discrete=True), SPLITS, steps=3, batch=64, seed=0, device=CPU),
            held_out,
            batch=64,
            seed=0,
            device=CPU,
        )
        for _ in range(2)
    )
    assert torch.equal(a.residual, b.residual)


@pytest.mark.parametrize("name", ["png", "webp"])
def test_an_image_codec_needs_no_less_than_the_entropy(name: str, held_out: Tensor) -> None:
    single, tiled = (bits_per_subpixel(CODECS[name], held_out, tiled=tiled) for tiled in (False, True))
    assert single > tiled > ENTROPY_BITS / (3 * SIDE * SIDE)


def test_a_codec_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    with pytest.raises(ModuleNotFoundError, match=r"tokbench\[codecs\]"):
        CODECS["jpeg_xl"](np.zeros((4, 4, 3), dtype=np.uint8))


def test_tiles_lie_row_by_row() -> None:
    pixels = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), dtype=np.uint8)
    assert mosaic(pixels)[::2, ::2, 0].tolist() == [[0, 1], [2, 2]]


def test_levels_reach_the_model_as_they_are() -> None:
    """to_float and the bins agree on where a level lies."""
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.allclose(to_float(levels), levels.float() / 127.5 - 1, atol=1e-6)
