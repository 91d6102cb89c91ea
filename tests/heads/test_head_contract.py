"""What every head promises, over every file of conf/head."""

import math

import pytest
import torch

from tokbench import build, cost

E, V = 16, 60
NODES = {
    path.stem: build.compose([f"+head@extra={path.stem}"])["extra"]
    for path in (build.ROOT / "conf/head").glob("*.yaml")
}
NAMES = sorted(NODES)


def made(name, *, dim=2, noise=0.3, **options):
    """The head, with every matrix drawn so that no part of it is zero or flat."""
    torch.manual_seed(0)
    node = NODES[name] | {key: value for key, value in options.items() if build.takes(NODES[name], key)}
    known = {"width": E, "dim": dim, "codebook_sizes": (V,)}
    head = build.construct(node, **{k: v for k, v in known.items() if build.takes(node, k)})
    for parameter in head.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=noise)
    return head.eval()


LATENT = [name for name in NAMES if made(name).reads == "latents"]
DENSITIES = [name for name in LATENT if made(name).exact_nll]


def drawn(head, h, *, h_uncond=None, guidance=1.0, temperature=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return head.sample(h, h_uncond=h_uncond, guidance=guidance, temperature=temperature, generator=generator)


def nats(head, h, target):
    return head.loss(h, target, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 3])
def test_samples_fit_the_loss_which_is_finite(name, dim):
    head, h = made(name, dim=dim), torch.randn(5, E)
    target = drawn(head, h)
    assert target.shape == ((5, dim) if head.reads == "latents" else (5,))
    assert target.dtype == (torch.float32 if head.reads == "latents" else torch.int64)
    loss = nats(head, h, target)
    assert loss.shape == (5,)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()


@pytest.mark.parametrize("name", LATENT)
def test_the_loss_is_finite_far_from_the_data(name):
    head = made(name)
    far = torch.tensor([[100.0, -100.0], [0.0, 1e3]])
    h = torch.randn(2, E, requires_grad=True)
    loss = nats(head, h, far)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert h.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_state_and_every_parameter(name):
    head = made(name).train()
    h = torch.randn(256, E, requires_grad=True)
    nats(head, h, drawn(head, h.detach())).sum().backward()
    assert (h.grad.abs().sum(1) > 0).all()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_guidance_one_never_reads_the_other_state_and_another_needs_it(name):
    head, (h, other) = made(name), torch.randn(2, 50, E)
    plain = drawn(head, h)
    assert torch.equal(drawn(head, h, h_uncond=torch.full_like(h, math.nan)), plain)
    assert not torch.equal(drawn(head, h, h_uncond=other, guidance=2.0), plain)
    with pytest.raises(ValueError, match="guidance other than 1 needs h_uncond"):
        drawn(head, h, guidance=2.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_repeats(name):
    head, h = made(name), torch.randn(50, E)
    assert torch.equal(drawn(head, h, seed=3), drawn(head, h, seed=3))
    assert not torch.equal(drawn(head, h, seed=3), drawn(head, h, seed=4))


@pytest.mark.parametrize("name", NAMES)
def test_a_temperature_below_what_is_defined_is_refused(name):
    head, h = made(name), torch.randn(2, E)
    with pytest.raises(ValueError, match="temperature"):
        drawn(head, h, temperature=-0.5)
    if head.reads == "latents":
        with pytest.raises(ValueError, match="temperature > 0, got 0"):
            drawn(head, h, temperature=0)


@pytest.mark.parametrize("name", NAMES)
def test_flops_are_those_counted(name):
    head, h = made(name), torch.randn(7, E)
    assert head.flops > 0
    assert cost.counted_flops(lambda: drawn(head, h)) == 7 * head.flops
    target = drawn(head, h)
    counted = cost.counted_flops(lambda: head.loss(h, target, torch.Generator().manual_seed(0)))
    assert counted == 7 * getattr(head, "loss_flops", head.flops)


def on_grid(head, h, *, dim, limit, step):
    """Density at the middles of cells, (cells,) or (cells, cells), under one state (1, E)."""
    middle = torch.arange(-limit + step / 2, limit, step, dtype=torch.float64).float()
    points = torch.cartesian_prod(*[middle] * dim).view(-1, dim)
    with torch.no_grad():
        parts = [-nats(head, h.expand(len(part), -1), part) for part in points.split(20000)]
    return middle, torch.cat(parts).double().exp().view((len(middle),) * dim)


def furthest(samples, middle, mass):
    """Kolmogorov-Smirnov distance between samples and the mass of cells, both restricted to cell edges."""
    edge = (middle + (middle[1] - middle[0]) / 2).contiguous()
    found = torch.searchsorted(samples.sort().values, edge) / len(samples)
    return (found - mass.cumsum(0)).abs().max().item()


@pytest.mark.parametrize("name", DENSITIES)
def test_in_one_dimension_the_density_integrates_to_one_and_samples_follow_it(name):
    head, h = made(name, dim=1, noise=0.2), torch.randn(1, E)
    middle, density = on_grid(head, h, dim=1, limit=40, step=1 / 128)
    assert abs(density.sum().item() / 128 - 1) < 2e-3
    x = drawn(head, h.expand(4000, -1))
    assert furthest(x[:, 0], middle, density / 128) < 1.8 / math.sqrt(4000)  # exceeded by chance 3 times in 1000


@pytest.mark.parametrize("name", DENSITIES)
def test_in_two_dimensions_the_density_integrates_to_one_and_samples_follow_it(name):
    head, h = made(name, noise=0.2, num_bins=16), torch.randn(1, E)
    middle, density = on_grid(head, h, dim=2, limit=12, step=1 / 16)
    mass = density / 256
    assert abs(mass.sum().item() - 1) < 2e-3
    x = drawn(head, h.expand(4000, -1))
    for place in (0, 1):
        assert furthest(x[:, place], middle, mass.sum(1 - place)) < 1.8 / math.sqrt(4000)
    upper = mass[middle > middle[mass.sum(1).cumsum(0) < 0.5][-1]]  # the half where the first coordinate is large
    kept = x[x[:, 0] > middle[mass.sum(1).cumsum(0) < 0.5][-1], 1]
    assert furthest(kept, middle, upper.sum(0) / upper.sum()) < 2 / math.sqrt(len(kept))


@pytest.mark.parametrize("name", DENSITIES)
def test_a_low_temperature_draws_likelier_tokens_and_a_high_one_less_likely_ones(name):
    head, h = made(name, dim=1, noise=0.3), torch.randn(1, E).expand(500, -1)
    cold, warm, hot = (nats(head, h, drawn(head, h, temperature=t)).mean().item() for t in (0.5, 1.0, 1.5))
    assert cold + 0.05 < warm < hot - 0.05
