import itertools

import pytest
import torch

from tokbench.quantizers.kmeans import kmeans
from tokbench.quantizers.nearest import nearest_code
from tokbench.quantizers.vq import VectorQuantizer


def make(**changes: object) -> VectorQuantizer:
    torch.manual_seed(0)
    options = {"dim": 4, "codebook_size": 32, "beta": 0.25, "estimator": "straight_through"} | changes
    return VectorQuantizer(**options)  # type: ignore[arg-type]


def latents() -> torch.Tensor:
    return torch.randn(4, 50, 4, generator=torch.Generator().manual_seed(1))


def test_plain_codebook_starts_uniform_in_one_over_v() -> None:
    codebook = make(codebook_size=1000, dim=64).codebook
    assert codebook.abs().max() <= 1 / 1000
    assert codebook.std().item() == pytest.approx(1e-3 / 3**0.5, rel=0.02)


def test_the_commitment_term_moves_z_and_the_codebook_term_the_codebook() -> None:
    quantizer, z = make(), latents().requires_grad_()
    losses = quantizer(z).losses
    grad = torch.autograd.grad(losses["commitment"], [z, quantizer.codebook], allow_unused=True, retain_graph=True)
    assert grad[0].abs().sum() > 0
    assert grad[1] is None
    grad = torch.autograd.grad(losses["codebook"], [z, quantizer.codebook], allow_unused=True)
    assert grad[0] is None
    assert grad[1].abs().sum() > 0


def test_losses_are_means_over_all_elements_and_weighted_one_and_beta() -> None:
    quantizer, z = make(), latents()
    quantized = quantizer(z)
    expected = (z - quantized.z_q).square().mean()
    torch.testing.assert_close(quantized.losses["codebook"], expected)
    torch.testing.assert_close(quantized.losses["commitment"], expected)
    assert quantizer.loss_weights == {"codebook": 1.0, "commitment": 0.25}


def test_every_token_gets_its_nearest_code() -> None:
    quantizer, z = make(), latents()
    distances = (z[..., None, :] - quantizer.codebook).square().sum(dim=-1)
    assert torch.equal(quantizer(z).indices, distances.argmin(dim=-1))


def test_kmeans_finds_separated_clusters() -> None:
    torch.manual_seed(0)
    centres = 100 * torch.eye(4)
    tokens = (centres[:, None] + torch.randn(4, 50, 4)).flatten(0, 1)
    found = kmeans(tokens, 4)
    errors = [(tokens - found[nearest_code(tokens, found)]).square().sum(dim=1).mean() for _ in range(1)]
    start = tokens[:4]
    assert errors[0] < (tokens - start[nearest_code(tokens, start)]).square().sum(dim=1).mean()


def test_kmeans_init_happens_once_on_the_first_training_batch() -> None:
    quantizer = make(init="kmeans")
    before = quantizer.codebook.clone()
    quantizer.eval()(latents())
    assert torch.equal(quantizer.codebook, before)
    quantizer.train()(latents())
    first = quantizer.codebook.clone()
    assert not torch.equal(first, before)
    quantizer(latents() + 5)
    assert torch.equal(quantizer.codebook, first)


def test_kmeans_waits_for_as_many_tokens_as_codes() -> None:
    quantizer, z = make(codebook_size=500, init="kmeans").train(), latents()
    before = quantizer.codebook.clone()
    quantizer(z)
    quantizer(z + 10)
    assert torch.equal(quantizer.codebook, before)
    quantizer(z - 10)
    means = quantizer.codebook.mean(dim=1)
    assert (means > 8).sum() > 100
    assert (means < -8).sum() > 100
    first = quantizer.codebook.clone()
    quantizer(z)
    assert torch.equal(quantizer.codebook, first)


def test_kmeans_needs_as_many_tokens_as_centres() -> None:
    with pytest.raises(ValueError, match="as many tokens as centres, got 5 tokens for 6 centres"):
        kmeans(torch.zeros(5, 2), 6)


def test_a_normal_start_has_the_deviation_it_is_given() -> None:
    assert make(codebook_size=1000, dim=64, init=0.05).codebook.std().item() == pytest.approx(0.05, rel=0.02)


