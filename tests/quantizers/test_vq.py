import pytest
import torch

from tokbench.quantizers.nearest import nearest_code
from tokbench.quantizers.vq import VectorQuantizer, kmeans


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
    quantizer = make(kmeans_init=True)
    before = quantizer.codebook.clone()
    quantizer.eval()(latents())
    assert torch.equal(quantizer.codebook, before)
    quantizer.train()(latents())
    first = quantizer.codebook.clone()
    assert not torch.equal(first, before)
    quantizer(latents() + 5)
    assert torch.equal(quantizer.codebook, first)


def test_kmeans_init_needs_as_many_tokens_as_codes() -> None:
    with pytest.raises(ValueError, match="at least codebook_size = 1000 tokens, got 200"):
        make(codebook_size=1000, kmeans_init=True).train()(latents())


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
    assert (quantizer.counts >= 0.5).all()
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
