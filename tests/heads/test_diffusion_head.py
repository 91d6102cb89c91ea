"""The per-token denoiser: it learns densities that depend on the state, and costs what it says."""

import pytest
import torch

from tokbench import cost
from tokbench.diffusion import SCHEDULES, add_noise
from tokbench.heads.diffusion import Diffusion

E, D = 4, 2


def made(**options):
    torch.manual_seed(0)
    defaults = {"net_width": 32, "net_depth": 2, "schedule": "cosine", "prediction": "eps"}
    return Diffusion(width=E, dim=D, **defaults | {"sampler": "ddpm", "steps": 10, "draws": 4} | options)


def drawn(head, h, **options):
    defaults = {"h_uncond": None, "guidance": 1.0, "temperature": 1.0}
    with torch.no_grad():
        return head.sample(h, **defaults | options, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained():
    """Under state 0 two narrow modes at (-1, -1) and (1, 1), under state 1 one Gaussian at (2, 0) of deviation 0.5."""
    head, states, generator = made(steps=25, prediction="v"), torch.eye(E)[:2], torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(head.parameters(), 6e-3)
    for _ in range(300):
        which = torch.randint(2, (128,), generator=generator)
        noise = torch.randn(128, D, generator=generator)
        sign = torch.randint(2, (128, 1), generator=generator) * 2.0 - 1
        modes, single = sign + 0.1 * noise, torch.tensor([2.0, 0.0]) + 0.5 * noise
        loss = head.loss(states[which], torch.where(which[:, None] == 0, modes, single), generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


def test_it_learns_two_modes_and_a_gaussian_by_their_states(trained):
    modes, single = (drawn(trained, torch.eye(E)[k].expand(2000, -1)) for k in (0, 1))
    assert (modes[:, 0] * modes[:, 1] > 0.3).float().mean() > 0.93
    assert 0.4 < (modes[:, 0] > 0).float().mean() < 0.6
    torch.testing.assert_close(single.mean(0), torch.tensor([2.0, 0.0]), atol=0.12, rtol=0)
    torch.testing.assert_close(single.std(0), torch.tensor([0.5, 0.5]), atol=0.1, rtol=0)


def test_temperature_narrows_and_guidance_pushes_away_from_the_other_state(trained):
    states = [torch.eye(E)[k].expand(2000, -1) for k in (0, 1)]
    plain, cold = (drawn(trained, states[1], temperature=t) for t in (1.0, 0.6))
    assert (cold.std(0) < 0.9 * plain.std(0)).all()
    pushed = drawn(trained, states[1], h_uncond=states[0], guidance=2.0)
    assert pushed[:, 0].mean() > plain[:, 0].mean() + 0.1


def test_untrained_it_predicts_zero_and_the_loss_is_the_noises_mean_square():
    head, h, x = made(draws=500), torch.randn(3, E), torch.randn(3, D)
    assert (head.loss(h, x, torch.Generator().manual_seed(0)) - 1).abs().max() < 0.15


def test_each_token_meets_several_times_and_its_own_state():
    head = made(draws=3)
    seen = []
    head.net.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    h, x, generator = torch.randn(5, E), torch.randn(5, D), torch.Generator().manual_seed(0)
    head.loss(h, x, generator)
    ((noisy, time, state),) = seen
    assert len(time.unique()) == 15
    assert torch.equal(state, head.net.state(h).repeat(3, 1))
    again = torch.Generator().manual_seed(0)
    assert torch.equal(time, torch.rand(15, generator=again))
    noise = torch.randn(15, D, generator=again)
    torch.testing.assert_close(noisy, add_noise(x.repeat(3, 1), noise, SCHEDULES["cosine"](time)))


@pytest.mark.parametrize(("sampler", "calls"), [("ddim", 6), ("heun", 11)])
def test_flops_follow_the_samplers_evaluations(sampler, calls):
    head, h = made(sampler=sampler, steps=6), torch.randn(5, E)
    assert cost.counted_flops(lambda: drawn(head, h)) == 5 * head.flops
    assert head.flops == 2 * E * 32 + calls * head.net.flops
    assert cost.counted_flops(lambda: drawn(head, h, h_uncond=h, guidance=2.0)) == 10 * head.flops


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="draws must be >= 1 and net_width even, got 0 and 32"):
        made(draws=0)
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        made(steps=0)
    with pytest.raises(ValueError, match="prediction 'v' needs"):
        made(schedule="flow", prediction="v")
    with pytest.raises(ValueError, match="temperature must be 1 but with sampler 'ddpm'"):
        drawn(made(sampler="ddim"), torch.randn(2, E), temperature=0.5)
    with pytest.raises(ValueError, match="generator must be given, got None"):
        made().loss(torch.randn(2, E), torch.randn(2, D), None)