def test_dead_codes_restart_at_tokens_of_the_batch_with_their_counts() -> None:
    quantizer = make(restart_below=0.5, restart_decay=0.5)
    with torch.no_grad():
        quantizer.codebook[:31] = 1000.0
    quantizer.train()
    z = latents()
    for _ in range(4):
        quantizer(z)
    tokens = z.flatten(0, 1)
    moved = (quantizer.codebook[:31, None] - tokens).abs().sum(dim=-1).min(dim=1).values
    assert (moved == 0).all()
    assert (quantizer.shares >= 0.5).all()
    quantizer.eval()
    assert quantizer(z).indices.unique().numel() > 25


def test_without_restart_dead_codes_stay() -> None:
    quantizer = make()
    with torch.no_grad():
        quantizer.codebook[:31] = 1000.0
    for _ in range(4):
        quantizer.train()(latents())
    assert (quantizer.codebook[:31] == 1000).all()


def test_the_rotation_counts_its_fallbacks() -> None:
    quantizer = make(estimator="rotation")
    z = latents()
    z[0, :3] = 0
    quantizer.train()(z)
    assert quantizer.fallbacks.tolist() == [3, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebook_size": 0}, "codebook_size must be >= 2, got 0"),
        ({"dim": 0}, "dim must be >= 1, got 0"),
        ({"estimator": "gumbel"}, "estimator must be one of"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**change)


def tokens_of(z: torch.Tensor) -> torch.Tensor:
    return z.flatten(0, 1)


def test_running_means_follow_the_papers_rule_from_a_codebook_before_its_update() -> None:
    quantizer, z = make(ema_decay=0.9).train(), latents()
    before = quantizer.codebook.clone()
    counts, sums = torch.zeros(32), torch.zeros(32, 4)
    for _ in range(3):
        quantized = quantizer(z)
        assert torch.equal(quantized.z_q, before[quantized.indices])
        onehot = torch.nn.functional.one_hot(quantized.indices.flatten(), 32).float()
        counts = 0.9 * counts + 0.1 * onehot.sum(dim=0)
        sums = 0.9 * sums + 0.1 * onehot.T @ tokens_of(z)
        expected = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1e-9), before)
        torch.testing.assert_close(quantizer.codebook.detach(), expected)
        before = quantizer.codebook.clone()
    assert set(quantized.losses) == {"commitment"}
    assert not quantizer.codebook.requires_grad


def test_an_unused_code_of_running_means_does_not_move_toward_the_origin() -> None:
    quantizer = make(ema_decay=0.5).train()
    with torch.no_grad():
        quantizer.codebook[0] = 50.0
    quantizer(torch.full((1, 8, 4), 50.0))
    for _ in range(200):
        quantizer(latents())
    assert quantizer.codebook[0].tolist() == [50.0] * 4


def test_a_restart_resets_the_running_mean_with_the_code() -> None:
    quantizer = make(ema_decay=0.9, restart_below=0.5, restart_decay=0.5).train()
    with torch.no_grad():
        quantizer.codebook[:31] = 1000.0
    for _ in range(3):
        quantizer(latents())
    moved = (quantizer.codebook[:31, None] - tokens_of(latents())).abs().sum(dim=-1).min(dim=1).values
    assert (quantizer.codebook[:31] < 100).all()
    assert moved.max() < 5
    torch.testing.assert_close(quantizer.ema_sums[:31] / quantizer.ema_counts[:31, None], quantizer.codebook[:31])


def test_cosine_gives_unit_codes_of_the_largest_cosine_and_a_tangential_gradient() -> None:
    quantizer, z = make(cosine=True), latents().requires_grad_()
    quantized = quantizer(z)
    unit = torch.nn.functional.normalize(quantizer.codebook, dim=1)
    assert torch.equal(quantized.indices, (z @ unit.T).argmax(dim=-1))
    torch.testing.assert_close(quantized.z_q, unit[quantized.indices])
    grad = torch.randn(z.shape, generator=torch.Generator().manual_seed(2))
    quantized.z_q.backward(grad)
    norm = z.detach().norm(dim=-1, keepdim=True)
    u = z.detach() / norm
    torch.testing.assert_close(z.grad, (grad - (grad * u).sum(-1, keepdim=True) * u) / norm)


