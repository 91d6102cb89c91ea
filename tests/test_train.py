import pytest
import torch
from torch import nn

from tokbench.quantizers.latents import NotFinite
from tokbench.train import Training, fit
from tokbench.training_module import Diverged

OPTIONS = {"steps": 40, "lr": 0.05, "weight_decay": 0.0, "clip": 1.0, "seed": 0}


def line() -> tuple[nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Linear(2, 1), torch.randn(64, 2, generator=torch.Generator().manual_seed(1))


def draw(generator: torch.Generator) -> torch.Tensor:
    return line()[1][torch.randint(64, (16,), generator=generator)]


def run(model: nn.Linear, **changes: object) -> Training:
    def loss(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"error": (model(x) - x.sum(dim=1, keepdim=True)).square().mean()}

    def validation() -> float:
        return loss(line()[1])["error"].item()

    return fit(model, loss, draw, **({"validation": validation} | OPTIONS | changes))  # type: ignore[arg-type]


def test_fit_lowers_the_loss_and_leaves_eval_mode() -> None:
    model, _ = line()
    training = run(model)
    assert len(training.losses) == 40
    assert training.losses[-1] < 0.1 * training.losses[0]
    assert not model.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    weights = []
    for seed in (0, 0, 1):
        model, _ = line()
        run(model, seed=seed)
        weights.append(model.weight.clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_kept_weights_are_those_of_the_lowest_validation_loss() -> None:
    model, _ = line()
    kept: list[torch.Tensor] = []
    values = iter([3.0, 1.0, 2.0, 5.0, 4.0])

    def validation() -> float:
        kept.append(model.weight.clone())
        return next(values)

    training = run(model, validation=validation)
    assert training.best_step == 16
    assert torch.equal(model.weight, kept[1])
    assert [step for step, _ in training.validation] == [8, 16, 24, 32, 40]


def test_batches_do_not_depend_on_what_the_model_draws() -> None:
    """Same images in the same order for every model of a comparison."""
    seen: list[list[torch.Tensor]] = []
    for greedy in (False, True):
        model, batches = line()[0], []

        def loss(x: torch.Tensor, greedy=greedy, model=model, batches=batches) -> dict[str, torch.Tensor]:
            batches.append(x)
            if greedy:
                torch.rand(100)
            return {"error": model(x).square().mean()}

        fit(model, loss, draw, validation=lambda: 0.0, **OPTIONS)  # type: ignore[arg-type]
        seen.append(batches)
    assert all(torch.equal(one, two) for one, two in zip(*seen, strict=True))


def test_divergence_names_the_term_and_the_first_step() -> None:
    model, steps = line()[0], iter(range(1, 100))

    def loss(x: torch.Tensor) -> dict[str, torch.Tensor]:
        value = model(x).square().mean()
        return {"fine": value, "broken": value * (torch.inf if next(steps) >= 13 else 1.0)}

    with pytest.raises(Diverged, match="loss term 'broken' is not finite at step 13 of 40"):
        fit(model, loss, draw, validation=lambda: 0.0, **OPTIONS)  # type: ignore[arg-type]


@pytest.mark.parametrize(("last", "flat"), [(0.99, True), (0.9, False)])
def test_flattened_compares_the_end_with_the_middle(last: float, flat: bool) -> None:
    assert Training([2.0] * 40 + [1.0] * 10 + [last] * 50, [], 100, 0.0).flattened is flat


def test_steps_must_be_positive() -> None:
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        run(line()[0], steps=0)


def test_latents_that_stop_being_finite_are_a_divergence_that_names_the_step() -> None:
    model, steps = nn.Linear(1, 1), iter(range(1, 100))

    def loss(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if next(steps) == 3:
            raise NotFinite("z must be finite, got NaN or infinity in 2 of 2 tokens")
        return {"loss": model(batch).square().mean()}

    options = {"steps": 5, "lr": 1e-3, "weight_decay": 0.0, "clip": 1.0, "seed": 0}
    with pytest.raises(Diverged, match=r"z must be finite, got NaN or infinity in 2 of 2 tokens at step 3 of 5"):
        fit(model, loss, lambda generator: torch.ones(2, 1), validation=lambda: 0.0, **options)
