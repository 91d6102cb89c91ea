"""The factorised head: a normalised chain rule over digits that costs their sum, not their product."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tokbench import cost
from tokbench.heads.categorical import Categorical
from tokbench.heads.factorised import Factorised

E = 16
ONE = {"codebook_sizes": (60,), "factors": ((3, 4, 5),)}
STAGES = {"codebook_sizes": (6, 5), "factors": ((3, 2), (5,))}
HUGE = {"codebook_sizes": (2**18,), "factors": ((256, 256, 4),)}


def made(*, width: int = E, top_p: float = 1.0, noise: float = 0.5, **sizes) -> Factorised:
    torch.manual_seed(0)
    head = Factorised(width=width, top_p=top_p, **sizes)
    for parameter in head.parameters():
        if noise and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=noise)
    return head


def every_code(sizes: tuple[int, ...]) -> torch.Tensor:
    return torch.cartesian_prod(*(torch.arange(size) for size in sizes))


def drawn(head, h, *, h_uncond=None, guidance=1.0, temperature=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return head.sample(h, h_uncond=h_uncond, guidance=guidance, temperature=temperature, generator=generator)


@pytest.mark.parametrize("sizes", [ONE, STAGES], ids=["digits", "stages"])
def test_probabilities_of_all_codes_sum_to_one(sizes):
    head, codes = made(**sizes), every_code(sizes["codebook_sizes"])
    nats = head.loss(torch.randn(1, E).expand(len(codes), -1), codes, None)
    assert nats.shape == (len(codes),)
    assert nats.dtype == torch.float32
    assert nats.std() > 0.1
    assert math.isclose(nats.neg().exp().sum().item(), 1, rel_tol=1e-5)
    assert head.exact_nll
    assert head.reads == "indices"


def test_digits_are_least_significant_first_and_stages_follow_each_other():
    head = made(**ONE)
    assert head.split(torch.tensor([2 + 3 * (1 + 4 * 4)])).tolist() == [[2, 1, 4]]
    head = made(**STAGES)
    assert head.split(torch.tensor([[1 + 3 * 1, 2]])).tolist() == [[1, 1, 2]]
    for sizes in (ONE, STAGES):
        codes, head = every_code(sizes["codebook_sizes"]), made(**sizes)
        assert torch.equal(head.join(head.split(codes)), codes)


def test_one_digit_is_the_softmax_over_the_codebook():
    head, softmax = made(codebook_sizes=(60,)), Categorical(width=E, codebook_sizes=(60,), top_p=1.0)
    softmax.logits.load_state_dict(head.logits[0].state_dict())
    h, target = torch.randn(50, E), torch.randint(60, (50,))
    torch.testing.assert_close(head.loss(h, target, None), softmax.loss(h, target, None))
    assert torch.equal(drawn(head, h), drawn(softmax, h))
    assert head.flops == softmax.flops


@pytest.mark.parametrize("sizes", [ONE, STAGES], ids=["digits", "stages"])
def test_samples_follow_the_probabilities_that_the_loss_states(sizes):
    head, codes, h = made(**sizes), every_code(sizes["codebook_sizes"]), torch.randn(1, E)
    probabilities = head.loss(h.expand(len(codes), -1), codes, None).neg().exp()
    found = drawn(head, h.expand(20000, -1))
    assert found.dtype == torch.int64
    assert found.shape == (20000, *codes.shape[1:])
    columns = found.reshape(20000, -1)
    flat = columns[:, 0] if columns.shape[1] == 1 else columns[:, 0] * sizes["codebook_sizes"][1] + columns[:, 1]
    torch.testing.assert_close(flat.bincount(minlength=len(codes)) / 20000, probabilities, atol=0.015, rtol=0)


def test_a_digit_can_depend_on_another_in_a_way_that_the_state_decides():
    """Two bits, each fair: equal under one state, different under the other: ln 2 nats, where independent bits need 2 ln 2."""
    head = made(width=8, noise=0, codebook_sizes=(2, 2))
    h = torch.eye(8)[:2].repeat(128, 1)
    first = torch.arange(256) // 2 % 2
    target = torch.stack((first, first ^ (torch.arange(256) % 2)), dim=1)
    optimizer = torch.optim.AdamW(head.parameters(), 0.02)
    for _ in range(150):
        loss = head.loss(h, target, None).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert abs(loss.item() - math.log(2)) < 0.02


def test_every_parameter_gets_a_gradient():
    head = made(**STAGES)
    head.loss(torch.randn(64, E), every_code((6, 5))[torch.arange(64) % 30], None).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_guidance_moves_each_digit_given_the_same_earlier_digits():
    head, (h, without) = made(**STAGES), torch.randn(2, 1, E)
    found = drawn(head, h.expand(20000, -1), h_uncond=without.expand(20000, -1), guidance=2.0)
    expected, digits = torch.zeros(30), head.split(every_code((6, 5)))
    given, empty = (list(head._teacher_forced(x.expand(30, -1), digits)) for x in (h, without))
    for place, (a, b) in enumerate(zip(given, empty, strict=True)):
        expected += (b + 2 * (a - b)).log_softmax(-1).gather(1, digits[:, place : place + 1])[:, 0]
    seen = (found[:, 0] * 5 + found[:, 1]).bincount(minlength=30) / 20000
    torch.testing.assert_close(seen, expected.detach().exp(), atol=0.015, rtol=0)
    assert torch.equal(drawn(head, h), drawn(head, h, h_uncond=without, guidance=1.0))


def test_temperature_zero_takes_each_likeliest_digit_and_top_p_bounds_each():
    h = torch.randn(40, E)
    likeliest = drawn(made(**STAGES), h, temperature=0)
    assert torch.equal(likeliest, drawn(made(**STAGES, top_p=1e-6), h, seed=3))
    assert torch.equal(drawn(made(**STAGES), h, seed=3), drawn(made(**STAGES), h, seed=3))
    assert not torch.equal(drawn(made(**STAGES), h, seed=3), drawn(made(**STAGES), h, seed=4))


class LargestTensor(TorchDispatchMode):
    """The most elements of any tensor that an operation gives."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_a_codebook_of_2_to_the_18_makes_no_tensor_that_wide():
    with LargestTensor() as seen:
        head, h = made(**HUGE), torch.randn(4, E)
        head.loss(h, torch.randint(2**18, (4,)), None).sum().backward()
        drawn(head, h, h_uncond=h, guidance=2.0)
    assert seen.elements <= 256 * E
    assert cost.num_parameters(head) < 2**18


@pytest.mark.parametrize("sizes", [ONE, STAGES, HUGE], ids=["digits", "stages", "huge"])
def test_flops_are_those_counted(sizes):
    head, h = made(**sizes), torch.randn(7, E)
    assert cost.counted_flops(lambda: drawn(head, h)) == 7 * head.flops
    assert cost.counted_flops(lambda: drawn(head, h, h_uncond=h, guidance=2.0)) == 14 * head.flops
    target = drawn(head, h)
    assert cost.counted_flops(lambda: head.loss(h, target, None)) == 7 * head.flops
    softmax = Categorical(width=E, codebook_sizes=(60,), top_p=1.0)
    assert cost.counted_flops(lambda: drawn(softmax, h)) == 7 * softmax.flops


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_sizes": ()}, "head 'factorised' needs indices, but the tokenizer is continuous"),
        ({"codebook_sizes": (8,), "factors": ((2, 2),)}, r"factors must multiply to codebook_sizes = \(8,\), got"),
        ({"codebook_sizes": (8, 2), "factors": ((8,),)}, "factors must multiply to codebook_sizes"),
        ({"codebook_sizes": (8,), "top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        Factorised(**{"width": E, "top_p": 1.0} | options)
