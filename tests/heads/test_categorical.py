import math

import pytest
import torch

from tokbench.heads.categorical import Categorical
from tokbench.heads.sampling import nucleus

E, V = 8, 11


def _head(top_p=1.0):
    torch.manual_seed(0)
    head = Categorical(width=E, codebook_sizes=(V,), top_p=top_p)
    torch.nn.init.normal_(head.logits.weight)
    return head


def _sample(head, h, *, h_uncond=None, guidance=1.0, temperature=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return head.sample(h, h_uncond=h_uncond, guidance=guidance, temperature=temperature, generator=generator)


def test_loss_is_the_exact_nll_and_sums_to_one_over_codes():
    head, h = _head(), torch.randn(1, E)
    nats = head.loss(h.expand(V, -1), torch.arange(V), None)
    assert nats.shape == (V,)
    assert head.reads == "indices"
    assert head.exact_nll
    assert math.isclose(nats.neg().exp().sum().item(), 1, rel_tol=1e-5)


def test_samples_follow_the_probabilities():
    head, h = _head(), torch.randn(1, E)
    drawn = _sample(head, h.expand(20000, -1))
    expected = head.logits(h).softmax(-1)[0]
    assert drawn.dtype == torch.int64
    torch.testing.assert_close(drawn.bincount(minlength=V) / 20000, expected, atol=0.015, rtol=0)


def test_guidance_adds_the_difference_of_logits():
    head, (h, without) = _head(), torch.randn(2, 1, E)
    lc, lu = head.logits(h), head.logits(without)
    expected = (lu + 2.5 * (lc - lu)).softmax(-1)[0]
    drawn = _sample(head, h.expand(20000, -1), h_uncond=without.expand(20000, -1), guidance=2.5)
    torch.testing.assert_close(drawn.bincount(minlength=V) / 20000, expected, atol=0.015, rtol=0)


def test_guidance_one_is_no_guidance():
    head, (h, without) = _head(), torch.randn(2, 50, E)
    assert torch.equal(_sample(head, h), _sample(head, h, h_uncond=without, guidance=1.0))


def test_temperature_zero_is_the_likeliest_and_a_seed_repeats():
    head, h = _head(), torch.randn(50, E)
    assert torch.equal(_sample(head, h, temperature=0), head.logits(h).argmax(-1))
    assert torch.equal(_sample(head, h, seed=3), _sample(head, h, seed=3))
    assert not torch.equal(_sample(head, h, seed=3), _sample(head, h, seed=4))


def test_top_p_keeps_the_smallest_set_of_that_mass():
    probabilities = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert nucleus(probabilities, 0.7).tolist()[0] == pytest.approx([0, 0.5, 0, 0.25])
    assert nucleus(probabilities, 0.76).tolist()[0] == pytest.approx([0, 0.5, 0.15, 0.25])
    assert nucleus(probabilities, 0.01).tolist()[0] == pytest.approx([0, 0.5, 0, 0])
    head, h = _head(top_p=0.5), torch.randn(1, E)
    allowed = nucleus(head.logits(h).softmax(-1), 0.5)[0] > 0
    assert allowed[_sample(head, h.expand(2000, -1))].all()


@pytest.mark.parametrize(
    ("sizes", "top_p", "message"),
    [
        ((), 1.0, "needs indices, but the tokenizer is continuous; use generation=transfusion, mar or givt"),
        ((4, 4), 1.0, "the tokenizer has 2 .* use generation=causal_factorised"),
        ((4,), 0.0, "top_p must be in"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(sizes, top_p, message):
    with pytest.raises(ValueError, match=message):
        Categorical(width=E, codebook_sizes=sizes, top_p=top_p)