def test_cosine_measures_its_losses_on_the_sphere() -> None:
    quantizer, z = make(cosine=True), latents()
    quantized = quantizer(z)
    u = torch.nn.functional.normalize(z, dim=-1)
    torch.testing.assert_close(quantized.losses["commitment"], (u - quantized.z_q).square().mean())
    scaled = quantizer(7 * z)
    torch.testing.assert_close(scaled.losses["commitment"], quantized.losses["commitment"])


def test_projected_codes_live_in_fewer_channels() -> None:
    quantizer, z = make(dim=16, code_dim=3), torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0))
    quantized = quantizer(z)
    assert quantizer.codebook.shape == (32, 3)
    low = quantizer.project_in(z)
    assert torch.equal(quantized.indices, nearest_code(low, quantizer.codebook))
    expected = quantizer.project_out(quantizer.codebook[quantized.indices])
    torch.testing.assert_close(quantized.z_q, expected)
    torch.testing.assert_close(
        quantized.losses["commitment"], (low - quantizer.codebook[quantized.indices]).square().mean()
    )


def test_entropies_are_those_of_the_softmax_over_distances() -> None:
    quantizer, z = make(entropy_weight=0.1, gamma=2.0, temperature=0.5), latents()
    losses = quantizer(z).losses
    distances = (tokens_of(z)[:, None] - quantizer.codebook).square().sum(dim=-1)
    p = (-distances / 0.5).softmax(dim=1)
    torch.testing.assert_close(losses["token_entropy_nats"], -(p * p.log()).sum(dim=1).mean())
    torch.testing.assert_close(losses["codebook_entropy_nats"], -(p.mean(0) * p.mean(0).log()).sum())
    assert quantizer.loss_weights["token_entropy_nats"] == 0.1
    assert quantizer.loss_weights["codebook_entropy_nats"] == -0.2


def test_every_combination_of_options_trains_and_round_trips() -> None:
    options = itertools.product(
        (None, 3),
        (False, True),
        (None, 0.9),
        ("uniform", "kmeans", 0.5),
        (0.0, 0.5),
        (0.0, 0.1),
        ("straight_through", "rotation"),
    )
    names = ("code_dim", "cosine", "ema_decay", "init", "restart_below", "entropy_weight", "estimator")
    for values in options:
        quantizer, z = make(**dict(zip(names, values, strict=True))).train(), latents().requires_grad_()
        for _ in range(2):
            quantized = quantizer(z)
            assert set(quantized.losses) == set(quantizer.loss_weights), values
            sum(quantized.losses.values(), quantized.z_q.sum()).backward()
        assert z.grad is not None
        assert z.grad.isfinite().all(), values
        quantizer.eval()
        quantized = quantizer(z)
        assert torch.equal(quantizer.indices_to_codes(quantized.indices), quantized.z_q), values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ema_decay": 1.0}, "ema_decay must be >= 0 and < 1, got 1.0"),
        ({"restart_below": 2.0}, "restart_below must be >= 0 and < 1, a part of even use, got 2.0"),
        ({"restart_decay": -0.1}, "restart_decay must be >= 0 and < 1, got -0.1"),
        ({"init": "zeros"}, "init must be uniform, kmeans or a deviation > 0 such as 0.5, got 'zeros'"),
        ({"init": 0.0}, "init must be uniform, kmeans or a deviation > 0 such as 0.5, got 0.0"),
        ({"temperature": 0.0}, "temperature must be > 0, got 0.0"),
        ({"learned": False, "ema_decay": 0.9}, "ema_decay must be null where learned is false"),
        ({"code_dim": 0}, "dim must be >= 1, got 0"),
        (
            {"codebook_size": 10**13},
            "codebook_size must fit into memory: 10000000000000 codes of 4 channels take 960,000",
        ),
    ],
)
def test_refuses_options(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**change)
