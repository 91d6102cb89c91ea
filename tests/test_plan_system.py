"""What the planner holds in memory, and what it says fits: no weights here, all of them there."""

import pytest
import torch
from torch import nn

from tokbench import build
from tokbench.plan import system
from tokbench.plan.system import planned
from tokbench.roofline import NAMED, Device

WORDS = ("quantizer=continuous_8", "tokenizer.factor=16")
SEVEN = {"image_size": 256, "width": 4096, "depth": 32}


class Numbers(nn.Module):
    """A tokenizer of the user's own that reads a weight while it is made."""

    dim, codebook_sizes = 3, ()

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.first = float(self.scale.detach()[0])

    def shape(self, height, width):
        return height // 8, width // 8

    def decode(self, z_q):
        return z_q * self.scale

    def indices_to_codes(self, indices):
        return indices


@pytest.mark.parametrize("quantizer", ["fsq", "vq", "vq_ema", "rvq", "lfq", "kl", "ibq"])
def test_no_weight_of_a_tokenizer_is_allocated(quantizer):
    made = system._tokenizer(build.compose([f"quantizer={quantizer}"]))
    assert {tensor.device.type for tensor in (*made.parameters(), *made.buffers())} == {"meta"}


def test_a_tokenizer_that_cannot_be_made_without_numbers_is_made_with_them():
    words = [f"tokenizer._target_={__name__}.Numbers"]
    plan = planned(
        "transfusion", {"image_size": 64, "width": 64, "depth": 1}, words, device=NAMED["h200"], element_bytes=2
    )
    assert (plan.num_tokens, plan.works["decoding"].parameters) == (64, 3)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        (["+backbone.long_skips=true"], 16 * 2 * 4096**2),
        (["+generation.scheme.conditioning=adaln_zero"], 32 * (6 * 4096**2 + 6 * 4096)),
    ],
    ids=["long skips", "adaLN"],
)
def test_options_of_denoise_are_read_in_every_pass_and_trained(options, more):
    plain, changed = (
        planned("transfusion", SEVEN, [*WORDS, *words], device=NAMED["h200"], element_bytes=2)
        for words in ((), options)
    )
    assert changed.parameters - plain.parameters == more
    assert changed.works["image"].parameters - plain.works["image"].parameters == more
    assert changed.training_flops_per_token > plain.training_flops_per_token
    slow = Device("slow memory", 4e15, 1e11, 1e-9, 1e12)  # where weights bound every pass
    plain, changed = (
        planned("transfusion", SEVEN, [*WORDS, *words], device=slow, element_bytes=2) for words in ((), options)
    )
    assert changed.at(1).name == "weights"
    slower = changed.at(1).seconds / plain.at(1).seconds
    assert slower == pytest.approx(1 + more / 6.44e9, rel=0.03)  # but for the prompt and the cache


def test_the_best_batch_has_room_for_weights_caches_and_a_pass():
    for preset in ("transfusion", "mar"):
        plan = planned(preset, SEVEN, WORDS, device=NAMED["h200"], element_bytes=2)
        layer = 256 * (2 * 4096 + 3 * system.hidden_size(4096)) * 2
        assert plan.pass_bytes == layer + 4 * 256 * 8
        weights = 2 * (plan.parameters + plan.works["decoding"].parameters)
        one = plan.row_bytes + plan.pass_bytes
        assert weights + plan.best_batch * one <= NAMED["h200"].memory < weights + 2 * plan.best_batch * one
    words = ("quantizer=vq", "quantizer.codebook_size=8192", "tokenizer.factor=16")
    causal, masked = (
        planned(name, SEVEN, words, device=NAMED["h200"], element_bytes=2) for name in ("chameleon", "showo")
    )
    assert causal.pass_bytes == 32 * (2 * 4096 + 3 * system.hidden_size(4096)) * 2 + 4 * 8192  # the prompt's 32 places
    assert masked.pass_bytes == 256 * (2 * 4096 + 3 * system.hidden_size(4096)) * 2 + 4 * 256 * 8192
