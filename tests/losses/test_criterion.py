"""What a tokenizer's reconstruction is compared by in training, and what of it is measured by the same features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tokbench import build
from tokbench.cost import counted_flops
from tokbench.job import prepare
from tokbench.losses.adversary import BETAS, DELTA, Adversary, PatchDiscriminator, adaptive_weight, hinge
from tokbench.losses.criterion import Criterion
from tokbench.losses.random_features import RandomPerceptual
from tokbench.metrics.standard import FEATURES, STANDARD
from tokbench.quantizers.continuous import Continuous
from tokbench.stages import tokenizer_loss, tokenizer_path, trained_tokenizer
from tokbench.tokenizers.autoencoder import Autoencoder
from tokbench.tokenizers.patches import Patches

GAN = {"width": 4, "layers": 2, "lr": 0.01, "weight": 0.5}


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tokenizer() -> Autoencoder:
    torch.manual_seed(0)
    made = Autoencoder(Continuous(4), width=8, factor=4, depth=1)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1)
    return made


def criterion(**changes: Any) -> Criterion:
    known = {"pixels": "l1", "perceptual": None, "perceptual_weight": 1.0, "adversary": None, "steps": 10}
    return Criterion(**(known | changes))


def adversary(start: float = 0.0, steps: int = 10) -> Adversary:
    torch.manual_seed(1)
    return Adversary(**GAN, start=start, steps=steps)


@pytest.mark.parametrize(("pixels", "expected"), [("l1", F.l1_loss), ("l2", F.mse_loss)])
def test_pixels_are_compared_as_named(pixels: str, expected: Any) -> None:
    made = tokenizer()
    terms = tokenizer_loss(made, images(), criterion(pixels=pixels))
    torch.testing.assert_close(terms["reconstruction"], expected(made.decode(made.encode(images()).z_q), images()))
    assert criterion().trained_on == []
    with pytest.raises(ValueError, match="pixels must be one of l1, l2, got 'l3'"):
        criterion(pixels="l3")


def test_l2_is_the_default_bit_for_bit() -> None:
    default, named = (
        tokenizer_loss(tokenizer(), images()),
        tokenizer_loss(tokenizer(), images(), criterion(pixels="l2")),
    )
    assert default.keys() == named.keys()
    assert all(torch.equal(value, named[name]) for name, value in default.items())


def test_a_feature_distance_is_weighted_told_and_moves_the_images_alone() -> None:
    made = criterion(perceptual=RandomPerceptual, perceptual_weight=3.0)
    assert made.trained_on == ["random64"]
    assert not any(p.requires_grad for p in made.parameters())
    x = images(1).requires_grad_(True)
    terms = made(tokenizer(), x, images())
    maps = [made.perceptual.network.layers(part) for part in (x, images())]
    torch.testing.assert_close(terms["perceptual"], 3 * (maps[0] - maps[1]).square().mean())
    assert made(tokenizer(), images(), images())["perceptual"] == 0
    (gradient,) = torch.autograd.grad(terms["perceptual"], x)
    assert gradient.isfinite().all()
    flat = torch.zeros(1, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(made.perceptual(flat, images()[:1]), flat)
    assert gradient.isfinite().all()


def test_the_adaptive_weight_is_equation_7() -> None:
    """Of terms whose gradients at the last weights are known."""
    last = torch.tensor([3.0, 4.0], requires_grad=True)
    distance, generated = (last**2).sum() / 2, (torch.tensor([1.0, 0.0]) * last).sum() * 2
    assert adaptive_weight(distance, generated, last).item() == pytest.approx(5 / (2 + DELTA))
    weight = adaptive_weight(distance, 0 * generated, last)
    assert weight == 1e4
    assert not weight.requires_grad


def test_the_adaptive_weight_leaves_gradients_as_they_were_and_its_flops_are_counted() -> None:
    """Parts of a batch add up their gradients; the cost of a step is counted with its adversary."""
    made = tokenizer()
    made.last_layer.grad = torch.ones_like(made.last_layer)

    def step() -> None:
        reconstruction = made.decode(made.encode(images()).z_q)
        adversary()(F.l1_loss(reconstruction, images()), reconstruction, images(), made.last_layer)

    assert counted_flops(step) > counted_flops(lambda: made.decode(made.encode(images()).z_q))
    assert torch.equal(made.last_layer.grad, torch.ones_like(made.last_layer))
    assert made.encoder[1].weight.grad is None


def test_the_hinge_asks_for_a_margin_of_one_on_both_sides() -> None:
    assert hinge(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 0.5])).item() == pytest.approx((0.5 + 0.75) / 2)


def test_the_weighted_gradient_at_the_last_layer_is_as_long_as_the_distances() -> None:
    made = tokenizer()
    reconstruction = made.decode(made.encode(images()).z_q)
    distance = F.l1_loss(reconstruction, images())
    term = adversary()(distance, reconstruction, images(), made.last_layer)
    found, wanted = (torch.autograd.grad(x, made.last_layer, retain_graph=True)[0].norm() for x in (term, distance))
    assert found.item() == pytest.approx(GAN["weight"] * wanted.item(), rel=1e-3)
    assert made.last_layer is made.decoder[-2].weight


def test_the_discriminator_learns_by_adam_on_the_hinge_and_the_decoder_leaves_it_alone() -> None:
    made, own = tokenizer(), adversary()
    twin = PatchDiscriminator(width=4, layers=2)
    twin.load_state_dict(own.network.state_dict())
    optimizer = torch.optim.Adam(twin.parameters(), lr=GAN["lr"], betas=BETAS)
    for step in range(3):
        reconstruction = made.decode(made.encode(images(step)).z_q)
        term = own(F.l1_loss(reconstruction, images(step)), reconstruction, images(step), made.last_layer)
        optimizer.zero_grad()
        hinge(twin(images(step)), twin(reconstruction.detach())).backward()
        optimizer.step()
        for mine, theirs in zip(own.network.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)
        before = [None if p.grad is None else p.grad.clone() for p in own.network.parameters()]
        term.backward()
        assert all(torch.equal(a, b.grad) for a, b in zip(before, own.network.parameters(), strict=True))
    assert made.encoder[1].weight.grad.abs().sum() > 0


def test_an_adversary_waits_for_its_share_of_the_steps() -> None:
    made, own = tokenizer(), adversary(start=0.5, steps=4)
    start = {k: v.clone() for k, v in own.network.state_dict().items()}
    terms = []
    for step in range(4):
        reconstruction = made.decode(made.encode(images(step)).z_q)
        terms.append(own(F.l1_loss(reconstruction, images()), reconstruction, images(), made.last_layer).item())
        moved = any(not torch.equal(v, start[k]) for k, v in own.network.state_dict().items())
        assert moved is (step >= 2)
    assert terms[:2] == [0, 0]
    assert 0 not in terms[2:]


def test_an_adversary_needs_the_last_layer_and_says_what_is_wrong() -> None:
    made = criterion(adversary=lambda steps: adversary(steps=steps))
    with pytest.raises(ValueError, match="needs a tokenizer with last_layer, got Patches"):
        made(Patches(4), images(), images())
    with pytest.raises(ValueError, match=r"start must be in \[0, 1\), a share of the steps, got 1.5"):
        adversary(start=1.5)
    with pytest.raises(ValueError, match="width and layers must be >= 1, got 0 and 2"):
        Adversary(**(GAN | {"width": 0}), start=0, steps=1)


def run(folder: Path, *words: str) -> Any:
    words = (*words, "budget=smoke", "stage=tokenizer", f"results_dir={folder}", f"cache_dir={folder / 'cache'}")
    return prepare(build.compose(words))


def test_a_run_with_an_adversary_trains_both_and_keeps_the_last_weights(tmp_path: Path) -> None:
    job = run(tmp_path, "loss=gan", "loss.adversary.start=0.0")
    assert job.config["name"] == "fsq-gan"
    assert {"losses.criterion", "losses.adversary"} <= job.versions.keys()
    _, training = trained_tokenizer(job)
    assert training is not None
    assert training.best_step == 2
    assert [step for step, _ in training.validation] == [2]


def test_a_loss_makes_another_run_and_another_tokenizer_and_none_makes_the_same(tmp_path: Path) -> None:
    plain, other = run(tmp_path), run(tmp_path, "loss=random64")
    assert "loss" not in plain.config
    assert "loss" not in plain.config["choices"]
    assert plain.criterion(steps=1) is None
    assert plain.hash != other.hash
    assert tokenizer_path(plain) != tokenizer_path(other)
    assert other.config["name"] == "fsq-random64"
    assert other.trained_on == ("random64",)
    assert build.compose(build.overrides_of(build.hashed(other.config)))["loss"] == other.config["loss"]
    with pytest.raises(ValueError, match="loss needs a tokenizer with something to train, got patches"):
        run(tmp_path, "loss=l1", "quantizer=patches")


def test_every_measure_on_features_says_whose() -> None:
    """What is not in FEATURES would rank whatever it was trained on."""
    telling = ("random convolutional network", "small classifier", "the classifier gives")
    on_features = {
        key.split("/")[1] for key, known in STANDARD.items() if any(word in known.protocol for word in telling)
    }
    assert on_features == set(FEATURES)
