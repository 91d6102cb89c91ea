"""A vector quantizer's latent before its quantizer: trained as the discrete tokenizer, and the same images come out."""

import pytest
import torch
from torch import nn

from tokbench import build
from tokbench.quantizers.continuous import Continuous
from tokbench.quantizers.vq import VectorQuantizer
from tokbench.stages import tokenizer_loss
from tokbench.tokenizers.autoencoder import Autoencoder
from tokbench.tokenizers.check import check_tokenizer
from tokbench.tokenizers.prequantized import Prequantized

SIZES = {"width": 8, "factor": 4, "depth": 1}


def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def twins() -> tuple[Autoencoder, Prequantized]:
    """The discrete tokenizer and its continuous twin as one seed draws them."""
    made = []
    for kind in (Autoencoder, Prequantized):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(dim=16, codebook_size=16, beta=0.25, estimator="straight_through")
        nn.init.normal_(quantizer.codebook)
        tokenizer = kind(quantizer, **SIZES)
        for block in tokenizer.modules():
            if isinstance(block, nn.Conv2d):
                nn.init.normal_(block.weight, std=0.1)
        made.append(tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True))
    return made[0], made[1]


def test_reconstructions_are_those_of_the_discrete_tokenizer():
    discrete, continuous = (tokenizer.eval() for tokenizer in twins())
    quantized = continuous.encode(images())
    assert quantized.indices is None
    assert quantized.losses == {}
    assert continuous.codebook_sizes == continuous.factors == ()
    assert continuous.snap is None
    assert torch.equal(quantized.z_q, discrete.latents(images()))
    assert not torch.equal(quantized.z_q, discrete.encode(images()).z_q)
    assert torch.equal(continuous.decode(quantized.z_q), discrete.decode(discrete.encode(images()).z_q))


def test_a_training_step_is_that_of_the_discrete_tokenizer():
    gradients = []
    for tokenizer in twins():
        torch.manual_seed(1)
        terms = tokenizer_loss(tokenizer.train(), images())
        torch.stack(list(terms.values())).sum().backward()
        gradients.append(({k: v.detach() for k, v in terms.items()}, [p.grad for p in tokenizer.parameters()]))
    (losses, discrete), (same, continuous) = gradients
    assert set(losses) == {"reconstruction", "codebook", "commitment"}
    assert losses == same
    assert all(grad is not None and grad.abs().sum() > 0 for grad in continuous)
    assert all(torch.equal(a, b) for a, b in zip(discrete, continuous, strict=True))


def test_small_moves_of_a_latent_are_absorbed_by_the_decoder():
    tokenizer = twins()[1].eval()
    z = tokenizer.quantizer(tokenizer.latents(images())).z_q.detach()
    assert torch.equal(tokenizer.decode(z), tokenizer.decode(z + 1e-5))


def test_it_holds_the_protocol_and_needs_a_quantizer_with_codes():
    check_tokenizer(twins()[1], size=16)
    with pytest.raises(ValueError, match="quantizer must have codes for tokenizer 'prequantized', got Continuous"):
        Prequantized(Continuous(4), **SIZES)
    with pytest.raises(ValueError, match="indices_to_codes needs a discrete tokenizer"):
        twins()[1].indices_to_codes(torch.zeros(1, 16, dtype=torch.int64))


def test_the_alias_takes_the_tuned_vq_and_names_its_row():
    alias, tuned = build.compose(["quantizer=prequantized"]), build.compose(["quantizer=vq_tuned"])
    assert alias["quantizer"] == tuned["quantizer"]
    assert alias["name"] == "prequantized"
    target = {"_target_": "tokbench.tokenizers.prequantized.Prequantized"}
    assert alias["tokenizer"] == tuned["tokenizer"] | target
