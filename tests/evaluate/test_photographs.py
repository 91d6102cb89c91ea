"""Photographs tile by tile: quality of the whole, and bits that add up over tiles."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tokbench import build
from tokbench.evaluate.kodak import evaluate_photograph_bits, evaluate_photographs, tokenize
from tokbench.evaluate.tokens import token_space
from tokbench.information.coding import fit_tables, ideal_bits
from tokbench.metrics.images import psnr, to_float, to_uint8
from tokbench.tokenizers.patches import Patches

SIZE, CPU = 16, torch.device("cpu")


def photographs():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, *sides), generator=generator, dtype=torch.uint8) for sides in ((32, 48), (48, 16))]


def made(quantizer):
    config = build.compose(["budget=smoke", f"quantizer={quantizer}"])
    torch.manual_seed(0)
    return build.construct(config["tokenizer"], quantizer=build.construct(config["quantizer"])).eval()


def judged(tokenizer):
    found = tokenize(tokenizer, photographs(), size=SIZE, batch=4, device=CPU)
    space = token_space(tokenizer, found.table, size=SIZE)
    return found, space, evaluate_photographs(tokenizer, found, space, found.table, batch=4)


def test_what_loses_nothing_comes_back_whole():
    _, _, (measures, arrays) = judged(Patches(4))
    assert arrays["kodak_psnr_db"].tolist() == [100.0, 100.0]
    assert measures["kodak/ssim"].value == pytest.approx(1)
    assert "kodak/table_bpp" not in measures


@pytest.mark.parametrize("quantizer", ["fsq", "rvq"])
def test_photographs_are_judged_whole_and_coded_by_the_tables(quantizer):
    tokenizer = made(quantizer)
    found, space, (measures, arrays) = judged(tokenizer)
    first = photographs()[0]
    expected = torch.zeros_like(first)
    for top in (0, 16):
        for left in (0, 16, 32):
            tile = to_float(first[None, :, top : top + 16, left : left + 16])
            with torch.no_grad():
                decoded = to_uint8(tokenizer.decode(tokenizer.encode(tile).z_q))[0]
            expected[:, top : top + 16, left : left + 16] = decoded
    assert arrays["kodak_psnr_db"][0] == pytest.approx(psnr(expected[None], first[None]).item(), abs=1e-3)
    tables = fit_tables(found.table.indices, space.codebook_sizes)
    mine = found.table.indices[:6].reshape(-1, len(tables)).numpy()
    assert 8 * 0 <= arrays["kodak_table_bpp"][0] * 32 * 48 - ideal_bits(mine, tables) <= 64
    assert measures["kodak/nominal_bpp"].value == pytest.approx(math.log2(math.prod(space.codebook_sizes)) / 16)


def test_model_bits_add_up_over_the_tiles_of_a_photograph():
    found, space, _ = judged(made("fsq"))
    scheme = SimpleNamespace(likelihood="exact", nll=lambda batch: batch.indices.float().sum(dim=1))
    measures, arrays = evaluate_photograph_bits("native", scheme, space, found, batch=4)
    sums = found.table.indices.sum(dim=1).double().numpy() / math.log(2)
    expected = [sums[:6].sum() / (32 * 48), sums[6:].sum() / (48 * 16)]
    assert np.allclose(arrays["kodak_model_bpp_native"], expected)
    assert measures["native/kodak/model_bpp"].value == pytest.approx(np.mean(expected))


def test_a_scheme_without_exact_bits_gives_none():
    found, space, _ = judged(made("fsq"))
    assert evaluate_photograph_bits("common", SimpleNamespace(likelihood=None), space, found, batch=4) == ({}, {})
