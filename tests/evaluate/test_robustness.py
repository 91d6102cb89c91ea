"""The PSNR that wrong tokens cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tokbench.evaluate.reference import some
from tokbench.evaluate.robustness import evaluate_robustness, flip
from tokbench.interfaces import Split
from tokbench.metrics.images import psnr, to_float, to_uint8
from tokbench.quantizers.fsq import FiniteScalarQuantizer
from tokbench.quantizers.product import ProductQuantizer
from tokbench.tokenizers.autoencoder import Autoencoder
from tokbench.tokenizers.patches import Patches
from tokbench.tokenizers.pixels import Pixels

CPU = torch.device("cpu")
ONE, TEN = (f"reconstruction/psnr_lost_{percent}_percent" for percent in (1, 10))


def split(n: int = 50) -> Split:
    images = torch.randint(0, 256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return Split(images, ("",) * n, None, torch.arange(n))


@pytest.mark.parametrize(("share", "hits"), [(0.0, 0), (0.01, 6), (0.1, 64), (1.0, 640)])
def test_exactly_the_share_of_all_tokens_gets_another_code(share: float, hits: int) -> None:
    indices = torch.randint(5, (40, 16), generator=torch.Generator().manual_seed(1))
    flipped = flip(indices, (5,), share=share, seed=0)
    assert (flipped != indices).sum() == hits
    assert flipped.min() >= 0
    assert flipped.max() < 5


def test_all_other_codes_are_equally_likely() -> None:
    flipped = flip(torch.full((1000, 40), 3), (5,), share=1.0, seed=0)
    shares = torch.bincount(flipped.flatten(), minlength=5) / flipped.numel()
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.25, 0.25, 0, 0.25]), atol=0.01, rtol=0)


def test_every_stage_of_a_token_is_replaced() -> None:
    indices = torch.zeros(30, 16, 3, dtype=torch.int64)
    changed = flip(indices, (2, 7, 300), share=0.1, seed=0) != 0
    assert (changed.all(dim=-1) == changed.any(dim=-1)).all()
    assert changed.all(dim=-1).sum() == 48


def test_the_same_tokens_are_hit_whatever_their_codes() -> None:
    few, many = (flip(torch.zeros(30, 16, dtype=torch.int64), (size,), share=0.1, seed=0) > 0 for size in (2, 900))
    assert torch.equal(few, many)


def test_a_codebook_without_another_code_is_refused() -> None:
    with pytest.raises(ValueError, match="codebook_sizes >= 2"):
        flip(torch.zeros(2, 2, dtype=torch.int64), (1,), share=0.1, seed=0)


def test_the_loss_is_that_of_the_flipped_tokens_against_the_same_images() -> None:
    measures = evaluate_robustness(Pixels(), split(), batch=7, device=CPU)
    images = split().images[some(50, 50)]
    indices = Pixels().encode(to_float(images)).indices
    for key, share in ((ONE, 0.01), (TEN, 0.1)):
        wrong = flip(indices, (256,), share=share, seed=0)
        decoded = Pixels().decode(Pixels().indices_to_codes(wrong))
        lost = 100 - psnr(to_uint8(decoded), images)
        measure = measures[key]
        assert measure.n == 50
        assert measure.unit == "dB"
        assert measure.value == pytest.approx(float(lost.mean()))


@pytest.mark.parametrize("stages", [1, 2])
def test_measures_do_not_depend_on_the_batch(stages: int) -> None:
    torch.manual_seed(0)

    def group() -> FiniteScalarQuantizer:
        return FiniteScalarQuantizer([5, 5])

    quantizer = group() if stages == 1 else ProductQuantizer(group=group, num_groups=stages)
    tokenizer = Autoencoder(quantizer, width=8, factor=4, depth=1).eval()
    one, two = (evaluate_robustness(tokenizer, split(), batch=b, device=CPU) for b in (7, 50))
    for key in (ONE, TEN):
        assert two[key].value == pytest.approx(one[key].value, abs=1e-3)


class Blind(Patches):
    """Four codes that the decoder does not look at."""

    codebook_sizes = (4,)

    def encode(self, images: Tensor):  # type: ignore[no-untyped-def]
        found = super().encode(images)
        return type(found)(found.z_q, torch.zeros(found.z_q.shape[:2], dtype=torch.int64), {})

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        return torch.zeros(*indices.shape, self.dim)


def test_a_decoder_that_ignores_its_codes_loses_nothing() -> None:
    measures = evaluate_robustness(Blind(4), split(), batch=50, device=CPU)
    assert measures[ONE].value == measures[TEN].value == 0


def test_a_continuous_tokenizer_has_no_codes_to_replace() -> None:
    measures = evaluate_robustness(Patches(4), split(), batch=50, device=CPU)
    assert {key: measure.reason for key, measure in measures.items()} == {ONE: "continuous", TEN: "continuous"}
